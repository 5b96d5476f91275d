"""Structured output through the official clients' own parsers, from a model that never learnt to write JSON."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from tests.server.clients import PARIS, QUICK, RED_CIRCLE, SPELL, seen

pytest.importorskip("openai", reason="needs the test extra")


# A model that never learnt JSON may go on within a text, a list or a fraction until its tokens are spent.
Text = Annotated[str, Field(max_length=20)]


class Shape(BaseModel):
    kind: Text
    color: Literal["red", "blue"]


class Drawing(BaseModel):
    title: Text
    shapes: Annotated[list[Shape], Field(max_length=2)]
    tags: Annotated[list[Text], Field(max_length=2)]
    count: int
    done: bool
    note: Text | None


class Answer(BaseModel):
    """Without texts and lists: Anthropic's client leaves their bounds out."""

    colour: Literal["red", "blue"] | None
    count: int
    done: bool


class GetWeather(BaseModel):
    city: str


@pytest.mark.some(2)
@pytest.mark.parametrize("temperature", [0.0, pytest.param(1.0, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("model", [Shape, Drawing])
@pytest.mark.parametrize("messages", [SPELL, seen(RED_CIRCLE)], ids=["text", "picture"])
def test_chat_completions_are_parsed(client: Any, messages: Any, model: type[BaseModel], temperature: float) -> None:
    options: dict[str, Any] = {"messages": messages, "response_format": model, "max_tokens": 400, "seed": 1}
    found = client.chat.completions.parse(model="box", temperature=temperature, extra_body=QUICK, **options)
    assert isinstance(found.choices[0].message.parsed, model)
    assert found.choices[0].finish_reason == "stop"


@pytest.mark.thorough
def test_a_stream_is_parsed(client: Any) -> None:
    options: dict[str, Any] = {"messages": SPELL, "response_format": Drawing, "temperature": 0.0, "extra_body": QUICK}
    with client.chat.completions.stream(model="box", **options) as stream:
        found = stream.get_final_completion()
    assert isinstance(found.choices[0].message.parsed, Drawing)


@pytest.mark.thorough
def test_calls_are_parsed(client: Any) -> None:
    openai = pytest.importorskip("openai")
    tools = [openai.pydantic_function_tool(GetWeather)]
    options: dict[str, Any] = {"tools": tools, "tool_choice": "required", "temperature": 0.0, "max_tokens": 200}
    found = client.chat.completions.parse(model="box", messages=PARIS, extra_body=QUICK, **options)
    (call,) = found.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)


def test_a_forced_call_comes_before_a_schema(client: Any) -> None:
    """As instructor asks for it in responses: the schema is for text, which such an answer does not have."""
    openai = pytest.importorskip("openai")
    tool = openai.pydantic_function_tool(GetWeather)["function"]
    options: dict[str, Any] = {"text_format": Shape, "tool_choice": {"type": "function", "name": tool["name"]}}
    options |= {"temperature": 0.0, "reasoning": {"effort": "none"}, "max_output_tokens": 200}
    found = client.responses.parse(model="box", input=PARIS, tools=[{"type": "function", **tool}], **options)
    assert {item.type for item in found.output} == {"function_call"}
    assert GetWeather.model_validate_json(found.output[0].arguments).city


@pytest.mark.parametrize("model", [Shape, pytest.param(Drawing, marks=pytest.mark.thorough)])
def test_responses_are_parsed(client: Any, model: type[BaseModel]) -> None:
    options: dict[str, Any] = {"temperature": 0.0, "reasoning": {"effort": "none"}, "max_output_tokens": 400}
    found = client.responses.parse(model="box", input="Spell the word star.", text_format=model, **options)
    assert isinstance(found.output_parsed, model)


@pytest.mark.parametrize("model", [Shape, pytest.param(Answer, marks=pytest.mark.thorough)])
def test_messages_are_parsed(claude: Any, model: type[BaseModel]) -> None:
    options: dict[str, Any] = {
        "messages": SPELL,
        "output_format": model,
        "max_tokens": 400,
        "extra_body": {"temperature": 0},
    }
    found = claude.messages.parse(model="box", **options)
    assert isinstance(found.parsed_output, model)
