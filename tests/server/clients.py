"""What clients of every protocol send, and a bare HTTP connection beside OpenAI's and Anthropic's own clients."""

import base64
import io
import json
from http.client import HTTPConnection
from random import Random
from typing import Any
from urllib.parse import urlsplit

from tools.box.scenes import Scene, Thing, draw

SPELL = [{"role": "user", "content": "Spell the word star."}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "The weather in a city.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": WEATHER}]
PARIS = [{"role": "user", "content": "What is the weather in Paris?"}]
QUICK = {"enable_thinking": False}


def picture(*things: Thing, columns: int = 1) -> str:
    """A data: URL."""
    image = draw(Scene(columns, 1, (64, 64), (255, 255, 255), things), Random(1))[0]
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


RED_CIRCLE = Thing("circle", "red", "large", 0, 0)
BLUE_SQUARE = Thing("square", "blue", "large", 0, 0)


def seen(*things: Thing, question: str = "Describe the picture.") -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": picture(thing)}} for thing in things]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def chat(client: Any, messages: Any, **options: Any) -> Any:
    extra = QUICK | options.pop("extra_body", {})
    return client.chat.completions.create(
        model="box", messages=messages, **({"temperature": 0.0, "max_tokens": 120, "extra_body": extra} | options)
    )


def raw(
    url: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text; a body that is no string is sent as JSON."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    text = body if isinstance(body, str | bytes) or body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, text, headers or {})
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read().decode()
    connection.close()
    return found
