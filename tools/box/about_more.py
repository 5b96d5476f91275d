"""Questions that leave out what the one before them said: 'And the star?', 'What about the left one?', 'Colour?'."""

from collections.abc import Callable
from random import Random

from tools.box.about_places import place_name
from tools.box.asking import counted, label, references, told
from tools.box.scenes import NUMBER, Scene, Thing
from tools.box.wordings import ask, called, plural, sentence

# A task's name, a question and its answer.
Said = tuple[str, str, str]
_AND = ("and the {0}", "and the {0}", "what about the {0}", "how about the {0}", "the {0}", "and {0}", "now the {0}",
        "and what about the {0}", "same for the {0}")  # fmt: skip


def _again(form: str, name: str, rng: Random, whole: bool) -> str:
    return ask((form if whole else rng.choice(_AND)).replace("{0}", name), rng)


def colours(scene: Scene, rng: Random) -> list[Said]:
    """The colour of one thing, and of others."""
    things = rng.sample(list(scene.unique("kind")), len(scene.unique("kind")))
    return [
        ("colour", _again("what {color} is the {0}", called(thing.kind, rng), rng, number == 0),
         sentence(f"the {thing.kind} is {thing.colour}"))
        for number, thing in enumerate(things[:3])
    ]  # fmt: skip


def places(scene: Scene, rng: Random) -> list[Said]:
    """Where one thing is, and where others are."""
    named: dict[Thing, str] = {thing: name for name, thing in references(scene, rng).items()}
    found = [(name, place) for thing, name in named.items() if (place := place_name(scene, thing))]
    rng.shuffle(found)
    return [
        ("where", _again("where is the {0}", name, rng, number == 0), sentence(place))
        for number, (name, place) in enumerate(found[:3])
    ]


def counts(scene: Scene, rng: Random) -> list[Said]:
    """How many of a kind, and of others."""
    kinds = list(dict.fromkeys(thing.kind for thing in scene.things if thing.kind != NUMBER))
    rng.shuffle(kinds)
    found = []
    for number, kind in enumerate(kinds[:3]):
        name = plural(called(kind, rng))
        form = (
            "how many {0} are there" if number == 0 else rng.choice(["and {0}", "and how many {0}", "what about {0}"])
        )
        found.append(("how_many", ask(form.replace("{0}", name), rng), _count_of(scene, kind, "")))
    return found


def _count_of(scene: Scene, kind: str, colour: str) -> str:
    """How many things fit; an empty word fits all."""
    return counted([thing for thing in scene.things if kind in ("", thing.kind) and colour in ("", thing.colour)])


_ALTOGETHER = (
    "and altogether", "and [in all|in total|all together|overall]", "how many in total[ then|]", "altogether",
    "in total", "and how many [{things} |][in all|altogether|in total]", "how many {things} [altogether|in all] then",
    "and [the|all] {things}[ altogether| together|]", "what about all [of them|{things}]", "so how many in total",
    "how many is that with the others", "and everything together", "total", "and with all the others",
)  # fmt: skip


def totals(scene: Scene, rng: Random) -> list[Said]:
    """How many of a kind of which there are several, how many of these have one colour, and how many there are."""
    kinds = [thing.kind for thing in scene.things if thing.kind != NUMBER]
    alike = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if not alike:
        return []
    kind = rng.choice(alike)
    name = plural(called(kind, rng))
    form = rng.choice(["how many {0} [are there|{see}|are in the {pic}|can you count|are shown]", "how many {0}",
                       "count the {0}.", "the number of {0}", "how many {0} does the {pic} [have|show]"])  # fmt: skip
    found: list[Said] = [("how_many", ask(form.replace("{0}", name), rng), _count_of(scene, kind, ""))]
    if rng.random() < 0.35:
        colour = rng.choice([thing.colour for thing in scene.things])
        form = rng.choice(["how many of them are {0}", "how many of [these|those] are {0}",
                           "how many of the {1} are {0}", "and how many of them are {0}"])  # fmt: skip
        form = form.replace("{0}", called(colour, rng)).replace("{1}", name)
        found.append(("how_many", ask(form, rng), _count_of(scene, kind, colour)))
    forms = [form for form in _ALTOGETHER if "others" not in form or len(set(kinds)) > 1]
    found.append(("how_many", ask(rng.choice(forms), rng), f"{len(scene.things)}."))
    return found


def colour_counts(scene: Scene, rng: Random) -> list[Said]:
    """How many of a colour, of others, and how many there are."""
    colours = list(dict.fromkeys(thing.colour for thing in scene.things))
    if len(scene.things) < 2:
        return []
    found: list[Said] = []
    for number, colour in enumerate(rng.sample(colours, min(len(colours), 3))):
        form = rng.choice(["how many {0} {things} are there", "how many {0} {things} {see}", "how many are {0}",
                           "how many {0} ones are there", "how many of [them|the {things}] are {0}",
                           "how many {things} are {0}", "count the {0} {things}."] if number == 0 else
                          ["and {0}", "and how many {0} ones", "and {0} ones", "what about {0}", "and how many are {0}",
                           "{0} ones", "how about the {0} ones"])  # fmt: skip
        form = form.replace("{0}", called(colour, rng))
        found.append(("how_many", ask(form, rng), _count_of(scene, "", colour)))
    if rng.random() < 0.4:
        forms = [form for form in _ALTOGETHER if "others" not in form]
        found.append(("how_many", ask(rng.choice(forms), rng), f"{len(scene.things)}."))
    return found


def sides(scene: Scene, rng: Random) -> list[Said]:
    """What is on one side, and on others."""
    found = []
    for side in rng.sample(["left", "right", "top", "bottom"], 4):
        thing = scene.extreme(side)
        if thing is not None:
            at = f"on the {side}" if side in ("left", "right") else f"at the {side}"
            form = f"what is {at}"
            if found:
                form = rng.choice(
                    [f"and {at}", f"and {at}", f"what about the {side}", f"and on the other side: the {side}"]
                )
            found.append(("which_side", ask(form, rng), sentence(label(thing))))
    return found[:3]


def word_by_word(scene: Scene, rng: Random) -> list[Said]:
    """Of one thing, what is asked in a single word."""
    if len(scene.things) != 1 or scene.things[0].kind == NUMBER:
        return []
    thing = scene.things[0]
    place = place_name(scene, thing)
    found: list[Said] = [
        ("colour", rng.choice(["Colour?", "colour?", "color?", "Color", "which colour?", "And the color?"]),
         sentence(f"the {thing.kind} is {thing.colour}")),
        ("shape", rng.choice(["Shape?", "shape?", "what shape", "wat shape is it", "And the shape?"]),
         sentence(label(thing))),
        ("how_many", rng.choice(["How many?", "how many", "count?", "number of shapes?"]), "1."),
        ("describe", rng.choice(["?", "what?", "whats this", "what is it?", "Describe", "descibe it"]), told(scene)),
    ]  # fmt: skip
    if place:
        found.append(
            ("where", rng.choice(["Where?", "where", "where is it?", "Position?", "wheres it"]), sentence(place))
        )
    return rng.sample(found, rng.randint(1, 3))


FOLLOWING: tuple[Callable[[Scene, Random], list[Said]], ...] = (
    colours, places, counts, totals, colour_counts, sides, word_by_word,
)  # fmt: skip


def following(scene: Scene, rng: Random) -> list[Said]:
    """A question about a picture and what may follow it in fewer words; empty where the picture allows none."""
    return rng.choice(FOLLOWING)(scene, rng)
