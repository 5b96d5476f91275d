"""Requests that would cost far more than they are: small bodies with much behind them, and other people's names."""

import base64
import io
import json
import struct
import zlib
from typing import Any

from PIL import Image

from tools.load.conversations import Json, json_bytes
from tools.load.malformed import Malformed
from tools.load.protocols import MODEL

PATH = "/v1/chat/completions"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"


def make_attacks() -> list[Malformed]:
    """All of them against chat completions, whose other faults `make_malformed` has."""
    right: Json = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "Hello!"}]}
    bodies: dict[str, bytes] = {
        "half a million zeros for messages": b'{"messages": [' + b"0," * 500_000 + b"0]}",
        "thirty thousand unknown fields": json_bytes({**right, **{f"x{number}": 0 for number in range(30_000)}}),
        "two million characters": json_bytes({**right, "messages": [{"role": "user", "content": "cat " * 500_000}]}),
        "arguments nested 900 deep": json_bytes({**right, "messages": [*right["messages"], _call(900)]}),
        "a schema of a million parts": json_bytes({**right, "response_format": _format(_doubling(20))}),
        "an enum of thirty thousand, twice": json_bytes(
            {**right, "tools": [_tool(_enums(30_000))], "tool_choice": "required"}
        ),
        "a key of half a character": json.dumps({**right, "chat_template_kwargs": {"\ud800": 1}}).encode(),
        "a picture of 16,900 megapixels": json_bytes(_seen(right, "image/png", _png(130_000, 130_000))),
        "a picture that starts a program": json_bytes(_seen(right, "image/eps", EPS)),
        "a picture of another format": json_bytes(_seen(right, "image/x-tga", _file("TGA"))),
    }  # fmt: skip
    found = [Malformed(f"attack: {name}", PATH, body) for name, body in bodies.items()]
    for name, headers in {
        "another host": {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"},
        "another origin": {"Origin": "https://evil.example"},
        "no origin": {"Origin": "null"},
    }.items():
        found.append(Malformed(f"attack: {name}", PATH, json_bytes(right), 403, headers=headers))
    return found


def _call(levels: int) -> Json:
    arguments = '{"a":' * levels + "1" + "}" * levels
    return {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": arguments}}]}


def _doubling(levels: int) -> Json:
    """A schema each of whose parts is twice the next."""
    parts: Json = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**parts, f"a{levels}": {"$ref": "#/$defs/a0"}}, "$ref": "#/$defs/a0"}


def _enums(count: int) -> Json:
    values = [{"enum": [f"{name}{number}" for number in range(count)]} for name in "ab"]
    return {"type": "object", "properties": {"x": {"allOf": values}}}


def _format(schema: Json) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def _tool(parameters: Json) -> Json:
    return {"type": "function", "function": {"name": "x", "parameters": parameters}}


def _seen(right: Json, kind: str, data: bytes) -> Json:
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {**right, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


def _png(width: int, height: int) -> bytes:
    """A file that says it is large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _file(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, kind, **options)
    return file.getvalue()
