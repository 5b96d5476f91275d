"""Questions about the numbers in one picture."""

from random import Random

from tools.box.asking import Asked, about_numbers, ask_about
from tools.box.scenes import NUMBER, Scene
from tools.box.wordings import ask, called


@about_numbers(6.0)
def read(scene: Scene, rng: Random) -> Asked:
    if any(thing.kind != NUMBER for thing in scene.things) and [t.kind for t in scene.things].count(NUMBER) != 1:
        return None
    numbers = [thing.digits for thing in scene.things if thing.kind == NUMBER]
    if not numbers:
        return None
    if len(numbers) == 1:
        digit = "digit" if len(numbers[0]) == 1 and rng.random() < 0.5 else "number"
        form = rng.choice(
            [
                "[what|which] {0} is [this|that|it|shown]",
                "[what|which] {0} is this",
                "[what|which] {0} {see}",
                "[what|which] {0} is [in|on] the {pic}",
                "read the {0}.",
                "what does [it|this|the {pic}] say",
                "what is the {0}",
                "what's the {0}",
                "can you read [this|the {0}|it]",
                "read this.",
                "what is written [here|]",
                "what {0} [is written|did i write|have i drawn|is drawn]",
                "tell me the {0}.",
                "which {0}",
                "what number does the {pic} show",
                "what does it read",
                "what {0} is [printed|displayed]",
                "read it[| out].",
                "recognize the {0}.",
                "type [out |]the {0}[| in the {pic}].",
                "transcribe [this|the {pic}].",
                "{0}",
            ]
        )
        return ask_about(form, rng, digit), f"{numbers[0]}."
    form = rng.choice(
        [
            "read the numbers.",
            "[what|which] numbers {see}",
            "[what|which] numbers are [there|in the {pic}]",
            "what does it say",
            "list the numbers.",
            "what numbers are these",
        ]
    )
    return ask(form, rng), f"{', '.join(numbers)}."


@about_numbers(1.0)
def is_number(scene: Scene, rng: Random) -> Asked:
    if len(scene.things) != 1:
        return None
    digits = scene.things[0].digits
    number = digits
    if rng.random() < 0.5:
        at = rng.randrange(len(digits))
        number = digits[:at] + str((int(digits[at]) + rng.randrange(1, 10)) % 10) + digits[at + 1 :]
    form = rng.choice(["is [this|it|that] [a|the number] {0}", "is the number {0}", "does it say {0}", "is it {0}"])
    return ask_about(form, rng, number), "Yes." if number == digits else "No."


@about_numbers(0.8)
def how_many_digits(scene: Scene, rng: Random) -> Asked:
    if len(scene.things) != 1:
        return None
    form = rng.choice(
        [
            "how many digits does [it|the number] have",
            "how many digits are there",
            "how many digits {see}",
            "how many digits has the number",
            "how many digits",
        ]
    )
    return ask(form, rng), f"{len(scene.things[0].digits)}."


@about_numbers(1.0)
def number_of_colour(scene: Scene, rng: Random) -> Asked:
    things = [thing for thing in scene.unique("colour") if thing.kind == NUMBER]
    if not things:
        return None
    thing = rng.choice(things)
    form = rng.choice(["[which|what] number is {0}", "what is the {0} number", "read the {0} number."])
    return ask_about(form, rng, called(thing.colour, rng)), f"{thing.digits}."
