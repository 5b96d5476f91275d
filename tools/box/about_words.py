"""Questions about one word, a few words or a few numbers that stand in the question itself."""

from collections.abc import Callable
from random import Random

from tools.box.dialogues import Dialogue, Turn
from tools.box.lexicon import NAMES, NUMBER_WORDS, WORDS, word
from tools.box.wordings import ask, fill, listing, plural

# A question, its answer, and what is thought first.
Asked = tuple[str, str, str]
ABOUT_WORDS: dict[str, Callable[[Random], Asked]] = {}
_ORDINALS = ("first", "second", "third", "fourth", "fifth")


def about_words(function: Callable[[Random], Asked]) -> Callable[[Random], Asked]:
    """Register a question."""
    ABOUT_WORDS[function.__name__] = function
    return function


def said(form: str, rng: Random, *texts: str) -> str:
    """A question with texts in it that are not to be changed."""
    for number in range(len(texts)):
        form = form.replace(f"{{{number}}}", f"@{number}")
    asked = ask(form, rng)
    asked = asked.capitalize() if asked.isupper() else asked
    for number, text in enumerate(texts):
        asked = asked.replace(f"@{number}", text)
    return asked


def _quoted(text: str, rng: Random) -> str:
    return rng.choice(["{}", "{}", "the word {}", "'{}'", 'the word "{}"', '"{}"']).replace("{}", text)


@about_words
def letter_at(rng: Random) -> Asked:
    chosen = word(rng)
    ways = [("first", 0), ("first", 0), ("last", -1), ("last", -1), ("second", 1), ("third", 2)]
    name, at = rng.choice(ways[: 6 if len(chosen) > 2 else 4])
    form = rng.choice(["what is the {0} letter [of|in] {1}", "what's the {0} letter [of|in] {1}",
                       "the {0} letter of {1}",
                       "which letter [comes|is] {0} in {1}", "tell me the {0} letter of {1}.", "{0} letter of {1}",
                       "give me the {0} letter of {1}."])  # fmt: skip
    if at in (0, -1) and rng.random() < 0.3:
        verb = "[start|begin]" if at == 0 else "end"
        form = rng.choice([f"[what|which] letter does {{1}} {verb} with", f"with which letter does {{1}} {verb}"])
    return said(form, rng, name, _quoted(chosen, rng)), f"{chosen[at]}.", f"{'-'.join(chosen)}."


@about_words
def letter_count(rng: Random) -> Asked:
    chosen = word(rng)
    letter = rng.choice(chosen) if rng.random() < 0.85 else rng.choice("abcdefghijklmnoprstuvwy")
    if rng.random() < 0.4:
        form = rng.choice(["does {1} [have|contain] [a|the letter|an] {0}", "is there [a|the letter] {0} in {1}",
                           "is the letter {0} in {1}"])  # fmt: skip
        letter = letter if rng.random() < 0.5 else rng.choice("abcdefghijklmnoprstuvwy")
        right = letter in chosen
        return said(form, rng, letter, _quoted(chosen, rng)), "Yes." if right else "No.", f"{'-'.join(chosen)}."
    form = rng.choice(["how many {0}'s are [there |]in {1}", "how many {0}s are [there |]in {1}",
                       "how many times does the letter {0} appear in {1}", "how often does {0} occur in {1}",
                       "how many {0} are in {1}", "count the letter {0} in {1}.", "count the {0}'s in {1}.",
                       "how many times does {0} appear in {1}"])  # fmt: skip
    return said(form, rng, letter, _quoted(chosen, rng)), f"{chosen.count(letter)}.", f"{'-'.join(chosen)}."


@about_words
def backwards(rng: Random) -> Asked:
    chosen = word(rng)
    form = rng.choice(["spell {0} [backwards|backward|in reverse].", "how do you spell {0} backwards",
                       "can you spell {0} backwards", "what is {0} [spelled|spelt] backwards"])  # fmt: skip
    return said(form, rng, _quoted(chosen, rng)), f"{'-'.join(reversed(chosen))}.", f"{'-'.join(chosen)}."


@about_words
def capitals(rng: Random) -> Asked:
    text = " ".join(word(rng) for _ in range(rng.choice([1, 1, 1, 2, 3])))
    up = rng.random() < 0.6
    case = "[upper case|uppercase|capitals|capital letters|all caps]" if up else "[lower case|lowercase|small letters]"
    form = rng.choice([f"write {{0}} in {case}", f"[put|say|type|repeat] {{0}} in {case}", f"{{0}} in {case}",
                       f"turn {{0}} into {case}", f"[write|put] this in {case}: {{0}}",
                       f"in {case}: {{0}}"])  # fmt: skip
    given = text if up else text.upper()
    question = fill(form.replace("{0}", "@"), rng).replace("@", given)
    question = question[0].upper() + question[1:] if rng.random() < 0.7 else question
    return question + rng.choice(["", "", "."]), text.upper() if up else text.lower(), f"{'-'.join(text)}."


