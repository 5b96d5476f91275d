"""What becomes of a model's words between engine and protocol, word by word."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from inspect import isfunction
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_qwen35 import Engine, ModelKit
from mlx_qwen35.answers.results import GenerationChunk, PrefillProgress
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import GenerationCancelled, KitClosedError, OptionError
from mlx_qwen35.server import service as service_module
from mlx_qwen35.server.generation import (
    AnswerDefaults,
    DeltaEvent,
    FinishEvent,
    GenerationRequest,
    ProgressEvent,
    RequestTimeoutError,
    StreamEvent,
    ToolCallEvent,
)
from mlx_qwen35.server.media import MediaPolicy
from mlx_qwen35.server.preparing import PREPARING
from mlx_qwen35.server.service import EngineEvent, GenerationService, PreparedRequest
from tests.server.clients import raw
from tests.server.conftest import serving

QUESTION = [{"role": "user", "content": "How is the weather?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = "<tool_call>\n<function=weather>\n<parameter=city>\n{}\n</parameter>\n</function>\n</tool_call>"
UNDECLARED = CALL.format("Rome").replace("function=weather", "function=launch")


class Place:
    """One in a queue; it may be lost although it was promised, as where the engine is closed meanwhile."""

    def __init__(self, full: bool = False) -> None:
        self.full, self.released = full, 0

    def release(self) -> None:
        self.released += 1


class Scripted:
    """An engine whose model says what it is told to say."""

    def __init__(self, kit: ModelKit, chunks: list[GenerationChunk]) -> None:
        self.kit, self.chunks = kit, chunks
        self.cancelled: list[object] = []

    def submit(
        self, request: Any, sink: Callable[[EngineEvent], None], *, reservation: "Place | None" = None
    ) -> object:
        if reservation is not None and reservation.full:
            raise KitClosedError("closed")
        sink(PrefillProgress(3, len(request.prompt.input_ids)))
        for chunk in self.chunks:
            sink(chunk)
        return request

    def cancel(self, job: object) -> None:
        self.cancelled.append(job)


def script(*texts: str, reasoning: str = "", reason: str = "stop") -> list[GenerationChunk]:
    """One token for each text, after one for the reasoning."""
    chunks = [GenerationChunk("", reasoning, 0, in_reasoning=True)] if reasoning else []
    for number, text in enumerate(texts, start=1):
        chunks.append(GenerationChunk(text, "", number, finish_reason=reason if number == len(texts) else None))
    return chunks


def replies(kit: ModelKit, chunks: list[GenerationChunk], **ask: Any) -> list[StreamEvent]:
    async def collect() -> list[StreamEvent]:
        service = GenerationService(Scripted(kit, chunks), MediaPolicy())  # type: ignore[arg-type]
        prepared = service.prepare(GenerationRequest(QUESTION, **ask))
        return [reply async for reply in service.run(prepared)]

    return asyncio.run(collect())


def read(found: list[StreamEvent]) -> tuple[str, str, list[tuple[str, Any]], str]:
    """Text, reasoning, calls and reason."""
    assert isinstance(found[-1], FinishEvent)
    deltas = [reply for reply in found if isinstance(reply, DeltaEvent)]
    calls = [(reply.call.name, reply.call.arguments) for reply in found if isinstance(reply, ToolCallEvent)]
    text, reasoning = "".join(delta.text for delta in deltas), "".join(delta.reasoning for delta in deltas)
    return text, reasoning, calls, found[-1].reason


def test_texts_do_not_wait_behind_images(box: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    service, slow = service_of(box), threading.Event()
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://slow.example/"}}]}]

    def prepare(wanted: GenerationRequest, deadline: float) -> Any:
        return wanted.prompt is QUESTION or slow.wait(60)

    async def run() -> None:
        soon = time.monotonic() + 60
        waiting = [
            asyncio.create_task(service.prepare_soon(GenerationRequest(picture), soon)) for _ in range(PREPARING)
        ]
        await asyncio.sleep(0)
        try:
            assert await service.prepare_soon(GenerationRequest(QUESTION), time.monotonic() + 5)
        finally:
            slow.set()
            await asyncio.gather(*waiting)

    monkeypatch.setattr(service, "prepare", prepare)
    asyncio.run(run())


def test_a_call_in_pieces(box: ModelKit) -> None:
    pieces = ["Let me look. ", *(CALL.format("Rome")[at : at + 5] for at in range(0, len(CALL), 5))]
    found = replies(box, script(*pieces), tools=[WEATHER])
    assert read(found) == ("Let me look.", "", [("weather", {"city": "Rome"})], "tool_calls")
    last = found[-1]
    assert isinstance(last, FinishEvent)
    assert (last.usage.cached, last.usage.completion, last.usage.reasoning) == (3, len(pieces), 0)


def test_markers_in_the_reasoning_are_no_call(box: ModelKit) -> None:
    found = replies(box, script("Fine.", reasoning=CALL.format("Rome")), tools=[WEATHER])
    assert read(found) == ("Fine.", CALL.format("Rome"), [], "stop")
    last = found[-1]
    assert isinstance(last, FinishEvent)
    assert (last.usage.completion, last.usage.reasoning) == (2, 1)


@pytest.mark.parametrize("text", [UNDECLARED, CALL.format("Rome")[:20], "<tool_call>Rome</tool_call>"])
def test_what_is_no_call_stays_in_the_text(box: ModelKit, text: str) -> None:
    assert read(replies(box, script(*text), tools=[WEATHER])) == (text, "", [], "stop")


@pytest.mark.parametrize("settings", [{}, {"tools": [WEATHER], "tool_choice": "none"}])
def test_without_tools_nothing_is_a_call(box: ModelKit, settings: dict[str, Any]) -> None:
    text = CALL.format("Rome")
    assert read(replies(box, script(text), **settings)) == (text, "", [], "stop")


def test_several_calls(box: ModelKit) -> None:
    pieces = [CALL.format("Rome") + "\n", CALL.format("Oslo"), ""]
    found = read(replies(box, script(*pieces), tools=[WEATHER]))
    assert found[2:] == ([("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"})], "tool_calls")


def test_no_second_call_where_one_was_asked_for(box: ModelKit) -> None:
    """The answer ends behind the first one, although the model would go on."""
    chunks = script(CALL.format("Rome") + "\n" + CALL.format("Oslo"), "and", "more", reason="length")
    found = replies(box, chunks, tools=[WEATHER], parallel_tool_calls=False)
    assert read(found)[2:] == ([("weather", {"city": "Rome"})], "tool_calls")
    last = found[-1]
    assert isinstance(last, FinishEvent)
    assert last.usage.completion == 1


def test_an_answer_that_is_cut_off_says_so(box: ModelKit) -> None:
    assert read(replies(box, script(CALL.format("Rome"), "", reason="length"), tools=[WEATHER]))[3] == "length"


def test_running_out_is_not_waited_for(box: ModelKit) -> None:
    """Whoever reads the replies no further ends the work."""

    async def leave() -> Scripted:
        engine = Scripted(box, script("One", "two", "three"))
        service = GenerationService(engine, MediaPolicy())  # type: ignore[arg-type]
        running = service.run(service.prepare(GenerationRequest(QUESTION, n=2)))
        async for reply in running:
            if isinstance(reply, DeltaEvent):
                break
        await running.aclose()  # type: ignore[attr-defined]
        return engine

    assert len(asyncio.run(leave()).cancelled) == 2


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"template": {"colour": 1}}, "chat_template_kwargs: the chat template has no colour"),
        ({"tool_choice": "required"}, "tool_choice: expected tools to choose from"),
        ({"tool_choice": {"name": "weather"}}, "tool_choice: expected tools to choose from"),
    ],
)
def test_what_cannot_be_is_refused(box: ModelKit, ask: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replies(box, script("x"), **ask)


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, []),
        ({"tools": [WEATHER]}, ["Constraint"]),
        ({"tools": [WEATHER], "tool_choice": "none"}, []),
        ({"tools": [{"name": "a<b"}]}, []),
        ({"schema": {}}, ["Constraint"]),
        ({"schema": {"type": "object"}, "tools": [WEATHER]}, ["Constraint"]),
        ({"tools": [WEATHER], "tool_choice": "required"}, ["Constraint"]),
        ({"tools": [WEATHER], "strict_tools": {"weather"}}, ["Constraint"]),
        ({"tools": [WEATHER], "strict_tools": {"weather"}, "tool_choice": "none"}, []),
        ({"thinking_budget": 3, "enable_thinking": True}, ["ThinkingBudget"]),
        ({"thinking_budget": 3, "enable_thinking": False}, []),
    ],
)
def test_each_answer_is_held_to_what_was_asked(box: ModelKit, settings: dict[str, Any], kinds: list[str]) -> None:
    service = GenerationService(Scripted(box, []), MediaPolicy())  # type: ignore[arg-type]
    prepared = service.prepare(GenerationRequest(QUESTION, n=2, **settings))
    made = [request.make_processors() for request in prepared.requests]
    found = [[type(processor).__name__ for processor in one if not isfunction(processor)] for one in made]
    assert found == [kinds, kinds]
    # They keep count of their answer, so no two answers share one.
    assert not {id(x) for x in made[0]} & {id(x) for x in made[1]}


def test_calls_are_held_to_no_schema_where_that_is_not_wanted(box: ModelKit) -> None:
    """Nor where the template writes them in another form; those of strict functions are."""

    def made(service: GenerationService, **settings: Any) -> list[str]:
        (request,) = service.prepare(GenerationRequest(QUESTION, tools=[WEATHER], **settings)).requests
        return [type(one).__name__ for one in request.make_processors() if not isfunction(one)]

    free = GenerationService(Scripted(box, []), MediaPolicy(), hold_calls=False)  # type: ignore[arg-type]
    assert (made(free), made(free, strict_tools={"weather"})) == ([], ["Constraint"])
    template = (box.tokenizer.chat_template or "").replace("<function=", "<call ")
    with ModelKit.load(BOX, chat_template=template) as kit:
        assert made(GenerationService(Scripted(kit, []), MediaPolicy())) == []  # type: ignore[arg-type]


def test_a_full_queue_refuses_before_anything_is_prepared(box: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP; and a request that cannot be prepared gives its place back."""
    prepared: list[object] = []
    with serving(box, max_rows=1, max_waiting=0) as running:
        real = running.service.prepare
        monkeypatch.setattr(
            running.service, "prepare", lambda wanted, *deadline: (prepared.append(wanted), real(wanted))[1]
        )
        path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        place = running.engine.reserve()
        assert raw(running.url, path, body)[0] == 429
        assert prepared == []
        place.release()
        place.release()
        # Refused while the place is held, not before it is taken.
        assert raw(running.url, path, body | {"temperature": -1})[0] == 400
        assert len(prepared) == 1
        assert raw(running.url, path, body)[0] == 200


