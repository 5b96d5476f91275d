"""Text as a conversation goes on: one word asked about again, sums that follow each other, and texts of any letters."""

from random import Random

from tools.box.about_words import said
from tools.box.dialogues import Dialogue, Turn
from tools.box.lexicon import NUMBER_WORDS, word

_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# Of a word: how it is asked for, and how it is where the word was there before.
_OF_A_WORD = {
    "spell": (
        ("spell {0}.", "how do you spell {0}", "[can|could] you spell {0}", "spell the word {0}.", "spell {0} for me."),
        ("spell it.", "how [do you spell|is] it[| spelled| spelt]", "and how do you spell it", "[now|and] spell it.",
         "can you spell [it|that]", "how is it [spelled|spelt]", "spell that."),
    ),
    "letters": (
        ("how many letters are in {0}", "how many letters [has {0}|does {0} have]", "count the letters in {0}.",
         "how many letters does the word {0} have", "how long is the word {0}", "{0} has how many letters",
         "number of letters in {0}", "how many letters [are there |]in {0}"),
        ("how many letters is that", "how many letters are [there|that|in it|in that]",
         "and how many letters [is that|]",
         "how many letters [has it|does it have|does that have]", "how long is [it|that|the word]", "how many letters",
         "so how many letters", "[count|and count] the letters.", "that's how many letters", "number of letters"),
    ),
    "backwards": (
        ("spell {0} [backwards|backward|in reverse|from back to front].", "[can|could] you spell {0} backwards",
         "how do you spell {0} [backwards|in reverse]", "spell the word {0} [backwards|in reverse].",
         "{0} spelled backwards", "backwards, how is {0} spelt", "spell {0}, but backwards.",
         "what is {0} [spelled|spelt] backwards", "{0} [spelt|letter by letter] backwards"),
        ("and backwards", "[now|and] [backwards|in reverse].", "[now |]spell it [backwards|in reverse].", "backwards",
         "and [spelled|spelt] backwards", "and the other way [round|around]", "can you spell it backwards",
         "and from back to front", "how do you spell [it|that] backwards", "what about backwards"),
    ),
    "first letter": (
        ("what is the first letter of {0}", "which letter does {0} start with", "first letter of {0}"),
        ("and the first letter", "what is its first letter", "[what|which] letter does it [start|begin] with"),
    ),
    "last letter": (
        ("what is the last letter of {0}", "which letter does {0} end with", "last letter of {0}"),
        ("and the last letter", "what is its last letter", "[what|which] letter does it end with", "and the last one"),
    ),
}  # fmt: skip
_ANOTHER = ("and {0}", "what about {0}", "how about {0}", "and the word {0}", "now {0}", "the same for {0}", "{0}")


def _of_word(key: str, chosen: str) -> str:
    """The answer."""
    return {
        "spell": "-".join(chosen), "letters": str(len(chosen)), "backwards": "-".join(reversed(chosen)),
        "first letter": chosen[0], "last letter": chosen[-1],
    }[key] + "."  # fmt: skip


def same_word(rng: Random) -> Dialogue:
    """One word, asked about in one to four ways, and at times another word in the same way."""
    chosen = word(rng)
    keys = list(dict.fromkeys(rng.choices(list(_OF_A_WORD), [2, 2, 3, 1, 1], k=rng.choice([1, 2, 3, 4]))))
    turns: list[Turn] = []
    for number, key in enumerate(keys):
        forms = [form for form in _OF_A_WORD[key][min(number, 1)] if number < 2 or "the last one" not in form]
        task = key if key in ("spell", "letters", "backwards") else "letter_at"
        turns.append(Turn(task, said(rng.choice(forms), rng, chosen), _of_word(key, chosen), f"{'-'.join(chosen)}."))
        if rng.random() < 0.25:
            chosen = word(rng)
            question = said(rng.choice(_ANOTHER), rng, chosen)
            turns.append(Turn(task, question, _of_word(key, chosen), f"{'-'.join(chosen)}."))
    return Dialogue(tuple(turns))


def in_words(number: int) -> str:
    """'forty-two', up to a hundred."""
    if number < len(NUMBER_WORDS):
        return NUMBER_WORDS[number]
    tens, ones = divmod(number, 10)
    return f"{_TENS[tens]}-{NUMBER_WORDS[ones]}" if ones else _TENS[tens]


