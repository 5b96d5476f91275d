"""Pieces that protocols share, each as it is written."""

import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from mlx_qwen35.answers.results import TokenLogprob
from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.server.generation import Usage
from mlx_qwen35.server.protocols.chat_completions import ChatCompletionRequest
from mlx_qwen35.server.protocols.common import (
    CompletionFields,
    SamplingFields,
    arguments_json,
    completion_head,
    completion_usage,
    function_tool,
    new_id,
    openai_error,
    progress_comment,
    token_logprob,
)
from mlx_qwen35.server.protocols.completions import CompletionRequest
from mlx_qwen35.server.wire import ApiError, unused_fields
from tests.server.protocols.events import CALL, CALL_JSON, NOW, Numbers, id_of, progress

SAMPLING = {
    "temperature": 0.5, "top_p": 0.25, "top_k": 20, "min_p": 0.125, "repetition_penalty": 1.5, "presence_penalty": 0.75,
    "frequency_penalty": -0.5, "seed": 3, "stop": ["a", "b"],
}  # fmt: skip


def test_sampling_fields_are_the_kits_options() -> None:
    assert SamplingFields.model_validate(SAMPLING).sampling() == SAMPLING
    assert SamplingFields().sampling() == dict.fromkeys(SAMPLING)


def test_what_other_servers_take_for_off_is_off() -> None:
    """mlx-lm's repetition_penalty, LM Studio's max_tokens; what nobody's is stays to be refused."""
    assert SamplingFields.model_validate({"repetition_penalty": 0}).sampling()["repetition_penalty"] == 1.0
    messages = [{"role": "user", "content": "a"}]
    for name in ("max_tokens", "max_completion_tokens"):
        for given, most in ((-1, None), (-1.0, None), (7, 7), (-2, -2)):
            (request,) = ChatCompletionRequest.model_validate({"messages": messages, name: given}).generation_requests()
            assert request.options["max_tokens"] == most
    (request,) = CompletionRequest.model_validate({"prompt": "a", "max_tokens": -1}).generation_requests()
    assert request.options["max_tokens"] is None


def test_a_penalty_has_either_name() -> None:
    assert SamplingFields.model_validate({"repeat_penalty": 1.1}).sampling()["repetition_penalty"] == 1.1
    both = {"repeat_penalty": 1.1, "repetition_penalty": 1.1}
    assert SamplingFields.model_validate(both).sampling()["repetition_penalty"] == 1.1
    with pytest.raises(ApiError, match="^repetition_penalty: found another repeat_penalty$") as error:
        SamplingFields.model_validate(both | {"repeat_penalty": 1.0}).sampling()
    assert error.value.param == "repetition_penalty"


def test_what_is_null_is_as_if_it_were_not_there() -> None:
    """Programs write every field of their types, those that nobody has set as null."""
    nothing = {"ignore_eos": None, "stream_options": {"include_usage": None}}
    body = CompletionFields.model_validate(nothing)
    assert (body.sampling(), body.include_usage) == (CompletionFields().sampling(), False)


def test_answers_are_as_many_as_openai_has_them() -> None:
    assert CompletionFields.model_validate({"n": 128}).n == 128
    with pytest.raises(ValidationError):
        CompletionFields.model_validate({"n": 129})


def test_an_empty_stop_is_none() -> None:
    for given, stop in (("", []), ([""], []), (["", "a"], ["a"]), ("a", ["a"]), ([], [])):
        assert (SamplingFields.model_validate({"stop": given}).sampling()["stop"] or []) == stop


def test_a_whole_number_may_be_written_as_a_float() -> None:
    assert SamplingFields.model_validate({"top_k": 20.0, "seed": 3.0}).sampling()["top_k"] == 20
    with pytest.raises(ValueError, match="top_k"):
        SamplingFields.model_validate({"top_k": 20.5})


