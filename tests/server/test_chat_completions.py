"""Chat completions, as OpenAI's own client sees them."""

import json
import threading
from typing import Any

import openai
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.results import TokenLogprob
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.server.protocols.common import token_logprob
from tests.server.clients import BLUE_SQUARE, PARIS, RED_CIRCLE, SPELL, TOOLS, WEATHER, chat, raw, seen
from tests.server.conftest import Running


def test_chat_completion(client: Any, box: ModelKit) -> None:
    found = chat(client, SPELL)
    prompt = box.process_prompt(SPELL, enable_thinking=False)
    expected = box.generate(prompt, temperature=0.0, cache_prompt=False)
    assert found.choices[0].message.content == expected.text
    assert found.choices[0].finish_reason == "stop"
    assert found.model == "box"
    usage = found.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt.input_ids), len(expected.tokens))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_chat_stream_is_the_same_answer(client: Any) -> None:
    whole = chat(client, SPELL)
    chunks = list(chat(client, SPELL, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.thorough
def test_an_answer_goes_on_from_the_assistants_last_words(client: Any, claude: Any, box: ModelKit) -> None:
    """In chat completions where that is asked for, in Anthropic's protocol always; only what is new comes back."""
    begun = [*SPELL, {"role": "assistant", "content": "s-t"}]
    prompt = box.process_prompt(begun, continue_final_message=True)
    expected = box.generate(prompt, temperature=0.0, max_tokens=9).text
    assert expected
    found = chat(client, begun, extra_body={"continue_final_message": True}, max_tokens=9)
    assert found.choices[0].message.content == expected
    assert found.usage.prompt_tokens == len(prompt.input_ids)
    message = claude.messages.create(model="box", messages=begun, max_tokens=9, extra_body={"temperature": 0.0})
    assert message.content[0].text == expected
    for wrong, text in (
        ({"messages": SPELL}, "an assistant's message to continue, found a user's"),
        (
            {"messages": begun, "response_format": {"type": "json_object"}},
            "response_format: expected none where an answer",
        ),
    ):
        with pytest.raises(openai.BadRequestError, match=text):
            client.chat.completions.create(model="box", extra_body={"continue_final_message": True}, **wrong)


def test_images_in_either_order_and_beside_text(client: Any) -> None:
    circle, square = "A red circle.", "A blue square."
    jobs: list[tuple[list[dict[str, Any]], str]] = [
        (seen(RED_CIRCLE), circle), (seen(BLUE_SQUARE), square), (SPELL, "s-t-a-r."), (seen(RED_CIRCLE), circle)
    ]  # fmt: skip
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = chat(client, jobs[number][0]).choices[0].message.content

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(jobs))] == [expected for _, expected in jobs]


def test_earlier_turns_are_not_read_again(client: Any, box: ModelKit) -> None:
    """All of the first prompt but the empty reasoning at its end, which the template drops from earlier turns."""
    messages = seen(RED_CIRCLE)
    first = chat(client, messages)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}]
    messages += [{"role": "user", "content": "What color is the circle?"}]
    second = chat(client, messages)
    dropped = len(box.tokenizer.encode("<think>\n\n</think>\n\n"))
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens - dropped


def test_reasoning(client: Any) -> None:
    found = chat(client, SPELL, extra_body={"enable_thinking": True}).choices[0].message
    assert found.content == "s-t-a-r."
    assert found.reasoning_content == found.reasoning != ""
    chunks = list(chat(client, SPELL, stream=True, extra_body={"enable_thinking": True}))
    streamed = "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks)
    assert streamed == found.reasoning_content
    for field in ("reasoning", "reasoning_content"):
        earlier = [*SPELL, {"role": "assistant", "content": found.content, field: found.reasoning}, *SPELL]
        assert chat(client, earlier).choices[0].message.content == "s-t-a-r."


@pytest.mark.parametrize(
    ("options", "thinks"),
    [
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
    ],
)
def test_ways_to_ask_for_reasoning(server: Running, options: dict[str, Any], thinks: bool) -> None:
    status, _, text = raw(server.url, "/v1/chat/completions", {"messages": SPELL, "temperature": 0, **options})
    assert status == 200
    assert ("reasoning_content" in json.loads(text)["choices"][0]["message"]) == thinks


def test_a_thinking_budget_closes_the_reasoning(client: Any) -> None:
    found = chat(client, SPELL, extra_body={"enable_thinking": True, "thinking_budget": 2})
    message = found.choices[0].message
    assert 0 < len(message.reasoning) < len("The word is star.")
    assert message.content
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.completion_tokens_details.reasoning_tokens <= 5


