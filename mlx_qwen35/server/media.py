"""Images that a request names: data URLs, and what the operator allows of the network and of one directory."""

import binascii
import functools
import ipaddress
import math
import os
import queue
import re
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

import certifi
import httpcore2
import httpx2

from mlx_qwen35 import __version__
from mlx_qwen35.errors import MediaError, OptionError
from mlx_qwen35.paths import shorten

REMOTE_OPTION = "--allow-remote-media"
LOCAL_OPTION = "--allow-local-media DIR"

REDIRECTS = (301, 302, 303, 307, 308)
# S3 says binary/octet-stream where others say application/octet-stream.
UNNAMED_TYPES = ("application/octet-stream", "binary/octet-stream")

# What base64 text may hold in percent-encoding; undoing every escape takes many times the text's memory.
ESCAPES = {"%2B": b"+", "%2F": b"/", "%3D": b"=", "%20": b"", "%09": b"", "%0A": b"", "%0D": b""}

GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Global by the letter, or in some versions of `ipaddress`, but no place for a picture.
SPECIAL_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; one cloud's metadata service
        "192.88.99.0/24",  # relays to 6to4
        "168.63.129.16/32",  # another cloud's own services, on every machine's link
        "2001::/23",  # Teredo, which holds an IPv4 address, and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4 holds an IPv4 address; relays are gone, so nothing public is lost
        "3fff::/20",
    )
)


@dataclass(frozen=True)
class MediaPolicy:
    """What images a request may name.

    Args:
        allow_remote: Fetch http: and https: URLs, from public addresses only.
        local_directory: Read files below this directory; None for no files.
        max_bytes: Of one encoded image.
        max_images: Of one request.
        timeout: Seconds for one image from the network: name, connections, redirects and body together.
        max_redirects: Followed for one image.
    Raises:
        OptionError: A number is out of range, or there is no such directory.
    """

    allow_remote: bool = False
    local_directory: Path | None = None
    max_bytes: int = 20 * 2**20
    max_images: int = 16
    timeout: float = 10.0
    max_redirects: int = 3

    def __post_init__(self) -> None:
        for name, value, least in (
            ("max_bytes", self.max_bytes, 1),
            ("max_images", self.max_images, 0),
            ("max_redirects", self.max_redirects, 0),
        ):
            if value < least:
                raise OptionError(f"{name}: expected a whole number of at least {least}, found {value}")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise OptionError(f"timeout: expected a number of seconds above 0, found {self.timeout}")
        if self.local_directory is not None and not self.local_directory.is_dir():
            raise OptionError(f"{LOCAL_OPTION}: expected a directory, found {shorten(self.local_directory)!r}")


def check_number(count: int, policy: MediaPolicy, *, place: str = "messages") -> None:
    """Hold the number of images of one request against the policy.

    Raises:
        MediaError: There are too many.
    """
    if count > policy.max_images:
        raise MediaError(f"{place}: expected at most {policy.max_images} images in one request, found {count}")


def fetch(source: str, policy: MediaPolicy, *, place: str) -> bytes:
    """The encoded image that a request names; blocks for up to `policy.timeout` seconds.

    Args:
        source: A data: URL; if the policy allows them an http(s): URL, a file: URL, or a path, which
            is taken below the allowed directory if it is relative.
        place: Where it stands in the request, for error messages.
    Returns:
        Bytes that `ModelKit` takes as an image; whether they are one is not looked at.
    Raises:
        MediaError: It is refused, missing, too large, too slow, or badly written.
    """
    if not isinstance(source, str):
        raise MediaError(f"{place}: expected {_kinds(policy)}, found {type(source).__name__}")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", source)
    scheme = match[1].lower() if match else ""
    if scheme == "data":
        return _from_data_url(source, policy, place)
    if scheme in ("http", "https"):
        if not policy.allow_remote:
            raise MediaError(
                f"{place}: expected {_kinds(policy)}, found an {scheme}: URL; "
                f"images are fetched from the network only by a server started with {REMOTE_OPTION}"
            )
        return _from_network(source, policy, place)
    if scheme in ("file", ""):
        if policy.local_directory is None:
            raise MediaError(
                f"{place}: expected {_kinds(policy)}, found {shorten(source)!r}; "
                f"files are read only by a server started with {LOCAL_OPTION}"
            )
        path = _file_url_path(source, place) if scheme else source
        return _from_directory(path, policy.local_directory, policy.max_bytes, place, label=repr(shorten(source)))
    raise MediaError(f"{place}: expected {_kinds(policy)}, found a URL with scheme {shorten(scheme)!r}")


