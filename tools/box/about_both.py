"""Whether something holds in both, in either or in all pictures, and which pictures are alike."""

from collections.abc import Sequence
from random import Random

from tools.box.across import Asked, about_several, ask_across, numbered, which_answer
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS
from tools.box.scenes import NUMBER, Scene
from tools.box.wordings import article, ask, called, sentence


def _kinds_and_colours(scene: Scene) -> set[tuple[str, str]]:
    """What may be looked for: kinds, colours, and both together."""
    shapes = [thing for thing in scene.things if thing.kind != NUMBER]
    return {pair for thing in shapes for pair in ((thing.kind, ""), ("", thing.colour), (thing.kind, thing.colour))}


@about_several
def in_both(scenes: Sequence[Scene], rng: Random) -> Asked:
    """Whether something is in both, in any, or in one of them."""
    shown = [_kinds_and_colours(scene) for scene in scenes]
    everything = sorted(set.union(*shown))
    shared = sorted(set.intersection(*shown))
    if not everything:
        return None
    chance = rng.random()
    kind, colour = rng.choice(shared) if shared and chance < 0.45 else rng.choice(everything)
    if chance > 0.85:
        kind, colour = rng.choice(SHAPES), rng.choice(["", rng.choice(COLOURS)])
    what = article(" ".join(called(word, rng) for word in (colour, kind or "thing") if word))
    holders = [(kind, colour) in found for found in shown]
    chance = rng.random()
    if chance < 0.45:
        both = "both {pic}s" if len(scenes) == 2 else "all [three |]{pic}s"
        form = rng.choice([f"is there {{0}} in {both}", f"do {both} [show|have|contain] {{0}}", f"is {{0}} in {both}",
                           f"do you see {{0}} in {both}"])  # fmt: skip
        return ask_across(form, rng, what), "Yes." if all(holders) else "No."
    if chance < 0.7:
        either = "either {pic}" if len(scenes) == 2 else "any [of the {pic}s|{pic}]"
        form = rng.choice([f"is there {{0}} in {either}", f"does {either} [show|have] {{0}}",
                           f"do you see {{0}} in {either}",
                           "is there {0} anywhere"])  # fmt: skip
        return ask_across(form, rng, what), "Yes." if any(holders) else "No."
    number = rng.randrange(len(scenes))
    form = rng.choice(["is there {0} in {1}", "does {1} [show|have|contain] {0}", "do you see {0} in {1}",
                       "is {0} in {1}"])  # fmt: skip
    return ask_across(form, rng, what, numbered(number, rng, len(scenes))), "Yes." if holders[number] else "No."


@about_several
def what_in_both(scenes: Sequence[Scene], rng: Random) -> Asked:
    """The one shape or colour that all pictures show."""
    key = rng.choice(["kind", "colour"])
    found = [{getattr(thing, key) for thing in scene.things} for scene in scenes]
    shared = set.intersection(*found) if found else set()
    if len(shared) != 1 or NUMBER in shared:
        return None
    word = rng.choice(["shape", "[kind|type] of shape"]) if key == "kind" else "{color}"
    both = "both {pic}s" if len(scenes) == 2 else "all [three |]{pic}s"
    form = rng.choice([f"[which|what] {word} is in {both}", f"[which|what] {word} do {both} [show|have]",
                       f"[which|what] {word} do the {{pic}}s have in common"])  # fmt: skip
    value = shared.pop()
    return ask(form, rng), sentence(article(value) if key == "kind" else value)


@about_several
def whether_same(scenes: Sequence[Scene], rng: Random) -> Asked:
    """Whether single things of two pictures have the same shape, colour or place in a list."""
    one, other = rng.sample(range(len(scenes)), 2)
    if any(len(scenes[number].things) != 1 for number in (one, other)):
        return None
    first, second = scenes[one].things[0], scenes[other].things[0]
    if NUMBER in (first.kind, second.kind):
        return None
    key = rng.choice(["kind", "colour"])
    word = "shape" if key == "kind" else "{color}"
    form = rng.choice([f"do {{0}} and {{1}} [show|have] the same {word}",
                       f"is the {word} in {{0}} the same as in {{1}}",
                       f"does the {{thing}} in {{0}} have the same {word} as the one in {{1}}",
                       f"is the {word} of {{0}} and {{1}} the same"])  # fmt: skip
    names = [numbered(number, rng) for number in (one, other)]
    return ask_across(form, rng, *names), "Yes." if getattr(first, key) == getattr(second, key) else "No."


@about_several
def larger_number_of(scenes: Sequence[Scene], rng: Random) -> Asked:
    """Which picture has the larger number, or which number is the larger."""
    if any(len(scene.things) != 1 or scene.things[0].kind != NUMBER for scene in scenes):
        return None
    numbers = [int(scene.things[0].digits) for scene in scenes]
    big = rng.random() < 0.65
    found = max(numbers) if big else min(numbers)
    if numbers.count(found) > 1:
        return None
    words = ["larger", "bigger", "higher"] if big else ["smaller", "lower"]
    if len(scenes) > 2:
        words = ["largest", "biggest", "highest"] if big else ["smallest", "lowest"]
    if rng.random() < 0.6:
        form = rng.choice(["which {pic} [has|shows] the {0} number", "in which {pic} is the {0} number",
                           "where is the {0} number"])  # fmt: skip
        return ask_across(form, rng, rng.choice(words)), which_answer(numbers.index(found))
    form = rng.choice(["[which|what] number is {0}", "what is the {0} number"])
    form = form.replace("is {0}", "is the {0}") if len(scenes) > 2 else form
    return ask_across(form, rng, rng.choice(words)), f"{found}."
