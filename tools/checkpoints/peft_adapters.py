r"""LoRA adapters that peft wrote for the tests' tiny checkpoints, and the logits of transformers with them.

    pip install --no-deps --target DIRECTORY peft==0.21.2 accelerate psutil
    PYTHONPATH=DIRECTORY python -m tools.checkpoints.peft_adapters tests/checkpoints/peft

peft is not among the requirements: what it made is.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from tests.parity.cases import CASES
from tests.parity.reference import Reference
from tests.tiny import DENSE, MOE, WIDE_HEADS, Shape, write_checkpoint

ATTENTION = ["q_proj", "v_proj", "out_proj"]
# The name of a case: the checkpoint, and what the adapter is like.
ADAPTERS: dict[str, tuple[Shape, dict[str, Any]]] = {
    "plain": (DENSE, {"r": 4, "lora_alpha": 12, "target_modules": ATTENTION}),
    "stabilised": (
        DENSE,
        {
            "r": 4, "lora_alpha": 6, "target_modules": ["down_proj", "in_proj_z"], "use_rslora": True,
            "rank_pattern": {"layers.1.mlp.down_proj": 2}, "alpha_pattern": {"in_proj_z": 3},
        },
    ),
    "dora": (DENSE, {"r": 2, "lora_alpha": 8, "target_modules": ["o_proj", "gate_proj"], "use_dora": True}),
    "tower": (
        DENSE, {"r": 2, "lora_alpha": 4, "target_modules": r".*(visual\.blocks\.\d\.attn\.qkv|layers\.3.*k_proj)"},
    ),
    "embedding": (
        WIDE_HEADS, {"r": 2, "lora_alpha": 4, "target_modules": ["embed_tokens"], "modules_to_save": ["norm"]},
    ),
    "stacks": (
        MOE,
        {
            "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "alpha_pattern": {"experts.down_proj": 6},
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ),
    "experts": (MOE, {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj", "in_proj_qkv"]}),
}  # fmt: skip


def make(name: str, out: Path) -> None:
    """Write one adapter, and the last logits of two prompts."""
    shape, settings = ADAPTERS[name]
    with tempfile.TemporaryDirectory() as folder:
        directory = write_checkpoint(Path(folder) / "model", shape)
        reference = Reference(directory)
        plain = reference.logits(_prompt(directory, "text"))
        model = get_peft_model(reference.model, LoraConfig(**settings))
        generator = torch.Generator().manual_seed(3)
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name or "modules_to_save" in parameter_name:
                noise = torch.randn(parameter.shape, generator=generator) * 0.1
                parameter.data = parameter.data * (1 + noise) + ("lora_magnitude" not in parameter_name) * noise
        model.eval()
        reference.model = model.base_model.model
        logits = {case: reference.logits(_prompt(directory, case))[-4:] for case in ("text", "two images")}
        assert np.abs(logits["text"] - plain[-4:]).max() > 0.01, name
        shutil.rmtree(out / name, ignore_errors=True)
        model.save_pretrained(out / name)
    (out / name / "README.md").unlink(missing_ok=True)
    settings_file = out / name / "adapter_config.json"
    written = json.loads(settings_file.read_text()) | {"base_model_name_or_path": shape.name}
    settings_file.write_text(json.dumps(written, indent=1) + "\n")
    np.savez(out / name / "logits.npz", **logits)


def _prompt(directory: Path, name: str) -> Any:
    from mlx_qwen35 import ModelKit

    with ModelKit.load(directory) as kit:
        return kit.process_prompt(CASES[name].input_ids, images=CASES[name].images)


if __name__ == "__main__":
    for adapter in ADAPTERS:
        make(adapter, Path(sys.argv[1]))
