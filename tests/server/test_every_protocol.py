"""What the protocols promise alike: the same answers, usage, efforts and budgets, and who may call functions."""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.results import GenerationChunk, PrefillProgress
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import EngineFullError
from mlx_qwen35.runtime.engine import Reservation
from mlx_qwen35.runtime.request import Event, Request
from mlx_qwen35.server.media import MediaPolicy
from tests.server.clients import PARIS, RED_CIRCLE, SPELL, WEATHER, picture, raw
from tests.server.conftest import Running, serving
from tools.load.conversations import Conversation, Results, make_pool
from tools.load.protocols import PROTOCOLS, Answer, Protocol, wrong

NAMES = [protocol.name for protocol in PROTOCOLS]
BY_NAME: dict[str, Protocol] = {protocol.name: protocol for protocol in PROTOCOLS}
STAR = SPELL[0]["content"]
HOUSE = "Spell the word house."

every_protocol = pytest.mark.parametrize("name", NAMES)
streamed_or_whole = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a stream, but for OpenAI's last, which is no JSON."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def answer(server: Running, name: str, body: dict[str, Any], *, streamed: bool) -> Answer:
    usage = {"stream_options": {"include_usage": True}} if name == "chat" else {}
    status, _, text = raw(server.url, BY_NAME[name].path, body | ({"stream": True, **usage} if streamed else {}))
    assert status == 200, text
    return BY_NAME[name].joined(events_of(text)) if streamed else BY_NAME[name].whole(json.loads(text))


def question(name: str, text: str, *, thinks: bool = False) -> dict[str, Any]:
    """A request without anything special."""
    messages = [{"role": "user", "content": text}]
    if name == "chat":
        return {"messages": messages, "temperature": 0, "max_tokens": 120, "enable_thinking": thinks}
    if name == "responses":
        effort = {"effort": "high" if thinks else "none"}
        return {"input": messages, "temperature": 0, "max_output_tokens": 120, "reasoning": effort}
    thinking = {"type": "enabled" if thinks else "disabled"}
    return {"model": "box", "messages": messages, "temperature": 0, "max_tokens": 120, "thinking": thinking}


# What does not fit

# By which programs know that a conversation has to be shortened: Claude Code, litellm, pi, and Cline.
TOO_LONG = (
    r"prompt is too long[^0-9]*\d+ tokens > \d+",
    r"this model's maximum context length is",
    r"maximum context length is \d+ tokens",
    r"\bcontext\s*(?:length|window|limit)\b",
)


@pytest.mark.parametrize("few", ["tokens", "bytes"])
@every_protocol
def test_what_is_too_long_is_told_in_the_words_that_programs_know(box: ModelKit, name: str, few: str) -> None:
    """Too long for the model, or for the memory that there is."""
    memory = box.guard.needs(1000, 16)
    with ModelKit.load(BOX, **({"max_context": 1000} if few == "tokens" else {"memory_limit": memory})) as kit:
        fits = 999 if few == "tokens" else kit.guard.longest()
        with serving(kit) as server:
            body = question(name, "star " * 2000)
            for more in ({}, {"stream": True}):
                status, _, text = raw(server.url, BY_NAME[name].path, body | more)
                error = json.loads(text)["error"]
                assert (status, error["type"]) == (400, "invalid_request_error")
                assert all(re.search(words, error["message"]) for words in TOO_LONG), error["message"]
                found, most = re.findall(r"(\d+) tokens > (\d+) maximum", error["message"])[0]
                assert int(found) > 2000
                assert int(most) == fits
                # OpenAI's, by which LangChain and Codex go.
                assert name == "messages" or error["code"] == "context_length_exceeded"


# The same answers


