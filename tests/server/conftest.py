"""A running server over the checkpoint in the package, for clients of every protocol."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpcore2
import pytest

pytest.importorskip("uvicorn", reason="needs the server extra")

from mlx_qwen35 import Engine, ModelKit
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.server import remote_media
from mlx_qwen35.server.app import Server, make_app
from mlx_qwen35.server.media import MediaPolicy
from mlx_qwen35.server.service import GenerationService
from mlx_qwen35.server.settings import Settings
from tests.server.pictures import PictureServer


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process."""

    url: str
    engine: Engine
    service: GenerationService


@contextmanager
def serving(
    kit: ModelKit, policy: MediaPolicy | None = None, *, names: tuple[str, ...] = ("box",), timeout: float = 120.0,
    heartbeat: float = 5.0, patience: float = 30.0, api_key: str | None = None, max_body: int = 2**22,
    body_seconds: float = 60.0, strict: bool = False, strict_model: bool = False, max_stored: int = 8, **options: Any,
) -> Iterator[Running]:  # fmt: skip
    """A server on a free port of this machine, until the block ends."""
    engine = Engine(kit, **options)
    service = GenerationService(engine, policy or MediaPolicy(), timeout=timeout, heartbeat=heartbeat)
    settings = Settings(
        names, api_key=api_key, max_body=max_body, body_seconds=body_seconds, strict=strict, strict_model=strict_model,
        max_stored=max_stored,
    )  # fmt: skip
    app = make_app(service, settings)
    server = Server(app, engine, patience=patience, port=0, log_level="warning")
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", engine, service)
    finally:
        server.should_exit = True
        thread.join()
        engine.close(timeout=0)


@pytest.fixture(scope="session")
def box() -> Iterator[ModelKit]:
    """The checkpoint in the package."""
    with ModelKit.load(BOX) as kit:
        yield kit


@pytest.fixture(scope="session")
def server(box: ModelKit) -> Iterator[Running]:
    """One server for many tests."""
    with serving(box) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    """OpenAI's own."""
    openai = pytest.importorskip("openai", reason="needs the test extra")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(server: Running) -> Iterator[Any]:
    """Anthropic's own."""
    anthropic = pytest.importorskip("anthropic", reason="needs the test extra")
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def pictures() -> Iterator[PictureServer]:
    """A host of pictures on this machine."""
    with PictureServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A resolver: addresses by name, taken from the front if there are several answers; counts as `asked`."""
    table = {"pictures.example": ["127.0.0.1"]}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> Any:
        if host[-1:].isdigit() or ":" in host:
            return real(host, port, *args, **options)
        table.setdefault("asked", []).append(host)
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [info for address in table[host] for info in real(address, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return table


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> None:
    """Takes 127.0.0.1 for an address of the internet; every other one stays what it is."""
    real = remote_media.is_public
    monkeypatch.setattr(remote_media, "is_public", lambda address: address == "127.0.0.1" or real(address))


@pytest.fixture
def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
