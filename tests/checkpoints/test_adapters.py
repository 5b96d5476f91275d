"""LoRA adapters: applied as mlx-lm applies them, refused where they do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_qwen35 import ModelKit, convert
from mlx_qwen35.checkpoints.adapters import adapter_files, load_adapter
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.errors import AdapterError
from mlx_qwen35.patches.qwen3_5 import Model
from tests.checkpoints.test_files import logits_of
from tests.parity.cases import SHORT_IDS, TOLERANCE
from tests.tiny import DENSE, Shape, tensors_of
from tools.checkpoints.kinds import KINDS, build, write


def write_adapter(directory: Path, model: Any, **config: Any) -> Path:
    """What mlx_lm.lora saves, made with its own functions."""
    from mlx_lm.tuner.utils import linear_to_lora_layers

    # Adapters are trained with dropout; in an answer it would be noise.
    lora = {"rank": 4, "scale": 20.0, "dropout": 0.5}
    linear_to_lora_layers(model, 2, lora)
    rng = np.random.Generator(np.random.PCG64(3))
    weights = {
        name: mx.array(rng.normal(0, 0.1, value.shape).astype(np.float32))
        for name, value in tree_flatten(model.parameters())
        if name.endswith(("lora_a", "lora_b"))
    }
    directory.mkdir()
    mx.save_safetensors(str(directory / "adapters.safetensors"), weights)
    settings = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": lora} | config
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


def test_an_adapter_made_by_mlx_lm_is_applied(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """Against mlx-lm's own model with the same adapter: bit-identical text."""
    from mlx_lm.utils import load_adapters, load_model

    source = checkpoint_dir(DENSE)
    upstream, _ = load_model(source)
    adapter = write_adapter(tmp_path / "adapter", load_model(source)[0])
    load_adapters(upstream, str(adapter))
    upstream.eval()
    expected = np.array(upstream(mx.array([SHORT_IDS]))[0])
    found = logits_of(source, adapter_path=adapter)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - logits_of(source)).max() > 0.1
    assert np.isfinite(logits_of(source, "image first", adapter_path=adapter)).all()


@pytest.mark.some(1)
@pytest.mark.parametrize("bits", [3, 6])
def test_dora_is_applied_to_words_that_bits_do_not_divide(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], bits: int
) -> None:
    """Trained on plain weights, and put on quantised ones; against the same on what those stand for."""
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    lora = {"rank": 4, "scale": 5.0, "dropout": 0.0}
    trained, _ = load_model(checkpoint_dir(DENSE))
    linear_to_lora_layers(trained, 2, lora, use_dora=True)
    rng = np.random.Generator(np.random.PCG64(3))
    parts = {
        name: value if name.endswith(".m") else mx.array(rng.normal(0, 0.1, value.shape).astype(np.float32))
        for name, value in tree_flatten(trained.parameters())
        if name.endswith((".lora_a", ".lora_b", ".m"))
    }
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    mx.save_safetensors(str(adapter / "adapters.safetensors"), parts)
    settings = {"fine_tune_type": "dora", "num_layers": 2, "lora_parameters": lora}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    quantised = convert(checkpoint_dir(DENSE), tmp_path / "quantised", bits=bits)
    plain = convert(quantised, tmp_path / "plain", dequantize=True)
    found, expected = (logits_of(directory, adapter_path=adapter) for directory in (quantised, plain))
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert np.abs(found - logits_of(quantised)).max() > 0.1


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    source = checkpoint_dir(DENSE)
    with pytest.raises(AdapterError, match=r"expected adapter_config.json, found none"):
        ModelKit.load(source, adapter_path=tmp_path)
    from mlx_lm.utils import load_model

    adapter = write_adapter(tmp_path / "adapter", load_model(source)[0])
    weights: dict[str, mx.array] = mx.load(str(adapter / "adapters.safetensors"))  # type: ignore[assignment]
    mx.save_safetensors(str(adapter / "adapters.safetensors"), {name: value[:, :2] for name, value in weights.items()})
    with pytest.raises(
        AdapterError, match=r"adapter: the adapter does not fit: .*lora_a: expected \(64, 4\), found \(64, 2\)"
    ):
        ModelKit.load(source, adapter_path=adapter)


