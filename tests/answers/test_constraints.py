"""What is known of an answer behind drafts, and taken back where they were wrong."""

from contextlib import suppress
from itertools import pairwise
from random import Random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from llguidance import LLParserLimits

from mlx_qwen35.answers.constraints import Constraint, MinTokens, ThinkingBudget
from mlx_qwen35.answers.grammars import Grammars
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.tokenizer import Tokenizer

WIDTH = 1300
PROMPT = [7, 8, 9]
LOGITS = mx.zeros((1, WIDTH))
WEATHER: dict[str, Any] = {
    "name": "weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}},
}  # fmt: skip
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 3}, "tags": {"type": "array", "items": {"enum": [1, 22]}}},
    "required": ["name", "tags"],
    "additionalProperties": False,
}
Mask = list[int]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(BOX)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer, WIDTH)


def make(grammars: Grammars, kind: str, *, in_reasoning: bool) -> Constraint:
    if kind == "json":
        return grammars.json_schema(PERSON, in_reasoning=in_reasoning)
    if kind == "strict":
        return grammars.calls_in_text([WEATHER], strict={"weather"}, in_reasoning=in_reasoning)
    return grammars.tool_calls([WEATHER], in_reasoning=in_reasoning)


def allowed(logits: mx.array) -> Mask:
    return np.flatnonzero(np.isfinite(np.array(logits[0]))).tolist()


def written(constraint: Constraint, tokenizer: Tokenizer, rng: Random, begins: list[str]) -> list[tuple[int, Mask]]:
    """A random answer, one token after the other, with what was allowed at each place; an end token is its last but
    one.

    Args:
        begins: Control tokens that it has after every fourth of its first ones.
    """
    found: list[tuple[int, Mask]] = []
    ends = tokenizer.eos_token_ids
    control = {4 + 5 * number: tokenizer.control_id(token) for number, token in enumerate(begins)}
    while len(found) < 2 or found[-2][0] not in ends:
        mask = allowed(constraint(mx.array(PROMPT + [token for token, _ in found]), LOGITS))
        ending = [token for token in mask if token in ends]
        others = [token for token in mask if token not in ends]
        may_end = ending and len(found) > max(control, default=-1)
        token = rng.choice(ending if may_end and (rng.random() < 0.3 or len(found) > 40) else others or ending)
        found.append((control.get(len(found)) or token, mask))
    return found


@pytest.mark.some(2)
@pytest.mark.parametrize("in_reasoning", [False, True])
@pytest.mark.parametrize("kind", ["json", "tools", "strict"])
def test_behind_right_drafts_the_same_is_allowed_and_wrong_ones_leave_nothing(
    tokenizer: Tokenizer, grammars: Grammars, kind: str, in_reasoning: bool
) -> None:
    """Steps of random lengths, with wrong drafts at their ends: such as are allowed there, and any others."""
    rng = Random(1)
    begins = ["</think>"] * in_reasoning + ["<tool_call>"] * (kind == "strict")
    for _ in range(12):
        answer = written(make(grammars, kind, in_reasoning=in_reasoning), tokenizer, rng, begins)
        tokens = [token for token, _ in answer]
        constraint, place = make(grammars, kind, in_reasoning=in_reasoning), 0
        while place < len(answer):
            assert allowed(constraint(mx.array(PROMPT + tokens[:place]), LOGITS)) == answer[place][1]
            right = min(rng.randrange(5), len(answer) - 1 - place)
            for at in range(place, place + right):
                assert allowed(constraint.foresee(tokens[at], LOGITS)) == answer[at + 1][1]
            place += right
            wrong = rng.randrange(4)
            for number in range(wrong):
                with suppress(OptionError):
                    likely = rng.random() < 0.5 and number == 0
                    constraint.foresee(rng.choice(answer[place][1]) if likely else rng.randrange(1254),
                                       LOGITS)  # fmt: skip
            if wrong:
                constraint.rewind(wrong)
            place += 1


