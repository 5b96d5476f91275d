"""Something happens to one thing: two pictures, or a clip, and what may be said about it."""

from dataclasses import replace
from random import Random

from tools.judge.expectation import Expectation
from tools.judge.scene import Scene, Thing, any_pairs, scene, shade, stands_out
from tools.judge.words import COLOUR_WORDS, COLOURS

MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
WAYS = ("colour", "appears", "disappears", *MOVES)
APPEAR = (
    "appears",
    "appeared",
    "appear",
    "added",
    "new",
    "now there is",
    "there is now",
    "came",
    "comes",
    "more",
    "extra",
    "shows up",
    "showed up",
)
DISAPPEAR = (
    "disappears",
    "disappeared",
    "disappear",
    "gone",
    "removed",
    "missing",
    "vanished",
    "vanishes",
    "no longer",
    "left the picture",
    "went away",
    "goes away",
    "is not there",
    "isn't there",
)
MOVE = (
    "moved",
    "moves",
    "move",
    "moving",
    "goes",
    "went",
    "shifted",
    "slides",
    "slid",
    "further",
    "place",
    "position",
    "now on the left",
    "now on the right",
    "travels",
)
WAY_WORDS = {
    "left": ("left", "leftwards"),
    "right": ("right", "rightwards"),
    "up": ("up", "upwards", "top", "higher"),
    "down": ("down", "downwards", "bottom", "lower"),
}
BACK = {"left": "right", "right": "left", "up": "down", "down": "up"}


def change(rng: Random, way: str, size: tuple[int, int], count: int) -> tuple[Scene, Scene, Thing]:
    """The picture before and after, and the thing as it is afterwards (before, if it is gone)."""
    if way in ("appears", "disappears"):
        whole = scene(rng, any_pairs(rng, max(2, count), distinct="both"), size=size)
        without = replace(whole, things=whole.things[1:])
        return (without, whole, whole.things[0]) if way == "appears" else (whole, without, whole.things[0])
    if way == "colour":
        while True:
            before = scene(rng, any_pairs(rng, count, distinct="both"), size=size)
            name = rng.choice([c for c in COLOURS if c not in {one.colour for one in before.things}])
            rgb = shade(rng, name)
            if before.background.name != name and all(stands_out(rgb, part) for part in before.background.colours):
                one = replace(before.things[0], colour=name, rgb=rgb)
                return before, replace(before, things=(one, *before.things[1:])), one
    across, down = MOVES[way]
    width, height = size

    def fits(things: list[Thing]) -> bool:
        """There is room for the way, about half of the picture, and nothing in it."""
        first, others = things[0], things[1:]
        start = first.x / width if across else first.y / height
        inside = start > 0.7 if across + down < 0 else start < 0.3
        return inside and all(clear(first, other, across != 0) for other in others)

    lengths = [rng.uniform(0.16, 0.3) for _ in range(count)]
    before = scene(rng, any_pairs(rng, count, distinct="both"), size=size, fits=fits, lengths=lengths)
    one = before.things[0]
    far = rng.uniform(0.42, 0.5)
    one = replace(one, x=one.x + across * far * width, y=one.y + down * far * height)
    return before, replace(before, things=(one, *before.things[1:])), one


def clear(one: Thing, other: Thing, across: bool) -> bool:
    apart = abs(one.y - other.y) if across else abs(one.x - other.x)
    return apart > one.reach + other.reach


def expected(way: str, one: Thing, before: Scene, after: Scene) -> Expectation:
    """What has to be said: what happened, of the right thing if one is named, and nothing else."""
    if way == "colour":
        was = before.things[0].colour
        wrong_way = (
            rf"\bfrom (an? )?{one.colour}\b",
            rf"\b(to|into) (an? )?{was}\b",
            rf"\bwas (an? )?{one.colour}\b",
            rf"\bnow (an? )?{was}\b",
        )
        return Expectation(
            all_of=(COLOUR_WORDS[one.colour],),
            colours=(was, one.colour),
            shapes=(one.shape,),
            patterns_absent=wrong_way,
        )
    named = Expectation(colours=(one.colour,), shapes=(one.shape,))
    if len({*before.things, *after.things}) - (way in MOVES) > 1:
        named = replace(named, need=("shape",))
    if way == "appears":
        return replace(named, all_of=(APPEAR,), none_of=DISAPPEAR)
    if way == "disappears":
        return replace(named, all_of=(DISAPPEAR,), none_of=("appears", "appeared", "added"))
    # "From the left to the right" names both; "left" alone, for a thing that went right, does not.
    back = "|".join(WAY_WORDS[BACK[way]])
    away = rf"(?<!from the )(?<!from )\b(?:{back})\b"
    return replace(named, all_of=(MOVE, WAY_WORDS[way]), patterns_absent=(away,))
