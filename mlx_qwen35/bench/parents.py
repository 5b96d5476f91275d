"""The same conversation through the servers of mlx-lm and mlx-vlm, over HTTP, as their users run them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_qwen35.bench.conversation import TOOLS, Step
from mlx_qwen35.bench.servers import command, serving, stream_chat
from mlx_qwen35.bench.turns import Cost, medians


def request(port: int, model: str | Path, step: Step, max_tokens: int = 8) -> Cost:
    """One streamed request, timed to its first chunk: calls of tools come without text."""
    body: dict[str, Any] = {
        "model": str(model),
        "messages": step.messages,
        "tools": TOOLS,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        "temperature": 0.0,
    }
    answer = stream_chat(port, body, is_first=lambda chunk: bool(chunk.get("choices")))
    read = answer.prompt_tokens - answer.cached_tokens
    return Cost(answer.prompt_tokens, read, None, answer.first - answer.began)


def measure(parent: str, model: str | Path, steps: Sequence[Step], repeats: int) -> list[Cost]:
    """Medians of the conversation through a parent's server, each time freshly started.

    Raises:
        OptionError: It does not start, or refuses a request.
    """
    runs = []
    for _ in range(repeats):
        with serving(command(parent, model), parent) as server:
            runs.append([request(server.port, model, step) for step in steps])
    return medians(runs)