def test_a_request_that_gets_only_some_of_its_places_gives_them_back(box: ModelKit) -> None:
    with serving(box, max_rows=2, max_waiting=0) as running:
        path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        place = running.engine.reserve()
        for _ in range(2):
            assert raw(running.url, path, body | {"n": 2})[0] == 429
        place.release()
        assert raw(running.url, path, body | {"n": 2})[0] == 200


def test_more_answers_than_there_are_places_are_refused_for_good(box: ModelKit) -> None:
    """A status that says "later" would be asked again for ever."""
    said = "n: expected at most 3 answers to one request here, found 4"
    with serving(box, max_rows=2, max_waiting=1) as running:
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        for path, body in (("chat/completions", chat | {"n": 4}), ("completions", {"prompt": ["a", "b"], "n": 2})):
            status, _, text = raw(running.url, f"/v1/{path}", body)
            assert (status, json.loads(text)["error"]["message"]) == (400, said)
        assert raw(running.url, "/v1/completions", {"prompt": ["a", "b", "c"], "max_tokens": 1})[0] == 200


def test_slow_preparation_does_not_hold_shutting_down_up(box: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit are being prepared, and nothing of the loop's own threads is taken by them."""
    release, begun = threading.Event(), threading.Semaphore(0)

    def slow(wanted: GenerationRequest, deadline: float) -> None:
        begun.release()
        release.wait(60)
        raise OptionError("too late")

    engine = Engine(box)
    service = GenerationService(engine, MediaPolicy())
    monkeypatch.setattr(service, "prepare", slow)

    async def run() -> None:
        wanted = GenerationRequest(QUESTION)
        tasks = [asyncio.create_task(service.prepare_soon(wanted, service.deadline())) for _ in range(40)]
        await asyncio.sleep(0)
        try:
            assert await asyncio.wait_for(asyncio.to_thread(begun.acquire), 20)
            # What `Server.shutdown` does, while all 40 are stuck or wait.
            await asyncio.wait_for(asyncio.to_thread(engine.close, 0), 20)
            assert not any(task.done() for task in tasks)
        finally:
            release.set()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def service_of(kit: ModelKit, *events: Any, **options: Any) -> GenerationService:
    return GenerationService(Scripted(kit, list(events)), MediaPolicy(), **options)  # type: ignore[arg-type]


def collected(service: GenerationService, prepared: PreparedRequest) -> list[StreamEvent]:
    async def collect() -> list[StreamEvent]:
        return [reply async for reply in service.run(prepared)]

    return asyncio.run(collect())


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 2, -(2**63)])
def test_the_answers_of_a_request_have_seeds_in_a_row(box: ModelKit, seed: int) -> None:
    prepared = service_of(box).prepare(GenerationRequest(QUESTION, n=3, options={"seed": seed}))
    assert [request.options.seed for request in prepared.requests] == [(seed + index) % 2**64 for index in range(3)]


