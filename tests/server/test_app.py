"""The server as clients see it: OpenAI's and Anthropic's own, and a bare HTTP connection for the rest."""

import base64
import gc
import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.server.media import MediaPolicy
from tests.server.clients import (
    BLUE_SQUARE,
    PARAMETERS,
    PARIS,
    QUICK,
    RED_CIRCLE,
    SPELL,
    TOOLS,
    WEATHER,
    chat,
    picture,
    raw,
    seen,
)
from tests.server.conftest import Running, serving

openai = pytest.importorskip("openai", reason="needs the test extra")


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
    # A conversation that no other test has, which would be read already.
    messages = seen(BLUE_SQUARE)
    first = chat(client, messages)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}]
    messages += [{"role": "user", "content": "What color is the square?"}]
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
    assert answer.choices[0].message.content == "It is sunny in Paris."


def test_structured_output(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}, "shape": {"enum": ["star", "cross"]}},
        "required": ["digit", "shape"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for messages, thinking in ((SPELL, True), (seen(RED_CIRCLE), False)):
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


def test_forbidden_tokens_have_a_number(client: Any) -> None:
    """JSON knows no infinity."""
    form = {"type": "json_object"}
    scores = chat(client, SPELL, response_format=form, logprobs=True, top_logprobs=20, max_tokens=3).choices[0].logprobs
    assert min(top.logprob for token in scores.content for top in token.top_logprobs) == -9999.0


def test_several_answers_and_seeds(client: Any) -> None:
    options: dict[str, Any] = {"n": 3, "temperature": 9.0, "max_tokens": 12, "seed": 5}
    one, other = (chat(client, SPELL, **options) for _ in range(2))
    texts = [choice.message.content for choice in one.choices]
    assert texts == [choice.message.content for choice in other.choices]
    assert [choice.index for choice in one.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert 3 * 12 >= one.usage.completion_tokens > 12


def test_stop_strings_and_length(client: Any) -> None:
    stopped = chat(client, SPELL, stop=["-a"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("s-t", "stop")
    assert chat(client, SPELL, max_tokens=2).choices[0].finish_reason == "length"
    assert chat(client, SPELL, max_tokens=openai.omit, max_completion_tokens=2).usage.completion_tokens == 2


def test_completions(client: Any) -> None:
    prompts = [
        "<|im_start|>user\nSpell the word star.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "1, 2",
    ]
    found = client.completions.create(model="box", prompt=prompts, temperature=0, max_tokens=20, logprobs=2)
    assert [choice.index for choice in found.choices] == [0, 1]
    assert found.choices[0].text == "s-t-a-r."
    scores = found.choices[0].logprobs
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.top_logprobs) == len(scores.text_offset)
    chunks = list(client.completions.create(model="box", prompt=prompts[0], temperature=0, max_tokens=20, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "s-t-a-r."


def test_responses(client: Any, box: ModelKit) -> None:
    options: dict[str, Any] = {"model": "box", "temperature": 0.0, "reasoning": {"effort": "none"}}
    found = client.responses.create(input="Spell the word star.", **options)
    assert (found.output_text, found.status) == ("s-t-a-r.", "completed")
    prompt = box.process_prompt(SPELL, enable_thinking=False)
    written = len(box.generate(prompt, temperature=0.0).tokens)
    assert (found.usage.input_tokens, found.usage.output_tokens) == (len(prompt.input_ids), written)
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
    assert client.responses.create(input=items, tools=tools, **options).output_text == "It is sunny in Paris."
    text = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}}}  # fmt: skip # noqa: E501
    assert json.loads(client.responses.create(input="Hello!", text=text, **options).output_text).keys() == {"a"}
    thinking = client.responses.create(
        input="Spell the word star.", model="box", temperature=0.0, reasoning={"effort": "high"}
    )
    assert [item.type for item in thinking.output] == ["reasoning", "message"]
    short = client.responses.create(input="Spell the word star.", max_output_tokens=2, **options)
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    with client.responses.stream(input="Spell the word star.", **options) as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == "s-t-a-r."


def test_anthropic_messages(claude: Any, box: ModelKit) -> None:
    def ask(messages: Any, **options: Any) -> Any:
        extra = {"temperature": 0} | options.pop("extra_body", {})
        return claude.messages.create(model="box", max_tokens=100, messages=messages, extra_body=extra, **options)

    found = ask(SPELL, system="You are small.")
    assert (found.content[0].text, found.stop_reason) == ("s-t-a-r.", "end_turn")
    system = {"role": "system", "content": "You are small."}
    prompt = box.process_prompt([system, *SPELL], enable_thinking=False)
    assert found.usage.input_tokens + found.usage.cache_read_input_tokens == len(prompt.input_ids)
    assert found.usage.output_tokens == len(box.generate(prompt, temperature=0.0).tokens)
    data = picture(RED_CIRCLE).partition(",")[2]
    source = {"type": "base64", "media_type": "image/png", "data": data}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "Describe the picture."}]
    assert ask([{"role": "user", "content": content}]).content[0].text == "A red circle."
    tools = [{"name": "get_weather", "description": WEATHER["description"], "input_schema": PARAMETERS}]
    called = ask(PARIS, tools=tools)
    assert called.stop_reason == "tool_use"
    (use,) = called.content
    assert (use.name, use.input) == ("get_weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    turns = [*PARIS, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    assert ask(turns, tools=tools).content[0].text == "It is sunny in Paris."
    stopped = ask(SPELL, stop_sequences=["-a"])
    assert (stopped.content[0].text, stopped.stop_reason, stopped.stop_sequence) == ("s-t", "stop_sequence", "-a")
    thinking = ask(SPELL, thinking={"type": "enabled", "budget_tokens": 1024})
    assert [block.type for block in thinking.content] == ["thinking", "text"]
    again = ask([*SPELL, {"role": "assistant", "content": thinking.content}, *SPELL])
    assert again.content[-1].text == "s-t-a-r."
    # All of the first prompt but the beginning of its reasoning, which earlier turns do not show.
    first = thinking.usage.input_tokens + thinking.usage.cache_read_input_tokens
    assert again.usage.cache_read_input_tokens >= first - len(box.tokenizer.encode("<think>\n"))
    with claude.messages.stream(model="box", max_tokens=100, messages=SPELL, extra_body={"temperature": 0}) as stream:
        assert "".join(stream.text_stream) == "s-t-a-r."
        usage = stream.get_final_message().usage
    assert usage.output_tokens == found.usage.output_tokens
    without = len(box.process_prompt(SPELL, enable_thinking=False).input_ids)
    assert usage.input_tokens + usage.cache_read_input_tokens == without
    with claude.messages.stream(model="box", max_tokens=100, messages=PARIS, tools=tools) as stream:
        assert stream.get_final_message().content[0].input == {"city": "Paris"}
    counted = claude.messages.count_tokens(model="box", messages=SPELL, system="You are small.")
    assert counted.input_tokens == found.usage.input_tokens + found.usage.cache_read_input_tokens


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/v1/chat/completions", {"messages": SPELL, "best_of": 2, "echo": True}, ["best_of", "echo"]),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a", "nmae": "b"}]}, ["messages.0.nmae"]),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a", "name": "Ada"}]}, ["messages[0].name"]),
        ("/v1/chat/completions", {"messages": []}, ["messages"]),
        ("/v1/chat/completions", {"messages": SPELL, "temperature": "hot"}, ["temperature"]),
        ("/v1/chat/completions", {"messages": SPELL, "temperature": -1}, ["temperature"]),
        ("/v1/chat/completions", {"messages": SPELL, "max_tokens": 0}, ["max_tokens"]),
        ("/v1/chat/completions", {"messages": SPELL, "top_logprobs": 3}, ["top_logprobs", "logprobs"]),
        ("/v1/chat/completions", {"messages": SPELL, "tool_choice": "required"}, ["tool_choice"]),
        ("/v1/chat/completions", {"messages": SPELL, "logit_bias": {"a": 1}}, ["logit_bias"]),
        ("/v1/chat/completions", {"messages": SPELL, "store": True}, ["store"]),
        ("/v1/chat/completions", {"messages": SPELL, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}}, ["response_format"]),  # noqa: E501
        ("/v1/chat/completions", {"messages": seen(RED_CIRCLE)[0]["content"]}, ["messages.0.role"]),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, ["video_url"]),
        ("/v1/chat/completions", {"messages": SPELL, "logit_bias": {"9" * 5000: 1}}, ["logit_bias"]),
        ("/v1/chat/completions", {"messages": SPELL, "chat_template_kwargs": {"chat_template": "x"}}, ["chat_template"]),  # noqa: E501
        ("/v1/chat/completions", {"messages": [*SPELL, {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": '{"a":' * 5000}}]}]}, ["arguments"]),  # noqa: E501
        ("/v1/responses", '{"input": "a", "metadata": {"a": "\\ud800"}}', ["body"]),
        ("/v1/completions", {"prompt": []}, ["prompt"]),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, ["suffix"]),
        ("/v1/responses", {"input": "a", "previous_response_id": "b"}, ["previous_response_id"]),
        ("/v1/messages", {"model": "box", "messages": SPELL}, ["max_tokens"]),
        ("/v1/messages", {"model": "box", "messages": SPELL, "max_tokens": 5, "container": "x"}, ["container"]),
        ("/v1/chat/completions", "{", ["JSON"]),
        ("/v1/chat/completions", "[]", ["body"]),
    ],
)  # fmt: skip
def test_bad_requests_are_named(server: Running, path: str, body: Any, names: list[str]) -> None:
    """400, every wrong field by its name, in the protocol's own form."""
    status, _, text = raw(server.url, path, body)
    assert status == 400, text
    error = json.loads(text)["error"]
    assert error["type"] == "invalid_request_error"
    assert all(name in error["message"] for name in names), error


def test_other_errors(server: Running) -> None:
    assert raw(server.url, "/v1/chat/completions", {"model": "gpt", "messages": SPELL})[0] == 404
    assert raw(server.url, "/v1/nothing")[0] == 404
    assert raw(server.url, "/v1/chat/completions")[0] == 405


def test_models_health_and_metrics(server: Running, client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["box"]
    assert client.models.retrieve("box").id == "box"
    chat(client, SPELL)
    assert json.loads(raw(server.url, "/health")[2])["status"] == "ok"
    text = raw(server.url, "/metrics")[2]
    for name in ("requests_total", "prompt_tokens_total", "time_to_first_token_seconds_count", "requests_running"):
        (line, *_) = [line for line in text.splitlines() if line.startswith(f"mlx_qwen35_{name}")]
        assert float(line.split()[-1]) >= (0 if name == "requests_running" else 1)


def test_media(box: ModelKit, tmp_path: Any) -> None:
    data = base64.b64decode(picture(RED_CIRCLE).partition(",")[2])
    (tmp_path / "circle.png").write_bytes(data)

    def body(url: str) -> dict[str, Any]:
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Describe the picture."}]
        return {"messages": [{"role": "user", "content": parts}], "temperature": 0, **QUICK}

    local = (tmp_path / "circle.png").as_uri()
    with serving(box) as closed:
        for url in (local, "http://127.0.0.1/x.png", "data:image/png;base64,AAAA"):
            status, _, text = raw(closed.url, "/v1/chat/completions", body(url))
            assert status == 400
            assert "messages[0].content[0]" in text
    with serving(box, MediaPolicy(allow_remote=True, local_directory=tmp_path, max_images=1)) as opened:
        status, _, text = raw(opened.url, "/v1/chat/completions", body(local))
        assert json.loads(text)["choices"][0]["message"]["content"] == "A red circle."
        assert raw(opened.url, "/v1/chat/completions", body(opened.url + "/x.png"))[0] == 400
        twice = {"messages": seen(RED_CIRCLE, RED_CIRCLE)}
        assert raw(opened.url, "/v1/chat/completions", twice)[0] == 400


@pytest.mark.parametrize("kind", [{}, {"type": ""}, {"type": None}, {"type": "image"}, {"type": "input_image"}])
@pytest.mark.parametrize("key", ["image", "path", "url", "image_url", "data"])
def test_no_form_of_an_image_part_reads_a_file(server: Running, tmp_path: Any, kind: dict[str, Any], key: str) -> None:
    (tmp_path / "circle.png").write_bytes(base64.b64decode(picture(RED_CIRCLE).partition(",")[2]))
    parts = [{**kind, key: str(tmp_path / "circle.png")}, {"type": "text", "text": "Describe the picture."}]
    status, _, text = raw(server.url, "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    assert status == 400, text


def test_the_key(box: ModelKit) -> None:
    with serving(box, api_key="secret") as guarded:
        body = {"messages": SPELL, "max_tokens": 1}
        path = "/v1/chat/completions"
        assert raw(guarded.url, path, body)[0] == 401
        assert raw(guarded.url, path, body, {"Authorization": "Bearer wrong"})[0] == 401
        assert raw(guarded.url, "/v1/messages", body)[2].startswith('{"type":"error"')
        assert raw(guarded.url, path, body, {"Authorization": "Bearer secret"})[0] == 200
        assert raw(guarded.url, path, body, {"x-api-key": "secret"})[0] == 200
        assert raw(guarded.url, "/v1/models")[0] == raw(guarded.url, "/metrics")[0] == 401
        assert raw(guarded.url, "/health")[0] == 200


def test_the_body_has_a_limit(box: ModelKit) -> None:
    with serving(box, max_body=1000) as small:
        path, body = "/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "a" * 2000}]})
        assert raw(small.url, path, body)[0] == 413
        connection = HTTPConnection(urlsplit(small.url).netloc, timeout=60)
        connection.request("POST", path, iter([body.encode()]), encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()


LONG = {"messages": SPELL, "temperature": 0, "max_tokens": 4000, "logit_bias": {"5": 100.0}, "stream": True, **QUICK}


class Stream:
    """A streamed request on a connection of its own."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        self.connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body))
        self.response = self.connection.getresponse()

    def until_text(self) -> None:
        while b'"content":"' not in (line := self.response.readline()) or b'"content":""' in line:
            assert line

    def close(self, *, rudely: bool = False) -> None:
        leave(self.connection, rudely=rudely)
        self.response.close()


def leave(connection: HTTPConnection, *, rudely: bool) -> None:
    """Close a connection; rudely is with a reset."""
    if rudely:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def handles() -> int:
    """Open files and sockets of this process; 0 where the system does not say."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


@pytest.mark.parametrize("rudely", [False, True], ids=["closed", "reset"])
def test_a_client_that_goes_frees_its_place(box: ModelKit, caplog: pytest.LogCaptureFixture, rudely: bool) -> None:
    """In its stream, before its answer, and before its request is complete: nothing is kept or complained about."""
    with serving(box, max_rows=1) as running:
        assert raw(running.url, "/v1/chat/completions", {"messages": SPELL, "max_tokens": 2})[0] == 200
        before = handles()
        stream = Stream(running.url, LONG)
        stream.until_text()
        stream.close(rudely=rudely)
        eventually(lambda: running.engine.running == 0)
        for part in (1.0, 0.5):
            connection = HTTPConnection(urlsplit(running.url).netloc, timeout=60)
            body = json.dumps(LONG | {"stream": False}).encode()
            connection.putrequest("POST", "/v1/chat/completions")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[: int(len(body) * part)])
            if part == 1.0:
                eventually(lambda: running.engine.running == 1)
            leave(connection, rudely=rudely)
            eventually(lambda: running.engine.running == 0)
        assert raw(running.url, "/v1/chat/completions", {"messages": SPELL, "max_tokens": 2})[0] == 200
        # Two answers of two tokens; those that nobody waited for were not written to their end.
        assert 'mlx_qwen35_answers_total{reason="length"} 2.0' in raw(running.url, "/metrics")[2]
        eventually(lambda: handles() <= before)
        gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_full_queue_says_when_to_come_again(box: ModelKit) -> None:
    with serving(box, max_rows=1, max_waiting=0) as running:
        stream = Stream(running.url, LONG)
        stream.until_text()
        status, headers, text = raw(running.url, "/v1/chat/completions", {"messages": SPELL})
        assert (status, headers["retry-after"]) == (429, "2")
        assert json.loads(text)["error"]["code"] == "rate_limit_exceeded"
        assert raw(running.url, "/v1/chat/completions", {"messages": SPELL, "stream": True})[0] == 429
        stream.close()


def test_shutting_down_finishes_what_is_running(box: ModelKit) -> None:
    rest: list[bytes] = []
    with serving(box) as running:
        stream = Stream(running.url, LONG | {"max_tokens": 100})
        stream.until_text()
        thread = threading.Thread(target=lambda: rest.append(stream.response.read()))
        thread.start()
    thread.join()
    assert b'"finish_reason":"length"' in rest[0]
    assert rest[0].endswith(b"data: [DONE]\n\n")
    stream.close()


def test_shutting_down_cancels_what_takes_too_long(box: ModelKit) -> None:
    """The stream says so before it ends."""
    rest: list[bytes] = []
    with serving(box, patience=0.2) as running:
        stream = Stream(running.url, LONG | {"max_tokens": 8000})
        stream.until_text()
        thread = threading.Thread(target=lambda: rest.append(stream.response.read()))
        thread.start()
    thread.join()
    assert b"shutting down" in rest[0]
    stream.close()


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:PORT", 200),
        ("https://example.com", 403),
        ("https://example.com:PORT", 403),
        ("http://127.0.0.1:NEXT", 403),
        ("http://127.0.0.1", 403),
        ("http://localhost:PORT", 403),
        ("null", 403),
        ("", 403),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_a_page_of_another_origin_may_not_ask(server: Running, path: str, origin: str, status: int) -> None:
    """Another port is another origin, and so is a page that has none: a file, or a frame in a sandbox."""
    port = urlsplit(server.url).port
    assert port is not None
    # What is let in is looked at: it asks for too much.
    body = {"model": "box", "max_tokens": 0, "messages": SPELL}
    headers = {"Origin": origin.replace("PORT", str(port)).replace("NEXT", str(port + 1))}
    found, shown, text = raw(server.url, path, body, headers)
    assert found == (400 if status == 200 else status), text
    assert not [name for name in shown if name.lower().startswith("access-control-")]


def test_nor_may_it_look(server: Running) -> None:
    for path in ("/v1/models", "/metrics", "/health", "/"):
        assert raw(server.url, path, headers={"Origin": "null"})[0] == 403
        assert raw(server.url, path, headers={"Origin": server.url})[0] == 200


def test_an_answer_has_a_time_limit(box: ModelKit) -> None:
    with serving(box, timeout=0.5) as running:
        assert raw(running.url, "/v1/chat/completions", LONG | {"stream": False})[0] == 504
        text = raw(running.url, "/v1/chat/completions", LONG)[2]
        assert "timeout_error" in text.strip().splitlines()[-1]
        eventually(lambda: running.engine.running == 0)


def test_a_long_prompt_keeps_the_connection_alive(box: ModelKit) -> None:
    with serving(box, prefill_step_size=32) as running:
        body = {"messages": [{"role": "user", "content": "star " * 300}], "max_tokens": 2, "stream": True}
        lines = raw(running.url, "/v1/chat/completions", body)[2].splitlines()
        assert sum(line.startswith(": ") and line.endswith("prompt tokens") for line in lines) >= 8
        with serving(box, heartbeat=0.05, max_rows=1) as slow:
            stream = Stream(slow.url, LONG)
            stream.until_text()
            waiting = Stream(slow.url, LONG)
            assert waiting.response.readline().startswith(b"data: ")
            while not waiting.response.readline().startswith(b": 0 of"):
                pass
            stream.close()
            waiting.close()


def test_an_engine_fault_is_told_and_the_next_request_works(
    box: ModelKit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(box) as running:
        with monkeypatch.context() as patch:
            patch.setattr("mlx_qwen35.runtime.executor._Batch.step", lambda batch: 1 / 0)
            status, _, text = raw(running.url, "/v1/chat/completions", {"messages": SPELL})
            assert status == 500
            assert "division" not in text
            assert '"error"' in raw(running.url, "/v1/chat/completions", {"messages": SPELL, "stream": True})[2]
        assert "ZeroDivisionError" in caplog.text
        assert raw(running.url, "/v1/chat/completions", {"messages": SPELL, "max_tokens": 2})[0] == 200
