"""What functions of programs are made of: long names, many ways to say what they do, what may be left out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tools.box import program_values as values
from tools.box.about_values import sentence
from tools.box.wordings import listing

# How a request may begin.
P = "[|||please |can you |could you |would you |i need to |i want to |i'd like you to |go ahead and ]"
Drawn = Callable[[Random], Any]


@dataclass(frozen=True)
class Slot:
    """A parameter.

    Args:
        names: What it may be called.
        draw: Gives a value.
        abouts: Descriptions, of which one is taken; {e} is another value.
        kind: Its type in JSON.
        choices: If its values can be listed.
        tails: How a request that says nothing of it may mention it at its end; {} is the value.
        default: What its schema gives, if anything.
    """

    names: tuple[str, ...]
    draw: Drawn
    abouts: tuple[str, ...] = ()
    kind: str = "string"
    choices: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()
    default: Any = None


@dataclass(frozen=True)
class Program:
    """A function, in all the forms that it may have.

    Args:
        group: No two of one group are given together: a request would fit both.
        names: What it may be called.
        abouts: What it is said to do.
        slots: Its parameters. Those that some requests leave out are not required.
        requests: Patterns of wordings.fill with the keys of the slots; one that ends in a full stop is no question.
        result: What it returns: words, a number, a list, or fields.
        answer: What is said then, with the keys of slots, `result`, or the names of the fields.
        parts: Requests that want one of the fields, by what is said on them.
        again: Requests after one that it served: what they leave out is as it was.
        it: Requests after one that another function served: what they leave out is what that one was given.
    """

    group: str
    names: tuple[str, ...]
    abouts: tuple[str, ...]
    slots: dict[str, Slot]
    requests: tuple[str, ...]
    result: Drawn
    answer: str = "Done."
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    again: tuple[str, ...] = ()
    it: tuple[str, ...] = ()


def said(value: Any) -> str:
    """As a request or an answer says it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return listing(value) if isinstance(value, list) else str(value)


def of(*options: Any) -> Drawn:
    """One of them."""
    return lambda rng: rng.choice(options)


def fields(**drawn: Drawn) -> Drawn:
    """An object, as programs return it."""
    return lambda rng: {name: draw(rng) for name, draw in drawn.items()}


def some(draw: Drawn) -> Drawn:
    """A list of up to four, at times of none."""
    return lambda rng: list(dict.fromkeys(draw(rng) for _ in range(rng.choice([0, 1, 2, 2, 3, 3, 4]))))


def choice(names: tuple[str, ...], *choices: str, about: str = "", tails: tuple[str, ...] = ()) -> Slot:
    """A parameter whose values can be listed."""
    return Slot(names, of(*choices), (about,) if about else (), choices=choices, tails=tails)


def count(names: tuple[str, ...], most: int, *abouts: str, tails: tuple[str, ...] = (), kind: str = "integer") -> Slot:
    """A number from 1."""
    return Slot(names, lambda rng: rng.randint(1, most), abouts, kind=kind, tails=tails)


# Of words like those of the request around them: where they end is only seen at its end.
FREE: tuple[Drawn, ...] = (values.say, values.note, values.query, values.command, values.subject, sentence)
DONE = of("ok", "done", "success", "true", "OK")
CITY = Slot(("location", "city", "place", "city_name", "town"), values.city,
            ("The city", "City name", "The city and country, e.g. {e}, Norway", "Name of the place, e.g. {e}",
             "The city and state, e.g. {e}, CA", "Where"))  # fmt: skip
DAY = Slot(("date", "day", "when"), values.day, ("The date", "Date, e.g. {e}", "Day of the event", "On which day"))
TIME = Slot(("time", "start_time", "at", "start"), values.clock, ("The time", "Time, e.g. {e}", "When it starts"))
PERSON = Slot(("name", "contact", "person", "to", "who"), values.person,
              ("Who", "Name of the contact", "Person, e.g. {e}"))  # fmt: skip
LIMIT = count(("limit", "max_results", "count", "n"), 50, "How many at most", "Maximum number of results",
              tails=("limit {}", "with limit {}", "at most {}", "only the first {}", "max {}"))  # fmt: skip
