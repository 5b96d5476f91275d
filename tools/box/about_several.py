"""Questions across two or three pictures."""

from collections.abc import Sequence
from random import Random

from tools.box.about_both import elliptical, single_things
from tools.box.about_pictures import want_numbers
from tools.box.about_places import place_name
from tools.box.across import SEVERAL as SEVERAL
from tools.box.across import (
    Asked,
    about_several,
    ask_across,
    in_words,
    numbered,
    summaries,
    which_answer,
)
from tools.box.asking import label, told
from tools.box.changes import change
from tools.box.dialogues import Dialogue, Picture, Tasks, Turn
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS
from tools.box.placing import Wanted, random_scene, random_wanted
from tools.box.scenes import NUMBER, Scene, Thing
from tools.box.wordings import article, ask, called, plural, sentence

TASKS = Tasks()
# Tasks whose pictures are made for them.
OWN_PICTURES = ("digits_of", "larger_number_of", "changed")
ABOUT_NUMBERS = ("digits_of", "larger_number_of")


@about_several
def which_picture(scenes: Sequence[Scene], rng: Random) -> Asked:
    found: dict[tuple[str, str], int] = {}
    for key in ("kind", "colour", "both"):
        values = [
            {
                (thing.kind if key != "colour" else "", thing.colour if key != "kind" else "")
                for thing in scene.things
                if thing.kind != NUMBER
            }
            for scene in scenes
        ]
        for value in set.union(*values):
            holders = [number for number, has in enumerate(values) if value in has]
            if len(holders) == 1:
                found[value] = holders[0]
    if not found:
        return None
    kind, colour = rng.choice(sorted(found))
    what = " ".join(called(word, rng) for word in (colour, kind or "thing") if word)
    form = rng.choice(
        [
            "which {pic} [shows|has|contains] {0}",
            "which {pic} is {0} in",
            "in which {pic} is [there |]{0}",
            "where is {0}: in which {pic}",
            "[what|which] [one|{pic}] [has|has got|is the one with] {0}",
            "which of the [{1} |]{pic}s [shows|has|contains] {0}",
            "which of the {1} [{pic}s|][ is it|] that has {0}",
            "which of [these|them|the {1}] [shows|has] {0}",
            "in [what|which] {pic} do you see {0}",
            "in [what|which] [{pic}|one] is {0}",
            "[what|which] {pic}[ is it|,] that has {0}",
            "where do you see {0}",
            "which {pic} [includes|displays|depicts] {0}",
            "find the {pic} [with|that has|that shows] {0}.",
            "which is the {pic} with {0}",
            "which {pic} can i [see|find] {0} in",
            "on which {pic} is {0}",
            "i am looking for {0}: which {pic}",
            "tell me which {pic} [has|shows] {0}.",
        ]
    )
    named = f"the {what}" if rng.random() < 0.3 else article(what)
    return ask_across(form, rng, named, in_words(scenes)), which_answer(found[kind, colour])


def _named(scene: Scene) -> dict[str, Thing]:
    """Things that one word names."""
    return {thing.kind: thing for thing in scene.unique("kind")} | {
        thing.colour: thing for thing in scene.unique("colour")
    }


def _shared(scenes: Sequence[Scene], rng: Random) -> tuple[int, str, Thing] | None:
    """A thing whose name fits a thing in another picture too: only its own picture gives the answer."""
    named = [_named(scene) for scene in scenes]
    found = [
        (number, word, thing)
        for number, things in enumerate(named)
        for word, thing in things.items()
        if any(word in others for other, others in enumerate(named) if other != number)
    ]
    if not found or rng.random() < 0.25:
        found = [(number, word, thing) for number, things in enumerate(named) for word, thing in things.items()]
    return rng.choice(found) if found else None


@about_several
def attribute_in(scenes: Sequence[Scene], rng: Random) -> Asked:
    found = _shared(scenes, rng)
    if found is None:
        return None
    number, word, thing = found
    of = numbered(number, rng, len(scenes))
    if word == thing.kind:
        form = rng.choice(
            [
                "what {color} is the {0} in {1}",
                "what {color} is the {0} in {1}",
                "in {1}, what {color} is the {0}",
                "what is the {color} of the {0} in {1}",
                "which {color} does the {0} in {1} have",
            ]
        )
        return ask_across(form, rng, called(word, rng), of), sentence(f"the {thing.kind} is {thing.colour}")
    form = rng.choice(
        [
            "what is the {0} [thing|shape|one] in {1}",
            "which shape is {0} in {1}",
            "in {1}, what is {0}",
            "what is {0} in {1}",
            "which [shape|thing] in {1} is {0}",
        ]
    )
    return ask_across(form, rng, called(word, rng), of), sentence(label(thing))


