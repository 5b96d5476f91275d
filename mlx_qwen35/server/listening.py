"""The address that a server listens on: taken before a model is loaded, and told once it is."""

import errno
import ipaddress
import socket
from collections.abc import Sequence

from mlx_qwen35.errors import OptionError

_BACKLOG = 2048


def listen(host: str, port: int) -> list[socket.socket]:
    """Take a port, at every address that a name stands for.

    Args:
        port: 0 takes a free one, the same at all addresses.
    Returns:
        Listening sockets: who connects waits until somebody accepts.
    Raises:
        OptionError: The host has no address here, or the port is taken or not allowed.
    """
    if not 0 <= port <= 65535:
        raise OptionError(f"--port: expected a number from 0 to 65535, found {port}")
    if not host:
        raise OptionError("--host: expected a name or an address, found none; 0.0.0.0 stands for all addresses")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a name"
        raise OptionError(f"--host: expected a name or an address of this machine, found {host!r}: {reason}") from error
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            try:
                # A free port is chosen once: by the first of the sockets.
                wanted = port or (sockets[0].getsockname()[1] if sockets else 0)
                sockets.append(_bound(family, (address[0], wanted, *address[2:])))
            except OSError as error:
                # localhost is often ::1 too, where the machine has no IPv6.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
        if missing is not None and not sockets:
            raise OptionError(f"--host: expected an address of this machine, found {host!r}") from missing
    except OSError as error:
        close(sockets)
        hint = "; --port takes another, 0 a free one" if error.errno in (errno.EADDRINUSE, errno.EACCES) else ""
        raise OptionError(f"--port {port}: {error.strerror} at {host}{hint}") from error
    except BaseException:
        close(sockets)
        raise
    return sockets


def _bound(family: int, address: tuple[str | int, ...]) -> socket.socket:
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of a server that has ended keep nobody from the port.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind(address)
        # Bound sockets that do not listen leave the port to others.
        found.listen(_BACKLOG)
    except BaseException:
        found.close()
        raise
    return found


def close(sockets: Sequence[socket.socket]) -> None:
    """Leave the port; what is closed already stays so."""
    for one in sockets:
        one.close()


def is_open(sockets: Sequence[socket.socket]) -> bool:
    """Whether other machines reach a server."""
    return not all(ipaddress.ip_address(one.getsockname()[0].partition("%")[0]).is_loopback for one in sockets)


def url_of(host: str, port: int) -> str:
    """What a client on this machine calls a server that listens at a host."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if address.version == 6 else f"http://{host}:{port}"
