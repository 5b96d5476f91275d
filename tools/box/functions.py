"""What functions are made of: verbs and nouns for their names, and the parameters that they may have.

Names, requests and values are put together at random, so that a call has to be read from the function's description.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tools.box.lexicon import NAMES, WORDS, word
from tools.box.wordings import listing

CITIES = (
    "Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Kyoto", "Quito", "Bern", "Riga", "Accra", "London",
    "Berlin", "Madrid", "Vienna", "New York", "Boston", "Sydney", "Seoul", "Dublin", "Prague", "Hamburg", "Lyon",
    "Porto", "Milan", "Chicago", "Denver", "Nairobi", "Lagos", "Hanoi", "Bangkok", "Mexico City", "San Diego",
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "today", "tomorrow")
_MONTHS = ("January", "March", "May", "June", "July", "August", "October", "December")

# What a function may be called for, and how somebody may ask for it.
VERBS: dict[str, tuple[str, ...]] = {
    "create": ("create", "make", "add", "set up"), "add": ("add", "create", "enter"), "get": ("get", "show me"),
    "find": ("find", "look for", "search for"), "search": ("search for", "look for", "find"),
    "delete": ("delete", "remove", "get rid of"), "cancel": ("cancel", "call off"), "update": ("update", "change"),
    "set": ("set", "adjust", "change"), "send": ("send", "mail"), "book": ("book", "reserve"),
    "reserve": ("reserve", "book"), "order": ("order", "get me", "buy"), "buy": ("buy", "order"),
    "start": ("start", "begin", "run"), "stop": ("stop", "end", "halt"), "open": ("open",), "close": ("close", "shut"),
    "list": ("list", "show me"), "check": ("check", "look up"), "move": ("move", "shift"), "copy": ("copy",),
    "rename": ("rename",), "print": ("print", "print out"), "share": ("share",), "upload": ("upload",),
    "download": ("download", "save"), "play": ("play", "put on"), "schedule": ("schedule", "plan"),
    "read": ("read", "show me"), "track": ("track", "follow"), "rate": ("rate",), "lock": ("lock",),
    "pay": ("pay",), "draw": ("draw", "paint"), "count": ("count",), "record": ("record", "log", "note down"),
    "show": ("show me", "display", "show"), "edit": ("edit", "change"), "clean": ("clean", "tidy"),
    "rent": ("rent", "hire"),
    "repair": ("repair", "fix", "mend"), "invite": ("invite", "ask"), "save": ("save", "store", "keep"),
    "turn_on": ("turn on", "switch on"), "turn_off": ("turn off", "switch off"), "compare": ("compare",),
    "export": ("export", "save"), "archive": ("archive", "put away"), "water": ("water",), "weigh": ("weigh",),
}  # fmt: skip
# Those that may be asked for without a verb.
ASKING = ("get", "check", "read", "find", "search", "list")
NOUNS = (
    "event", "reminder", "note", "task", "file", "folder", "ticket", "table", "hotel", "room", "train", "taxi", "order",
    "pizza", "invoice", "payment", "account", "user", "contact", "email", "photo", "album", "playlist", "movie",
    "recipe", "product", "package", "stock", "report", "meeting", "alarm", "door", "window", "heating", "lamp", "car",
    "robot", "game", "score", "team", "lesson", "course", "book", "forecast", "route", "map", "message", "channel",
    "song", "video", "document", "page", "list", "calendar", "appointment", "flight", "restaurant", "bill", "shape",
    "password", "device", "sensor", "camera", "server", "database", "record", "customer", "review", "coupon", "job",
    "machine", "garden", "plant", "pet", "workout", "meal", "drink", "bus", "bike", "parcel", "letter", "form",
)  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One that a function may have.

    Args:
        names: What it may be called.
        schema: Its JSON schema, without a description.
        draw: Gives a value and how a request says it.
        phrases: How it stands in a request; {} is the value, {name} the parameter's name in words.
        about: Its description.
    """

    names: tuple[str, ...]
    schema: dict[str, Any]
    draw: Callable[[Random], tuple[Any, str]]
    phrases: tuple[str, ...]
    about: str


def _plain(draw: Callable[[Random], Any]) -> Callable[[Random], tuple[Any, str]]:
    def drawn(rng: Random) -> tuple[Any, str]:
        value = draw(rng)
        return value, str(value)

    return drawn


def _words(rng: Random) -> str:
    text = " ".join(word(rng) for _ in range(rng.randint(1, 4)))
    return text.capitalize() if rng.random() < 0.3 else text


