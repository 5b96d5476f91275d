"""generation_config.json: what can be used of it."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen35.checkpoints.generation import read_generation_config, usable
from mlx_qwen35.errors import CheckpointWarning

# What is found, and what it means.
MEANINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0.7, "top_p": 0.8, "top_k": 20}, {"temperature": 0.7, "top_p": 0.8, "top_k": 20}),
    ({"top_k": 20.0}, {"top_k": 20}),
    ({"top_k": 0}, {"top_k": 0}),
    ({"top_k": -1}, {"top_k": -1}),
    ({"top_p": 0.0, "top_k": 20}, {"top_p": 0.0, "top_k": 20}),
    ({"top_p": 1, "min_p": 0, "temperature": 0}, {"top_p": 1, "min_p": 0, "temperature": 0}),
    ({"max_new_tokens": 7.0}, {"max_new_tokens": 7}),
    ({"stop_strings": "###"}, {"stop_strings": ["###"]}),
    ({"stop_strings": ["a", "b"]}, {"stop_strings": ["a", "b"]}),
    ({"eos_token_id": 3}, {"eos_token_id": [3]}),
    ({"eos_token_id": [3, 4.0]}, {"eos_token_id": [3, 4]}),
    ({"top_p": None, "unknown": {"a": 1}, "use_cache": True}, {"unknown": {"a": 1}, "use_cache": True}),
]  # fmt: skip
# What is found, what is left of it, and the warning.
LEFT_OUT: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"max_new_tokens": 0}, {}, "max_new_tokens: expected a whole number of at least 1, found 0"),
    ({"max_new_tokens": "7"}, {}, "max_new_tokens: expected a whole number of at least 1, found '7'"),
    ({"top_k": 2.5}, {}, "top_k: expected a whole number of at least -1, found 2.5"),
    ({"top_k": -5, "top_p": 0.5}, {"top_p": 0.5}, "top_k: expected a whole number of at least -1, found -5"),
    ({"top_k": True}, {}, "top_k: expected a whole number"),
    ({"top_k": float("inf")}, {}, "top_k: expected a whole number"),
    ({"temperature": "0.7"}, {}, "temperature: expected a number of at least 0, found '0.7'"),
    ({"temperature": float("nan")}, {}, "temperature: expected a number of at least 0, found nan"),
    ({"temperature": float("inf")}, {}, "temperature: expected a number of at least 0, found inf"),
    ({"top_p": 1.5}, {}, "top_p: expected a number of at least 0 and at most 1, found 1.5"),
    ({"min_p": -0.1}, {}, "min_p: expected a number of at least 0 and at most 1, found -0.1"),
    ({"repetition_penalty": 0}, {}, "repetition_penalty: expected a number above 0, found 0"),
    ({"do_sample": "yes"}, {}, "do_sample: expected true or false, found 'yes'"),
    ({"stop_strings": ["a", ""]}, {}, r"stop_strings: expected strings of at least one character, found \['a', ''\]"),
    ({"stop_strings": 5}, {}, "stop_strings: expected strings of at least one character, found 5"),
    ({"eos_token_id": [3, "x"]}, {"eos_token_id": [3]}, r"eos_token_id: expected token ids, found \[3, 'x'\]"),
    ({"eos_token_id": True}, {"eos_token_id": []}, "eos_token_id: expected token ids, found True"),
]


@pytest.mark.parametrize(("found", "meaning"), MEANINGS, ids=str)
def test_values_have_the_meaning_that_transformers_gives_them(found: dict[str, Any], meaning: dict[str, Any]) -> None:
    assert usable(found, "file") == meaning


@pytest.mark.parametrize(("found", "left", "message"), LEFT_OUT, ids=lambda value: str(value)[:30])
def test_other_values_are_left_out_with_a_warning(found: dict[str, Any], left: dict[str, Any], message: str) -> None:
    given = dict(found)
    with pytest.warns(CheckpointWarning, match=f"^file: {message}.*; it is left out$") as caught:
        assert usable(found, "file") == left
    assert len(caught) == 1
    assert str(found) == str(given)


@pytest.mark.parity
@pytest.mark.parametrize("found", [found for found, _ in MEANINGS] + [found for found, _, _ in LEFT_OUT], ids=str)
def test_what_transformers_would_sample_with_is_not_left_out(found: dict[str, Any]) -> None:
    """Its own processors judge: whatever they take without an error keeps a meaning here."""
    pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    processors: dict[str, Any] = {
        "temperature": TemperatureLogitsWarper, "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper, "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    }  # fmt: skip
    taken = []
    for name in found.keys() & processors.keys():
        try:
            processors[name](found[name])
        except (ValueError, TypeError):
            continue
        # transformers lets pass what is no number that a logit could be divided by.
        if found[name] not in (True, float("inf")):
            taken.append(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        left = usable(found, "file")
    assert all(name in left for name in taken)


@pytest.mark.parity
def test_top_p_of_0_is_the_most_likely_token_in_transformers() -> None:
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    from transformers.generation.logits_process import TopPLogitsWarper

    scores = torch.tensor([[0.1, 0.5, 0.4, -3.0]])
    assert torch.isfinite(TopPLogitsWarper(0)(torch.zeros(1, 1), scores)).tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xff", b""], ids=str)
def test_a_file_that_is_no_json_is_left_out_with_a_warning(tmp_path: Path, content: bytes) -> None:
    """As in transformers, which goes on without one too."""
    path = tmp_path / "generation_config.json"
    path.write_bytes(content)
    with pytest.warns(CheckpointWarning, match=r"generation_config\.json: expected .*; it is left out"):
        assert read_generation_config(path) == {}


def test_a_missing_file_says_nothing_and_a_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    assert read_generation_config(path) == {}
    path.mkdir()
    assert read_generation_config(path) == {}
    path.rmdir()
    path.write_text(json.dumps({"top_k": 5}), encoding="utf-8-sig")
    assert read_generation_config(path) == {"top_k": 5}
