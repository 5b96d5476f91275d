"""Further questions about a clip: yes or no, how it begins and ends, and how many things there are."""

from random import Random

from tools.box.asking import label, told
from tools.box.dialogues import Clip
from tools.box.scenes import NUMBER, Thing
from tools.box.wordings import ask, called, sentence

Asked = tuple[str, str] | None
_CLIP = "[clip|video]"


def _whether(name: str, rng: Random) -> Asked:
    """Whether something of a kind happens."""
    if name == "counts":
        return None
    asked, form = rng.choice([
        ("moves", "does [anything|something|it] move"), ("moves", "is [it|anything|something] moving[| or not]"),
        ("appears", "does [anything|something] appear"), ("disappears", "does [anything|something] disappear"),
        ("disappears", "does [anything|something] vanish"), ("turns", "does [anything|something] change its {color}"),
        ("turns", "does the {color} change"), ("", "does anything [change|happen][| in the [clip|video]]"),
        ("appears", "[did|does] [anything|something] [appear|appear or not|new appear]"),
        ("appears", "[did|does] [anything|something][| new] [show up|come in]"),
        ("disappears", "[did|does] [anything|something] [go away|disappear|vanish|disappear or not]"),
        ("disappears", "is [anything|something] gone at the end"), ("moves", "did [anything|something|it] move"),
        ("turns", "did [anything|something] change [its|the] {color}"),
    ])  # fmt: skip
    if asked == "":
        return ask(form, rng), "No." if name == "rests" else "Yes."
    return ask(form, rng), "Yes." if asked == name else "No."


def _moving(what: str, kind: str, rng: Random) -> Asked:
    """Either-or, and yes or no, about where it moves."""
    low, high = ("left", "right") if what in ("left", "right") else ("up", "down")
    it = rng.choice(["it", f"the {kind}", f"the {kind}"])
    if rng.random() < 0.5:
        pair = rng.sample([low, high], 2)
        form = rng.choice([f"does {it} [move|go] {pair[0]} or {pair[1]}",
                           f"is {it} [moving|going] {pair[0]} or {pair[1]}",
                           f"{pair[0]} or {pair[1]}"])  # fmt: skip
        return ask(form, rng), sentence(what)
    asked = what if rng.random() < 0.5 else rng.choice([way for way in ("left", "right", "up", "down") if way != what])
    to = rng.choice(["to the ", ""]) if asked in ("left", "right") else ""
    form = rng.choice([
        f"does {it} [move|go] {to}{asked}", f"is {it} [moving|going] {to}{asked}", f"did {it} [move|go] {to}{asked}",
        f"did {it} [move|go] {to}{asked}[| or not]", f"so {it} [goes|moves|went|moved] {to}{asked}",
        f"{it} [goes|moves|went|moved] {to}{asked}, right", f"has {it} [moved|gone] {to}{asked}",
        f"was {it} [moving|going] {to}{asked}", f"so {it} is [moving|going] {to}{asked}",
    ])  # fmt: skip
    return ask(form, rng), "Yes." if asked == what else "No."


def _counting(what: str, rng: Random) -> Asked:
    """The first and last number, how many, and whether they go up or down."""
    numbers = what.split(", ")
    chance = rng.random()
    if chance < 0.3:
        form = rng.choice(["what is the last number", "[which|what] number is shown last", "what number is at the end",
                           "[which|what] number comes last", f"what is the last number in the {_CLIP}"])  # fmt: skip
        return ask(form, rng), f"{numbers[-1]}."
    if chance < 0.6:
        form = rng.choice(["what is the first number", "[which|what] number is shown first",
                           "what number is at the start",
                           "[which|what] number comes first", f"what is the first number in the {_CLIP}"])  # fmt: skip
        return ask(form, rng), f"{numbers[0]}."
    if len(numbers) < 2:
        return None
    if chance < 0.88:
        return _way_of_numbers(int(numbers[1]) > int(numbers[0]), rng)
    at = rng.randrange(len(numbers) - 1)
    form = rng.choice(
        [f"what [number |]comes after {numbers[at]}", f"which number [follows|comes after] {numbers[at]}"]
    )
    return ask(form, rng), f"{numbers[at + 1]}."