def test_another_adapter_is_refused() -> None:
    for name in ("adapters", "adapter_path"):
        with pytest.raises(ApiError, match=f"^{name}: expected none: start the server with --adapter-path"):
            unused_fields(ChatCompletionRequest.model_validate({"messages": [{"role": "user"}], name: "here"}))


def test_a_bias_has_token_ids_for_keys() -> None:
    fields = SamplingFields(logit_bias={"0": 1.5, "007": -100.0, "9" * 11: 2.0})
    assert fields.sampling() == {**dict.fromkeys(SAMPLING), "logit_bias": {0: 1.5, 7: -100.0, 99_999_999_999: 2.0}}
    assert SamplingFields(logit_bias={}).sampling()["logit_bias"] == {}


@pytest.mark.parametrize("key", ["a", "", "-1", "1.0", " 1", "²", "٣", "9" * 12])
def test_a_bias_for_what_is_no_token_id_is_refused(key: str) -> None:
    with pytest.raises(
        ApiError, match=f"^logit_bias: expected token ids as keys, found {re.escape(repr(key))}$"
    ) as error:
        SamplingFields(logit_bias={"1": 1.0, key: 1.0}).sampling()
    assert (error.value.status, error.value.kind, error.value.param) == (400, "invalid_request_error", "logit_bias")


def test_a_stream_has_its_usage_where_it_is_asked_to() -> None:
    assert not CompletionFields().include_usage
    for asked in (True, False):
        assert CompletionFields.model_validate({"stream_options": {"include_usage": asked}}).include_usage is asked


def test_a_tool_has_its_keys_in_one_order() -> None:
    """Prompts are compared token by token: another order is another prompt."""
    tool = function_tool("f", "What it does.", {"type": "object"})
    function = '{"name": "f", "description": "What it does.", "parameters": {"type": "object"}}'
    assert json.dumps(tool) == f'{{"type": "function", "function": {function}}}'
    assert function_tool("f", None, None) == {"type": "function", "function": {"name": "f"}}
    assert function_tool("f", "", {})["function"] == {"name": "f", "description": "", "parameters": {}}


def test_the_head_of_a_completion() -> None:
    assert new_id("call_") == id_of("call_", 1)
    expected = {"id": id_of("cmpl-", 2), "object": "text_completion", "created": NOW, "model": "small"}
    assert completion_head("cmpl-", "text_completion", "small") == expected
    assert type(completion_head("a", "b", "c")["created"]) is int


def test_progress_is_a_comment() -> None:
    assert progress_comment(progress(3, 11)) == ": 3 of 11 prompt tokens\n\n"


def test_usage_of_several_answers_counts_the_prompt_once() -> None:
    assert completion_usage([Usage(11, 4, 7, 2), Usage(11, 10, 5, 1)]) == {
        "prompt_tokens": 11,
        "completion_tokens": 12,
        "total_tokens": 23,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }


def test_arguments_are_json_with_letters_as_they_are() -> None:
    assert arguments_json(CALL) == CALL_JSON
    assert arguments_json(ToolCall("now", {})) == "{}"


@pytest.mark.parametrize(("logprob", "shown"), [(-0.5, -0.5), (0.0, 0.0), (-float("inf"), -9999.0), (-1e9, -9999.0)])
def test_a_log_probability_is_a_number(logprob: float, shown: float) -> None:
    assert token_logprob(TokenLogprob(7, "é", logprob), Numbers()) == {
        "token": "é",
        "logprob": shown,
        "bytes": list(b"<7>"),
    }


@pytest.mark.parametrize(("status", "code"), [(400, None), (401, "invalid_api_key"), (429, "rate_limit_exceeded")])
def test_openais_form_of_an_error(status: int, code: str | None) -> None:
    expected: dict[str, Any] = {"message": "no", "type": "some_error", "param": "field", "code": code}
    assert openai_error(ApiError(status, "some_error", "no", "field")) == {"error": expected}
    assert openai_error(ApiError(status, "some_error", "no"))["error"]["param"] is None