@about_words
def several_times(rng: Random) -> Asked:
    count = rng.randint(2, 5)
    text = word(rng) if rng.random() < 0.8 else str(rng.randrange(100))
    times = rng.choice(["twice" if count == 2 else f"{NUMBER_WORDS[count]} times", f"{count} times"])
    form = rng.choice(["say {0} {1}.", "repeat {0} {1}.", "write {0} {1}.", "[say|repeat|write] the word {0} {1}.",
                       "can you say {0} {1}", "{1}: {0}."])  # fmt: skip
    return said(form, rng, text, times), " ".join([text] * count), f"{count} times."


def _sentence(rng: Random) -> list[str]:
    return [word(rng) for _ in range(rng.randint(2, 6))]


@about_words
def word_at(rng: Random) -> Asked:
    words = _sentence(rng)
    text = rng.choice(["{}", "'{}'", '"{}"']).replace("{}", " ".join(words))
    if rng.random() < 0.4:
        form = rng.choice(["how many words [are in|are there in|has] {0}", "count the words[|:] {0}",
                           "how many words are in this sentence: {0}", "how many words: {0}"])  # fmt: skip
        return said(form, rng, text), f"{len(words)}.", f"{', '.join(words)}."
    at = rng.choice([0, len(words) - 1, rng.randrange(min(5, len(words)))])
    name = "last" if at == len(words) - 1 and rng.random() < 0.7 else _ORDINALS[min(at, 4)]
    at = at if name == "last" else min(at, 4)
    form = rng.choice(["what is the {1} word [in|of] {0}", "which word [is|comes] {1} in {0}", "the {1} word of {0}",
                       "what is the {1} word of this sentence: {0}", "tell me the {1} word: {0}"])  # fmt: skip
    return said(form, rng, text, name), f"{words[at]}.", f"{', '.join(words)}."


@about_words
def larger_number(rng: Random) -> Asked:
    most = rng.choice([10, 100, 100, 1000])
    one, other = rng.sample(range(most), 2)
    big = rng.random() < 0.65
    name = rng.choice(["larger", "bigger", "greater", "more"] if big else ["smaller", "less"])
    form = rng.choice(["which is {2}, {0} or {1}", "what is {2}: {0} or {1}", "which number is {2}, {0} or {1}",
                       "{0} or {1}, which is {2}", "is {0} or {1} {2}", "which is {2}: {0} or {1}"])  # fmt: skip
    if rng.random() < 0.3:
        name = "larger" if name == "more" else name
        right = (one > other) == big
        form = rng.choice(["is {0} {2} than {1}", "is the number {0} {2} than {1}"])
        return said(form, rng, str(one), str(other), name), "Yes." if right else "No.", f"{max(one, other)} is larger."
    found = max(one, other) if big else min(one, other)
    return said(form, rng, str(one), str(other), name), f"{found}.", f"{max(one, other)} is larger."


@about_words
def beside_number(rng: Random) -> Asked:
    number = rng.randint(1, rng.choice([10, 30, 100, 999]))
    up = rng.random() < 0.7
    form = rng.choice(["what [number |]comes after {0}", "which number [comes|is] after {0}",
                       "what is the next number after {0}",
                       "what is one more than {0}", "what follows {0}", "the number after {0}"]
                      if up else ["what [number |]comes before {0}", "which number [comes|is] before {0}",
                                  "what is one less than {0}", "the number before {0}"])  # fmt: skip
    return said(form, rng, str(number)), f"{number + (1 if up else -1)}.", f"{'After' if up else 'Before'} {number}."


@about_words
def even_or_odd(rng: Random) -> Asked:
    number = rng.randrange(rng.choice([10, 100, 1000]))
    odd = number % 2 == 1
    if rng.random() < 0.5:
        form = rng.choice(["is {0} [even or odd|odd or even]", "is the number {0} even or odd", "{0}: even or odd"])
        return said(form, rng, str(number)), "Odd." if odd else "Even.", f"It ends in {number % 10}."
    name = rng.choice(["even", "odd", "an even number", "an odd number"])
    return (said("is {0} {1}", rng, str(number), name), "Yes." if ("odd" in name) == odd else "No.",
            f"It ends in {number % 10}.")  # fmt: skip


