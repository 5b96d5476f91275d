"""Adapters that peft wrote: transformers' logits with them, and refused where they are not what they say."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.conversion import convert
from mlx_qwen35.errors import AdapterError
from mlx_qwen35.patches.qwen3_5 import Model
from tests.parity.cases import CASES, SHORT_IDS, TOLERANCE
from tests.tiny import DENSE, MOE, WIDE_HEADS, Shape

# tools/checkpoints/peft_adapters.py made them, with the logits of transformers and peft.
ADAPTERS = Path(__file__).parent / "peft"
SHAPES = {"embedding": WIDE_HEADS, "experts": MOE}


def last_logits(model: Path, adapter: Path | None, name: str) -> np.ndarray:
    with ModelKit.load(model, adapter_path=adapter) as kit:
        case = CASES[name]
        return np.array(kit.logits(kit.process_prompt(case.input_ids, images=case.images)))[-4:]


@pytest.mark.parametrize("name", sorted(path.name for path in ADAPTERS.iterdir()))
def test_logits_are_those_of_transformers_with_peft(checkpoint_dir: Callable[[Shape], Path], name: str) -> None:
    model = checkpoint_dir(SHAPES.get(name, DENSE))
    with np.load(ADAPTERS / name / "logits.npz") as expected:
        for case in ("text", "two images"):
            found = last_logits(model, ADAPTERS / name, case)
            assert np.abs(found - expected[case]).max() <= TOLERANCE * np.abs(expected[case]).max()
    assert np.abs(found - last_logits(model, None, case)).max() > 0.01


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """A copy of an adapter with other settings and tensors."""

    def edit(name: str, change: Callable[[dict[str, mx.array]], Any] = len, **settings: Any) -> Path:
        directory = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(ADAPTERS / name, directory)
        config = json.loads((directory / "adapter_config.json").read_text())
        (directory / "adapter_config.json").write_text(json.dumps(config | settings))
        tensors = dict(mx.load(str(directory / "adapter_model.safetensors")))
        mx.eval(tensors)
        change(tensors)
        mx.save_safetensors(str(directory / "adapter_model.safetensors"), tensors)
        return directory

    return edit


@pytest.mark.parametrize("name", ["plain", "dora", "embedding"])
def test_a_quantised_model_gets_the_same_update(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], name: str
) -> None:
    """Around layers that stay quantised; an embedding's plain weights, which came along, are not put in their place."""
    source = checkpoint_dir(SHAPES.get(name, DENSE))
    quantised = convert(source, tmp_path / "quantised", bits=8)
    models = [
        Model.from_checkpoint(Checkpoint.open(path), adapter_path=ADAPTERS / name) for path in (source, quantised)
    ]
    plain, found = (dict(model.named_modules()) for model in models)
    adapted = [path for path, module in plain.items() if "lora_a" in module]
    assert adapted
    for path in adapted:
        base = found[path]["embedding" if name == "embedding" else "linear"]
        assert "scales" in base
        for part in {"lora_a", "lora_b", "m"} & set(plain[path]):
            assert mx.array_equal(found[path][part], plain[path][part]).item()
        assert found[path].scale == plain[path].scale
    tokens = mx.array([SHORT_IDS])
    assert np.isfinite(np.array(models[1](tokens))).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type: expected 'LORA', found 'LOHA'"),
        ({"bias": "all"}, "bias: expected 'none' or None, found 'all'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: expected the checkpoint's own weights"),
        ({"r": 0}, "r: expected a number above 0, found 0"),
        ({"lora_alpha": None}, "lora_alpha: expected a number above 0, found None"),
        ({"r": True, "lora_alpha": "4"}, "r: .*; lora_alpha: expected a number above 0, found '4'"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters: expected None or .*, found"),
        ({"r": 8}, r"v_proj: expected lora_A \(8, 64\) and lora_B \(64, 8\), found \(4, 64\) and \(64, 4\)"),
        ({"rank_pattern": {"v_proj": 2}}, r"v_proj: expected lora_A \(2, 64\)"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj", "out_proj"]}, "no tensors for .*layers.3.self_attn.k_proj"),
        ({"use_dora": True}, "expected a magnitude where use_dora is set"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused(
    checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(AdapterError, match=message):
        ModelKit.load(checkpoint_dir(DENSE), adapter_path=edited("plain", **settings))


def test_the_first_pattern_that_fits_the_end_of_a_layer_s_name_counts(
    checkpoint_dir: Callable[[Shape], Path], edited: Callable[..., Path]
) -> None:
    """As peft's get_pattern_key: alternatives, expressions, whole parts of a name."""
    patterns = {"proj": 40, "k_proj|v_proj": 8, r"layers\.\d+\.self_attn\.q_proj": 12, "q_proj|v_proj": 20}
    adapter = edited("plain", lora_alpha=4, alpha_pattern=patterns)
    model = Model.from_checkpoint(Checkpoint.open(checkpoint_dir(DENSE)), adapter_path=adapter)
    scales = {path.rsplit(".", 1)[-1]: module.scale for path, module in model.named_modules() if "lora_a" in module}
    assert scales == {"q_proj": 3.0, "v_proj": 2.0, "out_proj": 1.0}


def drop(part: str) -> Callable[[dict[str, mx.array]], Any]:
    return lambda tensors: tensors.pop(next(name for name in tensors if part in name))


def add(name: str, *shape: int) -> Callable[[dict[str, mx.array]], Any]:
    return lambda tensors: tensors.update({f"base_model.model.{name}": mx.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("lora_B"), "halves of language_model.model.layers"),
        (lambda tensors: [drop("layers.3.self_attn.q_proj")(tensors) for _ in "ab"], "no tensors for .*attn.q_proj"),
        (add("model.language_model.layers.9.mlp.up_proj.lora_A.weight", 4, 64), "no such layers .*9.mlp.up_proj"),
        (add("model.language_model.norm.weight", 4), "expected plain weights of the same shape .*model.norm.weight"),
        (add("transformer.h.0.weight", 4), "tensor transformer.h.0.weight: expected a name"),
        (add("model.language_model.layers.0.mlp.up_proj.lora_diag", 4), "same shape for .*up_proj.lora_diag"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(
    checkpoint_dir: Callable[[Shape], Path],
    edited: Callable[..., Path],
    change: Callable[[dict[str, mx.array]], Any],
    message: str,
) -> None:
    with pytest.raises(AdapterError, match=message):
        ModelKit.load(checkpoint_dir(DENSE), adapter_path=edited("plain", change))


def test_pickled_adapters_are_refused(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    directory = shutil.copytree(ADAPTERS / "plain", tmp_path / "adapter")
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(AdapterError, match="found none .only adapter_model.bin; pickled weights are not read"):
        ModelKit.load(checkpoint_dir(DENSE), adapter_path=directory)
