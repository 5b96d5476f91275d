"""What every token of a picture shows: what the vision tower is told, and what the decoder is asked for."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tools.box.outlines import DIRECTIONS
from tools.box.palette import COLOURS
from tools.box.scenes import KINDS, NUMBER, Scene, Thing

Labels = NDArray[np.int8]
SLOTS = 4
SIZES = 13
# What a tower is told of every token, and how many classes that has. The first three and the last are told of every
# token, with 0 for "none"; all else, where it is not -1, of the one token that holds a thing's middle.
TOLD = {
    "cover kind": len(KINDS) + 1, "cover colour": len(COLOURS) + 1, "kind": len(KINDS) + 1, "colour": len(COLOURS),
    "size": SIZES, "filled": 2, "direction": 4, "motion": 5,
    **{f"digit {slot + 1}": 11 for slot in range(SLOTS)}, "here": 11, "ground": len(COLOURS),
}  # fmt: skip
_AT = {name: number for number, name in enumerate(TOLD)}
LOOKS = ("size", "filled", "direction")
MOTIONS = ("rests", "left", "right", "up", "down")


def told(scene: Scene, before: Scene | None = None) -> Labels:
    """Labels of every token, row by row: shape (rows * columns, len(TOLD)).

    Args:
        before: The other frame of the pair, in a clip.
    """
    rows, columns = scene.grid
    nothing = np.full(len(TOLD), -1, np.int8)
    nothing[[_AT["cover kind"], _AT["cover colour"], _AT["kind"], _AT["here"]]] = 0
    if scene.ground.name:
        nothing[_AT["ground"]] = COLOURS.index(scene.ground.name)
    found = np.tile(nothing, (rows, columns, 1))
    for thing in sorted(scene.things, key=lambda thing: -thing.size):
        _cover(found, thing, scene)
    for thing in scene.things:
        _centre(found[scene.cell(thing)], thing, scene, before)
        if thing.form.mask is not None:
            _digits(found, thing, scene)
    return found.reshape(-1, len(TOLD))


def _cover(found: Labels, thing: Thing, scene: Scene) -> None:
    rows, columns = found.shape[:2]
    top, high = _span(thing.y, thing.height, scene.height, rows)
    left, wide = _span(thing.x, thing.width, scene.width, columns)
    covered = np.outer(high, wide) > 0.2
    part = found[top : top + len(high), left : left + len(wide)]
    part[covered, _AT["cover kind"]] = 1 + KINDS.index(thing.kind)
    part[covered, _AT["cover colour"]] = 1 + COLOURS.index(thing.colour)


def _span(middle: float, size: float, whole: int, count: int) -> tuple[int, list[float]]:
    """The first token along one axis that a thing covers some of, and how much it covers of that and the next ones."""
    low, high = (middle - size / 2) / whole * count, (middle + size / 2) / whole * count
    first = max(0, math.floor(low))
    return first, [min(high, edge + 1) - max(low, edge) for edge in range(first, min(count, math.ceil(high)))]


def _centre(token: Labels, thing: Thing, scene: Scene, before: Scene | None) -> None:
    token[_AT["kind"]] = 1 + KINDS.index(thing.kind)
    token[_AT["colour"]] = COLOURS.index(thing.colour)
    token[[_AT[name] for name in LOOKS]] = _looks(thing, scene)
    token[_AT["motion"]] = _motion(thing, before) if before is not None else 0
    if thing.kind == NUMBER:
        for slot in range(SLOTS):
            token[_AT["digit 1"] + slot] = 1 + int(thing.digits[slot]) if slot < len(thing.digits) else 0


def _looks(thing: Thing, scene: Scene) -> tuple[int, int, int]:
    """Answers to LOOKS."""
    share = thing.size / math.sqrt(scene.width * scene.height)
    size = min(SIZES - 1, max(0, int(math.log(max(share, 1e-3) / 0.06) / math.log(1.25))))
    filled = -1 if thing.kind == NUMBER else int(thing.filled)
    return size, filled, DIRECTIONS.index(thing.direction) if thing.direction else -1


def _motion(thing: Thing, before: Scene) -> int:
    """Where a thing went since the frame before."""
    for other in before.things:
        if other.kind == thing.kind:
            x, y = thing.x - other.x, thing.y - other.y
            if max(abs(x), abs(y)) < 0.5:
                return 0
            if abs(x) > abs(y):
                return MOTIONS.index("right" if x > 0 else "left")
            return MOTIONS.index("down" if y > 0 else "up")
    return 0


def _digits(found: Labels, thing: Thing, scene: Scene) -> None:
    """Which digit's middle is in which token, where only one is."""
    assert thing.form.mask is not None
    rows, columns = found.shape[:2]
    for digit, (x, y) in zip(thing.digits, thing.form.mask.centres, strict=True):
        row = int((thing.y - thing.height / 2 + y) / scene.height * rows)
        column = int((thing.x - thing.width / 2 + x) / scene.width * columns)
        if 0 <= row < rows and 0 <= column < columns:
            token = found[row, column]
            token[_AT["here"]] = 1 + int(digit) if token[_AT["here"]] == 0 else -1


# What the decoder is asked of tokens of pictures, and of words that mean one thing of them: the picture's number, row
# and column, kind, colour and looks of the thing there, kind and colour in the picture before at the same place, how
# many things came up to here, and how many of them stand to the left of this one.
SEEN = {
    "image": 4,
    "row": 24,
    "column": 24,
    "kind": len(KINDS) + 1,
    "colour": len(COLOURS) + 1,
    "earlier kind": len(KINDS) + 1,
    "earlier colour": len(COLOURS) + 1,
    "so far": 8,
    "to the left": 8,
    **{name: TOLD[name] for name in LOOKS},
}


def seen(number: int, scene: Scene, labels: Labels, earlier: tuple[Scene, Labels] | None) -> Labels:
    """What SEEN asks of every token of a picture, row by row: shape (rows * columns, len(SEEN))."""
    rows, columns = scene.grid
    row, column = np.divmod(np.arange(rows * columns), columns)
    kind, colour = things_in(labels)
    before = np.full((2, len(row)), -1)
    if earlier is not None and earlier[0].grid == scene.grid:
        before = np.stack(things_in(earlier[1]))
    there = np.flatnonzero(kind)
    left = np.full(len(row), -1)
    for order, token in enumerate(there):
        left[token] = sum(column[other] < column[token] for other in there[:order])
    looks = labels[:, [_AT[name] for name in LOOKS]].T
    found = (np.full_like(row, number), row, column, kind, colour, *before, np.cumsum(kind > 0), left, *looks)
    return np.stack(found, axis=1).astype(np.int8)


def things_in(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Kind and colour of the thing whose middle each token holds, 0 for none."""
    kind = labels[:, _AT["kind"]].astype(np.int64)
    return kind, np.where(kind > 0, labels[:, _AT["colour"]] + 1, 0).astype(np.int64)


def seen_of_word(number: int, scene: Scene, thing: Thing) -> Sequence[int]:
    """What SEEN asks of a word that means one thing."""
    row, column = scene.cell(thing)
    kind, colour = 1 + KINDS.index(thing.kind), 1 + COLOURS.index(thing.colour)
    return [number, row, column, kind, colour, -1, -1, -1, -1, *_looks(thing, scene)]