def test_adapters_with_missing_tensors_are_refused(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """Half of an adapter changes the answers by half, and nobody would know."""
    from mlx_lm.utils import load_model

    source = checkpoint_dir(DENSE)
    adapter = write_adapter(tmp_path / "adapter", load_model(source)[0])
    weights: dict[str, mx.array] = mx.load(str(adapter / "adapters.safetensors"))  # type: ignore[assignment]
    kept = dict(list(weights.items())[::2])
    mx.save_safetensors(str(adapter / "adapters.safetensors"), kept)
    with pytest.raises(AdapterError, match=r"asks for tensors that are missing: language_model\..*lora"):
        ModelKit.load(source, adapter_path=adapter)
    (adapter / "adapter_config.json").write_text("[1]")
    with pytest.raises(AdapterError, match="expected a JSON object, found list"):
        ModelKit.load(source, adapter_path=adapter)


@pytest.mark.some(1)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_made_by_mlx_vlm_is_applied(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], dense_and_moe: Shape, kind: str
) -> None:
    """Against mlx-vlm's own model with it."""
    from mlx_vlm.trainer.peft import apply_lora_layers, get_peft_model, save_adapter
    from mlx_vlm.utils import load_model

    source = checkpoint_dir(dense_and_moe)
    layers = ["q_proj", "in_proj_qkv", "down_proj"]
    model = get_peft_model(load_model(source), layers, rank=4, alpha=8, verbose=False, use_dora=kind == "dora")
    write_noise(model)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_adapter(model, adapter / "adapters.safetensors")
    assert_as_mlx_vlm(source, adapter, apply_lora_layers(load_model(source), adapter))


def test_an_adapter_in_mlx_vlm_s_first_format_is_applied(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    from mlx_vlm.trainer.peft import apply_lora_layers, get_peft_model, save_adapter
    from mlx_vlm.utils import load_model

    source, adapter = checkpoint_dir(DENSE), tmp_path / "adapter"
    model = get_peft_model(load_model(source), rank=4, alpha=2.0, verbose=False, legacy=True)
    write_noise(model)
    adapter.mkdir()
    save_adapter(model, adapter / "adapters.safetensors")
    assert set(json.loads((adapter / "adapter_config.json").read_text())) >= {"rank", "alpha"}
    assert_as_mlx_vlm(source, adapter, apply_lora_layers(load_model(source), adapter))
    weights = dict(mx.load(str(adapter / "adapters.safetensors")))
    mx.eval(weights)
    half = {name: value for name, value in weights.items() if not name.endswith("layers.3.mlp.up_proj.B")}
    for changed, message in (
        (half, "halves of: .*layers.3.mlp.up_proj"),
        (weights | {"x.A": mx.zeros(4)}, "such layers: x"),
    ):
        mx.save_safetensors(str(adapter / "adapters.safetensors"), changed)
        with pytest.raises(AdapterError, match=message):
            ModelKit.load(source, adapter_path=adapter)


def write_noise(model: Any) -> None:
    """The same in every run: what an adapter begins with is drawn by MLX, magnitudes are the model's."""
    rng = np.random.Generator(np.random.PCG64(5))
    weights = sorted(tree_flatten(model.trainable_parameters()), key=lambda item: item[0])
    noise = [(name, value, mx.array(rng.normal(0, 0.1, value.shape).astype(np.float32))) for name, value in weights]
    model.load_weights([(name, value + n if name.endswith(".m") else n) for name, value, n in noise], strict=False)


def assert_as_mlx_vlm(source: Path, adapter: Path, theirs: Any) -> None:
    theirs.eval()
    expected = np.array(theirs(mx.array([SHORT_IDS])).logits[0])
    found = logits_of(source, adapter_path=adapter)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert np.abs(found - logits_of(source)).max() > 0.1


def put(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).write_text("")


SETTINGS = "adapter_config.json"


@pytest.mark.parametrize("name", ["adapters.safetensors", "weights.safetensors", "adapter_model.safetensors"])
def test_an_adapter_s_weights_have_the_name_of_one_program_or_another(tmp_path: Path, name: str) -> None:
    put(tmp_path, SETTINGS, name)
    assert adapter_files(tmp_path) == [tmp_path / SETTINGS, tmp_path / name]


def test_of_several_names_the_first_counts_and_folders_are_no_files(tmp_path: Path) -> None:
    put(tmp_path, SETTINGS, "adapter_model.safetensors", "weights.safetensors")
    (tmp_path / "adapters.safetensors").mkdir()
    assert adapter_files(tmp_path) == [tmp_path / SETTINGS, tmp_path / "weights.safetensors"]
    (tmp_path / "adapters.safetensors").rmdir()
    put(tmp_path, "adapters.safetensors")
    assert adapter_files(tmp_path) == [tmp_path / SETTINGS, tmp_path / "adapters.safetensors"]


def test_what_is_missing_of_an_adapter_is_told(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).mkdir()
    with pytest.raises(AdapterError, match=rf"^{tmp_path}: expected {SETTINGS}, found none$"):
        adapter_files(tmp_path)
    (tmp_path / SETTINGS).rmdir()
    put(tmp_path, SETTINGS)
    missing = "expected adapters.safetensors or adapter_model.safetensors, found none"
    with pytest.raises(AdapterError, match=f"{missing}$"):
        adapter_files(tmp_path)
    put(tmp_path, "adapter_model.bin")
    with pytest.raises(AdapterError, match=rf"{missing} \(only adapter_model.bin; pickled weights are not read\)$"):
        adapter_files(tmp_path)


LORA = {"rank": 4, "scale": 20.0, "dropout": 0.0}
A_LAYER = "language_model.model.layers.3.mlp.up_proj"


def lora(model: Any, directory: Path, settings: dict[str, Any], *further: str) -> None:
    """Load an adapter of one layer, with some tensors more, onto a model whose weights are not read."""
    tensors = {f"{A_LAYER}.lora_a": mx.ones((64, 4)), f"{A_LAYER}.lora_b": mx.ones((4, 128))}
    tensors |= {name: mx.zeros(64) for name in further}
    (directory / SETTINGS).write_text(json.dumps(settings))
    mx.save_safetensors(str(directory / "adapters.safetensors"), tensors)
    load_adapter(model, directory)


def test_an_adapter_whose_settings_name_no_kind_is_lora(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """As mlx-lm reads it; of its layers it adapts those that its keys name."""
    model = Model.from_checkpoint(Checkpoint.open(checkpoint_dir(DENSE)))
    lora(model, tmp_path, {"num_layers": 1, "lora_parameters": LORA | {"keys": ["mlp.up_proj"]}})
    adapted = [path for path, module in model.named_modules() if "lora_a" in module]
    assert adapted == [A_LAYER]
    assert mx.array_equal(dict(model.named_modules())[A_LAYER].lora_b, mx.ones((4, 128))).item()
    assert not any(module.training for _, module in model.named_modules())


@pytest.mark.parametrize(
    ("settings", "further", "message"),
    [
        ({}, ("x.lora_a",), "no such parameters: x.lora_a"),
        ({}, ("language_model.model.norm.weight",), "no such parameters: language_model.model.norm.weight"),
        ({"num_layers": None}, (), "the adapter does not fit: "),
        ({"num_layers": "x"}, (), "the adapter does not fit: "),
        ({"lora_parameters": 5}, (), "the adapter does not fit: "),
        ({"lora_parameters": {"rank": 4}}, (), "the adapter does not fit: "),
    ],
)
def test_an_adapter_that_is_not_what_it_says_is_refused(
    tmp_path: Path,
    checkpoint_dir: Callable[[Shape], Path],
    settings: dict[str, Any],
    further: tuple[str, ...],
    message: str,
) -> None:
    """Too much, too little, or nonsense."""
    model = Model.from_checkpoint(Checkpoint.open(checkpoint_dir(DENSE)))
    whole = {"num_layers": 1, "lora_parameters": LORA | {"keys": ["mlp.up_proj"]}}
    with pytest.raises(AdapterError, match=message):
        lora(model, tmp_path, whole | settings, *further)


def test_settings_of_no_program_are_refused(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    with pytest.raises(AdapterError, match="expected adapters.safetensors or adapter_model.safetensors, found none"):
        ModelKit.load(checkpoint_dir(DENSE), adapter_path=tmp_path)
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), {"a": mx.zeros(1)})
    with pytest.raises(AdapterError, match="expected settings of mlx_lm.lora, mlx-vlm or peft, found none of theirs"):
        ModelKit.load(checkpoint_dir(DENSE), adapter_path=tmp_path)


def test_a_full_adapter_is_applied_and_its_names_are_checked(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"fine_tune_type": "full", "num_layers": 1}')
    name = "language_model.model.layers.3.mlp.up_proj.weight"
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), {name: mx.zeros((128, 64))})
    assert (
        np.abs(logits_of(checkpoint_dir(DENSE), adapter_path=tmp_path) - logits_of(checkpoint_dir(DENSE))).max() > 0.01
    )
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), {f"x.{name}": mx.zeros((128, 64))})
    with pytest.raises(AdapterError, match=f"no such parameters: x.{name}"):
        ModelKit.load(checkpoint_dir(DENSE), adapter_path=tmp_path)


