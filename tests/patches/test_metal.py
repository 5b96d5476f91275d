"""What only an Apple GPU can show. Everywhere else these tests skip, with the reason.

All other tests run on the GPU too where there is one: MLX takes it by default.
"""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.conversion import convert
from tests.parity.cases import CASES
from tests.tiny import DENSE, MOE, Shape

pytestmark = pytest.mark.metal


def test_prompts_are_read_by_the_native_kernel(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop over tokens in MLX operations must not run, for text nor for images."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the GDN layers took the path without a kernel")

    monkeypatch.setattr("mlx_lm.models.gated_delta.gated_delta_ops", refuse)
    for name in ("text", "two images"):
        prompt = kit.process_prompt(CASES[name].input_ids, images=CASES[name].images)
        assert np.isfinite(np.array(kit.logits(prompt))).all()


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
def test_half_precision_on_the_gpu(shape: Shape, checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """bfloat16, experts included, against float32: a few percent of the largest logit on average."""
    half = convert(checkpoint_dir(shape), tmp_path / "half", dtype="bfloat16")
    for name in ("text", "two images"):
        found = []
        for directory in (checkpoint_dir(shape), half):
            with ModelKit.load(directory) as kit:
                prompt = kit.process_prompt(CASES[name].input_ids, images=CASES[name].images)
                found.append(np.array(kit.logits(prompt)))
        assert np.abs(found[0] - found[1]).mean() < 0.03 * np.abs(found[0]).max()


def test_loading_wires_the_recommended_memory(checkpoint_dir: Callable[[Shape], Path]) -> None:
    """As mlx-lm does for the time of a generation, but for as long as a model is loaded."""
    recommended = mx.device_info()["max_recommended_working_set_size"]
    with ModelKit.load(checkpoint_dir(DENSE)) as kit:
        kit.generate([1, 2, 3], max_tokens=2)
        assert mx.set_wired_limit(int(recommended)) == recommended


def test_a_second_kit_on_the_same_gpu(checkpoint_dir: Callable[[Shape], Path], kit: ModelKit) -> None:
    """Two threads with their own streams; both give what each gives alone."""
    prompt = kit.process_prompt(CASES["two images"].input_ids, images=CASES["two images"].images)
    expected = kit.generate(prompt, max_tokens=12, temperature=0.0).tokens
    with ModelKit.load(checkpoint_dir(DENSE)) as other:
        streams = [each.stream(prompt, max_tokens=12, temperature=0.0) for each in (kit, other)]
        pairs = list(zip(*streams, strict=True))
    assert tuple(pair[0].token for pair in pairs) == tuple(pair[1].token for pair in pairs) == expected
