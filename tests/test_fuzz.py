"""The fuzzers: they find nothing here, and find what is put there for them."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen35.state import prefix_cache
from tools.fuzz import bodies, checkpoints, pictures, sessions

# Of a tool for whoever changes the package.
pytestmark = pytest.mark.thorough


def stumble(*args: Any, **kwargs: Any) -> Any:
    raise KeyError("planted")


class Stumbling:
    """Takes pictures in memory, and no files."""

    def __call__(self, source: Any) -> None:
        if isinstance(source, bytes):
            stumble()


def test_damaged_pictures_are_images_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert pictures.run(1.0, seed=3) == []
    assert "'refused'" in capsys.readouterr().out


def test_what_a_picture_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "ImagePreprocessor", lambda *args: Stumbling())
    (problem,) = pictures.run(0.5, seed=3)
    assert problem.startswith("KeyError: 'planted'")


def test_changed_sessions_are_taken_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert sessions.run(1.0, seed=3) == []
    assert "'refused'" in capsys.readouterr().out


def test_what_a_session_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "read_prefix", stumble)
    (problem,) = sessions.run(0.3, seed=3)
    assert problem.startswith("KeyError: 'planted', after ")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    checkpoints.make_victim(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.some(10)
@pytest.mark.parametrize(
    "name",
    [
        *(name for name in checkpoints.ATTACKS if name.startswith(("weights", "a header", "an enormous", "offsets"))),
        *(name for name in checkpoints.ATTACKS if name.startswith("a template")),
        *(name for name in checkpoints.ATTACKS if name.endswith("as config.json")),
        "a terabyte as tokenizer.json", "/dev/zero as model.safetensors", "a pipe as chat_template.jinja",
        "vision_config.depth = 100000000", "vision_config.patch_size = 0", "text_config.num_attention_heads = 0",
        "text_config.rms_norm_eps = nan", "layers of no kind", "a section of no numbers", "sizes of no numbers",
        "preprocessor size.longest_edge = None",
    ],
)  # fmt: skip
def test_a_hostile_checkpoint_is_refused(victim: Path, name: str) -> None:
    """Those of which nothing can be made; the fuzzer's others may work, too."""
    checkpoints.ATTACKS[name](victim)
    assert checkpoints.attempt(victim)


def test_what_a_checkpoint_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "ATTACKS", {"nothing": lambda directory: None})
    assert checkpoints.run(1.0, seed=0) == []
    monkeypatch.setattr(checkpoints.ModelKit, "load", stumble)
    assert checkpoints.run(1.0, seed=0) == ["nothing: KeyError: 'planted'"]


def test_without_schemathesis_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    assert bodies.run(1.0, seed=0) == ["needs the fuzz extra: pip install -e '.[fuzz]'"]


def test_the_description_asks_for_no_answers_that_have_to_be_long() -> None:
    endless = {"min_tokens": {"type": "integer"}, "ignore_eos": {"type": "boolean"}, "max_tokens": {"type": "integer"}}
    schema = {"components": {"schemas": {"Chat": {"properties": endless}, "Count": {"properties": {}}}}}
    models = bodies.with_short_answers(schema)["components"]["schemas"]
    assert models["Count"] == {"properties": {}}
    assert models["Chat"]["properties"]["min_tokens"]["maximum"] < 100
    assert models["Chat"]["properties"]["ignore_eos"] == {"const": False}
    assert models["Chat"]["properties"]["max_tokens"] == {"type": "integer"}


def test_every_body_names_the_model() -> None:
    schema = {
        "components": {
            "schemas": {"A": {"properties": {"model": {}, "x": {}}}, "B": {"properties": {"x": {}}}, "C": {}}
        }
    }
    models = bodies.with_model(schema, "box")["components"]["schemas"]
    assert models["A"]["properties"] == {"model": {"const": "box"}, "x": {}}
    assert models["B"]["properties"] == {"x": {}}
