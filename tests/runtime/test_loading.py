"""What loading leaves until it is needed, what it gives back when it fails, and what it tells states apart by."""

import gc
import shutil
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
from PIL import Image
from safetensors.numpy import load_file, save_file

from mlx_qwen35 import ModelKit
from mlx_qwen35.errors import CheckpointError, CheckpointWarning, OptionError, Qwen35Error
from mlx_qwen35.patches.gated_delta_net import GatedDelta
from mlx_qwen35.runtime import loading
from mlx_qwen35.runtime.ledger import process_ledger
from mlx_qwen35.runtime.loading import DiskOptions, LoadOptions, arithmetic
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


@pytest.mark.thorough
def test_the_tower_and_its_module_come_with_the_first_picture_that_is_read() -> None:
    """In a process of its own: in this one others have imported it."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\nFalse\nTrue\n", "")


@pytest.mark.some(1)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_cache_bytes": -1}, "prompt_cache_bytes: expected a whole number of at least 0, found -1"),
        ({"image_cache_bytes": -1}, "image_cache_bytes: expected a whole number of at least 0, found -1"),
        ({"memory_limit": 0}, "memory_limit: expected a whole number of at least 1, found 0"),
        ({"max_pixels": 0}, "max_pixels: expected"),
        ({"gated_delta": "slow"}, "gated_delta: expected"),
        ({"kv_bits": 5}, "kv_bits: expected"),
        ({"exact": "no"}, "exact: expected True or False, found 'no'"),
        ({"mtp_path": "x", "speculate": "off"}, 'mtp_path: expected with speculate="mtp" or "auto", found without'),
        ({"mtp_path": "x", "speculate": "lookup"}, "mtp_path: expected with speculate"),
        ({"mtp_path": "x", "speculate": "mtp", "draft_tokens": 0}, "mtp_path: expected with speculate"),
        ({"mtp_path": "x", "speculate": "auto", "exact": True}, "mtp_path: expected with speculate"),
        ({"prompt_cache_dir_bytes": 5}, "prompt_cache_dir_bytes: expected with prompt_cache_dir, found 5 without"),
        ({"prompt_cache_write_bytes": 0}, "prompt_cache_write_bytes: expected with prompt_cache_dir, found 0 without"),
        ({"prompt_cache_dir": 5}, "prompt_cache_dir: expected a path, found int"),
    ],
    ids=str,
)
def test_options_are_looked_at_before_a_checkpoint_is(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ModelKit.load(tmp_path / "nowhere", **options)


@pytest.mark.parametrize("mode", ["mtp", "auto"])
def test_a_head_elsewhere_may_be_asked_for_by_either_way_that_uses_one(tmp_path: Path, mode: Any) -> None:
    """What is missed then is the checkpoint."""
    with pytest.raises(CheckpointError, match="expected an existing directory"):
        ModelKit.load(tmp_path / "nowhere", mtp_path="x", speculate=mode)


def disk(**options: Any) -> DiskOptions:
    """What `DiskOptions` makes of options beside 100 bytes of memory."""
    names = ("revision", "adapter_path", "max_pixels", "prompt_cache_bytes", "prompt_cache_dir", "image_cache_bytes")
    given = dict.fromkeys((*names, "max_context", "memory_limit", "gated_delta")) | options
    return DiskOptions.of(LoadOptions("x", exact=False, **given), 100)


def test_the_disk_takes_ten_times_what_memory_does_unless_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert disk() == DiskOptions(None, 1000, 8 * 10**9)
    assert disk(prompt_cache_dir="~/a") == DiskOptions(tmp_path / "a", 1000, 8 * 10**9)
    both = {"prompt_cache_dir_bytes": 0, "prompt_cache_write_bytes": 7}
    assert disk(prompt_cache_dir=tmp_path, **both) == DiskOptions(tmp_path, 0, 7)
    assert disk().open("fingerprint") is None
    for name in both:
        with pytest.raises(OptionError, match=f"{name}: expected a whole number of at least 0, found -1"):
            disk(prompt_cache_dir=tmp_path, **{name: -1})


def test_a_head_is_read_only_where_it_is_used(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(loading, "read_mtp_head", lambda *given: asked.append(given))
    for mode, draft_tokens in (("off", None), ("lookup", None), ("mtp", 0), ("auto", 0)):
        ModelKit.load(checkpoint_dir(DENSE), speculate=mode, draft_tokens=draft_tokens).close()
    assert asked == []
    with pytest.raises(CheckpointError, match="expected the weights of an MTP module"):
        ModelKit.load(checkpoint_dir(DENSE), speculate="mtp")
    ModelKit.load(checkpoint_dir(DENSE), speculate="auto").close()
    assert len(asked) == 2


def test_a_context_may_be_as_long_as_the_model_s(checkpoint_dir: Callable[[Shape], Path]) -> None:
    with ModelKit.load(checkpoint_dir(DENSE), max_context=4096) as kit:
        assert kit.context_length == 4096
    with pytest.raises(OptionError, match=r"max_context: expected at most 4096 \(the model's context\), found 4097"):
        ModelKit.load(checkpoint_dir(DENSE), max_context=4097)
    with pytest.raises(OptionError, match="max_context: expected a whole number of at least 1, found 0"):
        ModelKit.load(checkpoint_dir(DENSE), max_context=0)


def test_everything_that_is_kept_makes_room(fresh: Callable[..., ModelKit], tmp_path: Path) -> None:
    """Conversations, embeddings and pixels: each holds memory, which goes to what is wanted now."""
    kit, purposes = fresh(memory_limit=2 * 10**8), {"kept prefixes", "image features", "image pixels"}
    Image.new("RGB", (96, 64), "red").save(tmp_path / "red.png")
    prompt = kit.process_prompt("<|image_pad|> what is it?", images=[tmp_path / "red.png"])
    kit.generate(prompt, max_tokens=1)
    held = kit.ledger.by_purpose()
    assert held.keys() & purposes == purposes
    kept = sum(held[purpose] for purpose in purposes)
    assert kit.ledger.make_room(kit.ledger.headroom + kept)
    assert not kit.ledger.by_purpose().keys() & purposes


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


def test_drafts_that_nobody_asked_for_are_no_reason_to_refuse_a_model(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path
) -> None:
    """A head that cannot be read is left out with a warning, one that memory has no room for without; mtp refuses."""
    with ModelKit.load(checkpoint_dir(DENSE)) as kit:
        assert (kit.speculation.mode, kit.speculation.uses_module) == ("auto", True)
    with ModelKit.load(checkpoint_dir(DENSE), speculate="off") as kit:
        limit = kit.guard.needs(1, 1) + 1000
    with ModelKit.load(checkpoint_dir(DENSE), memory_limit=limit) as kit:
        assert not kit.speculation.is_on
        assert set(kit.ledger.by_purpose()) == {"weights"}
    broken = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if name != "mtp.norm.weight"}, broken / "model.safetensors"
    )
    with pytest.warns(CheckpointWarning, match=r"mtp.norm.weight.*; it is left out"):
        kit = ModelKit.load(broken)
    with kit:
        assert not kit.speculation.uses_module
        assert len(kit.generate("the fox", max_tokens=3, temperature=0.0).tokens) == 3
    for options in ({"speculate": "mtp"}, {"mtp_path": broken}):
        with pytest.raises(CheckpointError, match=r"mtp.norm.weight"):
            ModelKit.load(broken, **options)
