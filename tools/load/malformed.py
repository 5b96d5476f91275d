"""Requests that have to be refused."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from tools.load.conversations import Json, data_url, json_bytes, png_of
from tools.load.protocols import MODEL, PROTOCOLS, Protocol


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
    picture = png_of(Image.new("RGB", (32, 32), "red"))
    url = data_url(picture)
    images = {
        "an image that is no base64": ["data:image/png;base64,@@@@"],
        "an image that is cut": [data_url(picture[: len(picture) // 2])],
        "an image that is text": [data_url(b"These are no pixels.")],
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
            "no messages": model,
            "empty messages": {**model, name: []},
            "messages of a wrong type": {**model, name: 5},
            "an unknown role": {**model, name: [{"role": "robot", "content": "Hello!"}]},
            "content of a wrong type": {**model, name: [{"role": "user", "content": 5}]},
            "a part of an unknown type": {**model, name: [{"role": "user", "content": [{"type": "smell"}]}]},
            "half a character": {**model, name: [{"role": "user", "content": "\ud800"}]},
            "a prompt that is too long": {**model, name: [{"role": "user", "content": "cat dog " * 9000}]},
            "text for a number": {**right, "temperature": "0"},
            "NaN": {**right, "temperature": math.nan},
            "too cold": {**right, "temperature": -1},
            "top_p above 1": {**right, "top_p": 2},
            "half a token": {**right, limit: 1.5},
            "text for a bool": {**right, "stream": "yes"},
            "tools of a wrong type": {**right, "tools": {"type": "function"}},
            "a tool without a name": {**right, "tools": [{"input_schema": {}, "function": {}}]},
        }
        if protocol.name != "chat":
            # There a message may have none.
            bodies["no content"] = {**model, name: [{"role": "user"}]}
        if protocol.name != "messages":
            # There none asks for the prompt to be read alone.
            bodies["no tokens"] = {**right, limit: 0}
        if protocol.name == "chat":
            deep = '{"a":' * 500 + "1" + "}" * 500
            bodies["an old field"] = {**right, "functions": [{"name": "x"}]}
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
                        {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": deep}}]},
                        {"role": "user", "content": "Hello!"},
                    ],
                },
                "a template": {**right, "chat_template_kwargs": {"chat_template": "{{ messages }}"}},
            }
        if protocol.name == "responses":
            bodies["an answer that is fetched later"] = {**right, "background": True}
            bodies["half a character in a label"] = {**right, "metadata": {"label": "\ud800"}}
        found += [
            Malformed(f"{protocol.name}: {what}", protocol.path, data if isinstance(data, bytes) else json_bytes(data))
            for what, data in bodies.items()
        ]
        for what, urls in images.items():
            content = [_image_part(protocol, text) for text in urls]
            body = {**model, name: [{"role": "user", "content": content}]}
            found.append(Malformed(f"{protocol.name}: {what}", protocol.path, json_bytes(body)))
        found += [
            Malformed(f"{protocol.name}: GET", protocol.path, b"", 405, "GET"),
            Malformed(
                f"{protocol.name}: a body of 1 TB", protocol.path, b"", 413, headers={"Content-Length": "9" * 12}
            ),
        ]
    found += [
        Malformed(f"completions: {what}", "/v1/completions", json_bytes({"prompt": prompt}))
        for what, prompt in {"no prompts": [], "an empty prompt": "", "no tokens": [[]], "no token": [-1]}.items()
    ]
    return [*found, Malformed("an unknown path", "/v1/nothing", b"{}", 404)]


def _image_part(protocol: Protocol, url: str) -> Json:
    if protocol.name == "chat":
        return {"type": "image_url", "image_url": {"url": url}}
    if protocol.name == "responses":
        return {"type": "input_image", "image_url": url}
    if url.startswith("data:"):
        data = url.partition(",")[2]
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    return {"type": "image", "source": {"type": "url", "url": url}}
