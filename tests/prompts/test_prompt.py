"""Prompts: where later prompts part from this one, and whether reasoning is open."""

import numpy as np
import pytest

from mlx_qwen35.prompts.positions import lay_out
from mlx_qwen35.prompts.prompt import Prompt, begins_in_reasoning, find_branch_points
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tests.tiny import IDS, write_tokenizer

SYSTEM = "<|im_start|>system\nbe brief<|im_end|>\n"
ASKED = "<|im_start|>user\nhello there<|im_end|>\n"
ANSWERED = "<|im_start|>assistant\nhello<|im_end|>\n"
CALLED = "<think>\nwhat is there?\n</think>\n\n<tool_call>the function</tool_call><|im_end|>\n"
RESULT = "<|im_start|>user\n<tool_response>\nfox\n</tool_response><|im_end|>\n"
ANSWER = "<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return Tokenizer(directory)


def ids_and_bars(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Token ids, and the number of them before each bar in the text."""
    ids: list[int] = []
    bars = []
    for piece in text.split("|||"):
        ids += tokenizer.encode(piece)
        bars.append(len(ids))
    return ids, bars[:-1]


@pytest.mark.parametrize(
    ("text", "turn"),
    [
        (f"{SYSTEM}|||{ASKED}{ANSWERED}|||{ASKED}{ANSWERED}|||{ASKED}{ANSWER}|||<think>\n", 3),
        # The first message is no branch point: nothing is shared before it.
        (f"{ASKED}|||{ANSWERED}|||{ASKED}{ANSWER}|||<think>\n", 2),
        (f"{ASKED}|||{ANSWER}|||<think>\n", 1),
        # Reasoning of earlier turns is dropped by now. What a tool gave, and reasoning about it, belong to the turn.
        (f"{SYSTEM}|||{ASKED}{ANSWER}{CALLED}|||{ASKED}{ANSWER}|||{CALLED}{RESULT}{ANSWER}|||<think>\n", 2),
    ],
    ids=["three questions", "two questions", "one question", "a tool"],
)
def test_prompts_part_where_a_later_one_may_differ(tokenizer: Tokenizer, text: str, turn: int) -> None:
    """After the first message, at the last two questions, before the reasoning of this turn, at the last token."""
    ids, bars = ids_and_bars(tokenizer, text)
    assert find_branch_points(ids, None, tokenizer) == ((*bars, len(ids) - 1), bars[turn])


def test_without_reasoning_the_turn_begins_with_the_last_message(tokenizer: Tokenizer) -> None:
    ids, (first, last) = ids_and_bars(tokenizer, f"{SYSTEM}|||{ASKED}|||{ANSWER}fox")
    assert find_branch_points(ids, None, tokenizer) == ((first, len(ids) - 1), last)


def test_a_prompt_without_messages_parts_at_its_last_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the quick brown fox")
    assert find_branch_points(ids, None, tokenizer) == ((len(ids) - 1,), len(ids))
    assert find_branch_points(ids[:2], None, tokenizer) == ((1,), 2)
    assert find_branch_points(ids[:1], None, tokenizer) == ((), 1)


def test_a_prompt_that_ends_within_a_question_parts_there(tokenizer: Tokenizer) -> None:
    ids, (first,) = ids_and_bars(tokenizer, f"{SYSTEM}|||<|im_start|>user\n")
    assert find_branch_points(ids, None, tokenizer) == ((first, len(ids) - 1), first)


def test_prompts_part_behind_images_and_never_inside(tokenizer: Tokenizer) -> None:
    pad = IDS["<|image_pad|>"]
    ids = [5, *[pad] * 6, 6, *[pad] * 4]
    layout = lay_out(ids, [(1, 2, 3), (1, 2, 2)], image_token_id=pad)
    assert find_branch_points(ids, layout, tokenizer) == ((7,), len(ids))
    ids = [*ids, 7, 8]
    layout = lay_out(ids, [(1, 2, 3), (1, 2, 2)], image_token_id=pad)
    assert find_branch_points(ids, layout, tokenizer) == ((7, 12, 13), len(ids))


@pytest.mark.parametrize(
    ("text", "open_"),
    [
        (f"{ASKED}{ANSWER}<think>\n", True),
        (f"{ASKED}{ANSWER}<think>\nthe fox", True),
        (f"{ASKED}{ANSWER}<think>\n\n</think>\n\n", False),
        (f"{ASKED}{ANSWER}<think>\nthe fox<|im_end|>\n{ASKED}{ANSWER}", False),
        (f"{ASKED}{ANSWER}", False),
        ("the fox", False),
        ("<think>", True),
        ("", False),
    ],
)
def test_reasoning_is_open_where_its_block_is(tokenizer: Tokenizer, text: str, open_: bool) -> None:
    assert begins_in_reasoning(tokenizer.encode(text), tokenizer) is open_


def test_a_text_prompt_has_no_positions_of_its_own() -> None:
    prompt = Prompt(np.array([5, 6], dtype=np.int32))
    assert (prompt.position_ids, prompt.rope_delta, prompt.image_tokens) == (None, 0, 0)


def test_a_prompt_with_an_image_goes_on_behind_its_largest_side() -> None:
    ids = [5, *[7] * 6, 6]
    prompt = Prompt(np.array(ids, dtype=np.int32), lay_out(ids, [(1, 2, 3)], image_token_id=7))
    assert prompt.position_ids is not None
    assert prompt.position_ids.tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 4],
        [0, 1, 1, 1, 2, 2, 2, 4],
        [0, 1, 2, 3, 1, 2, 3, 4],
    ]
    assert prompt.rope_delta == 5 - 8
