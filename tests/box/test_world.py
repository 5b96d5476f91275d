"""The small world: pictures are the same every time, fit what is said of them, and reach the model as others do."""

from random import Random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.prompts.images import ImagePreprocessor
from tools.box import about_pictures, about_several
from tools.box.about_pictures import ONE_PICTURE, any_scene
from tools.box.asking import NOTHING, told
from tools.box.drawing import _blurred, draw
from tools.box.labels import TOLD
from tools.box.labels import told as labels_of
from tools.box.numbers import _written
from tools.box.off_topic import off_topic_question
from tools.box.palette import COLOURS, SHADES, contrast
from tools.box.placing import CONTRAST, nothing, random_scene, random_wanted
from tools.box.prepare import size_of
from tools.box.scenes import KINDS, Scene
from tools.box.wordings import ask, fill

SCENES = [any_scene(Random(f"world-{number}")) for number in range(24)]


@pytest.mark.parity
def test_patches_are_those_of_the_runtimes_image_processor() -> None:
    cutting = pytest.importorskip("tools.box.cutting", reason="needs the parity extra")
    vision = ModelConfig.from_file(BOX / "config.json").vision
    assert vision is not None
    preprocessor = ImagePreprocessor(BOX, vision)
    for scene in SCENES[:4]:
        image = draw(scene)
        assert preprocessor(image).merged_grid_thw == (1, *scene.grid)
        # Resized alike, so that only what follows is compared.
        image = Image.fromarray(cutting.resized(image, size_of(*image.size)))
        once = cutting.cut(image, image.size).reshape(-1, 3, 1, 256)
        pixels = np.broadcast_to(once, (len(once), 3, 2, 256)).reshape(len(once), -1).astype(np.float32) / 127.5 - 1
        np.testing.assert_allclose(preprocessor(image).pixel_values, pixels, atol=1e-6)


@pytest.mark.parity
def test_resizing_is_pillows_but_for_rounding() -> None:
    cutting = pytest.importorskip("tools.box.cutting", reason="needs the parity extra")
    for scene in SCENES[:8]:
        image = draw(scene)
        size = size_of(*image.size)
        expected = np.asarray(image.resize(size, Image.Resampling.BICUBIC)).astype(int)
        apart = np.abs(cutting.resized(image, size) - expected)
        # Each axis alone differs by rounding; between the two, values beyond 0 and 255 are clipped.
        assert (apart > 1).mean() < 0.01
        assert apart.max() < 16


@pytest.mark.parametrize("radius", [0.4, 0.8, 1.2])
def test_blurring_is_pillows_but_for_rounding(radius: float) -> None:
    image = draw(random_scene(Random(6), lambda rng: random_wanted(3, rng)))
    expected = np.asarray(image.filter(ImageFilter.GaussianBlur(radius))).astype(int)
    apart = np.abs(_blurred(image, radius) - expected)
    # Pillow rounds after every one of six passes.
    assert apart.max() <= 3
    assert apart.mean() < 0.05


def test_things_stand_on_the_canvas_apart_and_in_the_order_of_reading() -> None:
    for scene in SCENES:
        cells = [scene.cell(thing) for thing in scene.things]
        assert cells == sorted(set(cells))
        for number, thing in enumerate(scene.things):
            assert thing.x - thing.width / 2 >= -1
            assert thing.x + thing.width / 2 <= scene.width + 1
            assert not any(thing.overlaps(other, 0.0) for other in scene.things[:number])
            assert all(contrast(thing.form.rgb, rgb) > CONTRAST for rgb in scene.ground.rgbs)


def test_a_picture_is_the_same_every_time() -> None:
    for number in range(3):
        one, other = (draw(any_scene(Random(f"again-{number}"))) for _ in range(2))
        assert one.tobytes() == other.tobytes()


