"""Measuring speed: what is asked, of whom, and what comes out."""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.bench import speed
from mlx_qwen35.bench.plot import bars
from mlx_qwen35.bench.runtimes import Run, steps_of
from mlx_qwen35.bench.speed import Case, Figures, cases, measure, ratios, summarise, take_turns
from mlx_qwen35.bench.synthetic import write_synthetic
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.cli.main import main
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.prompt import Prompt
from tests.tiny import DENSE, Shape


def test_cases(kit: ModelKit) -> None:
    found = list(cases(kit, lengths=[5, 9], images=[2], batches=[1, 3], side=64, tokens=4))
    assert [case.name for case in found] == [
        "text, 5 tokens",
        "text, 9 tokens",
        "2 images, 64 x 64",
        "3 rows, 64 tokens each",
    ]
    assert [len(case.prompts[0].input_ids) for case in found[:2]] == [5, 9]
    assert len(found[2].prompts[0].images) == 2
    assert len(found[3].prompts) == 3
    assert [case.is_batch for case in found] == [False, False, False, True]


def test_medians_and_ratios(kit: ModelKit) -> None:
    prompt = kit.process_prompt([1] * 100)
    own = summarise([Run(2.0, 0.1, 5), Run(1.0, 0.3, 7), Run(4.0, 0.2, 6)], prompt)
    assert own == Figures(prompt_tps=50.0, first_token=2.0, per_token=0.2, peak=7)
    other = Figures(prompt_tps=25.0, first_token=4.0, per_token=0.1, peak=14)
    assert ratios({"mlx-qwen35": own, "mlx-lm": other}, "mlx-lm") == {"prompt": 2.0, "per_token": 2.0, "peak": 0.5}


class Counter:
    """A runtime whose n-th run takes n seconds, or says so."""

    name, sees = "counter", True

    def __init__(self) -> None:
        self.runs = 0

    def run(self, prompt: Prompt, tokens: int) -> Run:
        self.runs += 1
        return Run(float(self.runs), 0.0, 0)

    def rows(self, prompts: Sequence[Prompt], tokens: int) -> float:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


@pytest.mark.parametrize(("seconds", "counted"), [(60.0, [2.0, 3.0]), (0.0, [1.0])])
def test_the_first_turn_counts_only_if_it_is_long(
    kit: ModelKit, monkeypatch: pytest.MonkeyPatch, seconds: float, counted: list[float]
) -> None:
    monkeypatch.setattr(speed, "LONG_SECONDS", seconds)
    runs = take_turns([Counter()], Case("x", (kit.process_prompt([1]),), 1), repeats=2)
    assert [run.first_token for run in runs["counter"]] == counted


@pytest.mark.thorough
def test_every_runtime_does_what_it_can(kit: ModelKit, checkpoint_dir: Callable[[Shape], Path]) -> None:
    def make(kit: ModelKit) -> Iterator[Case]:
        return cases(kit, lengths=[6], images=[1], batches=[2], side=32, tokens=3)

    shown: list[str] = []
    found = measure(
        checkpoint_dir(DENSE), ["mlx-lm", "mlx-vlm"], make, repeats=1, on_case=lambda name, _: shown.append(name)
    )
    assert list(found) == shown
    assert {name: list(figures) for name, figures in found.items()} == {
        "text, 6 tokens": ["mlx-qwen35", "mlx-lm", "mlx-vlm"],
        "1 image, 32 x 32": ["mlx-qwen35", "mlx-vlm"],
        "2 rows, 64 tokens each": ["mlx-qwen35", "mlx-lm", "mlx-vlm"],
    }
    for figures in found["text, 6 tokens"].values():
        assert figures.first_token is not None
        assert figures.first_token > 0
        assert figures.per_token > 0
        assert figures.peak is not None
        assert figures.peak > 0


