"""Plain facts that somebody tells and asks for later: a pet's name, a bag's colour, a code, where something is.

Their words are drawn from large lists, so that an answer has to be read from the conversation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tools.box.lexicon import NAMES, NUMBER_WORDS, PLACES, WORDS, word
from tools.box.palette import COLOURS
from tools.box.wordings import plural


@dataclass(frozen=True)
class Fact:
    """Something that may be told.

    Args:
        about: What it is about; {0} in both texts.
        told: How it is told; {1} is what is asked for later.
        asked: How it is asked for.
        value: Draws what is asked for.
        answer: What an answer makes of it; {a} is the value with its article.
        weight: How often it is drawn.
        exact: Whether the answer keeps its first letter small.
    """

    about: Callable[[Random], str]
    told: tuple[str, ...]
    asked: tuple[str, ...]
    value: Callable[[Random], str]
    answer: str = "{1}"
    weight: float = 1.0
    exact: bool = False


_LIKED = (
    "color", "colour", "food", "animal", "number", "sport", "song", "book", "film", "movie", "drink", "fruit", "season",
    "game", "band", "word", "shape", "flower", "teacher", "hobby", "day", "month", "toy", "vegetable", "tree", "bird",
    "place", "snack", "subject", "dish", "letter", "city", "car", "cake", "team",
)  # fmt: skip
_BEINGS = (
    "dog", "cat", "pet", "horse", "rabbit", "hamster", "parrot", "fish", "turtle", "sister", "brother", "mother",
    "father", "friend", "best friend", "teacher", "boss", "son", "daughter", "cousin", "uncle", "aunt", "neighbor",
    "neighbour", "wife", "husband", "doctor", "boat", "car", "robot", "doll", "bear", "school", "street", "village",
    "team", "band", "company", "kitten", "puppy", "bird", "goldfish", "grandmother", "baby", "colleague", "roommate",
)  # fmt: skip
_OWNED = (
    "bag", "car", "hat", "bike", "coat", "shirt", "house", "cup", "umbrella", "scarf", "phone", "notebook", "pen",
    "jacket", "backpack", "chair", "sofa", "door", "suitcase", "sweater", "dress", "lamp", "kite", "blanket", "tent",
    "wallet", "key", "book", "ball", "box", "guitar", "camera", "watch", "ring", "mug", "towel", "ticket", "toy",
)  # fmt: skip
_CODES = (
    "number", "code", "room number", "door code", "pin", "house number", "phone number", "locker number", "seat number",
    "lucky number", "flight number", "gate", "bus number", "order number", "ticket number", "page number", "score",
    "bill", "customer number", "apartment number", "shoe size",
)  # fmt: skip
_SECRETS = ("password", "secret word", "code word", "word", "magic word", "wifi password", "user name", "keyword")
_EVENTS = (
    "meeting", "birthday", "train", "flight", "exam", "party", "appointment", "lesson", "concert", "trip", "holiday",
    "test", "match", "bus", "class", "dinner", "interview", "wedding", "dentist appointment", "visit", "show",
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_CITIES = (
    "Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "London", "Berlin", "Madrid", "Vienna", "Boston",
    "Sydney", "Seoul", "Dublin", "Prague", "Lisbon", "Toronto", "Chicago", "Leeds", "Bristol", "Texas", "Ghent",
)  # fmt: skip
_JOBS = ("teacher", "baker", "doctor", "nurse", "farmer", "pilot", "driver", "painter", "cook", "writer", "singer",
         "lawyer", "plumber", "student", "gardener", "dentist", "builder", "waiter", "tailor", "judge")  # fmt: skip


def _one_of(*lists: Sequence[str]) -> Callable[[Random], str]:
    return lambda rng: rng.choice(rng.choice(lists))


def _name(rng: Random) -> str:
    return rng.choice(NAMES) if rng.random() < 0.6 else word(rng).capitalize()


def _digits(rng: Random) -> str:
    return "".join(rng.choice("0123456789") for _ in range(rng.choice([1, 2, 2, 3, 4, 4, 5, 6])))


def _clock(rng: Random) -> str:
    minutes, half = rng.choice(["00", "15", "30", "45", "05", "20", "50"]), rng.choice(["pm", "am"])
    return rng.choice([f"{rng.randint(1, 23)}:{minutes}", f"{rng.randint(1, 12)} {half}", "noon"])


def _few(rng: Random) -> str:
    return str(rng.randint(2, 40)) if rng.random() < 0.5 else rng.choice(NUMBER_WORDS[2:])


def _spot(rng: Random) -> str:
    return rng.choice(PLACES) if rng.random() < 0.5 else f"{rng.choice(['in', 'on', 'under'])} the {rng.choice(WORDS)}"


def _none(rng: Random) -> str:
    return ""


def _said_of(names: Sequence[str]) -> Callable[[Random], str]:
    return lambda rng: rng.choice(names) if rng.random() < 0.8 else rng.choice(WORDS)


_PLAIN = (
    Fact(_one_of(_LIKED), ("my favourite {0} is {1}", "my favorite {0} is {1}", "{1} is my favourite {0}",
                           "the {0} [that |]i like [best|most] is {1}"),
         ("what is my [favourite|favorite] {0}", "what's my [favourite|favorite] {0}", "my [favourite|favorite] {0}",
          "which {0} [do i like best|is my favourite]", "tell me my [favourite|favorite] {0}.",
          "do you [know|remember] my [favourite|favorite] {0}", "what did i say my [favourite|favorite] {0} [is|was]",
          "whats my [favourite|favorite] {0}", "what {0} do i like [best|most]", "and my [favourite|favorite] {0}"),
         lambda rng: rng.choice([rng.choice(COLOURS), word(rng), word(rng), rng.choice(WORDS)])),
    Fact(_one_of(_BEINGS), ("my {0} is [called|named] {1}", "my {0}'s name is {1}", "the name of my {0} is {1}",
                            "i have a {0} [called|named] {1}", "{1} is the name of my {0}"),
         ("what is my {0} called", "what is the name of my {0}", "what's my {0}'s name", "what is my {0}'s name",
          "[how|what] did i [name|call] my {0}", "do you [know|remember] my {0}'s name", "my {0}'s name",
          "tell me the name of my {0}.", "who is my {0}", "what's my {0} called", "whats my {0} called",
          "[what's|whats] the name of my {0}", "my {0} is called what", "and my {0}'s name", "which name has my {0}",
          "do you [know|remember] [what my {0} is called|the name of my {0}]"), _name),
    Fact(_said_of(_OWNED), ("my {0} is {1}", "the {0} is {1}", "i have {a} {0}", "i bought {a} {0}",
                            "the {color} of my {0} is {1}", "my new {0} is {1}"),
         ("what {color} is my {0}", "which {color} is my {0}", "what is the {color} of my {0}", "my {0}'s {color}",
          "what {color} [did i say|was] my {0}[| is]", "what {color} is the {0}", "tell me the {color} of my {0}."),
         _one_of(COLOURS)),
    Fact(_said_of(_OWNED), ("my {0} is {1}", "the {0} is {1}", "i [left|put|forgot] my {0} {1}", "i keep my {0} {1}",
                            "you can find the {0} {1}", "the {0} lies {1}"),
         ("where is my {0}", "where is the {0}", "where did i [put|leave] my {0}", "where can i find the {0}",
          "where's my {0}", "do you know where my {0} is", "tell me where the {0} is."), _spot),
    Fact(_one_of(_CODES), ("my {0} is {1}", "the {0} is {1}", "{1} is my {0}", "the {0}: {1}",
                          "remember the {0} {1}"),
         ("what is my {0}", "what is the {0}", "what was the {0}", "what's my {0}", "tell me the {0}.",
          "[what|which] {0} did i [tell you|say|give you|mention]", "[what|which] {0} should you remember",
          "do you [remember|know] [my|the] {0}", "the {0}", "what {0} do i have"),
         _digits),
    Fact(_one_of(_SECRETS), ("the {0} is {1}", "my {0} is {1}", "the {0}: {1}", "remember the {0} {1}"),
         ("what is the {0}", "what was the {0}", "what is my {0}", "tell me the {0}.",
          "[what|which] {0} did i [tell you|say|give you]", "which {0} [should|did] you remember",
          "do you [remember|know] the {0}", "say the {0}."), word, exact=True),
    Fact(_said_of(_EVENTS), ("my {0} is on {1}", "the {0} is on {1}", "i have a {0} on {1}", "our {0} is on {1}"),
         ("when is my {0}", "when is the {0}", "on [what|which] day is [my|the|our] {0}", "what day is my {0}",
          "when do i have the {0}", "[which|what] day is the {0}"), _one_of(_DAYS), "on {1}"),
    Fact(_said_of(_EVENTS), ("my {0} is at {1}", "the {0} [starts|begins|is] at {1}", "my {0} [leaves|starts] at {1}"),
         ("when is my {0}", "when does [my|the] {0} [start|begin]", "at what time is [my|the] {0}", "when is the {0}",
          "what time is my {0}", "when do i have to be at the {0}"), _clock, "at {1}"),
    Fact(_none, ("i am {1} years old", "i'm {1} years old", "i am {1}", "my age is {1}", "i turned {1} today"),
         ("how old am i", "what is my age", "what's my age", "tell me how old i am."), _few),
    Fact(_none, ("i live in {1}", "i moved to {1}", "my home is in {1}", "i live in {1} now"),
         ("where do i live", "in which [city|town] do i live", "where is my home", "[which|what] city do i live in"),
         lambda rng: rng.choice(_CITIES) if rng.random() < 0.5 else word(rng).capitalize(), "in {1}"),
    Fact(_none, ("i am from {1}", "i come from {1}", "i'm from {1}"),
         ("where am i from", "where do i come from", "do you know where i am from"),
         lambda rng: rng.choice(_CITIES) if rng.random() < 0.5 else word(rng).capitalize(), "from {1}"),
    Fact(lambda rng: plural(rng.choice(WORDS)), ("i have {1} {0}", "i own {1} {0}", "we have {1} {0}",
         "there are {1} {0} in my [room|house]", "i bought {1} {0}"),
         ("how many {0} do i have", "how many {0} are there", "how many {0} did i say", "the number of {0}",
          "do you remember how many {0} i have"), _few),
    Fact(_none, ("i like {1}", "i love {1}", "i really like {1}"),
         ("what do i [like|love]", "what did i say i like", "do you know what i like"),
         lambda rng: plural(rng.choice(WORDS)) if rng.random() < 0.4 else word(rng)),
    Fact(_none, ("i [work as|am] {a}", "i'm {a}", "i work now as {a}"),
         ("what is my job", "what do i do", "what do i work as", "what's my job"), _one_of(_JOBS), "{a}"),
    Fact(_name, ("{0} lives in {1}", "{0} is in {1}", "{0} went to {1}", "{0} is from {1}"),
         ("where does {0} live", "where is {0}", "where did {0} go", "in which city is {0}"),
         lambda rng: rng.choice(_CITIES) if rng.random() < 0.5 else word(rng).capitalize(), "in {1}"),
)  # fmt: skip
# Told, and as a question has it.
_DONE = (("bought", "buy"), ("found", "find"), ("lost", "lose"), ("sold", "sell"), ("ate", "eat"), ("saw", "see"),
         ("made", "make"), ("forgot", "forget"), ("painted", "paint"), ("got", "get"))  # fmt: skip
_DOES = (("likes", "like"), ("wants", "want"), ("has", "have"), ("eats", "eat"), ("brings", "bring"), ("needs", "need"),
         ("hates", "hate"), ("loves", "love"), ("collects", "collect"))  # fmt: skip
FACTS = (
    *_PLAIN,
    *(Fact(_none, (f"i {did} {{a}}", f"today i {did} {{a}}", f"yesterday i {did} {{a}}"),
           (f"what did i {do}", f"what did i say i {did}", f"do you remember what i {did}"), _one_of(WORDS),
           "{a}", 0.15)
      for did, do in _DONE),
    *(Fact(_name, (f"{{0}} {does} {{1}}",), (f"what does {{0}} {do}", f"tell me what {{0}} {does}."), word, "{1}", 0.2)
      for does, do in _DOES),
)  # fmt: skip