def _way_of_numbers(up: bool, rng: Random) -> Asked:
    """Whether they go up or down: which of the two, yes or no, or what happens with them."""
    chance = rng.random()
    if chance < 0.4:
        form = rng.choice([
            "does it count [up or down|down or up]", "is it counting [up or down|down or up]",
            "do the numbers go [up or down|down or up]", f"does the {_CLIP} count up or down",
            "[up or down|down or up]", "did the numbers go up or down", "which way do the numbers go",
        ])  # fmt: skip
        return ask(form, rng), "Up." if up else "Down."
    if chance < 0.7:
        asked = rng.random() < 0.5
        way = "up" if asked else "down"
        form = rng.choice([f"do the numbers [go|count] {way}", f"is it counting {way}", f"does it count {way}",
                           f"so [it counts|the numbers go] {way}", f"did [it count|the numbers go] {way}",
                           f"are the numbers [going|counting] {way}", f"is this counting {way}",
                           f"do the numbers get [{'larger|bigger|higher' if asked else 'smaller|lower'}]"])  # fmt: skip
        return ask(form, rng), "Yes." if asked == up else "No."
    form = rng.choice(["what happens [with|to] the numbers[| here| in the clip| in this video]",
                       "what do the numbers do", "what are the numbers doing", "how do the numbers change",
                       "what is happening [with|to] the numbers", "what happened [with|to] the numbers",
                       "what does the number do", "how does the number change"])  # fmt: skip
    return ask(form, rng), f"The numbers count {'up' if up else 'down'}."


def _whole_time(name: str, thing: Thing, clip: Clip, rng: Random) -> Asked:
    """Whether something is there from the start to the end."""
    kinds = [{one.kind for one in scene.things} for scene in clip.scenes]
    if name in ("appears", "disappears") and rng.random() < 0.7:
        kind = thing.kind
    else:
        kind = rng.choice(sorted(set.union(*kinds)))
    right = all(kind in found for found in kinds)
    time = "[the whole time|the whole time|all the time|all along|throughout|from [start|beginning] to end|always]"
    form = rng.choice([f"is {{0}} there {time}", f"was {{0}} there {time}", f"[do|can] you see {{0}} {time}",
                       f"is {{0}} [visible|shown] {time}", f"does {{0}} stay [there|visible|in the {_CLIP}] {time}",
                       f"is {{0}} in the {_CLIP} {time}", "is {0} in every [frame|picture]",
                       f"so {{0}} is there {time}"])  # fmt: skip
    return ask(form.replace("{0}", f"the {called(kind, rng)}"), rng), "Yes." if right else "No."


def stays(thing: Thing, clip: Clip, rng: Random) -> Asked:
    """Of two things the one that rests, or the one that does not."""
    others = [other for other in clip.scenes[0].things if other.kind != thing.kind]
    if len(others) != 1 or len(clip.scenes[0].things) != 2:
        return None
    one = "[one|one|{thing}|shape|of them|of the two]"
    if rng.random() < 0.4:
        form = rng.choice([f"which {one} [moves|moved|is moving|does move]", "[what|which] is the one that moves",
                           f"which {one} [goes|is going] somewhere", "what is it that moves"])  # fmt: skip
        return ask(form, rng), sentence(label(thing))
    form = rng.choice([f"which {one} [stays|stays put|does not move|doesn't move|stands still|stayed put]",
                       f"which {one} is not moving",
                       "what [stays|stays put|does not move|doesn't move|stands still|stays where it is|rests]",
                       f"which {one} [stays|remains] in [its|the same] place", "and what stays put",
                       "which is the one that [stays put|does not move|stays]", "and which stays[| put]"])  # fmt: skip
    return ask(form, rng), sentence(label(others[0]))


# Asked behind a yes: what it is.
_WHAT = ("what", "what is it", "what was it", "which one", "and what", "what exactly", "what thing", "and what is it",
         "and what was it", "what shape")  # fmt: skip


