"""Which addresses images are fetched from."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpcore2
import pytest

from mlx_qwen35.server.addresses import is_public
from mlx_qwen35.server.media import MediaPolicy
from tests.server.pictures import PICTURE, PLACE, PictureServer, refusal, take


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.8.9.1",
        "127.1",
        "0",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "2852039166",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "168.63.129.16",
        "198.18.0.1",
        "203.0.113.5",
        "224.0.0.251",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:169.254.169.254]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::808:808]",
        "[2002:7f00:1::]",
        "[2002:808:808::1]",
        "[2001:0:7f00:1::]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[100::1]",
        "[5f00::1]",
        "[4000::1]",
        "[fe80::1]",
        "[fe80::1%25lo]",
        "[fe80::1%1]",
        "[fec0::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "localhost",
        "\N{FULLWIDTH DIGIT ONE}\N{FULLWIDTH DIGIT TWO}\N{FULLWIDTH DIGIT SEVEN}.0.0.1",
    ],
)
def test_only_public_addresses_are_connected_to(no_connections: None, host: str) -> None:
    message = refusal(f"http://{host}/a.png")
    assert "has public addresses" in message or "malformed URL" in message or "host name" in message


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::e000:1", False),
        ("2606:4700:4700::1111%2", False),
        ("::ffff:8.8.8.8%2", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("addresses", [["10.1.2.3"], ["8.8.8.8", "10.1.2.3"], ["8.8.8.8", "::1"], ["fe80::1%1"]])
def test_one_private_address_is_enough_and_missing_names_look_the_same(
    names: dict[str, list[str]], no_connections: None, addresses: list[str]
) -> None:
    names["inside.example"] = addresses
    found = refusal("http://inside.example/")
    assert found == f"{PLACE}: expected a host that has public addresses, and no others, found 'inside.example'"
    assert refusal("http://nobody.example/") == found.replace("inside", "nobody")


def test_the_connection_goes_to_the_address_that_was_checked(
    names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers with loopback the second time is not asked a second time."""
    connected: list[tuple[str, int]] = []

    def connect(_: Any, host: str, port: int, *__: Any) -> None:
        connected.append((host, port))
        raise httpcore2.ConnectError("recorded")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    answers = iter([["8.8.8.8"], ["127.0.0.1"], ["127.0.0.1"]])
    monkeypatch.setattr(socket, "getaddrinfo", rebinding(names, answers))
    assert "recorded" in refusal("http://rebinding.example:8080/a.png")
    assert connected == [("8.8.8.8", 8080)]
    assert names["asked"] == ["rebinding.example"]
    assert "has public addresses" in refusal("http://rebinding.example:8080/a.png")
    assert connected == [("8.8.8.8", 8080)]


def rebinding(names: dict[str, list[str]], answers: Iterator[list[str]]) -> Callable[..., Any]:
    resolver = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
        if host == "rebinding.example":
            names[host] = next(answers)
        return resolver(host, *args, **options)

    return getaddrinfo


def test_a_dead_address_leaves_time_for_the_next(
    pictures: PictureServer, loopback: None, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = httpcore2.SyncBackend.connect_tcp
    waited: list[float] = []

    def connect(backend: Any, host: str, port: int, timeout: float, *rest: Any) -> Any:
        if host != "127.0.0.1":
            waited.append(timeout)
            raise httpcore2.ConnectTimeout
        return real(backend, host, port, timeout, *rest)

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    names["pictures.example"] = ["8.8.8.8", "8.8.8.8", "1.1.1.1", "127.0.0.1"]
    assert take(f"{pictures.url}/a.png", MediaPolicy(True, timeout=3)) == PICTURE
    assert waited == [pytest.approx(1, abs=0.1), pytest.approx(1.5, abs=0.1)]


def test_a_slow_resolver_holds_nobody(monkeypatch: pytest.MonkeyPatch, no_connections: None) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (release.wait(60), [])[1])
    began = time.monotonic()
    assert "expected the image within 0.2 seconds" in refusal("http://slow.example/", MediaPolicy(True, timeout=0.2))
    assert time.monotonic() - began < 10
    release.set()
