"""Conversations with functions of all shapes, which have to be read from their descriptions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from tools.box.about_text import TASKS as TEXT_TASKS
from tools.box.about_values import KINDS
from tools.box.dialogues import Dialogue, Tasks, Turn
from tools.box.functions import ASKING, NOUNS, PARAMETERS, VERBS, Parameter, decimal, whole
from tools.box.off_topic import HONEST
from tools.box.wordings import article, fill, plural, typed

TASKS = Tasks()


@dataclass(frozen=True)
class Asked:
    """A request for a function.

    Args:
        request: In words.
        arguments: What it gives.
        result: What the function returns.
        answer: What is said on that.
    """

    request: str
    arguments: dict[str, Any]
    result: str
    answer: str


@dataclass(frozen=True)
class Function:
    """A function that may be asked for.

    Args:
        described: In OpenAI's form.
        ask: Gives a request.
        meanings: What it is for, in all the words that a request may use.
    """

    described: dict[str, Any]
    ask: Callable[[Random], Asked]
    meanings: frozenset[str]

    @property
    def name(self) -> str:
        """By which it is called."""
        return str(self.described["function"]["name"])

    def turns(self, rng: Random) -> tuple[Turn, Turn]:
        """A request with the call that it is for, and the answer on what that returned."""
        asked = self.ask(rng)
        call = {"name": self.name, "arguments": asked.arguments}
        return (
            Turn("tool_call", _typed(asked.request, rng), "", f"The function {self.name} does this.",
                 tool_calls=(call,), tool_results=(asked.result,)),
            Turn("tool_answer", "", asked.answer, "The function gave its result."),
        )  # fmt: skip


def _joined(words: Sequence[str], rng: Random) -> str:
    """'create_event', 'createEvent', 'create-event'."""
    chance = rng.random()
    if chance < 0.15:
        return words[0] + "".join(word.capitalize() for word in words[1:])
    return ("-" if chance < 0.2 else "_").join(words)


def _described(
    name: str, about: str, parameters: Sequence[tuple[str, dict[str, Any], str]], optional: Sequence[str], rng: Random
) -> dict[str, Any]:
    """A function in OpenAI's form; parameters are names, schemas and descriptions."""
    explained = rng.random() < 0.6
    properties = {
        parameter: {**schema, "description": text} if text and explained else dict(schema)
        for parameter, schema, text in parameters
    }
    inner: dict[str, Any] = {"type": "object", "properties": properties}
    required = [parameter for parameter, _, _ in parameters if parameter not in optional]
    if required or rng.random() < 0.5:
        inner["required"] = required
    function: dict[str, Any] = {"name": name, "description": about}
    if parameters or rng.random() < 0.8:
        function["parameters"] = inner
    return {"type": "function", "function": function}


def _chosen(rng: Random) -> list[tuple[str, Parameter]]:
    """Parameters of different kinds and names."""
    found: dict[str, Parameter] = {}
    for parameter in rng.sample(PARAMETERS, rng.choice([0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5])):
        found.setdefault(rng.choice(parameter.names), parameter)
    return list(found.items())


def anything(rng: Random, noun: str = "") -> Function:
    """A verb and a noun, with parameters in any order."""
    verb, noun = rng.choice(list(VERBS)), noun or rng.choice(NOUNS)
    chosen = _chosen(rng)
    optional = [name for name, _ in chosen if rng.random() < 0.2]
    named = [_joined([verb, noun], rng)] * 4 + [_joined([noun, verb], rng), _joined([verb, "the", noun], rng)]
    about = rng.choice(
        [
            f"{verb} {article(noun)}.",
            f"{verb} {article(noun)}.",
            f"use this to {verb} {plural(noun)}.",
            f"lets the user {verb} {article(noun)}.",
            f"{rng.choice(VERBS[verb])} {article(noun)}.",
        ]
    )
    if verb in ASKING and rng.random() < 0.2:
        about = f"returns {rng.choice([article(noun), f'the {noun}'])}."
    described = [(name, parameter.schema, _explained(name, parameter, rng)) for name, parameter in chosen]
    function = _described(rng.choice(named), about[0].upper() + about[1:], described, optional, rng)
    meanings = {f"{said} {noun}" for said in VERBS[verb]} | ({noun} if verb in ASKING else set())
    return Function(function, partial(_request, verb, noun, chosen, optional), frozenset(meanings))


def _explained(name: str, parameter: Parameter, rng: Random) -> str:
    """A parameter's description, with an example at times, which is not what a request asks for."""
    about = rng.choice([parameter.about, parameter.about, f"The {name.replace('_', ' ')}.", ""])
    return f"{about} e.g. {parameter.draw(rng)[1]}".strip() if rng.random() < 0.25 else about


