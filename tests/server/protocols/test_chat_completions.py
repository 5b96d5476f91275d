"""Chat completions as they come in and go out, field by field."""

from typing import Any

import pytest

from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.server.generation import GenerationRequest, ToolCallEvent, Usage
from mlx_qwen35.server.protocols.chat_completions import CHAT_COMPLETIONS, ChatCompletionRequest
from mlx_qwen35.server.wire import ApiError, Unused, unused_fields
from tests.server.protocols.events import (
    CALL_JSON,
    NOW,
    TOPS,
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
from tests.server.protocols.test_common import SAMPLING

ASK = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def translated(**fields: Any) -> GenerationRequest:
    (found,) = ChatCompletionRequest.model_validate({"messages": ASK} | fields).generation_requests()
    return found


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as error:
        translated(**fields)
    assert (error.value.status, error.value.kind) == (400, "invalid_request_error")
    return error.value


def test_a_request_with_nothing_but_messages() -> None:
    options = {**dict.fromkeys(SAMPLING), "max_tokens": None, "logprobs": False, "top_logprobs": 0}
    assert translated() == GenerationRequest(ASK, options=options, tools=[])


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        ({"effort": "none"}, ("none", None, None)),
        ({"effort": "low", "exclude": True}, ("low", None, None)),
        ({"enabled": False}, ("none", False, None)),
        ({"enabled": False, "effort": "high"}, ("none", False, None)),
        ({"enabled": True}, (None, True, None)),
        ({"max_tokens": 500}, (None, True, 500)),
        ({"exclude": True}, (None, None, None)),
        (None, (None, None, None)),
        # As mlx-vlm takes it too.
        ("none", ("none", None, None)),
        (False, ("none", False, None)),
    ],
)
def test_reasoning_as_openrouter_has_it(reasoning: Any, expected: tuple[Any, ...]) -> None:
    found = translated(reasoning=reasoning)
    assert (found.effort, found.enable_thinking, found.thinking_budget) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"thinking": {"type": "disabled"}}, ("none", False, None)),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}, ("none", False, None)),
        ({"thinking": {"type": "enabled"}}, (None, True, None)),
        ({"thinking": {"type": "enabled", "budget_tokens": 500}}, (None, True, 500)),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "high"}, ("high", True, None)),
        ({"thinking": {"type": "auto"}, "enable_thinking": False}, (None, False, None)),
    ],
)
def test_thinking_as_deepseek_and_zai_have_it(fields: Any, expected: tuple[Any, ...]) -> None:
    found = translated(**fields)
    assert (found.effort, found.enable_thinking, found.thinking_budget) == expected


def test_reasoning_that_is_said_twice_is_said_the_same() -> None:
    assert refused(thinking={"type": "enabled"}, enable_thinking=False).param == "enable_thinking"
    assert refused(thinking={"type": "enabled", "budget_tokens": 5}, thinking_budget=6).param == "thinking_budget"
    assert translated(reasoning={"effort": "low"}, reasoning_effort="low").effort == "low"
    assert refused(reasoning={"effort": "low"}, reasoning_effort="high").param == "reasoning_effort"
    assert refused(reasoning={"max_tokens": 5}, thinking_budget=6).param == "thinking_budget"


def test_a_request_with_everything() -> None:
    function = {"name": "f", "description": "What it does.", "parameters": SCHEMA}
    found = translated(
        **SAMPLING, tools=[{"type": "function", "function": {**function, "strict": True}}], tool_choice="required",
        parallel_tool_calls=False, enable_thinking=True, thinking_budget=5, n=3, max_tokens=9, logprobs=True,
        top_logprobs=4, chat_template_kwargs={"tone": "kind"}, user="me", logit_bias={"3": 1.0},
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    )  # fmt: skip
    assert found == GenerationRequest(
        ASK,
        tools=[{"type": "function", "function": function}],
        strict_tools={"f"},
        tool_choice="required",
        parallel_tool_calls=False,
        enable_thinking=True,
        template={"tone": "kind"},
        thinking_budget=5,
        schema=SCHEMA,
        n=3,
        options={**SAMPLING, "logit_bias": {3: 1.0}, "max_tokens": 9, "logprobs": True, "top_logprobs": 4},
    )


