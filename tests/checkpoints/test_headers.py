"""What a weight file says of its tensors, and whether all of it is there."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_qwen35.checkpoints import headers
from mlx_qwen35.checkpoints.headers import TensorHeader, activation_size, read_headers, weight_bytes
from mlx_qwen35.errors import CheckpointError


def header(name: str, dtype: str = "F32", nbytes: int = 8) -> TensorHeader:
    return TensorHeader(name, dtype, (2,), nbytes)


def written(path: Path, entries: Any, data: bytes = b"") -> Path:
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_every_tensor_of_every_file(tmp_path: Path) -> None:
    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"x": np.zeros((2, 3), np.float32), "y": np.zeros(5, np.int8)}, one, metadata={"format": "pt"})
    save_file({"z": np.zeros((4, 0), np.float16)}, other)
    found = {tensor.name: tensor for tensor in read_headers([one, other])}
    assert found == {
        "x": TensorHeader("x", "F32", (2, 3), 24),
        "y": TensorHeader("y", "I8", (5,), 5),
        "z": TensorHeader("z", "F16", (4, 0), 0),
    }


@pytest.mark.parametrize("names", ["abc", "cba", "bca", "cab"])
def test_the_end_of_a_file_is_that_of_its_last_tensor_wherever_the_header_names_it(tmp_path: Path, names: str) -> None:
    places = {"a": [0, 8], "b": [8, 16], "c": [16, 24]}
    entries = {name: {"dtype": "F32", "shape": [2], "data_offsets": places[name]} for name in names}
    whole = written(tmp_path / "whole.safetensors", entries, bytes(24))
    assert [tensor.name for tensor in read_headers([whole])] == list(names)
    with pytest.raises(CheckpointError, match="it is cut short"):
        list(read_headers([written(tmp_path / "cut.safetensors", entries, bytes(23))]))


def test_a_pointer_in_place_of_a_file_is_told_and_how_to_get_the_file(tmp_path: Path) -> None:
    """What git leaves of a clone without its LFS."""
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n")
    with pytest.raises(CheckpointError, match=rf"found a pointer of Git LFS to it; .*`git lfs pull` in {tmp_path}\)$"):
        list(read_headers([path]))


@pytest.mark.parametrize("missing", [1, 7, 8, 9, 39])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, missing: int) -> None:
    """By a byte as well as by all of its data, with how much there should be."""
    path = tmp_path / "a.safetensors"
    save_file({"x": np.zeros(10, np.float32)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-missing])
    expected = rf"expected {len(whole)} bytes, found {len(whole) - missing}; it is cut short$"
    with pytest.raises(CheckpointError, match=expected):
        list(read_headers([path]))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"1234567"),
        lambda path: path.write_bytes(struct.pack("<Q", 2**40) + b"{}"),
        lambda path: path.write_bytes(struct.pack("<Q", 10) + b"{}"),
        lambda path: path.write_bytes(struct.pack("<Q", 2) + b"\xff\xff"),
        lambda path: written(path, ["x"]),
        lambda path: written(path, {"x": {"dtype": "F32", "shape": [1]}}),
        lambda path: written(path, {"x": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}, bytes(4)),
        lambda path: written(path, {"x": {"dtype": "F32", "shape": ["a"], "data_offsets": [0, 4]}}, bytes(4)),
        lambda path: written(path, {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, bytes(4)),
        lambda path: written(path, {"x": 5}),
        lambda path: written(path, {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        lambda path: written(path, {"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, bytes(4)),
        lambda path: written(path, {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
        lambda path: written(path, {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, math.inf]}}, bytes(4)),
        lambda path: path.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000 + b" "),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "a.safetensors"
    make(path)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: expected a safetensors file, found something else$"):
        list(read_headers([path]))


def test_a_header_that_no_file_needs_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the file is."""
    path = tmp_path / "a.safetensors"
    save_file({"x": np.zeros(10, np.float32)}, path)
    monkeypatch.setattr(headers, "MAX_HEADER_BYTES", 50)
    with pytest.raises(CheckpointError, match="expected a safetensors file, found something else"):
        list(read_headers([path]))


def test_only_the_metadata_is_no_tensor(tmp_path: Path) -> None:
    entries = {"__metadata__": {"format": "pt"}, "_x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    assert [tensor.name for tensor in read_headers([written(tmp_path / "a.safetensors", entries, bytes(4))])] == ["_x"]


def test_activations_have_the_size_of_the_widest_norm() -> None:
    """Whatever else is stored, quantised or not, and in whatever order."""
    norms = [header("model.norm.weight", "BF16"), header("a.q_norm.weight", "F32"), header("b.norm.weight", "F16")]
    for order in (norms, norms[::-1]):
        assert activation_size(order) == 4
    assert activation_size([norms[0], header("x.weight", "F32"), header("a.norm.bias", "F32")]) == 2
    assert activation_size([header("a.norm.weight", "U32")]) == 2
    assert activation_size([]) == 2


def test_weights_are_what_is_loaded() -> None:
    """Without the MTP module, under each of its names."""
    used = [header("model.norm.weight", nbytes=3), header("lm_head.weight", nbytes=5)]
    unused = [header(f"{prefix}fc.weight", nbytes=1000) for prefix in ("mtp.", "model.mtp.", "language_model.mtp.")]
    assert weight_bytes([*unused, *used]) == 8


def test_offsets_that_no_message_can_show_are_refused(tmp_path: Path) -> None:
    """Python writes numbers of at most 4300 digits: these are what it reads, and the file's length has one more."""
    text = b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, ' + b"9" * 4300 + b"]}}"
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(CheckpointError, match="expected a safetensors file, found something else"):
        list(read_headers([path]))
