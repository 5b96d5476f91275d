"""Functions that are asked for by the very thing that they take: a file, a title, a text, a drawing, a person.

"Open trip.pdf", "note down: the keys are upstairs", "paint a red star": a request leaves out what the parameter is
called, and the value has to be copied as it stands.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tools.box.lexicon import NAMES, PLACES, WORDS, word
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS
from tools.box.wordings import article, fill

_STRING = {"type": "string"}
_ENDINGS = (
    "txt", "csv", "md", "py", "json", "pdf", "png", "jpg", "doc", "docx", "xlsx", "zip", "html", "mp3", "mp4", "log",
    "ts", "yaml",
)  # fmt: skip
_SMALL = ("the", "a", "my", "is", "are", "at", "to", "and", "of", "in", "on", "we", "you", "for", "not", "it")


def file_name(rng: Random) -> str:
    """'plan.md', 'my_trip-2.pdf'."""
    stem = word(rng)
    if rng.random() < 0.25:
        stem += rng.choice("_-") + rng.choice([word(rng), str(rng.randint(1, 2030))])
    return f"{stem}.{rng.choice(_ENDINGS)}"


def title(rng: Random) -> str:
    """Of one to three words, written large."""
    return " ".join(word(rng).capitalize() for _ in range(rng.choice([1, 2, 2, 3])))


def sentence(rng: Random) -> str:
    """Words as people leave them in a note: any of them may come next."""
    chance = rng.random()
    if chance < 0.2:
        text = f"the {word(rng)} is {rng.choice(PLACES)}"
    elif chance < 0.35:
        text = f"{rng.choice(['buy', 'bring', 'get', 'fetch'])} {word(rng)} and {word(rng)}"
    elif chance < 0.5:
        text = f"{rng.choice(NAMES)} {rng.choice(['will be', 'is', 'was', 'comes', 'waits'])} {rng.choice(PLACES)}"
    else:
        text = " ".join(word(rng) if rng.random() < 0.6 else rng.choice(_SMALL) for _ in range(rng.randint(2, 7)))
    return text.capitalize() if rng.random() < 0.2 else text


def _drawn(rng: Random) -> dict[str, str]:
    return {"colour": rng.choice(COLOURS), "shape": rng.choice(SHAPES)}


@dataclass(frozen=True)
class Direct:
    """A kind of functions.

    Args:
        verbs: What may be done, the first word of the function's name and of a request.
        nouns: The last word of the name.
        parameters: By what they hold, the names that they may have and a description.
        draw: Gives what a request holds.
        requests: Patterns of wordings.fill, with {verb} and what is drawn.
    """

    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    parameters: dict[str, tuple[tuple[str, ...], str]]
    draw: Callable[[Random], dict[str, str]]
    requests: tuple[str, ...]

    def named(self, rng: Random) -> dict[str, str]:
        """What the parameters are called this time."""
        return {key: rng.choice(names) for key, (names, _) in self.parameters.items()}

    def described(self, named: dict[str, str], rng: Random) -> list[tuple[str, dict[str, Any], str]]:
        """The parameters, their schemas and descriptions; what can be listed is listed at times."""
        listed = {"colour": COLOURS, "shape": SHAPES}
        together = rng.random() < 0.4
        return [
            (named[key], {**_STRING, "enum": sorted(listed[key])} if together and key in listed else _STRING, about)
            for key, (_, about) in self.parameters.items()
        ]

    def request(self, verb: str, rng: Random) -> tuple[str, dict[str, str]]:
        """In words, and what it holds."""
        values = self.draw(rng)
        slots = {"verb": verb.replace("_", " "), **values}
        if "shape" in values:
            slots |= {"shaped": article(values["shape"]), "coloured": article(f"{values['colour']} {values['shape']}")}
        return fill(rng.choice(self.requests), rng, **slots), values


_POLITE = "[|||please |can you |could you |i want to |i need to ]"
KINDS = (
    Direct(("open", "print", "delete", "read", "share", "upload", "download", "locate", "fetch"),
           ("file", "document", "attachment"),
           {"file": (("file", "name", "filename", "path", "document"), "Which file.")},
           lambda rng: {"file": file_name(rng)},
           (_POLITE + "{verb} {file}", _POLITE + "{verb} the [file|document] {file}", "{verb} it for me: {file}",
            _POLITE + "{verb} {file} [for me|now|, please]", "where did i put {file}", "i am looking for {file}")),
    Direct(("play", "show", "buy", "order", "review", "queue", "stream"),
           ("movie", "book", "album", "tune", "game"),
           {"title": (("title", "name", "what"), "What it is called.")},
           lambda rng: {"title": title(rng)},
           (_POLITE + "{verb} {title}", _POLITE + "{verb} {title} [for me|now|again]", _POLITE + "{verb} '{title}'",
            "i would like {title}", _POLITE + "{verb} the one called {title}")),
    Direct(("write", "note", "log", "post", "say", "record", "keep"),
           ("memo", "entry", "line", "text", "diary"),
           {"text": (("text", "content", "words", "body", "entry"), "The words.")},
           lambda rng: {"text": sentence(rng)},
           ("{verb} this: {text}", "note down: {text}", "{verb} '{text}'", "write down that {text}", "{verb}: {text}",
            "a new entry: {text}", "for my list: {text}", "{verb} the following: {text}", "remember this: {text}")),
    Direct(("tell", "text", "mail", "inform", "answer"),
           ("friend", "contact", "person", "colleague"),
           {"to": (("to", "recipient", "person", "name", "who"), "Who gets it."),
            "text": (("text", "message", "body", "content"), "The words.")},
           lambda rng: {"to": rng.choice(NAMES), "text": sentence(rng)},
           (_POLITE + "{verb} {to}: {text}", _POLITE + "{verb} {to} that {text}", "to {to}: {text}",
            "write to {to}: {text}", "let {to} know: {text}", "{verb} {to} '{text}'", "a line for {to}: {text}")),
    Direct(("paint", "sketch", "plot", "add", "place", "stamp"),
           ("figure", "form", "thing", "drawing", "outline"),
           {"shape": (("shape", "kind", "figure", "what"), "What it is."),
            "colour": (("color", "colour", "fill", "paint"), "In which colour.")},
           _drawn,
           (_POLITE + "{verb} {coloured}", _POLITE + "{verb} {shaped}[ in|,] {colour}", "i would like {coloured}",
            "[make|give] me {coloured}", "we need {shaped} in {colour}",
            _POLITE + "{verb} {shaped} [that is|which is] {colour}")),
    Direct(("invite", "ring", "greet", "seat", "remove"),
           ("guest", "player", "member", "neighbour"),
           {"person": (("name", "person", "who", "guest"), "Who.")},
           lambda rng: {"person": rng.choice([rng.choice(NAMES), f"{rng.choice(NAMES)} {rng.choice(NAMES)}"])},
           (_POLITE + "{verb} {person}", _POLITE + "{verb} {person} [now|again|too]", "{person}: {verb} them")),
    Direct(("search", "look_up", "translate", "define", "spell"),
           ("term", "word", "phrase"),
           {"term": (("term", "query", "word", "text"), "What for.")},
           lambda rng: {"term": rng.choice([word(rng), f"{word(rng)} {rng.choice(WORDS)}"])},
           (_POLITE + "{verb} {term}", _POLITE + "{verb} '{term}'", "{verb}: {term}", "{verb} the word {term}")),
)  # fmt: skip