@about_words
def number_in_words(rng: Random) -> Asked:
    number = rng.randrange(len(NUMBER_WORDS))
    if rng.random() < 0.6:
        form = rng.choice(["write {0} in words.", "[how do you write|what is] {0} in words", "write {0} as a word.",
                           "spell the number {0} in words.", "write the number {0} in words."])  # fmt: skip
        return said(form, rng, str(number)), f"{NUMBER_WORDS[number].capitalize()}.", f"The number is {number}."
    form = rng.choice(["write {0} [as a number|in digits].", "what is {0} [in digits|as a number]", "{0} in digits"])
    return said(form, rng, NUMBER_WORDS[number]), f"{number}.", f"The number is {number}."


@about_words
def next_in_row(rng: Random) -> Asked:
    step = rng.choice([1, 1, 2, 2, 5, 10, -1])
    first = rng.randint(0, 40) if step > 0 else rng.randint(6, 60)
    if step > 2:
        first = step * rng.randint(0, 6)
    numbers = [first + step * number for number in range(rng.choice([3, 3, 4]) + 1)]
    row = ", ".join(map(str, numbers[:-1]))
    form = rng.choice(["what comes next: {0}", "what is the next number: {0}", "continue: {0}",
                       "what number comes next: {0}",
                       "{0}, what comes next", "which number is next in {0}"])  # fmt: skip
    return said(form, rng, row), f"{numbers[-1]}.", f"The step is {step}."


@about_words
def story(rng: Random) -> Asked:
    """A sum as somebody has it in daily life."""
    things = plural(rng.choice(WORDS))
    most = rng.choice([6, 10, 20])
    one, other = rng.randint(1, most), rng.randint(1, most)
    more = rng.random() < 0.55
    if not more and one <= other:
        one, other = other + 1, one
    who = rng.choice(["i", "you", "we", "they", rng.choice(NAMES), rng.choice(NAMES)])
    has = "has" if who in NAMES else "have"
    s, asks = ("s", f"does {who} have") if who in NAMES else ("", f"do {who} have")
    verb = rng.choice(["get", "buy", "find"] if more else ["eat", "lose", "sell"])
    verb = f"{verb}{s}"
    tail = f"{other} more" if more else f"{other} of them"
    shown = who if who in NAMES else "@"
    form = rng.choice([f"if {shown} {has} {one} {things} and {verb} {tail}, how many {asks}",
                       f"{shown} {has} {one} {things} and {verb} {tail}. how many {things} {asks}",
                       f"{shown} {has} {one} {things}. {shown} {verb} {tail}. how many {asks} [now|left]"])  # fmt: skip
    form = form.replace("[now|left]", "now" if more else "left").replace(f"do {who} have", "do @ have")
    text = said(form.replace("@", who), rng) if who not in NAMES else said(form.replace(who, "{0}"), rng, who)
    return text, f"{one + other if more else one - other}.", f"{one} {'+' if more else '-'} {other}."


@about_words
def listed(rng: Random) -> Asked:
    """What stands in a list of a few: how many, the largest number, the longest word."""
    if rng.random() < 0.5:
        numbers = rng.sample(range(rng.choice([20, 100])), rng.choice([3, 3, 4]))
        big = rng.random() < 0.6
        form = rng.choice(["[which|what] is the {1}: {0}", "what is the {1} of {0}", "which number is the {1}: {0}",
                           "find the {1} number: {0}"])  # fmt: skip
        name = rng.choice(["largest", "biggest", "highest"] if big else ["smallest", "lowest"])
        found = max(numbers) if big else min(numbers)
        return said(form, rng, ", ".join(map(str, numbers)), name), f"{found}.", f"Of {len(numbers)} numbers."
    words = rng.sample(WORDS, rng.randint(2, 5))
    form = rng.choice(["how many things are in this list: {0}", "how many items: {0}", "count these: {0}",
                       "how many are these: {0}"])  # fmt: skip
    row = ", ".join(words) if rng.random() < 0.7 else listing(words)
    return said(form, rng, row), f"{len(words)}.", f"{len(words)} words."


def words(rng: Random) -> Dialogue:
    """One to three questions of these kinds."""
    names = rng.sample(list(ABOUT_WORDS), rng.choice([1, 1, 2, 3]))
    return Dialogue(tuple(Turn(name, *ABOUT_WORDS[name](rng)) for name in names))