def _kinds(policy: MediaPolicy) -> str:
    kinds = ["a data: URL"]
    if policy.allow_remote:
        kinds.append("an http: or https: URL")
    if policy.local_directory is not None:
        kinds.append("a file of the allowed directory")
    return " or ".join(kinds)


def _check_size(size: int, limit: int, place: str, label: str) -> None:
    if size > limit:
        raise MediaError(f"{place}: {label}: expected at most {limit} bytes, found {size}")


# data: URLs


def _from_data_url(url: str, policy: MediaPolicy, place: str) -> bytes:
    comma = url.find(",", 0, 1024)
    kind, *parameters = (part.strip().lower() for part in url[len("data:") : max(comma, 0)].split(";"))
    if comma < 0 or parameters[-1:] != ["base64"] or not (kind == "" or _is_image_type(kind)):
        raise MediaError(f"{place}: data URL: expected 'data:image/...;base64,...', found {url[:60].split(',')[0]!r}")
    # Twice the base64 leaves room for line breaks and escapes; anything longer is not even copied.
    if len(url) - comma > 1024 + 2 * 4 * math.ceil(policy.max_bytes / 3):
        raise MediaError(
            f"{place}: data URL: expected at most {policy.max_bytes} bytes, found {len(url) - comma - 1} characters"
        )
    try:
        text = url[comma + 1 :].encode("ascii")
        if b"%" in text:
            for escape, plain in ESCAPES.items():
                text = text.replace(escape.encode(), plain).replace(escape.lower().encode(), plain)
        text = text.translate(None, b" \t\r\n")
        _check_size(len(text) * 3 // 4 - text[-2:].count(b"="), policy.max_bytes, place, "data URL")
        return binascii.a2b_base64(text, strict_mode=True)
    except UnicodeEncodeError as error:
        raise MediaError(f"{place}: data URL: expected base64, found {error.object[error.start]!r}") from error
    except binascii.Error as error:
        raise MediaError(f"{place}: data URL: expected base64 ({error})") from error


def _is_image_type(kind: str) -> bool:
    return kind.startswith("image/") or kind in UNNAMED_TYPES


# Files


def _file_url_path(url: str, place: str) -> str:
    rest = url[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise MediaError(f"{place}: expected a file: URL without a host, found host {shorten(host)!r}")
        rest = slash + path
    if not rest.startswith("/"):
        raise MediaError(f"{place}: expected a file: URL with an absolute path, found {shorten(url)!r}")
    if "?" in rest or "#" in rest:
        raise MediaError(f"{place}: expected ? and # of a file's name as %3F and %23, found {shorten(url)!r}")
    try:
        return os.fsdecode(unquote_to_bytes(rest))
    except UnicodeError as error:
        raise MediaError(f"{place}: expected a file: URL in UTF-8, found {shorten(url)!r}") from error


def _from_directory(name: str, directory: Path, limit: int, place: str, *, label: str) -> bytes:
    """A file below the directory.

    Nothing outside is looked at before the refusal, except at the end of a link that stands inside:
    messages, and the time until they come, say nothing about the rest of the disk.
    """
    outside = MediaError(f"{place}: expected a file below the directory of {LOCAL_OPTION}, found {label}")
    path = Path(name)
    try:
        os.fsencode(name)
        real = directory.resolve(strict=True)
        bases = [base for base in (directory.absolute(), real) if path.is_relative_to(base)]
        if "\0" in name or ".." in path.parts or (path.is_absolute() and not bases):
            raise outside
        below = path.relative_to(bases[0]) if bases else path
        # A loop of links is a RuntimeError before Python 3.13.
        target = (real / below).resolve()
        if not target.is_relative_to(real):
            raise outside
        return _read(real, target.relative_to(real).parts, limit, place, label)
    except UnicodeEncodeError as error:
        raise MediaError(f"{place}: expected a file's name, found {label}") from error
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "cannot be read"
        raise MediaError(f"{place}: {label}: {reason}") from error


def _read(directory: Path, parts: tuple[str, ...], limit: int, place: str, label: str) -> bytes:
    """A regular file, by a way that is free of links.

    Each name is opened relative to the directory before it, so that a link put there since the path
    was checked is an error and no way out.
    """
    no_file = MediaError(f"{place}: {label}: expected an image file, found a directory or a device")
    if not parts:
        raise no_file
    with ExitStack() as stack:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, folder)
        for name in parts[:-1]:
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            stack.callback(os.close, folder)
        # To open a device may set it going; to open a pipe waits for its other end.
        if not stat.S_ISREG(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode):
            raise no_file
        number = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=folder)
        file = stack.enter_context(os.fdopen(number, "rb"))
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise no_file
        _check_size(status.st_size, limit, place, label)
        data = file.read(limit + 1)
        _check_size(len(data), limit, place, label)
        return data


