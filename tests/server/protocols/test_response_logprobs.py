"""Log probabilities of a response's text: of the tokens that it is of, wherever the text comes."""

from typing import Any

import pytest

from mlx_qwen35.server.protocols.response_logprobs import MessageLogprobs
from mlx_qwen35.server.protocols.responses import RESPONSES
from tests.server.protocols.events import TOPS, called, context, delta, finish, read, streamed, whole

BODY = {"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2}


def scored(text: str = "", reasoning: str = "", *, token: int, **more: Any) -> Any:
    return delta(text, reasoning, token=token, logprob=-float(token), top_logprobs=TOPS, **more)


def entry(token: int) -> dict[str, Any]:
    tops = [
        {"token": "é", "logprob": -0.25, "bytes": [*b"<7>"]},
        {"token": "b", "logprob": -9999.0, "bytes": [*b"<8>"]},
    ]
    return {"token": f"<{token}>", "logprob": -float(token), "bytes": [*f"<{token}>".encode()], "top_logprobs": tops}


ANSWERS: dict[str, tuple[list[Any], list[int]]] = {
    "one token a piece": ([scored("a", token=1), scored("b", token=2)], [1, 2]),
    "the last token ends the answer": ([scored("a", token=1), scored(token=0, finish_reason="stop")], [1]),
    "what was held back comes with the end": (
        [scored("a", token=1), scored(token=2), scored("bc", token=0, finish_reason="stop")], [1, 2]
    ),
    "a token ends the answer that is none of the model's ends": (
        [scored("a", token=1), scored(token=2), scored("bc", token=5, finish_reason="stop")], [1, 2]
    ),
    "half a character": ([scored(token=1), scored("é", token=2)], [1, 2]),
    "reasoning": (
        [scored(token=9), scored("", "r", token=1, in_reasoning=True), scored(token=2, in_reasoning=True),
         scored("a", token=3)],
        [3],
    ),
    "a stop string": ([scored("a", token=1), scored(token=2), scored(token=3)], [1]),
    "a call": ([scored("a", token=1), scored(token=2), scored(token=3), called(), scored("b", token=4)], [1, 4]),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_whole_answers(name: str) -> None:
    events, tokens = ANSWERS[name]
    found = whole(RESPONSES, [*events, finish()], context(RESPONSES, BODY))
    assert found["top_logprobs"] == 2
    parts = [part for item in found["output"] if item["type"] == "message" for part in item["content"]]
    assert [score for part in parts for score in part["logprobs"]] == [entry(token) for token in tokens]


@pytest.mark.parametrize("name", ANSWERS)
def test_streams_tell_them_with_the_text_and_at_its_end(name: str) -> None:
    events, tokens = ANSWERS[name]
    sent = [read(part)[1] for part in streamed(RESPONSES, [*events, finish()], context(RESPONSES, BODY))]
    for kind in ("response.output_text.delta", "response.output_text.done"):
        scores = [score for event in sent if event["type"] == kind for score in event["logprobs"]]
        assert scores == [entry(token) for token in tokens]
    empty = [event for event in sent if event["type"] == "response.content_part.added"]
    assert all(event["part"].get("logprobs", []) == [] for event in empty)


def test_newlines_behind_reasoning_are_no_text() -> None:
    """The tokenizer of the other tests has no newlines."""

    class Newlines:
        eos_token_ids = frozenset({0})

        def decode(self, ids: list[int]) -> str:
            return {5: "\n\n", 6: "a", 7: "\n"}[ids[0]]

        def token_bytes(self, token: int) -> bytes:
            return self.decode([token]).encode()

    logprobs, found = MessageLogprobs(Newlines()), []  # type: ignore[arg-type]
    for text, token in (("", 5), ("a", 6), ("", 7), ("\na", 6)):
        found += logprobs.add(delta(text, token=token, logprob=-1.0), begun=bool(found))
    assert [score["token"] for score in found] == ["a", "\n", "a"]
