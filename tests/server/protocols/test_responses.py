"""OpenAI's responses as they come in and go out, field by field."""

import re
import time
from typing import Any

import pytest

from mlx_qwen35.server.generation import GenerationRequest
from mlx_qwen35.server.protocols.common import SamplingFields
from mlx_qwen35.server.protocols.response_items import MAX_UNSEALED, as_json, listed, sealed
from mlx_qwen35.server.protocols.responses import RESPONSES, ResponsesRequest
from mlx_qwen35.server.stored import StoredResponse, StoredResponses
from mlx_qwen35.server.wire import ApiError, unused_fields
from tests.server.protocols.events import (
    CALL_JSON,
    NOW,
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
NO_SCORES = {"logprobs": False, "top_logprobs": 0}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def translated(asked: Any = "hi", **fields: Any) -> GenerationRequest:
    (found,) = ResponsesRequest.model_validate({"input": asked, **fields}).generation_requests()
    return found


def test_a_request_with_nothing_but_input() -> None:
    options = {"max_tokens": None, **NO_SCORES, **SamplingFields().sampling()}
    assert translated() == GenerationRequest(ASK, tools=[], options=options)


def test_a_request_with_everything() -> None:
    tools = [{"type": "function", "name": "f", "description": "What it does.", "parameters": SCHEMA, "strict": True}]
    found = translated(
        instructions="Be kind.", tools=tools, tool_choice={"type": "function", "name": "f"}, parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}, reasoning={"effort": "low"},
        max_output_tokens=9, temperature=0.5, top_p=0.25, presence_penalty=0.75, frequency_penalty=-0.5,
        metadata={"a": "b"}, store=False,
    )  # fmt: skip
    function = {"name": "f", "description": "What it does.", "parameters": SCHEMA}
    assert found == GenerationRequest(
        [{"role": "system", "content": "Be kind."}, *ASK],
        tools=[{"type": "function", "function": function}],
        strict_tools={"f"},
        tool_choice={"name": "f"},
        parallel_tool_calls=False,
        effort="low",
        schema=SCHEMA,
        options={
            "max_tokens": 9,
            **NO_SCORES,
            **SamplingFields().sampling(),
            "temperature": 0.5,
            "top_p": 0.25,
            "presence_penalty": 0.75,
            "frequency_penalty": -0.5,
        },
    )


def test_what_other_servers_have_besides_is_honoured_as_in_chat_completions() -> None:
    sampling = {
        "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.5, "seed": 3, "stop": ["x"], "logit_bias": {"7": -1.0},
        "min_tokens": 3, "ignore_eos": True,
    }  # fmt: skip
    asked = {**sampling, "enable_thinking": False, "thinking_budget": 5, "chat_template_kwargs": {"a": 1}}
    found = translated(**asked)
    options = {"max_tokens": None, **NO_SCORES, **SamplingFields.model_validate(sampling).sampling()}
    assert found.options == options
    assert (found.enable_thinking, found.thinking_budget, found.template) == (False, 5, {"a": 1})
    found = translated(chat_template_kwargs={"enable_thinking": False})
    assert (found.enable_thinking, found.template) == (False, {})
    with pytest.raises(ApiError, match=r"chat_template_kwargs\.enable_thinking: expected one bool"):
        translated(enable_thinking=True, chat_template_kwargs={"enable_thinking": False})
    assert unused_fields(ResponsesRequest.model_validate({"input": "hi", **asked})) == []


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("structured_outputs", {"regex": "a"}, "send text.format with a JSON schema"),
        ("use_beam_search", True, "not supported"),
        ("bad_words", ["a"], "send logit_bias"),
    ],
)
def test_what_other_servers_have_and_answers_would_be_others_without_is_refused(
    field: str, value: Any, told: str
) -> None:
    with pytest.raises(ApiError, match=f"^{field}: expected none: {re.escape(told)}$"):
        unused_fields(ResponsesRequest.model_validate({"input": "hi", field: value}))


def test_what_belongs_to_tools_that_run_elsewhere_is_included_as_nothing() -> None:
    assert translated(include=["web_search_call.action.sources"]) == translated()


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]}, (True, 0)),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 4}, (True, 4)),
        ({"top_logprobs": 4}, (True, 4)),
        ({"top_logprobs": 0}, (False, 0)),
        ({}, (False, 0)),
    ],
)
def test_log_probabilities_are_asked_for_in_two_ways(fields: dict[str, Any], asked: tuple[bool, int]) -> None:
    options = translated(**fields).options
    assert (options["logprobs"], options["top_logprobs"]) == asked


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
@pytest.mark.parametrize("parallel", [None, True])
def test_choices(choice: str, parallel: bool | None) -> None:
    found = translated(tool_choice=choice, parallel_tool_calls=parallel)
    assert (found.tool_choice, found.parallel_tool_calls) == (choice, True)


