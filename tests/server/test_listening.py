"""The port that a server takes before anything else."""

import socket
from unittest import mock

import pytest

from mlx_qwen35.errors import OptionError
from mlx_qwen35.server.listening import close, is_open, listen, url_of


def test_a_port_is_taken_at_once() -> None:
    sockets = listen("127.0.0.1", 0)
    try:
        port = sockets[0].getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        with pytest.raises(OptionError, match=f"--port {port}: Address already in use at 127.0.0.1; --port takes"):
            listen("127.0.0.1", port)
    finally:
        close(sockets)
    # Given back, it can be taken again.
    close(listen("127.0.0.1", port))


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", -1, "--port: expected a number from 0 to 65535, found -1"),
        ("127.0.0.1", 65536, "--port: expected a number from 0 to 65535, found 65536"),
        ("", 0, "--host: expected a name or an address, found none"),
        ("a" * 300, 0, "--host: expected a name or an address of this machine"),
        ("192.0.2.1", 0, "--host: expected an address of this machine, found '192.0.2.1'"),
    ],
)
def test_what_cannot_be_had_is_told(host: str, port: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        listen(host, port)


def test_a_name_without_addresses_is_told() -> None:
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with (
        mock.patch("socket.getaddrinfo", side_effect=unknown),
        pytest.raises(OptionError, match="found 'nowhere': Name or service not known"),
    ):
        listen("nowhere", 0)


def addresses(*found: str) -> mock.Mock:
    """A resolver that knows these IPv4 addresses."""
    kind = socket.SOCK_STREAM
    return mock.Mock(return_value=[(socket.AF_INET, kind, 6, "", (address, 0)) for address in found])


def test_a_name_with_several_addresses_has_one_port_at_all_that_are_here() -> None:
    with mock.patch("socket.getaddrinfo", addresses("192.0.2.1", "127.0.0.1", "127.0.0.1")):
        sockets = listen("several", 0)
    assert [one.getsockname()[0] for one in sockets] == ["127.0.0.1"]
    close(sockets)


def test_nothing_stays_taken_where_one_address_is_busy() -> None:
    busy = listen("127.0.0.1", 0)
    port = busy[0].getsockname()[1]
    with (
        mock.patch("socket.getaddrinfo", addresses("0.0.0.0", "127.0.0.1")),
        pytest.raises(OptionError, match=f"--port {port}: Address already in use"),
    ):
        listen("several", port)
    close(busy)
    close(listen("127.0.0.1", port))


def test_only_loopback_is_not_open() -> None:
    for host, answer in (("127.0.0.1", False), ("0.0.0.0", True)):
        sockets = listen(host, 0)
        assert is_open(sockets) is answer
        close(sockets)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("localhost", "http://localhost:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
        ("::1", "http://[::1]:8080"),
        ("fe80::1%en0", "http://[fe80::1%en0]:8080"),
        ("mac.local", "http://mac.local:8080"),
    ],
)
def test_addresses_as_clients_write_them(host: str, url: str) -> None:
    assert url_of(host, 8080) == url
