"""Conversations with functions that many people have: call the right one, or answer without."""

import json
import re
from random import Random
from typing import Any

from tools.box.about_text import TASKS as TEXT_TASKS
from tools.box.dialogues import Dialogue, Tasks, Turn
from tools.box.functions import CITIES
from tools.box.lexicon import NAMES, WORDS
from tools.box.wordings import typed

TASKS = Tasks()

# What the user asks for; {names} of functions and parameters vary, so they have to be read from the description.
_PURPOSES: tuple[dict[str, Any], ...] = (
    {
        "functions": ("get_weather", "weather", "weather_now", "lookup_weather"),
        "description": "The weather in a city.",
        "parameters": ((("city", "place", "location", "town"), "string", "city"),),
        "requests": ("What is the weather in {0}?", "How is the weather in {0}?", "Weather in {0}, please."),
        "result": ("sunny", "rainy", "cloudy", "windy"),
        "answer": "It is {result} in {0}.",
    },
    {
        "functions": ("set_timer", "start_timer", "timer", "new_timer"),
        "description": "Start a timer.",
        "parameters": ((("minutes", "time", "duration", "length"), "integer", "number"),),
        "requests": ("Set a timer for {0} minutes.", "Start a timer of {0} minutes.", "Wake me in {0} minutes."),
        "result": ("started",),
        "answer": "The timer runs for {0} minutes.",
    },
    {
        "functions": ("send_message", "message", "text_person", "write_to"),
        "description": "Send a message to a person.",
        "parameters": (
            (("to", "person", "name", "receiver"), "string", "name"),
            (("text", "message", "words", "body"), "string", "words"),
        ),
        "requests": ("Send {0} the message {1}.", "Write {1} to {0}.", "Tell {0}: {1}"),
        "result": ("sent",),
        "answer": "The message to {0} is sent.",
    },
    {
        "functions": ("play_song", "play", "music", "start_song"),
        "description": "Play a song.",
        "parameters": ((("title", "song", "track", "name"), "string", "word"),),
        "requests": ("Play the song {0}.", "Play {0}.", "I want to hear {0}."),
        "result": ("playing",),
        "answer": "The song {0} is playing.",
    },
    {
        "functions": ("multiply", "times", "product", "mul"),
        "description": "Multiply two numbers.",
        "parameters": (
            (("a", "x", "first", "left"), "integer", "number"),
            (("b", "y", "second", "right"), "integer", "number"),
        ),
        "requests": ("What is {0} times {1}?", "Multiply {0} by {1}.", "How much is {0} times {1}?"),
        "result": None,
        "answer": "{0} times {1} is {result}.",
    },
    {
        "functions": ("search", "find", "look_up", "query"),
        "description": "Search for something.",
        "parameters": ((("query", "term", "what", "topic"), "string", "word"),),
        "requests": ("Search for {0}.", "Look up {0}.", "Find {0}."),
        "result": ("nothing found", "three pages", "one page"),
        "answer": "The search for {0} gave {result}.",
    },
    {
        "functions": ("get_time", "time_in", "clock", "current_time"),
        "description": "The time in a city.",
        "parameters": ((("city", "place", "zone", "where"), "string", "city"),),
        "requests": ("what time is it in {0}", "tell me the time in {0}.", "the time in {0}, please."),
        "result": ("10:15", "7:40", "23:05", "noon"),
        "answer": "It is {result} in {0}.",
    },
    {
        "functions": ("add_to_list", "shopping_list", "remember_item", "add_item"),
        "description": "Put a thing on the shopping list.",
        "parameters": ((("item", "thing", "product", "entry"), "string", "word"),),
        "requests": ("put {0} on my list.", "add {0} to the shopping list.", "i need to buy {0}."),
        "result": ("added", "done"),
        "answer": "Now {0} is on the list.",
    },
    {
        "functions": ("book_flight", "find_flight", "flights", "search_flights"),
        "description": "Find a flight from one city to another.",
        "parameters": (
            (("from", "origin", "start", "departure"), "string", "city"),
            (("to", "destination", "arrival", "goal"), "string", "city"),
        ),
        "requests": (
            "find a flight from {0} to {1}.",
            "i want to fly from {0} to {1}.",
            "is there a flight from {0} to {1}",
        ),
        "result": ("one flight", "two flights", "no flight"),
        "answer": "There is {result} from {0} to {1}.",
    },
    {
        "functions": ("translate", "translation", "say_in", "to_language"),
        "description": "Translate a word.",
        "parameters": (
            (("word", "text", "source", "term"), "string", "word"),
            (("language", "target", "into", "lang"), "string", "language"),
        ),
        "requests": ("translate {0} into {1}.", "what is {0} in {1}", "how do you say {0} in {1}"),
        "result": ("lupo", "sama", "tirel", "bonda"),
        "answer": "In {1} it is {result}.",
    },
    {
        "functions": ("set_light", "light", "switch_light", "lamp"),
        "description": "Switch the light in a room.",
        "parameters": (
            (("room", "where", "place", "location"), "string", "room"),
            (("state", "value", "mode", "to"), "string", "state"),
        ),
        "requests": ("turn the light in the {0} {1}.", "switch the {0} light {1}.", "light {1} in the {0}, please."),
        "result": ("done", "ok"),
        "answer": "The light in the {0} is {1}.",
    },
)