def talk(server: Running, name: str, conversation: Conversation, *, streamed: bool) -> list[Answer]:
    """All answers of a conversation, each turn with what the earlier ones gave."""
    protocol, history, found = BY_NAME[name], [], list[Answer]()
    for turn in conversation.turns:
        before = found[-1] if found else None
        if isinstance(turn, Results) and not (before and before.calls):
            break
        history += protocol.say(turn, before)
        body = protocol.body(conversation, history, streamed=streamed, forced=conversation.forced and before is None)
        found.append(answer(server, name, body, streamed=streamed))
        history += found[-1].echo
    return found


@pytest.fixture(scope="module")
def told(server: Running) -> dict[str, tuple[Conversation, list[Answer]]]:
    """Conversations by kind, with their answers as whole chat completions."""
    return {one.kind: (one, talk(server, "chat", one, streamed=False)) for one in make_pool(21, 4)}


@pytest.mark.some(2)
@pytest.mark.parametrize("kind", ["text", "image", "tools", "schema"])
@every_protocol
def test_a_conversation_is_the_same_in_every_protocol(
    server: Running, told: dict[str, tuple[Conversation, list[Answer]]], kind: str, name: str
) -> None:
    """Streamed, against the whole answers of one of them."""
    conversation, expected = told[kind]
    found = talk(server, name, conversation, streamed=True)
    assert [wrong(right, one) for right, one in zip(expected, found, strict=True)] == [None] * len(expected)
    assert all(one.text or one.calls for one in found)
    assert (kind == "tools") == any(one.calls for one in found)


def items_of(events: list[dict[str, Any]]) -> list[str]:
    """Kinds of the items of a streamed response, each one opened, filled and closed under its own number and id."""
    ids: list[str] = []
    texts: list[str] = []
    done: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "response.output_item.added":
            assert len(ids) == len(done) == event["output_index"]
            ids.append(event["item"]["id"])
            texts.append("")
        elif event["type"] == "response.output_item.done":
            done.append(event["item"])
        if "output_index" in event:
            at = event["output_index"]
            assert (at, event.get("item_id", ids[at])) == (len(ids) - 1, ids[-1])
            texts[at] += event.get("delta", "")
    assert done == events[-1]["response"]["output"]
    assert texts == [item["content"][0]["text"] if "content" in item else item["arguments"] for item in done]
    assert [item["id"] for item in done] == ids
    return [item["type"] for item in done]


def blocks_of(events: list[dict[str, Any]]) -> list[str]:
    """Kinds of the blocks of a streamed message, of which one is open at a time."""
    kinds: list[str] = []
    is_open = False
    for event in events:
        if event["type"] == "content_block_start":
            kinds.append(event["content_block"]["type"])
        if event["type"].startswith("content_block"):
            assert event["index"] == len(kinds) - 1
            assert is_open == (event["type"] != "content_block_start")
            is_open = event["type"] != "content_block_stop"
    assert not is_open
    return kinds


@pytest.mark.parametrize(
    ("name", "parts", "kinds"),
    [
        ("responses", items_of, {"thinking": "reasoning", "text": "message", "call": "function_call"}),
        ("messages", blocks_of, {"thinking": "thinking", "text": "text", "call": "tool_use"}),
    ],
)
def test_a_stream_is_made_of_parts(
    server: Running,
    request: pytest.FixtureRequest,
    name: str,
    parts: Callable[[list[dict[str, Any]]], list[str]],
    kinds: dict[str, str],
) -> None:
    """Reasoning and text from the model, text and calls as scripted."""

    def found(body: dict[str, Any]) -> list[str]:
        return parts(events_of(raw(server.url, BY_NAME[name].path, body | {"stream": True})[2]))

    assert found(question(name, STAR, thinks=True)) == [kinds["thinking"], kinds["text"]]
    request.getfixturevalue("two_calls")
    assert found(with_functions(name, STAR)) == [kinds["text"], kinds["call"], kinds["call"]]


# Length


