"""A checkpoint's tokenizer and template, wherever they lie and whatever is wrong with them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import CheckpointError, CheckpointWarning
from mlx_qwen35.prompts.messages import render_messages
from mlx_qwen35.prompts.plain_tokenizer import LoadedTokenizer
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.prompts.tokenizer_files import find_chat_template, incomplete
from tests.tiny import CONTROL_TOKENS, DENSE, VOCAB_SIZE, Shape

TEXT = "hello there, <|im_end|> Zürich"
USER = [{"role": "user", "content": TEXT}]


def edit(directory: Path, change: Callable[[dict[str, Any]], Any], name: str = "tokenizer.json") -> None:
    content = json.loads((directory / name).read_text())
    change(content)
    (directory / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        (name, encoding)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        for encoding in ("utf-8-sig", "utf-16")
    ],
)
def test_a_byte_order_mark_is_read(written: Path, directory: Path, name: str, encoding: str) -> None:
    (directory / name).write_text((directory / name).read_text(encoding="utf-8"), encoding=encoding)
    expected, found = Tokenizer(written), Tokenizer(directory)
    assert found.encode(TEXT) == expected.encode(TEXT)
    assert render_messages(found, USER).input_ids == render_messages(expected, USER).input_ids


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (["vocab.json", "merges.txt"], r"expected tokenizer\.json, found none \(only vocab\.json, merges\.txt\)"),
    ],
)
def test_no_tokenizer_json_is_an_error(directory: Path, left: list[str], message: str) -> None:
    """transformers makes an empty tokenizer of the rest, which drops every text."""
    content = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").unlink()
    for name in left:
        text = (
            json.dumps(content["model"]["vocab"])
            if name == "vocab.json"
            else "\n".join(map(" ".join, content["model"]["merges"]))
        )
        (directory / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer(directory)


def test_a_tokenizer_that_cannot_spell_every_text_is_an_error(directory: Path) -> None:
    def forget(content: dict[str, Any]) -> None:
        content["model"] |= {"merges": [], "vocab": {"a": 0, "b": 1}}

    edit(directory, forget)
    with pytest.raises(CheckpointError, match=r"expected a token for each of 256 bytes, found 2; text would be lost"):
        Tokenizer(directory)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["model"].update(type="BPE2"),
        lambda content: content.update(version="2.0"),
        lambda content: content["pre_tokenizer"]["pretokenizers"].append({"type": "Shiny"}),
        lambda content: content["decoder"].update(type="Shiny"),
        lambda content: content.update(shiny=1),
    ],
    ids=["model", "version", "pre-tokenizer", "decoder", "field"],
)
def test_a_newer_format_is_told(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    edit(directory, change)
    with pytest.raises(
        CheckpointError,
        match=r"tokenizer\.json: expected a format that tokenizers [\d.]+ reads, found another \(.*\); a newer version",
    ):
        Tokenizer(directory)


def test_a_format_that_the_library_panics_at_is_told(directory: Path) -> None:
    """Which is no `Exception` in Python."""
    edit(directory, lambda content: content["model"].update(continuing_subword_prefix="####"))
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json: expected a format that tokenizers [\d.]+ reads, found"
    ):
        Tokenizer(directory)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_fault_of_the_files(
    directory: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupt(*_: Any) -> None:
        raise error

    monkeypatch.setattr("mlx_qwen35.prompts.tokenizer_files.read_plain", interrupt)
    with pytest.raises(error):
        Tokenizer(directory)


def test_a_broken_tokenizer_json_is_told(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected JSON, found"):
        Tokenizer(directory)


def test_what_transformers_refuses_in_config_json_does_not_matter_here(written: Path, directory: Path) -> None:
    edit(directory, lambda content: content.update(image_token_id=None, tie_word_embeddings=None), "config.json")
    assert Tokenizer(directory).encode(TEXT) == Tokenizer(written).encode(TEXT)


@pytest.mark.parametrize("where", ["chat_template.json", "processor_config.json"])
@pytest.mark.parametrize("named", [False, True], ids=["one", "named"])
def test_the_template_may_lie_in_the_processor_s_files(directory: Path, where: str, named: bool) -> None:
    template = (directory / "chat_template.jinja").read_text()
    (directory / "chat_template.jinja").unlink()
    content: Any = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
    (directory / where).write_text(json.dumps({"chat_template": content if named else template}))
    assert Tokenizer(directory).chat_template == template


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_mark_of_the_other_byte_order_is_read(written: Path, directory: Path, name: str) -> None:
    text = (directory / name).read_text(encoding="utf-8")
    (directory / name).write_text("\ufeff" + text, encoding="utf-16-be")
    expected, found = Tokenizer(written), Tokenizer(directory)
    assert found.encode(TEXT) == expected.encode(TEXT)
    assert found.chat_template == expected.chat_template


def test_files_beside_one_with_a_mark_are_found_from_a_path_that_is_not_whole(
    written: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (directory / "tokenizer_config.json").read_text(encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8-sig")
    monkeypatch.chdir(directory.parent)
    assert Tokenizer(Path(directory.name)).encode(TEXT) == Tokenizer(written).encode(TEXT)


def template_of(directory: Path, own: Any, **files: Any) -> str | None:
    """The template of a directory, whose tokenizer has one or more or none, and whose files have others."""
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps({"chat_template": content}))
    return find_chat_template(directory, LoadedTokenizer(Backend(BPE()), {}, own))


def test_of_several_templates_the_default_counts_of_several_places_the_first(tmp_path: Path) -> None:
    assert template_of(tmp_path, None) is None
    assert template_of(tmp_path, None, processor_config="last") == "last"
    assert template_of(tmp_path, None, chat_template="second") == "second"
    assert template_of(tmp_path, "first") == "first"
    assert template_of(tmp_path, {"default": "first", "rag": "x"}) == "first"
    several = [{"name": "rag", "template": "x"}, "junk", {"name": "default", "template": "y"}]
    assert template_of(tmp_path, several) == "y"
    # Those without a default, or of no kind that there is, leave it to the next place.
    for own in ({"rag": "x"}, several[:2], [], {}, 5, {"default": None}):
        assert template_of(tmp_path, own) == "second"
    assert template_of(tmp_path, None, chat_template=None) == "last"


def test_a_mark_inside_a_template_is_no_text_of_it(tmp_path: Path) -> None:
    assert template_of(tmp_path, "\ufeff{{ messages }}") == "{{ messages }}"


def test_a_missing_tokenizer_is_told_with_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    message = f"{tmp_path}: expected tokenizer.json, found none{{}}; copy it from the original checkpoint"
    assert str(incomplete(tmp_path, 0)) == message.format("")
    (tmp_path / "tokenizer.model").write_text("")
    (tmp_path / "merges.txt").write_text("")
    assert str(incomplete(tmp_path, 0)) == message.format(" (only merges.txt, tokenizer.model)")


def test_the_tokenizer_s_own_template_comes_first(directory: Path) -> None:
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": "another"}))
    assert Tokenizer(directory).chat_template == (directory / "chat_template.jinja").read_text()
    (directory / "chat_template.jinja").unlink()
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": None}))
    assert Tokenizer(directory).chat_template is None


def add_tokens(directory: Path, *, special: bool) -> None:
    """Ten more tokens than tests.tiny's model has rows for: six fit, `<x6>` and later ones do not."""

    def add(content: dict[str, Any]) -> None:
        first = 1 + max(token["id"] for token in content["added_tokens"])
        like = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
        content["added_tokens"] += [{"id": first + n, "content": f"<x{n}>", **like} for n in range(10)]

    edit(directory, add)


