"""Anthropic's messages as they come in and go out, field by field."""

import time
from typing import Any

import pytest

from mlx_qwen35.server.generation import GenerationRequest, Usage
from mlx_qwen35.server.protocols.message_blocks import is_changing
from mlx_qwen35.server.protocols.messages import MESSAGES, CountRequest, MessagesRequest
from mlx_qwen35.server.wire import ApiError, unused_fields
from tests.server.protocols.events import (
    CALL,
    CALL_JSON,
    called,
    context,
    delta,
    finish,
    id_of,
    progress,
    read,
    streamed,
    whole,
)

ASK = [{"role": "user", "content": "hi"}]
BODY = {"model": "small", "messages": ASK}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def counted(**fields: Any) -> GenerationRequest:
    (found,) = CountRequest.model_validate(BODY | fields).generation_requests()
    return found


def refused(**fields: Any) -> str:
    with pytest.raises(ApiError) as error:
        counted(**fields)
    assert (error.value.status, error.value.kind) == (400, "invalid_request_error")
    return str(error.value)


def test_a_thread_is_refused_so_that_clients_send_the_whole_conversation() -> None:
    """Otherwise their next request would be what is new alone. Anthropic's tool runner begins with one, unasked."""
    body = MessagesRequest.model_validate({**BODY, "max_tokens": 9, "thread": {"type": "create"}})
    with pytest.raises(ApiError, match="^thread: expected none: conversations are not kept here; send all") as error:
        unused_fields(body)
    details = {"error_code": "thread_unsupported_request"}
    assert MESSAGES.error(error.value)["error"]["details"] == details
    assert "details" not in MESSAGES.error(ApiError(400, "invalid_request_error", "x", "model"))["error"]
    assert unused_fields(CountRequest.model_validate({**BODY, "thread": None})) == []


def test_a_summary_of_the_conversation_is_refused() -> None:
    """A client would put the answer in the place of all that was said. Its tokens are counted all the same."""
    wanted = {**BODY, "compaction": {"type": "summarize"}}
    with pytest.raises(ApiError, match="^compaction: expected none: nothing is summarized here"):
        unused_fields(MessagesRequest.model_validate({**wanted, "max_tokens": 9}))
    assert [unused.place for unused in unused_fields(CountRequest.model_validate(wanted))] == ["compaction"]


def test_a_request_with_nothing_but_messages() -> None:
    """Reasoning comes only where it is asked for."""
    assert counted() == GenerationRequest(ASK, tools=[], enable_thinking=False)
    (found,) = MessagesRequest.model_validate({**BODY, "max_tokens": 9}).generation_requests()
    options = {"max_tokens": 9, "stop": None, "temperature": None, "top_p": None, "top_k": None}
    assert found == GenerationRequest(ASK, tools=[], enable_thinking=False, options=options)


def test_the_format_may_stand_where_it_stood_at_first() -> None:
    """Anthropic's SDKs before the end of 2025 send it there."""
    form, other = ({"type": "json_schema", "schema": schema} for schema in (SCHEMA, {"type": "object"}))
    assert counted(output_format=form).schema == counted(output_format=form, output_config={"format": form}).schema
    assert counted(output_format=form).schema == SCHEMA
    assert refused(output_format=other, output_config={"format": form}) == (
        "output_format: found another output_config.format"
    )


def test_a_request_with_everything() -> None:
    body = {
        **BODY, "max_tokens": 9, "stop_sequences": ["a"], "temperature": 0.5, "top_p": 0.25, "top_k": 20,
        "system": "Be kind.", "thinking": {"type": "enabled", "budget_tokens": 5},
        "tools": [{"name": "f", "description": "What it does.", "input_schema": SCHEMA, "type": "custom"},
                  {"name": "g", "description": "", "input_schema": {}, "strict": True}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "metadata": {"user_id": "me"}, "cache_control": {"type": "ephemeral"},
    }  # fmt: skip
    (found,) = MessagesRequest.model_validate(body).generation_requests()
    assert found == GenerationRequest(
        [{"role": "system", "content": "Be kind."}, *ASK],
        tools=[
            {"type": "function", "function": {"name": "f", "description": "What it does.", "parameters": SCHEMA}},
            {"type": "function", "function": {"name": "g", "parameters": {}}},
        ],
        strict_tools={"g"},
        tool_choice="required",
        parallel_tool_calls=False,
        enable_thinking=True,
        thinking_budget=5,
        schema=SCHEMA,
        options={"max_tokens": 9, "stop": ["a"], "temperature": 0.5, "top_p": 0.25, "top_k": 20},
    )


def test_a_system_message_in_parts() -> None:
    parts = [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be short."}]
    assert counted(system=parts).prompt == [{"role": "system", "content": "Be kind.\n\nBe short."}, *ASK]
    assert counted(system=[]).prompt == counted(system="").prompt == ASK


@pytest.mark.parametrize(
    ("asked", "choice"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "f"}, {"name": "f"}),
    ],
)
def test_choices(asked: dict[str, Any], choice: Any) -> None:
    for parallel in (True, False):
        found = counted(tool_choice=asked | {"disable_parallel_tool_use": not parallel})
        assert (found.tool_choice, found.parallel_tool_calls) == (choice, parallel)
    assert counted(tool_choice=asked | {"disable_parallel_tool_use": None}).parallel_tool_calls