def test_without_a_seed_each_request_draws_its_own(box: ModelKit) -> None:
    service = service_of(box)
    given: list[dict[str, Any]] = [{}, {}, {"seed": None}, {"seed": -1}, {"seed": -1}]
    seeds = {service.prepare(GenerationRequest(QUESTION, options=each)).requests[0].options.seed for each in given}
    assert len(seeds) > 3
    assert None not in seeds


@pytest.mark.parametrize(
    ("settings", "forbids"),
    [({}, False), ({"tools": [WEATHER]}, False), ({"tool_choice": "none"}, False),
     ({"tools": [WEATHER], "tool_choice": "none"}, True)],
)  # fmt: skip
def test_a_call_that_must_not_be_is_not_begun(box: ModelKit, settings: dict[str, Any], forbids: bool) -> None:
    """Beside whatever else the client wants of the tokens."""
    call = box.tokenizer.control_id("<tool_call>")
    for own in ({}, {5: 1.5}):
        asked = GenerationRequest(QUESTION, options={"logit_bias": own or None}, **settings)
        found = service_of(box).prepare(asked).requests[0].options.logit_bias or {}
        assert found == {**own, **({call: -1e9} if forbids else {})}


def test_answers_count_the_tokens_of_their_own_prompt_and_what_was_read_before(box: ModelKit) -> None:
    """What is told of the reading later was not in the cache."""
    chunks = [PrefillProgress(5, 9), *script("a")]
    service = service_of(box, *chunks)
    several = [service.prepare(GenerationRequest(prompt)) for prompt in ([1, 2, 3, 4], [1, 2, 3, 4, 5, 6])]
    ends = [event for event in collected(service, PreparedRequest.join(several)) if isinstance(event, FinishEvent)]
    assert [(end.index, end.usage.prompt, end.usage.cached) for end in ends] == [(0, 4, 3), (1, 6, 3)]


