"""The training script: its optimizer, and one step from the checkpoint in the package to another one."""

from pathlib import Path

import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.checkpoints.headers import read_headers

torch = pytest.importorskip("torch", reason="needs the parity extra")
pytestmark = pytest.mark.parity


def test_updates_are_nearly_orthogonal() -> None:
    """Oracle: singular values, which Newton-Schulz brings close to 1 whatever they were."""
    from tools.box.muon import orthogonal

    torch.manual_seed(1)
    for shape in ((3, 20, 50), (2, 50, 20)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(*shape) * 7))
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_matrices_of_one_shape_move_alike(tmp_path: Path) -> None:
    """Orthogonalised together or alone, a matrix takes the same step."""
    from tools.box.muon import Muon

    torch.manual_seed(2)
    weights, gradients = torch.randn(2, 8, 12), torch.randn(2, 8, 12)
    together = [torch.nn.Parameter(weight.clone()) for weight in weights]
    alone = [torch.nn.Parameter(weight.clone()) for weight in weights]
    optimizers = [Muon(together, lr=0.1), *(Muon([parameter], lr=0.1) for parameter in alone)]
    for parameters in (together, alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
    for optimizer in optimizers:
        optimizer.step()
    for one, other, start in zip(together, alone, weights, strict=True):
        torch.testing.assert_close(one, other)
        assert (one - start).abs().max() > 0.01


def test_a_step_from_the_box(tmp_path: Path) -> None:
    from tools.box.train import main

    main(["--start", str(BOX), "--out", str(tmp_path), "--steps", "1", "--batch-tokens", "300"])
    assert (tmp_path / "tokenizer.json").read_bytes() == (BOX / "tokenizer.json").read_bytes()
    assert (tmp_path / "loss.csv").read_text().startswith("step,loss,")
    names = [{tensor.name for tensor in read_headers([path / "model.safetensors"])} for path in (tmp_path, BOX)]
    assert names[0] == names[1]
    with ModelKit.load(tmp_path) as kit:
        messages = [{"role": "user", "content": "Spell the word star."}]
        prompt = kit.process_prompt(messages, enable_thinking=False)
        # The first step of the warm-up is too small to forget anything.
        assert kit.generate(prompt, temperature=0.0, max_tokens=30).text.strip() == "s-t-a-r."
