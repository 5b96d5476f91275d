"""Conversations in which somebody tells plain facts and asks for them later."""

from collections.abc import Sequence
from random import Random

from tools.box.dialogues import Dialogue, Maker, Turn
from tools.box.facts import FACTS, Fact
from tools.box.wordings import article, capital_i, fill, sentence, typed

HEARD = "I will remember that."
UNTOLD = "You have not told me that."

_BEFORE = (
    "remember that ", "please remember that ", "remember: ", "please remember: ", "remember this: ", "note that ",
    "keep in mind that ", "don't forget that ", "don't forget: ", "by the way, ", "just so you know, ", "hi! ",
    "well, ", "listen, ", "for later: ", "you should know that ", "let me tell you something: ", "hello, ",
)  # fmt: skip
# Behind what is told, and behind a question.
_AFTER = (", remember that", ", please remember that", ", please remember", ", don't forget", ", ok", ", remember it",
          ". remember that", ". please remember that", " - remember that", ", keep that in mind", ". don't forget that",
          ", just so you know", ", by the way", ", you should know", ". can you remember that",
          ". remember that for me")  # fmt: skip
_AGAIN = (" again", " again", ", do you remember", ", can you tell me", ", remember")
_CORRECTION = ("actually, ", "sorry, ", "no, ", "wait, ", "correction: ", "i was wrong: ", "it changed: ", "now ")
# Told, what is asked for, and which fact it is.
Known = tuple[Fact, str, str]


def _marked(form: str) -> str:
    """With marks in place of a fact's own words, so that these stay as they are."""
    return form.replace("{0}", "@0").replace("{1}", "@1").replace("{a}", "@2")


def _put(text: str, known: Known) -> str:
    """With a fact's own words in place of the marks."""
    _, about, value = known
    return text.replace("@0", about).replace("@1", value).replace("@2", article(value))


def statement(known: Known, rng: Random, before: Sequence[str] = _BEFORE, share: float = 0.3) -> str:
    """A fact as somebody tells it."""
    text = fill(_marked(rng.choice(known[0].told)), rng)
    text = capital_i(rng.choice(before) + text if rng.random() < share else text, rng)
    text = text[0].upper() + text[1:] if rng.random() < 0.8 else text
    text = _put(text, known)
    if rng.random() < 0.15:
        after = rng.choice(_AFTER)
        after = f". {after[2:].capitalize()}" if after[0] == "." and rng.random() < 0.7 else after
        return text + after + ("?" if "can you" in after.lower() else rng.choice([".", ".", "", "!"]))
    return text + rng.choice([".", ".", ".", ".", "", "!"])


def question(known: Known, rng: Random) -> str:
    """A fact as somebody asks for it."""
    form = rng.choice(known[0].asked)
    text = fill(_marked(form.rstrip(".")), rng)
    if not form.endswith(".") and rng.random() < 0.12:
        text += rng.choice(_AGAIN)
    text = typed(text, rng, statement=form.endswith("."))
    return _put(text if not text.isupper() else text.capitalize(), known)


def answer(known: Known) -> str:
    """What was told; a secret stays as it is, letter by letter."""
    text = _put(_marked(known[0].answer), known)
    return f"{text}." if known[0].exact else sentence(text)


def _facts(rng: Random) -> list[Known]:
    """One to three that are about different things; often of one kind, so that they can be mistaken."""
    found: dict[str, Known] = {}
    count = rng.choice([1, 1, 1, 2, 2, 3])
    fact = rng.choices(FACTS, [fact.weight for fact in FACTS])[0]
    alike = rng.random() < 0.5
    for _ in range(20):
        about, value = fact.about(rng), fact.value(rng)
        if not any(value == other for _, _, other in found.values()):
            found.setdefault(about, (fact, about, value))
        if len(found) == count:
            break
        if not alike or about == "":
            fact = rng.choices(FACTS, [fact.weight for fact in FACTS])[0]
    return list(found.values())


def _told(known: Sequence[Known], rng: Random) -> list[Turn]:
    """In one message or in several."""
    said = [statement(one, rng) for one in known]
    if rng.random() < 0.4:
        said = [" ".join(text if text[-1] in ".!?" else f"{text}." for text in said)]
    return [Turn("talk", text, HEARD, "A fact to remember.") for text in said]


def facts(rng: Random, between: Sequence[Maker]) -> Dialogue:
    """Facts, perhaps other questions, and one to three questions on what was told.

    Args:
        between: Makers of what is said in the meantime.
    """
    known = _facts(rng)
    if rng.random() < 0.15:
        asked = rng.choice(known)
        said = [statement(one, rng, share=0.1) for one in known]
        text = " ".join(text if text[-1] in ".!?" else f"{text}." for text in said)
        return Dialogue((Turn("facts", f"{text} {question(asked, rng)}", answer(asked), _reasoning(asked)),))
    turns = _told(known, rng)
    if rng.random() < 0.15:
        turns += _in_between(between, rng)
        at = rng.randrange(len(known))
        fact, about, _ = known[at]
        known[at] = (fact, about, fact.value(rng))
        turns.append(Turn("talk", statement(known[at], rng, _CORRECTION, 0.9), HEARD, "A fact to remember."))
    turns += _in_between(between, rng)
    asked_for = rng.sample(known, min(len(known), rng.choice([1, 1, 2, 3])))
    turns += [Turn("facts", question(one, rng), answer(one), _reasoning(one)) for one in asked_for]
    if rng.random() < 0.07:
        turns += _untold(known, rng)
    return Dialogue(tuple(turns))


def _reasoning(known: Known) -> str:
    return f"I was told: {answer(known)[:-1]}."


def _in_between(between: Sequence[Maker], rng: Random) -> list[Turn]:
    """None to four turns about other things."""
    count = rng.choice([0, 0, 1, 2, 3, 4])
    return [turn for _ in range(count) for turn in rng.choice(between)(rng).turns][:count]


def _untold(known: Sequence[Known], rng: Random) -> list[Turn]:
    """A question for what nobody told."""
    fact = rng.choice([fact for fact in FACTS if fact not in {one for one, _, _ in known}])
    about = fact.about(rng)
    if about in {about for _, about, _ in known if about}:
        return []
    return [Turn("facts", question((fact, about, fact.value(rng)), rng), UNTOLD, "Nobody told me.")]