def test_the_one_function_that_has_to_be_called() -> None:
    assert translated(tool_choice={"type": "function", "function": {"name": "f"}}).tool_choice == {"name": "f"}
    for choice in ("auto", "none", "required"):
        assert translated(tool_choice=choice).tool_choice == choice


WRITE = {"name": "write", "description": "Writes."}
WRITE_TOOL = {"type": "custom", "custom": {**WRITE, "format": {"type": "text"}}}
WRITE_FUNCTION = {
    "type": "function",
    "function": {
        **WRITE,
        "parameters": {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]},
    },
}


def test_a_tool_with_free_text_is_a_function_of_one_text() -> None:
    asked = {"type": "custom", "custom": {"name": "write"}}
    found = translated(tools=[WRITE_TOOL], tool_choice=asked)
    assert (found.tools, found.tool_choice) == ([WRITE_FUNCTION], {"name": "write"})
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /a+/"}}
    (told,) = translated(tools=[{"type": "custom", "custom": {"name": "write", "format": grammar}}]).tools
    assert "start: /a+/" in told["function"]["description"]


def test_of_many_tools_some_may_be_called() -> None:
    tools = [WRITE_TOOL, *({"type": "function", "function": {"name": name}} for name in "fg")]
    some = [
        {"type": "function", "function": {"name": "g"}},
        {"type": "custom", "custom": {"name": "write"}},
        {"type": "other"},
    ]
    asked = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": some}}
    found = translated(tools=tools, tool_choice=asked)
    assert [tool["function"]["name"] for tool in found.tools] == ["write", "g"]
    assert found.tool_choice == "required"


def test_a_call_with_free_text_in_the_history_is_one_of_the_function() -> None:
    call = {"id": "call_1", "type": "custom", "custom": {"name": "write", "input": "a\nb"}}
    history = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert translated(messages=history).prompt[-1] == {
        "role": "assistant", "content": "",
        "tool_calls": [{"id": "call_1", "function": {"name": "write", "arguments": {"input": "a\nb"}}}],
    }  # fmt: skip


def test_forms_of_an_answer() -> None:
    assert translated(response_format={"type": "text"}).schema is None
    assert translated(response_format={"type": "json_object"}).schema == {}
    assert translated(response_format={"type": "json_object", "schema": SCHEMA}).schema == SCHEMA


def test_a_schema_stands_in_either_place() -> None:
    """Beside the type as llama.cpp's server documents it; OpenAI's may have a name alone."""
    form = {"type": "json_schema"}
    for named in ({}, {"json_schema": None}, {"json_schema": {"name": "x"}}, {"json_schema": {"schema": SCHEMA}}):
        assert translated(response_format={**form, **named, "schema": SCHEMA}).schema == SCHEMA
    for named in ({"name": "x"}, {"name": "x", "schema": None}, {"schema": {}}):
        assert translated(response_format={**form, "json_schema": named}).schema == {}
    error = refused(response_format=form)
    assert (str(error), error.param) == ("response_format.json_schema: field required", "response_format.json_schema")
    error = refused(response_format={**form, "json_schema": {"schema": {"type": "object"}}, "schema": SCHEMA})
    assert str(error) == "response_format.json_schema.schema: found another response_format.schema"


def test_calls_may_be_several_unless_they_may_not() -> None:
    for asked, expected in ((None, True), (True, True), (False, False)):
        assert translated(parallel_tool_calls=asked).parallel_tool_calls is expected


def test_either_name_of_the_limit() -> None:
    for fields in ({"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": 5}):
        assert translated(**fields).options["max_tokens"] == 5
    error = refused(max_tokens=5, max_completion_tokens=6)
    assert (str(error), error.param) == ("max_tokens: found another max_completion_tokens", "max_tokens")


def test_candidates_only_with_log_probabilities() -> None:
    for fields in ({"top_logprobs": 3}, {"top_logprobs": 3, "logprobs": False}):
        error = refused(**fields)
        assert (str(error), error.param) == ("top_logprobs: expected logprobs to be true", "top_logprobs")
    assert translated(top_logprobs=0).options["logprobs"] is False