def test_tool_calls(client: Any) -> None:
    choice = chat(client, PARIS, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    chunks = list(chat(client, PARIS, tools=TOOLS, stream=True))
    (streamed,) = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
    assert (streamed.index, streamed.function.name) == (0, "get_weather")
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = chat(client, [*PARIS, choice.message.model_dump(exclude_none=True), result], tools=TOOLS)
    assert answer.choices[0].message.content == "In Paris it is sunny."


@pytest.mark.parametrize("seed", range(3))
def test_a_call_is_of_a_function_that_there_is(client: Any, seed: int) -> None:
    """By its schema, although nothing is strict; this model would write other names, and other things behind them."""
    kinds = {"mode": {"enum": ["quick", "slow"]}, "level": {"type": "integer", "minimum": 10, "maximum": 99}}
    tool = {"name": "zvorka", "parameters": {"type": "object", "properties": kinds, "required": ["mode"]}}
    begins = Tokenizer(BOX).control_id("<tool_call>")
    found = chat(
        client, PARIS, tools=[{"type": "function", "function": tool}], logit_bias={begins: 100}, seed=seed,
        parallel_tool_calls=False, temperature=1.0, max_tokens=80,
    )  # fmt: skip
    assert found.choices[0].finish_reason == "tool_calls"
    (call,) = found.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "zvorka"
    assert arguments["mode"] in kinds["mode"]["enum"]
    assert arguments.get("level", 10) in range(10, 100)


def test_tool_choice(client: Any) -> None:
    other = {"type": "function", "function": {**WEATHER, "name": "other"}}
    for choice in ("required", {"type": "function", "function": {"name": "other"}}):
        found = chat(client, SPELL, tools=[*TOOLS, other], tool_choice=choice, max_tokens=80)
        assert found.choices[0].finish_reason == "tool_calls"
        names = {call.function.name for call in found.choices[0].message.tool_calls}
        assert names <= ({"other"} if choice != "required" else {"other", "get_weather"})
        assert names
    none = chat(client, PARIS, tools=TOOLS, tool_choice="none")
    assert none.choices[0].message.tool_calls is None
    assert none.choices[0].message.content


def test_structured_output(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}, "shape": {"enum": ["star", "cross"]}},
        "required": ["digit", "shape"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for messages in (SPELL, seen(RED_CIRCLE)):
        for thinking in (False, True):
            extra = {"enable_thinking": thinking}
            found = chat(client, messages, response_format=form, extra_body=extra).choices[0]
            data = json.loads(found.message.content)
            assert data.keys() == {"digit", "shape"}
            assert data["digit"] in range(10)
            assert data["shape"] in ("star", "cross")
            assert found.finish_reason == "stop"


def test_logprobs(client: Any) -> None:
    content = chat(client, SPELL, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert all(token.logprob == token.top_logprobs[0].logprob <= 0 for token in content)
    assert "".join(token.token for token in content).startswith("s-t-a-r.")
    assert all(bytes(token.bytes).decode() == token.token for token in content)
    streamed = [
        token
        for chunk in chat(client, SPELL, logprobs=True, stream=True)
        for token in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else ())
    ]
    assert [token.token for token in streamed] == [token.token for token in content]


def test_tokens_that_a_schema_forbids_are_not_among_the_likeliest(client: Any) -> None:
    form = {"type": "json_object"}
    scores = chat(client, SPELL, response_format=form, logprobs=True, top_logprobs=20, max_tokens=3).choices[0].logprobs
    assert min(len(token.top_logprobs) for token in scores.content) < 20
    assert min(top.logprob for token in scores.content for top in token.top_logprobs) > -9999.0


def test_several_answers_and_seeds(client: Any) -> None:
    options: dict[str, Any] = {"n": 3, "temperature": 9.0, "max_tokens": 12, "seed": 5}
    one, other = (chat(client, SPELL, **options) for _ in range(2))
    texts = [choice.message.content for choice in one.choices]
    assert texts == [choice.message.content for choice in other.choices]
    assert [choice.index for choice in one.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert 3 * 12 >= one.usage.completion_tokens > 12


def test_stop_strings_stop_tokens_and_length(client: Any, box: ModelKit) -> None:
    openai = pytest.importorskip("openai", reason="needs the test extra")
    stopped = chat(client, SPELL, stop=["-a"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("s-t", "stop")
    assert chat(client, SPELL, max_tokens=2).choices[0].finish_reason == "length"
    (end,) = box.tokenizer.encode_text("-r")
    stopped = chat(client, SPELL, extra_body={"stop_token_ids": [end]}).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("s-t-a", "stop")
    assert chat(client, SPELL, max_tokens=openai.omit, max_completion_tokens=2).usage.completion_tokens == 2


def test_the_bytes_of_a_part_of_a_character(box: ModelKit) -> None:
    """OpenAI has them so that clients can put characters together; the text of such a token is U+FFFD."""
    tokens = box.tokenizer.encode_text("\u20ac")
    assert len(tokens) > 1
    found = [token_logprob(TokenLogprob(token, "\ufffd", -1.0), box.tokenizer)["bytes"] for token in tokens]
    assert bytes(value for part in found for value in part).decode() == "\u20ac"