def test_a_choice_has_a_name_if_it_is_a_tool() -> None:
    for asked in ({"type": "tool"}, {"type": "any", "name": "f"}, {"type": "auto", "name": "f"}):
        assert refused(tool_choice=asked) == "tool_choice: expected a name with type tool, and only then"


@pytest.mark.parametrize(
    ("thinking", "effort", "expected"),
    [
        (None, "high", (False, None, None)),
        ({"type": "disabled", "budget_tokens": 5}, "high", (False, None, None)),
        ({"type": "enabled"}, None, (True, None, None)),
        ({"type": "enabled", "budget_tokens": 5}, "low", (True, 5, "low")),
        ({"type": "adaptive"}, "low", (True, None, "low")),
        ({"type": "adaptive"}, "none", (True, None, "none")),
    ],
)
def test_ways_to_ask_for_reasoning(thinking: Any, effort: Any, expected: tuple[bool, int | None, str | None]) -> None:
    found = counted(thinking=thinking, output_config={"effort": effort})
    assert (found.enable_thinking, found.thinking_budget, found.effort) == expected


TEXT = {"type": "text", "text": "see:"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
LINK = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
THOUGHT = {"type": "thinking", "thinking": "so"}
USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "4"}


def told(role: str, *blocks: dict[str, Any]) -> list[dict[str, Any]]:
    """What a message of blocks becomes, behind one of text alone."""
    prompt: list[dict[str, Any]] = counted(messages=[*ASK, {"role": role, "content": list(blocks)}]).prompt
    assert prompt[0] == ASK[0]
    return prompt[1:]


@pytest.mark.parametrize(
    ("content", "continues"),
    [
        ("Once upon", True),
        ([{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "Once"}], True),
        ([{"type": "thinking", "thinking": "hm", "signature": ""}], False),
        (" ", False),
        ([{"type": "text", "text": "so"}, {"type": "tool_use", "id": "1", "name": "f", "input": {}}], False),
    ],
)
def test_what_the_assistant_said_last_is_continued(content: Any, continues: bool) -> None:
    last = {"role": "assistant", "content": content}
    assert counted(messages=[*ASK, last]).continue_final_message is continues
    assert not counted(messages=[*ASK, last, *ASK]).continue_final_message


def test_text_and_images_of_a_user() -> None:
    images = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
    assert told("user", TEXT, IMAGE, LINK) == [{"role": "user", "content": [TEXT, *images]}]
    assert told("user") == []


def test_results_come_before_what_the_user_says() -> None:
    results = [
        RESULT,
        {**RESULT, "content": [TEXT, LINK]},
        {**RESULT, "content": []},
        {"type": "tool_result", "tool_use_id": "toolu_1"},
    ]
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    contents = ("4", [TEXT, image], "", "")
    tools = [{"role": "tool", "tool_call_id": "toolu_1", "content": content} for content in contents]
    assert told("user", TEXT, *results) == [*tools, {"role": "user", "content": [TEXT]}]
    assert told("user", RESULT) == tools[:1]