def test_thinking_may_be_said_in_the_templates_variables() -> None:
    for wanted in (True, False):
        found = translated(chat_template_kwargs={"enable_thinking": wanted, "tone": "kind"})
        assert (found.enable_thinking, found.template) == (wanted, {"tone": "kind"})
        assert translated(chat_template_kwargs={"enable_thinking": wanted}, enable_thinking=wanted) == translated(
            enable_thinking=wanted
        )
    for kwargs, asked in (({"enable_thinking": True}, False), ({"enable_thinking": 1}, None)):
        error = refused(chat_template_kwargs=kwargs, enable_thinking=asked)
        assert str(error) == "chat_template_kwargs.enable_thinking: expected one bool"


def test_the_last_message_is_continued_where_that_is_asked_for() -> None:
    """In vLLM's words, whose default for the other field contradicts it only when it is sent."""
    last = [*ASK, {"role": "assistant", "content": "Once"}]
    assert not translated(messages=last).continue_final_message
    for fields in ({}, {"add_generation_prompt": False}):
        assert translated(messages=last, continue_final_message=True, **fields).continue_final_message
    assert not translated(messages=last, add_generation_prompt=True).continue_final_message
    for together in ({"continue_final_message": True, "add_generation_prompt": True}, {"add_generation_prompt": False}):
        error = refused(messages=last, **together)
        assert str(error) == "add_generation_prompt: expected the opposite of continue_final_message"


def test_whether_to_continue_may_be_null() -> None:
    assert translated(continue_final_message=None).continue_final_message is False
    assert translated(continue_final_message=None, add_generation_prompt=True).continue_final_message is False


def test_an_effort_is_passed_on() -> None:
    """What it means is for the checkpoint's template to say."""
    found = translated(reasoning_effort="low", enable_thinking=False, thinking_budget=3)
    assert (found.effort, found.enable_thinking, found.thinking_budget) == ("low", False, 3)


def test_messages_are_passed_on_without_what_the_template_has_no_use_for() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    kept = {"id": "call_1", "function": call["function"]}
    given: list[dict[str, Any]] = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "tool_calls": [call], "reasoning": "so", "annotations": []},
        {"role": "tool", "content": "4", "tool_call_id": "call_1", "name": "f"},
        {"role": "user"},
    ]
    assert translated(messages=given).prompt == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": "", "tool_calls": [kept], "reasoning": "so"},
        {"role": "tool", "content": "4", "tool_call_id": "call_1"},
        {"role": "user"},
    ]


@pytest.mark.parametrize(
    ("part", "url"),
    [
        ({"source": {"type": "base64", "media_type": "image/png", "data": "QQ=="}}, "data:image/png;base64,QQ=="),
        ({"source": {"type": "url", "url": "https://a/b.png"}}, "https://a/b.png"),
        ({"data": "QQ==", "mimeType": "image/png"}, "data:image/png;base64,QQ=="),
        ({"data": "QQ=="}, "data:image/*;base64,QQ=="),
    ],
)
def test_an_image_may_come_as_in_anthropics_protocol_or_mcp(part: dict[str, Any], url: str) -> None:
    (found,) = translated(messages=[{"role": "user", "content": [{"type": "image", **part}]}]).prompt
    assert found["content"] == [{"type": "image_url", "image_url": {"url": url}}]


def test_an_image_in_another_form_is_refused_with_what_it_may_be() -> None:
    expected = r"^messages\[0\].content\[0\].source: expected an object with type base64, media_type and data, or with"
    with pytest.raises(ApiError, match=expected):
        translated(messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}])


def test_a_part_may_be_a_text_alone() -> None:
    messages = [{"role": "user", "content": ["a", {"type": "text", "text": "b"}]}]
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert translated(messages=messages).prompt == [{"role": "user", "content": content}]


@pytest.mark.parametrize("thinking", ["Hm.", [{"type": "text", "text": "H"}, {"type": "text", "text": "m."}]])
def test_reasoning_may_be_a_part_of_an_earlier_answer(thinking: Any) -> None:
    """As vLLM takes it, and as Mistral writes it."""
    said, thought = {"type": "text", "text": "b"}, {"type": "thinking", "thinking": thinking}
    answer = {"role": "assistant", "content": [thought, said]}
    found = translated(messages=[*ASK, answer, *ASK]).prompt[1]
    assert found == {"role": "assistant", "content": [said], "reasoning_content": "Hm."}
    assert translated(messages=[*ASK, answer | {"content": [thought]}, *ASK]).prompt[1]["content"] == []
    for name in ("reasoning", "reasoning_content"):
        found = translated(messages=[*ASK, answer | {name: "Yes."}, *ASK]).prompt[1]
        assert found == {"role": "assistant", "content": [said], name: "Yes."}
    # Nobody else thinks.
    asked = {"role": "user", "content": [thought]}
    assert translated(messages=[asked]).prompt == [asked]


