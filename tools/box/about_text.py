"""Tasks without a picture: small talk, spelling, counting, copying, sums, remembering, words and numbers."""

from random import Random

from tools.box.about_chat import EXACTLY, exact_text, same_word, sums_in_a_row
from tools.box.about_facts import facts as facts_between
from tools.box.about_values import sentence
from tools.box.about_words import words
from tools.box.dialogues import Dialogue, Maker, Tasks, Turn
from tools.box.lexicon import NAMES, NUMBER_WORDS, word
from tools.box.off_topic import HONEST, off_topic_question
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS
from tools.box.talk import TALK
from tools.box.wordings import ask, fill, hasty, plural, typed

TASKS = Tasks()
# The same, many of them in one conversation.
LONG = Tasks()


def _single(task: str, question: str, answer: str, reasoning: str) -> Dialogue:
    return Dialogue((Turn(task, question, answer, reasoning),))


@TASKS.add("spell", 2.4)
def spell(rng: Random) -> Dialogue:
    """One to six words."""
    return Dialogue(tuple(_spelling(rng) for _ in range(rng.choice([1, 1, 2, 4, 6]))))


def _spelling(rng: Random) -> Turn:
    # What a picture shows is one token most often, whose letters have to be remembered.
    chosen = rng.choice((*SHAPES, *COLOURS)) if rng.random() < 0.15 else word(rng)
    form = rng.choice(["spell {0}.", "spell the word {0}.", "how do you spell {0}", "how is {0} [spelled|spelt]",
                       "[can|could] you spell {0}", "spell '{0}'.", "how [do i|to] spell {0}", "spelling of {0}",
                       "what is the spelling of {0}", "please spell [the word |]{0}.", "spell out {0}.",
                       "how do you spell [the word |]'{0}'", "spell: {0}", "spell [the word |]\"{0}\"."])  # fmt: skip
    return Turn("spell", _said(form, chosen, rng), f"{'-'.join(chosen)}.", f"The word is {chosen}.")


def _said(form: str, text: str, rng: Random) -> str:
    """A question with a text in it that is not to be changed."""
    asked = ask(form.replace("{0}", "@"), rng)
    return (asked if not asked.isupper() else asked.capitalize()).replace("@", text)


@TASKS.add("letters", 0.8)
def letters(rng: Random) -> Dialogue:
    chosen = word(rng)
    form = rng.choice(
        [
            "how many letters has {0}",
            "how many letters are [there |]in {0}",
            "how many letters does {0} have",
            "how many letters are in the word {0}",
            "count the letters in {0}.",
            "how long is the word {0}",
            "number of letters in {0}",
        ]
    )
    return _single("letters", _said(form, chosen, rng), f"{len(chosen)}.", f"The word is {'-'.join(chosen)}.")


@TASKS.add("count", 0.8)
def count(rng: Random) -> Dialogue:
    low = rng.choice([1, 1, 1, rng.randint(0, 12), rng.randint(0, 90)])
    high = low + rng.randint(2, 11)
    down = rng.random() < 0.12
    first, last = (high, low) if down else (low, high)
    form = rng.choice(
        [
            "count from {a} to {b}.",
            "please count from {a} to {b}.",
            "count {a} to {b}.",
            "can you count from {a} to {b}",
            "list the numbers from {a} to {b}.",
            "say the numbers {a} to {b}.",
            "count up from {a} to {b}.",
        ]
    )
    if down:
        form = rng.choice(
            ["count down from {a} to {b}.", "count from {a} down to {b}.", "count backwards from {a} to {b}."]
        )
        if low == 1 and rng.random() < 0.5:
            form = rng.choice(
                ["count [backwards|down] from {a}.", "count down from {a}[ to one|].", "countdown from {a}."]
            )
    elif low == 1 and rng.random() < 0.4:
        form = rng.choice(["count to {b}.", "can you count to {b}", "please count up to {b}."])
    numbers = ", ".join(str(number) for number in range(first, last + (-1 if down else 1), -1 if down else 1))
    return _single("count", ask(form, rng, a=str(first), b=str(last)), f"{numbers}.", f"From {first} to {last}.")


@TASKS.add("copy", 2.8)
def copy(rng: Random) -> Dialogue:
    if rng.random() < 0.2:
        items = exact_text(rng)
        return _single("copy", rng.choice(EXACTLY).replace("{}", items), items, "Every letter stays as it is.")
    chance = rng.random()
    size = rng.randint(1, 6)
    items = " ".join(
        word(rng) if rng.random() < 0.75 else str(rng.randrange(rng.choice([10, 100, 1000]))) for _ in range(size)
    )
    if chance < 0.25:
        items = items.capitalize() + rng.choice(["", ".", "!"])
    elif chance < 0.35:
        items = items.replace(" ", ", ")
    elif chance < 0.55:
        items = sentence(rng)
    if rng.random() < 0.2:
        form = rng.choice(["Say \"{}\".", "say '{}'", "Repeat \"{}\".", "Please say \"{}\".", "repeat '{}' please",
                           "Write \"{}\" again.", "Copy \"{}\".", "say \"{}\""])  # fmt: skip
        return _single("copy", form.format(items), items, "The text stands between the quotes.")
    form = rng.choice(["Repeat: {}", "Repeat after me: {}", "Say this again: {}", "Copy this: {}", "Please repeat: {}",
                       "repeat after me: {}", "Say: {}", "Repeat this: {}", "Write this again: {}", "Echo: {}",
                       "Please say: {}", "Copy: {}", "Repeat exactly: {}", "Repeat the following: {}"])  # fmt: skip
    return _single("copy", form.format(items), items, "The text comes after the colon.")


