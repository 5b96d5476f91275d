"""Conversations with functions as real programs describe them: what a request leaves out stays out of the call."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tools.box import about_pictures
from tools.box.about_text import TASKS as TEXT_TASKS
from tools.box.day_programs import DAY_PROGRAMS
from tools.box.dialogues import Dialogue, Tasks, Turn
from tools.box.fact_programs import FACT_PROGRAMS
from tools.box.file_programs import FILE_PROGRAMS
from tools.box.home_programs import HOME_PROGRAMS
from tools.box.off_topic import HONEST
from tools.box.program_results import failed, returned
from tools.box.programs import FREE, Program, Slot, count, said
from tools.box.trade_programs import TRADE_PROGRAMS
from tools.box.wordings import fill, typed

TASKS = Tasks()
ALL = (*FILE_PROGRAMS, *FACT_PROGRAMS, *DAY_PROGRAMS, *HOME_PROGRAMS, *TRADE_PROGRAMS)
# What one program offers together.
FAMILIES = (
    ("read", "write", "list", "delete", "move", "grep", "shell", "fetch", "tests", "info"),
    ("weather", "time", "stock", "money", "units", "search", "translate", "sums"),
    ("event", "events", "reminder", "alarm", "timer", "task", "lists", "note", "mail", "mails", "message", "contact"),
    ("light", "heating", "lock", "volume", "music", "timer", "timers", "device"),
    ("route", "flight", "table", "weather", "money", "hotel", "time"),
    ("shopping", "lists", "orders", "order", "price", "money"),
    ("contact", "call", "message", "mail", "mails", "note"),
)
# Parameters that programs have beside; a request mentions some of them at times, others never. None is required.
SPARE: dict[str, Slot] = {
    "limit": count(("limit",), 50, "Maximum number of results", tails=("limit {}", "with limit {}", "at most {}")),
    "timeout": count(("timeout",), 90, "Seconds to wait", tails=("timeout {}", "timeout {} seconds"), kind="number"),
    "offset": count(("offset",), 50, "Where to begin", tails=("offset {}", "with offset {}")),
    "format": Slot(("format",), lambda rng: rng.choice(["json", "text"]), choices=("json", "text"),
                   tails=("as {}", "in {} format", "format {}")),
    "verbose": Slot(("verbose",), bool, kind="boolean", default=False),
    "encoding": Slot(("encoding",), str, ("Text encoding",), default="utf-8"),
    "reason": Slot(("reason",), str, ("Why this is done (optional)",)),
    "user_id": Slot(("user_id",), str, ("ID of the user",)),
    "silent": Slot(("silent",), bool, ("Whether to be quiet",), kind="boolean"),
    "locale": Slot(("locale",), str, ("Locale, e.g. en_US",)),
}  # fmt: skip
_QUESTIONS = ("what", "how", "is", "do", "which", "where", "who", "can", "could", "would", "does", "am", "any", "when",
              "what's", "and", "did", "whose")  # fmt: skip
# Behind a request, where a value could not be mistaken for it.
_POLITE = (" please", " pls", ", please", " thanks", ", thanks", " plz", " now")
# Requests that a search would serve as well.
_LOOKED_UP = ("weather", "time", "stock", "money", "units", "translate", "contact", "price", "route", "hotel", "flight")
_SEARCHES = {"search", "fetch", "shell"}
# What one of these is asked for, another might do.
_CLOSE: tuple[set[str], ...] = (
    {"timer", "alarm", "reminder", "event"}, {"lists", "shopping", "order"}, {"route", "flight"},
    {"message", "mail"}, {"money", "units"},
)  # fmt: skip
_IN_A_SHELL = {"read", "write", "list", "delete", "move", "grep", "tests", "info", "fetch"}


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

    @property
    def name(self) -> str:
        """By which it is called."""
        return str(self.tool["function"]["name"])


@dataclass(frozen=True)
class Request:
    """What is asked of a program.

    Args:
        question: As somebody types it.
        values: By the keys of the slots.
        answer: What is said on the result, still with its slots.
    """

    one: Described
    question: str
    values: dict[str, Any]
    answer: str


def _schema(slot: Slot, told: bool, rng: Random) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": slot.kind}
    if slot.kind == "array":
        schema["items"] = {"type": "string"}
    if slot.choices and rng.random() < 0.75:
        schema["enum"] = list(slot.choices)
    about = rng.choice(slot.abouts) if slot.abouts else ""
    if told and about:
        schema["description"] = about.replace("{e}", said(slot.draw(rng)))
    if slot.default is not None:
        schema["default"] = slot.default
    return schema


def mentioned(program: Program, form: str) -> set[str]:
    """The keys of the parameters that a request speaks of, whichever of its choices are taken."""
    return {key for key in program.slots if f"{{{key}}}" in re.sub(r"\[[^\[\]]*\]", "", form)}


def required(program: Program) -> set[str]:
    """The keys of the parameters that every request speaks of."""
    forms = (*program.requests, *(form for forms in program.parts.values() for form in forms))
    return set.intersection(*(mentioned(program, form) for form in forms))


def described(program: Program, rng: Random) -> Described:
    """A name, a description, names of parameters, and what JSON schemas of programs hold beside."""
    if rng.random() < 0.25:
        there = {name for slot in program.slots.values() for name in slot.names} | program.slots.keys()
        spare = [key for key in rng.sample(list(SPARE), rng.choice([1, 1, 2])) if key not in there]
        program = replace(program, slots=program.slots | {key: SPARE[key] for key in spare})
    named: dict[str, str] = {}
    always = required(program)
    # Some programs have none of the parameters that may be left out.
    bare = rng.random() < 0.15
    for key, slot in program.slots.items():
        if not (bare and slot.tails and key not in always and not _wanted(program, key)):
            named[key] = rng.choice([name for name in slot.names if name not in named.values()])
    told = rng.random() < 0.75
    inner: dict[str, Any] = {
        "type": "object",
        "properties": {named[key]: _schema(program.slots[key], told, rng) for key in named},
    }
    needed = [named[key] for key in program.slots if key in always]
    if needed or rng.random() < 0.5:
        inner["required"] = needed
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


def _wanted(program: Program, key: str) -> bool:
    """Whether some request speaks of it."""
    forms = (*program.requests, *(form for forms in program.parts.values() for form in forms), *program.again,
             *program.it)  # fmt: skip
    return any(f"{{{key}}}" in form for form in forms)


def _worded(one: Described, form: str, rng: Random) -> tuple[str, dict[str, Any]]:
    """A request as somebody types it, and the values in it, which stay as they are."""
    slots = one.program.slots
    marks = {key: f"@{number}@" for number, key in enumerate(slots)}
    marked = fill(form.rstrip(".?"), rng, **marks)
    found = {key: slots[key].draw(rng) for key, mark in marks.items() if mark in marked}
    last = next((slots[key] for key in found if marked.endswith(marks[key])), None)
    if last is None or not (last.kind == "array" or last.draw in FREE):
        # Behind free words nobody could tell where they end.
        marked, found = _mentioning(one, marked, found, rng)
        marked += rng.choice(_POLITE) if rng.random() < 0.08 else ""
    statement = not form.endswith("?") and (form.endswith(".") or marked.split()[0].lower() not in _QUESTIONS)
    text = typed(marked, rng, statement=statement)
    while not text.rstrip(".?! ").lower().endswith(marked[1:].lower()):
        # Before a polite word a value could not be read off.
        text = typed(marked, rng, statement=statement)
    text = text.capitalize() if text.isupper() else text
    for key, value in found.items():
        text = text.replace(marks[key], said(value))
    return text, found


def _mentioning(one: Described, marked: str, found: dict[str, Any], rng: Random) -> tuple[str, dict[str, Any]]:
    """At times with one more parameter, which need not be given."""
    keys = [key for key in one.named if key not in found and one.program.slots[key].tails]
    if not keys or rng.random() < 0.6:
        return marked, found
    key = rng.choice(keys)
    mark = f"@{list(one.program.slots).index(key)}@"
    tail = rng.choice(one.program.slots[key].tails).replace("{}", mark)
    return f"{marked}{rng.choice([' ', ', '])}{tail}", found | {key: one.program.slots[key].draw(rng)}


def request(one: Described, rng: Random) -> Request:
    """A first request."""
    program = one.program
    answer, forms = program.answer, program.requests
    if program.parts and rng.random() < 0.4:
        answer, forms = rng.choice(list(program.parts.items()))
    return Request(one, *_worded(one, rng.choice(forms), rng), answer)


def follow_up(there: Sequence[Described], before: Request, rng: Random) -> Request | None:
    """A request that leans on the one before: what it does not say is as it was."""
    ways = [(before.one, form, before.values, before.answer) for form in before.one.program.again]
    for one in there:
        if one.name != before.one.name:
            kept = {key: before.values[key] for key in required(one.program) & before.values.keys()}
            ways += [(one, form, kept, one.program.answer) for form in one.program.it * 2
                     if required(one.program) <= kept.keys() | mentioned(one.program, form)]  # fmt: skip
    if not ways:
        return None
    one, form, kept, answer = rng.choice(ways)
    # What belongs to this request alone is not carried on.
    kept = {key: value for key, value in kept.items() if key not in SPARE}
    bare = replace(one, named={}) if one is before.one else one
    question, values = _worded(bare, form, rng)
    return Request(one, question, kept | values, answer)


def _answered(asked: Request, result: Any) -> str:
    """What is said on a result, of whose fields the answer takes those that were asked for."""
    program, answer = asked.one.program, asked.answer
    if any(f"{{{key}}}" in answer and key not in asked.values for key in program.slots):
        answer = "{result}." if "{result}" in answer else "Done."
    fields: Mapping[str, Any] = {"result": result}
    if isinstance(result, Mapping):
        fields = result
    elif isinstance(result, list):
        fields = {"result": ", ".join(result) or "nothing"}
    text = answer.format(**{key: said(value) for key, value in {**asked.values, **fields}.items()})
    return text[0].upper() + text[1:]


def turns(asked: Request, rng: Random) -> tuple[Turn, Turn]:
    """A request with its call, and the answer on what that returned."""
    one = asked.one
    arguments = {one.named[key]: value for key, value in asked.values.items()}
    result = one.program.result(rng)
    text, answer = returned(result, arguments, rng), _answered(asked, result)
    if rng.random() < 0.07:
        text, error = failed(rng)
        answer = f"That did not work: {error}."
    return (
        Turn("tool_call", asked.question, "", f"The function {one.name} does this.",
             tool_calls=({"name": one.name, "arguments": arguments},), tool_results=(text,)),
        Turn("tool_answer", "", answer, "The function gave its result."),
    )  # fmt: skip


def several(number: int, rng: Random) -> list[Described]:
    """Of different groups and names; more often than not of one family, whose parameters could be mixed up."""
    found: dict[str, Described] = {}
    family = rng.choice(FAMILIES) if rng.random() < 0.65 else ()
    groups: set[str] = set()
    for program in sorted(rng.sample(ALL, len(ALL)), key=lambda one: one.group not in family):
        one = described(program, rng)
        if program.group not in groups and one.name not in found:
            found[one.name] = one
            groups.add(program.group)
        if len(found) == number:
            break
    return rng.sample(list(found.values()), len(found))


def _tools(there: Sequence[Described]) -> tuple[dict[str, Any], ...]:
    return tuple(one.tool for one in there)


def single(rng: Random) -> Dialogue:
    """A request that one of one to four programs serves."""
    there = several(rng.choice([1, 2, 3, 4]), rng)
    return Dialogue(turns(request(rng.choice(there), rng), rng)[:1], tools=_tools(there))


@TASKS.add("program", 1.0)
def program_call(rng: Random) -> Dialogue:
    """One to three requests, each with what the function returned and an answer on that, except perhaps the last."""
    there = several(rng.choice([1, 1, 2, 2, 3, 3, 4, 5]), rng)
    found: list[Turn] = []
    before: Request | None = None
    for _ in range(rng.choice([1, 1, 2, 3])):
        asked = follow_up(there, before, rng) if before and rng.random() < 0.6 else None
        before = asked or request(rng.choice(there), rng)
        found += turns(before, rng)
    found = found[:-1] if rng.random() < 0.5 else found
    return Dialogue(tuple(found), tools=_tools(there))


def might_serve(missing: str, there: set[str]) -> bool:
    """Whether it does sums itself, a search finds what is known, or something else does nearly what is asked for."""
    if missing == "sums" or (missing in _LOOKED_UP and there & _SEARCHES):
        return True
    return (missing in _IN_A_SHELL and "shell" in there) or any(missing in close and there & close for close in _CLOSE)


@TASKS.add("no program", 0.2)
def no_program(rng: Random) -> Dialogue:
    """What none of them does: one sentence says so, before or after what one of them does."""
    missing, *there = several(rng.choice([2, 3, 3, 4]), rng)
    if might_serve(missing.program.group, {one.program.group for one in there}):
        return no_program(rng)
    refused = Turn("no_function", request(missing, rng).question, HONEST, "I do not know about that.")
    found: tuple[Turn, ...] = (refused,)
    chance = rng.random()
    if chance < 0.25:
        found = (*turns(request(rng.choice(there), rng), rng), refused)
    elif chance < 0.4:
        found = (refused, *turns(request(rng.choice(there), rng), rng)[:1])
    return Dialogue(found, tools=_tools(there))


# Words of questions that one of the functions would serve.
_SERVED = re.compile(
    "weather|rain|cold|warm|time|news|translate|say|in [a-z]+ese|song|music|play|find|look|search|flight|book|"
    "message|email|tell|write|send|call|alarm|remind|buy|order|light|language|convert|"
    "read|open|file|price|stock|turn|set|calculate|what is .* in |how much|what is|how far|how do i get|where|who |"
    "list|hotel|day|date|heating|summar|cost"
)
# A text may ask for what these do: to keep something in mind, to work something out, to look something up.
_ALIKE = {"sums", "note", "search", "contact", "shell", "fetch", "dice", "units", "task", "reminder"}


@TASKS.add("no call", 0.15)
def no_call(rng: Random) -> Dialogue:
    """Functions are there, but the question needs none."""
    there = [one for one in several(5, rng) if one.program.group not in _ALIKE][: rng.choice([1, 2, 3])]
    if not there:
        return no_call(rng)
    if rng.random() < 0.2:
        return Dialogue(about_pictures.TASKS.draw(rng).turns[:3], tools=_tools(there))
    while True:
        dialogue = TEXT_TASKS.draw(rng)
        if not any(_SERVED.search(turn.question.lower()) for turn in dialogue.turns if turn.task == "off topic"):
            return Dialogue(dialogue.turns, tools=_tools(there))