def test_forms_of_an_answer() -> None:
    for text in (None, {}, {"format": None}, {"format": {"type": "text"}}):
        assert translated(text=text).schema is None
    assert translated(text={"format": {"type": "json_object"}}).schema == {}
    assert translated(text={"format": {"type": "json_object", "schema": SCHEMA}}).schema == SCHEMA


def test_reasoning_only_as_far_as_it_is_asked_for() -> None:
    for reasoning, expected in ((None, None), ({}, None), ({"effort": "none"}, "none"), ({"effort": "high"}, "high")):
        assert translated(reasoning=reasoning).effort == expected


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_stand_before_a_system_item(role: str) -> None:
    """As two messages: what becomes of them is for the template to say."""
    kind = {"role": "system", "content": "Be kind."}
    short = {"role": "system", "content": "Be short."}
    assert translated([{"role": role, "content": "Be short."}, *ASK], instructions="Be kind.").prompt == [
        kind, short, *ASK,
    ]  # fmt: skip
    item = {"role": role, "content": [{"type": "input_text", "text": "Be short."}]}
    parts = {"role": "system", "content": [{"type": "text", "text": "Be short."}]}
    assert translated([item, *ASK], instructions="Be kind.").prompt == [kind, parts, *ASK]
    assert translated([item], instructions="").prompt == [parts]


def test_instructions_stand_before_everything_else() -> None:
    later = [*ASK, {"role": "system", "content": "Be short."}]
    kind = {"role": "system", "content": "Be kind."}
    assert translated(later, instructions="Be kind.").prompt == [kind, *later]
    assert translated([], instructions="Be kind.").prompt == [kind]


def test_items_in_a_row_are_one_message_of_the_assistant() -> None:
    def item(content: Any) -> dict[str, Any]:
        return {"type": "message", "role": "assistant", "content": content}

    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'}
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "short"}]}
    full = [{"type": "reasoning_text", "text": "so"}, {"type": "reasoning_text", "text": "it is"}]
    pieces = item([{"type": "output_text", "text": "b"}, {"type": "output_text", "text": "c"}])
    output = {"type": "function_call_output", "call_id": "c", "output": "4"}
    seen = [{"type": "input_text", "text": "see:"}, {"type": "input_image", "image_url": "data:x"}]
    items = [
        *ASK, {**thought, "content": full}, item("a"), pieces, call, call, output, {**output, "output": seen}, thought,
        call, {"role": "user", "content": seen}, item("d"),
    ]  # fmt: skip
    shown = [{"type": "text", "text": "see:"}, {"type": "image_url", "image_url": {"url": "data:x"}}]
    made = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert translated(items).prompt == [
        *ASK,
        {"role": "assistant", "content": "abc", "reasoning_content": "so\nit is", "tool_calls": [made, made]},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
        {"role": "tool", "tool_call_id": "c", "content": shown},
        {"role": "assistant", "content": "", "reasoning_content": "short", "tool_calls": [made]},
        {"role": "user", "content": shown},
        {"role": "assistant", "content": "d"},
    ]


def test_no_reasoning_of_one_answer_is_lost() -> None:
    thoughts = [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]} for text in ("so", "it is")
    ]
    said = {"role": "assistant", "content": "a"}
    expected = {**said, "reasoning_content": "so\nit is"}
    assert translated([*ASK, thoughts[0], said, thoughts[1]]).prompt == [*ASK, expected]


def test_reasoning_without_a_word_is_no_message() -> None:
    assert translated([*ASK, {"type": "reasoning"}, {"type": "reasoning", "content": []}]).prompt == ASK


# Answers

USAGE = {
    "input_tokens": 11, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0}, "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 18,
}  # fmt: skip


