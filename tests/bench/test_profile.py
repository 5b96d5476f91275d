"""Where the time goes when a prompt is read, measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.nn as nn
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.bench import profile
from mlx_qwen35.bench.profile import Part, Profile
from mlx_qwen35.cli.main import main
from tests.tiny import MOE, Shape


def replaced(decoder: Any) -> Any:
    """What a measurement puts something else in place of."""
    return nn.Linear.__call__, nn.RMSNorm.__call__, vars(decoder.layers[0].mlp._operations).copy(), decoder._halving


@pytest.mark.thorough
def test_parts_and_their_products(kit: ModelKit) -> None:
    """Products are those of the matrices' sizes; what stands in nobody's time is the rest."""
    decoder = kit.model.language_model.model
    before = (
        {type(layer): type(layer).__call__ for layer in decoder.layers},
        dict(vars(decoder.layers[0].mlp._operations)),
    )
    length = 40
    found = profile.measure(kit, length, 1, step_size=16)
    mlp = sum(
        2 * length * getattr(layer.mlp, name).weight.size
        for layer in decoder.layers
        for name in ("gate_proj", "up_proj", "down_proj")
    )
    assert found.parts["MLP projections"].products == mlp
    assert {"GDN projections", "attention projections", "norms", "the rest"} <= set(found.parts)
    times = [part.seconds for part in found.parts.values()]
    assert times == sorted(times, reverse=True)
    assert all(part.seconds > 0 for name, part in found.parts.items() if name != "the rest")
    assert found.whole.seconds > 0
    assert found.rate > 0
    # Nothing is left behind.
    after = (
        {type(layer): type(layer).__call__ for layer in decoder.layers},
        dict(vars(decoder.layers[0].mlp._operations)),
    )
    assert after == before


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    parts = {"MLP projections": Part(0.03, 0.04, 10**9), "attention": Part(0.01, 0.01)}

    def measure(kit: ModelKit, *given: Any) -> Profile:
        asked.append(given)
        return Profile(parts, Part(0.02, 0.05), 1e11)

    monkeypatch.setattr(profile, "measure", measure)
    assert main(["bench", "profile", "--length", "7", "--repeats", "2"]) == 0
    assert asked[0][:2] == (7, 2)
    shown = capsys.readouterr().out
    assert "| MLP projections | 30 ms | 75% | 40 ms | 10 ms |" in shown
    assert "| the whole, without waiting | 20 ms | 50% | 50 ms | 10 ms |" in shown
    assert "A large product: 100 GFLOPS." in shown
    assert main(["bench", "profile", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"]["attention"]["seconds"] == 0.01


@pytest.mark.parametrize(
    ("flags", "message"), [(["--length", "1"], "--length: expected"), (["--repeats", "0"], "--repeats: expected")]
)
def test_what_cannot_be_measured_is_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "profile", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.thorough
def test_products_of_experts_are_those_of_the_chosen_ones(checkpoint_dir: Callable[[Shape], Path]) -> None:
    length = 40
    with ModelKit.load(checkpoint_dir(MOE), speculate="off") as kit:
        found = profile.measure(kit, length, 1, step_size=16)
        products = 0
        for block in (layer.mlp for layer in kit.model.language_model.model.layers):
            for name in ("gate_proj", "up_proj", "down_proj"):
                chosen, always = getattr(block.switch_mlp, name).weight, getattr(block.shared_expert, name).weight
                products += 2 * length * (block.top_k * chosen[0].size + always.size)
    assert found.parts["MLP projections"].products == products