# The network


def _from_network(source: str, policy: MediaPolicy, place: str) -> bytes:
    url = _parse_url(source, None, place)
    # Once per process it reads some hundred certificates, which is no server's fault.
    _tls()
    deadline = time.monotonic() + policy.timeout
    for _ in range(policy.max_redirects + 1):
        label = shorten(url.raw_host.decode())
        try:
            found = _get(url, policy.max_bytes, deadline, place)
        except httpcore2.TimeoutException as error:
            raise MediaError(
                f"{place}: {label}: expected the image within {policy.timeout:g} seconds, found no end of it by then"
            ) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise MediaError(f"{place}: {label}: expected an image, found no answer ({shorten(error, 200)})") from error
        if isinstance(found, bytes):
            return found
        url = found
    raise MediaError(f"{place}: expected at most {policy.max_redirects} redirects, found one more")


def _parse_url(text: str, base: httpx2.URL | None, place: str) -> httpx2.URL:
    """A URL, or a redirect from `base`.

    Raises:
        MediaError: It is malformed, has another scheme, or holds a password.
    """
    kind = "redirect" if base is not None else "URL"
    try:
        url = base.join(text) if base is not None else httpx2.URL(text)
        host = url.raw_host.decode()
    except (httpx2.InvalidURL, ValueError) as error:
        raise MediaError(f"{place}: expected an http: or https: URL, found a malformed {kind}") from error
    if url.scheme not in ("http", "https"):
        raise MediaError(f"{place}: expected an http: or https: URL, found a {kind} to {shorten(url.scheme)!r}")
    if url.userinfo:
        # The text is not repeated here: it holds a password.
        raise MediaError(f"{place}: expected a {kind} without user name and password, found one with them")
    # Addresses in brackets were parsed already; of names only those that TLS and resolvers take.
    if ":" not in host and not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", host):
        raise MediaError(f"{place}: expected a {kind} with a host name, found {shorten(host)!r}")
    if url.port is not None and not 0 < url.port < 2**16:
        raise MediaError(f"{place}: expected a {kind} with a port between 1 and 65535, found {url.port}")
    return url


