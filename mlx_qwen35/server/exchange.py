"""From a checked request of any protocol to a stream of replies of any protocol.

Protocols differ in names only: each turns its JSON into an `Ask` and the replies back into its JSON.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import Environment, TemplateError, meta

from mlx_qwen35.answers.grammars import Grammars, ThinkingBudget
from mlx_qwen35.answers.results import GenerationChunk, PrefillProgress
from mlx_qwen35.answers.sampling import LogitsProcessor
from mlx_qwen35.answers.tool_calls import ToolCall, ToolCallParser
from mlx_qwen35.errors import GenerationCancelled, OptionError
from mlx_qwen35.prompts.messages import IMAGE_PARTS, image_source, part_kind
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.engine import Engine
from mlx_qwen35.runtime.request import Event, Request
from mlx_qwen35.server.media import MediaPolicy, check_number, fetch


@dataclass(frozen=True)
class Ask:
    """What a client wants, in one form for all protocols.

    Args:
        prompt: Messages in OpenAI's form, or a finished text, or token ids.
        tools: Functions in OpenAI's form.
        tool_choice: "auto", "none", "required", or {"name": NAME} for one function.
        parallel_tool_calls: Whether more than one call may come.
        enable_thinking, template: See `ModelKit.process_prompt`.
        thinking_budget: At most this many tokens of reasoning, which is then closed.
        schema: JSON schema of the answer, or {} for any object.
        n: Answers.
        options: For `ModelKit.request`.
    """

    prompt: Any
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, str] = "auto"
    parallel_tool_calls: bool = True
    enable_thinking: bool | None = None
    template: Mapping[str, Any] = field(default_factory=dict)
    thinking_budget: int | None = None
    schema: Mapping[str, Any] | None = None
    n: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Usage:
    """Tokens of one answer; `cached` of the prompt were not read again."""

    prompt: int
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class Waiting:
    """Nothing yet: so much of the prompt of answer `index` is read."""

    index: int
    processed: int
    total: int


@dataclass(frozen=True)
class Delta:
    """New text of answer `index`, and the token that gave it."""

    index: int
    text: str
    reasoning: str
    chunk: GenerationChunk


@dataclass(frozen=True)
class Called:
    """Answer `index` calls a function."""

    index: int
    call: ToolCall


@dataclass(frozen=True)
class Finished:
    """Answer `index` is complete; `reason` is "stop", "length" or "tool_calls"."""

    index: int
    reason: str
    usage: Usage
    stop_string: str | None = None


Reply = Waiting | Delta | Called | Finished


class RequestTimeoutError(Exception):
    """An answer took longer than the operator allows."""


@dataclass(frozen=True)
class Prepared:
    """An ask whose every part was checked, with one request for each answer."""

    ask: Ask
    requests: tuple[Request, ...]

    @property
    def prompt(self) -> Prompt:
        """Of the first answer, and mostly of all."""
        return self.requests[0].prompt

    @classmethod
    def join(cls, several: Sequence["Prepared"]) -> "Prepared":
        """Several prompts, answered together."""
        return cls(several[0].ask, tuple(request for prepared in several for request in prepared.requests))


class Exchange:
    """Runs asks on an engine.

    Args:
        policy: Which images may be fetched.
        timeout: Seconds that an answer may take.
        heartbeat: After so many seconds without news comes a `Waiting`.
    """

    def __init__(self, engine: Engine, policy: MediaPolicy, *, timeout: float = 600.0, heartbeat: float = 5.0) -> None:
        self.engine, self.kit = engine, engine.kit
        self.policy, self.timeout, self.heartbeat = policy, timeout, heartbeat

    @cached_property
    def grammars(self) -> Grammars:
        """Made on first use: takes a moment for a large vocabulary."""
        return Grammars(self.kit.tokenizer, self.kit.config.text.vocab_size)

    @cached_property
    def template_variables(self) -> frozenset[str]:
        """What a request may set in the chat template: what it looks at and the server does not set itself."""
        try:
            found = meta.find_undeclared_variables(Environment().parse(str(self.kit.tokenizer.chat_template)))
        except TemplateError:  # tags that transformers adds
            return frozenset()
        return frozenset(found) - {"messages", "tools", "documents", "add_generation_prompt", "enable_thinking"}

    def prepare(self, ask: Ask) -> Prepared:
        """Fetch images, render, and check everything; blocking.

        Raises:
            Qwen35Error: Something about it is wrong.
        """
        if unknown := sorted(set(ask.template) - self.template_variables):
            raise OptionError(f"chat_template_kwargs: the chat template has no {', '.join(unknown)}")
        if isinstance(ask.prompt, list) and ask.prompt and isinstance(ask.prompt[0], Mapping):
            prompt = self.kit.process_prompt(
                fetch_images(ask.prompt, self.policy),
                tools=list(ask.tools) or None,
                enable_thinking=ask.enable_thinking,
                chat_template_kwargs=ask.template,
            )
        else:
            prompt = self.kit.process_prompt(ask.prompt)
        options = dict(ask.options)
        if ask.tools and ask.tool_choice == "none":
            call = self.kit.tokenizer.control_id("<tool_call>")
            options["logit_bias"] = {**(options.get("logit_bias") or {}), **({} if call is None else {call: -1e9})}
        seed = options.pop("seed", None)
        if seed is None:
            seed = int.from_bytes(os.urandom(4), "little")
        return Prepared(
            ask,
            tuple(
                self.kit.request(
                    prompt, seed=seed + index, logits_processors=self._processors(ask, prompt.in_reasoning), **options
                )
                for index in range(ask.n)
            ),
        )

    def _processors(self, ask: Ask, in_reasoning: bool) -> list[LogitsProcessor]:
        """Made anew for each answer: they keep count of it."""
        processors: list[LogitsProcessor] = []
        if ask.thinking_budget is not None and in_reasoning:
            processors.append(ThinkingBudget(self.kit.tokenizer, ask.thinking_budget, in_reasoning=True))
        forced = ask.tool_choice not in ("auto", "none")
        if forced and not ask.tools:
            raise OptionError("tool_choice: expected tools to choose from, found none")
        if forced and ask.schema is not None:
            raise OptionError("response_format: expected none beside a forced tool_choice, found one")
        if forced:
            name = None if isinstance(ask.tool_choice, str) else ask.tool_choice["name"]
            processors.append(
                self.grammars.tool_calls(
                    ask.tools, name=name, parallel=ask.parallel_tool_calls, in_reasoning=in_reasoning
                )
            )
        elif ask.schema is not None and ask.tools and ask.tool_choice == "auto":
            processors.append(
                self.grammars.tool_calls(
                    ask.tools,
                    schema=ask.schema or {"type": "object"},
                    parallel=ask.parallel_tool_calls,
                    in_reasoning=in_reasoning,
                )
            )
        elif ask.schema:
            processors.append(self.grammars.json_schema(ask.schema, in_reasoning=in_reasoning))
        elif ask.schema is not None:
            processors.append(self.grammars.json_object(in_reasoning=in_reasoning))
        return processors

    async def run(self, prepared: Prepared) -> AsyncIterator[Reply]:
        """All answers of an ask, as they are written; ends with the consumer.

        Raises:
            EngineFullError, KitClosedError: Before the first reply.
            RequestTimeoutError: It took too long.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        answers = [_Answer(index, prepared) for index in range(len(prepared.requests))]
        deadline, jobs, first = time.monotonic() + self.timeout, [], None

        def sink(index: int) -> Callable[[Event], None]:
            def put(event: Event) -> None:
                loop.call_soon_threadsafe(queue.put_nowait, (index, event))

            return put

        try:
            for index, request in enumerate(prepared.requests):
                jobs.append(self.engine.submit(request, sink(index)))
            while not all(answer.finished for answer in answers):
                try:
                    # wait_for, before Python 3.12, forgets that it was cancelled if an event comes at that moment:
                    # the answer would go on for nobody.
                    async with asyncio.timeout(min(self.heartbeat, max(0.0, deadline - time.monotonic()))):
                        index, event = await queue.get()
                except TimeoutError:
                    if time.monotonic() >= deadline:
                        raise RequestTimeoutError(f"expected an answer within {self.timeout:g} seconds") from None
                    yield first or Waiting(0, 0, len(prepared.prompt.input_ids))
                    continue
                if isinstance(event, BaseException):
                    if answers[index].finished and isinstance(event, GenerationCancelled):
                        continue
                    raise event
                if isinstance(event, PrefillProgress):
                    first = answers[index].progress(event)
                    yield first
                    continue
                for reply in answers[index].add(event):
                    yield reply
                if answers[index].finished:
                    self.engine.cancel(jobs[index])
        finally:
            for job in jobs:
                self.engine.cancel(job)


