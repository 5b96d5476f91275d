"""Tokenizers that are read without transformers: the same as with it, or not read at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer

from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.prompts.plain_tokenizer import read_plain
from mlx_qwen35.prompts.tokenizer_files import load_tokenizer

TEXTS = [
    "Hello, wörld!  I'll don't WE'RE 12345 a\u0301 e\u0301\u0302",
    "  two\n\n three \r\n\t tabs   ",
    "<|im_start|>user\nhi<|im_end|>\n<think>\n</think><tool_call> <|image_pad|><|endoftext|>",
    "日本語とहिन्दी और العربية 🎉👩\u200d👩\u200d👧 \u00a0\u2028",
    "def f(x):\n    return x**2  # ½ ² Ⅷ",
    "",
]


def reference(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(str(directory), config=AutoConfig.for_model("qwen3_5"))


def assert_same(directory: Path) -> None:
    """Ids of texts, control tokens, names and the template, against transformers' AutoTokenizer."""
    found, expected = load_tokenizer(directory), reference(directory)
    for text in TEXTS:
        ids = expected.encode(text, add_special_tokens=False)
        assert found.backend.encode(text, add_special_tokens=False).ids == ids
        assert found.backend.decode(ids, skip_special_tokens=False) == expected.decode(ids)
    tokens = {number: str(token) for number, token in expected.added_tokens_decoder.items()}
    assert {number: str(token) for number, token in found.backend.get_added_tokens_decoder().items()} == tokens
    assert found.special_tokens == expected.special_tokens_map
    assert found.eos_token_id == expected.eos_token_id
    assert found.chat_template == expected.chat_template


def test_the_model_in_the_package_needs_no_transformers() -> None:
    assert read_plain(BOX) is not None
    assert_same(BOX)


@pytest.fixture(scope="module")
def boxed() -> tuple[Any, Any]:
    """The tokenizer of the model in the package, read here and by transformers."""
    plain = read_plain(BOX)
    assert plain is not None
    return plain.backend, reference(BOX)


@given(text=st.text(max_size=40))
def test_any_text_has_the_ids_that_transformers_gives_it(boxed: tuple[Any, Any], text: str) -> None:
    plain, transformers = boxed
    assert plain.encode(text).ids == transformers.encode(text, add_special_tokens=False)


Change = Callable[[dict[str, Any], dict[str, Any]], Any]


def decoder_of(content: dict[str, Any], **flags: Any) -> dict[str, Any]:
    """The added tokens of a tokenizer.json as tokenizer_config.json lists them."""
    return {
        str(token["id"]): {name: value for name, value in token.items() if name != "id"} | flags
        for token in content["added_tokens"]
    }


# What leaves the tokenizer as it is.
PLAIN: dict[str, Change] = {
    "as it is written": lambda config, content: None,
    "no end": lambda config, content: config.update(eos_token=None),
    "another end": lambda config, content: config.update(eos_token="<|endoftext|>"),
    "a name more": lambda config, content: config.update(image_token="<|image_pad|>"),
    "special ones in the old form": lambda config, content: config.update(additional_special_tokens=["<|im_start|>"]),
    "special ones by name": lambda config, content: config.update(extra_special_tokens={"a_token": "<|im_start|>"}),
    "all added tokens again": lambda config, content: config.update(added_tokens_decoder=decoder_of(content)),
    "a class of old": lambda config, content: config.update(tokenizer_class="Qwen2Tokenizer"),
    "switches": lambda config, content: config.update(add_bos_token=False, add_eos_token=False),
    "texts cut off": lambda config, content: content.update(
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    ),
    "texts filled up": lambda config, content: content.update(
        padding={
            "strategy": {"Fixed": 9},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<|endoftext|>",
        }
    ),
    "merges as texts": lambda config, content: content["model"].update(
        merges=[" ".join(merge) for merge in content["model"]["merges"]]
    ),
}
# What transformers makes something else of.
CHANGED: dict[str, Change] = {
    "another pattern": lambda config, content: content["pre_tokenizer"]["pretokenizers"][0].update(
        pattern={"Regex": r"\s+|\S+"}
    ),
    "one part only": lambda config, content: content["pre_tokenizer"]["pretokenizers"].pop(0),
    "no normalisation": lambda config, content: content.update(normalizer=None),
    "merges left aside": lambda config, content: content["model"].update(ignore_merges=True),
    "an end that is no token yet": lambda config, content: config.update(eos_token="<|new|>"),
    "a special one that is no token yet": lambda config, content: config.update(extra_special_tokens=["<|new|>"]),
    "a name that is no token yet": lambda config, content: config.update(new_token="<|new|>"),
    "fewer added tokens": lambda config, content: config.update(
        added_tokens_decoder=dict(list(decoder_of(content).items())[:3])
    ),
    "added tokens that eat spaces": lambda config, content: config.update(
        added_tokens_decoder=decoder_of(content, lstrip=True)
    ),
    "a space in front": lambda config, content: config.update(add_prefix_space=True),
    "a word as an end": lambda config, content: config.update(eos_token="a"),
    "an end that is not special": lambda config, content: [
        token.update(special=False) for token in content["added_tokens"]
    ],
}


