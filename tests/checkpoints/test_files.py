"""Finding and loading: every layout, every size, every kind of damage."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

from mlx_qwen35 import ModelKit
from mlx_qwen35.bench.published import PUBLISHED, published_config
from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.hub import find_checkpoint
from mlx_qwen35.checkpoints.layouts import to_canonical
from mlx_qwen35.checkpoints.mtp_heads import head_files
from mlx_qwen35.doctor import examine
from mlx_qwen35.errors import CheckpointError, CheckpointWarning, ConfigError, VisionUnavailableError
from mlx_qwen35.patches.qwen3_5 import Model
from tests.parity.cases import CASES, SHORT_IDS, TOLERANCE
from tests.tiny import DENSE, MOE, WIDE_HEADS, Shape, config_of, write_checkpoint

Edit = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@pytest.fixture
def copy_of(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> Callable[..., Path]:
    """A checkpoint of its own for one test, with its tensors and config edited."""

    def make(shape: Shape, edit: Edit | None = None, **config: Any) -> Path:
        directory = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(checkpoint_dir(shape), directory)
        if edit is not None:
            save_file(edit(load_file(directory / "model.safetensors")), directory / "model.safetensors")
        if config:
            path = directory / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return directory

    return make


def logits_of(directory: Path, name: str | None = None, **options: Any) -> np.ndarray:
    with ModelKit.load(directory, exact=True, **options) as kit:
        if name is None:
            return np.array(kit.logits(kit.process_prompt(SHORT_IDS)))
        case = CASES[name]
        return np.array(kit.logits(kit.process_prompt(case.input_ids, images=case.images)))


def canonical(directory: Path, shape: Shape) -> Edit:
    """From transformers' layout to that of mlx-vlm conversions."""

    def edit(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        config = ModelConfig.from_dict(config_of(shape))
        out = to_canonical({name: mx.array(value) for name, value in tensors.items()}, config)
        return {name: np.array(value) for name, value in out.items()}

    return edit


@pytest.mark.parametrize("name", [None, "image first"])
def test_an_mlx_vlm_conversion_loads_alike(
    copy_of: Callable[..., Path], checkpoint_dir: Callable[[Shape], Path], dense_and_moe: Shape, name: str | None
) -> None:
    directory = checkpoint_dir(dense_and_moe)
    converted = copy_of(dense_and_moe, canonical(directory, dense_and_moe))
    np.testing.assert_array_equal(logits_of(converted, name), logits_of(directory, name))


def test_an_mlx_lm_conversion_serves_text_and_refuses_images(
    copy_of: Callable[..., Path], checkpoint_dir: Callable[[Shape], Path], dense_and_moe: Shape
) -> None:
    directory = checkpoint_dir(dense_and_moe)
    whole = canonical(directory, dense_and_moe)
    converted = copy_of(
        dense_and_moe,
        lambda tensors: {n: v for n, v in whole(tensors).items() if n.startswith("language_model.")},
    )
    np.testing.assert_array_equal(logits_of(converted), logits_of(directory))
    with pytest.raises(VisionUnavailableError, match=r"images\[0\]: this checkpoint cannot see images: it holds no"):
        logits_of(converted, "wide image")


def test_a_conversion_made_by_mlx_lm_loads_alike(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """Not our idea of its layout, but its own program."""
    from mlx_lm.convert import convert

    convert(str(checkpoint_dir(DENSE)), str(tmp_path / "converted"))
    np.testing.assert_array_equal(logits_of(tmp_path / "converted"), logits_of(checkpoint_dir(DENSE)))


@pytest.mark.parametrize("moe", [False, True], ids=["qwen3_5_text", "qwen3_5_moe_text"])
def test_text_only_checkpoints_load(tmp_path: Path, moe: bool) -> None:
    """As Qwen3_5ForCausalLM writes them: a flat config and names without `language_model`."""
    shape = replace(MOE if moe else DENSE, name="text-only", text_only=True)
    directory = write_checkpoint(tmp_path / "checkpoint", shape)
    assert np.isfinite(logits_of(directory)).all()
    with pytest.raises(VisionUnavailableError, match="its config.json describes no vision tower"):
        logits_of(directory, "wide image")


@pytest.mark.parity
@pytest.mark.parametrize("moe", [False, True], ids=["qwen3_5_text", "qwen3_5_moe_text"])
def test_text_only_checkpoints_equal_transformers(tmp_path: Path, moe: bool) -> None:
    """float32, TOLERANCE of the largest logit, against AutoModelForCausalLM."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    from transformers import AutoModelForCausalLM

    shape = replace(MOE if moe else DENSE, name="text-only", text_only=True)
    directory = write_checkpoint(tmp_path / "checkpoint", shape)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(torch.tensor([SHORT_IDS])).logits[0].numpy()
    found = logits_of(directory)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parity
@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
def test_what_transformers_saves_loads_alike(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], shape: Shape
) -> None:
    """Its save_pretrained writes experts one by one, drops MTP and full_attention_interval, and shards."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    from transformers import AutoModelForImageTextToText

    source = checkpoint_dir(shape)
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    saved = tmp_path / "saved"
    model.save_pretrained(saved, max_shard_size="300KB")
    assert len(list(saved.glob("model-*.safetensors"))) > 1
    for path in source.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            shutil.copy(path, saved)
    for name in (None, "two images"):
        np.testing.assert_array_equal(logits_of(saved, name), logits_of(source, name))


def test_layer_types_decide_the_kind_of_each_layer(kits: Callable[[Shape], ModelKit]) -> None:
    """WIDE_HEADS alternates, which mlx-lm and mlx-vlm would read as every fourth."""
    kinds = [layer.is_linear for layer in kits(WIDE_HEADS).model.layers]
    assert kinds == [True, False, True, False]


@pytest.mark.some(1)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=["bf16", "fp16"])
def test_half_precision_loads_and_sees(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], dtype: Any) -> None:
    source = checkpoint_dir(DENSE)
    directory = shutil.copytree(source, tmp_path / "half")
    weights = mx.load(str(source / "model.safetensors"))
    half = {name: value.astype(dtype) for name, value in weights.items()}  # type: ignore[union-attr]
    mx.save_safetensors(str(directory / "model.safetensors"), half)
    for name in ("text", "two images"):
        expected, found = logits_of(source, name), logits_of(directory, name)
        # transformers' own bf16 is up to 1.3 off on logits of this size, so single positions prove nothing.
        assert np.abs(found - expected).mean() < 0.02 * np.abs(expected).max()
        assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.8