@pytest.mark.thorough
def test_a_synthetic_checkpoint_has_the_published_shapes(tmp_path: Path) -> None:
    directory = write_synthetic(tmp_path / "x", "0.8b", layers=4, hidden=64, dtype="bfloat16")
    checkpoint = Checkpoint.open(directory)
    text = checkpoint.config.text
    assert (text.hidden_size, text.head_dim, text.num_attention_heads, text.vocab_size) == (64, 256, 8, 248320)
    assert text.layer_types == ("linear_attention",) * 3 + ("full_attention",)
    with ModelKit.load(directory) as kit:
        assert len(kit.generate(kit.process_prompt([1, 2, 3]), max_tokens=2, temperature=0.0).tokens) == 2
        # The package's own model would shrink it to 192 x 192.
        assert kit.vision.prepare_image(Image.new("RGB", (1024, 512))).grid_thw == (1, 32, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "1b"}, "synthetic: expected one of 0.8b, "),
        ({"size": "2b", "layers": 6}, "layers: expected a multiple of 4, found 6"),
        ({"size": "2b", "hidden": 100}, "hidden: expected a multiple of 64, found 100"),
        ({"size": "2b", "dtype": "int8"}, "dtype: expected one of float32, bfloat16, float16, found 'int8'"),
    ],
)
def test_a_synthetic_checkpoint_that_cannot_be(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        write_synthetic(tmp_path / "x", **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_command(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "speed.svg"
    command = ["bench", "speed", "--model", str(checkpoint_dir(DENSE)), "--lengths", "6,12", "--images", "0"]
    command += ["--batches", "1", "--tokens", "2", "--repeats", "1", "--plot", str(plot)]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["cases"]) == ["text, 6 tokens", "text, 12 tokens"]
    assert len(ElementTree.parse(plot).getroot().findall("{http://www.w3.org/2000/svg}rect")) == 2
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| text, 6 tokens", "| text, 12 tokens"]


def test_numbers_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "speed", "--lengths", "12,many"])
    assert "expected numbers like 128,1024, found '12,many'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layers", "8"], "--layers: expected with --synthetic"),
        (["--dtype", "bfloat16"], "--dtype: expected with --synthetic"),
        (["--plot", "nowhere/speed.svg"], "--plot: expected a folder that is there, found nowhere"),
        (["--tokens", "1"], "--tokens: expected"),
        (["--draft-tokens", "2"], "--draft-tokens: expected none without --speculate, found 2"),
        (["--draft-tokens", "0"], "--draft-tokens: expected none without --speculate, found 0"),
        (["--speculate", "lookup", "--tokens", "9"], "--tokens: expected none with --speculate, found 9"),
        (["--speculate", "lookup", "--side", "64"], "--side: expected none with --speculate, found 64"),
        (
            ["--speculate", "lookup", "--against", "mlx-lm"],
            "--against: expected mlx-vlm with --speculate",
        ),
        (["--verify-only", "--lengths", "8,9"], "--lengths: expected none with --verify-only, found (8, 9)"),
        (["--verify-only", "--draft-tokens", "1"], "--draft-tokens: expected none with --verify-only, found 1"),
        (["--verify-only", "--against", "mlx-vlm"], "--against: expected none with --verify-only"),
    ],
)
def test_flags_that_cannot_be_obeyed(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "speed", *flags]) == 2
    assert message in capsys.readouterr().err


def test_bars() -> None:
    root = ElementTree.fromstring(bars({"a < b": {"one": 100.0, "two": 50.0}, "c": {"one": None}}))
    widths = [float(bar.attrib["width"]) for bar in root.findall("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == 2 * widths[1]
    assert [text.text for text in root.findall("{http://www.w3.org/2000/svg}text")] == [
        "a < b",
        "100 one",
        "50 two",
        "tok/s",
    ]


def test_rows_that_end_before_there_are_two_steps_have_no_figure() -> None:
    answers = [[SimpleNamespace(finish_reason=None)] * 2, [SimpleNamespace(finish_reason="stop")]]
    assert math.isnan(steps_of(iter(answers), 2, next))
