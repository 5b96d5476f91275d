"""Conversations with functions as real programs describe them: what a request leaves out stays out of the call."""

import json
import re
from dataclasses import dataclass
from random import Random
from typing import Any

from tools.box.dialogues import Dialogue, Tasks, Turn
from tools.box.home_programs import HOME_PROGRAMS
from tools.box.off_topic import HONEST
from tools.box.programs import PROGRAMS, Program, Slot
from tools.box.wordings import fill, typed

TASKS = Tasks()
ALL = (*PROGRAMS, *HOME_PROGRAMS)
# What one program offers together.
FAMILIES = (
    ("read", "write", "list", "delete", "move", "grep", "shell", "fetch"),
    ("weather", "time", "stock", "money", "search", "translate", "sums"),
    ("event", "reminder", "alarm", "timer", "task", "tasks", "note", "mail", "message", "contact"),
    ("light", "heating", "lock", "volume", "music", "timer"),
    ("route", "flight", "table", "weather", "money", "hotel"),
)
# Parameters that programs have and nobody speaks of: none of them is required.
_SPARE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("limit", {"type": "integer", "description": "Maximum number of results", "default": 10}),
    ("timeout", {"type": "number", "description": "Seconds to wait"}),
    ("verbose", {"type": "boolean", "default": False}),
    ("encoding", {"type": "string", "description": "Text encoding", "default": "utf-8"}),
    ("format", {"type": "string", "enum": ["json", "text"]}),
    ("offset", {"type": "integer", "description": "Where to begin"}),
    ("reason", {"type": "string", "description": "Why this is done (optional)"}),
    ("user_id", {"type": "string", "description": "ID of the user"}),
    ("silent", {"type": "boolean", "description": "Whether to be quiet"}),
    ("locale", {"type": "string", "description": "Locale, e.g. en_US"}),
)
_QUESTIONS = ("what", "how", "is", "do", "which", "where", "who", "can", "could", "would", "does")


@dataclass(frozen=True)
class Described:
    """A program in one of its forms.

    Args:
        tool: In OpenAI's form.
        named: The keys of its slots, and what the parameters are called here.
    """

    program: Program
    tool: dict[str, Any]
    named: dict[str, str]


def _schema(slot: Slot, told: bool, rng: Random) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": slot.kind}
    if slot.choices and rng.random() < 0.75:
        schema["enum"] = list(slot.choices)
    about = rng.choice(slot.abouts) if slot.abouts else ""
    if told and about:
        schema["description"] = about.replace("{e}", str(slot.draw(rng)))
    return schema


def mentioned(program: Program, form: str) -> set[str]:
    """The keys of the parameters that a request speaks of, whichever of its choices are taken."""
    return {key for key in program.slots if f"{{{key}}}" in re.sub(r"\[[^\[\]]*\]", "", form)}


def described(program: Program, rng: Random) -> Described:
    """A name, a description, names of parameters, and what JSON schemas of programs hold beside."""
    named: dict[str, str] = {}
    for key, slot in program.slots.items():
        named[key] = rng.choice([name for name in slot.names if name not in named.values()])
    told = rng.random() < 0.75
    properties = {named[key]: _schema(slot, told, rng) for key, slot in program.slots.items()}
    if rng.random() < 0.2:
        properties |= {
            name: dict(schema) for name, schema in rng.sample(_SPARE, rng.choice([1, 1, 2])) if name not in properties
        }
    always = set.intersection(*(mentioned(program, form) for form in program.requests))
    inner: dict[str, Any] = {"type": "object", "properties": properties}
    required = [named[key] for key in program.slots if key in always]
    if required or rng.random() < 0.5:
        inner["required"] = required
    if rng.random() < 0.15:
        inner["additionalProperties"] = False
    about = rng.choice(program.abouts)
    if rng.random() < 0.2:
        about = about.rstrip(".") + rng.choice([
            ". Use this whenever the user asks for it.", ". Returns a string.", ". Do not guess.",
            ". Only call this when it is needed.", " (required parameters must be given)", "!",
        ])  # fmt: skip
    function = {"name": rng.choice(program.names), "description": about, "parameters": inner}
    if rng.random() < 0.1:
        function["strict"] = True
    return Described(program, {"type": "function", "function": function}, named)


