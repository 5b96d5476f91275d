"""Servers in processes of their own: this package's, mlx-lm's and mlx-vlm's, and requests that are timed."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mlx_qwen35.errors import OptionError

OWN = "mlx-qwen35"
MODULES = {
    OWN: ("mlx_qwen35.cli.main", "serve"),
    "mlx-lm": ("mlx_lm", "server"),
    "mlx-vlm": ("mlx_vlm.server",),
}
_START_SECONDS = 300
_STOP_SECONDS = 10
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Server:
    """A server that runs on this machine."""

    port: int
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Answer:
    """What one request got.

    Args:
        began, first, ended: When it was sent, wrote its first text, and was complete; of `time.perf_counter`.
        prompt_tokens, tokens, cached_tokens: What the server counted: of the prompt, of the answer, and of the
            prompt without reading it again.
    """

    began: float
    first: float
    ended: float
    prompt_tokens: int
    tokens: int
    cached_tokens: int = 0


def command(name: str, model: str | Path) -> list[str]:
    """What starts a server, but for its address.

    Args:
        name: One of `MODULES`.
    """
    own = ("--served-model-name", str(model), "--log-level", "warning") if name == OWN else ()
    return [sys.executable, "-m", *MODULES[name], "--model", str(model), *own]


@contextmanager
def serving(command: Sequence[str], name: str, log: IO[bytes] | None = None) -> Iterator[Server]:
    """A server on a free port of this machine, reachable from it alone, until the block ends.

    Args:
        command: Takes --host and --port, and answers GET /v1/models when it is ready.
        name: For errors.
        log: Where its output goes; None for nowhere.
    Raises:
        OptionError: It does not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A key from the environment would shut out the requests made here.
    environment = {name: value for name, value in os.environ.items() if name != "MLX_QWEN35_API_KEY"}
    output: Any = subprocess.DEVNULL if log is None else log
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise OptionError(f"{name}: its server does not start: {' '.join(command[1:])}")
            time.sleep(0.1)
        yield Server(port, process)
    finally:
        stop(process)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def stop(process: subprocess.Popen[bytes], how: int = signal.SIGTERM, seconds: float = _STOP_SECONDS) -> bool:
    """End a process with a signal, and kill it if that takes too long; whether the signal was enough."""
    if process.poll() is not None:
        return True
    process.send_signal(how)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def says_something(chunk: dict[str, Any]) -> bool:
    """Whether a chunk of a chat completion brings text or reasoning."""
    deltas = [choice.get("delta") or {} for choice in chunk.get("choices", ())]
    return any(delta.get(name) for delta in deltas for name in ("content", "reasoning_content", "reasoning"))


def stream_chat(port: int, body: dict[str, Any], is_first: Callable[[dict[str, Any]], bool] = says_something) -> Answer:
    """One streamed chat completion.

    Args:
        body: With `stream`, and with `stream_options` that ask for the usage.
        is_first: Whether a chunk is the one whose time counts as the first token's.
    Raises:
        OptionError: The server refuses it, or does not say what it used.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    usage: dict[str, Any] = {}
    began, first = time.perf_counter(), None
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        if response.status != 200:
            raise OptionError(f"port {port}: expected status 200, found {response.status}: {response.read(300)!r}")
        for line in response:
            if not line.startswith(b"data: {"):
                continue  # a comment that keeps the connection alive, or the end
            chunk = json.loads(line[len(b"data: ") :])
            if first is None and is_first(chunk):
                first = time.perf_counter()
            usage = chunk.get("usage") or usage
    finally:
        connection.close()
    ended = time.perf_counter()
    if "completion_tokens" not in usage or "prompt_tokens" not in usage:
        raise OptionError(f"port {port}: expected the usage of a request, found none")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Answer(began, first or ended, ended, usage["prompt_tokens"], usage["completion_tokens"], cached)
