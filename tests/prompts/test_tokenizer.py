"""Control tokens are what a template wrote; everything a user typed is text."""

import json
import unicodedata
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import CheckpointError, OptionError, PromptError
from mlx_qwen35.prompts.tokenizer import CLOSE, OPEN, Tokenizer
from mlx_qwen35.prompts.tokenizer_files import read_chat_template
from tests.tiny import CONTROL_TOKENS, IDS, VOCAB_SIZE, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return Tokenizer(directory, eos_token_ids=[7])


@pytest.fixture(scope="module")
def box_tokenizer() -> Tokenizer:
    return Tokenizer(BOX)


FRAGMENTS = st.lists(
    st.one_of(st.sampled_from([*CONTROL_TOKENS, "<|im", "_start|>", OPEN, f"{OPEN}0{CLOSE}"]), st.text()),
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
    reference_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def load(directory: Any, **options: Any) -> Any:
        asked.append((directory, options))
        return reference_tokenizer

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
    hidden = escapes.hide({"<think>": ["a<|im_end|>", 3, None, {"b": ("</think>", 1.5)}]})
    text = json.dumps(hidden, ensure_ascii=False)
    assert not any(token in text for token in CONTROL_TOKENS)
    assert escapes.restore(text) == '{"<think>": ["a<|im_end|>", 3, null, {"b": ["</think>", 1.5]}]}'


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the tokenizer cannot be loaded"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["a\ud83d", "\udcff", "<think>\ud83d"])
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
    rendered = "<|im_start|> user fox  </think>\n<|im_start|>{} "
    plain = tokenizer.encode_rendered(rendered.format("fox"), tokenizer.escapes())
    escapes = tokenizer.escapes()
    typed = tokenizer.encode_rendered(rendered.format(escapes.hide("<think>")), escapes)
    start = plain.index(IDS["<|im_start|>"], 1) + 1
    assert tokenizer.decode(plain[:start]) == "<|im_start|>user fox</think>\n<|im_start|>"
    assert typed[:start] == plain[:start]
    start, end = IDS["<|im_start|>"], IDS["</think>"]
    for typed in ("", "<think>"):
        escapes = tokenizer.escapes()
        rendered = f"the <|im_start|> user fox  </think>{escapes.hide(typed)}\n </think><|im_start|> \n "
        fox, words = tokenizer.encode("user fox"), tokenizer.encode_text(typed)
        expected = [*tokenizer.encode("the "), start, *fox, end, *words, end, start]
        assert tokenizer.encode_rendered(rendered, escapes) == expected


def test_of_two_control_tokens_the_longer_one_is_read(tmp_path: Path) -> None:
    """Where one begins as the other; whether or not the user typed a control word."""
    write_tokenizer(tmp_path)
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    settings["added_tokens"].append(
        {**settings["added_tokens"][0], "id": VOCAB_SIZE, "content": "<think>deep", "special": False}
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer(tmp_path)
    deep = tokenizer.control_id("<think>deep")
    assert tokenizer.encode("<think>deep<think>") == [deep, IDS["<think>"]]
    escapes = tokenizer.escapes()
    rendered = f"<think>deep<think>{escapes.hide('<think>deep')}"
    ids = tokenizer.encode_rendered(rendered, escapes)
    assert [token for token in ids if token in (deep, *IDS.values())] == [deep, IDS["<think>"]]
    assert tokenizer.decode(ids) == "<think>deep<think><think>deep"


def test_the_tokenizer_s_own_end_token_ends_an_answer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<|fim_pad|>"}))
    assert IDS["<|fim_pad|>"] in Tokenizer(tmp_path).eos_token_ids


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The pieces that a stream of ids gives, the last one at its end."""
    detokenizer = tokenizer.detokenizer()
    return [*map(detokenizer.add, ids), detokenizer.flush()]


@cache
def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Any ids: broken bytes above all, whole words, control tokens, and ids beyond the tokenizer."""
    size = tokenizer._backend.get_vocab_size()
    broken = [token for token in range(size) if "\ufffd" in tokenizer.decode([token])]
    texts = st.sampled_from(["\ufffd", "\ufffd\ufffd 🎉", "漢字", " 🦊", "é", "<think>"]).map(tokenizer.encode)
    one = st.one_of(st.sampled_from(broken), st.integers(0, size + 100)).map(lambda token: [token])
    return st.lists(st.one_of(one, texts), max_size=15).map(
        lambda pieces: [token for piece in pieces for token in piece]
    )


@settings(max_examples=150)
@given(data=st.data())
def test_a_stream_gives_what_all_ids_together_give(
    tokenizer: Tokenizer, box_tokenizer: Tokenizer, data: st.DataObject
) -> None:
    for each in (tokenizer, box_tokenizer):
        ids = data.draw(ids_of(each))
        assert "".join(streamed(each, ids)) == each.decode(ids)


def test_a_character_after_broken_bytes_stays_whole(tokenizer: Tokenizer) -> None:
    """A run of bytes that make no character ends where one begins, however long it was."""
    first = tokenizer.encode("漢")[0]
    fox = tokenizer.encode("🦊")
    assert len(fox) > 1
    for count in range(12):
        pieces = streamed(tokenizer, [first] * count + fox)
        assert pieces[count:] == ["\ufffd" if count else "", *[""] * (len(fox) - 2), "🦊", ""]
        assert "".join(pieces) == "\ufffd" * count + "🦊"


def test_a_replacement_character_that_was_written_is_one(box_tokenizer: Tokenizer) -> None:
    text = "\ufffd\ufffd 🎉"
    pieces = streamed(box_tokenizer, box_tokenizer.encode(text))
    assert [piece for piece in pieces if piece] == ["\ufffd", "\ufffd", " ", "🎉"]


def test_a_control_token_between_the_bytes_of_a_character_divides_it(tokenizer: Tokenizer) -> None:
    first, *rest = tokenizer.encode("漢")
    ids = [first, IDS["<|im_end|>"], *rest]
    pieces = streamed(tokenizer, ids)
    assert pieces[1] == "\ufffd<|im_end|>"
    assert "".join(pieces) == tokenizer.decode(ids)


def test_ids_beyond_the_tokenizer_do_not_divide_a_character(tokenizer: Tokenizer) -> None:
    first, *rest = tokenizer.encode("漢")
    assert streamed(tokenizer, [first, VOCAB_SIZE - 1, *rest]) == [*[""] * (len(rest) + 1), "漢", ""]


def test_a_flushed_stream_begins_anew(tokenizer: Tokenizer) -> None:
    detokenizer = tokenizer.detokenizer()
    first, *rest = tokenizer.encode("漢")
    assert (detokenizer.add(first), detokenizer.pending, detokenizer.flush()) == ("", True, "\ufffd")
    assert not detokenizer.pending
    assert "".join(map(detokenizer.add, [first, *rest])) == "漢"


def test_a_control_token_is_the_text_that_it_is(tmp_path: Path) -> None:
    """Also one with characters that stand for no byte, or for another."""
    write_tokenizer(tmp_path)
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    names = ["<a b>", "漢", "<é 漢>"]
    for number, name in enumerate(names):
        settings["added_tokens"].append({**settings["added_tokens"][0], "id": VOCAB_SIZE + number, "content": name})
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer(tmp_path)
    for name in names:
        token = tokenizer.control_id(name)
        assert token is not None
        assert tokenizer.token_bytes(token) == name.encode()
        assert streamed(tokenizer, [token]) == [tokenizer.decode([token]), ""] == [name, ""]


def test_a_tokenizer_whose_tokens_are_no_bytes_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert Tokenizer(tmp_path).encode("fox")
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    settings["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="expected a byte-level tokenizer as Qwen's, found a decoder Metaspace"):
        Tokenizer(tmp_path)


TEMPLATE = "{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("given.jinja", TEMPLATE),
        ("given", f"\ufeff{TEMPLATE}"),
        ("tokenizer_config.json", json.dumps({"chat_template": TEMPLATE})),
    ],
)
def test_a_chat_template_may_lie_in_a_file_of_its_own(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert [read_chat_template(given) for given in (path, str(path), TEMPLATE)] == [TEMPLATE] * 3


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("empty.jinja", b" \n", "expected a Jinja template, found none"),
        ("other.json", b"{}", "expected a Jinja template, found none"),
        ("picture.png", b"\x89PNG\xff", "expected a file of text, found"),
        ("missing.jinja", None, "expected a file of text, found"),
    ],
)
def test_what_is_no_chat_template_is_refused(tmp_path: Path, name: str, data: bytes | None, found: str) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(OptionError, match=f"chat_template .*{name}.*: {found}"):
        read_chat_template(path)


def test_of_several_chat_templates_the_default_one_is_used(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    template = (tmp_path / "chat_template.jinja").read_text()
    assert Tokenizer(tmp_path).chat_template == template
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "other.jinja").write_text("other")
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.chat_template == template
    user = [{"role": "user", "content": "fox"}]
    assert tokenizer.apply_chat_template(user) == "<|im_start|>user\nfox<|im_end|>\n"
    (tmp_path / "chat_template.jinja").unlink()
    assert Tokenizer(tmp_path).chat_template is None


def test_nothing_is_added_to_a_prompt(tmp_path: Path) -> None:
    """Where a tokenizer would begin every text with a token of its own."""
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    expected = [Tokenizer(tmp_path).encode("fox"), Tokenizer(tmp_path).encode_text("<think>")]
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    begin = {"id": "<|endoftext|>", "ids": [IDS["<|endoftext|>"]], "tokens": ["<|endoftext|>"]}
    settings["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": begin},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer._backend.encode("fox").ids == [IDS["<|endoftext|>"], *expected[0]]
    assert [tokenizer.encode("fox"), tokenizer.encode_text("<think>")] == expected