def _request(one: Described, rng: Random) -> tuple[str, dict[str, Any]]:
    """As somebody types it, and the values by the keys of the slots, which stay as they are."""
    program = one.program
    form = rng.choice(program.requests)
    keys = list(program.slots)
    marked = fill(form.rstrip("."), rng, **{key: f"@{number}" for number, key in enumerate(keys)})
    statement = form.endswith(".") or marked.split()[0].lower() not in _QUESTIONS
    text = typed(marked, rng, statement=statement)
    while not text.rstrip(".?! ").lower().endswith(marked[1:].rstrip(".?! ").lower()):
        # Before a polite word a value could not be read off.
        text = typed(marked, rng, statement=statement)
    text = text.capitalize() if text.isupper() else text
    values: dict[str, Any] = {}
    for number, key in enumerate(keys):
        if f"@{number}" in text:
            values[key] = program.slots[key].draw(rng)
            text = text.replace(f"@{number}", str(values[key]))
    return text, values


def turns(one: Described, rng: Random) -> tuple[Turn, Turn]:
    """A request with its call, and the answer on what that returned."""
    question, values = _request(one, rng)
    name = one.tool["function"]["name"]
    call = {"name": name, "arguments": {one.named[key]: value for key, value in values.items()}}
    result = one.program.result(rng)
    text = json.dumps({"result": result}) if rng.random() < 0.35 else result
    answer = one.program.answer
    if any(f"{{{key}}}" in answer and key not in values for key in one.program.slots):
        answer = "{result}." if "{result}" in answer else "Done."
    said = answer.format(result=result, **values)
    return (
        Turn("tool_call", question, "", f"The function {name} does this.", tool_calls=(call,), tool_results=(text,)),
        Turn("tool_answer", "", said[0].upper() + said[1:], "The function gave its result."),
    )


def several(count: int, rng: Random) -> list[Described]:
    """Of different groups and names; as often as not of one family, whose parameters could be mixed up."""
    found: dict[str, Described] = {}
    family = rng.choice(FAMILIES) if rng.random() < 0.5 else ()
    for program in sorted(rng.sample(ALL, len(ALL)), key=lambda one: one.group not in family):
        one = described(program, rng)
        found.setdefault(one.tool["function"]["name"], one)
        if len(found) == count:
            break
    return rng.sample(list(found.values()), len(found))


def single(rng: Random) -> Dialogue:
    """A request that one of one to four programs serves."""
    there = several(rng.choice([1, 2, 3, 4]), rng)
    return Dialogue(turns(rng.choice(there), rng)[:1], tools=tuple(one.tool for one in there))


@TASKS.add("program", 1.0)
def program_call(rng: Random) -> Dialogue:
    """One to three requests, each with what the function returned and an answer on that, except perhaps the last."""
    there = several(rng.choice([1, 1, 2, 2, 3, 3, 4, 5]), rng)
    found = [turn for _ in range(rng.choice([1, 1, 2, 3])) for turn in turns(rng.choice(there), rng)]
    found = found[:-1] if rng.random() < 0.6 else found
    return Dialogue(tuple(found), tools=tuple(one.tool for one in there))


@TASKS.add("no program", 0.12)
def no_program(rng: Random) -> Dialogue:
    """What none of them does: one sentence says so."""
    missing, *there = several(rng.choice([2, 3, 4]), rng)
    if missing.program.group == "sums":
        # It can do sums.
        return no_program(rng)
    question, _ = _request(missing, rng)
    return Dialogue((Turn("no_function", question, HONEST, "I do not know about that."),),
                    tools=tuple(one.tool for one in there))  # fmt: skip
