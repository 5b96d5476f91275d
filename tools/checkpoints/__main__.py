"""Build a tiny checkpoint of every kind, load it, and compare its logits; writes the tables of what loads.

    python -m tools.checkpoints docs/checkpoints.md README.md

Each is compared with plain weights of the same values, and with mlx-lm and mlx-vlm on the same files. Numbers are the
largest difference of a logit, of the largest logit, over a text and a prompt with two images (a text for mlx-lm and
mlx-vlm); the larger one of a dense model and of a mixture of experts.
"""

import json
import logging
import re
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.utils import load_model, quantize_model, save_model
from mlx_vlm.utils import load_model as load_vlm

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.dequantising import dequantise
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.patches.qwen3_5 import Model
from tests.parity.cases import CASES
from tests.tiny import DENSE, MOE, Shape, config_of, tensors_of, write_checkpoint
from tools.checkpoints import extras
from tools.checkpoints.kinds import KINDS, Kind, build, write

TEXT, IMAGES = "text", "two images"
# From a directory with a plain checkpoint to one of another kind; None where there is no such thing.
Builder = Callable[[Path, Shape], None]


@dataclass
class Row:
    """What was found of one kind.

    Args:
        becomes: What most of its layers are once they are loaded.
        plain, mlx_lm, mlx_vlm: The largest differences; words where the other program has none.
    """

    name: str
    becomes: str = ""
    size: float = 0.0
    plain: float = 0.0
    mlx_lm: dict[str, float | str] = field(default_factory=dict)
    mlx_vlm: dict[str, float | str] = field(default_factory=dict)


def difference(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Of the largest."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def logits(directory: Path, name: str, **options: Any) -> np.ndarray[Any, Any]:
    """Of one prompt, from this package."""
    with ModelKit.load(directory, **options) as kit:
        images = CASES[name].images if kit.vision.unavailable is None else []
        return np.array(kit.logits(kit.process_prompt(CASES[name].input_ids, images=images)))


def parent_logits(load: Callable[[Path], Any], directory: Path) -> np.ndarray[Any, Any] | str:
    """Of the text, from mlx-lm or mlx-vlm; or why there are none."""
    try:
        model = load(directory)
    except Exception:
        return "does not load"
    try:
        found = model(mx.array([CASES[TEXT].input_ids]))
        return np.array(getattr(found, "logits", found)[0].astype(mx.float32))
    except (RuntimeError, ValueError) as error:
        return "needs a GPU" if "only supported on the GPU" in str(error) else "fails"


def foreign(kind: Kind) -> Builder:
    """In a format of another program."""

    def make(directory: Path, shape: Shape) -> None:
        write(build(replace(kind, half=False), tensors_of(shape))[0], directory / "model.safetensors")
        config = config_of(shape) | {"quantization_config": dict(kind.settings)}
        (directory / "config.json").write_text(json.dumps(config))

    return make


def by_mlx_lm(bits: int | None = None, mode: str = "affine", **options: Any) -> Builder:
    """As mlx-lm quantises and saves, without the tower, which it drops."""

    def make(directory: Path, shape: Shape) -> None:
        model, config = load_model(directory)
        if options.get("recipe"):
            predicate = mixed_quant_predicate_builder(options["recipe"], model, 64)
            model, config = quantize_model(model, config, 64, 4, quant_predicate=predicate)
        elif bits is not None:
            model, config = quantize_model(
                model, config, None, bits, mode=mode, global_scale=options.get("global_scale", False)
            )
        mx.eval(model.parameters())
        (directory / "model.safetensors").unlink()
        save_model(directory, model)
        (directory / "config.json").write_text(json.dumps(config))

    return make


def by_mlx_vlm(directory: Path, shape: Shape) -> None:
    """As mlx-vlm names and turns tensors, with the tower."""
    tensors = dict(tree_flatten(load_vlm(directory).parameters()))
    mx.eval(tensors)
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, metadata={"format": "mlx"})


def kinds() -> Iterator[tuple[str, Builder, tuple[Shape, ...]]]:
    """Every kind, how it is built, and for which models."""
    both = (DENSE, MOE)
    yield "transformers' layout", lambda directory, shape: None, both
    yield "mlx-lm's", by_mlx_lm(), both
    yield "mlx-vlm's", by_mlx_vlm, both
    for bits in (2, 3, 4, 5, 6, 8):
        yield f"MLX, {bits} bits", by_mlx_lm(bits), both
    yield "MLX, mixed_3_6", by_mlx_lm(recipe="mixed_3_6"), both
    for mode, bits in (("mxfp4", 4), ("mxfp8", 8), ("nvfp4", 4)):
        yield f"MLX, {mode}", by_mlx_lm(bits, mode), both
    yield "MLX, nvfp4, experts with a global scale", by_mlx_lm(4, "nvfp4", global_scale=True), (MOE,)
    for kind in KINDS:
        yield kind.name, foreign(kind), (MOE,) if kind.stacked else both


