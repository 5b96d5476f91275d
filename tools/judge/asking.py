"""Questions put to a model, and what came of it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.tool_calls import ToolCallParser
from tools.judge.expectation import Call
from tools.judge.question import Question
from tools.judge.verdict import judge

MAX_TOKENS = 160
NOT_WELL_FORMED = "is no well-formed call"
# One well-formed call, as the chat template asks for it, and nothing after it.
PARAMETER = r"<parameter=[^<>\s]+>\n.*?\n</parameter>\n"
WELL_FORMED = re.compile(rf"(?s)[^<]*<tool_call>\n<function=[^<>\s]+>\n(?:{PARAMETER})*</function>\n</tool_call>\s*")


@dataclass(frozen=True)
class Outcome:
    """Args: answer: As the model wrote it; faults: What is wrong with it."""

    question: Question
    answer: str
    faults: list[str]

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.question.kind, "question": self.question.text, "answer": self.answer, "faults": self.faults,
            "expected": self.question.expectation.as_json(),
        }  # fmt: skip


def weigh(question: Question, written: str, cut_off: bool) -> Outcome:
    """The outcome for what a model wrote, calls included."""
    text, calls = written, []
    faults = []
    if question.tools:
        parser = ToolCallParser(question.tools)
        stretches = [parser.add(written), parser.close()]
        text = "".join(part.text for part in stretches)
        calls = [Call(call.name, call.arguments) for part in stretches for call in part.calls]
        if question.expectation.call and not WELL_FORMED.fullmatch(written):
            faults.append(NOT_WELL_FORMED)
    faults += judge(text, question.expectation, calls, cut_off)
    return Outcome(question, written, faults)


def ask(kit: ModelKit, questions: Iterable[Question]) -> Iterator[Outcome]:
    """Each question in a conversation of its own, without thinking and without chance."""
    for question in questions:
        prompt = kit.process_prompt(question.messages, tools=list(question.tools) or None, enable_thinking=False)
        result = kit.generate(prompt, max_tokens=MAX_TOKENS, temperature=0.0)
        yield weigh(question, result.text, result.finish_reason == "length")