def _day(rng: Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(_DAYS)
    if rng.random() < 0.5:
        return f"{rng.randint(1, 28)} {rng.choice(_MONTHS)}"
    return f"20{rng.randint(24, 30)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _time(rng: Random) -> str:
    return rng.choice([f"{rng.randint(0, 23)}:{rng.choice(['00', '15', '30', '45'])}", f"{rng.randint(1, 12)} pm",
                       f"{rng.randint(1, 12)} am"])  # fmt: skip


def _code(rng: Random) -> str:
    letters = "".join(rng.choice("ABCDEFGHKLMNPRSTXYZ") for _ in range(rng.randint(0, 2)))
    return f"{letters}{rng.choice(['', '-']) if letters else ''}{rng.randint(10, 9999)}"


def decimal(rng: Random) -> float:
    """With one or two places behind the point, the last of them no 0."""
    before, tenths = rng.randrange(rng.choice([20, 100, 500])), rng.choice(["", "", rng.randrange(10)])
    return float(f"{before}.{tenths}{rng.randint(1, 9)}")


def whole(rng: Random) -> int:
    """Of one to four digits."""
    return rng.randint(1, rng.choice([9, 30, 99, 500, 9999]))


def _items(rng: Random) -> tuple[list[str], str]:
    found = rng.sample(WORDS, rng.randint(1, 4))
    return found, listing(found) if rng.random() < 0.8 else ", ".join(found)


def _numbers(rng: Random) -> tuple[list[int], str]:
    found = [rng.randint(0, 99) for _ in range(rng.randint(2, 4))]
    return found, rng.choice([listing([str(number) for number in found]), ", ".join(map(str, found))])


def _address(rng: Random) -> str:
    return f"{rng.choice(NAMES).lower()}@{rng.choice(WORDS)}.{rng.choice(['com', 'org', 'net'])}"


def _path(rng: Random) -> str:
    return f"{rng.choice(['', '', '/tmp/', 'docs/'])}{word(rng)}.{rng.choice(['txt', 'csv', 'md', 'py', 'json'])}"


def _point(rng: Random) -> tuple[dict[str, int], str]:
    x, y = rng.randint(0, 99), rng.randint(0, 99)
    return {"x": x, "y": y}, rng.choice([f"x {x} and y {y}", f"x={x}, y={y}", f"x {x}, y {y}"])


def _yes(rng: Random) -> tuple[bool, str]:
    value = rng.random() < 0.5
    return value, rng.choice([("off", "on"), ("no", "yes"), ("false", "true")])[value]


_STRING, _INTEGER, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}


def _enum(names: tuple[str, ...], values: tuple[str, ...], phrases: tuple[str, ...]) -> Parameter:
    about = f"The {names[0]}."
    return Parameter(names, {"type": "string", "enum": list(values)}, _plain(lambda rng: rng.choice(values)), phrases,
                     about)  # fmt: skip


def _switch(name: str, yes: str, no: str) -> Parameter:
    def drawn(rng: Random) -> tuple[bool, str]:
        value = rng.random() < 0.6
        return value, yes if value else no

    return Parameter((name,), {"type": "boolean"}, drawn, ("{}",), "Yes or no.")