def _get(url: httpx2.URL, limit: int, deadline: float, place: str) -> httpx2.URL | bytes:
    """One request: the image, or where it has gone."""
    label = shorten(url.raw_host.decode())
    target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    secure = url.scheme == "https"
    connection = httpcore2.HTTPConnection(
        target.origin, ssl_context=_tls() if secure else None, network_backend=_PublicNetwork(deadline, place)
    )
    headers = [
        (b"Host", url.netloc),
        (b"User-Agent", f"mlx-qwen35/{__version__}".encode()),
        (b"Accept", b"image/*"),
        # Compressed, a short answer may be of any length.
        (b"Accept-Encoding", b"identity"),
        (b"Connection", b"close"),
    ]
    with connection, connection.stream("GET", target, headers=headers) as response:
        found = {name.lower(): value.decode("latin-1").strip() for name, value in reversed(response.headers)}
        location = found.get(b"location")
        if response.status in REDIRECTS and location is not None:
            return _parse_url(location, url, place)
        if response.status != 200:
            raise MediaError(f"{place}: {label}: expected status 200, found {response.status}")
        encoding = found.get(b"content-encoding", "identity").lower()
        if encoding not in ("", "identity"):
            raise MediaError(f"{place}: {label}: expected no content encoding, found {shorten(encoding)!r}")
        kind = found.get(b"content-type", "").partition(";")[0].strip().lower()
        if not _is_image_type(kind):
            raise MediaError(f"{place}: {label}: expected content type image/..., found {shorten(kind)!r}")
        length = found.get(b"content-length", "")
        if length.isdecimal():
            _check_size(int(length), limit, place, label)
        body = bytearray()
        for chunk in response.iter_stream():
            if len(body) + len(chunk) > limit:
                raise MediaError(f"{place}: {label}: expected at most {limit} bytes, found more")
            body += chunk
        return bytes(body)


@functools.cache
def _tls() -> ssl.SSLContext:
    # Not the system's verifier: macOS's fetches missing certificates from wherever the server's own
    # one says, past every check of addresses here.
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


class _PublicNetwork(httpcore2.NetworkBackend):
    """Connects to public addresses only, and to the very ones that were looked at.

    Args:
        deadline: Of `time.monotonic`, for everything that is done over its connections.
        place: For error messages.
    """

    def __init__(self, deadline: float, place: str) -> None:
        self._deadline = deadline
        self._place = place
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = _resolve(host, port, self._deadline)
        # One text for both: which names exist in a private network is nobody's business.
        if not addresses or not all(_is_public(address) for address in addresses):
            raise MediaError(
                f"{self._place}: expected a host that has public addresses, and no others, found {shorten(host)!r}"
            )
        for index, address in enumerate(addresses):
            # An address that never answers leaves its share of the time to the next one.
            share = _left(self._deadline) / (len(addresses) - index)
            try:
                stream = self._sockets.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if index == len(addresses) - 1:
                    raise
            else:
                return _TimedStream(stream, self._deadline)
        raise AssertionError("unreachable")


class _TimedStream(httpcore2.NetworkStream):
    """A connection whose every step ends with the same deadline, so that a server cannot drip."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        except BaseException:
            # The connection does not own the stream yet.
            self.close()
            raise
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout
    return left


def _resolve(host: str, port: int, deadline: float) -> list[str]:
    """A host's addresses, each once; none if it has none.

    Raises:
        httpcore2.ConnectTimeout: The deadline passed. The resolver itself cannot be stopped, and ends in a thread.
    """
    answers: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def ask() -> None:
        found: list[str] = []
        try:
            found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, ValueError):
            pass
        finally:
            answers.put(found)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        return list(dict.fromkeys(answers.get(timeout=_left(deadline))))
    except queue.Empty as error:
        raise httpcore2.ConnectTimeout from error


def _is_public(text: str) -> bool:
    """Whether an address is one of the internet's, reached by way of a gateway or not."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = address.ipv4_mapped
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            address = inner
        elif address not in GLOBAL_UNICAST:
            return False
    return (
        address.is_global and not address.is_multicast and not any(address in network for network in SPECIAL_NETWORKS)
    )