@TASKS.add("add", 5.0)
def add(rng: Random) -> Dialogue:
    return Dialogue(tuple(_sum(rng) for _ in range(rng.choice([1, 2, 4, 6]))))


def _sum(rng: Random) -> Turn:
    most = rng.choice([10, 10, 21, 100, 100])
    one, other = rng.randrange(most), rng.randrange(most if rng.random() < 0.7 else 10)
    if rng.random() < 0.6:
        signs, result, sign = ["+", "+", "plus", "and", "added to"], one + other, "+"
    else:
        one, other = max(one, other), min(one, other)
        signs, result, sign = ["-", "-", "minus", "less", "take away"], one - other, "-"
    word_ = rng.choice(signs)
    forms = [
        "what is {}",
        "what's {}",
        "how much is {}",
        "{}",
        "{} =",
        "{} equals",
        "calculate {}.",
        "what does {} make",
        "compute {}.",
        "{} is what",
        "can you add {}" if sign == "+" else "work out {}.",
        "solve {}.",
        "{} = ?",
        "what do you get for {}",
        "tell me what {} is.",
        "whats {}",
        "work out {}.",
        "what do i get if i work out {}",
        "please work out {}.",
        "{}, what is that",
        "the answer to {}",
    ]
    form = rng.choice(forms[:5] if rng.random() < 0.5 else forms)
    first, second = str(one), str(other)
    if rng.random() < 0.12:
        question = _story(first, second, sign, rng)
        return Turn("add", question, f"{result}.", f"{one} {sign} {other}.")
    if max(one, other) <= 20 and rng.random() < 0.25:
        first, second = NUMBER_WORDS[one], NUMBER_WORDS[other]
    text = f"{first} {word_} {second}"
    if word_ in "+-" and rng.random() < 0.3:
        text = text.replace(" ", "")
    if word_ == "and":
        form, text = (
            rng.choice(["what is the sum of {}", "add {}.", "the sum of {}", "sum {}."]),
            f"{first} and {second}",
        )
    elif word_ == "less":
        form, text = rng.choice(
            [
                ("what is the difference of {}", f"{first} and {second}"),
                ("subtract {}.", f"{second} from {first}"),
                ("what is {}", f"{first} less {second}"),
                ("take {}.", f"{second} from {first}"),
                ("what do [i|you] get if [i|you] take {}", f"{second} from {first}"),
                ("what is left if you take {}", f"{second} from {first}"),
                ("what remains of {}", f"{first} less {second}"),
            ]
        )
        form = fill(form.replace("{}", "@"), rng).replace("@", "{}") + ("." if form.endswith(".") else "")
        form = form.replace("..", ".")  # fmt: skip
    elif word_ == "added to":
        form, text = rng.choice([("add {}.", f"{first} to {second}"), ("what is {}", f"{first} added to {second}")])
    question = form.replace("{}", text)
    if form in ("{} =", "{} = ?"):
        return Turn("add", question, f"{result}.", f"{one} {sign} {other}.")
    return Turn(
        "add",
        typed(question.rstrip("."), rng, statement=question.endswith(".")),
        f"{result}.",
        f"{one} {sign} {other}.",
    )


def _story(first: str, second: str, sign: str, rng: Random) -> str:
    """A sum in words: something is there, and some of it comes or goes."""
    things = plural(word(rng))
    if sign == "+":
        form = rng.choice([
            "if i have {a} {w} and [get|buy|find|add] {b} more, how many [do i have|are there]",
            "i have {a} {w} and get {b} more, how many {w} do i have [now|]",
            "{n} has {a} {w} and [gets|buys|finds] {b}, how many [in all|does that make|is that]",
            "there are {a} {w} here and {b} there, how many are there [in total|altogether]",
        ])  # fmt: skip
    else:
        form = rng.choice([
            "if i have {a} {w} and [eat|lose|sell|give away|take away|use] {b}, how many are left",
            "i have {a} {w} and [eat|lose|sell|give away] {b}, how many do i [still |]have [left|]",
            "{n} has {a} {w} and [loses|sells|gives away] {b}, how many [are left|remain]",
            "there are {a} {w} and {b} [go|are taken] away, how many [are left|remain|stay]",
        ])  # fmt: skip
    return ask(form, rng, a=first, b=second, w=things, n=rng.choice(NAMES))