def changed(directory: Path, change: Change) -> Path:
    names = ("tokenizer_config.json", "tokenizer.json")
    contents = [json.loads((directory / name).read_text()) for name in names]
    change(*contents)
    for name, content in zip(names, contents, strict=True):
        (directory / name).write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize("change", PLAIN.values(), ids=PLAIN)
def test_what_transformers_leaves_as_it_is_is_read_without_it(directory: Path, change: Change) -> None:
    assert read_plain(changed(directory, change)) is not None
    assert_same(directory)


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_what_transformers_makes_something_else_of_is_left_to_it(directory: Path, change: Change) -> None:
    assert read_plain(changed(directory, change)) is None
    assert_same(directory)


def model(name: str, value: Any) -> Change:
    return lambda config, content: content["model"].update({name: value})


def part(number: int, name: str, value: Any) -> Change:
    return lambda config, content: content["pre_tokenizer"]["pretokenizers"][number].update({name: value})


# Parts of another tokenizer, each of which transformers' class would replace.
PARTS: dict[str, Change] = {
    "dropout": model("dropout", 0.5),
    "an unknown token": model("unk_token", "a"),
    "ends of words": model("end_of_word_suffix", "</w>"),
    "fused unknown ones": model("fuse_unk", True),
    "bytes where nothing is known": model("byte_fallback", True),
    "no merges": model("ignore_merges", True),
    "spaces removed": part(0, "behavior", "Removed"),
    "the inverse": part(0, "invert", True),
    "a split at spaces": part(0, "pattern", {"String": " "}),
    "a space before all": part(1, "add_prefix_space", True),
    "a split by the bytes": part(1, "use_regex", True),
    "a part more": lambda config, content: content["pre_tokenizer"]["pretokenizers"].append(
        {"type": "Digits", "individual_digits": True}
    ),
    "another normalisation": lambda config, content: content.update(normalizer={"type": "NFKC"}),
    "another decoder": lambda config, content: content.update(decoder={"type": "Fuse"}),
    "no decoder": lambda config, content: content.update(decoder=None),
    "nothing before": lambda config, content: content.update(pre_tokenizer=None),
}
ELSEWHERE = ("auto_map", "fast_tokenizer_files", "fix_mistral_regex", "split_special_tokens", "init_inputs")


@pytest.mark.parametrize("change", PARTS.values(), ids=PARTS)
def test_every_part_of_another_tokenizer_is_seen(directory: Path, change: Change) -> None:
    assert read_plain(changed(directory, change)) is None


@pytest.mark.parametrize("name", ELSEWHERE)
def test_settings_that_name_other_files_or_other_code_are_left_to_transformers(directory: Path, name: str) -> None:
    assert read_plain(changed(directory, lambda config, content: config.update({name: ["x"]}))) is None


def test_files_of_old_say_nothing_beside_added_tokens_in_the_settings(directory: Path) -> None:
    """Which transformers looks at first, and at no template of a processor."""
    changed(directory, lambda config, content: config.update(added_tokens_decoder=decoder_of(content)))
    (directory / "added_tokens.json").write_text("{}")
    (directory / "special_tokens_map.json").write_text('{"eos_token": "<|im_start|>"}')
    (directory / "chat_template.json").write_text('{"chat_template": "another"}')
    assert read_plain(directory) is not None
    assert_same(directory)


def test_a_folder_is_no_file_of_a_tokenizer(directory: Path) -> None:
    for name in ("added_tokens.json", "special_tokens_map.json"):
        (directory / name).mkdir()
    assert read_plain(directory) is not None
    (directory / "chat_template.jinja").unlink()
    (directory / "chat_template.jinja").mkdir()
    assert read_plain(directory) is None


def test_names_that_are_no_texts_are_left_to_transformers(directory: Path) -> None:
    """As older files have them, with what a token does to the spaces around it."""
    token = {"__type": "AddedToken", "content": "<|im_end|>", "lstrip": False, "normalized": False, "special": True}
    assert read_plain(changed(directory, lambda config, content: config.update(eos_token=token))) is None


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json"])
def test_without_either_file_it_is_left_to_transformers(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    assert read_plain(directory) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chat_template_short.jinja", "{{ messages }}"),
        ("special_tokens_map.json", '{"eos_token": "<|im_start|>"}'),
        ("added_tokens.json", "{}"),
    ],
)
def test_files_that_say_more_are_left_to_transformers(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(text)
    assert read_plain(directory) is None
    assert_same(directory)


def test_a_template_may_stand_in_the_settings(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()
    changed(directory, lambda config, content: config.update(chat_template="{{ messages }}"))
    assert read_plain(directory) is not None
    assert_same(directory)


@pytest.mark.parametrize("text", ["{", '{"model": {}}', ""])
def test_what_cannot_be_read_is_left_to_transformers(directory: Path, text: str) -> None:
    (directory / "tokenizer.json").write_text(text)
    assert read_plain(directory) is None