def test_dora_on_nvfp4_with_global_scales_is_refused(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """mlx-lm's DoRA restores weights without them; LoRA adds to what the layer computes, whatever that is."""
    kind = next(kind for kind in KINDS if kind.name == "NVFP4 of ModelOpt")
    source = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "source")
    write(build(kind, tensors_of(DENSE))[0], source / "model.safetensors")
    for name in ("plain", "dora"):
        adapter = Path(__file__).parent / "peft" / name
        if name == "plain":
            assert np.isfinite(logits_of(source, adapter_path=adapter)).all()
            continue
        with pytest.raises(AdapterError, match=r"found nvfp4 with global scales: language_model.*gate_proj"):
            ModelKit.load(source, adapter_path=adapter)


def test_an_adapter_may_lie_below_the_home_directory(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every reader of its files."""
    adapter = shutil.copytree(Path(__file__).parent / "peft" / "plain", tmp_path / "adapter")
    expected = logits_of(checkpoint_dir(DENSE), adapter_path=adapter)
    monkeypatch.setenv("HOME", str(tmp_path))
    np.testing.assert_array_equal(logits_of(checkpoint_dir(DENSE), adapter_path="~/adapter"), expected)
    checkpoint = Checkpoint.open(checkpoint_dir(DENSE))
    assert checkpoint.fingerprint("~/adapter") == checkpoint.fingerprint(adapter) != checkpoint.fingerprint()
