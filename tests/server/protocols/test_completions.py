"""Plain completions as they come in and go out, field by field."""

from typing import Any

import pytest

from mlx_qwen35.answers.results import TokenLogprob
from mlx_qwen35.server.generation import GenerationRequest, Usage
from mlx_qwen35.server.protocols.completions import COMPLETIONS, CompletionRequest
from mlx_qwen35.server.wire import ApiError
from tests.server.protocols.events import (
    NOW,
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


def translated(prompt: Any, **fields: Any) -> list[GenerationRequest]:
    return CompletionRequest.model_validate({"prompt": prompt, **fields}).generation_requests()


def test_a_request_with_nothing_but_a_prompt() -> None:
    options = {**dict.fromkeys(SAMPLING), "max_tokens": 16, "logprobs": False, "top_logprobs": 0}
    assert translated("hi") == [GenerationRequest("hi", n=1, options=options)]


def test_a_request_with_everything() -> None:
    found = translated("hi", **SAMPLING, n=3, max_tokens=9, logprobs=4, logit_bias={"3": 1.0})
    options = {**SAMPLING, "logit_bias": {3: 1.0}, "max_tokens": 9, "logprobs": True, "top_logprobs": 4}
    assert found == [GenerationRequest("hi", n=3, options=options)]
    assert translated("hi", logprobs=0)[0].options["logprobs"] is True
    assert translated("hi", max_tokens=None)[0].options["max_tokens"] is None


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}}, {"type": "integer"}),
        ({"type": "json_object"}, {}),
        ({"type": "text"}, None),
        (None, None),
    ],
)
def test_an_answer_may_follow_a_schema_as_in_a_chat(wanted: Any, schema: Any) -> None:
    assert [found.schema for found in translated(["hi", "ho"], response_format=wanted)] == [schema] * 2


def test_the_best_of_all_answers_are_all_of_them() -> None:
    assert translated("hi", n=2, best_of=2) == translated("hi", n=2)
    assert translated("hi", best_of=1) == translated("hi")
    for fields, said in (({"best_of": 3}, "which is 1, found 3"), ({"n": 2, "best_of": 3}, "which is 2, found 3")):
        with pytest.raises(ApiError, match=f"best_of: expected n, {said}; answers are not ranked here"):
            translated("hi", **fields)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hi", ["hi"]),
        ([1, 2], [[1, 2]]),
        (["a", "b"], ["a", "b"]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a"] * 16, ["a"] * 16),
    ],
)
def test_prompts_are_texts_or_token_ids(prompt: Any, prompts: list[Any]) -> None:
    assert [found.prompt for found in translated(prompt)] == prompts


def test_an_empty_prompt_is_refused_for_what_it_is() -> None:
    with pytest.raises(ApiError, match="^prompt: expected some text, found none") as error:
        translated("")
    assert (error.value.status, error.value.param) == (400, "prompt")


def test_log_probabilities_that_are_not_wanted() -> None:
    assert translated("hi", logprobs=False)[0].options["logprobs"] is False


def test_a_batch_is_as_large_as_clients_make_them() -> None:
    """LangChain's have 20 prompts."""
    assert len(translated(["a"] * 128)) == 128


@pytest.mark.parametrize("prompt", [[], ["a"] * 129, [[1]] * 129])
def test_no_prompt_and_too_many_are_refused(prompt: Any) -> None:
    with pytest.raises(ApiError, match="^prompt: expected 1 to 128 prompts$") as error:
        translated(prompt)
    assert (error.value.status, error.value.param) == (400, "prompt")


# Answers

HEAD = {"id": id_of("cmpl-", 1), "object": "text_completion", "created": NOW, "model": "small"}
USAGE = {
    "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "prompt_tokens_details": {"cached_tokens": 4}
}  # fmt: skip
TOPS = (TokenLogprob(7, "<7>", -0.25), TokenLogprob(8, "<8>", -float("inf")))
SCORED = [delta("ab", logprob=-0.25, top_logprobs=TOPS), delta("", token=8, logprob=-1.0, top_logprobs=TOPS[:1])]
SCORED += [delta("c", token=9, logprob=-2.0, top_logprobs=TOPS[:1])]


def choice(text: str = "", *, index: int = 0, reason: str | None = None, logprobs: Any = None, **more: Any) -> Any:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason, **more}


def answered(events: list[Any], *, prompts: int = 1, lengths: tuple[int, ...] = (11,), **fields: Any) -> Any:
    asked = context(COMPLETIONS, {"prompt": ["hi"] * prompts, **fields}, prompts=prompts, lengths=lengths)
    return whole(COMPLETIONS, events, asked)


def test_a_whole_answer() -> None:
    found = answered([progress(0), delta("a"), delta("b"), finish("length")])
    assert found == {**HEAD, "choices": [choice("ab", reason="length")], "usage": USAGE}


