"""From a generation request of any protocol to the events of its answers: media, templates, grammars, the engine."""

import asyncio
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlx_qwen35 import Engine
from mlx_qwen35.answers.grammars import Grammars
from mlx_qwen35.answers.results import GenerationChunk, PrefillProgress
from mlx_qwen35.answers.sampling import LogitsProcessor, unsigned
from mlx_qwen35.answers.schemas import check_size
from mlx_qwen35.answers.tool_calls import ToolCallParser
from mlx_qwen35.errors import GenerationCancelled, OptionError
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.server.generation import (
    AnswerDefaults,
    DeltaEvent,
    FinishEvent,
    GenerationRequest,
    ProgressEvent,
    RequestTimeoutError,
    StreamEvent,
    ToolCallEvent,
    Usage,
)
from mlx_qwen35.server.media import MediaPolicy, fetch_media, names_media
from mlx_qwen35.server.preparing import PreparingThreads

if TYPE_CHECKING:
    from mlx_qwen35.runtime.engine import Reservation
    from mlx_qwen35.runtime.request import Request

# Tokens that no answer has: it goes on until its length ends it.
_ENDLESS = 1 << 30
# Of the prompts of one request: each is an object of some 300 bytes until all are answered.
MAX_PROMPT_LOGPROBS = 2**21
# By which templates that write calls as Qwen3.5's do are known.
_FUNCTION = "<function="
# What an engine hands to a sink.
EngineEvent = PrefillProgress | GenerationChunk | BaseException


@dataclass(frozen=True)
class PreparedRequest:
    """A generation request whose every part was checked.

    Args:
        requests: One for each answer: `n` in a row for each prompt.
        places: From `GenerationService.reserve`, one for each answer; without them, `run` takes places itself.
        deadline: Of `time.monotonic`, by which the answers have to be there; None for the service's timeout from when
            they are begun.
    """

    generation: GenerationRequest
    requests: "tuple[Request, ...]"
    places: "tuple[Reservation, ...]" = ()
    deadline: float | None = None

    @property
    def prompt(self) -> Prompt:
        """The first answer's; a request has several prompts only in OpenAI's plain completions."""
        return self.requests[0].prompt

    @classmethod
    def join(
        cls, several: Sequence["PreparedRequest"], places: "Sequence[Reservation]" = (), deadline: float | None = None
    ) -> "PreparedRequest":
        """Several prompts with the same settings, answered together.

        Raises:
            OptionError: They ask for more log probabilities of their prompts than memory should hold.
        """
        requests = tuple(request for prepared in several for request in prepared.requests)
        asked = [request for request in requests if request.prompt_logprobs is not None]
        values = sum(len(request.prompt.input_ids) * (1 + (request.prompt_logprobs or 0)) for request in asked)
        if values > MAX_PROMPT_LOGPROBS:
            raise OptionError(
                f"logprobs: expected at most {MAX_PROMPT_LOGPROBS} of all prompts together, with echo, found {values}; "
                "ask for fewer of the likeliest, or with fewer prompts at once"
            )
        return cls(several[0].generation, requests, tuple(places), deadline)


