"""Quantised layers back to plain ones: the same products, and nothing lost."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from mlx_qwen35.checkpoints.dequantising import dequantise


class Layers(nn.Module):
    """One of each kind, with and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 64)
        self.plain, self.biased = nn.Linear(64, 32, bias=False), nn.Linear(64, 32, bias=True)
        self.experts, self.biased_experts = SwitchLinear(64, 32, 3, bias=False), SwitchLinear(64, 32, 3, bias=True)
        self.biased_experts.bias = mx.random.normal((3, 32))

    def results(self, x: mx.array) -> dict[str, mx.array]:
        """Of x, (2, 64)."""
        one, chosen = x[:, None, None], mx.array([[0], [2]])
        return {
            "embedding": self.embedding(mx.arange(8)), "plain": self.plain(x), "biased": self.biased(x),
            "experts": self.experts(one, chosen), "biased_experts": self.biased_experts(one, chosen),
        }  # fmt: skip


@pytest.fixture
def quantised() -> Layers:
    mx.random.seed(1)
    layers = Layers()
    nn.quantize(layers, group_size=32, bits=8)
    return layers


def test_every_kind_of_layer_gives_what_it_gave(quantised: Layers) -> None:
    """With its bias. Float32, to 1e-4: MLX's quantised products are not summed in the same order."""
    x = mx.random.normal((2, 64), key=mx.random.key(2))
    expected = quantised.results(x)
    paths = dequantise(quantised, mx.float32)
    assert sorted(paths) == sorted(expected)
    assert not any("scales" in module for _, module in quantised.named_modules())
    assert {name for name, module in quantised.children().items() if "bias" in module} == {"biased", "biased_experts"}
    for name, found in quantised.results(x).items():
        np.testing.assert_allclose(np.array(found), np.array(expected[name]), atol=1e-4, err_msg=name)


def test_only_what_is_asked_for_becomes_plain_in_the_type_that_is_asked_for(quantised: Layers) -> None:
    def only(module: Any) -> bool:
        return isinstance(module, QuantizedSwitchLinear) and "bias" in module

    assert dequantise(quantised, mx.bfloat16, only=only) == ["biased_experts"]
    assert quantised.biased_experts.weight.dtype == mx.bfloat16
    assert quantised.biased_experts.weight.shape == (3, 32, 64)
    assert [name for name, module in quantised.children().items() if "scales" not in module] == ["biased_experts"]
