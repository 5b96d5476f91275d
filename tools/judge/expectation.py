"""What an answer has to say, as data: nothing depends on the words that one particular model uses."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Pair = tuple[str, str]  # colour, shape


@dataclass(frozen=True)
class Expectation:
    """What makes an answer right. Whatever is set has to hold; whatever is not set does not matter.

    Args:
        all_of: Of each group of synonyms, one word or phrase has to be there.
        none_of: None of these may be there.
        patterns_absent: Regular expressions that may not match.
        colours, shapes: No others may be said, apart from the background's.
        need: "colour" or "shape" or both: it has to be said, by one of `colours` and `shapes`.
        target, others: The thing that is meant, and the other things that are there: the answer's colour and
            shape fit the first and none of the others.
        yes: The first word is yes, or no.
        number: The only number in the answer; `operands` may be repeated before it.
        numbers: All the numbers of the answer, in order.
        picture: The only picture that is named: 1 for the first. 0: none or neither; -1: both or all.
        pairs: Colour and shape of each thing in the picture: all are said, and nothing else.
        exactly: The answer, apart from quotation marks, the last full stop and capitals.
        spelled: The word whose letters are said one by one.
        abilities: At least so many different things that the model can do are named.
        sentences: At most so many.
        call: Name and arguments of the only call; None: no call, whatever else is expected.
    """

    all_of: tuple[tuple[str, ...], ...] = ()
    none_of: tuple[str, ...] = ()
    patterns_absent: tuple[str, ...] = ()
    colours: tuple[str, ...] | None = None
    shapes: tuple[str, ...] | None = None
    need: tuple[str, ...] = ()
    target: Pair | None = None
    others: tuple[Pair, ...] = ()
    yes: bool | None = None
    number: float | None = None
    operands: tuple[float, ...] = ()
    numbers: tuple[float, ...] | None = None
    picture: int | None = None
    pairs: tuple[Pair, ...] | None = None
    exactly: str | None = None
    spelled: str | None = None
    abilities: int = 0
    sentences: int | None = None
    call: "Call | None" = None

    def as_json(self) -> dict[str, Any]:
        """Only what is set."""
        empty = asdict(Expectation())
        return {name: value for name, value in asdict(self).items() if value != empty[name]}


@dataclass(frozen=True)
class Call:
    """A call of a function, made or expected: strings are compared as `exactly` is, numbers by value."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def is_colour(colour: str, shape: str | None = None) -> Expectation:
    """The answer to "what colour is it": this one, and no other; a shape only if it is the one asked about."""
    return Expectation(colours=(colour,), shapes=(shape,) if shape else None, need=("colour",))


def is_thing(colour: str, shape: str) -> Expectation:
    """The answer to "what is this": the shape, and if a colour then the right one."""
    return Expectation(colours=(colour,), shapes=(shape,), need=("shape",), none_of=("two", "three", "several"))


def says_yes(yes: bool, colours: tuple[str, ...] | None = None, shapes: tuple[str, ...] | None = None) -> Expectation:
    """Yes or no; colours and shapes: those that are in the picture or the question."""
    return Expectation(yes=yes, colours=colours, shapes=shapes)