def measure(name: str, make: Builder, shapes: tuple[Shape, ...], root: Path) -> Row:
    """Build a kind for each model, load it, and compare."""
    row = Row(name)
    for shape in shapes:
        directory = write_checkpoint(root / f"{name}-{shape.name}".replace(" ", "-"), shape)
        make(directory, shape)
        checkpoint = Checkpoint.open(directory)
        model = Model.from_checkpoint(checkpoint)
        loaded = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
        row.size = max(row.size, loaded / sum(path.stat().st_size for path in checkpoint.weight_files()))
        row.becomes = _becomes(model)
        plain = _plain(directory, model)
        for case in (TEXT, IMAGES) if model.vision_tower is not None else (TEXT,):
            row.plain = max(row.plain, difference(logits(directory, case), logits(plain, case)))
        exact = logits(directory, TEXT, exact=True)
        for found, load in ((row.mlx_lm, lambda path: load_model(path)[0]), (row.mlx_vlm, load_vlm)):
            theirs = parent_logits(load, directory)
            found[shape.name] = theirs if isinstance(theirs, str) else difference(exact, theirs)
        shutil.rmtree(directory)
    return row


def _becomes(model: Model) -> str:
    layers = Counter(
        f"{module.mode}, {module.bits} bits in {module.group_size}"
        for path, module in model.named_modules()  # type: ignore[no-untyped-call]
        if "scales" in module
    )
    return layers.most_common(1)[0][0] if layers else "plain"


def _plain(directory: Path, model: Model) -> Path:
    """A checkpoint with the plain weights of a model."""
    plain = Path(shutil.copytree(directory, directory / "plain", ignore=shutil.ignore_patterns("*.safetensors*")))
    dequantise(model, mx.float32)
    mx.save_safetensors(str(plain / "model.safetensors"), dict(tree_flatten(model.parameters())))
    config = json.loads((plain / "config.json").read_text())
    for name in ("quantization", "quantization_config"):
        config.pop(name, None)
    (plain / "config.json").write_text(json.dumps(config))
    return plain


def _shown(found: dict[str, float | str]) -> str:
    numbers = [value for value in found.values() if not isinstance(value, str)]
    words = [f"{name}: {value}" for name, value in found.items() if isinstance(value, str)]
    if not numbers:
        return str(next(iter(found.values())))
    return ", ".join([_number(max(numbers)), *words])


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def table(rows: list[Row]) -> str:
    """In Markdown."""
    lines = ["| kind | becomes | bytes in memory | plain weights | mlx-lm | mlx-vlm |", "|---|---|---|---|---|---|"]
    for row in rows:
        parents = f"{_shown(row.mlx_lm)} | {_shown(row.mlx_vlm)}"
        lines.append(f"| {row.name} | {row.becomes} | {row.size:.2f} | {_number(row.plain)} | {parents} |")
    return "\n".join(lines)


def second(title: str, measured: list[tuple[str, float]]) -> str:
    """A table of what comes beside a checkpoint."""
    return "\n".join([f"| {title} | difference |", "|---|---|", *(f"| {n} | {_number(v)} |" for n, v in measured)])


def short(rows: list[Row]) -> str:
    """For the README: which program loads what."""

    def loads(found: dict[str, float | str]) -> str:
        words = [value for value in found.values() if isinstance(value, str)]
        if not words:
            return "yes"
        return "dense only" if len(words) < len(found) else "no" if words[0] == "does not load" else words[0]

    verdicts: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        verdicts.setdefault((loads(row.mlx_lm), loads(row.mlx_vlm)), []).append(row.name)
    lines = ["| loads here | mlx-lm | mlx-vlm |", "|---|---|---|"]
    lines += [f"| {'; '.join(names)} | {' | '.join(verdict)} |" for verdict, names in verdicts.items()]
    return "\n".join(lines)


def put(file: Path, text: str) -> None:
    """Between the marks that are there for it."""
    begin, end = "<!-- begin checkpoints: python -m tools.checkpoints -->", "<!-- end checkpoints -->"
    old = file.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(old):
        raise SystemExit(f"{file}: expected {begin} and {end}")
    file.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", old), encoding="utf-8")


def main() -> None:
    """Write both tables."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make, shapes in kinds():
            rows.append(measure(name, make, shapes, Path(folder)))
            print(rows[-1], flush=True)
        heads, adapters = list(extras.heads(Path(folder) / "heads")), list(extras.adapters(Path(folder) / "adapters"))
    tables = [table(rows), second("MTP head", heads), second("adapter", adapters)]
    put(Path(sys.argv[1]), "\n\n".join(tables))
    put(Path(sys.argv[2]), short(rows))


if __name__ == "__main__":
    main()
