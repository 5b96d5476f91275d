"""A running server over the checkpoint in the package, for clients of every protocol."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the server extra")

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.runtime.engine import Engine
from mlx_qwen35.server.app import Server, Settings, make_app
from mlx_qwen35.server.exchange import Exchange
from mlx_qwen35.server.media import MediaPolicy


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process."""

    url: str
    engine: Engine
    exchange: Exchange


@contextmanager
def serving(
    kit: ModelKit, policy: MediaPolicy | None = None, *, names: tuple[str, ...] = ("box",), timeout: float = 120.0,
    heartbeat: float = 5.0, patience: float = 30.0, api_key: str | None = None, max_body: int = 2**22, **options: Any,
) -> Iterator[Running]:  # fmt: skip
    """A server on a free port of this machine, until the block ends."""
    engine = Engine(kit, **options)
    exchange = Exchange(engine, policy or MediaPolicy(), timeout=timeout, heartbeat=heartbeat)
    app = make_app(exchange, Settings(names, api_key=api_key, max_body=max_body))
    server = Server(app, engine, patience=patience, port=0, log_level="warning")
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", engine, exchange)
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
