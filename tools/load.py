"""A load of mixed conversations on a server, some of them rude, with every answer held against a reference.

    python -m tools.load --minutes 5 --clients 16 --out docs/load.json

Without --url it starts a server of its own with the checkpoint in the package. Loopback only. What the server's
process holds (memory, threads, handles) is read from /proc, which only Linux has; elsewhere, and with --url but
without --pid, those checks are left out, and the report says so.

References come first, from one client alone. Then all clients at once: conversations of one to four turns in three
protocols, streamed and not, clients that leave, malformed requests, and now and then more requests than the queue
takes. Ends with status 1 if an answer differs from its reference, a malformed request gets anything but its
refusal, a connection hangs, or the server keeps what it should have let go.
"""

import argparse
import base64
import http.client
import io
import ipaddress
import json
import math
import os
import platform
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from mlx_qwen35.bench.serve import serving, stop
from mlx_qwen35.checkpoint import BOX
from tools.box import about_pictures, about_text, about_tools
from tools.box.dialogues import Dialogue

# Of a server that is started here: few places in the queue, so that it is full at times, and little memory for
# what was read, so that it is full before growth is counted.
ROWS, PLACES, CACHE = 8, 8, "32MB"
POOL = 60
MOST_TURNS = 4
MAX_TOKENS = 96
# A connection that says nothing for so long hangs.
PATIENCE = 120.0
IDLE_SECONDS = 20.0
STOP_SECONDS = 30.0
CROWD_SECONDS = 15.0
WARM_SECONDS = 20.0
# Growth is counted from here on, or from a third of a shorter run.
SETTLED_SECONDS = 60.0
MAX_GROWTH = 50 * 2**20
MAX_LEFT = 2
MOST_TRIES = 100
MOST_SHOWN = 20
MOST_RETRIED = 5
TALK, LEAVE_STREAM, LEAVE_EARLY, MALFORMED = "talk", "leave in the stream", "leave before the first token", "malformed"
ACTIONS = {TALK: 70, LEAVE_STREAM: 10, LEAVE_EARLY: 8, MALFORMED: 12}

Json = dict[str, Any]


# Conversations


@dataclass(frozen=True)
class Question:
    """What the user says, below some pictures."""

    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Results:
    """What the functions return that the answer before called."""

    text: str


@dataclass(frozen=True, eq=False)
class Conversation:
    """One client's side of it.

    Args:
        tools: In OpenAI's form.
        forced: Whether the first answer has to be a call.
        schema: Of every answer.
    """

    number: int
    kind: str
    turns: tuple[Question | Results, ...]
    tools: tuple[Json, ...] = ()
    forced: bool = False
    schema: Json | None = None
    thinking: bool = False
    max_tokens: int = MAX_TOKENS


SCHEMA: Json = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 40}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}
# Keeps a row busy while the queue fills behind it.
LONG: Json = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 16, "maxItems": 16}
TASKS = {"text": about_text.TASKS, "image": about_pictures.TASKS, "tools": about_tools.TASKS}
KINDS = (*TASKS, "schema")


def make_pool(seed: int, count: int) -> list[Conversation]:
    """Conversations about what the checkpoint in the package knows; the same for the same seed."""
    return [_conversation(number, Random(f"load-{seed}-{number}")) for number in range(count)]


def _conversation(number: int, rng: Random) -> Conversation:
    kind = KINDS[number % len(KINDS)]
    dialogue = TASKS[rng.choice(["text", "image"]) if kind == "schema" else kind].draw(rng)
    return Conversation(
        number,
        kind,
        _turns(dialogue),
        tools=dialogue.tools,
        forced=kind == "tools" and rng.random() < 0.3,
        schema=SCHEMA if kind == "schema" else None,
        thinking=rng.random() < 0.4,
    )


def _turns(dialogue: Dialogue) -> tuple[Question | Results, ...]:
    turns: list[Question | Results] = []
    for number, turn in enumerate(dialogue.turns[:MOST_TURNS]):
        if turn.question:
            turns.append(Question(turn.question, tuple(_png(picture.image) for picture in turn.images)))
        else:
            turns.append(Results(dialogue.turns[number - 1].tool_results[0]))
    return tuple(turns)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


# Protocols


class FormError(Exception):
    """An answer that is not of its protocol's form."""