def test_reasoning_of_a_whole_answer() -> None:
    found = answered([delta(reasoning="so"), delta("a", " it"), finish()])
    assert found["choices"] == [choice("a", reason="stop", reasoning_content="so it")]


def test_each_prompt_counts_once() -> None:
    """Two answers to each of two prompts, which come in any order."""
    events = [
        delta("c", index=2), delta("a", index=0), delta("d", index=3), delta("b", index=1),
        finish(usage=Usage(30, 20, 4), index=3), finish(usage=Usage(30, 10, 3), index=2),
        finish("length", Usage(11, 8, 2), index=1), finish(usage=Usage(11, 4, 1), index=0),
    ]  # fmt: skip
    found = answered(events, prompts=2, lengths=(11, 30), n=2)
    reasons = ["stop", "length", "stop", "stop"]
    assert found["choices"] == [choice("abcd"[at], index=at, reason=reasons[at]) for at in range(4)]
    assert found["usage"] == {
        "prompt_tokens": 41, "completion_tokens": 10, "total_tokens": 51, "prompt_tokens_details": {"cached_tokens": 14}
    }  # fmt: skip


def test_log_probabilities_of_a_whole_answer() -> None:
    found = answered([*SCORED, finish()], logprobs=2)
    logprobs = {
        "tokens": ["<7>", "<8>", "<9>"],
        "token_logprobs": [-0.25, -1.0, -2.0],
        "top_logprobs": [{"<7>": -0.25, "<8>": -9999.0}, {"<7>": -0.25, "<8>": -1.0}, {"<7>": -0.25, "<9>": -2.0}],
        "text_offset": [0, 2, 2],
    }
    assert found["choices"] == [choice("abc", reason="stop", logprobs=logprobs)]


def test_the_chosen_token_is_among_the_likeliest_and_of_one_text_the_likelier_counts() -> None:
    """As OpenAI says: one more than were asked for, where another token came; halves of characters have one text."""
    halves = (TokenLogprob(1, "\ufffd", -0.5), TokenLogprob(2, "a", -1.5), TokenLogprob(3, "\ufffd", -2.5))
    events = [delta("x", token=9, logprob=-4.0, top_logprobs=halves), delta("y", logprob=-0.25, top_logprobs=TOPS)]
    expected = [{"\ufffd": -0.5, "a": -1.5, "<9>": -4.0}, {"<7>": -0.25, "<8>": -9999.0}]
    assert answered([*events, finish()], logprobs=3)["choices"][0]["logprobs"]["top_logprobs"] == expected


def test_where_a_token_begins_counts_what_waits_for_the_next() -> None:
    """Two characters of three may be the beginning of a stop string, then all four are none."""
    events = [delta("a", logprob=-1.0, held=2), delta("bcd", logprob=-1.0), delta("e", logprob=-1.0), finish()]
    assert answered(events, logprobs=0)["choices"][0]["logprobs"]["text_offset"] == [0, 3, 4]


def test_log_probabilities_without_candidates() -> None:
    found = answered([delta("ab", logprob=-0.25), delta("c", token=8, logprob=-1.0), finish()], logprobs=0)
    expected = {"tokens": ["<7>", "<8>"], "token_logprobs": [-0.25, -1.0], "text_offset": [0, 2]}
    assert found["choices"][0]["logprobs"] == expected


# The prompt in front of its answer

GIVEN = {
    "prompt_logprobs": (TokenLogprob(1, "<1>", -0.5), TokenLogprob(2, "<2>", -float("inf"))),
    "prompt_top_logprobs": ((TokenLogprob(7, "<7>", -0.25),), (TokenLogprob(5, "<5>", -1.0),)),
}
ECHOED = {
    "tokens": ["<0>", "<1>", "<2>", "<7>"],
    "token_logprobs": [None, -0.5, -9999.0, -0.25],
    "top_logprobs": [None, {"<7>": -0.25, "<1>": -0.5}, {"<5>": -1.0, "<2>": -9999.0}, {"<7>": -0.25}],
    "text_offset": [0, 3, 6, 9],
}


def test_what_is_read_for_an_echo() -> None:
    assert "prompt_logprobs" not in translated("hi", echo=True)[0].options
    assert "prompt_logprobs" not in translated("hi", logprobs=3)[0].options
    assert translated("hi", echo=True, logprobs=3)[0].options["prompt_logprobs"] == 3
    assert translated("hi", echo=True, logprobs=0)[0].options["prompt_logprobs"] == 0
    # With nothing to write one token is written all the same, and not told.
    assert translated("hi", echo=True, max_tokens=0)[0].options["max_tokens"] == 1
    assert translated("hi", max_tokens=0)[0].options["max_tokens"] == 0


