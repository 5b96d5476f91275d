"""Measuring servers with several requests at once."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen35.bench import serve
from mlx_qwen35.bench.serve import Figures, ratios, summarise
from mlx_qwen35.bench.servers import Answer, Server
from mlx_qwen35.cli.main import main
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tests.tiny import DENSE, Shape


@pytest.mark.thorough
def test_our_own_server(checkpoint_dir: Callable[[Shape], Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "serve", "--model", str(checkpoint_dir(DENSE)), "--requests", "1,3", "--repeats", "1"]
    assert main([*command, "--tokens", "4", "--prompt-tokens", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["requests"]
    assert list(found) == ["1", "3"]
    for figures in found.values():
        own = figures["mlx-qwen35"]
        # Every answer has the length that was asked for.
        assert own["tokens"] == 4
        assert own["prompt_tokens"] >= 20
        assert own["tokens_per_second"] > 0
        assert own["first_token"] > 0


def test_servers_take_turns_with_the_same_prompts(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, tuple[str, ...]]] = []
    ports = {"mlx-qwen35": 1, "mlx-lm": 2, "mlx-vlm": 3}

    @contextmanager
    def serving(command: list[str], name: str) -> Iterator[Server]:
        yield Server(ports[name], None)  # type: ignore[arg-type]

    def together(port: int, bodies: list[dict[str, Any]]) -> list[Answer]:
        asked.append((port, tuple(body["messages"][0]["content"] for body in bodies)))
        return [Answer(0.0, 1.0, 2.0 * port, 30, 8) for _ in bodies]

    monkeypatch.setattr(serve, "serving", serving)
    monkeypatch.setattr(serve, "together", together)
    model = checkpoint_dir(DENSE)
    found = serve.measure(model, ["mlx-lm", "mlx-vlm"], [2], prompt_tokens=20, tokens=8, repeats=2)
    assert [port for port, _ in asked] == [1, 2, 3] * 3
    rounds = [{prompts for _, prompts in asked[start : start + 3]} for start in (0, 3, 6)]
    assert [len(prompts) for prompts in rounds] == [1, 1, 1]
    texts = [prompt for prompts in rounds for (pair,) in [prompts] for prompt in pair]
    assert len(set(texts)) == 6
    tokenizer = Tokenizer(model)
    assert all(len(tokenizer.encode(text)) >= 20 for text in texts)
    assert found[2]["mlx-lm"] == Figures(tokens_per_second=4.0, first_token=1.0, prompt_tokens=30, tokens=8)
    assert ratios(found[2], "mlx-vlm") == {"tokens_per_second": 3.0, "first_token": 1.0}

    def broken(port: int, bodies: list[dict[str, Any]]) -> list[Answer]:
        if port == ports["mlx-lm"]:
            raise OptionError(f"port {port}: Connection reset by peer")
        return together(port, bodies)

    monkeypatch.setattr(serve, "together", broken)
    with pytest.raises(OptionError, match="^mlx-lm: port 2: Connection reset by peer"):
        serve.measure(model, ["mlx-lm", "mlx-vlm"], [2], prompt_tokens=20, tokens=8, repeats=2)


def test_medians_over_rounds() -> None:
    rounds = [[Answer(0.0, first, ended, 9, 10), Answer(1.0, 2.0, 4.0, 9, 10)] for first, ended in ((3.0, 5.0), (1, 8))]
    assert summarise([*rounds, rounds[0]]) == Figures(20 / 5.0, 2.0, 9, 10)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--requests", "0,1"], "--requests: expected a whole number of at least 1, found 0"),
        (["--tokens", "1"], "--tokens: expected a whole number of at least 2, found 1"),
        (["--hidden", "64"], "--hidden: expected with --synthetic"),
    ],
)
def test_flags_that_cannot_be_obeyed(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", *flags]) == 2
    assert message in capsys.readouterr().err
