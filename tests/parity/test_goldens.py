"""Logits against golden files made by transformers 5.23, those of videos by 5.24, in float32; needs no torch."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from tests.parity.cases import CASES, SHAPES, TOLERANCE, rows_of
from tests.tiny import DENSE, MOE, Shape

GOLDENS = Path(__file__).parent / "goldens"


STEPS = {"whole": None, "chunks of 7": 7, "token by token": 1}
# Where images and videos stand decides how a prompt is cut, which the dense model shows; the others show that each
# kind of layer goes on from what it kept, behind text and behind both kinds of media.
CUT_BY_ALL = ("text", "an image, then a video")


def _readings() -> list[Any]:
    """The small models read every case; which cuts, and which cases of the others, are left to the thorough tests."""
    readings = []
    for shape, name, (way, step) in product(SHAPES, CASES, STEPS.items()):
        slow = name == "image after long text" and step == 1
        often = name in CUT_BY_ALL or (shape is DENSE and not slow) or (shape is MOE and step is None)
        marks = [] if often else [pytest.mark.thorough]
        readings.append(pytest.param(shape, name, step, marks=marks, id=f"{shape.name}-{name}-{way}"))
    return readings


@pytest.mark.some(12)
@pytest.mark.parametrize(("shape", "name", "step"), _readings())
def test_logits_equal_the_reference(
    shape: Shape, name: str, step: int | None, kits: Callable[[Shape], ModelKit]
) -> None:
    """float32, largest difference TOLERANCE of the largest logit, equal argmax at every position."""
    with np.load(GOLDENS / f"{shape.name}.npz") as file:
        argmax, expected, scale = (file[f"{name}/{part}"] for part in ("argmax", "logits", "scale"))
    case, kit = CASES[name], kits(shape)
    prompt = kit.process_prompt(case.input_ids, **case.media)
    logits = np.array(kit.logits(prompt, prefill_step_size=step))
    np.testing.assert_array_equal(logits.argmax(-1), argmax)
    assert np.abs(logits[rows_of(len(logits))] - expected).max() <= TOLERANCE * scale


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.image_sizes or case.video_sizes])
def test_positions_equal_the_reference(name: str, kit: ModelKit) -> None:
    """Every axis of every token, and the rope delta."""
    with np.load(GOLDENS / "dense.npz") as file:
        positions, rope_delta = file[f"{name}/positions"], file[f"{name}/rope_delta"]
    prompt = kit.process_prompt(CASES[name].input_ids, **CASES[name].media)
    np.testing.assert_array_equal(prompt.position_ids, positions)
    assert prompt.rope_delta == rope_delta
    assert prompt.rope_delta < 0


def test_text_has_no_positions_of_its_own(kit: ModelKit) -> None:
    prompt = kit.process_prompt(CASES["text"].input_ids)
    assert prompt.position_ids is None
    assert prompt.rope_delta == 0