NOTE: dict[str, Any] = {
    "name": "note",
    "parameters": {"properties": {"text": {"type": "string"}, "days": {"type": "integer"}}, "required": ["days"]},
}  # fmt: skip
VALUES = [
    "milk", "", "milk and\neggs", "\n\n", "</parameter>", "milk </parameter>\n", "a\n</param", "a\n </parameter>\nb",
    "\n</param\n</parame\n</", "\u6f22\u5b57 \U0001f642\n\u6f22", "</tool_call>\n<parameter=days>\n5", "a\r\nb\t\u00e9",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_text_is_as_free_as_the_grammar_says(
    tokenizer: Tokenizer, grammars: Grammars, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """However it is cut into tokens, with drafts and without; what stands inside of a character is free there."""
    rng = Random(value)
    call = tokenizer.control_id("<tool_call>")
    for _ in range(6):
        cuts = sorted(rng.choices(range(len(value) + 1), k=3))
        pieces = [value[at:end] for at, end in pairwise([0, *cuts, len(value)])]
        parts = ["\n<function=note>\n<parameter=text>\n", *pieces, "\n</parameter>\n<parameter=days>\n", "12"]
        answer = [call, *(token for part in parts for token in tokenizer.encode_text(part))]
        found, exact = (grammars.calls_in_text([NOTE], in_reasoning=False) for _ in range(2))
        monkeypatch.setattr(exact, "_text", None)
        place = 0
        while place < len(answer):
            history = mx.array(PROMPT + answer[:place])
            drafts = answer[place : place + rng.randrange(6)]
            unseen: list[int | None] = [None] * len(drafts) if found.is_free else [*drafts]
            masks = [
                [one(history, LOGITS), *(one.foresee(draft, LOGITS) for draft in given)]
                for one, given in ((found, unseen), (exact, drafts))
            ]
            count = found.counted([*(PROMPT + answer[:place])[-1:], *drafts], 1 + len(drafts))
            for number, (free, right) in enumerate(zip(*masks, strict=True)):
                whole = "\ufffd" not in tokenizer.decode(answer[1 : place + number])
                more = set(allowed(free)) - set(allowed(right))
                assert set(allowed(right)) <= set(allowed(free)) or number >= count
                assert not whole or number >= count or not any(tokenizer.token_bytes(token)[0] < 128 for token in more)
            # Of what counts, some may be taken back.
            count = rng.randint(1, count) if rng.random() < 0.3 else count
            for one in (found, exact):
                if 1 + len(drafts) > count:
                    one.rewind(1 + len(drafts) - count)
            place += count


def test_long_text_is_not_followed_token_by_token(
    tokenizer: Tokenizer, grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would take a mask of the whole vocabulary each, and a wait for the token."""
    asked: list[Constraint] = []
    mask = Constraint._mask
    monkeypatch.setattr(Constraint, "_mask", lambda self: (asked.append(self), mask(self))[1])
    line = "the quick brown fox jumps over the lazy dog"
    text = "\n<function=note>\n<parameter=text>\n" + f"{line}\n" * 20
    answer = [tokenizer.control_id("<tool_call>"), *tokenizer.encode(text)]
    constraint = grammars.calls_in_text([NOTE], in_reasoning=False)
    for place in range(len(answer)):
        constraint(mx.array(PROMPT + answer[:place]), LOGITS)
    assert len(asked) < 80 < len(answer) / 4


def test_a_control_token_in_text_is_forbidden(tokenizer: Tokenizer, grammars: Grammars) -> None:
    answer = [tokenizer.control_id("<tool_call>"), *tokenizer.encode("\n<function=note>\n<parameter=text>\nmilk")]
    constraint = grammars.calls_in_text([NOTE], strict={"note"}, in_reasoning=False)
    for place in range(len(answer) + 1):
        logits = constraint(mx.array(PROMPT + answer[:place]), LOGITS)
    end = min(tokenizer.eos_token_ids)
    assert end not in allowed(logits)
    with pytest.raises(OptionError, match="tools"):
        constraint.foresee(end, logits)


def follow(constraint: Constraint, answer: list[int]) -> None:
    for place in range(len(answer)):
        constraint(mx.array(PROMPT + answer[:place]), LOGITS)


MANY = {"name": "many", "parameters": {"properties": {f"a{number}": {"type": "integer"} for number in range(30)}}}


@pytest.mark.parametrize("drafted", [False, True])
def test_a_call_that_becomes_too_complex_is_free_where_it_need_not_be_followed(
    tokenizer: Tokenizer, grammars: Grammars, monkeypatch: pytest.MonkeyPatch, drafted: bool
) -> None:
    """llguidance counts only while it follows, as with 1000 parameters: the answer must not fail in its middle."""
    monkeypatch.setattr(grammars, "_limits", LLParserLimits(verbose_errors=False, max_items_in_row=20))
    call = tokenizer.control_id("<tool_call>")
    answer = [call, *tokenizer.encode("\n<function=many>\n<parameter=none>\n</tool_call>"), *tokenizer.eos_token_ids]
    constraint = grammars.calls_in_text([MANY], in_reasoning=False)
    logits = constraint(mx.array(PROMPT), LOGITS)
    for place, token in enumerate(answer):
        assert token in allowed(logits)
        history = mx.array(PROMPT + answer[: place + 1])
        logits = constraint.foresee(token, LOGITS) if drafted else constraint(history, LOGITS)
    strict = grammars.calls_in_text([MANY], strict={"many"}, in_reasoning=False)
    with pytest.raises(OptionError, match="tools: Parser Error"):
        follow(strict, answer)


def test_a_draft_that_is_forbidden_says_so(grammars: Grammars) -> None:
    constraint = make(grammars, "json", in_reasoning=False)
    constraint(mx.array(PROMPT), LOGITS)
    with pytest.raises(OptionError, match="response_format"):
        constraint.foresee(5, LOGITS)


@pytest.mark.parametrize("early", [False, True])
def test_a_budget_that_is_asked_again_behind_wrong_drafts(tokenizer: Tokenizer, early: bool) -> None:
    """Whether the reasoning has ended is what the history says, not what a draft said."""
    end_think = tokenizer.control_id("</think>")
    assert end_think is not None
    closing = tokenizer.encode("\n</think>\n\n")
    budget = ThinkingBudget(tokenizer, 3, in_reasoning=True)

    def forced(history: list[int]) -> Mask | None:
        logits = LOGITS
        found = budget(mx.array(PROMPT + history), logits)
        return None if found is logits else allowed(found)

    assert forced([]) is None
    # A draft ends the reasoning at its last place, or does not although the answer does.
    right, wrong = ([2, 2, end_think], [2, 2, 2]) if early else ([2, 2, 2], [2, 2, end_think])
    drafts = [*wrong, *closing, 4, 4]
    found = [forced(drafts[:count]) for count in range(1, len(drafts) + 1)]
    budget.rewind(len(drafts))
    answer = [*right, *closing, 4, 4]
    again = [forced(answer[:count]) for count in range(1, len(answer) + 1)]
    nothing: list[Mask | None] = [None] * len(drafts)
    closed = [None, None, *([token] for token in closing), None, None, None]
    assert (found, again) == ((closed, nothing) if early else (nothing, closed))


def test_an_answer_that_has_too_few_tokens_may_not_end() -> None:
    longer = MinTokens(2, {3, 5})
    logits = mx.array([[0.5, -1.0, 2.0, 9.0, 0.0, 8.0]])
    for answer in ([], [1], [5]):
        found = longer(mx.array([7, *answer]), logits)
        assert found.tolist() == [[0.5, -1.0, 2.0, -float("inf"), 0.0, -float("inf")]]
    assert longer(mx.array([7, 1, 2]), logits) is logits
    # Drafts that were wrong change nothing: it goes by the history alone.
    assert longer(mx.array([7]), logits).argmax().item() == 2


def test_it_may_end_where_a_grammar_allows_nothing_else() -> None:
    over = mx.array([[-float("inf"), -float("inf"), 4.0]])
    assert MinTokens(9, {2})(mx.array([7, 1]), over).tolist() == over.tolist()