@pytest.mark.parametrize("special", [False, True], ids=["added", "special"])
def test_tokens_without_a_row_in_the_model_are_text(written: Path, directory: Path, special: bool) -> None:
    add_tokens(directory, special=special)
    with pytest.warns(CheckpointWarning, match=r"expected tokens below 352 .*, found 4 added beyond, the first '<x6>'"):
        found = Tokenizer(directory, vocab_size=VOCAB_SIZE)
    plain = Tokenizer(written)
    assert found.encode("a<x6>b<|im_end|>") == plain.encode("a<x6>b<|im_end|>")
    assert found.encode("a<x5>b") != plain.encode("a<x5>b")
    assert max(found.encode("<x0><x5><x9>")) < VOCAB_SIZE
    assert found.control_id("<x6>") is None
    assert found.control_id("<x5>") == VOCAB_SIZE - 1
    assert all(found.control_id(token) == plain.control_id(token) for token in CONTROL_TOKENS)


def test_a_model_whose_tokenizer_outgrew_it_answers(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint_dir(DENSE), tmp_path / "outgrown"))
    add_tokens(directory, special=False)
    with pytest.warns(CheckpointWarning, match="read as plain text"):
        kit = ModelKit.load(directory)
    with kit:
        prompt = kit.process_prompt([{"role": "user", "content": "hi <x9> you"}])
        assert kit.generate(prompt, max_tokens=2).stats.completion_tokens == 2
        assert "hi <x9> you" in kit.tokenizer.decode(prompt.input_ids.tolist())


def test_the_model_in_the_package_has_a_row_for_each_of_its_tokens() -> None:
    vocab_size = json.loads((BOX / "config.json").read_text())["text_config"]["vocab_size"]
    assert Tokenizer(BOX, vocab_size=vocab_size).encode("a")
