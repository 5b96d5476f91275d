"""What all protocols are translated to and from: a generation request, and the events of its answers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_qwen35.answers.results import GenerationChunk
from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.prompts.efforts import THOUGHTLESS


@dataclass(frozen=True)
class GenerationRequest:
    """What a client asks for, whatever protocol it speaks.

    Args:
        prompt: Messages in OpenAI's form, or a finished text, or token ids.
        tools: Functions in OpenAI's form.
        strict_tools: Names of those whose calls have to follow their schemas.
        tool_choice: "auto", "none", "required", or {"name": NAME} for one function.
        parallel_tool_calls: Whether an answer may make more than one call.
        enable_thinking: See `ModelKit.process_prompt`.
        effort: How much to think, in OpenAI's words; None leaves it to `enable_thinking` and `thinking_budget`.
        template: Further variables for the chat template.
        continue_final_message: Go on with the last message, which is the assistant's.
        thinking_budget: At most this many tokens of reasoning, which is then closed; None for no limit.
        schema: JSON schema that the answer has to follow, {} for any object, None for free text.
        n: How many answers.
        options: Further keyword arguments of `ModelKit.request`; None in one leaves it to the checkpoint.
    """

    prompt: Any
    tools: Sequence[Mapping[str, Any]] = ()
    strict_tools: Collection[str] = frozenset()
    tool_choice: str | Mapping[str, str] = "auto"
    parallel_tool_calls: bool = True
    enable_thinking: bool | None = None
    effort: str | None = None
    template: Mapping[str, Any] = field(default_factory=dict)
    continue_final_message: bool = False
    thinking_budget: int | None = None
    schema: Mapping[str, Any] | None = None
    n: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AnswerDefaults:
    """What the operator has decided where a request says nothing.

    Args:
        options: Keyword arguments of `ModelKit.request`.
        enable_thinking, effort, thinking_budget, template: See `GenerationRequest`.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    enable_thinking: bool | None = None
    effort: str | None = None
    thinking_budget: int | None = None
    template: Mapping[str, Any] = field(default_factory=dict)

    def fill(self, wanted: GenerationRequest) -> GenerationRequest:
        """The request with what it left open; one that says whether, or how much, to think is not contradicted."""
        given = {name: value for name, value in wanted.options.items() if value is not None}
        template = {**self.template, **wanted.template}
        filled = replace(wanted, options={**self.options, **given}, template=template)
        if wanted.effort is not None or "reasoning_effort" in wanted.template:
            return filled
        if wanted.enable_thinking is None:
            filled = replace(filled, enable_thinking=self.enable_thinking, effort=self.effort)
        elif wanted.enable_thinking and self.effort not in THOUGHTLESS:
            filled = replace(filled, effort=self.effort)
        budget = self.thinking_budget if wanted.thinking_budget is None else wanted.thinking_budget
        return replace(filled, thinking_budget=budget)


@dataclass
class Usage:
    """Tokens of one answer.

    Args:
        prompt: Of its prompt.
        cached: Of its prompt, those that came from the prefix cache.
        completion: Generated, reasoning included.
        reasoning: Generated as reasoning.
    """

    prompt: int
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class ProgressEvent:
    """No text yet: `processed` of the `total` tokens of the prompt of answer `index` are read.

    Args:
        frames_seen, frames: Of videos, which are looked at before that; 0 if none has to be.
    """

    index: int
    processed: int
    total: int
    frames_seen: int = 0
    frames: int = 0


@dataclass(frozen=True)
class DeltaEvent:
    """New text or reasoning of answer `index`, and the token that it came with."""

    index: int
    text: str
    reasoning: str
    chunk: GenerationChunk


@dataclass(frozen=True)
class ToolCallEvent:
    """Answer `index` calls a function; the call is complete."""

    index: int
    call: ToolCall


@dataclass(frozen=True)
class FinishEvent:
    """Answer `index` is complete.

    Args:
        reason: "stop", "length" or "tool_calls".
        stop_string: The one that ended it; None if none did.
    """

    index: int
    reason: str
    usage: Usage
    stop_string: str | None = None


StreamEvent = ProgressEvent | DeltaEvent | ToolCallEvent | FinishEvent


class RequestTimeoutError(Exception):
    """An answer took longer than the operator allows."""