def test_log_probabilities_of_prompts_are_no_more_than_memory_should_hold(
    box: ModelKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all prompts of a request together, each token and its rivals; what asks for none does not count."""
    monkeypatch.setattr(service_module, "MAX_PROMPT_LOGPROBS", 30)
    service = service_of(box)

    def asked(length: int, most: int | None, n: int = 1) -> PreparedRequest:
        return service.prepare(GenerationRequest([1] * length, n=n, options={"prompt_logprobs": most}))

    assert len(PreparedRequest.join([asked(5, 2), asked(15, 0), asked(99, None)]).requests) == 3
    for several in ([asked(5, 2), asked(16, 0)], [asked(6, 4), asked(1, 0)], [asked(4, 3, n=2)]):
        with pytest.raises(OptionError, match="^logprobs: expected at most 30 of all prompts .*, found 3"):
            PreparedRequest.join(several)


def test_tokens_of_the_reasoning_are_counted_whether_or_not_they_have_text(box: ModelKit) -> None:
    chunks = [
        GenerationChunk("", "Well", 1, in_reasoning=True),
        GenerationChunk("", "", 2, in_reasoning=True),
        *script("Yes"),
    ]
    last = replies(box, chunks)[-1]
    assert isinstance(last, FinishEvent)
    assert (last.usage.completion, last.usage.reasoning) == (3, 2)


def test_a_token_without_text_is_told_where_its_probability_is_wanted(box: ModelKit) -> None:
    """And nothing is told of it otherwise."""
    for logprob, told in ((None, 1), (-0.5, 2)):
        chunks = [GenerationChunk("", "", 1, logprob=logprob), *script("Yes")]
        assert sum(isinstance(event, DeltaEvent) for event in replies(box, chunks)) == told


def test_a_call_that_the_end_completes_is_one(box: ModelKit) -> None:
    """Its closing marker is missing: the last token says that nothing more will come."""
    text = CALL.format("Rome").partition("</function>")[0]
    assert read(replies(box, script(text, ""), tools=[WEATHER]))[2:] == (
        [("weather", {"city": "Rome"})], "tool_calls",
    )  # fmt: skip


@pytest.mark.parametrize("parallel", [True, False])
def test_a_call_that_is_cut_off_is_none(box: ModelKit, parallel: bool) -> None:
    """A client would run it, with half of a value."""
    text = CALL.format("Rome").partition("me")[0]
    settings = {"tools": [WEATHER], "parallel_tool_calls": parallel}
    assert read(replies(box, script(text, "", reason="length"), **settings)) == (text, "", [], "length")
    chunks = [*script(text)[:-1], GenerationChunk("", "", 1, finish_reason="stop", stop_string="me")]
    assert read(replies(box, chunks, **settings))[2:] == ([], "stop")


def test_nothing_is_told_of_an_answer_that_has_ended(box: ModelKit) -> None:
    """It may still run behind its only call, and is cancelled then; another answer goes on."""
    call, rest = CALL.format("Rome"), [GenerationChunk("more", "", 2), GenerationCancelled("cancelled")]
    service = service_of(box, *script(call, "x", reason="length"), *rest)
    prepared = service.prepare(
        GenerationRequest(QUESTION, n=2, tools=[WEATHER], parallel_tool_calls=False, options={"max_tokens": 9})
    )
    found = collected(service, prepared)
    for index in range(2):
        own = [event for event in found if event.index == index and not isinstance(event, ProgressEvent)]
        assert [type(event) for event in own] == [ToolCallEvent, FinishEvent]


def test_an_answer_that_has_ended_is_cancelled_while_others_run(box: ModelKit) -> None:
    """Of a call that was to be the only one, more would be written for nobody."""
    service = service_of(box, *script(CALL.format("Rome"), "x"))
    prepared = service.prepare(GenerationRequest(QUESTION, n=2, tools=[WEATHER], parallel_tool_calls=False))

    async def until_the_second_begins() -> list[object]:
        running = service.run(prepared)
        async for event in running:
            if event.index == 1:
                break
        found = list(service.engine.cancelled)  # type: ignore[attr-defined]
        await running.aclose()  # type: ignore[attr-defined]
        return found

    cancelled = asyncio.run(until_the_second_begins())
    assert cancelled
    assert all(job is prepared.requests[0] for job in cancelled)


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("heartbeat", [0.01, 1000.0])
def test_a_deadline_counts_from_the_beginning_of_the_request(
    box: ModelKit, monkeypatch: pytest.MonkeyPatch, silent: bool, heartbeat: float
) -> None:
    """What preparing took of the time is gone; and until then somebody is there, whatever the engine says."""
    service = service_of(box, timeout=1000.0, heartbeat=heartbeat)
    asked = service.prepare(GenerationRequest(QUESTION))
    monkeypatch.setattr(service, "deadline", lambda: pytest.fail("it counts anew"))
    if silent:
        monkeypatch.setattr(service.engine, "submit", lambda *given, **options: None)
    began = time.monotonic()
    seen: list[StreamEvent] = []

    async def collect() -> None:
        async for event in service.run(PreparedRequest.join([asked], deadline=began + 0.05)):
            seen.append(event)

    with pytest.raises(RequestTimeoutError, match="expected an answer within 1000 seconds"):
        asyncio.run(asyncio.wait_for(collect(), 30))
    assert time.monotonic() >= began + 0.05
    read = ProgressEvent(0, 0 if silent else 3, len(asked.prompt.input_ids))
    assert seen == [read] * len(seen)
    assert seen or silent


def test_who_waits_for_a_silent_engine_hears_that_somebody_is_there(
    box: ModelKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = service_of(box, heartbeat=0.001)
    monkeypatch.setattr(service.engine, "submit", lambda *given, **options: None)
    asked = service.prepare(GenerationRequest(QUESTION))

    async def first() -> StreamEvent:
        running = service.run(asked)
        try:
            return await anext(running)
        finally:
            await running.aclose()  # type: ignore[attr-defined]

    assert asyncio.run(first()) == ProgressEvent(0, 0, len(asked.prompt.input_ids))


def test_who_waits_while_a_call_is_written_hears_that_somebody_is_there(box: ModelKit) -> None:
    """A file in an argument takes minutes, in which nothing of it is sent: clients and proxies would give up."""
    service = service_of(box, *script("Look: ", *CALL.format("Rome"), ""), heartbeat=0.0)
    found = collected(service, service.prepare(GenerationRequest(QUESTION, tools=[WEATHER])))
    kinds = [type(event) for event in found]
    meanwhile = kinds[kinds.index(DeltaEvent) + 1 : kinds.index(ToolCallEvent)]
    assert meanwhile
    assert set(meanwhile) == {ProgressEvent}


def test_places_are_given_back_where_one_of_them_was_lost(box: ModelKit) -> None:
    """Those of the answers that were not begun: the others go with their answers."""
    service = service_of(box, *script("a"))
    places: Any = [Place(), Place(full=True), Place()]
    prepared = PreparedRequest.join([service.prepare(GenerationRequest(QUESTION, n=3))], places)
    with pytest.raises(KitClosedError):
        collected(service, prepared)
    assert [place.released for place in places] == [0, 1, 1]
    assert service.engine.cancelled == [prepared.requests[0]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("effort", ["low", "none"])
def test_an_effort_says_whether_to_think_whatever_else_does(box: ModelKit, effort: str) -> None:
    """As where Anthropic's messages send both; one that is sent alone is heard."""
    service = service_of(box)
    for thinks in (True, False, None):
        prepared = service.prepare(GenerationRequest(QUESTION, effort=effort, enable_thinking=thinks))
        assert prepared.prompt.in_reasoning == (effort != "none")
    for thinks in (True, False):
        assert service.prepare(GenerationRequest(QUESTION, enable_thinking=thinks)).prompt.in_reasoning is thinks


def test_what_a_request_says_comes_before_the_operator_s_defaults(box: ModelKit) -> None:
    defaults = AnswerDefaults({"temperature": 0.7, "top_k": 20, "max_tokens": 7})
    service = service_of(box, defaults=defaults)
    given = {"temperature": 0.0, "top_k": None, "presence_penalty": 0.5}
    found = [service.prepare(GenerationRequest(QUESTION, options=options)).requests[0] for options in ({}, given)]
    assert [(one.options.temperature, one.options.top_k, one.max_tokens) for one in found] == [
        (0.7, 20, 7),
        (0.0, 20, 7),
    ]
    assert [one.options.presence_penalty for one in found] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("defaults", "asked", "thinks", "budget"),
    [
        (AnswerDefaults(enable_thinking=False), {}, False, None),
        (AnswerDefaults(enable_thinking=False), {"enable_thinking": True}, True, None),
        (AnswerDefaults(enable_thinking=False), {"effort": "low"}, True, 1024),
        (AnswerDefaults(effort="none"), {}, False, None),
        (AnswerDefaults(effort="none"), {"enable_thinking": True}, True, None),
        (AnswerDefaults(effort="low"), {}, True, 1024),
        (AnswerDefaults(effort="low"), {"enable_thinking": True}, True, 1024),
        (AnswerDefaults(effort="low"), {"enable_thinking": True, "thinking_budget": 9}, True, 9),
        (AnswerDefaults(effort="low"), {"enable_thinking": False}, False, None),
        (AnswerDefaults(effort="low"), {"effort": "high"}, True, None),
        (AnswerDefaults(enable_thinking=True, thinking_budget=5), {}, True, 5),
        (AnswerDefaults(enable_thinking=True, thinking_budget=5), {"thinking_budget": 6}, True, 6),
        (AnswerDefaults(enable_thinking=True, thinking_budget=5), {"effort": "low"}, True, 1024),
    ],
)
def test_the_operator_decides_on_thinking_where_a_request_leaves_it_open(
    box: ModelKit, defaults: AnswerDefaults, asked: dict[str, Any], thinks: bool, budget: int | None
) -> None:
    prepared = service_of(box, defaults=defaults).prepare(GenerationRequest(QUESTION, **asked))
    limits = prepared.requests[0].thinking_budget
    assert prepared.prompt.in_reasoning is thinks
    assert (None if limits is None else limits._budget) == budget