def test_blocks_of_an_answer_are_one_message() -> None:
    more = {"type": "thinking", "thinking": "it is", "signature": "x"}
    call = {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    answer = {"role": "assistant", "content": "see:see:", "reasoning_content": "so\nit is", "tool_calls": [call, call]}
    assert told("assistant", THOUGHT, TEXT, USE, more, TEXT, USE) == [answer]
    assert told("assistant", TEXT) == [{"role": "assistant", "content": "see:"}]
    assert told("assistant") == [{"role": "assistant", "content": ""}]


@pytest.mark.parametrize(
    ("role", "block"),
    [("user", THOUGHT), ("user", USE), ("assistant", IMAGE), ("assistant", RESULT)],
)
def test_blocks_stand_where_they_can(role: str, block: dict[str, Any]) -> None:
    message = refused(messages=[{"role": role, "content": [TEXT, block]}])
    assert message == f"messages: a {block['type']} block cannot stand in a {role} message"


# Answers

USAGE = {
    "input_tokens": 7, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0, "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 2},
}  # fmt: skip


def head(number: int = 1) -> dict[str, Any]:
    return {"id": id_of("msg_", number), "type": "message", "role": "assistant", "model": "small"}


def answered(*events: Any) -> dict[str, Any]:
    return whole(MESSAGES, events, context(MESSAGES, {**BODY, "max_tokens": 9}))


def test_a_whole_answer() -> None:
    events = [progress(0), delta(reasoning="so"), delta("a", " it"), delta("b"), called(), called(), finish()]
    uses = [
        {"type": "tool_use", "id": id_of("toolu_", number), "name": "get_weather", "input": CALL.arguments}
        for number in (1, 2)
    ]
    thinking = {"type": "thinking", "thinking": "so it", "signature": "mlx-qwen35"}
    content = [thinking, {"type": "text", "text": "ab"}, *uses]
    expected = {**head(3), "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE}
    assert answered(*events) == expected
    assert answered(finish())["content"] == []


def test_a_prompt_that_is_only_read() -> None:
    """No token is Anthropic's way to have a prompt in the cache before its first question."""
    asked = context(MESSAGES, {**BODY, "max_tokens": 0})
    assert asked.prepared.generation.options["max_tokens"] == 1
    usage = {**USAGE, "output_tokens": 0, "output_tokens_details": {"thinking_tokens": 0}}
    events = [progress(4), delta("a", "so"), called(), finish()]
    ended = {"stop_reason": "max_tokens", "stop_sequence": None}
    assert whole(MESSAGES, events, asked) == {**head(), "content": [], **ended, "usage": usage}
    found = [read(part) for part in streamed(MESSAGES, events, asked)]
    assert [name for name, _ in found] == ["message_start", "ping", "message_delta", "message_stop"]
    assert found[-2][1] == event("message_delta", delta=ended, usage=usage)[1]


@pytest.mark.parametrize(
    ("reason", "stop_string", "shown"),
    [
        ("stop", None, "end_turn"),
        ("length", None, "max_tokens"),
        ("tool_calls", None, "tool_use"),
        ("stop", "-a", "stop_sequence"),
        ("stop", "", "stop_sequence"),
    ],
)
def test_why_an_answer_ended(reason: str, stop_string: str | None, shown: str) -> None:
    end = finish(reason, stop_string=stop_string)
    found = answered(end)
    assert (found["stop_reason"], found["stop_sequence"]) == (shown, stop_string)
    (_, streamed_end), _ = parts(end)[-2:]
    assert streamed_end["delta"] == {"stop_reason": shown, "stop_sequence": stop_string}


def parts(*events: Any) -> list[Any]:
    asked = context(MESSAGES, {**BODY, "max_tokens": 9, "stream": True})
    found = [read(part) for part in streamed(MESSAGES, events, asked)]
    assert all(name == data["type"] for name, data in found)
    return found


def start(cached: int) -> Any:
    usage = {
        "input_tokens": 11 - cached, "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0,
        "output_tokens": 0, "output_tokens_details": {"thinking_tokens": 0},
    }  # fmt: skip
    message = {**head(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    return event("message_start", message=message)


def event(kind: str, **data: Any) -> Any:
    return kind, {"type": kind, **data}


def opened(index: int, block: dict[str, Any]) -> Any:
    return event("content_block_start", index=index, content_block=block)


def added(index: int, kind: str, **data: Any) -> Any:
    return event("content_block_delta", index=index, delta={"type": kind, **data})


def closed(index: int) -> Any:
    return event("content_block_stop", index=index)


def end(reason: str) -> list[Any]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [event("message_delta", delta=delta, usage=USAGE), event("message_stop")]


def test_a_streamed_answer() -> None:
    """A block at a time, each with a number of its own; clients send back as reasoning only what is signed."""
    events = [
        progress(4), progress(8), delta(reasoning="so"), delta("a", " it"), delta("b"), called(), called(), delta("c"),
        finish("tool_calls"),
    ]  # fmt: skip
    use = {"type": "tool_use", "name": "get_weather", "input": {}}
    assert parts(*events) == [
        start(4),
        event("ping"),
        event("ping"),
        opened(0, {"type": "thinking", "thinking": "", "signature": ""}),
        added(0, "thinking_delta", thinking="so"),
        added(0, "thinking_delta", thinking=" it"),
        added(0, "signature_delta", signature="mlx-qwen35"),
        closed(0),
        opened(1, {"type": "text", "text": ""}),
        added(1, "text_delta", text="a"),
        added(1, "text_delta", text="b"),
        closed(1),
        opened(2, {**use, "id": id_of("toolu_", 2)}),
        added(2, "input_json_delta", partial_json=CALL_JSON),
        closed(2),
        opened(3, {**use, "id": id_of("toolu_", 3)}),
        added(3, "input_json_delta", partial_json=CALL_JSON),
        closed(3),
        opened(4, {"type": "text", "text": ""}),
        added(4, "text_delta", text="c"),
        closed(4),
        *end("tool_use"),
    ]


def test_a_stream_without_a_word() -> None:
    assert parts(delta(), finish()) == [start(0), *end("end_turn")]


def test_a_prompt_that_was_not_cached_at_all() -> None:
    assert parts(progress(0), finish(usage=Usage(11, 4, 7)))[0] == start(0)


def test_errors_in_anthropics_form() -> None:
    error = ApiError(504, "timeout_error", "too late", "field")
    expected = {"type": "error", "error": {"type": "timeout_error", "message": "too late"}}
    assert MESSAGES.error(error) == expected
    assert read(MESSAGES.error_event(error, 1)) == ("error", expected)


def test_a_text_of_spaces_is_looked_at_once() -> None:
    """A fraction of a second; from each space to the end again, minutes."""
    header = "x-anthropic-billing-header: cc_version=1;"
    assert is_changing(f"\n{header} \n \n")
    before = time.process_time()
    assert not is_changing(f"{header}{' ' * 200_000}\nx")
    assert time.process_time() - before < 1