def whether_and_what(name: str, thing: Thing, rng: Random) -> list[tuple[str, str]]:
    """Whether something appears or disappears, and what, in a second question or in the same one."""
    asked = name if rng.random() < 0.6 else rng.choice(["appears", "disappears"])
    verb = {"appears": "[appear|appear|show up|come in]", "disappears": "[disappear|disappear|vanish|go away]"}.get(
        asked
    )
    if verb is None:
        return []
    form = f"[does|does|did] [anything|something] {verb}"
    right = sentence(label(thing)) if asked == name else "No."
    if rng.random() < 0.35:
        return [(ask(f"{form}[,|] and [what|if so, what|if so, which {{thing}}]", rng), right)]
    found = [(ask(form + "[| in the clip| in the video| here]", rng), "Yes." if asked == name else "No.")]
    return [*found, (ask(rng.choice(_WHAT), rng), right)] if asked == name else found


def _ends(clip: Clip, rng: Random) -> Asked:
    """What there is at the start or at the end."""
    first = rng.random() < 0.5
    scene = clip.scenes[0 if first else -1]
    at = rng.choice(["at the [start|beginning]", "to begin with", "first", "at first",
                     "in the first [frame|picture]"] if first else
                    ["at the end", "in the end", "in the last [frame|picture]", "at the end of the clip"])  # fmt: skip
    if rng.random() < 0.5:
        if at == "first":
            return None
        form = rng.choice([f"how many {{things}} are there {at}", f"how many {{things}} {{see}} {at}"])
        return ask(form, rng), f"{len(scene.things)}."
    if rng.random() < 0.5 and scene.things:
        thing = rng.choice(scene.things)
        if thing.kind != NUMBER and [one.kind for one in scene.things].count(thing.kind) == 1 and at != "first":
            form = rng.choice(["what {color} is {0} {1}", "what {color} does {0} have {1}", "which {color} is {0} {1}",
                               "what {color} was {0} {1}", "which {color} was {0} {1}", "{1}, what {color} is {0}",
                               "and what {color} [was|is] {0} {1}", "what was the {color} of {0} {1}"])  # fmt: skip
            it = "it" if len(scene.things) == 1 and rng.random() < 0.5 else f"the {called(thing.kind, rng)}"
            form = form.replace("{0}", it).replace("{1}", at)
            return ask(form, rng), sentence(thing.colour)
    return ask(rng.choice([f"what {{see}} {at}", f"what is [there|shown] {at}"]), rng), told(scene)


def _names(what: str, thing: Thing, rng: Random) -> Asked:
    """What it is that moves or changes."""
    if what in ("left", "right", "up", "down"):
        form = rng.choice(["[what|which thing|which shape] moves", "what is moving", "what is it that moves"])
        return ask(form, rng), sentence(label(thing))
    if what.startswith("turns "):
        colour = what.removeprefix("turns ")
        if rng.random() < 0.5:
            form = rng.choice(["what {color} was {0} at the [start|beginning]", "what {color} is {0} first",
                               "what {color} did {0} have before", "what {color} was {0} to begin with",
                               "what {color} was {0} [before|at first|originally]", "{0} was what {color} before",
                               "which {color} [did {0} start with|does {0} start with]",
                               "what was the [first|original] {color}"])  # fmt: skip
            form = form.replace("{0}", rng.choice(["it", f"the {called(thing.kind, rng)}"]))
            return ask(form, rng), sentence(thing.colour)
        form = rng.choice(["what {color} is it [now|at the end|afterwards|after that]",
                           "what {color} does it [turn into|become]",
                           "from which {color} to which {color} does it change"])  # fmt: skip
        answer = f"from {thing.colour} to {colour}" if form.startswith("from") else colour
        return ask(form, rng), sentence(answer)
    return None


def further(name: str, what: str, thing: Thing, clip: Clip, rng: Random) -> Asked:
    """One of these questions and its answer, if this clip allows it."""
    kind = called(thing.kind, rng)
    chance = rng.random()
    if name == "counts":
        return _counting(what, rng)
    if chance < 0.3:
        return _whether(name, rng)
    if chance < 0.42:
        return _whole_time(name, thing, clip, rng)
    if name == "moves" and chance < 0.5:
        return stays(thing, clip, rng) or _moving(what, kind, rng)
    if name == "moves" and chance < 0.7:
        return _moving(what, kind, rng)
    if chance < 0.8:
        return _names(what, thing, rng)
    return _ends(clip, rng)