@pytest.mark.parametrize("name", ["chat", "responses"])
def test_an_answer_may_have_to_go_on(server: Running, name: str) -> None:
    """Benchmarks ask for answers of one length: as many tokens as there may be, or at least so many."""
    limit = "max_output_tokens" if name == "responses" else "max_tokens"
    body = question(name, STAR) | {limit: 30}
    short = answer(server, name, body, streamed=False)
    assert short.reason == "stop"
    endless = answer(server, name, body | {"ignore_eos": True}, streamed=True)
    assert endless.reason == "length"
    assert endless.text.startswith(short.text)
    longer = answer(server, name, body | {"min_tokens": 20}, streamed=True)
    assert len(short.text) < len(longer.text) <= len(endless.text)
    assert endless.text.startswith(longer.text)
    status, _, text = raw(server.url, BY_NAME[name].path, body | {"min_tokens": 31})
    assert status == 400
    assert "min_tokens: expected a whole number from 0 to 30, found 31" in text


def test_a_grammar_ends_an_answer_that_was_to_go_on(server: Running) -> None:
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "state", "schema": schema}}
    found = answer(
        server, "chat", question("chat", STAR) | {"response_format": wanted, "ignore_eos": True}, streamed=False
    )
    assert found.reason == "stop"
    assert json.loads(found.text)["on"] in (True, False)


# Usage


@dataclass(frozen=True)
class Tokens:
    """As a protocol counts them; `reasoning` is 0 where it has no field for that."""

    prompt: int
    cached: int
    written: int
    reasoning: int