def _request(
    verb: str, noun: str, chosen: Sequence[tuple[str, Parameter]], optional: Sequence[str], rng: Random
) -> Asked:
    """What the function does and its parameters, in any order; some that are not required are left out."""
    arguments, phrases = {}, []
    for name, parameter in chosen:
        if name in optional and rng.random() < 0.5:
            continue
        arguments[name], said = parameter.draw(rng)
        phrases.append(rng.choice(parameter.phrases).replace("{name}", name.replace("_", " ")).replace("{}", said))
    rng.shuffle(phrases)
    wish = rng.choice(["", "", "", "[can|could|would] you ", "please ", "i want to ", "i would like to ", "i need to ",
                       "let's ", "help me to ", "go and "])  # fmt: skip
    opening = fill(f"{wish}{rng.choice(VERBS[verb])} {rng.choice([article(noun), f'the {noun}', f'my {noun}'])}", rng)
    if verb in ASKING and rng.random() < 0.3:
        opening = rng.choice([f"what is the {noun}", f"is there {article(noun)}", f"which {plural(noun)} are there",
                              f"do we have {article(noun)}", f"what about the {noun}"])  # fmt: skip
    chance = rng.random()
    request = " ".join([opening, *phrases])
    if phrases and chance < 0.1:
        request = f"{phrases[0]}, {' '.join([opening, *phrases[1:]])}"
    elif len(phrases) > 1 and chance < 0.25:
        request = f"{opening} {', '.join(phrases)}"
    return Asked(request, arguments, *_outcome(rng))


def _outcome(rng: Random) -> tuple[str, str]:
    """What a function returns, and what is said on that."""
    result = rng.choice(["done", "ok", str(whole(rng))])
    return result, f"The result is {result}." if result.isdigit() else "Done."


# Names, what is done, how somebody asks for it, and how the answer calls it.
_ARITHMETIC: tuple[tuple[tuple[str, ...], str, tuple[str, ...], str], ...] = (
    (("add", "sum", "plus", "add_numbers", "addition"), "Add two numbers.",
     ("what is {0} plus {1}", "add {0} and {1}.", "add {0} to {1}.", "{0} + {1}", "what is the sum of {0} and {1}",
      "how much is {0} and {1}"), "plus"),
    (("subtract", "minus", "difference", "subtract_numbers"), "Subtract the second number from the first.",
     ("what is {0} minus {1}", "{0} - {1}", "subtract {1} from {0}.", "take {1} away from {0}."), "minus"),
    (("multiply", "times", "product", "mul"), "Multiply two numbers.",
     ("what is {0} times {1}", "multiply {0} by {1}.", "{0} x {1}", "{0} * {1}"), "times"),
    (("divide", "quotient", "div", "division"), "Divide the first number by the second.",
     ("what is {0} divided by {1}", "divide {0} by {1}.", "{0} / {1}", "how often does {1} go into {0}"), "divided by"),
    (("power", "pow", "raise"), "Raise a number to a power.",
     ("what is {0} to the power of {1}", "raise {0} to the power {1}.", "{0} ^ {1}"), "to the power of"),
    (("remainder", "modulo", "mod"), "The remainder of a division.",
     ("what is {0} modulo {1}", "the remainder of {0} divided by {1}", "{0} mod {1}"), "modulo"),
)  # fmt: skip
_PAIRS = (("a", "b"), ("x", "y"), ("first", "second"), ("left", "right"), ("num1", "num2"), ("n", "m"))


def arithmetic(rng: Random) -> Function:
    """With two numbers. What they give is the function's business: any number will do for its result."""
    names, about, requests, said = rng.choice(_ARITHMETIC)
    kind = rng.choice(["integer", "integer", "number"])
    first, second = rng.choice(_PAIRS)

    def ask(rng: Random) -> Asked:
        one, other = (decimal(rng) if kind == "number" and rng.random() < 0.6 else whole(rng) for _ in range(2))
        request = rng.choice(requests).replace("{0}", str(one)).replace("{1}", str(other))
        result = str(whole(rng))
        return Asked(request, {first: one, second: other}, result, f"{one} {said} {other} is {result}.")

    described = [(first, {"type": kind}, "The first number."), (second, {"type": kind}, "The second number.")]
    return Function(_described(rng.choice(names), about, described, (), rng), ask, frozenset([about]))


