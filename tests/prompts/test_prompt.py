"""Prompts: ids that the model knows, where later prompts part from this one, and where reasoning is open."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen35.errors import PromptError
from mlx_qwen35.prompts.prompt import check_ids
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tests.tiny import VOCAB_SIZE, write_tokenizer


def test_ids_become_plain_numbers() -> None:
    ids = check_ids([0, np.int64(7), np.uint8(3), VOCAB_SIZE - 1], VOCAB_SIZE)
    assert ids == [0, 7, 3, VOCAB_SIZE - 1]
    assert {type(token) for token in ids} == {int}
    assert check_ids([], VOCAB_SIZE) == []


@pytest.mark.parametrize(
    ("token", "found"),
    [(352, "352"), (-1, "-1"), (2**70, str(2**70)), (True, "True"), (1.0, "1.0"), ("5", "'5'"), (None, "None")],
)
def test_ids_that_the_model_has_no_row_for_are_refused(token: Any, found: str) -> None:
    with pytest.raises(PromptError, match=rf"^prompt\[1\]: expected a token id below 352, found {found}$"):
        check_ids([5, token, 400], VOCAB_SIZE)


def test_a_tokenizer_may_know_more_tokens_than_the_model(tmp_path: Path) -> None:
    """A token that somebody added to the tokenizer alone is refused by its id."""
    write_tokenizer(tmp_path)
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    settings["added_tokens"].append({**settings["added_tokens"][0], "id": VOCAB_SIZE, "content": "<|extra|>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer(tmp_path)
    ids, extra = tokenizer.encode("fox<|extra|>"), tokenizer.control_id("<|extra|>")
    assert extra == ids[-1]
    assert check_ids(ids, extra + 1) == ids
    with pytest.raises(
        PromptError, match=rf"prompt\[{len(ids) - 1}\]: expected a token id below {extra}, found {extra}"
    ):
        check_ids(ids, extra)