def completion_tokens(usage: dict[str, Any]) -> Tokens:
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return Tokens(
        usage["prompt_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
        usage["completion_tokens"],
        usage.get("completion_tokens_details", {"reasoning_tokens": 0})["reasoning_tokens"],
    )


def response_tokens(usage: dict[str, Any]) -> Tokens:
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    return Tokens(
        usage["input_tokens"],
        usage["input_tokens_details"]["cached_tokens"],
        usage["output_tokens"],
        usage["output_tokens_details"]["reasoning_tokens"],
    )


def message_tokens(usage: dict[str, Any]) -> Tokens:
    assert usage["cache_creation_input_tokens"] == 0
    cached = usage["cache_read_input_tokens"]
    thought = usage["output_tokens_details"]["thinking_tokens"]
    return Tokens(usage["input_tokens"] + cached, cached, usage["output_tokens"], thought)


COUNTS: dict[str, Callable[[dict[str, Any]], Tokens]] = {
    "chat": completion_tokens, "completions": completion_tokens, "responses": response_tokens,
    "messages": message_tokens,
}  # fmt: skip
# For each of them two words that no other test spells.
WORDS = {
    "chat": ("lamp", "rose"), "completions": ("fork", "milk"), "responses": ("boat", "bell"),
    "messages": ("corn", "lake"),
}  # fmt: skip


def tokens_of(server: Running, name: str, body: dict[str, Any], *, streamed: bool) -> Tokens:
    """What a request's usage says; of a stream, what its end says."""
    path = "/v1/completions" if name == "completions" else BY_NAME[name].path
    if not streamed:
        return COUNTS[name](json.loads(raw(server.url, path, body)[2])["usage"])
    options = {"stream_options": {"include_usage": True}} if name in ("chat", "completions") else {}
    events = events_of(raw(server.url, path, body | {"stream": True, **options})[2])
    if name == "responses":
        assert [event["response"]["usage"] for event in events if "response" in event][:-1] == [None, None]
        return response_tokens(events[-1]["response"]["usage"])
    if name != "messages":
        return completion_tokens(events[-1]["usage"])
    (start,) = (message_tokens(event["message"]["usage"]) for event in events if event["type"] == "message_start")
    (end,) = (message_tokens(event["usage"]) for event in events if event["type"] == "message_delta")
    assert (start.prompt, start.cached, start.written) == (end.prompt, end.cached, 0)
    return end


@pytest.mark.some(2)
@streamed_or_whole
@pytest.mark.parametrize("name", COUNTS)
def test_usage_counts_the_prompt_what_was_cached_and_the_answer(
    server: Running, box: ModelKit, name: str, streamed: bool
) -> None:
    # Nobody else asks this.
    text = f"Spell the word {WORDS[name][streamed]}."
    if name == "completions":
        prompt, body = box.process_prompt(text), {"prompt": text, "temperature": 0, "max_tokens": 8}
        chunks = list(box.stream(prompt, temperature=0.0, max_tokens=8, cache_prompt=False))
    else:
        prompt, body = box.process_prompt([{"role": "user", "content": text}]), question(name, text, thinks=True)
        chunks = list(box.stream(prompt, temperature=0.0, max_tokens=120, cache_prompt=False))
    length = len(prompt.input_ids)
    reasoning = sum(chunk.in_reasoning for chunk in chunks)
    assert (reasoning > 0) == (name != "completions")
    assert tokens_of(server, name, body, streamed=streamed) == Tokens(length, 0, len(chunks), reasoning)
    # All but the last token, which the first one of the answer is made of.
    assert tokens_of(server, name, body, streamed=streamed) == Tokens(length, length - 1, len(chunks), reasoning)


@pytest.mark.some(1)
@streamed_or_whole
@pytest.mark.parametrize("name", ["chat", "completions"])
def test_the_prompt_of_several_answers_counts_once(server: Running, box: ModelKit, name: str, streamed: bool) -> None:
    letter = box.tokenizer.encode("a")[0]
    fixed = {"n": 3, "max_tokens": 4, "logit_bias": {str(letter): 100.0}}
    text = f"{name}, {'streamed' if streamed else 'whole'}: three times"
    if name == "chat":
        body = question(name, text) | fixed
        lengths = [len(box.process_prompt(body["messages"], enable_thinking=False).input_ids)]
    else:
        prompts = [text, f"other {text}"]
        body, lengths = {"prompt": prompts, **fixed}, [len(box.tokenizer.encode(prompt)) for prompt in prompts]
    written = 3 * 4 * len(lengths)
    assert tokens_of(server, name, body, streamed=streamed) == Tokens(sum(lengths), 0, written, 0)
    known = sum(lengths) - len(lengths)
    assert tokens_of(server, name, body, streamed=streamed) == Tokens(sum(lengths), known, written, 0)


@pytest.mark.parametrize("name", ["chat", "completions"])
def test_a_stream_says_its_usage_only_where_it_is_asked_to(server: Running, name: str) -> None:
    body = question("chat", STAR) if name == "chat" else {"prompt": STAR, "max_tokens": 2}
    path = "/v1/completions" if name == "completions" else BY_NAME[name].path
    events = events_of(raw(server.url, path, body | {"stream": True})[2])
    assert all(event["choices"] and "usage" not in event for event in events)


# Efforts and budgets


@pytest.fixture
def requests(server: Running, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What would have reached the engine, which takes nothing."""
    found: list[Request] = []

    def submit(request: Request, sink: Callable[[Event], None], *, reservation: Reservation) -> object:
        reservation.release()
        found.append(request)
        raise EngineFullError("nothing is taken")

    monkeypatch.setattr(server.engine, "submit", submit)
    return found


def is_closed_after(request: Request, tokens: int, kit: ModelKit) -> bool:
    """Whether reasoning of so many tokens is ended, whatever the model would say next."""
    ids = [int(token) for token in request.prompt.input_ids[-1:]]
    logits, processors = mx.zeros(kit.config.text.vocab_size), request.make_processors()
    for history in (ids, ids + kit.tokenizer.encode("a") * tokens):
        scores = logits
        for processor in processors:
            scores = processor(mx.array(history), scores)
    return bool(mx.any(scores == -mx.inf))


def efforts(name: str, effort: str) -> dict[str, Any]:
    """How a request asks for so much reasoning."""
    if name == "chat":
        return {"reasoning_effort": effort}
    if name == "responses":
        return {"reasoning": {"effort": effort}}
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}


@pytest.mark.parametrize(("effort", "budget"), [("low", 1024), ("medium", 8192), ("high", None), ("max", None)])
@every_protocol
def test_an_effort_is_a_budget(
    server: Running, box: ModelKit, requests: list[Request], name: str, effort: str, budget: int | None
) -> None:
    body = {field: value for field, value in question(name, STAR).items() if field != "enable_thinking"}
    assert raw(server.url, BY_NAME[name].path, body | efforts(name, effort))[0] == 429
    (request,) = requests
    assert request.prompt.in_reasoning
    if budget is None:
        assert not is_closed_after(request, 20_000, box)
    else:
        assert not is_closed_after(request, budget - 1, box)
        assert is_closed_after(request, budget, box)


@pytest.mark.parametrize("effort", ["none", "minimal"])
@every_protocol
def test_the_least_efforts_are_no_reasoning(
    server: Running, box: ModelKit, requests: list[Request], name: str, effort: str
) -> None:
    body = {field: value for field, value in question(name, STAR).items() if field != "enable_thinking"}
    assert raw(server.url, BY_NAME[name].path, body | efforts(name, effort))[0] == 429
    assert requests[0].prompt.input_ids.tolist() == box.process_prompt(SPELL, enable_thinking=False).input_ids.tolist()


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("chat", {"thinking_budget": 7}),
        ("chat", {"thinking_budget": 7, "reasoning_effort": "low"}),
        ("chat", {"thinking_budget": 7, "reasoning_effort": "high"}),
        ("messages", {"thinking": {"type": "enabled", "budget_tokens": 7}}),
        ("messages", {"thinking": {"type": "adaptive", "budget_tokens": 7}, "output_config": {"effort": "low"}}),
        ("messages", {"thinking": {"type": "enabled", "budget_tokens": 7}, "output_config": {"effort": "high"}}),
    ],
)
def test_a_budget_in_tokens_goes_before_an_effort(
    server: Running, box: ModelKit, requests: list[Request], name: str, asked: dict[str, Any]
) -> None:
    assert raw(server.url, BY_NAME[name].path, question(name, STAR, thinks=True) | asked)[0] == 429
    (request,) = requests
    assert not is_closed_after(request, 6, box)
    assert is_closed_after(request, 7, box)


@pytest.mark.some(2)
@streamed_or_whole
@pytest.mark.parametrize(
    ("name", "budget"),
    [("chat", {"thinking_budget": 2}), ("messages", {"thinking": {"type": "enabled", "budget_tokens": 2}})],
)
def test_a_budget_closes_the_reasoning_and_the_answer_follows(
    server: Running, name: str, budget: dict[str, Any], streamed: bool
) -> None:
    free = answer(server, name, question(name, STAR, thinks=True), streamed=streamed)
    found = answer(server, name, question(name, STAR, thinks=True) | budget, streamed=streamed)
    assert free.reasoning == "The word is star."
    assert 0 < len(found.reasoning) < len(free.reasoning)
    assert free.reasoning.startswith(found.reasoning)
    assert (found.text != "", found.reason) == (True, "stop")


# Functions

CITIES = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
FUNCTIONS = [{**WEATHER, "parameters": CITIES}, {**WEATHER, "name": "other", "parameters": CITIES}]


def with_functions(name: str, text: str, choice: str = "auto", *, parallel: bool = True) -> dict[str, Any]:
    """A question with two functions; `choice` is "auto", "none", "required", or the one to call."""
    named = choice not in ("auto", "none", "required")
    if name == "messages":
        tools = [
            {"name": one["name"], "description": one["description"], "input_schema": one["parameters"]}
            for one in FUNCTIONS
        ]
        chosen = {"type": "tool", "name": choice} if named else {"type": {"required": "any"}.get(choice, choice)}
        off = {} if parallel else {"disable_parallel_tool_use": True}
        return question(name, text) | {"tools": tools, "tool_choice": chosen | off}
    wrapped = [{"type": "function", **({"function": one} if name == "chat" else one)} for one in FUNCTIONS]
    by_name: Any = {"type": "function", **({"function": {"name": choice}} if name == "chat" else {"name": choice})}
    off = {} if parallel else {"parallel_tool_calls": False}
    return question(name, text) | {"tools": wrapped, "tool_choice": by_name if named else choice, **off}


@pytest.mark.some(1)
@streamed_or_whole
@every_protocol
def test_the_model_decides_whether_to_call(server: Running, name: str, streamed: bool) -> None:
    found = answer(server, name, with_functions(name, PARIS[0]["content"]), streamed=streamed)
    assert (found.calls, found.reason) == ((("get_weather", '{"city": "Paris"}'),), "tool_calls")
    found = answer(server, name, with_functions(name, HOUSE), streamed=streamed)
    assert (found.text, found.calls, found.reason) == ("h-o-u-s-e.", (), "stop")


@pytest.mark.some(2)
@streamed_or_whole
@every_protocol
def test_a_function_is_called_by_its_schema(
    server: Running, monkeypatch: pytest.MonkeyPatch, name: str, streamed: bool
) -> None:
    """Wherever the model decides to call: it would say Paris. Text is left alone, and so are calls where that is wanted
    and the function is not strict.
    """

    def asked(text: str, strict: bool) -> dict[str, Any]:
        body = deepcopy(with_functions(name, text))
        for tool in body["tools"]:
            described = tool.get("function", tool)
            described["strict"] = strict
            key = "input_schema" if name == "messages" else "parameters"
            described[key] = CITIES | {"properties": {"city": {"enum": ["Oslo", "Rome"]}}}
        return body

    schema = {"Oslo", "Rome"}
    for hold, strict, cities in (
        (True, False, schema),
        (True, True, schema),
        (False, True, schema),
        (False, False, {"Paris"}),
    ):
        monkeypatch.setattr(server.service, "hold_calls", hold)
        found = answer(server, name, asked(PARIS[0]["content"], strict), streamed=streamed)
        ((called, arguments),) = found.calls
        assert (called, json.loads(arguments).keys(), found.reason) == ("get_weather", {"city"}, "tool_calls")
        assert json.loads(arguments)["city"] in cities
        found = answer(server, name, asked(HOUSE, strict), streamed=streamed)
        assert (found.text, found.calls, found.reason) == ("h-o-u-s-e.", (), "stop")


@pytest.mark.some(1)
@streamed_or_whole
@every_protocol
def test_none_makes_calls_impossible(server: Running, name: str, streamed: bool) -> None:
    """Where the model would call: not even a call's beginning is written."""
    found = answer(server, name, with_functions(name, PARIS[0]["content"], "none"), streamed=streamed)
    assert (found.calls, found.reason) == ((), "stop")
    assert found.text
    assert "<tool_call>" not in found.text


def test_none_goes_before_a_bias(server: Running, box: ModelKit) -> None:
    call = box.tokenizer.control_id("<tool_call>")
    body = with_functions("chat", PARIS[0]["content"], "none") | {"logit_bias": {str(call): 100.0}}
    assert "<tool_call>" not in answer(server, "chat", body, streamed=False).text


@pytest.mark.some(1)
@streamed_or_whole
@every_protocol
def test_a_call_can_be_forced(server: Running, name: str, streamed: bool) -> None:
    """Where the model would not call, and of a function that it would not choose."""
    any_one = answer(server, name, with_functions(name, STAR, "required"), streamed=streamed)
    assert any_one.reason == "tool_calls"
    assert {function for function, _ in any_one.calls} <= {"get_weather", "other"}
    named = answer(server, name, with_functions(name, PARIS[0]["content"], "other"), streamed=streamed)
    assert (named.calls, named.reason) == ((("other", '{"city": "Paris"}'),), "tool_calls")


@pytest.fixture
def two_calls(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model calls two functions, whatever it is asked."""
    call = "<tool_call>\n<function={}>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
    texts = ["Let me look.\n\n", call.format("get_weather"), "\n", call.format("other"), ""]

    def submit(request: Request, sink: Callable[[Event], None], *, reservation: Reservation) -> object:
        reservation.release()
        sink(PrefillProgress(0, len(request.prompt.input_ids)))
        for number, text in enumerate(texts, start=1):
            sink(GenerationChunk(text, "", number, finish_reason="stop" if number == len(texts) else None))
        return request

    monkeypatch.setattr(server.engine, "submit", submit)
    monkeypatch.setattr(server.engine, "cancel", lambda job: None)


@streamed_or_whole
@pytest.mark.parametrize("choice", ["auto", "required"])
@every_protocol
def test_calls_may_be_held_to_one(server: Running, two_calls: None, name: str, choice: str, streamed: bool) -> None:
    found = answer(server, name, with_functions(name, STAR, choice), streamed=streamed)
    assert [function for function, _ in found.calls] == ["get_weather", "other"]
    found = answer(server, name, with_functions(name, STAR, choice, parallel=False), streamed=streamed)
    assert (found.text, found.reason) == ("Let me look.", "tool_calls")
    assert [function for function, _ in found.calls] == ["get_weather"]


# System messages


@pytest.mark.parametrize("role", ["developer", "system"])
@pytest.mark.parametrize("content", ["Be kind.", [{"type": "input_text", "text": "Be kind."}]], ids=["text", "parts"])
def test_instructions_stand_before_a_system_item(
    server: Running, box: ModelKit, requests: list[Request], role: str, content: Any
) -> None:
    """Both are one system message, since the template takes no second one."""
    items = [{"role": role, "content": content}, *SPELL]
    body = question("responses", STAR) | {"input": items, "instructions": "You are small."}
    assert raw(server.url, "/v1/responses", body)[0] == 429
    expected = [{"role": "system", "content": "You are small.\n\nBe kind."}, *SPELL]
    right = box.process_prompt(expected, enable_thinking=False).input_ids.tolist()
    assert [request.prompt.input_ids.tolist() for request in requests] == [right]


def test_instructions_beside_a_developer_item_are_answered(client: Any) -> None:
    items = [{"role": "developer", "content": "Be kind."}, *SPELL]
    found = client.responses.create(
        model="box", instructions="You are small.", input=items, temperature=0.0, reasoning={"effort": "none"}
    )
    assert (found.output_text, found.status) == ("s-t-a-r.", "completed")


# Images


def with_pictures(name: str) -> list[dict[str, Any]]:
    """Two pictures in two messages, as a request's fields."""
    url = picture(RED_CIRCLE)
    if name == "chat":
        part: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
    elif name == "responses":
        part = {"type": "input_image", "image_url": url}
    else:
        source = {"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]}
        part = {"type": "image", "source": source}
    turn = {"role": "user", "content": [part]}
    return [turn, {"role": "assistant", "content": "A red circle."}, turn]


@pytest.mark.thorough
def test_the_number_of_pictures_is_that_of_the_whole_request(box: ModelKit) -> None:
    """Not of each message."""
    with serving(box, MediaPolicy(max_images=1)) as strict, serving(box, MediaPolicy(max_images=2)) as enough:
        for name in NAMES:
            field = "input" if name == "responses" else "messages"
            body = question(name, STAR) | {field: with_pictures(name)}
            status, _, text = raw(strict.url, BY_NAME[name].path, body)
            assert (status, "expected at most 1 images in one request, found 2" in text) == (400, True), text
            assert raw(enough.url, BY_NAME[name].path, body)[0] == 200
