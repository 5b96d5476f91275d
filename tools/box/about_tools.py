"""Conversations with functions that many people have: call the right one, or answer without."""

import json
import re
from random import Random
from typing import Any

from tools.box import about_pictures
from tools.box.about_text import TASKS as TEXT_TASKS
from tools.box.dialogues import Dialogue, Tasks, Turn
from tools.box.functions import CITIES
from tools.box.lexicon import NAMES, WORDS
from tools.box.purposes import PURPOSES
from tools.box.wordings import fill, listing, typed

TASKS = Tasks()

_VALUES: dict[str, tuple[str, ...]] = {
    "city": CITIES, "name": NAMES, "word": WORDS, "state": ("on", "off"),
    "room": ("kitchen", "bedroom", "hall", "office", "garage", "bathroom"),
    "language": ("French", "German", "Spanish", "Italian", "Latin", "Dutch", "Greek"),
    "unit": ("celsius", "fahrenheit"),
    "measure": ("miles", "kilometers", "pounds", "kilograms", "inches", "meters", "euros", "dollars", "liters", "feet"),
    "folder": ("/tmp", "docs", "src", "/home/user", "photos", "data/old", "music", "/var/log"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "clock": ("7:30", "noon", "5 pm", "10:15", "6 am", "18:00", "3:45", "9 pm", "8 am", "21:20", "midnight"),
    "symbol": ("AAPL", "TSLA", "IBM", "MSFT", "SAP", "NVDA", "GE", "KO"),
}  # fmt: skip


def _value(kind: str, rng: Random) -> Any:
    if kind == "number":
        return rng.randint(2, rng.choice([30, 100]))
    if kind == "words":
        return " ".join(rng.sample(WORDS, rng.randint(1, 2)))
    if kind == "items":
        return rng.sample(WORDS, rng.randint(2, 4))
    if kind == "switch":
        return rng.random() < 0.5
    if kind == "file":
        ending = rng.choice(["txt", "md", "csv", "py", "json", "pdf"])
        return f"{rng.choice(['', '', 'docs/', '/tmp/'])}{rng.choice(WORDS)}.{ending}"
    if kind == "address":
        return f"{rng.choice(NAMES).lower()}@{rng.choice(WORDS)}.{rng.choice(['com', 'org', 'net'])}"
    if kind == "expression":
        one, other = rng.randint(2, 99), rng.randint(2, 99)
        return f"{one} {rng.choice('+-*/')} {other}"
    return rng.choice(_VALUES[kind])


def _spoken(value: Any) -> str:
    """As a request says it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return listing(value) if isinstance(value, list) else str(value)


def _schema(kind: str, values: str, rng: Random) -> dict[str, Any]:
    """A parameter's JSON schema; a few words to choose from may be listed."""
    if kind == "array":
        return {"type": "array", "items": {"type": "string"}}
    if values in ("unit", "state", "day") and rng.random() < 0.7:
        return {"type": kind, "enum": list(_VALUES[values])}
    return {"type": kind}


def _function(purpose: dict[str, Any], rng: Random) -> tuple[dict[str, Any], list[str]]:
    """A description in OpenAI's form, and its parameters' names."""
    names = [rng.choice(spellings) for spellings, _, _ in purpose["parameters"]]
    properties = {
        name: _schema(kind, values, rng) for name, (_, kind, values) in zip(names, purpose["parameters"], strict=True)
    }
    function = {
        "name": rng.choice(purpose["functions"]),
        "description": purpose["description"],
        "parameters": {"type": "object", "properties": properties, "required": names},
    }
    return {"type": "function", "function": function}, names


def _apart(count: int, rng: Random) -> list[dict[str, Any]]:
    """Purposes that no request could mean two of."""
    found: dict[str, dict[str, Any]] = {}
    for purpose in rng.sample(PURPOSES, len(PURPOSES)):
        found.setdefault(purpose.get("group", purpose["description"]), purpose)
    return list(found.values())[:count]


# Words of questions that one of the functions would serve.
_SERVED = re.compile(
    "weather|rain|cold|warm|time|news|translate|say|in [a-z]+ese|song|music|play|find|look|search|flight|book|"
    "message|email|tell|write|send|call|alarm|remind|buy|order|light|language|convert|"
    "read|open|file|price|stock|turn|set|calculate|what is .* in |how much|what is"
)


def _request(form: str, values: list[Any], rng: Random) -> str:
    """A request as somebody types it; the values stay as they are."""
    marked = fill(form.rstrip(".?").replace("{0}", "@0").replace("{1}", "@1").replace("{2}", "@2"), rng)
    text = typed(marked, rng, statement=form.endswith("."))
    text = text.capitalize() if text.isupper() else text
    for number, value in enumerate(values):
        text = text.replace(f"@{number}", _spoken(value))
    return text


@TASKS.add("call", 3.0)
def call(rng: Random) -> Dialogue:
    """A request that one of one to three functions serves; sometimes with its result and the answer."""
    purposes = _apart(rng.choice([1, 1, 2, 2, 3, 4]), rng)
    described = [_function(purpose, rng) for purpose in purposes]
    chosen = rng.randrange(len(purposes))
    purpose, (tool, names) = purposes[chosen], described[chosen]
    kinds = [kind for _, _, kind in purpose["parameters"]]
    values = [_value(kind, rng) for kind in kinds]
    while len(kinds) > len(set(kinds)) and len(values) > len(set(values)):
        # From one city to another, from one unit to another.
        values = [_value(kind, rng) for kind in kinds]
    name = tool["function"]["name"]
    arguments = dict(zip(names, values, strict=True))
    turn = Turn(
        "tool_call",
        _request(rng.choice(purpose["requests"]), values, rng),
        "",
        f"The function {name} does this.",
        tool_calls=({"name": name, "arguments": arguments},),
    )
    tools = tuple(tool for tool, _ in described)
    if rng.random() < 0.5:
        return Dialogue((turn,), tools=tools)
    result: Any = rng.choice(purpose["result"]) if purpose["result"] else int(values[0]) * int(values[1])
    text = json.dumps({"result": result}) if rng.random() < 0.5 else str(result)
    turn = Turn(**{**turn.__dict__, "tool_results": (text,)})
    answer = purpose["answer"].format(*map(_spoken, values), result=result)
    return Dialogue((turn, Turn("tool_answer", "", answer, "The function gave its result.")), tools=tools)


@TASKS.add("no call", 0.8)
def no_call(rng: Random) -> Dialogue:
    """Functions are there, but the question needs none."""
    # Sums are answered without a function, if there is none for them.
    purposes = [purpose for purpose in _apart(3, rng) if purpose.get("group") != "sums"][: rng.choice([1, 2])]
    tools = tuple(_function(purpose, rng)[0] for purpose in purposes)
    if rng.random() < 0.2:
        return Dialogue(about_pictures.TASKS.draw(rng).turns[:3], tools=tools)
    while True:
        dialogue = TEXT_TASKS.draw(rng)
        if not any(_SERVED.search(turn.question.lower()) for turn in dialogue.turns if turn.task == "off topic"):
            return Dialogue(dialogue.turns, tools=tools)
