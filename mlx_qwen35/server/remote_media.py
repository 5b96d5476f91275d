"""Images and videos from the network: http(s) URLs of public hosts, within one deadline and one size."""

import functools
import re
import ssl
import time
from collections.abc import Iterable

import certifi
import httpcore2
import httpx2

from mlx_qwen35 import __version__
from mlx_qwen35.errors import MediaError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.sources import Kind, check_size, is_image_type, is_video_type
from mlx_qwen35.server.addresses import is_public, resolve

REDIRECTS = (301, 302, 303, 307, 308)


def fetch_remote(
    source: str, *, max_bytes: int, timeout: float, max_redirects: int, place: str, kind: Kind = "image"
) -> bytes:
    """The encoded image or video at an http: or https: URL.

    Args:
        timeout: Seconds for all of it: name, connections, redirects and body.
        place: Where the URL stands in the request, for error messages.
    Raises:
        MediaError: The URL is malformed, a host has an address that is not public, or what is there is none
            of the kind, too large or too slow.
    """
    url = _parse_url(source, None, place)
    # Made before the clock starts: the first call in a process reads some hundred certificates.
    _tls()
    deadline = time.monotonic() + timeout
    for _ in range(max_redirects + 1):
        label = shorten(url.raw_host.decode())
        try:
            found = _get(url, max_bytes, deadline, place, kind)
        except httpcore2.TimeoutException as error:
            raise MediaError(
                f"{place}: {label}: expected the {kind} within {timeout:g} seconds, found no end of it by then"
            ) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            what = "an image" if kind == "image" else "a video"
            raise MediaError(f"{place}: {label}: expected {what}, found no answer ({shorten(error, 200)})") from error
        if isinstance(found, bytes):
            return found
        url = found
    raise MediaError(f"{place}: expected at most {max_redirects} redirects, found one more")


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


def _get(url: httpx2.URL, max_bytes: int, deadline: float, place: str, kind: Kind) -> httpx2.URL | bytes:
    """One request: the file, or the URL that the server redirects to."""
    label = shorten(url.raw_host.decode())
    target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    secure = url.scheme == "https"
    connection = httpcore2.HTTPConnection(
        target.origin, ssl_context=_tls() if secure else None, network_backend=_PublicNetwork(deadline, place)
    )
    headers = [
        (b"Host", url.netloc),
        (b"User-Agent", f"mlx-qwen35/{__version__}".encode()),
        (b"Accept", b"image/*" if kind == "image" else b"video/*, image/*"),
        # A compressed body could be of any size once it is unpacked.
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
        media_type = found.get(b"content-type", "").partition(";")[0].strip().lower()
        if not (is_image_type if kind == "image" else is_video_type)(media_type):
            raise MediaError(f"{place}: {label}: expected content type {kind}/..., found {shorten(media_type)!r}")
        length = found.get(b"content-length", "")
        if length.isdecimal():
            check_size(int(length), max_bytes, place, label)
        body = bytearray()
        for chunk in response.iter_stream():
            if len(body) + len(chunk) > max_bytes:
                raise MediaError(f"{place}: {label}: expected at most {max_bytes} bytes, found more")
            body += chunk
        return bytes(body)


@functools.cache
def _tls() -> ssl.SSLContext:
    # Not the system's verifier: macOS's downloads missing intermediate certificates from an address that the
    # server's certificate names, and so goes past the checks of addresses here.
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


class _PublicNetwork(httpcore2.NetworkBackend):
    """Connects to public addresses only: a name is resolved once, and the addresses that were checked are used.

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
        try:
            addresses = resolve(host, port, _left(self._deadline))
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout from error
        # One message for both, which does not tell whether a name exists in a private network.
        if not addresses or not all(is_public(address) for address in addresses):
            raise MediaError(
                f"{self._place}: expected a host that has public addresses, and no others, found {shorten(host)!r}"
            )
        for index, address in enumerate(addresses):
            # An address that never answers takes no more than its share of the time that is left.
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
    """A connection whose steps share one deadline: a server that sends a byte now and then does not put it off."""

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
    """Seconds until a deadline.

    Raises:
        httpcore2.ReadTimeout: It has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout
    return left
