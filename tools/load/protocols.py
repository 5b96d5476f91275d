"""The server's protocols: conversations to requests, and what comes back to answers that can be compared."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_qwen35.checkpoints.files import BOX
from tools.load.conversations import Conversation, Json, Question, Results, data_url


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
        images = [{"type": "image_url", "image_url": {"url": data_url(png)}} for png in turn.images]
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
        images = [{"type": "input_image", "image_url": data_url(png)} for png in turn.images]
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


def wrong(expected: Answer, found: Answer) -> str | None:
    """How an answer differs from its reference; None if it does not."""
    for name in ("reasoning", "text", "calls", "reason", "prompt_tokens", "tokens"):
        if getattr(found, name) != getattr(expected, name):
            return f"{name}: expected {getattr(expected, name)!r}, found {getattr(found, name)!r}"
    return None


def follows_schema(answer: Answer) -> bool:
    """Whether an answer is what `conversations.SCHEMA` asks for, or was cut short."""
    if answer.reason == "length":
        return True
    data = json.loads(answer.text)
    return set(data) == {"answer", "sure"} and isinstance(data["answer"], str) and isinstance(data["sure"], bool)
