"""Pictures in turns of their own, one after the other: who gives no number means the newest."""

from dataclasses import replace
from random import Random

from tools.box.about_pictures import one_picture, single, want_numbers, want_shapes
from tools.box.about_places import place_name
from tools.box.asking import label, told
from tools.box.dialogues import Dialogue, Picture, Tasks, Turn
from tools.box.placing import random_scene
from tools.box.wordings import ask, sentence

TASKS = Tasks()
# Asked when a picture came before it: what the newest one shows.
_THIS_ONE = (
    "and this one", "and this", "and [this|that] {pic}", "what about this [one|{pic}|]", "how about this[ one|]",
    "[now|next]: what is this", "and what is this[ one|]", "what is this one", "and here", "and now", "this one",
    "what {see} [here|now]", "[and |]the next one", "now this one", "what does this {pic} show", "and in this one",
    "[here is another {pic}.|another one.|next {pic}.|one more.] what is this", "describe this one[| too].",
)  # fmt: skip


@TASKS.add("the same of the next", 0.25)
def the_same_of_the_next(rng: Random) -> Dialogue:
    """One question about a picture, and of those that follow in fewer words: it is asked again."""
    task = rng.choice(["colour", "shape", "where", "how_many", "read", "which_side"])
    whole = {"colour": "what {color} is it", "shape": "what shape is it", "where": "where is it",
             "how_many": "how many {things} are there", "read": "[what|which] number is this",
             "which_side": f"what is on the {rng.choice(['left', 'right'])}"}[task]  # fmt: skip
    turns: list[Turn] = []
    while len(turns) < 2 or (len(turns) < 3 and rng.random() < 0.3):
        several = task in ("how_many", "which_side")
        scene = random_scene(rng, want_numbers if task == "read" else want_shapes)
        if (len(scene.things) != 1) != several or not scene.things:
            continue
        thing = scene.extreme(whole.split()[-1]) if task == "which_side" else scene.things[0]
        place = place_name(scene, scene.things[0])
        if thing is None or (task == "where" and place is None):
            continue
        answer = {"colour": f"the {thing.kind} is {thing.colour}", "where": place or "",
                  "how_many": str(len(scene.things)), "read": thing.digits}.get(task, label(thing))  # fmt: skip
        form = whole if not turns else rng.choice([*_NEXT, "and " + whole])
        turns.append(Turn(task, ask(form, rng), sentence(answer), told(scene), (Picture(scene),), rng.random() < 0.08))
    return Dialogue(tuple(turns))


# What was asked before is asked again.
_NEXT = ("and in this one", "and this one", "and here", "and now", "what about this one", "and this {pic}", "this one",
         "same question", "and in this {pic}", "how about here", "next one")  # fmt: skip


@TASKS.add("one after another", 0.4)
def one_after_another(rng: Random) -> Dialogue:
    """Pictures in turns of their own, each asked about when it comes: who gives no number means the newest."""
    alike = rng.random() < 0.6
    turns: list[Turn] = []
    for number in range(rng.choice([2, 2, 3])):
        opening, *more = (single("describe", rng) if alike else one_picture(rng)).turns
        if alike and number and rng.random() < 0.8:
            opening = replace(opening, question=ask(rng.choice(_THIS_ONE), rng))
        turns += [opening, *more[: rng.choice([0, 0, 1])]]
    return Dialogue(tuple(turns))