@dataclass(frozen=True)
class Answer:
    """What the assistant said, the same in all protocols.

    Args:
        calls: Names and arguments of functions.
        reason: "stop", "length" or "tool_calls".
        prompt_tokens, tokens: As the server counts them.
        echo: The answer as later requests repeat it.
        call_ids: What results of the calls refer to.
    """

    text: str
    reasoning: str
    calls: tuple[tuple[str, str], ...]
    reason: str
    prompt_tokens: int
    tokens: int
    echo: tuple[Json, ...] = field(default=(), compare=False, repr=False)
    call_ids: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said, which not every protocol can repeat."""
        return not (self.text or self.reasoning or self.calls)


class ChatCompletions:
    """OpenAI's chat completions."""

    name, path = "chat", "/v1/chat/completions"

    def say(self, turn: Question | Results, before: Answer | None) -> list[Json]:
        """Messages that a turn adds."""
        if isinstance(turn, Results):
            assert before is not None
            return [{"role": "tool", "tool_call_id": call, "content": turn.text} for call in before.call_ids]
        images = [{"type": "image_url", "image_url": {"url": _data_url(png)}} for png in turn.images]
        content: Any = [*images, {"type": "text", "text": turn.text}] if images else turn.text
        return [{"role": "user", "content": content}]

    def body(self, conversation: Conversation, history: Sequence[Json], *, streamed: bool, forced: bool) -> Json:
        """A request."""
        body: Json = {
            "messages": list(history),
            "temperature": 0,
            "max_tokens": conversation.max_tokens,
            "enable_thinking": conversation.thinking,
        }
        if conversation.tools:
            body |= {"tools": list(conversation.tools), "tool_choice": "required" if forced else "auto"}
        if conversation.schema is not None:
            form = {"name": "answer", "schema": conversation.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        if streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def whole(self, data: Json) -> Answer:
        """From an answer that came at once."""
        (choice,) = data["choices"]
        return self._answer(choice["message"], choice["finish_reason"], data["usage"])

    def speaks(self, event: Json) -> bool:
        """Whether an event of a stream is a piece of the answer."""
        return any(
            choice["delta"].get(name)
            for choice in event.get("choices", ())
            for name in ("content", "reasoning_content", "tool_calls")
        )

    def joined(self, events: Sequence[Json]) -> Answer:
        """From all events of a stream."""
        message: Json = {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": []}
        reasons, usage = [], None
        for event in events:
            if "error" in event:
                raise FormError(f"an error in the stream: {event['error']}")
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                delta = choice["delta"]
                for name in ("content", "reasoning_content"):
                    message[name] += delta.get(name) or ""
                message["tool_calls"] += delta.get("tool_calls") or []
                reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
        if len(reasons) != 1 or usage is None or events[-1].get("choices") != []:
            raise FormError(f"expected one reason and the usage at the end, found {reasons} and {usage}")
        if [call.pop("index") for call in message["tool_calls"]] != list(range(len(message["tool_calls"]))):
            raise FormError("expected tool calls with their numbers in order")
        return self._answer(message, reasons[0], usage)

    def _answer(self, message: Json, reason: str, usage: Json) -> Answer:
        calls = message.get("tool_calls") or []
        echo = {name: value for name, value in message.items() if value or name == "content"}
        return Answer(
            message["content"] or "",
            message.get("reasoning_content") or "",
            tuple((call["function"]["name"], _plain(json.loads(call["function"]["arguments"]))) for call in calls),
            reason,
            usage["prompt_tokens"],
            usage["completion_tokens"],
            (echo,),
            tuple(call["id"] for call in calls),
        )


class Responses:
    """OpenAI's responses."""

    name, path = "responses", "/v1/responses"

    def say(self, turn: Question | Results, before: Answer | None) -> list[Json]:
        """Items that a turn adds."""
        if isinstance(turn, Results):
            assert before is not None
            return [
                {"type": "function_call_output", "call_id": call, "output": turn.text} for call in before.call_ids
            ]  # fmt: skip
        images = [{"type": "input_image", "image_url": _data_url(png)} for png in turn.images]
        return [{"role": "user", "content": [*images, {"type": "input_text", "text": turn.text}]}]

    def body(self, conversation: Conversation, history: Sequence[Json], *, streamed: bool, forced: bool) -> Json:
        """A request."""
        body: Json = {
            "input": list(history),
            "temperature": 0,
            "max_output_tokens": conversation.max_tokens,
            "reasoning": {"effort": "high" if conversation.thinking else "none"},
        }
        if conversation.tools:
            tools = [{"type": "function", **tool["function"]} for tool in conversation.tools]
            body |= {"tools": tools, "tool_choice": "required" if forced else "auto"}
        if conversation.schema is not None:
            body["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": conversation.schema}}
        return body | ({"stream": True} if streamed else {})

    def whole(self, data: Json) -> Answer:
        """From an answer that came at once."""
        texts = {"message": "", "reasoning": ""}
        calls = [item for item in data["output"] if item["type"] == "function_call"]
        for item in data["output"]:
            for part in item.get("content", ()):
                texts[item["type"]] += part["text"]
        reason = {"completed": "tool_calls" if calls else "stop", "incomplete": "length"}[data["status"]]
        return Answer(
            texts["message"],
            texts["reasoning"],
            tuple((call["name"], _plain(json.loads(call["arguments"]))) for call in calls),
            reason,
            data["usage"]["input_tokens"],
            data["usage"]["output_tokens"],
            tuple(data["output"]),
            tuple(call["call_id"] for call in calls),
        )

    def speaks(self, event: Json) -> bool:
        """Whether an event of a stream is a piece of the answer."""
        return str(event.get("type")).endswith(".delta")

    def joined(self, events: Sequence[Json]) -> Answer:
        """From all events of a stream."""
        end = events[-1]
        if end["type"] not in ("response.completed", "response.incomplete"):
            raise FormError(f"expected the response at the end of the stream, found {end}")
        numbers = [event["sequence_number"] for event in events]
        if numbers != list(range(len(events))):
            raise FormError(f"expected sequence numbers from 0, found {numbers}")
        answer = self.whole(end["response"])
        for name, text in (("output_text", answer.text), ("reasoning_text", answer.reasoning)):
            told = "".join(event["delta"] for event in events if event["type"] == f"response.{name}.delta")
            if told != text:
                raise FormError(f"the pieces of the {name} were {told!r}, and the whole {text!r}")
        return answer


class Messages:
    """Anthropic's messages."""

    name, path = "messages", "/v1/messages"

    def say(self, turn: Question | Results, before: Answer | None) -> list[Json]:
        """The message that a turn adds."""
        blocks: list[Json]
        if isinstance(turn, Results):
            assert before is not None
            blocks = [{"type": "tool_result", "tool_use_id": call, "content": turn.text} for call in before.call_ids]
        else:
            sources = [
                {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png).decode()}
                for png in turn.images
            ]
            blocks = [*({"type": "image", "source": source} for source in sources), {"type": "text", "text": turn.text}]
        return [{"role": "user", "content": blocks}]

    def body(self, conversation: Conversation, history: Sequence[Json], *, streamed: bool, forced: bool) -> Json:
        """A request."""
        body: Json = {
            "model": MODEL,
            "messages": list(history),
            "temperature": 0,
            "max_tokens": conversation.max_tokens,
            "thinking": {"type": "enabled" if conversation.thinking else "disabled"},
        }
        if conversation.tools:
            functions = [tool["function"] for tool in conversation.tools]
            tools = [{**function, "input_schema": function["parameters"]} for function in functions]
            body["tools"] = [{name: tool[name] for name in tool if name != "parameters"} for tool in tools]
            body["tool_choice"] = {"type": "any" if forced else "auto"}
        if conversation.schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": conversation.schema}}
        return body | ({"stream": True} if streamed else {})

    def whole(self, data: Json) -> Answer:
        """From an answer that came at once."""
        blocks, usage = data["content"], data["usage"]
        calls = [block for block in blocks if block["type"] == "tool_use"]
        return Answer(
            "".join(block["text"] for block in blocks if block["type"] == "text"),
            "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
            tuple((call["name"], _plain(call["input"])) for call in calls),
            {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls"}[data["stop_reason"]],
            usage["input_tokens"] + usage["cache_read_input_tokens"],
            usage["output_tokens"],
            ({"role": "assistant", "content": blocks},),
            tuple(call["id"] for call in calls),
        )

    def speaks(self, event: Json) -> bool:
        """Whether an event of a stream is a piece of the answer."""
        return event.get("type") == "content_block_delta"

    def joined(self, events: Sequence[Json]) -> Answer:
        """From all events of a stream."""
        blocks: list[Json] = []
        arguments, data, is_open = "", None, False
        for event in events:
            kind = event["type"]
            if kind == "error":
                raise FormError(f"an error in the stream: {event['error']}")
            if kind.startswith("content_block") and event["index"] != len(blocks) - (kind != "content_block_start"):
                raise FormError(f"expected an event of block {len(blocks) - 1} or the next, found {event}")
            if kind == "content_block_start":
                blocks.append(dict(event["content_block"]))
                arguments, is_open = "", True
            elif kind == "content_block_delta":
                delta = event["delta"]
                if delta["type"] == "input_json_delta":
                    arguments += delta["partial_json"]
                else:
                    name = delta["type"].removesuffix("_delta")
                    blocks[-1][name] += delta[name]
            elif kind == "content_block_stop":
                is_open = False
                if blocks[-1]["type"] == "tool_use":
                    blocks[-1]["input"] = json.loads(arguments)
            elif kind == "message_delta":
                data = {"content": blocks, "stop_reason": event["delta"]["stop_reason"], "usage": event["usage"]}
        if data is None or is_open or events[-1]["type"] != "message_stop":
            raise FormError(f"expected closed blocks and the end of the message, found {events[-1]}")
        return self.whole(data)


Protocol = ChatCompletions | Responses | Messages
CHAT = ChatCompletions()
PROTOCOLS: tuple[Protocol, ...] = (CHAT, Responses(), Messages())
MODEL = BOX.name


def _plain(arguments: Any) -> str:
    return json.dumps(arguments, sort_keys=True)


# Requests that have to be refused


@dataclass(frozen=True)
class Malformed:
    """A request that is wrong.

    Args:
        status: What it has to get.
    """

    name: str
    path: str
    body: bytes
    status: int = 400
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


def make_malformed() -> list[Malformed]:
    """Each kind of mistake at each place where it can be made."""
    picture = _png(Image.new("RGB", (32, 32), "red"))
    url = _data_url(picture)
    images = {
        "an image that is no base64": ["data:image/png;base64,@@@@"],
        "an image that is cut": [_data_url(picture[: len(picture) // 2])],
        "an image that is text": [_data_url(b"These are no pixels.")],
        "an image from the network": ["http://127.0.0.1:1/x.png"],
        "an image from the disk": ["/etc/hostname"],
        "too many images": [url] * 17,
    }
    found = []
    for protocol in PROTOCOLS:
        # In all three the list of messages has the same form, and mostly the same name.
        name = "input" if protocol.name == "responses" else "messages"
        limit = "max_output_tokens" if protocol.name == "responses" else "max_tokens"
        model = {"model": MODEL, limit: 8}
        right = {**model, name: [{"role": "user", "content": "Hello!"}]}
        bodies: dict[str, Any] = {
            "bad JSON": b'{"model": "box", "',
            "nothing": b"",
            "no UTF-8": b'{"model": "\xff"}',
            "very deep JSON": b"[" * 100_000,
            "a list": [right],
            "null": None,
            "an unknown field": {**right, "nonsense": 1},
            "no messages": model,
            "empty messages": {**model, name: []},
            "messages of a wrong type": {**model, name: 5},
            "an unknown role": {**model, name: [{"role": "robot", "content": "Hello!"}]},
            "only an answer": {**model, name: [{"role": "assistant", "content": "Hello!"}]},
            "content of a wrong type": {**model, name: [{"role": "user", "content": 5}]},
            "no content": {**model, name: [{"role": "user"}]},
            "a part of an unknown type": {**model, name: [{"role": "user", "content": [{"type": "smell"}]}]},
            "half a character": {**model, name: [{"role": "user", "content": "\ud800"}]},
            "a prompt that is too long": {**model, name: [{"role": "user", "content": "cat dog " * 9000}]},
            "text for a number": {**right, "temperature": "0"},
            "NaN": {**right, "temperature": math.nan},
            "too cold": {**right, "temperature": -1},
            "top_p above 1": {**right, "top_p": 2},
            "no tokens": {**right, limit: 0},
            "half a token": {**right, limit: 1.5},
            "text for a bool": {**right, "stream": "yes"},
            "tools of a wrong type": {**right, "tools": {"type": "function"}},
            "a tool without a name": {**right, "tools": [{"type": "function"}]},
        }
        if protocol.name == "chat":
            schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
            bodies |= {
                "a schema that is none": {**right, "response_format": schema},
                "a call of no function": {**right, "tool_choice": "required"},
                "too many answers": {**right, "n": 1000},
                "a bias on no token": {**right, "logit_bias": {"99999999": 1}},
                "a bias on a very long number": {**right, "logit_bias": {"9" * 5000: 1}},
                "two limits": {**right, "max_completion_tokens": 9},
                "very deep arguments": {
                    **model,
                    name: [
                        {"role": "user", "content": "Hello!"},
                        {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": '{"a":' * 5000}}]},
                        {"role": "user", "content": "Hello!"},
                    ],
                },
                "a template": {**right, "chat_template_kwargs": {"chat_template": "{{ messages }}"}},
            }
        if protocol.name == "responses":
            bodies["half a character in a label"] = {**right, "metadata": {"label": "\ud800"}}
        found += [
            Malformed(f"{protocol.name}: {what}", protocol.path, data if isinstance(data, bytes) else _json(data))
            for what, data in bodies.items()
        ]
        for what, urls in images.items():
            content = [_image_part(protocol, text) for text in urls]
            body = {**model, name: [{"role": "user", "content": content}]}
            found.append(Malformed(f"{protocol.name}: {what}", protocol.path, _json(body)))
        found += [
            Malformed(f"{protocol.name}: another model", protocol.path, _json({**right, "model": "gpt"}), 404),
            Malformed(f"{protocol.name}: GET", protocol.path, b"", 405, "GET"),
            Malformed(
                f"{protocol.name}: a body of 1 TB", protocol.path, b"", 413, headers={"Content-Length": "9" * 12}
            ),
        ]
    found += [
        Malformed(f"completions: {what}", "/v1/completions", _json({"prompt": prompt}))
        for what, prompt in {"no prompts": [], "an empty prompt": "", "no tokens": [[]], "no token": [-1]}.items()
    ]
    return [*found, Malformed("an unknown path", "/v1/nothing", b"{}", 404)]


def _json(data: Any) -> bytes:
    return json.dumps(data).encode()


def _image_part(protocol: Protocol, url: str) -> Json:
    if protocol.name == "chat":
        return {"type": "image_url", "image_url": {"url": url}}
    if protocol.name == "responses":
        return {"type": "input_image", "image_url": url}
    if url.startswith("data:"):
        data = url.partition(",")[2]
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    return {"type": "image", "source": {"type": "url", "url": url}}


# What is found


@dataclass(frozen=True)
class Sample:
    """What the server's process holds.

    Args:
        seconds: Since the load began.
        rss: Bytes of memory.
        handles: Open files and sockets.
    """

    seconds: float
    rss: int
    threads: int
    handles: int


def sample(pid: int, began: float) -> Sample:
    """Look at a process; on Linux only.

    Raises:
        OSError: It has ended.
    """
    process = Path("/proc") / str(pid)
    lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    if "VmRSS" not in lines:  # ended, but its parent has not looked yet
        raise ProcessLookupError(f"process {pid} has ended")
    return Sample(
        round(time.monotonic() - began, 2),
        int(lines["VmRSS"].split()[0]) * 1024,
        int(lines["Threads"]),
        len(list((process / "fd").iterdir())),
    )


def wrong(expected: Answer, found: Answer) -> str | None:
    """How an answer differs from its reference; None if it does not."""
    for name in ("reasoning", "text", "calls", "reason", "prompt_tokens", "tokens"):
        if getattr(found, name) != getattr(expected, name):
            return f"{name}: expected {getattr(expected, name)!r}, found {getattr(found, name)!r}"
    return None


def _follows_schema(answer: Answer) -> bool:
    if answer.reason == "length":
        return True
    data = json.loads(answer.text)
    return set(data) == {"answer", "sure"} and isinstance(data["answer"], str) and isinstance(data["sure"], bool)


def growth(samples: Sequence[Sample]) -> int:
    """Bytes that memory grew from the end of the first minute (of the first third, if that is less) to the end."""
    settled = min(SETTLED_SECONDS, samples[-1].seconds / 3)
    later = [sample.rss for sample in samples if sample.seconds >= settled]
    window = max(1, len(later) // 10)
    return round(statistics.median(later[-window:]) - statistics.median(later[:window]))


def leaks(before: Sample, after: Sample, samples: Sequence[Sample]) -> list[str]:
    """What a server keeps too much of.

    Args:
        before, after: Without work: once everything has run that starts threads, and at the end.
        samples: While it worked.
    """
    found = []
    for name in ("threads", "handles"):
        old, new = getattr(before, name), getattr(after, name)
        if new > old + MAX_LEFT:
            found.append(f"leak: expected at most {old + MAX_LEFT} {name} at the end, found {new}")
    grown = growth(samples)
    if grown > MAX_GROWTH:
        found.append(f"leak: expected memory to grow by at most {MAX_GROWTH} bytes, found {grown}")
    return found


class Tally:
    """What clients saw; any thread may add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.problems: list[str] = []
        self.clear()

    def clear(self) -> None:
        """Forget everything but problems."""
        with self._lock:
            self.statuses: Counter[str] = Counter()
            self.actions: Counter[str] = Counter()
            self.firsts: defaultdict[str, list[float]] = defaultdict(list)
            self.totals: defaultdict[str, list[float]] = defaultdict(list)

    def problem(self, text: str) -> None:
        """Something that must not be."""
        with self._lock:
            self.problems.append(text)
            if len(self.problems) <= MOST_SHOWN:
                print(f"PROBLEM {text}", flush=True)

    def status(self, status: int) -> None:
        """A response has begun."""
        with self._lock:
            self.statuses[str(status)] += 1

    def action(self, name: str) -> None:
        """A client did something."""
        with self._lock:
            self.actions[name] += 1

    def times(self, kind: str, first: float | None, total: float) -> None:
        """A request is complete; `first` is None where the answer came at once."""
        with self._lock:
            self.totals[kind].append(total)
            if first is not None:
                self.firsts[kind].append(first)

    def latency(self) -> dict[str, Json]:
        """By kind of request."""
        return {
            kind: {"requests": len(totals), "first_token": spread(self.firsts[kind]), "total": spread(totals)}
            for kind, totals in sorted(self.totals.items())
        }


def spread(seconds: Sequence[float]) -> dict[str, float] | None:
    """Percentiles; None of nothing."""
    ordered = sorted(seconds)
    return {
        f"p{percent}": round(ordered[math.ceil(len(ordered) * percent / 100) - 1], 4) for percent in (50, 90, 99)
    } if ordered else None  # fmt: skip


# Clients


class Line:
    """One client's connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=PATIENCE)

    def send(self, path: str, body: bytes, method: str = "POST", headers: Mapping[str, str] | None = None) -> None:
        """A request, without waiting for anything."""
        self._connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})

    def receive(self) -> http.client.HTTPResponse:
        """The beginning of its response."""
        return self._connection.getresponse()

    def leave(self, *, rudely: bool) -> None:
        """Close it in the middle of something; rudely is with a reset."""
        if rudely and self._connection.sock is not None:
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """End it."""
        self._connection.close()


def events_of(response: http.client.HTTPResponse) -> Iterator[Json]:
    """Server-sent events as they come.

    Raises:
        FormError: A line is none of an event.
    """
    for raw in response:
        line = raw.decode().rstrip("\n")
        if line == "data: [DONE]" or not line or line.startswith((":", "event: ")):
            continue
        if not line.startswith("data: {"):
            raise FormError(f"expected a line of an event, found {line!r}")
        yield json.loads(line.removeprefix("data: "))


class Load:
    """Clients of one server.

    Args:
        address: Host and port.
        capacity: Requests that the server reads, answers and lets wait at most.
    """

    def __init__(self, address: tuple[str, int], pool: Sequence[Conversation], *, seed: int, capacity: int) -> None:
        self._address, self._seed, self._capacity = address, seed, capacity
        self.pool = list(pool)
        self._malformed = make_malformed()
        self._long = Conversation(len(pool), "crowd", (Question("Count."),), schema=LONG, max_tokens=512)
        self.references: dict[int, list[Answer]] = {}
        # In the order in which they were found; only keys count.
        self._suspects: dict[tuple[Conversation, Protocol, bool], None] = {}
        self.tally = Tally()

    def refer(self) -> None:
        """Hold every conversation once, alone, and remember the answers."""
        for conversation in [*self.pool, self._long]:
            answers = list(self._talk(conversation, CHAT, streamed=False))
            self.references[conversation.number] = answers
            if conversation.schema is SCHEMA and not all(_follows_schema(answer) for answer in answers):
                self.tally.problem(
                    f"conversation {conversation.number}: expected answers by the schema, found {answers}"
                )

    def run(self, seconds: float, clients: int, label: str) -> float:
        """All clients at once; returns how long it took."""
        began = time.monotonic()
        until = began + seconds
        threads = [
            threading.Thread(target=self._client, args=(Random(f"{label}-{self._seed}-{number}"), until), daemon=True)
            for number in range(clients)
        ]
        threads.append(
            threading.Thread(target=self._crowds, args=(Random(f"{label}-{self._seed}"), until), daemon=True)
        )
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()) + 2 * PATIENCE)
        if any(thread.is_alive() for thread in threads):
            self.tally.problem("a client hangs")
        return time.monotonic() - began

    def rest(self) -> None:
        """Wait until the server has nothing to do."""
        deadline = time.monotonic() + IDLE_SECONDS
        with self._watched("health"):
            while (state := self._health()) != (0, 0):
                if time.monotonic() > deadline:
                    self.tally.problem(f"expected no work without clients, found {state} requests running and waiting")
                    return
                time.sleep(0.1)

    def retry(self) -> dict[str, str]:
        """Ask again, alone, where answers were wrong: whether it takes a load to make them so."""
        found = {}
        for conversation, protocol, streamed in list(self._suspects)[:MOST_RETRIED]:
            name = f"conversation {conversation.number}, {protocol.name}, {'streamed' if streamed else 'at once'}"
            with self._watched(name):
                found[name] = self._compare(conversation, protocol, streamed=streamed, until=math.inf) or "right"
        return found

    def _health(self) -> tuple[int, int]:
        line = Line(self._address)
        try:
            line.send("/health", b"", "GET")
            state = json.loads(line.receive().read())
            return state["running"], state["waiting"]
        finally:
            line.close()

    def _client(self, rng: Random, until: float) -> None:
        while time.monotonic() < until:
            action = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
            self.tally.action(action)
            with self._watched(action):
                if action == TALK:
                    self._talk_and_compare(rng, until)
                elif action == MALFORMED:
                    self._be_refused(rng.choice(self._malformed))
                else:
                    self._leave(rng, in_stream=action == LEAVE_STREAM)

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self.tally.problem(f"{what}: nothing came for {PATIENCE:g} seconds")
        except (OSError, http.client.HTTPException) as error:
            self.tally.problem(f"{what}: the connection broke: {error!r}")
            # A server that is gone is found gone often enough.
            time.sleep(0.5)
        except (FormError, ValueError, KeyError, IndexError, TypeError) as error:
            self.tally.problem(f"{what}: the answer has another form than its protocol: {error!r}")

    def _talk_and_compare(self, rng: Random, until: float) -> None:
        conversation, protocol, streamed = rng.choice(self.pool), rng.choice(PROTOCOLS), rng.random() < 0.6
        problem = self._compare(conversation, protocol, streamed=streamed, until=until)
        if problem is not None:
            how = f"{protocol.name}, {'streamed' if streamed else 'at once'}"
            self.tally.problem(
                f"wrong answer: {conversation.kind} conversation {conversation.number}, {how}, {problem}"
            )
            self._suspects[conversation, protocol, streamed] = None

    def _compare(self, conversation: Conversation, protocol: Protocol, *, streamed: bool, until: float) -> str | None:
        """The first difference from the reference."""
        expected = self.references[conversation.number]
        for turn, found in enumerate(self._talk(conversation, protocol, streamed=streamed, until=until)):
            problem = wrong(expected[turn], found) if turn < len(expected) else "expected no such turn"
            if problem is not None:
                return f"turn {turn + 1}: {problem}"
        return None

    def _talk(
        self, conversation: Conversation, protocol: Protocol, *, streamed: bool, until: float = math.inf
    ) -> Iterator[Answer]:
        """Hold a conversation on one connection, as far as it goes until then."""
        history: list[Json] = []
        before: Answer | None = None
        line = Line(self._address)
        try:
            for turn in conversation.turns:
                if time.monotonic() > until or (isinstance(turn, Results) and not (before and before.calls)):
                    return
                history += protocol.say(turn, before)
                forced = conversation.forced and before is None
                body = _json(protocol.body(conversation, history, streamed=streamed, forced=forced))
                kind = f"{protocol.name}, {conversation.kind}"
                before = self._ask(line, protocol, body, kind, streamed=streamed, until=until)
                if before is None:
                    return
                history += before.echo
                yield before
                if before.is_empty:
                    return
        finally:
            line.close()

    def _ask(
        self, line: Line, protocol: Protocol, body: bytes, kind: str, *, streamed: bool, until: float
    ) -> Answer | None:
        """One request, again and again while the queue is full; None if it stays so."""
        for _ in range(MOST_TRIES):
            began = time.monotonic()
            line.send(protocol.path, body)
            response = line.receive()
            self.tally.status(response.status)
            if response.status == 429:
                wait = self._retry_after(response)
                # The server closes a connection that waits for long.
                line.close()
                if time.monotonic() + wait > until:
                    return None
                time.sleep(wait)
                continue
            if response.status != 200:
                raise FormError(f"expected status 200, found {response.status}: {response.read(500)!r}")
            first, events = None, []
            if streamed:
                for event in events_of(response):
                    if first is None and protocol.speaks(event):
                        first = time.monotonic() - began
                    events.append(event)
                answer = protocol.joined(events)
            else:
                answer = protocol.whole(json.loads(response.read()))
            self.tally.times(kind, first, time.monotonic() - began)
            return answer
        self.tally.problem(f"{kind}: refused {MOST_TRIES} times")
        return None

    def _retry_after(self, response: http.client.HTTPResponse) -> float:
        """Seconds until a refused request may come again."""
        value = response.getheader("Retry-After") or ""
        data = json.loads(response.read())
        if not value.isdecimal() or int(value) < 1 or not data["error"]["message"]:
            self.tally.problem(f"status 429: expected Retry-After and a message, found {value!r} and {data}")
            return 1.0
        return float(value)

    def _be_refused(self, request: Malformed) -> None:
        line = Line(self._address)
        try:
            line.send(request.path, request.body, request.method, request.headers)
            response = line.receive()
            data = response.read()
            self.tally.status(response.status)
            if response.status != request.status:
                expected = f"expected status {request.status}, found {response.status}"
                self.tally.problem(f"malformed request, {request.name}: {expected}: {data[:300]!r}")
                return
            error = json.loads(data)["error"]
            if not error["message"] or not error["type"]:
                raise FormError(f"expected an error with a type and a message, found {error}")
        finally:
            line.close()

    def _leave(self, rng: Random, *, in_stream: bool) -> None:
        """Ask, and go before the answer is complete, somewhere in a conversation."""
        conversation = rng.choice(self.pool)
        answers = self.references[conversation.number]
        history: list[Json] = []
        turns = rng.randrange(len(answers))
        for number in range(turns + 1):
            before = answers[number - 1] if number else None
            history += [*(before.echo if before else ()), *CHAT.say(conversation.turns[number], before)]
        streamed = in_stream or rng.random() < 0.5
        protocol: Protocol = CHAT
        if not turns:
            # References are chat completions, so only a first question can be put otherwise.
            protocol = rng.choice(PROTOCOLS)
            history = protocol.say(conversation.turns[0], None)
        body = protocol.body(conversation, history, streamed=streamed, forced=conversation.forced and not turns)
        line = Line(self._address)
        try:
            line.send(protocol.path, _json(body))
            if not in_stream:
                time.sleep(rng.random() * 0.1)
                return
            response = line.receive()
            self.tally.status(response.status)
            if response.status == 429:
                self._retry_after(response)
                return
            if response.status != 200:
                raise FormError(f"expected status 200 or 429, found {response.status}: {response.read(500)!r}")
            wanted = rng.randint(1, 12)
            for number, _ in enumerate(events_of(response)):
                if number == wanted:
                    break
        finally:
            line.leave(rudely=rng.random() < 0.5)

    def _crowds(self, rng: Random, until: float) -> None:
        """At once, and then now and then."""
        while time.monotonic() < until:
            self.tally.action("crowd")
            with self._watched("crowd"):
                self._crowd(rng)
            time.sleep(max(0.0, min(CROWD_SECONDS, until - time.monotonic())))

    def _crowd(self, rng: Random) -> None:
        """More requests than there is room for, so that the rest is refused, and other clients' requests too."""
        body = _json(CHAT.body(self._long, CHAT.say(self._long.turns[0], None), streamed=True, forced=False))
        lines = [Line(self._address) for _ in range(self._capacity + 8)]
        (expected,) = self.references[self._long.number]
        refused = 0
        try:
            for line in lines:
                line.send(CHAT.path, body)
            # All of them begin before one of them ends.
            responses = [line.receive() for line in lines]
            for line, response in zip(lines, responses, strict=True):
                self.tally.status(response.status)
                if response.status == 429:
                    self._retry_after(response)
                    refused += 1
                elif response.status != 200:
                    raise FormError(f"expected status 200 or 429, found {response.status}: {response.read(500)!r}")
                elif rng.random() < 0.2:
                    problem = wrong(expected, CHAT.joined(list(events_of(response))))
                    if problem is not None:
                        self.tally.problem(f"wrong answer: crowd: {problem}")
                else:
                    line.leave(rudely=rng.random() < 0.5)
        finally:
            for line in lines:
                line.close()
        if not refused:
            self.tally.problem(f"expected status 429 for some of {len(lines)} requests at once, found none")


# The whole


def measure(load: Load, pid: int | None, seconds: float, clients: int) -> Json:
    """References, a warm-up, the load, and what the server kept.

    Args:
        pid: Of the server, to look at what it holds; None for not to.
    Returns:
        For the report.
    """
    load.refer()
    load.run(min(WARM_SECONDS, seconds / 3), clients, "warm-up")
    load.rest()
    load.tally.clear()
    began, samples = time.monotonic(), []
    before = None if pid is None else sample(pid, began)
    over = threading.Event()

    def look(pid: int) -> None:
        while not over.wait(min(1.0, seconds / 30)):
            with suppress(OSError):
                samples.append(sample(pid, began))

    watcher = threading.Thread(target=look, args=(pid,), daemon=True)
    if pid is not None:
        watcher.start()
    took = load.run(seconds, clients, "load")
    over.set()
    load.rest()
    tally, held = load.tally, None
    if pid is not None and before is not None:
        watcher.join()
        try:
            after = _settled(pid, began, before)
        except OSError:
            after, samples = before, [before]
            tally.problem("the server has ended")
        for problem in leaks(before, after, samples):
            tally.problem(problem)
        held = {
            "before": vars(before),
            "after": vars(after),
            "rss_growth": growth(samples),
            "samples": [list(vars(found).values()) for found in samples],
        }
    return {
        "clients": clients,
        "conversations": len(load.pool),
        "seconds": round(took, 1),
        "requests_per_second": round(sum(tally.statuses.values()) / took, 2),
        "statuses": dict(sorted(tally.statuses.items())),
        "actions": dict(sorted(tally.actions.items())),
        "latency": tally.latency(),
        "server": held,
        "wrong_answers_alone": load.retry(),
    }


def _settled(pid: int, began: float, before: Sample) -> Sample:
    """The process once its connections are closed, or after a while as it is."""
    deadline = time.monotonic() + IDLE_SECONDS
    while True:
        found = sample(pid, began)
        if found.handles <= before.handles + MAX_LEFT and found.threads <= before.threads + MAX_LEFT:
            return found
        if time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def table(report: Json) -> str:
    """The report as people read it."""

    def cells(found: dict[str, float] | None) -> str:
        return " | ".join(f"{found[name] * 1000:.0f} ms" if found else "" for name in ("p50", "p90", "p99"))

    lines = ["| request | number | first token p50 | p90 | p99 | total p50 | p90 | p99 |", "|---|" + "--:|" * 7]
    for kind, row in report["latency"].items():
        lines.append(f"| {kind} | {row['requests']} | {cells(row['first_token'])} | {cells(row['total'])} |")
    lines += ["", f"{report['requests_per_second']} requests per second for {report['seconds']} seconds"]
    for name in ("statuses", "actions"):
        lines.append(f"{name}: {', '.join(f'{key}: {count}' for key, count in report[name].items())}")
    server = report["server"]
    if server is None:
        lines.append("what the server holds: not looked at, which takes Linux and the server's process")
    else:
        before, after = server["before"], server["after"]
        lines += [
            f"memory: {before['rss'] / 2**20:.0f} MiB before, {after['rss'] / 2**20:.0f} MiB after; "
            f"grew by {server['rss_growth'] / 2**20:.1f} MiB once settled",
            f"threads: {before['threads']} before, {after['threads']} after; "
            f"handles: {before['handles']} before, {after['handles']} after",
        ]
    lines += [f"asked again alone: {name}: {found}" for name, found in report["wrong_answers_alone"].items()]
    return "\n".join([*lines, f"problems: {len(report['problems'])}", *report["problems"][:MOST_SHOWN]])


def loopback(url: str) -> tuple[str, int]:
    """Host and port of a server on this machine.

    Raises:
        argparse.ArgumentTypeError: It is elsewhere.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if parts.scheme != "http" or not local:
        raise argparse.ArgumentTypeError(f"expected an http: URL of this machine, found {url!r}")
    return host, parts.port or 80


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load, print the table and write the report; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--conversations", type=int, default=POOL, help="different ones; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", type=loopback, help="a server that runs on this machine; default: one of its own")
    parser.add_argument("--capacity", type=int, default=72, help="with --url: rows and places in its queue together")
    parser.add_argument("--pid", type=int, help="with --url: the server's process, to look at what it holds")
    parser.add_argument("--out", type=Path, help="where to write the report as JSON")
    options = parser.parse_args(arguments)
    pool = make_pool(options.seed, options.conversations)
    linux = sys.platform == "linux"
    if options.url is not None:
        load = Load(options.url, pool, seed=options.seed, capacity=options.capacity)
        report = measure(load, options.pid if linux else None, options.minutes * 60, options.clients)
    else:
        with tempfile.TemporaryFile() as log, serving(own_command(), "mlx-qwen35", log) as server:
            load = Load(("127.0.0.1", server.port), pool, seed=options.seed, capacity=ROWS + PLACES)
            report = measure(load, server.process.pid if linux else None, options.minutes * 60, options.clients)
            if server.process.poll() is not None:
                load.tally.problem(f"the server ended by itself with status {server.process.returncode}")
            elif not stop(server.process, signal.SIGINT, STOP_SECONDS):
                load.tally.problem(f"the server does not stop within {STOP_SECONDS:g} seconds")
            log.seek(0)
            errors = [line for line in log.read().decode(errors="replace").splitlines() if _is_error(line)]
            if errors:
                load.tally.problem(f"the server's log has {len(errors)} errors; the first: {errors[0]}")
    report |= {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "problems": load.tally.problems,
    }
    print(table(report))
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if load.tally.problems else 0


def own_command(rows: int = ROWS, places: int = PLACES) -> list[str]:
    """What starts a server for the load, but for its address."""
    return [
        sys.executable, "-m", "mlx_qwen35.cli.main", "serve", "--model", str(BOX), "--served-model-name", MODEL,
        "--max-rows", str(rows), "--max-waiting", str(places), "--prompt-cache-bytes", CACHE, "--log-level", "warning",
    ]  # fmt: skip


def _is_error(line: str) -> bool:
    return line.startswith(("Traceback", "ERROR")) or "was never retrieved" in line


if __name__ == "__main__":
    sys.exit(main())
