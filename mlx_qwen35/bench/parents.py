"""The same conversation through the servers of mlx-lm and mlx-vlm, over HTTP, as their users run them."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

from mlx_qwen35.bench.conversation import TOOLS, Step
from mlx_qwen35.bench.turns import Cost, medians
from mlx_qwen35.errors import OptionError

SERVERS = {"mlx-lm": ("mlx_lm", "server"), "mlx-vlm": ("mlx_vlm.server",)}
_START_SECONDS = 120


@contextmanager
def serving(parent: str, model: str | Path) -> Iterator[str]:
    """A parent's own server on this machine; gives its address.

    Raises:
        OptionError: It does not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", *SERVERS[parent], "--model", str(model), "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{address}/v1/models", timeout=5):
                    break
            except (URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise OptionError(f"--against {parent}: its server does not start with {model}") from None
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def request(address: str, model: str | Path, step: Step, max_tokens: int = 8) -> Cost:
    """One streamed request, timed to its first piece of text."""
    body: dict[str, Any] = {
        "model": str(model),
        "messages": step.messages,
        "tools": TOOLS,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        "temperature": 0.0,
    }
    call = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    usage: dict[str, Any] = {}
    began, first = time.perf_counter(), 0.0
    with urllib.request.urlopen(call, timeout=600) as response:
        for line in response:
            text = line.decode().strip()
            if not text.startswith("data: {"):
                continue  # a comment that keeps the connection alive, or the end
            chunk = json.loads(text[len("data: ") :])
            first = first or (time.perf_counter() if chunk.get("choices") else 0.0)
            usage = chunk.get("usage") or usage
    if "prompt_tokens" not in usage:
        raise OptionError(f"{address}: expected the usage of a request, found none")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Cost(usage["prompt_tokens"], usage["prompt_tokens"] - cached, None, first - began)


def measure(parent: str, model: str | Path, steps: Sequence[Step], repeats: int) -> list[Cost]:
    """Medians of the conversation through a parent's server, each time freshly started."""
    runs = []
    for _ in range(repeats):
        with serving(parent, model) as address:
            runs.append([request(address, model, step) for step in steps])
    return medians(runs)