def test_a_call_without_arguments_has_none() -> None:
    for function in ({"name": "f"}, {"name": "f", "arguments": None}, {"name": "f", "arguments": "{}"}):
        answer = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": function}]}
        found = translated(messages=[*ASK, answer, *ASK]).prompt[1]["tool_calls"]
        assert found == [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]


def test_what_an_earlier_answer_refused_is_its_text() -> None:
    asked = [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]
    assert translated(messages=[*ASK, *asked, *ASK]).prompt[1]["content"] == [{"type": "text", "text": "No."}]


def test_a_speakers_name_changes_nothing() -> None:
    body = ChatCompletionRequest.model_validate({"messages": [*ASK, {"role": "user", "content": "hi", "name": "Ada"}]})
    assert unused_fields(body) == [Unused("messages.name", True)]
    assert body.generation_requests()[0].prompt == [*ASK, *ASK]


# Answers

USAGE = {
    "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}  # fmt: skip
SCORED = {
    "token": "<7>", "logprob": -0.25, "bytes": [60, 55, 62],
    "top_logprobs": [
        {"token": "é", "logprob": -0.25, "bytes": [60, 55, 62]},
        {"token": "b", "logprob": -9999.0, "bytes": [60, 56, 62]},
    ],
}  # fmt: skip


def choice(index: int = 0, reason: str = "stop", logprobs: Any = None, **message: Any) -> dict[str, Any]:
    return {
        "index": index, "message": {"role": "assistant", "refusal": None, **message}, "logprobs": logprobs,
        "finish_reason": reason,
    }  # fmt: skip


def answered(events: list[Any], **fields: Any) -> dict[str, Any]:
    return whole(CHAT_COMPLETIONS, events, context(CHAT_COMPLETIONS, {"messages": ASK, **fields}))


def test_a_whole_answer() -> None:
    events = [progress(0), delta(reasoning="so"), delta(reasoning=" it"), delta("a"), delta("b"), finish("length")]
    assert answered(events) == {
        "id": id_of("chatcmpl-", 1), "object": "chat.completion", "created": NOW, "model": "small",
        "choices": [choice(reason="length", content="ab", reasoning_content="so it", reasoning="so it")],
        "usage": USAGE,
    }  # fmt: skip


def test_a_whole_answer_with_calls() -> None:
    calls = [
        {"id": id_of("call_", number), "type": "function", "function": {"name": "get_weather", "arguments": CALL_JSON}}
        for number in (1, 2)
    ]
    found = answered([called(), called(), finish("tool_calls")])
    assert found["choices"] == [choice(reason="tool_calls", content=None, tool_calls=calls)]
    found = answered([delta("I look."), called(), finish("tool_calls")])
    assert found["choices"][0]["message"]["content"] == "I look."


def test_a_whole_answer_without_a_word() -> None:
    assert answered([finish()])["choices"] == [choice(content="")]


def test_several_whole_answers() -> None:
    events = [
        delta("a", index=1), delta("b", index=0), called(1), delta("c", "so", index=0), finish("length", index=1),
        finish(usage=Usage(11, 3, 2, 1), index=0),
    ]  # fmt: skip
    found = answered(events, n=2)
    function = {"name": "get_weather", "arguments": CALL_JSON}
    assert found["choices"] == [
        choice(0, "stop", content="bc", reasoning_content="so", reasoning="so"),
        choice(
            1, "length", content="a", tool_calls=[{"id": id_of("call_", 1), "type": "function", "function": function}]
        ),
    ]
    assert found["usage"] == {
        "prompt_tokens": 11, "completion_tokens": 9, "total_tokens": 20, "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }  # fmt: skip


def test_log_probabilities_of_a_whole_answer() -> None:
    events = [delta("a", logprob=-0.25, top_logprobs=TOPS), delta("b", token=8, logprob=-1.0), finish()]
    second = {"token": "<8>", "logprob": -1.0, "bytes": [60, 56, 62], "top_logprobs": []}
    found = answered(events, logprobs=True, top_logprobs=2)
    assert found["choices"] == [choice(content="ab", logprobs={"content": [SCORED, second], "refusal": None})]
    nothing = {"content": [], "refusal": None}
    assert answered([finish()], logprobs=True)["choices"] == [choice(content="", logprobs=nothing)]


def parts(events: list[Any], **fields: Any) -> list[Any]:
    asked = context(CHAT_COMPLETIONS, {"messages": ASK, "stream": True, **fields})
    return [read(part) for part in streamed(CHAT_COMPLETIONS, events, asked)]


def piece(
    delta: dict[str, Any], *, index: int = 0, reason: str | None = None, logprobs: Any = None, **more: Any
) -> dict[str, Any]:
    return {
        "id": id_of("chatcmpl-", 1), "object": "chat.completion.chunk", "created": NOW, "model": "small",
        "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}], **more,
    }  # fmt: skip


BEGIN = {"role": "assistant", "content": ""}


def test_a_streamed_answer() -> None:
    events = [progress(4), progress(8), delta(reasoning="so"), delta("a", " it"), delta("b"), delta(), finish()]
    assert parts(events) == [
        piece(BEGIN),
        ": 4 of 11 prompt tokens",
        ": 8 of 11 prompt tokens",
        piece({"reasoning_content": "so", "reasoning": "so"}),
        piece({"reasoning_content": " it", "reasoning": " it", "content": "a"}),
        piece({"content": "b"}),
        piece({"content": ""}),
        piece({}, reason="stop"),
        "data: [DONE]",
    ]


def test_streamed_calls_are_counted_for_each_answer() -> None:
    def call(at: int, number: int) -> dict[str, Any]:
        function = {"name": "get_weather", "arguments": CALL_JSON}
        return {"tool_calls": [{"index": at, "id": id_of("call_", number), "type": "function", "function": function}]}

    found = parts([called(1), called(0), called(1), finish("tool_calls", index=1), finish("length", index=0)], n=2)
    assert found == [
        piece(BEGIN, index=0),
        piece(BEGIN, index=1),
        piece(call(0, 2), index=1),
        piece(call(0, 3), index=0),
        piece(call(1, 4), index=1),
        piece({}, index=1, reason="tool_calls"),
        piece({}, index=0, reason="length"),
        "data: [DONE]",
    ]


def test_a_stream_ends_with_its_usage_where_it_is_asked_to() -> None:
    events = [delta("a", index=1), finish(index=1), finish(usage=Usage(11, 3, 2, 1))]
    found = parts(events, n=2, stream_options={"include_usage": True})
    assert [one["usage"] for one in found[:-2]] == [None] * 5
    total = {
        "prompt_tokens": 11, "completion_tokens": 9, "total_tokens": 20, "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }  # fmt: skip
    assert found[-2:] == [{**piece({}), "choices": [], "usage": total}, "data: [DONE]"]


def test_log_probabilities_of_a_stream() -> None:
    found = parts([delta("a", logprob=-0.25, top_logprobs=TOPS), finish()], logprobs=True, top_logprobs=2)
    assert found[1] == piece({"content": "a"}, logprobs={"content": [SCORED], "refusal": None})


def test_a_call_with_free_text_comes_back_as_it_was_asked_for() -> None:
    events = [ToolCallEvent(0, ToolCall("write", {"input": "a"})), finish("tool_calls")]
    (found,) = answered(events, tools=[WRITE_TOOL])["choices"][0]["message"]["tool_calls"]
    (shown,) = parts(events, tools=[WRITE_TOOL])[1]["choices"][0]["delta"]["tool_calls"]
    expected = {"type": "custom", "custom": {"name": "write", "input": "a"}}
    assert found == {"id": id_of("call_", 1), **expected}
    assert shown == {"index": 0, "id": id_of("call_", 4), **expected}


def test_an_error_in_a_stream() -> None:
    part = CHAT_COMPLETIONS.error_event(ApiError(504, "timeout_error", "too late"), 1)
    assert read(part) == {"error": {"message": "too late", "type": "timeout_error", "param": None, "code": None}}