@about_several
def where_in(scenes: Sequence[Scene], rng: Random) -> Asked:
    found = _shared(scenes, rng)
    if found is None:
        return None
    number, word, thing = found
    place = place_name(scenes[number], thing)
    if place is None:
        return None
    name = called(word, rng) + ("" if word == thing.kind else rng.choice([" thing", " shape", " one"]))
    form = rng.choice(["where is the {0} in {1}", "where in {1} is the {0}", "in {1}, where is the {0}",
                       "where [do you see|can i find] the {0} in {1}", "[find|locate] the {0} in {1}.",
                       "in which [part|corner] of {1} is the {0}", "what is the [position|place] of the {0} in {1}",
                       "on which side of {1} is the {0}"])  # fmt: skip
    return ask_across(form, rng, name, numbered(number, rng, len(scenes))), sentence(place)


@about_several
def describe_in(scenes: Sequence[Scene], rng: Random) -> Asked:
    number = rng.randrange(len(scenes))
    form = rng.choice(["what is in {0}", "what is in {0}", "describe {0}.", "what {see} in {0}", "what does {0} show",
                       "what is shown in {0}", "and {0}", "what about {0}", "tell me about {0}."])  # fmt: skip
    return ask_across(form, rng, numbered(number, rng, len(scenes))), told(scenes[number])


@about_several
def describe_all(scenes: Sequence[Scene], rng: Random) -> Asked:
    form = rng.choice(
        [
            "describe the {pic}s.",
            "what do the {pic}s show",
            "what {see}",
            "what is in the {pic}s",
            "describe [them|all of them|each {pic}].",
            "what are these",
            "what is in each {pic}",
        ]
    )
    return ask(form, rng), summaries(scenes)


@about_several
def count_in(scenes: Sequence[Scene], rng: Random) -> Asked:
    number = rng.randrange(len(scenes))
    things = scenes[number].things
    if rng.random() < 0.6:
        form = rng.choice(
            [
                "how many {things} are in {0}",
                "how many {things} {see} in {0}",
                "count the {things} in {0}.",
                "how many {things} does {0} have",
                "how many are in {0}",
            ]
        )
        return ask_across(form, rng, numbered(number, rng, len(scenes))), f"{len(things)}."
    form = rng.choice(["how many {1} are [there |]in {0}", "how many {1} {see} in {0}", "count the {1} in {0}."])
    kind = rng.choice(things).kind if things and rng.random() < 0.7 else rng.choice(SHAPES)
    count = sum(thing.kind == kind for thing in things)
    return ask_across(form, rng, numbered(number, rng, len(scenes)), plural(called(kind, rng))), f"{count}."


@about_several
def count_all(scenes: Sequence[Scene], rng: Random) -> Asked:
    if rng.random() < 0.4:
        form = rng.choice(
            ["how many {pic}s are there", "how many {pic}s {see}", "how many {pic}s did i [send|show you]"]
        )
        return ask(form, rng), f"{len(scenes)}."
    form = rng.choice(
        [
            "how many {things} are there in [all|total|all {pic}s|both {pic}s]",
            "how many {things} in total",
            "count the {things} in all {pic}s.",
            "how many {things} {see} in all",
            "how many {things} are there [altogether|all together|overall]",
            "what is the total number of {things}",
            "add up the {things} of all {pic}s.",
            "how many {things} do the {pic}s [show|have] [together|in total]",
        ]
    )
    if "both" in form and len(scenes) > 2:
        form = form.replace("|both {pic}s", "")
    return ask(form, rng), f"{sum(len(scene.things) for scene in scenes)}."


@about_several
def more(scenes: Sequence[Scene], rng: Random) -> Asked:
    counts = [len(scene.things) for scene in scenes]
    few = rng.random() < 0.25
    best = min(counts) if few else max(counts)
    if counts.count(best) > 1:
        return None
    word = ("fewer" if few else "more") if len(scenes) == 2 else ("the fewest" if few else "the most")
    form = rng.choice(["which {pic} [has|shows|contains] {0} {things}", "which {pic} has {0} {things}",
                       "in which {pic} are [there |]{0} {things}", "which one has {0} {things}",
                       "where are [there |]{0} {things}, in which {pic}",
                       "which of the [{1} |]{pic}s has {0} {things}", "which {pic} do you see {0} {things} in",
                       "which has [got |]{0} {things}", "which of the {1} has {0} {things}"])  # fmt: skip
    return ask_across(form, rng, word, in_words(scenes)), which_answer(counts.index(best))


@about_several
def same(scenes: Sequence[Scene], rng: Random) -> Asked:
    if len(scenes) != 2:
        return None
    one, other = ([(thing.kind, thing.colour, thing.digits) for thing in scene.things] for scene in scenes)
    if rng.random() < 0.6 or len(one) != 1 or len(other) != 1:
        form = rng.choice(
            [
                "are [the|both] [{pic}s|two {pic}s] the same",
                "are they the same",
                "do both {pic}s show the same",
                "is the second {pic} the same as the first",
                "do the {pic}s show the same {things}",
                "are the [two |]{pic}s [identical|alike|equal]",
                "is {pic} 2 the same as {pic} 1",
                "do they show the same",
            ]
        )
        return ask(form, rng), "Yes." if sorted(one) == sorted(other) else "No."
    key = rng.randrange(2)
    form = rng.choice(["are they the same {0}", "do both have the same {0}", "is the {0} the same in both {pic}s"])
    return ask_across(form, rng, ("shape", "{color}")[key]), "Yes." if one[0][key] == other[0][key] else "No."


