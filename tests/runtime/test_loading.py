"""What loading leaves until it is needed, what it gives back when it fails, and what it tells states apart by."""

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, get_args

import mlx.core as mx
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.errors import Qwen35Error
from mlx_qwen35.patches.gated_delta_net import GatedDelta
from mlx_qwen35.runtime import loading
from mlx_qwen35.runtime.ledger import process_ledger
from mlx_qwen35.runtime.loading import arithmetic
from tests.tiny import DENSE, Shape

SCRIPT = """
import sys
from PIL import Image
from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX

with ModelKit.load(BOX, gated_delta="native", exact=True) as kit:
    kit.chat("hi", max_tokens=1)
    print("mlx_vlm.models.qwen3_vl.vision" in sys.modules)
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    prompt = kit.process_prompt(messages, images=Image.new("RGB", (64, 64), "red"))
    print("mlx_vlm.models.qwen3_vl.vision" in sys.modules)
    kit.generate(prompt, max_tokens=1)
    print(kit.model.vision_tower._tower is not None)
"""


def test_the_tower_and_its_module_come_with_the_first_picture_that_is_read() -> None:
    """In a process of its own: in this one others have imported it."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\nFalse\nTrue\n", "")


@pytest.mark.parametrize(
    "options", [{"adapter_path": "nowhere"}, {"mtp_path": "nowhere", "speculate": "mtp"}, {"prompt_cache_dir": "file"}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_a_load_that_fails_gives_back_what_it_had(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    """Its memory and its threads, however far it came: before the weights, behind them, at the end."""
    (tmp_path / "file").write_text("x")
    paths = {name: value if name == "speculate" else tmp_path / value for name, value in options.items()}
    gc.collect()
    held, threads = process_ledger().held, set(threading.enumerate())
    with pytest.raises(Qwen35Error, match="nowhere|file"):
        ModelKit.load(checkpoint_dir(DENSE), **paths)
    assert process_ledger().held == held
    assert not set(threading.enumerate()) - threads


def test_what_a_state_depends_on_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """By every setting alone, the device, and the version of each library that computes."""
    settings = list(product((False, True), get_args(GatedDelta), (False, True), (2, 4)))
    own = {setting: arithmetic(*setting) for setting in settings}
    assert len(set(own.values())) == len(settings) == 24
    for library in ("mlx", "mlx-lm", "mlx-vlm"):
        with monkeypatch.context() as patch:
            patch.setattr(loading, "version", lambda name, library=library: "0" if name == library else version(name))
            assert not {arithmetic(*setting) for setting in settings} & set(own.values())
    monkeypatch.setattr(mx, "default_device", lambda: "another device")
    assert not {arithmetic(*setting) for setting in settings} & set(own.values())
