"""YaRN with every setting against transformers' own, which needs torch (the parity extra), and where its ramp ends."""

import math
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.rope_utils import YarnRoPE

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.rope import YarnConfig
from mlx_qwen35.patches.attention import PatchedAttention
from mlx_qwen35.patches.mrope import multimodal_angles
from mlx_qwen35.patches.qwen3_5 import TextModelArgs
from mlx_qwen35.patches.yarn import set_yarn
from tests.tiny import DENSE, config_of

YARNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention_factor": {"attention_factor": 1.7},
    "attention_factor 1": {"attention_factor": 1.0, "mscale": 0.5, "mscale_all_dim": 0.25},
    "both scales": {"mscale": 0.707, "mscale_all_dim": 2.0},
    "one scale": {"mscale": 0.707},
    "the other scale": {"mscale_all_dim": 0.707},
    "scales of zero": {"mscale": 0, "mscale_all_dim": 1.0},
    "not truncated": {"truncate": False},
    "not truncated, other bounds": {"truncate": False, "beta_fast": 3.0, "beta_slow": 0.2, "attention_factor": 0.8},
    "a bound beyond the frequencies": {"truncate": False, "beta_slow": 0.01},
    "a bound beyond the dimensions": {"truncate": False, "beta_slow": 0.0005},
    "one bound for both": {"truncate": False, "beta_fast": 1.0, "beta_slow": 1.0},
    "truncated": {"truncate": True},
    "null bounds": {"beta_fast": None, "beta_slow": 0},
    "a factor of null": {"factor": None},
    "a factor below 1": {"factor": 0.5},
    "all positions": {"original_max_position_embeddings": None},
}  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("settings", YARNS.values(), ids=YARNS)
def test_angles_equal_the_reference(settings: dict[str, Any]) -> None:
    """Qwen3_5TextRotaryEmbedding, for text and for tokens whose three positions differ; float32, to 2e-5."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextRotaryEmbedding

    raw = config_of(DENSE)
    raw["text_config"]["rope_parameters"] = {
        "rope_theta": 100.0, "partial_rotary_factor": 0.5, "mrope_section": [6, 5, 5], "rope_type": "yarn",
        "factor": 4.0, "original_max_position_embeddings": 64, **settings,
    }  # fmt: skip
    theirs = {
        name: value
        for name, value in raw["text_config"]["rope_parameters"].items()
        if value is not None or name != "original_max_position_embeddings"
    }
    reference = Qwen3_5TextRotaryEmbedding(Qwen3_5TextConfig(**raw["text_config"] | {"rope_parameters": theirs}))
    positions = np.random.Generator(np.random.PCG64(1)).permutation(60).reshape(3, 2, 10)
    args = TextModelArgs.from_config(ModelConfig.from_dict(raw), exact=True, gated_delta="native")
    module = PatchedAttention(args).rope
    for three in (positions, np.broadcast_to(positions[:1], positions.shape)):
        cos, sin = reference(torch.zeros(1), torch.from_numpy(three.copy()))
        found = multimodal_angles(module, args.rotary_dims, args.mrope_section, mx.array(three))
        for one, other in zip(found, (cos, sin), strict=True):
            np.testing.assert_allclose(np.array(one[:, 0]), other[..., :16].numpy(), atol=2e-5)
    # The text path: (1, 0) turned by the first row's own positions, one after the other.
    cos, sin = reference(torch.zeros(1), torch.arange(3, 8).expand(3, 1, -1))
    unit = mx.concatenate([mx.ones((1, 1, 5, 16)), mx.zeros((1, 1, 5, 48))], axis=-1)
    turned = np.array(module(unit, offset=3))[0, 0]
    np.testing.assert_allclose(turned[:, :16], cos[0, :, :16].numpy(), atol=2e-5)
    np.testing.assert_allclose(turned[:, 16:32], sin[0, :, :16].numpy(), atol=2e-5)


def frequencies(beta_fast: float, beta_slow: float, *, factor: float = 4.0) -> np.ndarray[Any, Any]:
    """What each of 16 frequencies (32 dimensions, theta 100, 64 positions before) becomes, with bounds as they are."""
    rope = SimpleNamespace()
    set_yarn(rope, 32, 100.0, YarnConfig(factor, 64, 1.0, beta_fast, beta_slow, truncate=False))
    return 1 / np.array(rope._freqs)


@pytest.mark.parametrize("slow", [0.0005, 0.0003], ids=str)
def test_the_ramp_goes_from_the_first_dimension_to_the_last_at_most(slow: float) -> None:
    """Where both bounds lie beyond, rounding them changes nothing, so that mlx-lm's own module is the oracle."""
    theirs = YarnRoPE(32, base=100.0, scaling_factor=4.0, original_max_position_embeddings=64, beta_slow=slow)
    np.testing.assert_allclose(frequencies(32.0, slow), 1 / np.array(theirs._freqs), rtol=1e-6)


@pytest.mark.parametrize(("slow", "bound"), [(1.0, 8), (0.2, 13), (64 / (2 * math.pi), 0)], ids=str)
def test_a_ramp_without_width_is_a_step(slow: float, bound: int) -> None:
    """The frequencies up to the one bound are kept, all others divided by the factor; also where it is a whole number.

    The last of these makes one turn over all positions, which is a bound of 0, exactly.
    """
    plain = 100.0 ** (-np.arange(16) / 16)
    expected = np.where(np.arange(16) <= bound, plain, plain / 4)
    np.testing.assert_allclose(frequencies(slow, slow), expected, rtol=1e-5)


@pytest.mark.parametrize("truncate", [True, False])
def test_queries_and_keys_are_multiplied_by_what_the_checkpoint_says(truncate: bool) -> None:
    """Whether bounds are rounded or not; rounded ones are mlx-lm's own, and stay."""
    theirs = YarnRoPE(32, base=100.0, scaling_factor=4.0, original_max_position_embeddings=64)
    raw = config_of(DENSE)
    raw["text_config"]["rope_parameters"] = {
        "rope_theta": 100.0, "partial_rotary_factor": 0.5, "mrope_section": [6, 5, 5], "rope_type": "yarn",
        "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.7, "truncate": truncate,
    }  # fmt: skip
    args = TextModelArgs.from_config(ModelConfig.from_dict(raw), exact=True, gated_delta="native")
    rope = PatchedAttention(args).rope
    assert theirs.mscale != rope.mscale == 1.7
    same = np.array_equal(np.array(rope._freqs), np.array(theirs._freqs))
    assert same is truncate


@pytest.mark.parametrize("fast", [32.0, 8.0, 3.0, 1.5], ids=str)
def test_frequencies_follow_the_definition(fast: float) -> None:
    """Those that make more than `fast` turns over the positions before are kept, those of less than one are divided;
    in between, by the number of the frequency. Oracle: the formula, one frequency after the other.
    """
    plain = 100.0 ** (-np.arange(16) / 16)

    def number(turns: float) -> float:
        """Of the frequency that makes so many turns over 64 positions; not a whole one."""
        return 16 * math.log(64 / (turns * 2 * math.pi)) / math.log(100.0)

    low, high = max(number(fast), 0.0), min(number(1.0), 31.0)
    divided = np.clip((np.arange(16) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(frequencies(fast, 1.0), plain * (1 - divided) + plain / 4 * divided, rtol=1e-5)