_SUMS = {
    "+": ("what is {0} plus {1}", "{0} plus {1}", "add {0} and {1}.", "if i add {0} and {1}, what do i get",
          "[what|how much] is {0} and {1}", "what do i get if i add {0} and {1}", "how much is {0} plus {1}",
          "what do you get when you add {0} to {1}", "{0} and {1} [makes|make|is|are] what", "the sum of {0} and {1}",
          "if you [add|put together] {0} and {1}, [how much|what] is [it|that]",
          "what does {0} plus {1} [make|come to]",
          "i add {0} to {1}. what do i get", "{0} added to {1} is what"),
    "-": ("what is {0} minus {1}", "{0} minus {1}", "take {1} from {0}.",
          "if i take {1} from {0}, what [is left|do i get]",
          "how much is {0} minus {1}", "what do i get if i take {1} [away |]from {0}", "{0} take away {1}",
          "what is left of {0} [if|when] i take away {1}", "subtract {1} from {0}.", "what is {0} less {1}",
          "if you subtract {1} from {0}, what [is it|do you get]", "{0} less {1} is what"),
}  # fmt: skip
_NEXT_SUMS = {
    "+": ("and {0} plus {1}", "what about {0} plus {1}", "and {0} and {1}", "now {0} plus {1}",
          "and if i add {0} and {1}",
          "how about {0} plus {1}", "{0} plus {1}", "and what is {0} plus {1}", "ok, and {0} plus {1}"),
    "-": ("and {0} minus {1}", "what about {0} minus {1}", "and {0} take away {1}", "now {0} minus {1}",
          "and if i take {1} from {0}", "how about {0} minus {1}", "{0} minus {1}", "and what is {0} minus {1}"),
}  # fmt: skip
_ON_THE_RESULT = {
    "+": ("plus {1}", "and plus {1}", "[now |]add {1}[| to that| to it| more].", "and {1} more",
          "and if i add {1} more",
          "plus another {1}", "and with {1} more", "what if i add {1} [to that|more]"),
    "-": ("minus {1}", "and minus {1}", "[now |]take [away {1}|{1} away|{1} from that].", "and {1} less",
          "and if i take {1} away", "and without {1} of [them|these]", "[now |]subtract {1}[| from that]."),
}  # fmt: skip


def sums_in_a_row(rng: Random) -> Dialogue:
    """A sum, in words more often than not, and others in fewer words: anew, or on what the last one came to."""
    most = rng.choice([10, 21, 21, 60, 100])
    say = in_words if rng.random() < 0.6 else str
    result: int | None = None
    turns = []
    for _ in range(rng.choice([1, 2, 2, 3, 4])):
        sign = rng.choice("++-")
        forms = _SUMS if result is None else _NEXT_SUMS
        one, other = rng.randrange(most), rng.randrange(most)
        if result is not None and rng.random() < 0.35:
            forms, one, other = _ON_THE_RESULT, result, rng.randint(1, 20)
            sign = sign if result >= other else "+"
        elif sign == "-":
            one, other = max(one, other), min(one, other)
        # Only what a form says has to be small enough for words.
        texts = ("" if forms is _ON_THE_RESULT else say(one), say(other))
        result = one + other if sign == "+" else one - other
        question = said(rng.choice(forms[sign]), rng, *texts)
        turns.append(Turn("add", question, f"{result}.", f"{one} {sign} {other}."))
    return Dialogue(tuple(turns))


def exact_text(rng: Random) -> str:
    """Words, capitals and digits in any mixture: nothing of it can be guessed."""

    def one() -> str:
        chance = rng.random()
        text = word(rng)
        if chance < 0.3:
            return text
        if chance < 0.5:
            return text.upper()
        if chance < 0.65:
            return text.capitalize()
        if chance < 0.75:
            return text + rng.choice([str(rng.randrange(100)), word(rng).capitalize(), f"_{word(rng)}"])
        if chance < 0.9:
            return str(rng.randrange(rng.choice([10, 100, 1000, 10000])))
        code = "".join(rng.choice("ABCDEFGHKLMNPRSTXYZ") for _ in range(rng.randint(1, 3)))
        return code + rng.choice(["", "-"]) + str(rng.randrange(100))

    return " ".join(one() for _ in range(rng.randint(1, 6))) + rng.choice(["", "", "", "!", "."])


EXACTLY = (
    "Copy this exactly: {}", "copy exactly: {}", "Repeat exactly: {}", "Repeat this exactly: {}",
    "Write exactly this: {}", "Say exactly this: {}", "Repeat word for word: {}", "Type this exactly as it is: {}",
    "Please copy this exactly: {}", "Copy the following exactly: {}", "exactly as it stands: {}",
    "Repeat letter for letter: {}", "Can you copy this exactly? {}", "please repeat this exactly: {}",
    "Copy it exactly: {}", 'Copy this exactly: "{}"', "repeat exactly what i write: {}",
    "Give me back exactly this: {}",
)  # fmt: skip
