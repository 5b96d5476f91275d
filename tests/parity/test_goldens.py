"""Logits against golden files made by transformers 5.23, those of videos by 5.24, in float32; needs no torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from tests.parity.cases import CASES, SHAPES, TOLERANCE, rows_of
from tests.tiny import Shape

GOLDENS = Path(__file__).parent / "goldens"


@pytest.mark.parametrize("step", [None, 7, 1], ids=["whole", "chunks of 7", "token by token"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
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