@pytest.mark.some(4)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("mixed", [False, True], ids=["uniform", "mixed"])
def test_quantised_checkpoints_load_alike(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], dense_and_moe: Shape, bits: int, mixed: bool
) -> None:
    """Written by mlx's own nn.quantize, with per-path entries as mlx-lm writes them."""
    source = checkpoint_dir(dense_and_moe)
    model = Model.from_checkpoint(Checkpoint.open(source), exact=True)
    model.vision_tower = None
    settings: dict[str, Any] = {"group_size": 64, "bits": bits, "mode": "affine"}
    entries: dict[str, Any] = {}

    def choose(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized"):
            return False
        if mixed and "layers.1." in path:
            entries[path] = {"group_size": 32, "bits": 12 - bits, "mode": "affine"}
            return entries[path]  # type: ignore[no-any-return]
        return not (mixed and "embed_tokens" in path)

    nn.quantize(model, 64, bits, class_predicate=choose)
    expected = np.array(model(mx.array([SHORT_IDS]))[0])
    directory = shutil.copytree(source, tmp_path / "quantised")
    mx.save_safetensors(str(directory / "model.safetensors"), dict(tree_flatten(model.parameters())))
    raw = config_of(dense_and_moe) | {"quantization": settings | entries}
    (directory / "config.json").write_text(json.dumps(raw))
    np.testing.assert_array_equal(logits_of(directory), expected)


def test_quantised_tensors_in_transformers_names_load(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """Quantisation entries under the names of the tensors, which are renamed together."""
    source = checkpoint_dir(DENSE)
    directory = shutil.copytree(source, tmp_path / "quantised")
    weights: dict[str, mx.array] = mx.load(str(source / "model.safetensors"))  # type: ignore[assignment]
    path = "model.language_model.layers.0.mlp.gate_proj"
    quantised, scales, biases = mx.quantize(weights[f"{path}.weight"], 32, 8)
    weights |= {f"{path}.weight": quantised, f"{path}.scales": scales, f"{path}.biases": biases}
    mx.save_safetensors(str(directory / "model.safetensors"), weights)
    settings = {"group_size": 64, "bits": 4, path: {"group_size": 32, "bits": 8}}
    (directory / "config.json").write_text(json.dumps(config_of(DENSE) | {"quantization": settings}))
    expected, found = logits_of(source), logits_of(directory)
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_shards_are_read_together(copy_of: Callable[..., Path], checkpoint_dir: Callable[[Shape], Path]) -> None:
    directory = copy_of(DENSE)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    np.testing.assert_array_equal(logits_of(directory), logits_of(checkpoint_dir(DENSE)))
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected 2 weight files, 1 missing: model-00002-of-00002"):
        ModelKit.load(directory)


def drop(*parts: str) -> Edit:
    return lambda tensors: {n: v for n, v in tensors.items() if not any(part in n for part in parts)}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            drop("layers.1.mlp.up_proj", "layers.2.mlp.up_proj"),
            r"2 missing: .*layers\.1\.mlp\.up_proj\.weight, .*layers\.2",
        ),
        (drop("visual.blocks.0.norm1.bias"), r"1 missing: vision_tower\.blocks\.0\.norm1\.bias"),
        (lambda t: t | {"model.language_model.extra": t["lm_head.weight"]}, r"1 surplus: language_model\.model\.extra"),
        (
            lambda t: t | {"lm_head.weight": t["lm_head.weight"][:9]},
            r"misshapen: .*expected \(352, 64\), found \(9, 64\)",
        ),
        (lambda t: t | {"stray.weight": t["lm_head.weight"]}, r"tensor stray.weight: expected a name that begins"),
    ],
)
def test_tensors_that_do_not_fit_are_listed(copy_of: Callable[..., Path], edit: Edit, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ModelKit.load(copy_of(DENSE, edit))


def test_damaged_and_missing_files_are_told(copy_of: Callable[..., Path], tmp_path: Path) -> None:
    directory = copy_of(DENSE)
    weights = directory / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"cannot be loaded|cut short"):
        ModelKit.load(directory)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"expected model\*\.safetensors, found none"):
        ModelKit.load(directory)
    (directory / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"only pytorch_model.bin; pickled weights are not read"):
        ModelKit.load(directory)
    (directory / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config.json: cannot be read"):
        ModelKit.load(directory)
    with pytest.raises(CheckpointError, match="expected a directory with config.json, found a file"):
        find_checkpoint(directory / "tokenizer.json")
    with pytest.raises(CheckpointError, match="expected an existing directory or a hub id"):
        find_checkpoint(tmp_path / "nowhere")


def test_a_checkpoint_that_brings_code_does_not_run_it(copy_of: Callable[..., Path]) -> None:
    directory = copy_of(DENSE, model_file="evil.py", auto_map={"AutoConfig": "evil.Config", "AutoTokenizer": "evil.T"})
    (directory / "evil.py").write_text("raise SystemExit('this ran')")
    assert np.isfinite(logits_of(directory)).all()


def test_a_local_checkpoint_never_touches_the_network(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert np.isfinite(logits_of(checkpoint_dir(DENSE), "wide image")).all()


@pytest.mark.parametrize("size", PUBLISHED, ids=lambda size: size.name)
def test_published_sizes_build_with_their_parameter_counts(size: Any) -> None:
    """Lazily: no weight of the 397B is ever computed."""
    config = ModelConfig.from_dict(published_config(size))
    model = Model(config)
    counts = {name: value.size for name, value in tree_flatten(model.parameters())}
    text = sum(count for name, count in counts.items() if name.startswith("language_model."))
    assert text == size.text_parameters
    assert any(name.startswith("vision_tower.") for name in counts)
    assert len(model.layers) == size.layers


def test_only_files_that_the_index_names_are_read(
    copy_of: Callable[..., Path], checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """A shard left over from another download, with zeros in it, would be mixed in silently."""
    directory = copy_of(DENSE)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").rename(directory / "weights-a.safetensors")
    stale = {"lm_head.weight": tensors["lm_head.weight"] * 0}
    save_file(stale, directory / "model-00001-of-00009.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "weights-a.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(logits_of(directory), logits_of(checkpoint_dir(DENSE)))


@pytest.mark.parametrize(
    ("generation", "ids"), [({}, {3}), ({"eos_token_id": 7}, {3, 7}), ({"eos_token_id": [3, 8, 9]}, {3, 8, 9})]
)
def test_every_id_that_either_file_calls_an_end_is_one(
    tmp_path: Path, generation: dict[str, Any], ids: set[int]
) -> None:
    raw = config_of(DENSE) | {"eos_token_id": 3}
    raw["text_config"] = {**raw["text_config"], "eos_token_id": None}
    assert Checkpoint(tmp_path, ModelConfig.from_dict(raw), generation).eos_token_ids == ids


def test_a_bad_generation_config_does_not_keep_a_model_from_loading(copy_of: Callable[..., Path]) -> None:
    directory = copy_of(DENSE)
    settings = {"do_sample": True, "top_p": 0, "top_k": 20.0, "max_new_tokens": 0, "temperature": 1.5, "unknown": 1}
    (directory / "generation_config.json").write_text(json.dumps(settings))
    with pytest.warns(CheckpointWarning, match=r"generation_config.json: max_new_tokens: expected .* at least 1"):
        kit = ModelKit.load(directory)
    with kit:
        one, other = (kit.generate("the", max_tokens=8, seed=seed).tokens for seed in (1, 2))
        # A `top_p` of 0 leaves the most likely token.
        assert one == other == kit.generate("the", max_tokens=8, temperature=0.0).tokens


def changed(path: Path, at: int) -> None:
    """One byte of a file, as another training step changes it."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_fingerprint_tells_models_apart(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """By any byte of its weights and its adapter, by the configuration of either, and by nothing else."""
    directory, adapter = tmp_path / "model", tmp_path / "adapter"
    shutil.copytree(checkpoint_dir(DENSE), directory)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"scale": 1}')
    weights, adapters = directory / "model.safetensors", adapter / "adapters.safetensors"
    adapters.write_bytes(bytes(100_000))
    size = weights.stat().st_size

    def prints() -> tuple[str, str]:
        checkpoint = Checkpoint.open(directory)
        return checkpoint.fingerprint(), checkpoint.fingerprint(adapter)

    seen = {*prints()}
    assert len(seen) == 2
    assert {*prints()} == seen
    for at in (0, 99_999):
        changed(adapters, at)
        plain, adapted = prints()
        assert plain in seen
        assert adapted not in seen
        seen.add(adapted)
    (adapter / "adapter_config.json").write_text('{"scale": 2}')
    assert prints()[1] not in seen
    for at in (size - 1, size // 2):
        changed(weights, at)
        assert not seen & {*prints()}
        seen |= {*prints()}
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"transformers_version": "9"}))
    assert not seen & {*prints()}
    seen |= {*prints()}
    (directory / "config.json").write_text(json.dumps(config | {"transformers_version": "9"}, indent=7))
    (directory / "README.md").write_text("another text")
    assert {*prints()} <= seen


def test_a_fingerprint_tells_what_else_a_state_depends_on(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path, copy_of: Callable[..., Path]
) -> None:
    """The arithmetic and further files; not the order in which config.json has its fields."""
    checkpoint, head = Checkpoint.open(checkpoint_dir(DENSE)), tmp_path / "mtp.safetensors"
    head.write_bytes(b"1")
    seen = {checkpoint.fingerprint(), checkpoint.fingerprint(None, "exact"), checkpoint.fingerprint(None, "", [head])}
    head.write_bytes(b"2")
    seen.add(checkpoint.fingerprint(None, "", [head]))
    assert len(seen) == 4
    directory = copy_of(DENSE)
    turned = dict(reversed(config_of(DENSE).items()))
    (directory / "config.json").write_text(json.dumps(turned))
    assert Checkpoint.open(directory).fingerprint() == checkpoint.fingerprint()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("models/Qwen3.5-4B", "Qwen3.5-4B"),
        ("hub/models--Qwen--Qwen3.5-4B/snapshots/abc", "Qwen/Qwen3.5-4B"),
        ("hub/models--me--my--model/snapshots/abc", "me/my--model"),
        ("hub/models--gpt2/snapshots/abc", "gpt2"),
        ("mine/snapshots/abc", "abc"),
        ("models--a--b/other/abc", "abc"),
    ],
)
def test_a_checkpoint_is_called_by_its_id_or_its_folder(path: str, name: str) -> None:
    assert Checkpoint(Path(path), ModelConfig.from_dict(config_of(DENSE)), {}).name == name


def test_the_folder_that_one_is_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Checkpoint(Path(), ModelConfig.from_dict(config_of(DENSE)), {}).name == tmp_path.name


def test_a_pipe_in_a_checkpoint_is_seen_before_anything_is_opened(copy_of: Callable[..., Path]) -> None:
    directory = copy_of(DENSE)
    os.mkfifo(directory / "chat_template.json")
    with pytest.raises(CheckpointError, match="expected a file, found a pipe or a device"):
        Checkpoint.open(directory)


def test_a_tower_is_looked_for_only_where_config_json_describes_one(
    copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    for config, found in (({"vision_config": None}, 1), ({}, 2)):
        directory = copy_of(DENSE, drop("visual"), **config)
        save_file({"model.visual.a": np.zeros(1, np.float32)}, directory / "tower.safetensors")
        assert len(Checkpoint.open(directory).weight_files()) == found


@pytest.mark.parametrize("part", [0, 1, 64, 127])
def test_a_fingerprint_samples_large_files(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path, part: int) -> None:
    """Every 128th part counts, and the length."""
    directory = tmp_path / "model"
    shutil.copytree(checkpoint_dir(DENSE), directory)
    checkpoint, weights, size = Checkpoint.open(directory), directory / "model.safetensors", 2**25
    seen = set()
    for length, at in ((size, None), (size + 128, None), (size, part * (size // 128) + 2**16 - 1)):
        with weights.open("wb") as file:
            file.truncate(length)
            if at is not None:
                file.seek(at)
                file.write(b"x")
        seen.add(checkpoint.fingerprint())
    assert len(seen) == 3


def junk_head(layout: str, *kinds: str) -> Edit:
    """A head of its own, which a tied model does not use, in one layout or the other."""

    def edit(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        prefix = "lm_head"
        if layout == "mlx":
            tensors = canonical(Path(), WIDE_HEADS)(tensors)
            prefix = "language_model.lm_head"
        return tensors | {f"{prefix}.{kind}": np.ones((352, 64), np.float32) for kind in kinds}

    return edit


QUANTISED = ("weight", "scales", "biases")


@pytest.mark.some(2)
@pytest.mark.parametrize(("layout", "kinds"), [("mlx", ("weight",)), ("mlx", QUANTISED), ("transformers", QUANTISED)])
def test_a_tied_checkpoint_may_hold_a_head(
    copy_of: Callable[..., Path], checkpoint_dir: Callable[[Shape], Path], layout: str, kinds: tuple[str, ...]
) -> None:
    """Which nothing reads: the embedding is the head. Of a plain one in transformers' layout see `test_layouts`."""
    directory = copy_of(WIDE_HEADS, junk_head(layout, *kinds))
    np.testing.assert_array_equal(logits_of(directory), logits_of(checkpoint_dir(WIDE_HEADS)))


@pytest.mark.parametrize(
    "config",
    [{"vision_config": {}}, {"image_token_id": None, "vision_start_token_id": None}],
    ids=["empty", "null ids"],
)
def test_vision_tensors_of_a_tower_that_is_not_described_are_left_alone(
    copy_of: Callable[..., Path], checkpoint_dir: Callable[[Shape], Path], config: dict[str, Any]
) -> None:
    directory = copy_of(DENSE, **config)
    np.testing.assert_array_equal(logits_of(directory), logits_of(checkpoint_dir(DENSE)))
    with pytest.raises(VisionUnavailableError, match=r"config.json describes no vision tower, or null for the ids"):
        logits_of(directory, "wide image")


def test_what_a_directory_is_instead_is_said_by_whatever_loads_it(tmp_path: Path) -> None:
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read .*\. Llama\.cpp's format"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model-q4.gguf").unlink()
    with pytest.raises(ConfigError, match=r"found 'llama'\. By its config\.json it is a llama model"):
        Checkpoint.open(tmp_path)


def test_a_model_of_text_alone_may_be_saved_without_its_head(tmp_path: Path) -> None:
    """Where embeddings are tied nothing is missing then; in two files, the second of which looks like an MTP head's."""
    source = write_checkpoint(tmp_path / "source", replace(DENSE, text_only=True, tied=True))
    bare = shutil.copytree(source, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = {name.removeprefix("model."): value for name, value in load_file(source / "model.safetensors").items()}
    for number, there in ((1, False), (2, True)):
        part = {name: value for name, value in tensors.items() if name.startswith("layers.3.") == there}
        save_file(part, bare / f"model-0000{number}-of-00002.safetensors")
    models = [Model.from_checkpoint(Checkpoint.open(directory)) for directory in (source, bare)]
    expected, found = (dict(tree_flatten(model.parameters())) for model in models)
    assert expected.keys() == found.keys()
    assert all(mx.array_equal(value, found[name]).item() for name, value in expected.items())
    assert head_files(Checkpoint.open(bare)) == []
    report = examine(bare)
    assert (report.mtp, report.parameters_bytes) == (False, examine(source).parameters_bytes)