@TASKS.add("talk", 2.5)
def talk(rng: Random) -> Dialogue:
    return Dialogue((_talk(rng, rng.choice(TALK)),))


def _talk(rng: Random, about: tuple[str, tuple[str, ...], str, str]) -> Turn:
    task, questions, answer, reasoning = about
    form = rng.choice(questions)
    text = fill(form.rstrip("."), rng)
    if rng.random() < 0.2:
        text = (
            f"{rng.choice(['right, ', 'ok ', 'hey ', 'well, ', 'oh, ', 'alright, ', 'so ', 'hm, '])}{hasty(text, rng)}"
        )
    statement = form.endswith(".") or task in ("greet", "thanks", "bye")
    return Turn("talk", typed(text, rng, statement=statement), answer, reasoning)


def parting(rng: Random) -> Dialogue:
    """What people say behind an answer: thanks, a farewell, or how are you; thanks and a farewell at times."""
    kinds = {kind[0]: kind for kind in TALK}
    names = rng.choices(["thanks", "bye", "how", "self", "able", "greet"], [5, 4, 3, 1, 1, 1])
    if names == ["thanks"] and rng.random() < 0.25:
        names.append("bye")
    return Dialogue(tuple(_talk(rng, kinds[name]) for name in names))


@TASKS.add("off topic", 4.0)
def off_topic(rng: Random) -> Dialogue:
    question = off_topic_question(rng)
    return _single("off topic", question, HONEST, "I do not know about that.")


def off_topic_with_picture(rng: Random) -> Dialogue:
    """Behind a picture, and mostly about it."""
    return _single("off topic", off_topic_question(rng, with_picture=True), HONEST, "I do not know about that.")


@TASKS.add("remember", 1.0)
def remember(rng: Random) -> Dialogue:
    name = rng.choice(NAMES) if rng.random() < 0.6 else word(rng).capitalize()
    opening = rng.choice(
        [
            "My name is {}.",
            "I am {}.",
            "Call me {}.",
            "my name is {}",
            "Hi, I am {}.",
            "Hello, my name is {}.",
            "I'm {}.",
            "Hello, I'm {}!",
            "You can call me {}.",
            "hi, i'm {}",
            "This is {}.",
        ]
    )
    said = name
    if rng.random() < 0.15:
        # Without the capital that the answer gives back.
        said = name.lower()
        opening = rng.choice(["hi im {}", "im {}", "i'm {}", "my name is {}", "i am {}", "hey, im {}", "call me {} ok"])
    first = Turn("talk", opening.format(said), f"Hello, {name}!", "A greeting.")
    question = ask(
        rng.choice(
            [
                "what is my name",
                "who am i",
                "what's my name",
                "do you [know|remember] my name",
                "what am i called",
                "tell me my name.",
                "say my name.",
                "can you tell me my name",
                "how am i called",
            ]
        ),
        rng,
    )
    last = Turn("remember", question, f"Your name is {name}.", f"It is {name}.")
    makers = [add, spell, count, letters, off_topic, copy, words]
    between = [turn for _ in range(rng.choice([0, 0, 1, 1, 2, 3])) for turn in rng.choice(makers)(rng).turns[:2]]
    return Dialogue((first, *between, last))


@TASKS.add("facts", 2.7)
def facts(rng: Random) -> Dialogue:
    """Told, and asked for later."""
    return facts_between(rng, (talk, talk, talk, add, spell, count, letters, copy, off_topic))


TASKS.add("words", 1.7)(words)
TASKS.add("same word", 1.1)(same_word)
TASKS.add("sums in a row", 1.1)(sums_in_a_row)


@TASKS.add("parting", 1.2)
def talk_behind(rng: Random) -> Dialogue:
    """Small talk behind anything else, which it is no part of; and at times the conversation goes on."""
    makers: list[Maker] = [
        add, spell, letters, count, copy, remember, facts, words, off_topic, sums_in_a_row, same_word,
    ]  # fmt: skip
    turns: list[Turn] = []
    for _ in range(rng.choice([1, 1, 2])):
        # The first ones: later ones may leave out what these say.
        turns += [*rng.choice(makers)(rng).turns[:4], *parting(rng).turns]
    return Dialogue(tuple(turns))


def mixed(rng: Random) -> Dialogue:
    """Two or three unrelated questions in one conversation."""
    makers: list[Maker] = [spell, letters, count, copy, add, talk, off_topic, words, facts]
    return Dialogue(tuple(turn for maker in rng.sample(makers, rng.choice([2, 3])) for turn in maker(rng).turns))


TASKS.add("mixed", 2.0)(mixed)


@LONG.add("long", 1.0)
def long(rng: Random) -> Dialogue:
    """2 to 32 dialogues one behind the other, as often up to 8 as more."""
    return Dialogue(tuple(turn for _ in range(round(2 ** rng.uniform(1, 5))) for turn in TASKS.draw(rng).turns))
