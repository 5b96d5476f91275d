"""Responses, as OpenAI's own client sees them."""

import json
from typing import Any

from tests.server.clients import PARIS, RED_CIRCLE, WEATHER, picture


def test_responses(client: Any) -> None:
    options: dict[str, Any] = {"model": "box", "temperature": 0.0, "reasoning": {"effort": "none"}}
    found = client.responses.create(input="Spell the word star.", **options)
    assert (found.output_text, found.status) == ("s-t-a-r.", "completed")
    type(found).model_validate(found.to_dict())  # nothing of its type is missing
    more = {"model": "box", "input": "And moon.", "previous_response_id": found.id, "reasoning": {"effort": "none"}}
    counted = client.responses.input_tokens.count(**more)
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == client.responses.create(**more).usage.input_tokens > found.usage.total_tokens
    image = [
        {"type": "input_image", "image_url": picture(RED_CIRCLE)},
        {"type": "input_text", "text": "What do you see?"},
    ]
    assert client.responses.create(input=[{"role": "user", "content": image}], **options).output_text == "A red circle."
    tools = [{"type": "function", **WEATHER}]
    events = list(client.responses.create(input=PARIS[0]["content"], tools=tools, stream=True, **options))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    last = events[-1]
    assert last.type == "response.completed"
    (call,) = last.response.output
    assert json.loads(call.arguments) == {"city": "Paris"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    items = [{"role": "user", "content": PARIS[0]["content"]}, call.model_dump(exclude_none=True), result]
    assert client.responses.create(input=items, tools=tools, **options).output_text == "In Paris it is sunny."
    text = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}}}  # fmt: skip # noqa: E501
    assert json.loads(client.responses.create(input="Hello!", text=text, **options).output_text).keys() == {"a"}
    thinking = client.responses.create(
        input="Spell the word star.", model="box", temperature=0.0, reasoning={"effort": "high"}
    )
    assert [item.type for item in thinking.output] == ["reasoning", "message"]
    with client.responses.stream(
        input="Spell the word star.", model="box", temperature=0.0, reasoning={"effort": "high", "summary": "auto"}
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "response.reasoning_summary_text.delta"]
        final = stream.get_final_response().output
    assert [part.text for part in final[0].summary] == ["".join(deltas)] == [thinking.output[0].content[0].text]
    assert final[0].content is None
    short = client.responses.create(input="Spell the word star.", max_output_tokens=2, **options)
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    with client.responses.stream(input="Spell the word star.", **options) as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == "s-t-a-r."


def test_log_probabilities_are_those_of_the_text(client: Any) -> None:
    """And those that chat completions give, which tell the token that ends the answer too."""
    question = "Spell the word star."
    options: dict[str, Any] = {"model": "box", "temperature": 0.0, "top_logprobs": 3}
    chat = client.chat.completions.create(
        messages=[{"role": "user", "content": question}], logprobs=True, reasoning_effort="none", **options
    )
    scores = [token.model_dump() for token in chat.choices[0].logprobs.content]
    included: dict[str, Any] = {"input": question, "include": ["message.output_text.logprobs"], **options}
    for effort in ("none", "high"):
        found = client.responses.create(reasoning={"effort": effort}, **included)
        part = found.output[-1].content[0]
        assert "".join(token.token for token in part.logprobs) == part.text
        type(found).model_validate(found.to_dict())
        if effort == "none":
            assert [token.model_dump() for token in part.logprobs] == scores[: len(part.logprobs)]
            assert len(part.logprobs) == len(scores) - 1
        with client.responses.stream(reasoning={"effort": effort}, **included) as stream:
            deltas = [event for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response().output[-1].content[0]
        assert [token.token for event in deltas for token in event.logprobs] == [t.token for t in part.logprobs]
        assert final.logprobs == part.logprobs
