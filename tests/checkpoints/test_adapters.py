"""LoRA adapters: applied as mlx-lm applies them, refused where they do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_qwen35 import ModelKit
from mlx_qwen35.errors import AdapterError
from tests.checkpoints.test_files import logits_of
from tests.parity.cases import CASES
from tests.tiny import DENSE, Shape


def write_adapter(directory: Path, model: Any, **config: Any) -> Path:
    """What mlx_lm.lora saves, made with its own functions."""
    from mlx_lm.tuner.utils import linear_to_lora_layers

    # Adapters are trained with dropout; in an answer it would be noise.
    lora = {"rank": 4, "scale": 20.0, "dropout": 0.5}
    linear_to_lora_layers(model, 2, lora)
    rng = np.random.Generator(np.random.PCG64(3))
    weights = {
        name: mx.array(rng.normal(0, 0.1, value.shape).astype(np.float32))
        for name, value in tree_flatten(model.parameters())
        if name.endswith(("lora_a", "lora_b"))
    }
    directory.mkdir()
    mx.save_safetensors(str(directory / "adapters.safetensors"), weights)
    settings = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": lora} | config
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


def test_an_adapter_made_by_mlx_lm_is_applied(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """Against mlx-lm's own model with the same adapter: bit-identical text."""
    from mlx_lm.utils import load_adapters, load_model

    source = checkpoint_dir(DENSE)
    upstream, _ = load_model(source)
    adapter = write_adapter(tmp_path / "adapter", load_model(source)[0])
    load_adapters(upstream, str(adapter))
    upstream.eval()
    expected = np.array(upstream(mx.array([CASES["text"].input_ids]))[0])
    found = logits_of(source, adapter_path=adapter)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - logits_of(source)).max() > 0.1
    assert np.isfinite(logits_of(source, "two images", adapter_path=adapter)).all()


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    source = checkpoint_dir(DENSE)
    with pytest.raises(AdapterError, match=r"expected adapter_config.json, found none"):
        ModelKit.load(source, adapter_path=tmp_path)
    from mlx_lm.utils import load_model

    adapter = write_adapter(tmp_path / "adapter", load_model(source)[0])
    weights: dict[str, mx.array] = mx.load(str(adapter / "adapters.safetensors"))  # type: ignore[assignment]
    mx.save_safetensors(str(adapter / "adapters.safetensors"), {name: value[:, :2] for name, value in weights.items()})
    with pytest.raises(AdapterError, match=r"(?s)adapter: the adapter does not fit: .*adapter shape"):
        ModelKit.load(source, adapter_path=adapter)


def test_adapters_with_missing_tensors_are_refused(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """Half of an adapter changes the answers by half, and nobody would know."""
    from mlx_lm.utils import load_model

    source = checkpoint_dir(DENSE)
    adapter = write_adapter(tmp_path / "adapter", load_model(source)[0])
    weights: dict[str, mx.array] = mx.load(str(adapter / "adapters.safetensors"))  # type: ignore[assignment]
    kept = dict(list(weights.items())[::2])
    mx.save_safetensors(str(adapter / "adapters.safetensors"), kept)
    with pytest.raises(AdapterError, match=r"asks for tensors that are missing: language_model\..*lora"):
        ModelKit.load(source, adapter_path=adapter)
    (adapter / "adapter_config.json").write_text("[1]")
    with pytest.raises(AdapterError, match="expected a JSON object, found list"):
        ModelKit.load(source, adapter_path=adapter)
