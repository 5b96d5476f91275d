"""The next turn of a long conversation after its server was restarted, or killed."""

import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_qwen35.bench.conversation import Message, picture
from mlx_qwen35.bench.servers import OWN, command, serving, stop, stream_chat
from mlx_qwen35.bench.turns import Cost, medians
from mlx_qwen35.checkpoints.reading import read_json
from mlx_qwen35.errors import OptionError

TOKENS = 20_000
# How the server that knows the conversation ends.
ENDINGS = {"restarted": signal.SIGTERM, "killed": signal.SIGKILL}
_SENTENCE = "Number {} of the things that you should know is that shapes have colors, places and sizes. "
_ANSWER_TOKENS = 16
_WAIT_SECONDS = 300


def write_turns(count: Callable[[str], int], tokens: int, *, images: bool) -> list[list[Message]]:
    """Two turns of a conversation: messages of the first, with at least so many tokens, and of the second.

    Args:
        count: Tokens of a text.
        images: Whether the question brings a picture.
    """
    number = tokens // count(_SENTENCE.format(1000)) + 1
    text = "".join(map(_SENTENCE.format, range(number)))
    while count(text) < tokens:
        text += _SENTENCE.format(number)
        number += 1
    question: Any = "Which of these things matters most?"
    if images:
        question = [{"type": "image_url", "image_url": {"url": picture(1)}}, {"type": "text", "text": question}]
    first = [{"role": "system", "content": text}, {"role": "user", "content": question}]
    return [first, [*first, {"role": "assistant", "content": "All."}, {"role": "user", "content": "Why is that?"}]]


@contextmanager
def with_context(model: Path, tokens: int) -> Iterator[Path]:
    """A checkpoint whose config.json allows so many tokens: itself, or a directory of links to its files."""
    config = read_json(model / "config.json")
    text = config.get("text_config", config)
    if text["max_position_embeddings"] >= tokens:
        yield model
        return
    text["max_position_embeddings"] = tokens
    with tempfile.TemporaryDirectory() as place:
        for path in model.iterdir():
            if path.name != "config.json":
                Path(place, path.name).symlink_to(path.resolve())
        Path(place, "config.json").write_text(json.dumps(config))
        yield Path(place)


def measure(model: Path, turns: list[list[Message]], repeats: int) -> dict[str, list[Cost]]:
    """What the second turn costs: "cold", of a server that knows nothing, and after each of `ENDINGS`.

    Returns:
        One cost each: medians.
    Raises:
        OptionError: A server does not start, refuses a request, or writes nothing.
    """
    runs: dict[str, list[list[Cost]]] = {name: [] for name in ("cold", *ENDINGS)}
    for _ in range(repeats):
        with serving(command(OWN, model), OWN) as server:
            runs["cold"].append([_ask(server.port, model, turns[1])])
        for name, how in ENDINGS.items():
            with tempfile.TemporaryDirectory() as kept:
                own = [*command(OWN, model), "--prompt-cache-dir", kept]
                with serving(own, OWN) as server:
                    _ask(server.port, model, turns[0])
                    if how is signal.SIGKILL:
                        _wait_for_file(Path(kept))
                    stop(server.process, how, _WAIT_SECONDS)
                with serving(own, OWN) as server:
                    runs[name].append([_ask(server.port, model, turns[1])])
    return {name: medians(found) for name, found in runs.items()}


def _ask(port: int, model: Path, messages: list[Message]) -> Cost:
    body = {
        "model": str(model), "messages": messages, "max_tokens": _ANSWER_TOKENS, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    answer = stream_chat(port, body)
    return Cost(answer.prompt_tokens, answer.prompt_tokens - answer.cached_tokens, None, answer.first - answer.began)


def _wait_for_file(directory: Path) -> None:
    """Until what was read is on disk, which it is some seconds after the answer."""
    deadline = time.monotonic() + _WAIT_SECONDS
    # While it is being written its name is longer, with two endings.
    while not any(path.name.count(".") == 1 for path in directory.glob("*.safetensors")):
        if time.monotonic() > deadline:
            raise OptionError(f"{directory}: expected a file of the prompt cache, found none")
        time.sleep(0.05)