def response(status: str = "completed", output: list[Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The object, of a request with nothing but input unless told otherwise."""
    return {
        "id": id_of("resp_", 1), "object": "response", "created_at": NOW, "model": "small", "status": status,
        "error": None, "incomplete_details": None, "output": output or [], "instructions": None, "metadata": {},
        "parallel_tool_calls": True, "temperature": 0.0, "top_p": 1.0, "max_output_tokens": None, "store": False,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "top_logprobs": 0, "max_tool_calls": None,
        "background": False, "truncation": "disabled", "service_tier": "default", "safety_identifier": None,
        "prompt_cache_key": None, "reasoning": {"effort": None, "summary": None},
        "completed_at": NOW if status == "completed" else None, "previous_response_id": None,
        "tool_choice": "auto", "tools": [], "text": {"format": {"type": "text"}}, "usage": USAGE, **fields,
    }  # fmt: skip


def message(number: int, text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "type": "message", "id": id_of("msg_", number), "role": "assistant", "status": status, "content": [part]
    }  # fmt: skip


def reasoning(number: int, text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "reasoning_text", "text": text}
    return {
        "type": "reasoning", "id": id_of("rs_", number), "summary": [], "content": [part], "status": status
    }  # fmt: skip


def function_call(number: int, arguments: str = CALL_JSON, status: str = "completed") -> dict[str, Any]:
    """Its id, and behind that the one which its output has to name."""
    return {
        "type": "function_call", "id": id_of("fc_", number), "call_id": id_of("call_", number + 1),
        "name": "get_weather", "arguments": arguments, "status": status,
    }  # fmt: skip


def answered(*events: Any, **fields: Any) -> dict[str, Any]:
    return whole(RESPONSES, events, context(RESPONSES, {"input": "hi", **fields}))


def test_a_whole_answer() -> None:
    events = [progress(0), delta(reasoning="so"), delta("a", " it"), delta("b"), called(), delta("c"), finish()]
    items = [reasoning(2, "so it"), message(3, "ab"), function_call(4), message(6, "c")]
    assert answered(*events) == response(output=items)


def test_a_whole_answer_that_is_too_long() -> None:
    found = answered(delta("a"), finish("length"))
    reason = {"reason": "max_output_tokens"}
    assert found == response("incomplete", [message(2, "a", "incomplete")], incomplete_details=reason)


def test_an_answer_says_what_was_asked() -> None:
    tool = {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}
    asked = {
        "instructions": "Be kind.", "metadata": {"a": "b"}, "parallel_tool_calls": False, "temperature": 0.5,
        "top_p": 0.25, "max_output_tokens": 9, "tools": [tool], "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}, "presence_penalty": 0.75,
        "frequency_penalty": -0.5, "reasoning": {"effort": "low", "summary": "auto"}, "prompt_cache_key": "k",
        "safety_identifier": "s",
    }  # fmt: skip
    assert answered(finish(), **asked) == response(
        **asked,
    ) | {"tools": [{"description": None, **tool}]}
    assert answered(finish(), tool_choice="required")["tool_choice"] == "required"


def test_tools_come_back_with_what_their_types_always_have() -> None:
    """OpenAI's type of a function has `strict` and `parameters`, null or not; what is not set of others is left out."""
    function, custom = {"type": "function", "name": "f"}, {"type": "custom", "name": "g"}
    hosted = {"type": "web_search", "filters": {"allowed_domains": ["a"]}}
    namespace = {"type": "namespace", "name": "n", "tools": [function]}
    found = answered(finish(), tools=[function, custom, hosted, namespace])["tools"]
    whole_function = {**function, "description": None, "parameters": None, "strict": None}
    assert found == [whole_function, custom, hosted, namespace]


def test_reasoning_is_told_as_it_was_asked_for() -> None:
    for asked, told in (
        ({"effort": "high"}, {"effort": "high", "summary": None}),
        ({"generate_summary": "concise"}, {"effort": None, "summary": "concise"}),
        ({"summary": "none"}, {"effort": None, "summary": None}),
    ):
        assert answered(finish(), reasoning=asked)["reasoning"] == told


def test_a_conversation_is_listed_as_items_of_parts() -> None:
    """As OpenAI's types have them: whatever a client sent in short."""
    given = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": [{"type": "input_text", "text": "b"}, {"type": "input_image", "image_url": "u"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "c"}], "status": "incomplete"},
        {"type": "function_call_output", "call_id": "call_1", "output": "d"},
    ]
    items = [listed(item) for item in as_json(ResponsesRequest.model_validate({"input": given}).items)]
    text = {"type": "output_text", "annotations": [], "logprobs": []}
    assert [item.pop("content", None) for item in items] == [
        [{"type": "input_text", "text": "hi"}],
        [{**text, "text": "a"}],
        [
            {"type": "input_text", "text": "b", "refusal": ""},
            {"type": "input_image", "image_url": "u", "detail": "auto"},
        ],
        [{**text, "text": "c", "refusal": ""}],
        None,
    ]
    assert [(item["type"], item["status"]) for item in items] == [
        ("message", "completed"), ("message", "completed"), ("message", "completed"), ("message", "incomplete"),
        ("function_call_output", "completed"),
    ]  # fmt: skip
    assert all(item["id"] for item in items)


def parts(*events: Any, **fields: Any) -> list[Any]:
    asked = {"input": "hi", "stream": True, **fields}
    found = [read(part) for part in streamed(RESPONSES, events, context(RESPONSES, asked))]
    numbered = [data for part in found if not isinstance(part, str) for name, data in [part] if name == data["type"]]
    assert [data.pop("sequence_number") for data in numbered] == list(range(len(numbered)))
    return [part if isinstance(part, str) else part[1] for part in found]


def event(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **data}


def begun(**fields: Any) -> list[Any]:
    head = response("in_progress", usage=None, **fields)
    return [event("created", response=head), event("in_progress", response=head)]


def written(at: int, kind: str, full: dict[str, Any], *deltas: str) -> list[Any]:
    """The events of an item of text."""
    part = full["content"][0]
    extra = {"logprobs": []} if full["type"] == "message" else {}
    where = {"item_id": full["id"], "output_index": at, "content_index": 0}
    return [
        event("output_item.added", output_index=at, item={**full, "content": [], "status": "in_progress"}),
        event("content_part.added", **where, part={**part, "text": ""}),
        *(event(f"{kind}.delta", **where, delta=text, **extra) for text in deltas),
        event(f"{kind}.done", **where, text=part["text"], **extra),
        event("content_part.done", **where, part=part),
        event("output_item.done", output_index=at, item=full),
    ]


def made(at: int, number: int) -> list[Any]:
    """The events of a call."""
    full = function_call(number)
    where = {"item_id": full["id"], "output_index": at}
    return [
        event("output_item.added", output_index=at, item=function_call(number, "", "in_progress")),
        event("function_call_arguments.delta", **where, delta=CALL_JSON),
        event("function_call_arguments.done", **where, name="get_weather", arguments=CALL_JSON),
        event("output_item.done", output_index=at, item=full),
    ]


def test_a_streamed_answer() -> None:
    """An item at a time, each opened, filled and closed."""
    events = [
        progress(4), progress(8), delta(reasoning="so"), delta("a", " it"), delta("b"), called(), called(), finish()
    ]  # fmt: skip
    items = [reasoning(2, "so it"), message(3, "ab"), function_call(4), function_call(6)]
    comments = [": 4 of 11 prompt tokens", ": 8 of 11 prompt tokens"]
    assert parts(*events) == [
        *begun(), *comments,
        *written(0, "reasoning_text", items[0], "so", " it"),
        *written(1, "output_text", items[1], "a", "b"),
        *made(2, 4),
        *made(3, 6),
        event("completed", response=response(output=items)),
    ]  # fmt: skip


def test_reasoning_comes_as_its_summary_where_that_is_asked_for() -> None:
    """All that clients like AI SDK show of it; with the events that OpenAI has for it."""
    events = [delta(reasoning="so"), delta("a", " it"), finish()]
    part = {"type": "summary_text", "text": "so it"}
    item = {"type": "reasoning", "id": id_of("rs_", 2), "summary": [part], "status": "completed"}
    where = {"item_id": item["id"], "output_index": 0, "summary_index": 0}
    told = {"reasoning": {"effort": None, "summary": "auto"}}
    assert parts(*events, reasoning={"summary": "auto"}) == [
        *begun(**told),
        event("output_item.added", output_index=0, item={**item, "summary": [], "status": "in_progress"}),
        event("reasoning_summary_part.added", **where, part={**part, "text": ""}),
        event("reasoning_summary_text.delta", **where, delta="so"),
        event("reasoning_summary_text.delta", **where, delta=" it"),
        event("reasoning_summary_text.done", **where, text="so it"),
        event("reasoning_summary_part.done", **where, part=part),
        event("output_item.done", output_index=0, item=item),
        *written(1, "output_text", message(3, "a"), "a"),
        event("completed", response=response(output=[item, message(3, "a")], **told)),
    ]
    for asked, texts in (
        ({"summary": "none"}, ("", "so it")), ({"summary": None}, ("", "so it")), ({"effort": "high"}, ("", "so it")),
        ({"generate_summary": "concise"}, ("so it", "")),
    ):  # fmt: skip
        found = answered(*events, reasoning=asked)["output"][0]
        assert tuple("".join(one["text"] for one in found.get(key, [])) for key in ("summary", "content")) == texts
    again = answered(*events, reasoning={"summary": "auto"}, include=["reasoning.encrypted_content"])["output"]
    assert translated([*ASK, *again]).prompt[1] == {"role": "assistant", "content": "a", "reasoning_content": "so it"}


def test_a_stream_that_is_too_long() -> None:
    item = message(2, "a", "incomplete")
    reason = {"reason": "max_output_tokens"}
    end = event("incomplete", response=response("incomplete", [item], incomplete_details=reason))
    assert parts(delta("a"), finish("length")) == [*begun(), *written(0, "output_text", item, "a"), end]


def test_a_stream_without_a_word() -> None:
    assert parts(delta(), finish()) == [*begun(), event("completed", response=response())]


def test_an_error_in_a_stream() -> None:
    """An event of its own kind, by which OpenAI's client knows it."""
    part = RESPONSES.error_event(ApiError(429, "rate_limit_error", "later", "field"), 5)
    expected = {
        "type": "error",
        "message": "later",
        "param": "field",
        "code": "rate_limit_exceeded",
        "sequence_number": 5,
    }
    assert read(part) == ("error", expected)


def test_an_answer_cannot_hold_a_file() -> None:
    part = {"type": "input_file", "file_data": "aGk="}
    with pytest.raises(ApiError, match=r"input\[0\]\.content\[0\]: expected text, found a file"):
        translated([{"role": "assistant", "content": [part]}])


@pytest.mark.parametrize("kind", ["image", "video"])
def test_media_that_only_another_server_holds_are_refused_by_name(kind: str) -> None:
    def asked(**fields: Any) -> ResponsesRequest:
        return ResponsesRequest.model_validate(
            {"input": [{"role": "user", "content": [{"type": f"input_{kind}", **fields}]}]}
        )

    with pytest.raises(
        ApiError, match=f"file_id: expected none: files are not stored here; send the {kind} as {kind}_url"
    ):
        unused_fields(asked(file_id="file-1"))
    with pytest.raises(ApiError, match=rf"^input\[0\]\.content\[0\]\.{kind}_url: field required"):
        asked().generation_requests()


def test_many_texts_of_an_answer_take_time_in_proportion() -> None:
    """A fraction of a second; a copy of all before each of them takes minutes."""
    asked = [*ASK, *[{"role": "assistant", "content": "text " * 100}] * 10_000]
    items = ResponsesRequest.model_validate({"input": asked})
    before = time.process_time()
    (found,) = items.generation_requests()
    assert time.process_time() - before < 3
    assert found.prompt[1] == {"role": "assistant", "content": "text " * 1_000_000}


def test_sealed_reasonings_are_bounded_all_together() -> None:
    """A few kilobytes become megabytes each; a client may make them up."""
    half = {"type": "reasoning", "encrypted_content": sealed("a" * (MAX_UNSEALED // 2))}
    found = translated([half, *ASK, half, *ASK]).prompt
    assert [len(message.get("reasoning_content", "")) for message in found] == [MAX_UNSEALED // 2, 0] * 2
    with pytest.raises(ApiError, match=r"^input\[4\]\.encrypted_content: expected at most 16777216 bytes of reason"):
        translated([half, *ASK, half, *ASK, {"type": "reasoning", "encrypted_content": sealed("b")}])


def test_an_item_is_referred_to_once() -> None:
    """As OpenAI has it; and however many there are, what is stored is looked through once."""
    items = [{"type": "message", "role": "user", "content": "hi", "id": f"msg_{at}"} for at in range(20_000)]
    stored = StoredResponses(1, 2**24)
    stored.add(StoredResponse({"id": "resp_1", "output": []}, items))
    references = [{"type": "item_reference", "id": item["id"]} for item in reversed(items)]
    body = ResponsesRequest.model_validate({"input": references})
    before = time.process_time()
    body.resolve(stored)
    assert time.process_time() - before < 3
    assert [item.id for item in body.items[:2]] == ["msg_19999", "msg_19998"]
    again = ResponsesRequest.model_validate({"input": [*references[:2], references[0]]})
    with pytest.raises(ApiError, match=r"^input\[2\]\.id: expected each item once, found 'msg_19999' again"):
        again.resolve(stored)


def test_places_are_those_of_the_input_whatever_was_stored_before() -> None:
    stored = StoredResponses(1, 2**24)
    stored.add(StoredResponse({"id": "resp_1", "output": []}, [{"id": "msg_1", **message} for message in ASK]))
    wrong = {"role": "assistant", "content": [{"type": "input_image", "image_url": "data:"}]}
    body = ResponsesRequest.model_validate({"input": [wrong], "previous_response_id": "resp_1"})
    body.resolve(stored)
    with pytest.raises(ApiError, match=r"^input\[0\]\.content\[0\]: expected text, found an image") as error:
        body.generation_requests()
    assert error.value.param == "input[0].content[0]"
