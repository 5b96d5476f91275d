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


@about_numbers(1.2)
def of_number(scene: Scene, rng: Random) -> Asked:
    """What follows from one number: a digit of it, odd or even, the next one, how it compares to another."""
    if len(scene.things) != 1:
        return None
    digits = scene.things[0].digits
    number = int(digits)
    it = "[it|this|the number|this number]"
    chance = rng.random()
    if chance < 0.3:
        name, at = rng.choice([("first", 0), ("last", -1)])
        form = rng.choice(["what is the {0} digit", "[what|which] digit [is|comes] {0}", "the {0} digit",
                           f"what is the {{0}} digit of {it}"])  # fmt: skip
        return ask_about(form, rng, name), f"{digits[at]}."
    if chance < 0.5:
        odd = number % 2 == 1
        if rng.random() < 0.5:
            return ask(f"is {it} [even or odd|odd or even]", rng), "Odd." if odd else "Even."
        name = rng.choice(["even", "odd", "an even number", "an odd number"])
        return ask_about(f"is {it} {{0}}", rng, name), "Yes." if ("odd" in name) == odd else "No."
    if chance < 0.7:
        up = number == 0 or rng.random() < 0.7
        form = rng.choice([f"what [number |]comes {'after' if up else 'before'} {it}", f"what is {it} {{0}} [one|1]",
                           f"what is one {'more' if up else 'less'} than {it}"])  # fmt: skip
        return ask_about(form, rng, "plus" if up else "minus"), f"{number + (1 if up else -1)}."
    other = rng.choice([10, 50, 100, 500, 1000, rng.randrange(1, max(2, 2 * number))])
    if other == number:
        return None
    big = rng.random() < 0.6
    word = rng.choice(["[larger|bigger|greater|more]", "above"] if big else ["[smaller|less]", "below"])
    than = "" if word in ("above", "below") else "than "
    right = (number > other) == big
    return ask_about(f"is {it} {word} {than}{{0}}", rng, str(other)), "Yes." if right else "No."


@about_numbers(0.6)
def which_number(scene: Scene, rng: Random) -> Asked:
    """Of several numbers: how many, the larger one, whether one is there."""
    numbers = [thing.digits for thing in scene.things if thing.kind == NUMBER]
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        return None
    chance = rng.random()
    if chance < 0.3:
        return ask("how many numbers [{see}|are there|are in the {pic}|are shown]", rng), f"{len(numbers)}."
    if chance < 0.6:
        wanted = rng.choice(numbers) if rng.random() < 0.5 else str(rng.randrange(1000))
        form = rng.choice(["is there [a|the number] {0}", "do you see [a|the number] {0}", "is one of them {0}"])
        return ask_about(form, rng, wanted), "Yes." if wanted in numbers else "No."
    big = rng.random() < 0.6
    words = ["larger", "bigger", "higher"] if big else ["smaller", "lower"]
    words = words if len(numbers) == 2 else ["largest", "biggest", "highest"] if big else ["smallest", "lowest"]
    form = rng.choice(["[which|what] number is [the |]{0}", "which is the {0} number", "what is the {0} number"])
    found = (max if big else min)(numbers, key=int)
    return ask_about(form, rng, rng.choice(words)), f"{found}."
