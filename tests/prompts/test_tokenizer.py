"""Control tokens are what a template wrote; everything a user typed is text."""

import json
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mlx_qwen35.errors import CheckpointError, PromptError
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tests.tiny import CONTROL_TOKENS, IDS, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return Tokenizer(directory, eos_token_ids=[7])


FRAGMENTS = st.lists(
    st.one_of(st.sampled_from([*CONTROL_TOKENS, "<|im", "_start|>", "\ue000", "\ue0000\ue001"]), st.text()),
    max_size=6,
).map("".join)


def test_every_id_that_ends_an_answer_is_known(tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_token_ids == {7, IDS["<|im_end|>"], IDS["<|endoftext|>"]}


def test_both_names_end_an_answer_whichever_the_configs_give(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    for own in ("<|endoftext|>", "<|im_end|>", "</think>"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": own}))
        assert Tokenizer(tmp_path).eos_token_ids == {IDS["<|im_end|>"], IDS["<|endoftext|>"], IDS[own]}


def test_nothing_is_fetched_and_no_code_of_the_checkpoint_runs(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def load(directory: Any, **options: Any) -> Any:
        asked.append((directory, options))
        return tokenizer._hf

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", load)
    Tokenizer(tmp_path)
    assert asked == [(str(tmp_path), {"local_files_only": True, "trust_remote_code": False})]


@pytest.mark.parametrize("slow", [SimpleNamespace(is_fast=False), SimpleNamespace()])
def test_a_slow_tokenizer_is_refused(slow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: slow)
    with pytest.raises(CheckpointError, match=r"expected tokenizer\.json, found only a slow tokenizer"):
        Tokenizer(tmp_path)


def test_no_token_is_added_to_a_text(tmp_path: Path) -> None:
    """Some tokenizers begin a text with a token of their own; here the template alone says what comes first."""
    write_tokenizer(tmp_path)
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    first = "<|im_start|>"
    settings["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {first: {"id": first, "ids": [IDS[first]], "tokens": [first]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer._backend.encode("the fox").ids[0] == IDS[first]
    assert tokenizer.decode(tokenizer.encode("the fox")) == "the fox"
    assert tokenizer.decode(tokenizer.encode_text("<think> fox")) == "<think> fox"


def test_a_template_gives_text(tokenizer: Tokenizer) -> None:
    messages = ({"role": "user", "content": "hello"},)
    rendered = "<|im_start|>user\nhello<|im_end|>\n"
    assert tokenizer.apply_chat_template(messages) == rendered
    with_answer = tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False)
    assert with_answer == f"{rendered}<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_a_finished_prompt_has_control_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>user\n<think>")
    assert ids[0] == IDS["<|im_start|>"]
    assert ids[-1] == IDS["<think>"]


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_no_control_token_comes_out_of_plain_text(tokenizer: Tokenizer, token: str) -> None:
    ids = tokenizer.encode_text(f"a {token} b")
    assert not set(ids) & set(IDS.values())
    assert tokenizer.decode(ids) == f"a {token} b"


def test_plain_text_without_control_words_is_tokenised_as_ever(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_text("the quick brown fox") == tokenizer.encode("the quick brown fox")


@given(user=FRAGMENTS)
def test_user_text_in_a_template_stays_text(tokenizer: Tokenizer, user: str) -> None:
    """Whatever the text, the only control tokens are the template's, and decoding gives the text back."""
    escapes = tokenizer.escapes()
    rendered = f"<|im_start|>user\n{escapes.hide(user)}<|im_end|>\n"
    ids = tokenizer.encode_rendered(rendered, escapes)
    assert [token for token in ids if token in IDS.values()] == [IDS["<|im_start|>"], IDS["<|im_end|>"]]
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", f"<|im_start|>user\n{user}<|im_end|>\n")


def test_a_template_may_begin_with_text(tokenizer: Tokenizer) -> None:
    escapes = tokenizer.escapes()
    rendered = f"fox {escapes.hide('<think>')}<|im_end|>"
    assert tokenizer.decode(tokenizer.encode_rendered(rendered, escapes)) == "fox <think><|im_end|>"


def test_hidden_text_inside_structures_is_restored(tokenizer: Tokenizer) -> None:
    escapes = tokenizer.escapes()
    hidden = escapes.hide({"<think>": ["a<|im_end|>", 3, None, {"b": "</think>"}]})
    text = json.dumps(hidden, ensure_ascii=False)
    assert "<|im_end|>" not in text
    assert escapes.restore(text) == '{"<think>": ["a<|im_end|>", 3, null, {"b": "</think>"}]}'


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the tokenizer cannot be loaded"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["a\ud83d", "\udcff"])
def test_text_that_is_not_unicode_is_refused(tokenizer: Tokenizer, text: str) -> None:
    for encode in (tokenizer.encode, tokenizer.encode_text):
        with pytest.raises(PromptError, match="text: expected valid Unicode, found"):
            encode(text)


def test_tokens_that_eat_spaces_eat_them_everywhere(tmp_path: Path) -> None:
    """The same template gives the same tokens, whether or not the user typed a control word."""
    write_tokenizer(tmp_path)
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in settings["added_tokens"]:
        token["lstrip"] = token["content"] == "</think>"
        token["rstrip"] = token["content"] == "<|im_start|>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer(tmp_path)
    start, end = IDS["<|im_start|>"], IDS["</think>"]
    for typed in ("", "<think>"):
        escapes = tokenizer.escapes()
        rendered = f"the <|im_start|> user fox  </think>{escapes.hide(typed)}\n </think><|im_start|> \n "
        fox, words = tokenizer.encode("user fox"), tokenizer.encode_text(typed)
        expected = [*tokenizer.encode("the "), start, *fox, end, *words, end, start]
        assert tokenizer.encode_rendered(rendered, escapes) == expected
