"""Directories that cannot be loaded, in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_qwen35.checkpoints.explaining import explain
from mlx_qwen35.checkpoints.weight_files import INDEX
from tests.tiny import DENSE, config_of


def files(**contents: Any) -> Callable[[Path], None]:
    """Writes files by their names, a dot as two underscores: JSON, or nothing for None."""

    def write(directory: Path) -> None:
        for name, content in contents.items():
            path = directory / name.replace("__", ".").replace("_in_", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("" if content is None else json.dumps(content))

    return write


def weights(*names: str, **contents: Any) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        files(**contents)(directory)
        save_file({name: np.zeros(1, np.float32) for name in names}, directory / "model.safetensors")

    return write


QWEN = config_of(DENSE)
KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (files(), "The directory is empty."),
    "pictures": (files(a__png=None, b__txt=None), "Nothing in it is a checkpoint's: it holds a.png, b.txt."),
    "many files": (
        files(**{f"f{number}__txt": None for number in range(9)}),
        "Nothing in it is a checkpoint's: it holds f0.txt, f1.txt, f2.txt, f3.txt, f4.txt, f5.txt, f6.txt, f7.txt and "
        "more.",
    ),
    "another model": (
        weights("model.a", config__json={"model_type": "llama", "architectures": ["LlamaForCausalLM"]}),
        "By its config.json it is a llama model (LlamaForCausalLM); this package runs Qwen3.5, 3.6 and 3.8.",
    ),
    "a model of another architecture": (
        weights("model.a", config__json={"model_type": "qwen4_exp"}),
        "By its config.json it is a qwen4_exp model; this package runs Qwen3.5, 3.6 and 3.8: Qwen3.8-Flash-Next is of "
        "another architecture, in spite of its name.",
    ),
    "a model of no type": (
        weights("model.a", config__json={"a": 1}),
        "By its config.json it is a model of no type; this package runs Qwen3.5, 3.6 and 3.8.",
    ),
    "an MTP head": (
        weights("mtp.fc.weight", config__json={"model_type": "qwen3_5_mtp"}),
        "By its config.json it is a qwen3_5_mtp model; this package runs Qwen3.5, 3.6 and 3.8: it is an MTP head "
        "alone, and belongs to a checkpoint of its own (--mtp-model). Its weights are an MTP head, without a decoder.",
    ),
    "an adapter of PEFT": (
        files(adapter_config__json={"base_model_name_or_path": "Qwen/X"}, adapter_model__safetensors=None),
        "It is an adapter for Qwen/X: load that, with this one as adapter_path (--adapter-path).",
    ),
    "an adapter of mlx-lm": (
        files(adapter_config__json={"model": "y"}, adapters__safetensors=None),
        "It is an adapter for y: load that, with this one as adapter_path (--adapter-path).",
    ),
    "GGUF": (
        files(x__gguf=None),
        "Llama.cpp's format (GGUF) is not read: take the checkpoint in safetensors, the original or a conversion to "
        "MLX.",
    ),
    "pickles": (
        files(config__json=QWEN, pytorch_model__bin=None),
        "Its weights are pickled (pytorch_model.bin), which is not read: such files may run programs.",
    ),
    "pickles of torch alone": (
        files(consolidated__pt=None),
        "Its weights are pickled (consolidated.pt), which is not read: such files may run programs.",
    ),
    "pickles of an older torch alone": (
        files(consolidated__pth=None),
        "Its weights are pickled (consolidated.pth), which is not read: such files may run programs.",
    ),
    "eight files": (
        files(**{f"f{number}__txt": None for number in range(8)}),
        "Nothing in it is a checkpoint's: it holds f0.txt, f1.txt, f2.txt, f3.txt, f4.txt, f5.txt, f6.txt, f7.txt.",
    ),
    "a folder with a file's name": (
        files(a__safetensors_in_x=None, adapter_config__json_in_x=None),
        "Nothing in it is a checkpoint's: it holds a.safetensors, adapter_config.json.",
    ),
    "an adapter of both programs": (
        files(adapter_config__json={"base_model_name_or_path": "Qwen/X", "model": "y"}, adapters__safetensors=None),
        "It is an adapter for Qwen/X: load that, with this one as adapter_path (--adapter-path).",
    ),
    "a folder of many checkpoints": (
        files(**{f"{name}_in_config__json": QWEN for name in "gfedcba"}),
        "It holds folders with checkpoints: name one of them (a, b, c, d, e).",
    ),
    "another model without a name": (
        weights("model.a", config__json={"model_type": "llama", "architectures": []}),
        "By its config.json it is a llama model; this package runs Qwen3.5, 3.6 and 3.8.",
    ),
    "a folder of checkpoints": (
        files(b_in_config__json=QWEN, a_in_config__json=QWEN, c_in_x=None),
        "It holds folders with checkpoints: name one of them (a, b).",
    ),
    "a folder of the hub's cache": (
        files(snapshots_in_abc_in_config__json=QWEN, refs_in_main=None),
        "It holds folders with checkpoints: name one of them (snapshots/abc).",
    ),
    "weights alone": (
        weights("model.layers.0.a"),
        "It holds weights without a config.json, which says what they are: copy it from the original.",
    ),
    "a download that was broken off": (
        files(config__json=QWEN, model__safetensors__index__json={"weight_map": {"a": "b.safetensors"}}),
        "Its index names weights, none of which is there: the download is not complete.",
    ),
    "a vision tower alone": (
        weights("model.visual.a", config__json=QWEN),
        "Its weights are a vision tower, without a decoder.",
    ),
    "weights of something else": (
        weights("encoder.a", config__json=QWEN),
        "Its weights are none of a Qwen3.5, without a decoder.",
    ),
    "nothing to say": (weights("model.layers.0.a", config__json=QWEN), ""),
    **{
        f"nothing to say of {kind}": (weights("model.layers.0.a", config__json={"model_type": kind}), "")
        for kind in ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")
    },
}  # fmt: skip


@pytest.mark.parametrize(("write", "words"), KINDS.values(), ids=KINDS)
def test_a_directory_is_explained(write: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    assert INDEX == "model.safetensors.index.json"
    directory = tmp_path / "directory"
    directory.mkdir()
    write(directory)
    assert explain(directory) == words


def test_weights_of_all_files_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    for name, tensor in (("a", "model.visual.a"), ("b", "mtp.fc.weight")):
        save_file({tensor: np.zeros(1, np.float32)}, tmp_path / f"{name}.safetensors")
    assert explain(tmp_path) == "Its weights are a vision tower and an MTP head, without a decoder."
    save_file({"model.layers.0.a": np.zeros(1, np.float32)}, tmp_path / "c.safetensors")
    assert explain(tmp_path) == ""


@pytest.mark.parametrize("content", ["{", "[]", "", "\0"])
def test_broken_files_do_not_stop_the_explanation(tmp_path: Path, content: str) -> None:
    for name in ("config.json", "adapter_config.json", INDEX, "model.safetensors"):
        (tmp_path / name).write_text(content)
    assert isinstance(explain(tmp_path), str)
    (tmp_path / "config.json").unlink()
    assert explain(tmp_path).startswith("It is an adapter: load")


@pytest.mark.parametrize("names", [(), ("config.json",)])
def test_of_a_gguf_repository_the_hub_s_cache_has_all_but_the_weights(tmp_path: Path, names: tuple[str, ...]) -> None:
    snapshot = tmp_path / "models--owner--Model-GGUF" / "snapshots" / "abc"
    assert explain(snapshot).startswith("Llama.cpp's format (GGUF) is not read")
    snapshot.mkdir(parents=True)
    for name in names:
        (snapshot / name).write_text(json.dumps(QWEN))
    assert explain(snapshot).startswith("Llama.cpp's format (GGUF) is not read")


def test_what_is_no_directory_has_no_explanation(tmp_path: Path) -> None:
    assert explain(tmp_path / "nowhere") == ""
