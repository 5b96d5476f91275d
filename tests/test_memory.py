"""Sizes from headers and configs."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from mlx_qwen35.config import ModelConfig
from mlx_qwen35.errors import CheckpointError
from mlx_qwen35.memory import attention_bytes_per_token, gdn_state_bytes, read_headers
from tests.checkpoints import DENSE
from tests.conftest import Bench
from tests.published import PUBLISHED, Published, published_config


@pytest.mark.parametrize("size", PUBLISHED, ids=lambda size: size.name)
def test_gdn_states_of_the_published_sizes(size: Published) -> None:
    """The recurrent part in MiB, as the facts about the sizes give it."""
    config = ModelConfig.from_dict(published_config(size)).text
    assert gdn_state_bytes(config, dtype_size=0) == size.state_mib * 2**20


def test_estimates_equal_what_the_caches_hold(benches: object) -> None:
    bench: Bench = benches(DENSE)  # type: ignore[operator]
    cache = bench.model.make_cache()
    bench.model(mx.array([[1] * 256]), cache=cache)
    text = bench.checkpoint.config.text
    linear = sum(layer.nbytes for layer in cache if not hasattr(layer, "keys"))
    attention = sum(layer.nbytes for layer in cache if hasattr(layer, "keys"))
    assert linear == gdn_state_bytes(text, dtype_size=4)
    assert attention == 256 * attention_bytes_per_token(text, dtype_size=4)


def test_headers_are_read_without_the_data(tmp_path: Path) -> None:
    tensors = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float16)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = {
        header.name: (header.dtype, header.shape, header.nbytes)
        for header in read_headers([tmp_path / "x.safetensors"])
    }
    assert found == {"a": ("F32", (3, 4), 48), "b": ("F16", (5,), 10)}


@pytest.mark.parametrize("cut", [0, 4, 20, 200])
def test_files_that_are_cut_short_are_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros((3, 40), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"expected a safetensors file|it is cut short"):
        list(read_headers([path]))


def test_all_parameters_are_counted(benches: object) -> None:
    bench: Bench = benches(DENSE)  # type: ignore[operator]
    in_memory = sum(value.nbytes for _, value in tree_flatten(bench.model.parameters()))
    on_disk = sum(
        header.nbytes for header in read_headers(bench.checkpoint.weight_files()) if not header.name.startswith("mtp.")
    )
    assert in_memory == on_disk


@pytest.mark.parametrize("header", [b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b"[1]", b'{"a": {"data_offsets": []}}'])
def test_malformed_headers_are_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        list(read_headers([path]))
