"""Prompts: ids that the model knows, where later prompts part from this one, and where reasoning is open."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen35.errors import PromptError
from mlx_qwen35.prompts.positions import lay_out
from mlx_qwen35.prompts.prompt import check_ids, find_branch_points
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tests.tiny import IDS, VOCAB_SIZE, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return Tokenizer(directory)


def points_of(tokenizer: Tokenizer, text: str, *grids: tuple[int, int, int]) -> tuple[list[str], str]:
    """The beginnings of a prompt at its branch points, and what stands before its turn."""
    ids = tokenizer.encode(text)
    points, turn = find_branch_points(ids, lay_out(ids, grids, image_token_id=IDS["<|image_pad|>"]), tokenizer)
    return [tokenizer.decode(ids[:point]) for point in points], tokenizer.decode(ids[:turn])


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


USER, ASSISTANT, PAD = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|image_pad|>"


def test_reasoning_of_earlier_turns_is_no_branch_point(tokenizer: Tokenizer) -> None:
    """Nobody drops it any more; a later prompt parts from this one in the turn that is being answered."""
    first = f"{USER}fox<|im_end|>\n{ASSISTANT}<think>\na\n</think>\n\nb<|im_end|>\n"
    second = f"{USER}dog<|im_end|>\n{ASSISTANT}"
    points, before = points_of(tokenizer, f"{first}{second}<think>\n")
    assert points == [f"{USER}fox<|im_end|>\n", first, first + second, f"{first}{second}<think>"]
    assert before == first + second


def test_without_reasoning_the_last_message_is_written_anew(tokenizer: Tokenizer) -> None:
    question = f"{USER}fox<|im_end|>\n"
    points, before = points_of(tokenizer, f"{question}{ASSISTANT}a")
    assert points == [question, question + ASSISTANT]
    assert before == question


def test_a_prompt_without_messages_parts_at_its_last_token_only(tokenizer: Tokenizer) -> None:
    assert points_of(tokenizer, f"a{PAD * 2}b", (1, 1, 2)) == ([f"a{PAD * 2}"], f"a{PAD * 2}b")
    assert points_of(tokenizer, "<|im_start|>") == ([], "")


def test_no_branch_point_lies_inside_an_image(tokenizer: Tokenizer) -> None:
    """The last token of a prompt that ends in an image; between two images there is one."""
    assert points_of(tokenizer, f"a{PAD * 4}", (1, 2, 2)) == ([], f"a{PAD * 4}")
    assert points_of(tokenizer, f"a{PAD * 3}", (1, 1, 2), (1, 1, 1))[0] == [f"a{PAD * 2}"]
    assert points_of(tokenizer, f"a{PAD * 6}", (1, 1, 2), (1, 2, 2))[0] == [f"a{PAD * 2}"]
