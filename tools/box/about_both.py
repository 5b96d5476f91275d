"""Whether something holds in both, in either or in all pictures, which are alike, and the same in fewer words."""

from collections.abc import Sequence
from random import Random

from tools.box.across import Asked, about_several, ask_across, in_words, numbered, which_answer
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS
from tools.box.placing import Wanted, random_scene
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


def single_things(rng: Random) -> list[Scene]:
    """Two or three pictures of one thing each; of one shape as often as not, and so with the colour."""
    count = rng.choice([2, 2, 2, 3])
    alike: list[list[str]] = []
    for names in (SHAPES, COLOURS):
        first, *others = rng.sample(list(names), count)
        row = [first] * count
        if rng.random() < 0.5:
            # One of three is enough.
            row = [first, *others] if rng.random() < 0.6 else [*row[:-1], others[0]]
        alike.append(row)
    wanted: list[list[Wanted]] = [[(kind, colour, "")] for kind, colour in zip(*alike, strict=True)]
    return [random_scene(rng, lambda _, want=want: want) for want in wanted]


def _alike(scenes: Sequence[Scene], key: str) -> bool | None:
    """Whether the only things of the pictures share this; None where a picture has none or several."""
    if any(len(scene.things) != 1 or scene.things[0].kind == NUMBER for scene in scenes):
        return None
    return len({getattr(scene.things[0], key) for scene in scenes}) == 1


_SAME = (
    "are [they|these|the {0} of them|the {0} {things}|the {things}] the same {1}", "same {1}",
    "do [they|these|the {0}|the {pic}s|the {0} {pic}s] [have|show] the same {1}", "is it the same {1}[| in {0}]",
    "is the {1} the same[| in the {0} {pic}s| each time| everywhere]", "is the {1} of the {things} the same",
    "are [they|these] [of |]the same {1}[| or not]", "the same {1}[ each time|]", "do the {things} have the same {1}",
)  # fmt: skip
_SAME_TOO = (
    "same {1} though", "same {1} [too|as well]", "and the same {1}", "and the {1}", "[what|how] about the {1}",
    "the {1} too", "but the same {1}", "and are they the same {1}", "and {1}", "is the {1} the same [too|though|then]",
    "same {1}",
)  # fmt: skip


@about_several
def alike_in(scenes: Sequence[Scene], rng: Random) -> Asked:
    """Whether the only things of all pictures have the same shape or colour."""
    key = rng.choice(["kind", "colour"])
    same = _alike(scenes, key)
    if same is None:
        return None
    form = rng.choice(_SAME).replace("[| in {0}]", "[| in both]" if len(scenes) == 2 else "[| in all]")
    word = "shape" if key == "kind" else "{color}"
    return ask_across(form, rng, in_words(scenes), word), "Yes." if same else "No."


# A task's name, a question and its answer.
Said = tuple[str, str, str]


def _same_and_same(scenes: Sequence[Scene], rng: Random) -> list[Said]:
    """Of one shape, and of one colour though?"""
    keys = rng.sample(["kind", "colour"], 2)
    same = [_alike(scenes, key) for key in keys]
    found: list[Said] = []
    for number, (key, yes) in enumerate(zip(keys, same, strict=True)):
        if yes is not None:
            form = rng.choice(_SAME_TOO if number else [form for form in _SAME if "[| in {0}]" not in form])
            word = "shape" if key == "kind" else "{color}"
            found.append(("alike_in", ask_across(form, rng, in_words(scenes), word), "Yes." if yes else "No."))
    return found


def _which_and_which(scenes: Sequence[Scene], rng: Random) -> list[Said]:
    """Which picture has one thing, and which others."""
    kinds = [{thing.kind for thing in scene.things} - {NUMBER} for scene in scenes]
    holders = {kind: [kind in found for found in kinds] for kind in sorted(set.union(*kinds))}
    only = [kind for kind, held in holders.items() if sum(held) == 1]
    found: list[Said] = []
    for number, kind in enumerate(rng.sample(only, min(len(only), 3))):
        form = rng.choice(["which {pic} [has|shows] the {0}", "which of the {1} [{pic}s |]has the {0}",
                           "which {pic} is the {0} in", "in which {pic} is the {0}",
                           "where is the {0}, in which {pic}"] if number == 0 else
                          ["and the {0}", "and the {0}", "what about the {0}", "the {0}", "and which has the {0}",
                           "and where is the {0}", "how about the {0}", "which has the {0} then"])  # fmt: skip
        answer = which_answer(holders[kind].index(True))
        found.append(("which_picture", ask_across(form, rng, called(kind, rng), in_words(scenes)), answer))
    return found


def _more_and_fewer(scenes: Sequence[Scene], rng: Random) -> list[Said]:
    """Which has more, which has fewer, and how many things are in each."""
    counts = [len(scene.things) for scene in scenes]
    found: list[Said] = []
    for word in rng.sample(["more", "fewer"], 2):
        best = max(counts) if word == "more" else min(counts)
        if counts.count(best) > 1:
            continue
        word = word if len(scenes) == 2 else {"more": "the most", "fewer": "the fewest"}[word]
        form = rng.choice(["and {0}", "and which [has|one has] {0}", "which has {0}", "and {0} {things}"] if found else
                          ["which [{pic}|one|of the {1}] has {0} {things}", "which has [got |]{0} {things}",
                           "which of the {1} {pic}s has {0} [{things}|in it]"])  # fmt: skip
        found.append(("more", ask_across(form, rng, word, in_words(scenes)), which_answer(counts.index(best))))
    for number in rng.sample(range(len(scenes)), rng.choice([0, 1, 2])):
        of = numbered(number, rng, len(scenes))
        form = rng.choice(["how many {things} are in {0}", "how many are in {0}", "how many in {0}"])
        if found and found[-1][0] == "count_in":
            form = rng.choice(
                ["and in {0}", "and {0}", "what about {0}"] if rng.random() < 0.8 else ["how many in {0}"]
            )
        found.append(("count_in", ask_across(form, rng, of), f"{counts[number]}."))
    if found and found[-1][0] == "count_in" and rng.random() < 0.5:
        form = rng.choice(["and altogether", "and in all", "how many in total[ then|]", "and in total",
                           "and all together", "how many altogether"])  # fmt: skip
        found.append(("count_all", ask(form, rng), f"{sum(counts)}."))
    return found


def elliptical(scenes: Sequence[Scene], rng: Random) -> list[Said]:
    """A question across pictures and what may follow it in fewer words."""
    if _alike(scenes, "kind") is None:
        return rng.choice([_which_and_which, _more_and_fewer])(scenes, rng)
    return rng.choice([_same_and_same, _same_and_same, _same_and_same, _which_and_which])(scenes, rng)