def test_a_request_s_template_variables_come_before_the_operator_s(box: ModelKit) -> None:
    filled = AnswerDefaults(template={"one": 1, "two": 2}).fill(GenerationRequest(QUESTION, template={"two": 3}))
    assert filled.template == {"one": 1, "two": 3}


def test_an_effort_among_the_template_s_variables_is_said(box: ModelKit) -> None:
    asked = GenerationRequest(QUESTION, template={"reasoning_effort": "medium"})
    assert AnswerDefaults(effort="low", thinking_budget=5).fill(asked) == asked


def test_a_finished_prompt_goes_by_the_defaults_too(box: ModelKit) -> None:
    """Where there is no template to tell of reasoning."""
    defaults = AnswerDefaults({"max_tokens": 3}, enable_thinking=False, effort="low", template={"x": 1})
    with pytest.raises(OptionError, match="the chat template has no x"):
        service_of(box, defaults=defaults).prepare(GenerationRequest("Hello"))
    request = service_of(box, defaults=replace(defaults, template={})).prepare(GenerationRequest("Hello")).requests[0]
    assert request.max_tokens == 3


def test_no_video_is_decoded_beyond_the_deadline(box: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = box.process_prompt

    def process_prompt(prompt: Any, *, on_frames: Any, **options: Any) -> Any:
        asked.append(on_frames(1, 2))
        return real(prompt, **options)

    monkeypatch.setattr(box, "process_prompt", process_prompt)
    service, now = service_of(box), time.monotonic()
    for deadline in (now - 1, now + 1000):
        service.prepare(GenerationRequest(QUESTION), deadline)
    service.prepare(GenerationRequest(QUESTION))
    assert asked == [False, True, True]


@pytest.mark.parametrize("schema", [{}, {"type": "object"}])
def test_an_answer_that_goes_on_begins_no_json(box: ModelKit, schema: dict[str, Any]) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "It is"}]
    with pytest.raises(OptionError, match="response_format: expected none where an answer is continued"):
        service_of(box).prepare(GenerationRequest(begun, schema=schema, continue_final_message=True))


