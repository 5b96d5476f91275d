"""Pairs of pictures that differ in one thing, and what changed."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random

from tools.box.across import Asked, about_several
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS
from tools.box.placing import Wanted, random_scene, random_wanted, seen_against
from tools.box.scenes import Scene, Thing, make_thing
from tools.box.wordings import article, ask, sentence


def moved(before: Thing, after: Thing) -> str:
    """'left', 'right', 'up' or 'down': the axis that it moved further along."""
    x, y = after.x - before.x, after.y - before.y
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def change(rng: Random) -> list[Scene]:
    """Two pictures of the same size that differ in one thing, or in none; no two things share a kind."""
    while True:
        kinds = rng.sample(SHAPES, 4)
        want = partial(_three_at_most, kinds[:3])
        before = random_scene(rng, want)
        after = _with_change(before, kinds[3], rng)
        if after is not None and after.is_clear():
            return [before, after]


def _three_at_most(kinds: Sequence[str], rng: Random) -> list[Wanted]:
    return random_wanted(rng.choice([1, 2, 2, 3]), rng, kinds=kinds, alike=False)


def _with_change(before: Scene, new: str, rng: Random) -> Scene | None:
    things = list(before.things)
    at = rng.randrange(len(things))
    thing = things.pop(at)
    how = rng.choice(["colour", "colour", "moved", "moved", "added", "added", "removed", "removed", "nothing"])
    if how == "nothing":
        return before
    if how == "removed":
        return before.with_things(things) if things else None
    if how == "colour":
        colour = rng.choice([name for name in COLOURS if name != thing.colour])
        rgb = seen_against(colour, before.ground, rng)
        return before.with_things([*things, recoloured(thing, colour, rgb)]) if rgb else None
    short = min(before.width, before.height)
    if how == "added":
        things.append(thing)
        colour = rng.choice(COLOURS)
        rgb = seen_against(colour, before.ground, rng)
        if rgb is None:
            return None
        thing = make_thing(new, colour, max(6.0, rng.uniform(0.15, 0.4) * short), rng, rgb=rgb, room=short)
    spot = free_spot(thing, things, before, rng)
    if spot is None:
        return None
    if how == "moved":
        x, y = abs(spot.x - thing.x), abs(spot.y - thing.y)
        if max(x, y) < 0.2 * short or max(x, y) < 1.5 * min(x, y):
            return None
    return before.with_things([*things, spot])


def recoloured(thing: Thing, colour: str, rgb: tuple[int, int, int]) -> Thing:
    """The same thing in another colour."""
    return replace(thing, colour=colour, form=replace(thing.form, rgb=rgb))


def free_spot(thing: Thing, others: Sequence[Thing], scene: Scene, rng: Random) -> Thing | None:
    """The thing somewhere where nothing is."""
    for _ in range(12):
        spot = thing.at(
            rng.uniform(thing.width / 2, max(thing.width / 2, scene.width - thing.width / 2)),
            rng.uniform(thing.height / 2, max(thing.height / 2, scene.height - thing.height / 2)),
        )
        if not any(spot.overlaps(other, 0.03 * min(scene.width, scene.height)) for other in others):
            return spot
    return None


@about_several
def changed(scenes: Sequence[Scene], rng: Random) -> Asked:
    if len(scenes) != 2:
        return None
    before, after = ({thing.kind: thing for thing in scene.things} for scene in scenes)
    form = rng.choice(
        [
            "what changed",
            "what [has |]changed between [picture 1 and picture 2|the {pic}s|the two {pic}s]",
            "what is [different|new] in [picture 2|the second {pic}|image 2]",
            "what is the difference",
            "[find|spot|name] the difference.",
            "what is different",
            "compare the [two |]{pic}s.",
            "how do the {pic}s differ",
            "how [is|does] the second {pic} [different|differ]",
            "what happened[| between the {pic}s]",
            "what [is|are] the [change|changes|differences|difference][| between them]",
            "what did i change",
            "how did the {pic} change",
            "what has become different",
            "tell me what [changed|is different].",
            "what changed from the first {pic} to the second",
            "is [anything|something] different, and what",
        ]
    )
    second = "[in|from] [the second {pic}|the second one|picture 2|the 2nd {pic}]"
    # Which of the changes it was may be in the question.
    own = rng.random() < 0.3
    for kind, thing in before.items():
        if kind not in after:
            if own:
                form = rng.choice([f"what is [missing|gone][| {second}]",
                                   "what [has disappeared|disappeared|went away]",
                                   "what did i [remove|take away|delete]", f"what has gone[| {second}]",
                                   "[what|which {thing}] is not there any more", "what was [removed|taken away]",
                                   "what is no longer [there|in the second {pic}]"])  # fmt: skip
            return ask(form, rng), sentence(f"the {kind} is gone")
        if after[kind].colour != thing.colour:
            if own:
                form = rng.choice(["[what|which {thing}] changed its {color}", "what has another {color}",
                                   "which {thing} has a [different|new] {color}"])  # fmt: skip
            return ask(form, rng), sentence(f"the {kind} is now {after[kind].colour}")
        if (after[kind].x, after[kind].y) != (thing.x, thing.y):
            if own:
                form = rng.choice(["[what|which {thing}] [moved|has moved|was moved]", "what is somewhere else",
                                   "[what|which {thing}] is in another place"])  # fmt: skip
            return ask(form, rng), sentence(f"the {kind} moved {moved(thing, after[kind])}")
    new = [thing for kind, thing in after.items() if kind not in before]
    if new and own:
        form = rng.choice([f"what was added[| {second}]", "what did i add", f"what is new[| {second}]",
                           "what [has appeared|appeared|came along]", f"what is [additional|extra][| {second}]",
                           "[what|which {thing}] was not there [before|in the first {pic}]"])  # fmt: skip
    return ask(form, rng), sentence(f"{article(new[0].name)} appeared" if new else "nothing changed")
