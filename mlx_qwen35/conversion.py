"""Write a checkpoint in MLX form, with its vision tower and its MTP head."""

import json
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.convert import QUANT_RECIPES, mixed_quant_predicate_builder
from mlx_lm.utils import make_shards

from mlx_qwen35.checkpoints.config import MEDIA_TOKENS, LayerType, ModelConfig
from mlx_qwen35.checkpoints.dequantising import dequantise
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.hub import find_checkpoint
from mlx_qwen35.checkpoints.mtp_heads import MtpHead, read_mtp_head
from mlx_qwen35.errors import CheckpointError, CheckpointWarning, OptionError
from mlx_qwen35.patches.qwen3_5 import Model, is_gate, quantisation_of
from mlx_qwen35.patches.widening import widen
from mlx_qwen35.paths import expand
from mlx_qwen35.runtime.thread import MlxThread

DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}
# Bits and group sizes that MLX has, by mode; the first of each is the default, of affine there is none.
MODES = {
    "affine": ((2, 3, 4, 5, 6, 8), (64, 32, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
RECIPES: tuple[str, ...] = tuple(QUANT_RECIPES)
SHARD_GIGABYTES = 5
_COPIED = ("*.json", "*.jinja", "*.txt")
# Of the weights that were read, not of those that are written.
_NOT_COPIED = ("config.json", "model.safetensors.index.json", "hf_quant_config.json")

OnProgress = Callable[[int, int], None]
Report = Callable[[str], None]


def convert(
    path_or_hub_id: str | Path,
    out: str | Path,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str | None = None,
    recipe: str | None = None,
    dequantize: bool = False,
    dtype: str | None = None,
    mtp_path: str | Path | None = None,
    revision: str | None = None,
    on_progress: OnProgress | None = None,
    report: Report | None = None,
) -> Path:
    """Convert a checkpoint of any layout and format to mlx-vlm's, which mlx-lm reads too.

    What is quantised is the decoder: the vision tower and the MTP head keep their precision, gates get 8 bits. FP8
    becomes plain weights; what is quantised in a way that MLX has stays as it is.

    Args:
        out: A directory that does not exist yet; it appears only when it is complete.
        bits: Quantise to 2, 3, 4, 5, 6 or 8 bits.
        group_size: Weights that share a scale: 32, 64 (the default) or 128, where the mode leaves a choice.
        mode: How: "affine" (the default), "mxfp4", "mxfp8" or "nvfp4"; the last three need no `bits`.
        recipe: More bits for some matrices, as mlx_lm.convert's `quant_predicate`: "mixed_2_6", "mixed_3_4",
            "mixed_3_6" or "mixed_4_6"; needs no `bits`.
        dequantize: Restore plain weights first, from whatever the source was quantised to.
        dtype: Cast floating-point tensors to "float16", "bfloat16" or "float32".
        mtp_path: A file, directory or hub id with the MTP head to write, in place of the source's own.
        on_progress: Called with the bytes that were written and those that there are.
        report: Called with what should be known of the result, such as matrices that could not be quantised; a
            warning by default.
    Returns:
        The directory that was written.
    Raises:
        CheckpointError: The source cannot be loaded, or is quantised already.
        OptionError: `out` exists or has no room, a number is not one that MLX can quantise to, or no matrix can be
            quantised to it.
    """
    target = expand(out, OptionError, "out")
    if target.exists():
        raise OptionError(f"{target}: expected a directory that does not exist yet, found one")
    quantisation = Quantisation.of(bits, group_size, mode, recipe)
    if dtype is not None and dtype not in DTYPES:
        raise OptionError(f"dtype: expected {', '.join(DTYPES)}, found {dtype}")
    source = Checkpoint.open(find_checkpoint(path_or_hub_id, revision=revision))
    writer = _Writer(source, quantisation, dequantize, dtype, mtp_path, on_progress)
    if quantisation is None and group_size is not None:
        writer.remarks.append("group_size says nothing without bits, a mode or a recipe: nothing was quantised")
    for remark in _fill(target, writer):
        if report is None:
            warnings.warn(remark, CheckpointWarning, stacklevel=2)
        else:
            report(remark)
    return target


def _fill(target: Path, writer: "_Writer") -> list[str]:
    """Write a directory that appears only when it is complete; returns what should be known of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    thread = MlxThread()
    # Beside the target, so that the last step is a rename.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        scratch = Path(folder) / target.name
        scratch.mkdir()
        try:
            remarks = thread.call(writer.write, scratch)
        finally:
            thread.close()
        scratch.rename(target)
    return remarks


@dataclass(frozen=True)
class Quantisation:
    """What the decoder is to be quantised to."""

    bits: int
    group_size: int
    mode: str
    recipe: str | None

    @classmethod
    def of(cls, bits: Any, group_size: Any, mode: Any, recipe: Any) -> "Quantisation | None":
        """From options; None if they ask for no quantisation.

        Raises:
            OptionError: MLX has no such quantisation.
        """
        if mode is not None and mode not in MODES:
            raise OptionError(f"mode: expected {', '.join(MODES)}, found {mode}")
        if recipe is not None and recipe not in RECIPES:
            raise OptionError(f"recipe: expected {', '.join(RECIPES)}, found {recipe}")
        if recipe is not None and (bits is not None or mode not in (None, "affine")):
            raise OptionError("recipe: expected no bits and no mode beside it, for it has its own")
        widths, sizes = MODES[mode or "affine"]
        if bits is None and mode is not None and len(widths) == 1:
            bits = widths[0]
        size = sizes[0] if group_size is None else group_size
        if size not in sizes:
            raise OptionError(f"group_size: expected {_any_of(sizes)}, found {size!r}")
        if recipe is not None:
            return cls(0, size, "affine", recipe)
        if bits is None and mode is not None:
            raise OptionError(f"bits: expected {_any_of(widths)} for mode {mode}, found none")
        if bits is not None and bits not in widths:
            raise OptionError(f"bits: expected {_any_of(widths)}, found {bits!r}")
        return None if bits is None else cls(bits, size, mode or "affine", None)


def _any_of(numbers: tuple[int, ...]) -> str:
    *most, last = map(str, sorted(numbers))
    return f"{', '.join(most)} or {last}" if most else last


@dataclass(frozen=True)
class _Writer:
    """One conversion; on the thread that owns MLX."""

    source: Checkpoint
    quantisation: Quantisation | None
    dequantize: bool
    dtype: str | None
    mtp_path: str | Path | None
    on_progress: OnProgress | None
    remarks: list[str] = field(default_factory=list)

    def write(self, out: Path) -> list[str]:
        """Fill an empty directory; returns what should be known of the result."""
        model = Model.from_checkpoint(self.source)
        self._make_plain(model)
        head = self._head()
        tensors = {} if head is None else dict(head.tensors)
        if self.dtype is not None:
            if DTYPES[self.dtype] == mx.float32:
                widen(model)
                offsets = {} if head is None else head.half_offsets
                tensors |= {name: value.astype(mx.float32) + 1.0 for name, value in offsets.items()}
            model.update(tree_map_with_path(self._cast, model.parameters()))
            tensors = {name: self._cast(name, value) for name, value in tensors.items()}
        if self.quantisation is not None:
            self._quantise(model, self.quantisation)
        tied = model.language_model.args.tie_word_embeddings
        config = self._config(_settings_of(model) | ({} if head is None else head.quantisation), tied=tied)
        tensors |= dict(tree_flatten(model.parameters()))
        del model, head
        self._save(tensors, out)
        (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for pattern in _COPIED:
            for path in self.source.directory.glob(pattern):
                if path.name not in _NOT_COPIED:
                    shutil.copy(path, out / path.name)
        return self.remarks

    def _head(self) -> MtpHead | None:
        """The MTP head to write; its own is left out where nothing could use it."""
        try:
            return read_mtp_head(self.source, self.mtp_path)
        except CheckpointError as error:
            if self.mtp_path is not None:
                raise
            self.remarks.append(f"the MTP head is left out: {error}")
            return None

    def _make_plain(self, model: Model) -> None:
        dtype = model.language_model.model.norm.weight.dtype
        if self.dequantize:
            dequantise(model, dtype)
        elif lone := dequantise(model, dtype, only=lambda module: module.get("global_scale") is not None):
            self.remarks.append(
                f"{len(lone)} layers in nvfp4 became plain: mlx-lm and mlx-vlm share no form for their global scales"
            )
        stored = _settings_of(model)
        if self.quantisation is not None and stored:
            path, settings = next(iter(stored.items()))
            raise CheckpointError(
                f"{self.source.directory}: expected unquantised weights, found {settings['bits']} bits "
                f"({settings['mode']}) in {path} and {len(stored) - 1} more; dequantize restores them first"
            )

    def _cast(self, path: str, value: mx.array) -> mx.array:
        # The decay rates go through two exponentials; mlx-lm leaves them alone too.
        if path.endswith("A_log") or not mx.issubdtype(value.dtype, mx.floating):
            return value
        return value.astype(DTYPES[self.dtype or ""])

    def _quantise(self, model: Model, asked: Quantisation) -> None:
        """Quantise in place."""
        recipe = asked.recipe and mixed_quant_predicate_builder(asked.recipe, model, asked.group_size)
        left: list[str] = []
        settings = {"group_size": asked.group_size, "bits": asked.bits, "mode": asked.mode}

        def choose(path: str, module: nn.Module) -> bool | dict[str, Any]:
            choice = quantisation_of(path, module)
            if not choice:
                return False
            if choice is True:
                choice = recipe(path, module) if recipe else settings
            if module.weight.shape[-1] % choice["group_size"]:
                left.append(path)
                return False
            return choice

        nn.quantize(model, class_predicate=choose)
        if not [path for path in _settings_of(model) if not is_gate(path)]:
            raise OptionError(
                f"group_size: expected one that divides the rows of some matrix, found {asked.group_size}{_hint(asked)}"
            )
        if left:
            shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
            self.remarks.append(
                f"{len(left)} matrices stay as they are, because {asked.group_size} does not divide their rows: {shown}"
                f"{_hint(asked)}"
            )

    def _config(self, quantised: dict[str, dict[str, Any]], *, tied: bool) -> dict[str, Any]:
        """What the result's config.json holds.

        Args:
            tied: Whether the model's embedding is its head, which the source's own may say wrongly.
        """
        config = _with_text_config(json.loads(json.dumps(self.source.config.raw)))
        text = config["text_config"]
        sections = (config, text, config.get("vision_config") or {})
        for section in (config, text):
            section.pop("quantization", None)
            section.pop("quantization_config", None)
        if self.dtype is not None:
            for section in sections:
                section.pop("torch_dtype", None)
                section["dtype"] = self.dtype
        if quantised:
            # mlx-lm writes both names, for programs that look for the second.
            config["quantization"] = config["quantization_config"] = _with_default(quantised)
        spell_out(config, replace(self.source.config, tie_word_embeddings=tied))
        interval = _interval(self.source.config.text.layer_types)
        if interval is None:
            self.remarks.append(
                "mlx-lm and mlx-vlm will not load it: its full attention layers do not come at one interval"
            )
        else:
            # They look at nothing else; transformers prefers layer_types.
            text["full_attention_interval"] = interval
        return config

    def _save(self, tensors: dict[str, mx.array], out: Path) -> None:
        """Write shards one by one; a tensor is let go of as soon as it is on disk."""
        total = sum(value.nbytes for value in tensors.values())
        shards: list[dict[str, mx.array] | None] = list(make_shards(tensors, SHARD_GIGABYTES))
        tensors.clear()
        weight_map: dict[str, str] = {}
        done = 0
        for number in range(len(shards)):
            shard, shards[number] = shards[number], None
            assert shard is not None
            for value in shard.values():
                # One after the other, so that little is held of what they are made from.
                mx.eval(value)
                done += value.nbytes
                if self.on_progress is not None:
                    self.on_progress(done, total)
            several = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
            name = several if len(shards) > 1 else "model.safetensors"
            try:
                mx.save_safetensors(str(out / name), shard, metadata={"format": "mlx"})
            except RuntimeError as error:  # MLX's own, of a full disk too
                free = f"{shutil.disk_usage(out).free / 1e9:.1f} GB free"
                raise OptionError(f"out: {total / 1e9:.1f} GB cannot be written, with {free} ({error})") from error
            weight_map |= dict.fromkeys(shard, name)
            del shard
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _hint(asked: Quantisation) -> str:
    return "; group_size 32 divides more" if asked.mode == "affine" and asked.group_size > 32 else ""


def _settings_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """How every quantised layer is quantised, by its path."""
    return {
        path: {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
        for path, module in model.named_modules()  # type: ignore[no-untyped-call]
        if "scales" in module
    }


def _with_default(quantised: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """For config.json: what most layers have, and the others by path."""
    most = Counter(json.dumps(settings, sort_keys=True) for settings in quantised.values()).most_common(1)[0][0]
    default: dict[str, Any] = json.loads(most)
    return default | {path: settings for path, settings in quantised.items() if settings != default}


def _interval(layer_types: tuple[LayerType, ...]) -> int | None:
    """The n of which every n-th layer has full attention; None if there is none."""
    for interval in range(1, len(layer_types) + 2):
        if all((kind == "full_attention") == ((i + 1) % interval == 0) for i, kind in enumerate(layer_types)):
            return interval
    return None


def spell_out(config: dict[str, Any], known: ModelConfig) -> None:
    """Write what the source leaves out, or has elsewhere, where mlx-lm and mlx-vlm look; in place.

    Their defaults differ from transformers', some have none, and neither reads the names of before transformers 5.
    """
    text, rope = config["text_config"], known.text.rope
    config["tie_word_embeddings"] = text["tie_word_embeddings"] = known.tie_word_embeddings
    for name in ("attention_bias", "rms_norm_eps", "max_position_embeddings"):
        text[name] = getattr(known.text, name)
    found = text.pop("rope_scaling", None) or text.get("rope_parameters") or {}
    parameters = {name: value for name, value in found.items() if name != "type" and value is not None}
    parameters |= {
        "rope_type": "default" if rope.yarn is None else "yarn",
        "rope_theta": rope.theta,
        "partial_rotary_factor": rope.partial_rotary_factor,
    }
    if 2 * sum(rope.mrope_section) == rope.rotary_dims:
        parameters["mrope_section"] = list(rope.mrope_section)
    if rope.yarn is not None:
        for name in ("factor", "original_max_position_embeddings"):
            parameters[name] = getattr(rope.yarn, name)
    for name in ("rope_theta", "partial_rotary_factor"):
        text.pop(name, None)
    text["rope_parameters"] = parameters
    if known.media_tokens is not None:
        config |= {name: value for name, value in asdict(known.media_tokens).items() if value is not None}


def _with_text_config(config: dict[str, Any]) -> dict[str, Any]:
    """A flat config in the nested form, which mlx-lm and mlx-vlm know."""
    if "text_config" in config:
        return config
    names = ("tie_word_embeddings", "eos_token_id", "dtype")
    top: dict[str, Any] = {name: config[name] for name in names if name in config}
    # Nobody looks for a tower inside text_config.
    top |= {name: config.pop(name) for name in ("vision_config", *MEDIA_TOKENS) if name in config}
    return {"model_type": config["model_type"].removesuffix("_text"), "text_config": config, **top}
