"""Weights between two checkpoints."""

import shutil
from pathlib import Path

import pytest

from mlx_qwen35.checkpoints.files import BOX

torch = pytest.importorskip("torch", reason="needs the parity extra")
pytestmark = pytest.mark.parity


def changed(directory: Path, by: float) -> Path:
    """The checkpoint in the package with its first layer's decay rates moved."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(BOX, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors[DECAY] = tensors[DECAY] + by
    save_file(tensors, directory / "model.safetensors")
    return directory


DECAY = "model.language_model.layers.0.linear_attn.A_log"


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_weights_lie_between_and_what_is_equal_stays(tmp_path: Path, share: float) -> None:
    from safetensors.torch import load_file

    from tools.box.average import main

    main([str(BOX), str(changed(tmp_path / "after", 2.0)), "--share", str(share), "--out", str(tmp_path / "out")])
    found, before = (load_file(directory / "model.safetensors") for directory in (tmp_path / "out", BOX))
    assert found.keys() == before.keys()
    torch.testing.assert_close(found[DECAY], before[DECAY] + 2.0 * share)
    assert all(torch.equal(value, found[name]) and value.dtype == found[name].dtype
               for name, value in before.items() if name != DECAY)  # fmt: skip
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in BOX.iterdir()}


def test_checkpoints_that_have_nothing_in_common_are_refused(tmp_path: Path) -> None:
    from tools.box.average import average

    after = changed(tmp_path / "after", 0.0)
    with pytest.raises(ValueError, match="share: expected a number from 0 to 1, found 2"):
        average(BOX, after, 2.0, tmp_path / "out")
    (after / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="expected the tokenizer of"):
        average(BOX, after, 0.5, tmp_path / "out")
    assert not (tmp_path / "out").exists()
