"""What comes beside a checkpoint: MTP heads in every packaging, and adapters of every program."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model
from mlx_vlm.split_mtp import split_mtp
from mlx_vlm.trainer.peft import apply_lora_layers, get_peft_model, save_adapter
from mlx_vlm.utils import load_model as load_vlm

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.dequantising import plain_weight
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.mtp_heads import MtpHead, read_mtp_head
from tests.parity.cases import CASES
from tests.tiny import DENSE, MOE, WIDE_HEADS, write_checkpoint

PEFT = Path("tests/checkpoints/peft")
Array = np.ndarray[Any, Any]


def heads(root: Path) -> Iterator[tuple[str, float]]:
    """Each packaging with the largest difference of its tensors from transformers' own, of the largest value."""
    whole = write_checkpoint(root / "whole", DENSE)
    stored = dict(mx.load(str(whole / "model.safetensors")))
    head = {name: value for name, value in stored.items() if name.startswith("mtp.")}
    # Norms are w there.
    gains = {name: value + 1 if value.ndim == 1 else value for name, value in head.items()}
    without = Path(shutil.copytree(whole, root / "without"))
    rest = {name: value for name, value in stored.items() if name not in head}
    mx.save_safetensors(str(without / "model.safetensors"), rest)
    yield "among the weights, as transformers has it", _apart(_read(whole), gains)
    for file, prefix in (("mtp.safetensors", "mtp."), ("model-mtp.safetensors", "")):
        named = {prefix + name.removeprefix("mtp."): value for name, value in head.items()}
        mx.save_safetensors(str(without / file), named)
        yield f"`{file}` beside them", _apart(_read(without), gains)
        (without / file).unlink()
    mx.save_safetensors(str(without / "mtp.safetensors"), gains)
    yield "norms stored as 1 + w", _apart(_read(without), gains)
    (without / "mtp.safetensors").unlink()
    for bits in (None, 8, 4):
        own = split_mtp(str(whole), str(root / f"own-{bits}"), q_bits=bits, q_group_size=32 if bits else None)
        name = "a repository of its own, by mlx-vlm" + (f", in {bits} bits" if bits else "")
        yield name, _apart(_read(without, own), gains)


def _read(directory: Path, mtp_path: Path | None = None) -> MtpHead:
    head = read_mtp_head(Checkpoint.open(directory), mtp_path)
    if head is None:
        raise SystemExit(f"{directory}: no head")
    return head


def _apart(head: MtpHead, gains: Mapping[str, mx.array]) -> float:
    worst = 0.0
    for name, value in gains.items():
        path = name.removesuffix(".weight")
        parts = {kind: head.tensors.get(f"{path}.{kind}") for kind in ("weight", "scales", "biases")}
        settings = head.quantisation.get(path)
        found = parts["weight"] if settings is None else plain_weight(parts, settings, mx.float32)
        worst = max(worst, (mx.abs(found - value).max() / mx.abs(value).max()).item())
    return worst


def adapters(root: Path) -> Iterator[tuple[str, float]]:
    """Each kind with the largest difference of a logit from its own program's, of the largest logit."""
    model = write_checkpoint(root / "adapted", DENSE)
    for kind in ("LoRA", "DoRA"):
        directory = _by_mlx_lm(model, root / f"mlx-lm-{kind}", dora=kind == "DoRA")
        yield f"{kind} of mlx_lm.lora", _differ(model, directory, load_adapters(load_model(model)[0], str(directory)))
    for kind, options in (("LoRA", {}), ("DoRA", {"use_dora": True}), ("its first format", {"legacy": True})):
        directory = root / f"mlx-vlm-{kind}"
        directory.mkdir()
        adapted = get_peft_model(load_vlm(model), rank=4, alpha=2.0, verbose=False, **options)
        _add_noise(adapted)
        save_adapter(adapted, directory / "adapters.safetensors")
        yield f"mlx-vlm, {kind}", _differ(model, directory, apply_lora_layers(load_vlm(model), directory))
    moe = write_checkpoint(root / "moe", MOE)
    models = {"embedding": write_checkpoint(root / "wide", WIDE_HEADS), "experts": moe, "stacks": moe}
    for directory in sorted(PEFT.iterdir()):
        with np.load(directory / "logits.npz") as expected:
            apart = [
                _of_largest(_logits(models.get(directory.name, model), directory, case)[-4:], expected[case])
                for case in ("text", "two images")
            ]
        yield f"peft, {directory.name} (against transformers)", max(apart)


def _by_mlx_lm(model: Path, directory: Path, *, dora: bool) -> Path:
    import json

    directory.mkdir()
    adapted, lora = load_model(model)[0], {"rank": 4, "scale": 2.0, "dropout": 0.0}
    linear_to_lora_layers(adapted, 2, lora, use_dora=dora)
    kinds = ("lora_a", "lora_b", "m")
    weights = {name: v for name, v in tree_flatten(adapted.parameters()) if name.rsplit(".", 1)[-1] in kinds}
    mx.save_safetensors(str(directory / "adapters.safetensors"), _noisy(weights))
    settings = {"fine_tune_type": "dora" if dora else "lora", "num_layers": 2, "lora_parameters": lora}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


def _noisy(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """The same in every run: what an adapter begins with is drawn by MLX, magnitudes are the model's."""
    random = np.random.Generator(np.random.PCG64(7))
    noise = {name: mx.array(random.normal(0, 0.05, v.shape).astype(np.float32)) for name, v in sorted(weights.items())}
    return {name: weights[name] + value if name.endswith(".m") else value for name, value in noise.items()}


def _add_noise(model: Any) -> None:
    model.load_weights(list(_noisy(dict(tree_flatten(model.trainable_parameters()))).items()), strict=False)


def _differ(model: Path, adapter: Path, theirs: Callable[..., Any]) -> float:
    theirs.eval()  # type: ignore[attr-defined]
    found = theirs(mx.array([CASES["text"].input_ids]))
    return _of_largest(_logits(model, adapter, "text"), np.array(getattr(found, "logits", found)[0]))


def _logits(model: Path, adapter: Path, name: str) -> Array:
    with ModelKit.load(model, adapter_path=adapter, exact=True) as kit:
        case = CASES[name]
        return np.array(kit.logits(kit.process_prompt(case.input_ids, images=case.images)))


def _of_largest(one: Array, other: Array) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())
