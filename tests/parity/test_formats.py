"""Qwen's own FP8 checkpoints against transformers, which restores their weights; needs torch (the parity extra)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlx_qwen35 import ModelKit
from tests.parity.cases import CASES, TOLERANCE
from tests.tiny import Shape, config_of, tensors_of
from tools.checkpoints.kinds import KINDS, build, write

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", ["text", "two images"])
def test_fp8_in_blocks_has_the_logits_of_the_weights_that_transformers_restores(
    tmp_path: Path,
    checkpoint_dir: Callable[[Shape], Path],
    dense_and_moe: Shape,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    import transformers.quantizers.quantizer_finegrained_fp8 as quantizer

    from tests.parity.reference import Reference

    # It asks for a library that it needs for other devices only, and where there is one of those it restores nothing.
    monkeypatch.setattr(quantizer, "is_accelerate_available", lambda *_: True)
    monkeypatch.setattr(quantizer.torch.cuda, "is_available", lambda: False)
    kind = next(kind for kind in KINDS if kind.name == "FP8 in blocks")
    directory = shutil.copytree(checkpoint_dir(dense_and_moe), tmp_path / "fp8")
    write(build(kind, tensors_of(dense_and_moe))[0], directory / "model.safetensors")
    config = config_of(dense_and_moe) | {"quantization_config": dict(kind.settings)}
    (directory / "config.json").write_text(json.dumps(config))
    case = CASES[name]
    with ModelKit.load(directory) as kit:
        prompt = kit.process_prompt(case.input_ids, images=case.images)
        found = np.array(kit.logits(prompt))
    expected = Reference(directory).logits(prompt)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