class GenerationService:
    """Runs generation requests on an engine.

    Args:
        policy: Which images and videos may be fetched.
        timeout: Seconds that a request may take, from its first byte to its last answer's end.
        heartbeat: After so many seconds without news comes a `ProgressEvent`.
        defaults: What counts where a request says nothing.
        hold_calls: Whether calls follow their functions' schemas where no request asks for that.
    """

    def __init__(
        self,
        engine: Engine,
        policy: MediaPolicy,
        *,
        timeout: float = 600.0,
        heartbeat: float = 5.0,
        defaults: AnswerDefaults | None = None,
        hold_calls: bool = True,
    ) -> None:
        self.engine, self.kit = engine, engine.kit
        self.hold_calls = hold_calls
        self._grammars: Grammars | None = None
        self._making = threading.Lock()
        self.policy, self.timeout, self.heartbeat = policy, timeout, heartbeat
        self.defaults = defaults or AnswerDefaults()
        self.threads = PreparingThreads()
        # Where images come from may be slow, and videos are long: nobody's text waits behind them.
        self.media_threads = PreparingThreads()

    def make_grammars(self) -> Grammars:
        """Made once, by whoever comes first: takes a second for a large vocabulary."""
        with self._making:
            if self._grammars is None:
                self._grammars = Grammars(self.kit.tokenizer, self.kit.config.text.vocab_size)
            return self._grammars

    def make_grammars_soon(self) -> threading.Thread:
        """In a thread of its own, so that the first request with tools need not wait for them."""

        def make() -> None:
            # Without llguidance, requests that need it say so.
            with suppress(OptionError):
                self.make_grammars()

        thread = threading.Thread(target=make, name="mlx-qwen35-grammars", daemon=True)
        thread.start()
        return thread

    def reserve(self, answers: int) -> "list[Reservation]":
        """Places in the engine's queue, taken before anything is fetched, decoded or tokenised for them.

        Raises:
            EngineFullError: There are not as many.
            OptionError: There never are: whoever tries again would do so for ever.
        """
        if answers > (most := self.engine.capacity):
            raise OptionError(f"n: expected at most {most} answers to one request here, found {answers}")
        places: list[Reservation] = []
        try:
            for _ in range(answers):
                places.append(self.engine.reserve())
        except BaseException:
            for place in places:
                place.release()
            raise
        return places

    def deadline(self) -> float:
        """When a request that begins now has to be answered, of `time.monotonic`."""
        return time.monotonic() + self.timeout

    async def prepare_soon(self, wanted: GenerationRequest, deadline: float) -> PreparedRequest:
        """`prepare`, on a thread of its own.

        Raises:
            RequestTimeoutError: It took longer than until the deadline.
        """
        threads = self.media_threads if names_media(wanted.prompt) else self.threads
        return await threads.run(self.prepare, wanted, deadline, deadline=deadline)

    def prepare(self, wanted: GenerationRequest, deadline: float = math.inf) -> PreparedRequest:
        """Fetch media, apply the chat template, and check everything; blocking.

        Args:
            deadline: Of `time.monotonic`; no video is decoded beyond it, whether or not anybody waits.
        Raises:
            Qwen35Error: Something about it is wrong.
            GenerationCancelled: The deadline has passed.
        """
        wanted = self.defaults.fill(wanted)
        # Before the template copies them.
        check_size(list(wanted.tools), "tools")
        prompt = self._prompt(wanted, deadline)
        options = dict(wanted.options)
        if wanted.tools and wanted.tool_choice == "none":
            call = self.kit.tokenizer.control_id("<tool_call>")
            options["logit_bias"] = {**(options.get("logit_bias") or {}), **({} if call is None else {call: -1e9})}
        if options.pop("ignore_eos", False):
            options["min_tokens"] = options.get("max_tokens") or _ENDLESS
        seed = unsigned(options.pop("seed", None))
        if seed is None:
            seed = int.from_bytes(os.urandom(4), "little")
        return PreparedRequest(
            wanted,
            tuple(
                self.kit.request(
                    prompt,
                    seed=(seed + index) % 2**64,
                    thinking_budget=wanted.thinking_budget,
                    logits_processors=self._processors(wanted, prompt.in_reasoning),
                    **options,
                )
                for index in range(wanted.n)
            ),
        )

    def _prompt(self, wanted: GenerationRequest, deadline: float = math.inf) -> Prompt:
        if unknown := sorted(set(wanted.template) - self.kit.tokenizer.settable_variables):
            raise OptionError(f"chat_template_kwargs: the chat template has no {', '.join(unknown)}")
        if not (isinstance(wanted.prompt, list) and wanted.prompt and isinstance(wanted.prompt[0], Mapping)):
            return self.kit.process_prompt(wanted.prompt)
        return self.kit.process_prompt(
            fetch_media(wanted.prompt, self.policy),
            on_frames=lambda *_: time.monotonic() < deadline,
            tools=list(wanted.tools) or None,
            # An effort says whether to think as well.
            enable_thinking=wanted.enable_thinking if wanted.effort is None else None,
            reasoning_effort=wanted.effort,
            continue_final_message=wanted.continue_final_message,
            chat_template_kwargs=wanted.template,
        )

    def _processors(self, wanted: GenerationRequest, in_reasoning: bool) -> list[LogitsProcessor]:
        """New ones for each answer, whose tokens they follow."""
        grammar = self._grammar(wanted, in_reasoning)
        return [] if grammar is None else [grammar]

    def _grammar(self, wanted: GenerationRequest, in_reasoning: bool) -> LogitsProcessor | None:
        """What holds an answer to a forced tool choice or to a schema, and calls to strict functions' schemas."""
        parallel, schema = wanted.parallel_tool_calls, wanted.schema
        if schema is not None and wanted.continue_final_message:
            raise OptionError("response_format: expected none where an answer is continued, found one")
        if wanted.tool_choice not in ("auto", "none"):
            if not wanted.tools:
                raise OptionError("tool_choice: expected tools to choose from, found none")
            # A schema beside it is for an answer's text, of which there is none.
            name = None if isinstance(wanted.tool_choice, str) else wanted.tool_choice["name"]
            return self.make_grammars().tool_calls(
                wanted.tools, name=name, parallel=parallel, in_reasoning=in_reasoning
            )
        if schema is None:
            held = wanted.tool_choice == "auto" and not wanted.continue_final_message
            return self._calls_in_text(wanted, in_reasoning) if wanted.tools and held else None
        if wanted.tools and wanted.tool_choice == "auto":
            return self.make_grammars().tool_calls(
                wanted.tools, schema=schema or {"type": "object"}, parallel=parallel, in_reasoning=in_reasoning
            )
        if schema:
            return self.make_grammars().json_schema(schema, in_reasoning=in_reasoning)
        return self.make_grammars().json_object(in_reasoning=in_reasoning)

    def _calls_in_text(self, wanted: GenerationRequest, in_reasoning: bool) -> LogitsProcessor | None:
        """Nothing where no function is strict, and the template writes calls otherwise or they cannot be followed."""
        if not wanted.strict_tools and not (self.hold_calls and _FUNCTION in (self.kit.tokenizer.chat_template or "")):
            return None
        try:
            return self.make_grammars().calls_in_text(
                wanted.tools,
                strict=wanted.strict_tools,
                hold=self.hold_calls,
                parallel=wanted.parallel_tool_calls,
                in_reasoning=in_reasoning,
            )
        except OptionError:
            if wanted.strict_tools:
                raise
            return None

    async def run(self, prepared: PreparedRequest) -> AsyncIterator[StreamEvent]:
        """All answers of a request, as they are written; closing the iterator cancels what is left of them.

        Raises:
            EngineFullError, KitClosedError: Before the first event.
            RequestTimeoutError: It took too long.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[int, EngineEvent]] = asyncio.Queue()
        answers = [_Answer(index, prepared) for index in range(len(prepared.requests))]
        deadline, jobs = self.deadline() if prepared.deadline is None else prepared.deadline, []
        progress, told = ProgressEvent(0, 0, len(prepared.prompt.input_ids)), time.monotonic()

        def sink(index: int) -> Callable[[EngineEvent], None]:
            def put(event: EngineEvent) -> None:
                loop.call_soon_threadsafe(queue.put_nowait, (index, event))

            return put

        try:
            for index, request in enumerate(prepared.requests):
                reserved: dict[str, Any] = {"reservation": prepared.places[index]} if prepared.places else {}
                jobs.append(self.engine.submit(request, sink(index), **reserved))
            while not all(answer.finished for answer in answers):
                try:
                    # wait_for, before Python 3.12, forgets that it was cancelled if an event comes at that moment:
                    # the answer would go on for nobody.
                    async with asyncio.timeout(min(self.heartbeat, max(0.0, deadline - time.monotonic()))):
                        index, event = await queue.get()
                except TimeoutError:
                    if time.monotonic() >= deadline:
                        raise RequestTimeoutError(f"expected an answer within {self.timeout:g} seconds") from None
                    yield progress
                    continue
                if isinstance(event, BaseException):
                    # A finished answer may still run behind its only tool call, and is cancelled below.
                    if answers[index].finished and isinstance(event, GenerationCancelled):
                        continue
                    raise event
                if isinstance(event, PrefillProgress):
                    progress = answers[index].progress(event)
                    yield progress
                    continue
                found = answers[index].add(event)
                if not found and time.monotonic() - told >= self.heartbeat:
                    # A call is being written, of which nothing is told before its end.
                    found = [progress]
                for news in found:
                    yield news
                    told = time.monotonic()
                if answers[index].finished:
                    self.engine.cancel(jobs[index])
        finally:
            for job in jobs:
                self.engine.cancel(job)
            for place in prepared.places[len(jobs) :]:
                place.release()


class _Answer:
    """One answer that is being written: counts its tokens and parts its tool calls from its text."""

    def __init__(self, index: int, prepared: PreparedRequest) -> None:
        wanted = prepared.generation
        self._index, self._parallel = index, wanted.parallel_tool_calls
        self._usage = Usage(len(prepared.requests[index].prompt.input_ids))
        self._parser = ToolCallParser(wanted.tools) if wanted.tools and wanted.tool_choice != "none" else None
        self._has_called = False
        self._has_begun = False
        self.finished = False

    def progress(self, event: PrefillProgress) -> ProgressEvent:
        if not self._has_begun:
            # What is read before any reading was in the cache.
            self._usage.cached, self._has_begun = event.processed, True
        return ProgressEvent(self._index, event.processed, event.total, event.frames_seen, event.frames)

    def add(self, chunk: GenerationChunk) -> list[StreamEvent]:
        if self.finished:
            return []
        self._usage.completion += 1
        self._usage.reasoning += chunk.in_reasoning
        text, calls = chunk.text, []
        if self._parser is not None:
            parsed = self._parser.add(text)
            text, calls = parsed.text, list(parsed.calls)
            if chunk.finish_reason is not None:
                cut_off = chunk.finish_reason == "length" or chunk.stop_string is not None
                rest = self._parser.close(cut_off=cut_off)
                text, calls = text + rest.text, calls + list(rest.calls)
        if not self._parallel:
            # The first one ends the answer.
            calls = calls[:1]
        events: list[StreamEvent] = []
        if text or chunk.reasoning or chunk.logprob is not None:
            events.append(DeltaEvent(self._index, text, chunk.reasoning, chunk))
        events += [ToolCallEvent(self._index, call) for call in calls]
        self._has_called = self._has_called or bool(calls)
        reason = chunk.finish_reason
        if self._has_called and (reason == "stop" or not self._parallel):
            reason = "tool_calls"
        if reason is not None:
            self.finished = True
            events.append(FinishEvent(self._index, reason, self._usage, chunk.stop_string))
        return events
