"""A coding agent's conversation, request by request, over HTTP: a tool loop whose beginning and end change every time.

The requests are Anthropic's, in the form of Claude Code: the system prompt begins with a line that differs in each, and
a counter of tokens comes last. mlx_lm.server does not speak that protocol and gets the same as chat completions.
"""

import http.client
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlx_qwen35.bench.servers import OWN, command, serving
from mlx_qwen35.bench.turns import Cost, medians
from mlx_qwen35.errors import OptionError

TURNS = 20
_RULE = (
    "Read a file before you change it, change one thing at a time, run the tests, and say in one line what you did. "
)
_LINE = "def part_{0}(value): return value + {0}  # the part that the task is about\n"
_TOOLS = [
    {
        "name": name,
        "description": f"{text} Paths are absolute. {_RULE}",
        "input_schema": {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]},
    }
    for name, text, key in (
        ("read_file", "Reads a file.", "path"), ("run", "Runs a command.", "command"), ("find", "Finds files.", "name")
    )
]  # fmt: skip


def write_requests(
    count: Callable[[str], int], *, turns: int = TURNS, system_tokens: int = 1000
) -> list[dict[str, Any]]:
    """The bodies, in order; each asks for a single token.

    Args:
        count: Tokens of a text.
        system_tokens: At least this many tokens in the system prompt.
    """
    rules = _RULE
    while count(rules) < system_tokens:
        rules += _RULE
    history: list[dict[str, Any]] = [{"role": "user", "content": "Find out why the tests of the parts fail."}]
    bodies = []
    for turn in range(turns):
        if turn:
            path = f"/code/parts/part_{turn}.py"
            call = {"type": "tool_use", "id": f"toolu_{turn}", "name": "read_file", "input": {"path": path}}
            text = "".join(_LINE.format(turn * 4 + line) for line in range(4))
            result = {"type": "tool_result", "tool_use_id": f"toolu_{turn}", "content": text}
            history += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        changing = f"x-anthropic-billing-header: cc_version=2.1; cch={turn * 7919 % 65521:05x};"
        counter = {"role": "system", "content": f"<total_tokens>{200_000 - 731 * turn} tokens left</total_tokens>"}
        bodies.append({
            "model": "m", "max_tokens": 1, "temperature": 0, "tools": _TOOLS, "messages": [*history, counter],
            "system": [{"type": "text", "text": changing}, {"type": "text", "text": rules.strip()}],
        })  # fmt: skip
    return bodies


def as_chat(body: dict[str, Any]) -> dict[str, Any]:
    """A body as a chat completion, its counter a part of the last message: templates take no system message there."""
    system = "\n".join(block["text"] for block in body["system"])
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    *history, counter = body["messages"]
    for message in history:
        (block,) = message["content"] if isinstance(message["content"], list) else (message,)
        if block.get("type") == "tool_use":
            function = {"name": block["name"], "arguments": json.dumps(block["input"])}
            call = {"id": block["id"], "type": "function", "function": function}
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif block.get("type") == "tool_result":
            messages.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": block["content"]})
        else:
            messages.append(message)
    messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n{counter['content']}"}
    functions = [
        {"name": tool["name"], "description": tool["description"], "parameters": tool["input_schema"]}
        for tool in body["tools"]
    ]
    tools = [{"type": "function", "function": function} for function in functions]
    return {"model": body["model"], "max_tokens": 1, "temperature": 0, "messages": messages, "tools": tools}


def request(port: int, body: dict[str, Any], *, chat: bool) -> Cost:
    """One request, timed to the end of its one token.

    Raises:
        OptionError: The server refuses it.
    """
    path, sent = ("/v1/chat/completions", as_chat(body)) if chat else ("/v1/messages", body)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    began = time.perf_counter()
    try:
        connection.request("POST", path, json.dumps(sent).encode(), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    seconds = time.perf_counter() - began
    if response.status != 200:
        raise OptionError(f"port {port}: expected status 200, found {response.status}: {text[:300]!r}")
    usage = json.loads(text)["usage"]
    if chat:
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Cost(usage["prompt_tokens"], usage["prompt_tokens"] - cached, None, seconds)
    cached = usage.get("cache_read_input_tokens") or 0
    return Cost(usage["input_tokens"] + cached, usage["input_tokens"], None, seconds)


def measure(
    model: str | Path, bodies: Sequence[dict[str, Any]], parents: Sequence[str], repeats: int
) -> dict[str, list[Cost]]:
    """Medians of the conversation through this package's server and through others', each time freshly started.

    Args:
        parents: "mlx-lm", "mlx-vlm".
    Raises:
        OptionError: A server does not start, or refuses a request.
    """
    found: dict[str, list[list[Cost]]] = {name: [] for name in (OWN, *parents)}
    for _ in range(repeats):
        for name, runs in found.items():
            with serving(command(name, model), name) as server:
                asked = [{**body, "model": str(model)} for body in bodies]
                runs.append([request(server.port, body, chat=name == "mlx-lm") for body in asked])
    return {name: medians(runs) for name, runs in found.items()}
