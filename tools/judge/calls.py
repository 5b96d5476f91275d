"""Questions with functions to call: a call has to be well formed, and to be made only where it helps."""

from random import Random
from typing import Any

from tools.judge.draw import picture
from tools.judge.expectation import Call, Expectation, is_thing
from tools.judge.question import Question, chosen, user
from tools.judge.scene import any_pairs, scene
from tools.judge.words import COLOURS, SHAPES


def function(name: str, description: str, /, **needed: str) -> dict[str, Any]:
    """A description of a function; each parameter is given as "type: what it is"."""
    properties = {}
    for key, text in needed.items():
        kind, _, meaning = text.partition(": ")
        properties[key] = {"type": kind, "description": meaning}
    schema = {"type": "object", "properties": properties, "required": list(needed)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


FUNCTIONS = {
    made["function"]["name"]: made
    for made in (
        function("get_weather", "Tells the weather in a city.", city="string: The city."),
        function("set_timer", "Starts a timer.", minutes="integer: How long it runs."),
        function(
            "switch_light",
            "Switches the light in a room on or off.",
            room="string: The room.",
            state="string: on or off",
        ),
        function("add_numbers", "Adds two numbers.", a="number: The first.", b="number: The second."),
        function("draw_shape", "Draws a shape.", shape="string: Which shape.", colour="string: Its colour."),
        function("play_song", "Plays a song.", title="string: The title."),
        function(
            "send_message", "Sends a message to somebody.", to="string: Who gets it.", text="string: What it says."
        ),
        function("save_note", "Saves a note.", text="string: What to write down."),
        function("find_file", "Looks for a file.", name="string: The file's name."),
        function("get_time", "Tells the time in a city.", city="string: The city."),
    )
}
CITIES = ("Lisbon", "Hamburg", "Toronto", "Cairo", "Bergen", "Lyon", "Osaka", "Boston")
ROOMS = ("kitchen", "hall", "bedroom", "garage", "bathroom")
SONGS = ("Yellow River", "Summer Rain", "Blue Moon", "Morning Light")
PEOPLE = ("Nora", "Ben", "Lucy", "Omar", "Priya", "Felix")
TEXTS = ("I am late", "dinner is ready", "see you at six", "call me back", "the train is here")
FILES = ("report.pdf", "holiday.jpg", "notes.txt", "budget.xlsx")


def request(rng: Random) -> tuple[str, Call]:
    """What a user says, and the call that it asks for."""
    city, room, first, second = rng.choice(CITIES), rng.choice(ROOMS), rng.randint(2, 99), rng.randint(2, 99)
    minutes, person, text, state = rng.randint(2, 45), rng.choice(PEOPLE), rng.choice(TEXTS), rng.choice(("on", "off"))
    shape, colour, song, file = rng.choice(SHAPES), rng.choice(COLOURS), rng.choice(SONGS), rng.choice(FILES)
    return rng.choice(
        (
            (
                rng.choice((f"What's the weather in {city}?", f"How is the weather in {city} today?")),
                Call("get_weather", {"city": city}),
            ),
            (
                rng.choice((f"Set a timer for {minutes} minutes.", f"Wake me in {minutes} minutes")),
                Call("set_timer", {"minutes": minutes}),
            ),
            (
                rng.choice((f"Turn {state} the light in the {room}.", f"Switch the {room} light {state}")),
                Call("switch_light", {"room": room, "state": state}),
            ),
            (
                rng.choice(
                    (
                        f"Use the tool to add {first} and {second}.",
                        f"Add the numbers {first} and {second} with your function.",
                    )
                ),
                Call("add_numbers", {"a": first, "b": second}),
            ),
            (
                rng.choice((f"Draw a {colour} {shape}.", f"Can you draw me a {shape} in {colour}?")),
                Call("draw_shape", {"shape": shape, "colour": colour}),
            ),
            (rng.choice((f"Play {song}.", f"I want to hear the song {song}")), Call("play_song", {"title": song})),
            (f"Send a message to {person}: {text}", Call("send_message", {"to": person, "text": text})),
            (rng.choice((f"Write down: {text}", f"Save a note: {text}")), Call("save_note", {"text": text})),
            (rng.choice((f"Where is the file {file}?", f"Find {file}.")), Call("find_file", {"name": file})),
            (
                rng.choice((f"What time is it in {city}?", f"Tell me the time in {city}.")),
                Call("get_time", {"city": city}),
            ),
        )
    )


def offered(rng: Random, *names: str, count: int) -> list[dict[str, Any]]:
    """Those functions and others, so many together, in any order."""
    others = [name for name in FUNCTIONS if name not in names]
    chosen_names = [*names, *rng.sample(others, count - len(names))]
    rng.shuffle(chosen_names)
    return [FUNCTIONS[name] for name in chosen_names]


def call(rng: Random) -> Question:
    text, wanted = request(rng)
    functions = offered(rng, wanted.name, count=rng.choice((1, 1, 2, 3, 4)))
    return Question(f"call {wanted.name}", [user(text)], Expectation(call=wanted), functions)


def no_call(rng: Random) -> Question:
    """Functions are there, and none of them is of use."""
    functions = offered(rng, count=rng.choice((1, 2, 3)))
    if rng.random() < 0.4:
        pair = any_pairs(rng, 1)[0]
        return Question("no call", [user("What is this?", picture(scene(rng, [pair])))], is_thing(*pair), functions)
    text, said = rng.choice(
        (
            ("Hello!", ("hello", "hi", "hey", "welcome")),
            ("Good morning", ("good morning", "hello", "hi", "morning")),
            ("Thank you!", ("welcome", "pleasure", "glad", "problem", "gladly")),
            ("Bye!", ("bye", "goodbye", "see you", "later")),
        )
    )
    return Question("no call", [user(text)], Expectation(all_of=(said,)), functions)


def result(rng: Random) -> Question:
    """The function has been called: its result has to be told."""
    number, city = rng.randint(2, 38), rng.choice(CITIES)
    degrees = Expectation(number=number, patterns_absent=(r"\btimes\b",))
    added = Expectation(number=number + 3, operands=(number, 3), patterns_absent=(r"\b(?:times|minus)\b",))
    name, asked, arguments, given, wanted = rng.choice(
        (
            ("get_weather", f"What's the weather in {city}?", {"city": city}, f"{number} degrees", degrees),
            ("add_numbers", f"Use the tool to add {number} and 3.", {"a": number, "b": 3}, str(number + 3), added),
        )
    )
    made = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    messages = [
        user(asked),
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": given},
    ]
    return Question("tell the result", messages, wanted, [FUNCTIONS[name]])


def question(rng: Random) -> Question:
    return chosen(rng, {"call": (7, call), "no call": (2, no_call), "result": (1, result)})