class _Answer:
    """One answer on its way: what it used, and its calls told from its text."""

    def __init__(self, index: int, prepared: Prepared) -> None:
        self._index, self._ask = index, prepared.ask
        self._usage = Usage(len(prepared.requests[index].prompt.input_ids))
        calls = prepared.ask.tools and prepared.ask.tool_choice != "none"
        self._parser = ToolCallParser(prepared.ask.tools) if calls else None
        self._called = False
        self._begun = False
        self.finished = False

    def progress(self, event: PrefillProgress) -> Waiting:
        if not self._begun:
            self._usage.cached, self._begun = event.processed, True
        return Waiting(self._index, event.processed, event.total)

    def add(self, chunk: GenerationChunk) -> list[Reply]:
        if self.finished:
            return []
        self._usage.completion += 1
        self._usage.reasoning += chunk.in_reasoning
        text, calls = chunk.text, []
        if self._parser is not None:
            parsed = self._parser.add(text)
            text, calls = parsed.text, list(parsed.calls)
            if chunk.finish_reason is not None:
                rest = self._parser.close()
                text, calls = text + rest.text, calls + list(rest.calls)
        if not self._ask.parallel_tool_calls:
            calls = [] if self._called else calls[:1]
        replies: list[Reply] = []
        if text or chunk.reasoning or chunk.logprob is not None:
            replies.append(Delta(self._index, text, chunk.reasoning, chunk))
        replies += [Called(self._index, call) for call in calls]
        self._called = self._called or bool(calls)
        reason = chunk.finish_reason
        if self._called and (reason == "stop" or not self._ask.parallel_tool_calls):
            reason = "tool_calls"
        if reason is not None:
            self.finished = True
            replies.append(Finished(self._index, reason, self._usage, chunk.stop_string))
        return replies


def fetch_images(messages: Sequence[Any], policy: MediaPolicy) -> list[Any]:
    """The messages with the encoded bytes of each image in place of where it is.

    Raises:
        MediaError: One may not be fetched, or there are too many.
    """
    out: list[Any] = []
    count = 0
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, list):
            out.append(message)
            continue
        parts = []
        for at, part in enumerate(content):
            place = f"messages[{number}].content[{at}]"
            if not isinstance(part, Mapping) or part_kind(part) not in IMAGE_PARTS:
                parts.append(part)
                continue
            count += 1
            check_number(count, policy, place=place)
            parts.append({"type": "image", "image": fetch(image_source(part, place), policy, place=place)})
        out.append({**message, "content": parts})
    return out
