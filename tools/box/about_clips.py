"""Questions about short clips: what moves, appears, disappears, changes its colour, or counts."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from tools.box.about_pictures import want_numbers
from tools.box.asking import label, told
from tools.box.changes import free_spot, recoloured
from tools.box.clip_questions import further, stays, whether_and_what
from tools.box.dialogues import Clip, Dialogue, Tasks, Turn
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS
from tools.box.placing import random_scene, random_wanted, seen_against
from tools.box.scenes import NUMBER, Scene, Thing, make_thing
from tools.box.wordings import article, ask, called, sentence

TASKS = Tasks()
FRAMES = (2, 4, 4, 6, 6, 8)
# A clip, what happens in it, and the thing that it happens to.
Event = tuple[Clip, str, Thing]
EVENTS: dict[str, Callable[[Random], Event | None]] = {}


def event(function: Callable[[Random], Event | None]) -> Callable[[Random], Event | None]:
    """Register something that may happen."""
    EVENTS[function.__name__] = function
    return function


def _opening(rng: Random) -> Scene:
    count = rng.choice([1, 1, 1, 2])
    return random_scene(rng, lambda chance: random_wanted(count, chance, alike=False), frames=rng.choice(FRAMES))


def _clip(scenes: list[Scene], rng: Random) -> Clip:
    return Clip(tuple(scenes), rng.choice([0.5, 0.5, 0.5, 0.25, 1.0]))


@event
def moves(rng: Random) -> Event | None:
    scene = _opening(rng)
    way = rng.choice(["left", "right", "up", "down"])
    thing, others = scene.things[0], list(scene.things[1:])
    width, height, along = scene.width, scene.height, way in ("left", "right")
    room = (width - thing.width) if along else (height - thing.height)
    if room < 0.35 * (width if along else height):
        return None
    start, stop = rng.uniform(0, 0.3), rng.uniform(0.7, 1.0)
    if way in ("left", "up"):
        start, stop = stop, start
    drift = rng.uniform(-0.06, 0.06) * min(width, height)
    scenes = []
    for frame in range(scene.frames):
        share = frame / (scene.frames - 1)
        at = (thing.width if along else thing.height) / 2 + room * (start + (stop - start) * share)
        here = thing.at(at, thing.y + drift * share) if along else thing.at(thing.x + drift * share, at)
        if any(here.overlaps(other, 0.0) for other in others):
            return None
        scenes.append(scene.with_things([here, *others]))
    return _clip(scenes, rng), way, thing


def _suddenly(before: Scene, after: Scene, what: str, thing: Thing, rng: Random) -> Event:
    """The first scene up to some frame, the other one from there."""
    at = rng.randrange(1, before.frames)
    return _clip([before if frame < at else after for frame in range(before.frames)], rng), what, thing


@event
def appears(rng: Random) -> Event | None:
    scene = _opening(rng)
    short = min(scene.width, scene.height)
    kind = rng.choice([kind for kind in SHAPES if kind not in {thing.kind for thing in scene.things}])
    colour = rng.choice(COLOURS)
    rgb = seen_against(colour, scene.ground, rng)
    if rgb is None:
        return None
    new = make_thing(kind, colour, rng.uniform(0.22, 0.45) * short, rng, rgb=rgb, room=short)
    spot = free_spot(new, scene.things, scene, rng)
    if spot is None:
        return None
    return _suddenly(scene, scene.with_things([*scene.things, spot]), "appears", spot, rng)


@event
def disappears(rng: Random) -> Event | None:
    scene = _opening(rng)
    thing = rng.choice(scene.things)
    rest = [other for other in scene.things if other is not thing]
    return _suddenly(scene, scene.with_things(rest), "disappears", thing, rng)


@event
def turns(rng: Random) -> Event | None:
    scene = _opening(rng)
    thing = rng.choice(scene.things)
    colour = rng.choice([name for name in COLOURS if name != thing.colour])
    rgb = seen_against(colour, scene.ground, rng)
    if rgb is None:
        return None
    others = [other for other in scene.things if other is not thing]
    after = recoloured(thing, colour, rgb)
    return _suddenly(scene, scene.with_things([*others, after]), f"turns {colour}", thing, rng)


@event
def rests(rng: Random) -> Event | None:
    scene = _opening(rng)
    return _clip([scene] * scene.frames, rng), "nothing", scene.things[0]


@event
def counts(rng: Random) -> Event | None:
    """A digit that goes up or down by one, every pair of frames."""
    scene = random_scene(rng, lambda chance: [(kind, colour, "8") for kind, colour, _ in want_numbers(chance)[:1]],
                         frames=rng.choice(FRAMES))  # fmt: skip
    pairs = scene.frames // 2
    up = rng.random() < 0.6
    first = rng.randrange(0, 11 - pairs) if up else rng.randrange(pairs - 1, 10)
    digits = [str(first + (number if up else -number)) for number in range(pairs)]
    thing = scene.things[0]
    scenes = []
    for digit in digits:
        new = make_thing(NUMBER, thing.colour, thing.height, rng, rgb=thing.form.rgb, digits=digit, widest=scene.width)
        shown = scene.with_things([new.at(thing.x, thing.y)])
        scenes += [shown, shown]
    return _clip(scenes, rng), ", ".join(digits), thing


def _told(what: str, thing: Thing) -> str:
    if what in ("left", "right", "up", "down"):
        return sentence(f"the {thing.name} moves {what}")
    if what == "appears":
        return sentence(f"{article(thing.name)} appears")
    if what == "nothing":
        return "Nothing happens."
    if thing.kind == NUMBER:
        return sentence(f"the numbers {what} appear" if "," in what else f"the number {what} is shown")
    return sentence(f"the {thing.name} {what}")


_GENERAL = (
    "what happens[| here| in the clip| in the video| in this video]",
    "what is happening[| here]",
    "describe the [clip|video].",
    "what is going on[| here]",
    "what happens in [the|this] [clip|video]",
    "what changes[| in the video]",
    "what do you see",
    "describe what happens.",
    "what does the [video|clip] show",
    "tell me what happens.",
    "what happened",
    "what moves",
    "summarize the [video|clip].",
    "what is in the [video|clip]",
)


_COMES = (
    "what [|thing |shape ]appears",
    "what [|thing |shape ]appears",
    "what is new[| at the end]",
    "what [shows up|comes|is added]",
    "which [thing|shape|object] appears",
)
_GOES = (
    "what [|thing |shape ]disappears",
    "what [|thing |shape ]disappears",
    "what [vanishes|goes away|is removed]",
    "what is [gone|missing] at the end",
    "which [thing|shape|object] [disappears|vanishes]",
)


def _question(name: str, what: str, thing: Thing, first: Scene, rng: Random) -> tuple[str, str]:
    """What may be asked about this event, and the answer."""
    kind = called(thing.kind, rng)
    if rng.random() < 0.4:
        form = rng.choice(_GENERAL[:-1] if name != "moves" else _GENERAL)
        return ask(form, rng), _told(what, thing)
    if name == "moves":
        forms = [
            f"[which way|where|in which direction|what direction] does the {kind} [move|go]",
            f"[which way|where] is the {kind} [moving|going]",
            "[which way|where] does it [move|go]",
            f"how does the {kind} move",
            f"in what direction is the {kind} moving",
        ]
        return ask(rng.choice(forms), rng), sentence(what)
    if name in ("appears", "disappears"):
        return ask(rng.choice(_COMES if name == "appears" else _GOES), rng), sentence(label(thing))
    if name == "turns":
        colour = what.removeprefix("turns ")
        form = rng.choice(
            [
                f"[which|what] {{color}} does the {kind} [turn|become|get]",
                f"what {{color}} is the {kind} at the end",
                f"what {{color}} does the {kind} have [in the end|at the end]",
            ]
        )
        return ask(form, rng), sentence(colour)
    if name == "counts":
        form = rng.choice(["[which|what] numbers [{see}|appear|are shown]", "read the numbers.", "what does it count"])
        return ask(form, rng), f"{what}."
    form = rng.choice(["does [anything|something] [move|change|happen]", "is [anything|something] moving"])
    return ask(form, rng), "No."


def _happened(name: str, rng: Random, things: int = 0) -> Event:
    """A clip of this kind whose frames are all clear; with so many things at the start, if it matters."""
    while True:
        found = EVENTS[name](rng)
        if found is None or not all(scene.is_clear() for scene in found[0].scenes):
            continue
        clip, what, thing = found
        if things and len(clip.scenes[0].things) != things:
            continue
        # The frames of a clip are as large as their number lets them be.
        sized = {id(scene): replace(scene, frames=len(clip.scenes)) for scene in clip.scenes}
        return replace(clip, scenes=tuple(sized[id(scene)] for scene in clip.scenes)), what, thing


def _asked_about(name: str, found: Event, asked: list[tuple[str, str]]) -> Dialogue:
    """The clip comes with the first question."""
    clip, what, thing = found
    turns_ = [Turn(name, *pair, _told(what, thing)) for pair in dict.fromkeys(asked)]
    turns_[0] = replace(turns_[0], media=(clip,))
    return Dialogue(tuple(turns_))


def happening(name: str, rng: Random) -> Dialogue:
    """One clip of this kind and one to three questions about it."""
    found = _happened(name, rng)
    clip, what, thing = found
    asked = [
        (further(name, what, thing, clip, rng) if rng.random() < 0.45 else None)
        or _question(name, what, thing, clip.scenes[0], rng)
        for _ in range(rng.choice([1, 1, 2, 3]))
    ]
    if rng.random() < 0.25:
        form = rng.choice(["what is [there|shown] at the [start|beginning]", "what do you see first",
                           "what is in the first [frame|picture]", "what is there to begin with"])  # fmt: skip
        asked.append((ask(form, rng), told(clip.scenes[0])))
    return _asked_about(name, found, asked)


@TASKS.add("one moves, one stays", 0.06)
def one_stays(rng: Random) -> Dialogue:
    """Two things of which one moves: which of them does, and which does not."""
    found = _happened("moves", rng, things=2)
    clip, what, thing = found
    asked = [pair for pair in (stays(thing, clip, rng) for _ in range(2)) if pair]
    if rng.random() < 0.5 or not asked:
        asked.insert(rng.randrange(len(asked) + 1), _question("moves", what, thing, clip.scenes[0], rng))
    return _asked_about("moves", found, asked[: rng.choice([1, 2, 3])])


@TASKS.add("whether and what", 0.08)
def whether(rng: Random) -> Dialogue:
    """Whether something appears or disappears, and what it is."""
    name = rng.choice(["appears", "appears", "disappears", "disappears", "moves", "turns", "rests"])
    found = _happened(name, rng)
    asked = whether_and_what(name, found[2], rng)
    if rng.random() < 0.3:
        more = further(name, found[1], found[2], found[0], rng)
        asked += [more] if more else []
    return _asked_about(name, found, asked) if asked else whether(rng)


@TASKS.add("clips", 1.0)
def clips(rng: Random) -> Dialogue:
    """Something happens."""
    return happening(rng.choice(["moves", "moves", "disappears", "disappears", "turns", *EVENTS]), rng)


def single(name: str, rng: Random) -> Dialogue:
    """One clip and one question."""
    return Dialogue(happening(name, rng).turns[:1])
