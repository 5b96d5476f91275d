"""An effort as the chat template knows it."""

import pytest

from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.efforts import EFFORTS, Effort, understand_effort

KNOWS = frozenset({"reasoning_effort", "enable_thinking"})


@pytest.mark.parametrize(
    ("effort", "known", "unknown"),
    [
        ("none", Effort(False), Effort(False)),
        ("minimal", Effort(False), Effort(False)),
        ("low", Effort(True, in_template="low"), Effort(True, thinking_budget=1024)),
        ("medium", Effort(True, in_template="medium"), Effort(True, thinking_budget=8192)),
        ("high", Effort(True, in_template="xhigh"), Effort(True)),
        ("xhigh", Effort(True, in_template="xhigh"), Effort(True)),
        ("max", Effort(True, in_template="xhigh"), Effort(True)),
    ],
)
def test_an_effort_is_the_template_s_variable_or_else_a_limit(effort: str, known: Effort, unknown: Effort) -> None:
    assert understand_effort(effort, KNOWS) == known
    assert understand_effort(effort, frozenset({"enable_thinking"})) == unknown


@pytest.mark.parametrize("effort", ["hgih", "", 3, None, ["low"]])
def test_what_is_no_effort_is_refused_with_the_list(effort: object) -> None:
    with pytest.raises(OptionError, match=f"reasoning_effort: expected one of {', '.join(EFFORTS)}, found"):
        understand_effort(effort, KNOWS)


def test_it_joins_the_other_options_and_leaves_them_as_they_were() -> None:
    options = {"tools": [], "enable_thinking": None, "chat_template_kwargs": {"a": 1}}
    assert understand_effort("low", KNOWS).apply(options) == {
        "tools": [], "enable_thinking": True, "chat_template_kwargs": {"a": 1, "reasoning_effort": "low"}
    }  # fmt: skip
    assert options["chat_template_kwargs"] == {"a": 1}
    assert Effort(False).apply({"enable_thinking": False})["enable_thinking"] is False


@pytest.mark.parametrize(
    ("effort", "options", "message"),
    [
        ("none", {"enable_thinking": True}, "reasoning_effort: expected enable_thinking=False without one, found True"),
        ("low", {"enable_thinking": False}, "expected enable_thinking=True beside an effort, found False"),
        (
            "high",
            {"chat_template_kwargs": {"reasoning_effort": "low"}},
            "chat_template_kwargs\\['reasoning_effort'\\]: expected 'xhigh' as the argument has it, found 'low'",
        ),
    ],
)
def test_options_that_say_something_else_are_refused(effort: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        understand_effort(effort, KNOWS).apply(options)