# Names, what it does, and requests, for functions that need nothing to be told.
_BARE: tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...] = (
    (("get_time", "now", "current_time", "clock"), "The time now.", ("what time is it", "tell me the time.")),
    (("get_date", "today", "current_date"), "The date of today.", ("what is the date", "which day is it today")),
    (("roll_dice", "roll", "dice"), "Roll a die.", ("roll a die.", "throw the dice.", "roll the dice for me.")),
    (("flip_coin", "coin", "toss"), "Flip a coin.", ("flip a coin.", "heads or tails", "toss a coin.")),
    (("take_photo", "snapshot", "camera"), "Take a photo.", ("take a photo.", "take a picture of me.")),
    (("get_battery", "battery_level"), "How full the battery is.", ("how full is the battery", "check the battery.")),
    (("list_files", "files", "dir"), "List all files.", ("list my files.", "which files are there", "show all files.")),
    (("get_news", "headlines"), "The news of the day.", ("what is the news today", "show me the headlines.")),
    (("tell_joke", "random_joke"), "A joke.", ("tell me a joke.", "make me laugh.", "i want to hear a joke.")),
    (("lock_doors", "lock_all"), "Lock all doors.", ("lock the doors.", "lock everything.")),
)  # fmt: skip


def bare(rng: Random) -> Function:
    """Without parameters."""
    names, about, requests = rng.choice(_BARE)
    function = _described(rng.choice(names), about, (), (), rng)
    return Function(function, lambda rng: Asked(rng.choice(requests), {}, *_outcome(rng)), frozenset([about]))


def direct(rng: Random) -> Function:
    """One that is asked for by what it takes."""
    kind = rng.choice(KINDS)
    verb, noun = rng.choice(kind.verbs), rng.choice(kind.nouns)
    named = kind.named(rng)

    def ask(rng: Random) -> Asked:
        request, values = kind.request(verb, rng)
        return Asked(request, {named[key]: value for key, value in values.items()}, *_outcome(rng))

    name = rng.choice([_joined([*verb.split("_"), noun], rng)] * 4 + [_joined([noun, *verb.split("_")], rng), verb])
    about = f"{verb.replace('_', ' ').capitalize()} {rng.choice([article(noun), f'the {noun}', plural(noun)])}."
    meanings = {f"{verb} {noun}", " ".join(kind.nouns)}
    return Function(_described(name, about, kind.described(named, rng), (), rng), ask, frozenset(meanings))


def any_function(rng: Random) -> Function:
    """One of any shape."""
    return rng.choices([anything, arithmetic, bare, direct], [6.0, 1.6, 0.7, 3.5])[0](rng)


def several_functions(count: int, rng: Random) -> list[Function]:
    """Of different names, that no request could mean two of."""
    found: dict[str, Function] = {}
    noun = rng.choice(NOUNS) if rng.random() < 0.2 else ""
    while len(found) < count:
        function = anything(rng, noun) if noun else any_function(rng)
        if not any(function.meanings & other.meanings for other in found.values()):
            found.setdefault(function.name, function)
    return list(found.values())


def _typed(request: str, rng: Random) -> str:
    """As somebody types it, the values left as they are."""
    statement = request.endswith(".") or request.split()[0] not in (
        "what",
        "which",
        "how",
        "can",
        "could",
        "would",
        "is",
        "do",
    )
    text = typed(request.rstrip("."), rng, statement=statement)
    if text.isupper():
        return request
    # Before a polite word a value could not be read off.
    polite = not text.rstrip(".?! ").lower().endswith(request.rstrip(".")[1:].lower())
    return request if polite else text


def single(rng: Random) -> Dialogue:
    """A request that one of one to four functions serves."""
    functions = several_functions(rng.choice([1, 1, 1, 2, 2, 3, 4]), rng)
    return Dialogue(rng.choice(functions).turns(rng)[:1], tools=tuple(function.described for function in functions))


@TASKS.add("any call", 1.0)
def any_call(rng: Random) -> Dialogue:
    """One to four requests, each with what the function returned and an answer on that, except perhaps the last."""
    functions = several_functions(rng.choice([1, 1, 1, 2, 2, 3, 4]), rng)
    turns = [turn for _ in range(rng.choice([1, 2, 3, 4])) for turn in rng.choice(functions).turns(rng)]
    turns = turns[:-1] if rng.random() < 0.7 else turns
    return Dialogue(tuple(turns), tools=tuple(function.described for function in functions))


@TASKS.add("no function", 0.35)
def no_function(rng: Random) -> Dialogue:
    """Functions are there, but none that serves: one sentence says so, and what needs none is answered."""
    if rng.random() < 0.5:
        # Sums need no function.
        missing = rng.choice([anything, anything, bare])(rng)
        functions = [other for other in several_functions(rng.choice([1, 1, 2, 3]), rng)
                     if not other.meanings & missing.meanings]  # fmt: skip
        turns: tuple[Turn, ...] = (
            Turn("no_function", _typed(missing.ask(rng).request, rng), HONEST, "I do not know about that."),
        )
    else:
        functions = [anything(rng) for _ in range(rng.choice([1, 2]))]
        turns = TEXT_TASKS.draw(rng).turns
    return Dialogue(turns, tools=tuple(function.described for function in functions))