@pytest.mark.parametrize(
    ("schema", "choice", "parallel", "made"),
    [
        ({}, "auto", True, {"schema": {"type": "object"}, "parallel": True, "in_reasoning": False}),
        ({"type": "array"}, "auto", False, {"schema": {"type": "array"}, "parallel": False, "in_reasoning": False}),
        (None, "required", True, {"name": None, "parallel": True, "in_reasoning": False}),
        (None, {"name": "weather"}, False, {"name": "weather", "parallel": False, "in_reasoning": False}),
    ],
)
def test_what_a_grammar_of_calls_is_made_of(
    box: ModelKit, schema: Any, choice: Any, parallel: bool, made: dict[str, Any]
) -> None:
    """Beside calls an answer is JSON where that was asked for: an object if nothing more is said."""
    service, asked = service_of(box), []
    made_of = SimpleNamespace(tool_calls=lambda tools, **options: asked.append((tools, options)))
    service.__dict__["make_grammars"] = lambda: made_of
    service.prepare(
        GenerationRequest(
            QUESTION, tools=[WEATHER], tool_choice=choice, schema=schema, parallel_tool_calls=parallel,
            enable_thinking=False,
        )
    )  # fmt: skip
    assert asked == [([WEATHER], made)]


def test_grammars_are_made_once_by_whoever_comes_first(box: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = service_module.Grammars
    monkeypatch.setattr(service_module, "Grammars", lambda *of: (made.append(of), time.sleep(0.05), real(*of))[2])
    service = service_of(box)
    threads = [service.make_grammars_soon() for _ in range(3)]
    service.prepare(GenerationRequest(QUESTION, tools=[WEATHER]))
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_server_without_llguidance_still_takes_tools(box: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before there were grammars of calls; what needs one says so."""

    def missing(*of: object) -> None:
        raise OptionError("structured output needs llguidance")

    monkeypatch.setattr(service_module, "Grammars", missing)
    service = service_of(box)
    service.make_grammars_soon().join()
    service.prepare(GenerationRequest(QUESTION, tools=[WEATHER]))
    with pytest.raises(OptionError, match="needs llguidance"):
        service.prepare(GenerationRequest(QUESTION, tools=[WEATHER], strict_tools={"weather"}))