PARAMETERS = (
    Parameter(("name", "title", "label"), _STRING, _plain(word),
              ("called {}", "named {}", "with the {name} {}", "with {name} {}"), "What it is called."),
    Parameter(("city", "place", "location", "town", "destination"), _STRING, _plain(lambda rng: rng.choice(CITIES)),
              ("in {}", "in {}", "near {}", "for the {name} {}"), "The place."),
    Parameter(("person", "recipient", "contact", "guest", "owner"), _STRING, _plain(lambda rng: rng.choice(NAMES)),
              ("for {}", "with {}", "for my friend {}", "with the {name} {}"), "Who it is for."),
    Parameter(("day", "date", "weekday"), _STRING, _plain(_day), ("on {}", "for {}", "for the {name} {}"), "The day."),
    Parameter(("time", "start_time", "hour"), _STRING, _plain(_time), ("at {}", "for {}", "{name} {}"), "When."),
    Parameter(("minutes", "duration", "length"), _INTEGER, _plain(whole),
              ("for {} minutes", "of {} minutes", "lasting {} minutes"), "How many minutes."),
    Parameter(("seats", "people", "guests", "persons"), _INTEGER, _plain(lambda rng: rng.randint(1, 20)),
              ("for {} people", "for {} persons", "with {} {name}"), "How many people."),
    Parameter(("count", "amount", "quantity", "limit"), _INTEGER, _plain(whole),
              ("with a {name} of {}", "with {name} {}", "{name} {}"), "How many."),
    Parameter(("price", "max_price", "budget", "cost"), _NUMBER, _plain(decimal),
              ("for {} dollars", "with a {name} of {}", "at {} euros"), "In money."),
    Parameter(("temperature", "degrees", "level", "volume"), _NUMBER, _plain(decimal),
              ("to {name} {}", "with a {name} of {}", "at {name} {}"), "How high."),
    Parameter(("text", "message", "body", "content", "comment"), _STRING, _plain(_words),
              ("saying {}", "with the {name} {}", "that says {}", "with the {name} '{}'"), "The words."),
    Parameter(("id", "order_id", "code", "reference", "key"), _STRING, _plain(_code),
              ("with {name} {}", "with the {name} {}", "{name} {}"), "What it is found by."),
    Parameter(("items", "tags", "names", "products"), {"type": "array", "items": _STRING}, _items,
              ("with the {name} {}", "with {name} {}", "{name}: {}"), "A list."),
    Parameter(("position", "point"), {"type": "object", "properties": {"x": _INTEGER, "y": _INTEGER}}, _point,
              ("at {}", "at {name} {}"), "Where."),
    _enum(("priority", "importance"), ("low", "medium", "high"), ("with {} {name}", "{name} {}")),
    _enum(("color", "colour"), ("red", "green", "blue", "white", "black"), ("in {}", "in the {name} {}")),
    _enum(("unit", "units"), ("celsius", "fahrenheit", "kelvin"), ("in {}", "in {name} {}")),
    _enum(("format", "file_type"), ("pdf", "csv", "txt", "png"), ("as {}", "in {} format", "with {name} {}")),
    _enum(("shape", "form"), ("circle", "square", "star", "triangle"), ("with {name} {}", "in the {name} of a {}")),
    _enum(("room", "area"), ("kitchen", "bedroom", "office", "garage", "hall"), ("in the {}", "for the {}")),
    _enum(("frequency", "interval"), ("daily", "weekly", "monthly"), ("{}", "with {name} {}")),
    _enum(("role", "type"), ("admin", "editor", "viewer", "guest"), ("as {}", "with {name} {}", "of {name} {}")),
    _enum(("class", "category"), ("first", "second", "business"), ("in {} class", "with {name} {}")),
    Parameter(("numbers", "values", "scores"), {"type": "array", "items": _INTEGER}, _numbers,
              ("with the {name} {}", "with {name} {}", "{name}: {}"), "Whole numbers."),
    Parameter(("email", "address", "to"), _STRING, _plain(_address), ("to {}", "for {}", "{name} {}"), "An email."),
    Parameter(("path", "file", "filename"), _STRING, _plain(_path), ("from {}", "into {}", "{name} {}"), "A file."),
    _enum(("size",), ("small", "medium", "large"), ("in {}", "of size {}", "size {}")),
    _enum(("mode", "speed"), ("fast", "slow", "auto"), ("in {} {name}", "with {name} {}")),
    _enum(("language", "lang"), ("English", "French", "German", "Spanish"), ("in {}", "with {name} {}")),
    _enum(("state", "status"), ("open", "closed", "pending"), ("with {name} {}", "in {name} {}")),
    _switch("urgent", "urgently", "without hurry"), _switch("notify", "and notify me", "without notifying me"),
    _switch("private", "privately", "publicly"), _switch("repeat", "and repeat it", "without repeating it"),
    Parameter(("silent", "verbose", "express", "insured", "dry_run", "recursive"), {"type": "boolean"}, _yes,
              ("with {name} {}", "{name}: {}", "set {name} to {}"), "Yes or no."),
    # What it is called says everything.
    Parameter(("topic", "category", "genre", "brand", "material", "subject", "keyword", "query", "source", "target"),
              _STRING, _plain(word), ("with the {name} {}", "with {name} {}", "{name} {}", "where the {name} is {}"),
              ""),
    Parameter(("width", "height", "weight", "distance", "age", "year", "page", "score", "radius", "depth"), _INTEGER,
              _plain(whole), ("with a {name} of {}", "with {name} {}", "{name} {}", "where the {name} is {}"), ""),
)  # fmt: skip
