"""Whether an answer is right: a list of what is wrong with it, empty if nothing is."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tools.judge.expectation import Call, Expectation
from tools.judge.words import COLOUR_OF_WORD, ORDINALS, colours_in, mentions_in, numbers_in, shapes_in, tokens

# What the model says that it can do; each line is one ability, whatever its words.
ABILITIES = (
    ("picture", "pictures", "image", "images", "drawing", "drawings", "photo", "photos"),
    ("shape", "shapes", "circle", "circles", "square", "squares", "triangles", "stars"),
    ("colour", "colours", "color", "colors"),
    ("number", "numbers", "digit", "digits"),
    ("sum", "sums", "add", "adding", "addition", "subtract", "arithmetic", "calculate", "plus", "maths", "math"),
    ("count", "counting", "counts"),
    ("spell", "spelling", "words", "repeat", "repeating"),
    ("remember", "remembering", "tools", "functions", "video", "videos", "clips"),
)
# What follows is compared with the thing that the answer is about.
COMPARISON = re.compile(
    r"\b(?:than|left of|right of|above|below|under|underneath|over|next to|beside|followed by|compared (?:to|with))\b"
)
PICTURE = r"(?:picture|image|photo|drawing|pic|number|no\.?|#)"
SHORT = 3  # words
LONGEST_ANSWER = 60  # words of an answer to what cannot be answered


def judge(answer: str, expectation: Expectation, calls: Sequence[Call] = (), cut_off: bool = False) -> list[str]:
    """What is wrong with an answer.

    Args:
        answer: What the model said, without calls and reasoning.
        calls: Those that were parsed from it.
        cut_off: Whether the answer ran into the limit instead of ending.
    """
    faults = ["does not end"] if cut_off else []
    faults += _calls(calls, expectation.call)
    if expectation.call is None:
        if not answer.strip():
            return [*faults, "says nothing"]
        if re.search(r"</?(?:tool_call|function|parameter|think)\b|<\|", answer):
            faults.append("has markup in the text")
        for check in CHECKS:
            faults += check(answer, expectation)
    return faults


def _has(text: str, phrase: str) -> bool:
    """Whether a word or phrase is there as a whole; numbers in digits do not match inside longer ones."""
    return re.search(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)", text.lower()) is not None


def _phrases(answer: str, wanted: Expectation) -> list[str]:
    faults = [f"says none of {group}" for group in wanted.all_of if not any(_has(answer, word) for word in group)]
    faults += [f"says {word!r}" for word in wanted.none_of if _has(answer, word)]
    return faults + [f"matches {rule!r}" for rule in wanted.patterns_absent if re.search(rule, answer.lower())]


def _head(answer: str) -> str:
    """What an answer is about: "the star is bigger than the circle" is about the star."""
    found = COMPARISON.search(answer.lower())
    head = answer[: found.start()] if found else answer
    return head if colours_in(head) or shapes_in(head) else answer


def _colours_and_shapes(answer: str, wanted: Expectation) -> list[str]:
    faults = []
    for kind, allowed, said in (
        ("colour", wanted.colours, colours_in(answer)),
        ("shape", wanted.shapes, shapes_in(answer)),
    ):
        if allowed is not None:
            faults += [f"says {kind} {name}" for name in dict.fromkeys(said) if name not in allowed]
        if kind in wanted.need and not set(said) & set(allowed or ()):
            faults.append(f"says no {kind} that is right")
    # Which one it is, or of which colour, is not answered by a place in figures.
    if (wanted.need or wanted.target) and re.search(r"\d", _without_pictures(answer)):
        faults.append("speaks of numbers")
    return faults


def _target(answer: str, wanted: Expectation) -> list[str]:
    """Whether the answer means the target, and could mean nothing else that is there."""
    if wanted.target is None:
        return []
    head = _head(answer)
    colours, shapes = set(colours_in(head)), set(shapes_in(head))
    if not colours | shapes:
        return ["names nothing"]
    faults = []
    if not fits(wanted.target, colours, shapes):
        faults.append(f"does not mean the {' '.join(wanted.target)}")
    faults += [f"could mean the {' '.join(other)}" for other in wanted.others if fits(other, colours, shapes)]
    # The rest of the sentence may speak of what else is there, and of nothing else.
    there = {wanted.target, *wanted.others}
    for mention in mentions_in(answer):
        known = {shape for colour, shape in there if mention.colour in (None, colour)}
        if mention.shape not in known:
            faults.append(f"speaks of a {mention.colour or ''} {mention.shape} that is not there")
    return faults


def fits(thing: tuple[str, str], colours: set[str], shapes: set[str]) -> bool:
    """Whether the colours and shapes that were said are those of a thing; what was not said fits."""
    return colours <= {thing[0]} and shapes <= {thing[1]}


def _yes(answer: str, wanted: Expectation) -> list[str]:
    if wanted.yes is None:
        return []
    words = tokens(answer)
    first = words[0] if words else ""
    if first not in ("yes", "no", "yeah", "yep", "nope"):
        return ["begins with neither yes nor no"]
    faults = [] if (first in ("yes", "yeah", "yep")) is wanted.yes else [f"says {first}"]
    rest = set(words[1:])
    if rest & ({"no", "nope"} if wanted.yes else {"yes", "yeah", "yep"}):
        faults.append("says yes and no")
    return faults


def _without_pictures(answer: str) -> str:
    """The answer without the numbers of pictures, which count nothing."""
    return re.sub(rf"\b{PICTURE}\s*(?:\d+|one|two|three)\b", " ", answer.lower())


def _numbers(answer: str, wanted: Expectation) -> list[str]:
    if wanted.number is None and wanted.numbers is None:
        return []
    said = numbers_in(_without_pictures(answer))
    right = list(wanted.numbers) if wanted.numbers is not None else [wanted.number]
    # "2 + 2 = 4" and "2 plus 2 is 4" repeat the question first.
    if wanted.operands and sorted(said[: len(wanted.operands)]) == sorted(wanted.operands) and len(said) > 2:
        said = said[len(wanted.operands) :]
    return [] if said == right else [f"says the numbers {said}, not {right}"]


def _picture(answer: str, wanted: Expectation) -> list[str]:
    if wanted.picture is None:
        return []
    head = COMPARISON.split(answer.lower())[0]
    words = set(tokens(head))
    said = {ORDINALS[word] for word in words if word in ORDINALS}
    numbers = {"one": 1, "two": 2, "three": 3}
    for found in re.findall(rf"\b{PICTURE}\s*(\d+|one|two|three)\b", head):
        said.add(numbers.get(found) or int(found))
    if not said and len(tokens(head)) <= SHORT:  # "2", "It is 2", and not any number of a longer sentence
        said = {int(value) for value in numbers_in(head)}
    if words & {"neither", "none"}:
        said.add(0)
    if words & {"both", "all"}:
        said.add(-1)
    return [] if said == {wanted.picture} else [f"means the pictures {sorted(said)}, not {wanted.picture}"]


def _pairs(answer: str, wanted: Expectation) -> list[str]:
    """All the things that are there, and no others, in any order."""
    if wanted.pairs is None:
        return []
    left = Counter(wanted.pairs)
    faults = []
    mentions = mentions_in(answer)
    for mention in sorted(mentions, key=lambda one: one.count is None):
        pair = (mention.colour or "", mention.shape)
        if not mention.colour:
            faults.append(f"gives no colour of the {mention.shape}")
        elif mention.count is None and left[pair] > 1:
            left[pair] = 0
        elif mention.count is None or left[pair] < mention.count:
            faults.append(
                f"says {mention.count or 'several'} {' '.join(pair)}, there are {Counter(wanted.pairs)[pair]}"
            )
        else:
            left[pair] -= mention.count
    return faults + [f"leaves out {count} {' '.join(pair)}" for pair, count in left.items() if count > 0]


def plain(text: str) -> str:
    """Without quotation marks, capitals, outer spaces and the last full stop."""
    text = re.sub(r"[\"'`*\u201c\u201d\u2018\u2019]", "", text.lower())
    return re.sub(r"\s+", " ", text).strip().rstrip(".!").strip()


def _exactly(answer: str, wanted: Expectation) -> list[str]:
    if wanted.exactly is None:
        return []
    quoted = [plain(part) for part in re.findall(r"[\"\u201c]([^\"\u201d]+)[\"\u201d]", answer)]
    return [] if plain(wanted.exactly) in (plain(answer), *quoted) else [f"does not say {wanted.exactly!r}"]


def _spelled(answer: str, wanted: Expectation) -> list[str]:
    """The longest run of single letters between spaces, hyphens, commas, full stops."""
    if wanted.spelled is None:
        return []
    runs = re.findall(r"(?<![a-z'])[a-z](?:[\s,.\-\u2013]+(?:and\s+)?[a-z](?![a-z']))+", answer.lower())
    said = max(("".join(re.findall(r"\b[a-z]\b", run)) for run in runs), key=len, default="")
    return [] if said == wanted.spelled.lower() else [f"spells {said!r}, not {wanted.spelled!r}"]


def _abilities(answer: str, wanted: Expectation) -> list[str]:
    faults = []
    words = set(tokens(answer))
    named = sum(bool(words & set(ability)) for ability in ABILITIES)
    if not named and wanted.abilities == 1 and words & set(COLOUR_OF_WORD):
        named = 1
    if named < wanted.abilities:
        faults.append(f"names {named} things that it can do, not {wanted.abilities}")
    if wanted.sentences is not None:
        said = [part for part in re.split(r"(?<=[.!?])\s+|\n+", answer.strip()) if re.search(r"\w", part)]
        if len(said) > wanted.sentences or len(tokens(answer)) > LONGEST_ANSWER:
            faults.append(f"says {len(said)} sentences of {len(tokens(answer))} words")
    return faults


def _same(given: Any, wanted: str | int | float | bool) -> bool:
    if isinstance(wanted, bool) or isinstance(given, bool):
        return given is wanted
    if isinstance(wanted, str):
        return isinstance(given, str) and plain(given) == plain(wanted)
    return isinstance(given, int | float) and given == wanted


def _calls(calls: Sequence[Call], wanted: Call | None) -> list[str]:
    if wanted is None:
        return [f"calls {call.name}" for call in calls]
    if len(calls) != 1:
        return [f"makes {len(calls)} calls"]
    given = calls[0].arguments
    faults = [] if calls[0].name == wanted.name else [f"calls {calls[0].name}"]
    faults += [f"gives {name}" for name in given if name not in wanted.arguments]
    for name, value in wanted.arguments.items():
        if name not in given:
            faults.append(f"does not give {name}")
        elif not _same(given[name], value):
            faults.append(f"gives {name} {given[name]!r}, not {value!r}")
    return faults


Check = Callable[[str, Expectation], list[str]]
CHECKS: tuple[Check, ...] = (
    _phrases, _colours_and_shapes, _target, _yes, _numbers, _picture, _pairs, _exactly, _spelled, _abilities,
)  # fmt: skip