_VALUES: dict[str, tuple[str, ...]] = {
    "city": CITIES, "name": NAMES, "word": WORDS, "state": ("on", "off"),
    "room": ("kitchen", "bedroom", "hall", "office", "garage", "bathroom"),
    "language": ("French", "German", "Spanish", "Italian", "Latin", "Dutch", "Greek"),
}  # fmt: skip


def _value(kind: str, rng: Random) -> str | int:
    if kind == "number":
        return rng.randint(2, 30)
    if kind == "words":
        return " ".join(rng.sample(WORDS, rng.randint(1, 2)))
    return rng.choice(_VALUES[kind])


def _function(purpose: dict[str, Any], rng: Random) -> tuple[dict[str, Any], list[str]]:
    """A description in OpenAI's form, and its parameters' names."""
    names = [rng.choice(spellings) for spellings, _, _ in purpose["parameters"]]
    properties = {name: {"type": kind} for name, (_, kind, _) in zip(names, purpose["parameters"], strict=True)}
    function = {
        "name": rng.choice(purpose["functions"]),
        "description": purpose["description"],
        "parameters": {"type": "object", "properties": properties, "required": names},
    }
    return {"type": "function", "function": function}, names


# Words of questions that one of the functions would serve.
_SERVED = re.compile(
    "weather|rain|cold|warm|time|news|translate|say|in [a-z]+ese|song|music|play|find|look|search|flight|book|"
    "message|email|tell|write|send|call|alarm|remind|buy|order|light|language|what is .* in |how much|what is"
)


def _request(form: str, values: list[Any], rng: Random) -> str:
    """A request as somebody types it; the values stay as they are."""
    text = typed(form.rstrip(".?").replace("{0}", "@0").replace("{1}", "@1"), rng, statement=form.endswith("."))
    text = text.capitalize() if text.isupper() else text
    for number, value in enumerate(values):
        text = text.replace(f"@{number}", str(value))
    return text


@TASKS.add("call", 3.0)
def call(rng: Random) -> Dialogue:
    """A request that one of one to three functions serves; sometimes with its result and the answer."""
    purposes = rng.sample(_PURPOSES, rng.choice([1, 1, 2, 2, 3]))
    described = [_function(purpose, rng) for purpose in purposes]
    chosen = rng.randrange(len(purposes))
    purpose, (tool, names) = purposes[chosen], described[chosen]
    values = [_value(kind, rng) for _, _, kind in purpose["parameters"]]
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
    answer = purpose["answer"].format(*values, result=result)
    return Dialogue((turn, Turn("tool_answer", "", answer, "The function gave its result.")), tools=tools)


@TASKS.add("no call", 0.8)
def no_call(rng: Random) -> Dialogue:
    """Functions are there, but the question needs none."""
    tools = tuple(_function(purpose, rng)[0] for purpose in rng.sample(_PURPOSES, rng.choice([1, 2])))
    while True:
        dialogue = TEXT_TASKS.draw(rng)
        if not any(_SERVED.search(turn.question.lower()) for turn in dialogue.turns if turn.task == "off topic"):
            return Dialogue(dialogue.turns, tools=tools)
