"""The questions themselves: always the same for a seed, with pictures that show what is expected of the answers."""

import importlib
import math
from random import Random

import pytest

from tools.judge.asking import weigh
from tools.judge.expectation import Call, Expectation
from tools.judge.groups import GROUPS, questions
from tools.judge.question import Question
from tools.judge.scene import CANVASES, SHADES, STYLES, Scene, any_pairs, lab, rgb_of, scene, stands_out
from tools.judge.verdict import judge
from tools.judge.words import COLOURS

COUNT = 40
DRAWN = ("one picture", "several pictures", "off-topic", "well-formed calls")


@pytest.fixture
def skia() -> None:
    pytest.importorskip("skia", reason="needs the judge extra (skia-python)", exc_type=ImportError)


@pytest.fixture
def fonts(skia: None) -> None:
    module = importlib.import_module("tools.judge.fonts")
    try:
        module.files()
    except module.MissingFontsError as error:
        pytest.skip(str(error)[:200])


def answer_to(wanted: Expectation) -> str:
    """An answer that somebody might give who knows what is right."""
    if wanted.abilities:
        return "I can only talk about shapes, colours and numbers."
    if wanted.yes is not None:
        return "Yes." if wanted.yes else "No."
    if wanted.pairs is not None:
        return " and ".join(f"a {colour} {shape}" for colour, shape in wanted.pairs) + "."
    if wanted.target:
        return f"The {' '.join(wanted.target)}."
    if wanted.picture is not None:
        return f"Picture {wanted.picture}."
    if wanted.number is not None:
        return f"{wanted.number}."
    if wanted.numbers is not None:
        return ", ".join(map(str, wanted.numbers))
    if wanted.spelled:
        return "-".join(wanted.spelled)
    if wanted.exactly:
        return wanted.exactly
    colours, shapes = wanted.colours or (), wanted.shapes or ()
    named = f"The {colours[-1]} {shapes[0]}" if colours and shapes else " ".join((*colours, *shapes))
    return " ".join([named, *(words[0] for words in wanted.all_of)])


def written(question: Question) -> str:
    call = question.expectation.call
    if call is None:
        return answer_to(question.expectation)
    values = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in call.arguments.items())
    return f"<tool_call>\n<function={call.name}>\n{values}</function>\n</tool_call>"


def right_and_wrong(group: str) -> None:
    for question in questions(group, COUNT):
        assert weigh(question, written(question), False).faults == [], question.text
        assert weigh(question, "A teal hexagon, 4711.", False).faults != [], question.text


def test_text_can_be_answered_rightly_and_wrongly() -> None:
    right_and_wrong("text")


@pytest.mark.thorough
@pytest.mark.usefixtures("skia")
@pytest.mark.parametrize("group", DRAWN)
def test_what_is_drawn_can_be_answered_rightly_and_wrongly(group: str) -> None:
    right_and_wrong(group)


@pytest.mark.usefixtures("fonts")
def test_numbers_can_be_answered_rightly_and_wrongly() -> None:
    right_and_wrong("numbers")


@pytest.mark.thorough
@pytest.mark.usefixtures("skia")
def test_clips_can_be_answered_rightly_and_wrongly_and_their_frames_differ() -> None:
    clips = importlib.import_module("tools.judge.clips").clips
    for clip in clips(20):
        assert judge(answer_to(clip.expectation), clip.expectation) == [], (clip.kind, clip.text)
        assert judge("A teal hexagon.", clip.expectation) != []
        assert clip.frames[0].tobytes() != clip.frames[-1].tobytes()
        assert {frame.size for frame in clip.frames} == {clip.frames[0].size}


@pytest.mark.usefixtures("fonts")
@pytest.mark.parametrize("group", GROUPS)
def test_a_seed_makes_the_same_questions_whatever_the_count(group: str) -> None:
    def made(count: int, seed: int) -> list[tuple[str, Expectation, list[bytes]]]:
        found = list(questions(group, count, seed))
        return [(one.text, one.expectation, [image.tobytes() for image in one.images]) for one in found]

    assert made(5, 3) == made(8, 3)[:5]
    assert made(5, 3) != made(5, 4)


def test_words_alone_are_asked_once() -> None:
    assert len({question.text.lower() for question in questions("text", COUNT)}) == COUNT


def test_a_call_that_is_not_closed_is_not_well_formed() -> None:
    expectation = Expectation(call=Call("play_song", {"title": "Blue Moon"}))
    function = {"name": "play_song", "parameters": {"type": "object", "properties": {"title": {"type": "string"}}}}
    question = Question("call", [], expectation, [{"type": "function", "function": function}])
    right = written(question)
    assert weigh(question, right, False).faults == []
    assert weigh(question, right.removesuffix("\n</tool_call>"), False).faults != []
    assert weigh(question, right + " Done.", False).faults != []
    assert weigh(question, right.replace("Blue", "Red"), False).faults == ["gives title 'Red Moon', not 'Blue Moon'"]


def scenes() -> list[Scene]:
    return [scene(Random(seed), any_pairs(Random(seed), 1 + seed % 6)) for seed in range(120)]


def test_things_stand_out_from_the_background_inside_the_canvas_and_apart() -> None:
    for made in scenes():
        assert (made.width, made.height) in CANVASES
        for number, one in enumerate(made.things):
            assert all(stands_out(one.rgb, part) for part in made.background.colours)
            assert one.style in STYLES
            assert max(one.width, one.height) >= min(made.width, made.height) / 10
            assert min(one.width, one.height) >= 7
            assert one.x - one.width / 2 * 0.9 >= 0
            assert one.x + one.width / 2 * 0.9 <= made.width
            for other in made.things[:number]:
                assert math.dist((one.x, one.y), (other.x, other.y)) > one.reach + other.reach


def test_no_shade_is_close_to_one_of_another_name() -> None:
    named = [(name, lab(rgb_of(value))) for name in COLOURS for value in SHADES[name]]
    closest = min(
        (math.dist(one, other), first, second) for first, one in named for second, other in named if first < second
    )
    assert closest[0] > 20, closest


def test_a_thing_of_the_backgrounds_colour_does_not_stand_out() -> None:
    assert not stands_out((255, 255, 255), (255, 213, 200))
    assert not stands_out((0x5C, 0x3A, 0x1E), (0, 0, 0))
    assert stands_out((0xFF, 0xEA, 0), (255, 255, 255))
