"""Ways to say things: patterns with choices, and the small differences in how people type."""

import re
from random import Random

_CHOICE = re.compile(r"\[([^\[\]]*)\]")

# Words that patterns may use for what is asked about.
WORDS = {
    "pic": "[picture|picture|picture|image|image|image|photo|drawing|pic|graphic|photograph|scene]",
    "color": "[color|colour]",
    "things": "[things|things|objects|objects|shapes|shapes|items|figures]",
    "thing": "[thing|thing|object|object|shape|shape|one|figure|item]",
    "see": "[do you see|can you see|is there to see|do we see]",
}
SYNONYMS = {
    "circle": ("circle", "circle", "circle", "disc", "disk", "round shape", "dot"),
    "square": ("square",),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "cross", "cross", "plus", "plus sign"),
    "diamond": ("diamond", "diamond", "diamond", "rhombus"),
    "rectangle": ("rectangle", "rectangle", "rectangle", "bar"),
    "oval": ("oval", "oval", "ellipse"),
    "heart": ("heart",),
    "arrow": ("arrow",),
    "line": ("line",),
    "number": ("number",),
    "gray": ("gray", "grey"),
}


def fill(pattern: str, rng: Random, **slots: str) -> str:
    """One form of a pattern: `[a|b]` is a choice, also inside another; `{name}` is a slot, or one of WORDS."""
    text = pattern
    for name, value in WORDS.items():
        text = text.replace(f"{{{name}}}", value)
    while True:
        found = _CHOICE.search(text)
        if found is None:
            break
        text = text[: found.start()] + rng.choice(found[1].split("|")) + text[found.end() :]
    return " ".join(text.format(**slots).split())


def called(word: str, rng: Random) -> str:
    """A kind or a colour as a question may call it."""
    return rng.choice(SYNONYMS.get(word, (word,)))


def plural(word: str) -> str:
    """'crosses', 'stars'."""
    if word.endswith(("s", "x", "sh", "ch")):
        return f"{word}es"
    if word.endswith("y") and word[-2] not in "aeo":
        return f"{word[:-1]}ies"
    return f"{word}s" if not word.endswith("plus sign") else "plus signs"


_BEFORE = (
    "please ", "hey, ", "hi, ", "hi! ", "hello, ", "ok, ", "okay, ", "so, ", "and ", "now ", "well, ", "tell me: ",
    "tell me, ", "can you tell me: ", "could you tell me, ", "quick question: ", "question: ", "i wonder, ", "um, ",
    "look at this. ", "please tell me: ", "i want to know: ",
    "i would like to know: ", "i'd like to know, ", "do you know: ", "can you say: ", "let me know: ", "sorry, ",
    "next: ",
    "here is a question. ", "be honest: ",
)  # fmt: skip
_AFTER = (" please", ", please", " thanks", ", thank you", " exactly", " here", " then", " now", ", do you know")


def capital_i(text: str, rng: Random) -> str:
    """'I' as most people write it, not 'i'."""
    return re.sub(r"\bi\b", "I", text) if rng.random() < 0.7 else text


def typed(text: str, rng: Random, *, statement: bool = False) -> str:
    """As somebody types it: with or without a capital, an end, a polite word."""
    chance = rng.random()
    if chance < 0.1:
        text = rng.choice(_BEFORE) + text
    elif chance < 0.13:
        text += rng.choice(_AFTER)
    elif chance < 0.15:
        text = rng.choice(_BEFORE) + text + rng.choice(_AFTER[:4])
    text = capital_i(text, rng)
    end = "." if statement else "?"
    chance = rng.random()
    text += end if chance < 0.78 else "" if chance < 0.95 else rng.choice(["!", " ?", "??", "...", "."])
    chance = rng.random()
    if chance < 0.8:
        text = text[0].upper() + text[1:]
    elif chance < 0.82:
        text = text.upper()
    return text


_SHORT = (("what is ", "whats "), ("what is ", "what "), (" are ", " r "), (" you ", " u "), ("please", "pls"),
          ("where is ", "wheres "), ("how many ", "how much "), (" the ", " "), (" is the ", " is "), ("picture",
           "pic"),
          ("what ", "wat "), ("which ", "wich "), (" there", ""))  # fmt: skip


def hasty(text: str, rng: Random) -> str:
    """As somebody types it who does not look: a letter is missing, twice there or in the wrong place, or words are."""
    if rng.random() < 0.4:
        whole, short = rng.choice(_SHORT)
        return text.replace(whole, short, 1)
    words = text.split(" ")
    long = [number for number, word in enumerate(words) if len(word) > 3 and word.isalpha() and word.islower()]
    if not long:
        return text
    number = rng.choice(long)
    word = words[number]
    at = rng.randrange(1, len(word) - 1)
    words[number] = word[:at] + rng.choice(
        [word[at + 1 :], word[at] + word[at:], word[at + 1] + word[at] + word[at + 2 :]]
    )
    return " ".join(words)


def ask(pattern: str, rng: Random, **slots: str) -> str:
    """A question from a pattern; one that ends in a full stop is a request."""
    statement = pattern.endswith(".")
    text = fill(pattern.rstrip("."), rng, **slots)
    return typed(hasty(text, rng) if rng.random() < 0.06 else text, rng, statement=statement)


def article(name: str) -> str:
    """'a red star', 'an orange cross'."""
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def listing(items: list[str]) -> str:
    """'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