@about_several
def digits_of(scenes: Sequence[Scene], rng: Random) -> Asked:
    if any(len(scene.things) != 1 or scene.things[0].kind != NUMBER for scene in scenes):
        return None
    if rng.random() < 0.35:
        number = rng.randrange(len(scenes))
        form = rng.choice(
            ["[what|which] number is in {0}", "read {0}.", "what does {0} say", "what number does {0} show"]
        )
        return ask_across(form, rng, numbered(number, rng, len(scenes))), f"{scenes[number].things[0].digits}."
    form = rng.choice(
        [
            "[what|which] numbers do the {pic}s show",
            "read the numbers[| in the {pic}s].",
            "what do they say",
            "[which|what] numbers {see}",
            "what are the numbers",
            "read [them|the {pic}s].",
        ]
    )
    return ask(form, rng), f"{', '.join(scene.things[0].digits for scene in scenes)}."


def scenes_for(task: str, rng: Random) -> list[Scene]:
    """Pictures that a task across pictures may be asked about."""
    if task == "changed":
        return change(rng)
    if task == "alike_in":
        return single_things(rng)
    count = rng.choice([2, 2, 2, 3])
    if task in ABOUT_NUMBERS:
        return [random_scene(rng, lambda chance: want_numbers(chance)[:1]) for _ in range(count)]
    if task in ("same", "whether_same") and rng.random() < 0.4:
        return [random_scene(rng, lambda chance: random_wanted(chance.choice([1, 1, 2, 3]), chance))] * 2
    # Few kinds and colours, so that the pictures share some.
    kinds, colours = rng.sample(SHAPES, 3), rng.sample(COLOURS, 4)
    most = rng.choice([1, 1, 2, 3] if task == "which_picture" else [1, 2, 3, 4])

    def want(chance: Random) -> list[Wanted]:
        return random_wanted(chance.randint(1, most), chance, kinds=kinds, colours=colours)

    return [random_scene(rng, want) for _ in range(count)]


def _show(scenes: Sequence[Scene], questions: list[tuple[str, str, str]], rng: Random) -> Dialogue:
    """The pictures, together or one after the other, and the questions (task, question, answer)."""
    pictures = tuple(Picture(scene) for scene in scenes)
    turns = []
    if rng.random() < 0.2:
        for picture in pictures[:-1]:
            question = ask(rng.choice(["what is this", "what {see}", "describe the {pic}."]), rng)
            turns.append(Turn("describe", question, told(picture.scene), told(picture.scene), (picture,)))
        pictures = pictures[-1:]
    reasoning = summaries(scenes)
    (task, question, answer), *following = questions
    turns.append(Turn(task, question, answer, reasoning, pictures, rng.random() < 0.08))
    turns += [Turn(task, question, answer, reasoning) for task, question, answer in following]
    return Dialogue(tuple(turns))


def several(task: str, rng: Random) -> Dialogue:
    """Two or three pictures and one question across them."""
    while True:
        scenes = scenes_for(task, rng)
        asked = SEVERAL[task](scenes, rng)
        if asked is not None:
            return _show(scenes, [(task, *asked)], rng)


@TASKS.add("in fewer words", 0.12)
def in_fewer_words(rng: Random) -> Dialogue:
    """A question across pictures, and others that leave out what it said."""
    while True:
        scenes = scenes_for(rng.choice(["alike_in", "which_picture", "which_picture"]), rng)
        questions = elliptical(scenes, rng)
        if len(questions) > 1:
            return _show(scenes, questions, rng)


@TASKS.add("several pictures", 1.0)
def several_pictures(rng: Random) -> Dialogue:
    """One to five questions across pictures."""
    often = ["changed"] * 3 + ["which_picture"] * 8 + ["more", "more", "alike_in", "count_in", "digits_of", "where_in"]
    task = rng.choice([*often, *SEVERAL])
    scenes = scenes_for(task, rng)
    names = [task]
    others = [name for name in SEVERAL if name not in OWN_PICTURES]
    if task in ABOUT_NUMBERS:
        others = [*ABOUT_NUMBERS, "describe_in", "count_all"]
    elif task == "changed":
        others = ["describe_in", "count_in", "more", "same", "attribute_in", "where_in", "describe_all"]
    names += rng.choices(others, k=rng.choice([0, 1, 2, 3, 4, 5]))
    asked = [(name, SEVERAL[name](scenes, rng)) for name in dict.fromkeys(names)]
    questions = [(name, *found) for name, found in asked if found is not None]
    return _show(scenes, questions, rng) if questions else several_pictures(rng)