def test_prompts_are_echoed_as_they_were_given_or_as_what_their_tokens_stand_for() -> None:
    events = [delta("a"), delta("b", index=1), finish(), finish(index=1)]
    found = answered(events, prompts=2, lengths=(3, 2), echo=True)
    assert [choice["text"] for choice in found["choices"]] == ["hia", "hib"]
    ids = context(COMPLETIONS, {"prompt": [[0, 1, 2], [0, 1]], "echo": True}, prompts=2, lengths=(3, 2))
    assert [choice["text"] for choice in whole(COMPLETIONS, events, ids)["choices"]] == ["<0><1><2>a", "<0><1>b"]
    alone = context(COMPLETIONS, {"prompt": [0, 1, 2], "echo": True, "n": 2}, lengths=(3,))
    assert [choice["text"] for choice in whole(COMPLETIONS, events, alone)["choices"]] == ["<0><1><2>a", "<0><1><2>b"]


def test_log_probabilities_of_an_echo() -> None:
    """The first token has none; each further one is among the likeliest, as in an answer; offsets go on."""
    events = [delta("a", logprob=-0.25, top_logprobs=TOPS[:1], **GIVEN), finish()]
    asked = context(COMPLETIONS, {"prompt": [0, 1, 2], "echo": True, "logprobs": 1}, lengths=(3,))
    expected = choice("<0><1><2>a", reason="stop", logprobs=ECHOED)
    assert whole(COMPLETIONS, events, asked)["choices"] == [expected]


def test_an_echo_alone_has_nothing_of_the_answer() -> None:
    fields = {"prompt": [0, 1, 2], "echo": True, "logprobs": 1, "max_tokens": 0}
    asked = context(COMPLETIONS, fields, lengths=(3,))
    events = [delta("a", logprob=-0.25, top_logprobs=TOPS[:1], **GIVEN), finish("stop", Usage(3, 0, 1))]
    found = whole(COMPLETIONS, events, asked)
    logprobs = {name: values[:3] for name, values in ECHOED.items()}
    assert found["choices"] == [choice("<0><1><2>", reason="length", logprobs=logprobs)]
    assert (found["usage"]["completion_tokens"], found["usage"]["total_tokens"]) == (0, 3)
    streams = [read(part) for part in streamed(COMPLETIONS, events, asked)]
    told = [part["choices"][0] for part in streams[:-1]]
    assert told == [choice("<0><1><2>", logprobs=logprobs), choice(reason="length")]


def test_an_echo_in_a_stream_comes_once_and_though_nothing_else_does() -> None:
    assert [part["choices"][0]["text"] for part in parts([delta("a"), delta("b"), finish()], echo=True)[:-1]] == [
        "hia", "b", ""
    ]  # fmt: skip
    assert [part["choices"][0]["text"] for part in parts([finish()], echo=True)[:-1]] == ["hi"]
    assert answered([finish()], echo=True)["choices"][0]["text"] == "hi"


def parts(events: list[Any], **fields: Any) -> list[Any]:
    asked = context(COMPLETIONS, {"prompt": "hi", "stream": True, **fields})
    return [read(part) for part in streamed(COMPLETIONS, events, asked)]


def piece(text: str = "", **fields: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [choice(text, **fields)]}


def test_a_streamed_answer() -> None:
    events = [progress(4), delta(reasoning="so"), delta("a", index=1), delta("b"), finish("length", index=1), finish()]
    assert parts(events, n=2) == [
        ": 4 of 11 prompt tokens",
        piece(reasoning_content="so"),
        piece("a", index=1),
        piece("b"),
        piece(index=1, reason="length"),
        piece(reason="stop"),
        "data: [DONE]",
    ]


def test_log_probabilities_of_a_stream() -> None:
    """Of one token at a time; where each begins is counted from the beginning of its own answer."""
    found = parts([delta("xyz", index=1, logprob=-3.0), *SCORED, finish(index=1), finish()], n=2, logprobs=2)
    one = {"tokens": ["<7>"], "token_logprobs": [-3.0], "top_logprobs": None, "text_offset": [0]}
    assert found[0] == piece("xyz", index=1, logprobs=one)
    one |= {"token_logprobs": [-0.25], "top_logprobs": [{"<7>": -0.25, "<8>": -9999.0}]}
    assert found[1] == piece("ab", logprobs=one)
    assert [part["choices"][0]["logprobs"]["text_offset"] for part in found[2:4]] == [[2], [2]]


def test_a_stream_ends_with_its_usage_where_it_is_asked_to() -> None:
    found = parts([delta("a"), finish()], stream_options={"include_usage": True})
    before = [{**part, "usage": None} for part in (piece("a"), piece(reason="stop"))]
    assert found == [*before, {**HEAD, "choices": [], "usage": USAGE}, "data: [DONE]"]


def test_an_error_in_a_stream() -> None:
    part = COMPLETIONS.error_event(ApiError(504, "timeout_error", "too late"), 1)
    assert read(part) == {"error": {"message": "too late", "type": "timeout_error", "param": None, "code": None}}