def test_every_thing_is_told_of_at_the_token_that_holds_its_middle() -> None:
    names = list(TOLD)
    for scene in SCENES:
        found = labels_of(scene).reshape(*scene.grid, len(TOLD))
        assert (found[:, :, names.index("kind")] > 0).sum() == len(scene.things)
        for thing in scene.things:
            token = dict(zip(names, found[scene.cell(thing)].tolist(), strict=True))
            assert token["kind"] == 1 + KINDS.index(thing.kind)
            assert token["colour"] == COLOURS.index(thing.colour)
            digits = [token[f"digit {slot}"] - 1 for slot in range(1, 5) if token[f"digit {slot}"] > 0]
            assert "".join(map(str, digits)) == thing.digits


def test_nothing_is_called_nothing() -> None:
    scene = nothing(Random(1))
    assert told(scene) == NOTHING
    assert about_pictures.single("describe", Random(1)).turns[0].answer.endswith(".")


@pytest.mark.parametrize("task", sorted(ONE_PICTURE))
def test_answers_are_short_sentences(task: str) -> None:
    turn = about_pictures.single(task, Random(task)).turns[0]
    assert turn.question.strip()
    assert turn.answer.endswith(".")
    assert turn.answer[0].isupper() or turn.answer[0].isdigit()


def test_pairs_differ_in_what_is_said_to_have_changed() -> None:
    for number in range(12):
        dialogue = about_several.several("changed", Random(f"changed-{number}"))
        scenes: list[Scene] = [picture.scene for turn in dialogue.turns for picture in turn.media]  # type: ignore[union-attr]
        before, after = ({(thing.kind, thing.colour, thing.x, thing.y) for thing in scene.things} for scene in scenes)
        said = dialogue.turns[-1].answer
        assert (said == "Nothing changed.") == (before == after)
        assert ("appeared" in said) == (len(after) > len(before))
        assert ("is gone" in said) == (len(after) < len(before))


def test_shades_of_one_name_are_no_other_names() -> None:
    """Nearer to a shade of their own name than to any of another."""
    for name, shades in SHADES.items():
        for one in shades:
            own = min((contrast(one, other) for other in shades if other != one), default=0.0)
            others = min(contrast(one, other) for word, found in SHADES.items() if word != name for other in found)
            assert others > 15, (name, one, own)


def test_choices_in_patterns() -> None:
    rng = Random(1)
    assert {fill("[a|b [c|d]]", rng) for _ in range(60)} == {"a", "b c", "b d"}
    assert ask("say it.", Random(2)).strip()


def test_questions_that_it_was_not_made_for_are_many() -> None:
    assert len({off_topic_question(Random(number)).lower() for number in range(400)}) > 330


def test_written_digits_have_ink_where_their_middles_are() -> None:
    mask = _written("888", 60, Random(4))
    assert len(mask.centres) == 3
    assert [x for x, _ in mask.centres] == sorted(x for x, _ in mask.centres)
    assert mask.image.getbbox() is not None


def test_kinds_that_are_asked_for_are_drawn() -> None:
    scene = random_scene(Random(5), lambda rng: random_wanted(3, rng, kinds=("star", "heart", "oval"), alike=False))
    assert sorted(thing.kind for thing in scene.things) == ["heart", "oval", "star"]


def test_batches_are_full_and_of_nearly_one_length() -> None:
    batches = pytest.importorskip("tools.box.batches", reason="needs the parity extra")

    class Long:
        def __init__(self, length: int) -> None:
            self.input_ids = range(length)

    rng = Random(8)
    examples = [Long(rng.choice([30, 60, 140, 500, 2500])) for _ in range(300)] + [Long(9000)]
    groups, rest = batches.grouped(examples, 6000)
    assert sorted(map(id, (one for group in [*groups, rest] for one in group))) == sorted(map(id, examples))
    assert [len(one.input_ids) for one in groups[0]] == [9000]  # longer than a batch: alone
    for group in groups[1:]:
        longest = max(len(one.input_ids) for one in group)
        assert len(group) * longest <= 6000 < (len(group) + 1) * longest
    assert max(len(one.input_ids) for one in rest) <= min(len(one.input_ids) for one in groups[-1])
    assert batches.grouped(examples[:1], 6000) == ([examples[:1]], [])
