"""Measure every parity figure and write the table.

pip install -e '.[test,parity]'
python -m tests.parity.figures docs/parity.md
"""

import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.patches.qwen3_5 import Model
from tests.parity.cases import CASES, SHAPES, TEXT_TOLERANCE, TOLERANCE
from tests.tiny import DENSE, MOE, write_checkpoint


def stated(tolerance: float) -> str:
    """As README.md and CONTRIBUTING.md write it."""
    return f"{tolerance:.0e}".replace("e-0", "e-")


HEADER = f"""# Parity figures

Largest difference of any logit from the oracle, divided by the oracle's largest logit. Tiny checkpoints with
random weights ({", ".join(shape.name for shape in SHAPES)}), MLX on {{device}}, float32 unless said
otherwise. The tests allow {stated(TOLERANCE)} with the same argmax at every position, and {stated(TEXT_TOLERANCE)}
for text in float32 against mlx-lm. The largest difference below is {{worst}} from transformers
and {{worst_vlm}} from mlx-vlm.

Made by `python -m tests.parity.figures docs/parity.md` with {{versions}}.

"""


def figures(lines: Iterable[str]) -> list[str]:
    """Every figure in the lines of a table, as it is written there."""
    return [figure for line in lines for figure in re.findall(r"\d\.\de-\d\d", line)]


def relative(found: Any, expected: Any) -> float:
    """The figure; raises where the most likely token differs."""
    found, expected = np.array(found, np.float32), np.array(expected, np.float32)
    if not (found.argmax(-1) == expected.argmax(-1)).all():
        raise AssertionError("the argmax differs")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def against_transformers(root: Path) -> Iterator[str]:
    """Every case, in one piece, in chunks of 7 and token by token; the worst of the three."""
    from tests.parity.reference import Reference  # needs torch

    yield "## Against transformers (Qwen3_5* classes, float32)\n"
    yield "| case | tokens | " + " | ".join(shape.name for shape in SHAPES) + " |"
    yield "|---|---|" + "---|" * len(SHAPES)
    loaded = {}
    for shape in SHAPES:
        directory = write_checkpoint(root / shape.name, shape)
        loaded[shape.name] = (ModelKit.load(directory), Reference(directory))
    for name, case in CASES.items():
        cells = []
        for kit, reference in loaded.values():
            prompt = kit.process_prompt(case.input_ids, **case.media)
            expected = reference.logits(prompt)
            worst = max(relative(kit.logits(prompt, prefill_step_size=step), expected) for step in (None, 7, 1))
            cells.append(f"{worst:.1e}")
        yield f"| {name} | {len(prompt.input_ids)} | {' | '.join(cells)} |"
    for kit, _ in loaded.values():
        kit.close()


def distance(found: mx.array, expected: mx.array) -> float:
    """Of the scale. Not `relative`: in bfloat16 roundings alone change which of two near logits is larger."""
    return float((mx.abs(found - expected).max() / mx.abs(expected).max()).item())


def wide(out: mx.array) -> mx.array:
    """Exact, and what numpy takes."""
    return out.astype(mx.float32)


def against_mlx_lm(root: Path) -> Iterator[str]:
    """Text, uncached and cached, dense and MoE."""
    from mlx_lm.utils import load_model

    yield "\n## Against mlx-lm, unpatched (text)\n"
    yield "| checkpoint | dtype | exact: uncached | exact: prefill and decode | uncached | prefill and decode |"
    yield "|---|---|---|---|---|---|"
    tokens = mx.array([CASES["text"].input_ids])
    for shape in (DENSE, MOE):
        for dtype in (mx.float32, mx.bfloat16):
            checkpoint = Checkpoint.open(root / shape.name)
            models = [Model.from_checkpoint(checkpoint, exact=True), Model.from_checkpoint(checkpoint)]
            models.append(load_model(root / shape.name)[0])
            if shape.moe and dtype != mx.float32 and not mx.metal.is_available():
                # MLX's CPU backend multiplies unquantised experts in float32 only.
                continue
            outs = []
            for model in models:
                model.update(tree_map(lambda value, dtype=dtype: value.astype(dtype), model.parameters()))
                cache = model.make_cache()
                cached = mx.concatenate(
                    [model(tokens[:, a:b], cache=cache) for a, b in ((0, 40), (40, 69), (69, 70))], 1
                )
                outs.append((model(tokens), cached))
            *ours, expected = [[wide(out) for out in pair] for pair in outs]
            cells = [
                "identical" if mx.array_equal(a, b).item() else f"{distance(a, b):.1e}"
                for out in ours
                for a, b in zip(out, expected, strict=True)
            ]
            yield f"| {shape.name} | {str(dtype).split('.')[-1]} | {' | '.join(cells)} |"


def against_mlx_vlm(root: Path) -> Iterator[str]:
    """Images, in the cases whose placeholders mlx-vlm reads."""
    from mlx_vlm.utils import load_model

    yield "\n## Against mlx-vlm, unpatched (images, float32)\n"
    yield "| case | dense | moe |"
    yield "|---|---|---|"
    names = ["square image", "wide image", "tall image", "two images", "three images", "image after long text"]
    rows: dict[str, list[str]] = {name: [] for name in names}
    for shape in (DENSE, MOE):
        model = load_model(root / shape.name)
        with ModelKit.load(root / shape.name) as kit:
            for name in names:
                prompt = kit.process_prompt(CASES[name].input_ids, images=CASES[name].images)
                out = model(
                    mx.array(prompt.input_ids)[None],
                    pixel_values=mx.array(np.concatenate([image.pixel_values for image in prompt.images])),
                    image_grid_thw=mx.array(np.array([image.grid_thw for image in prompt.images])),
                    cache=model.language_model.make_cache(),
                )
                rows[name].append(f"{relative(kit.logits(prompt), out.logits[0]):.1e}")
    for name, cells in rows.items():
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Write the file named on the command line."""
    from importlib.metadata import version

    libraries = ("mlx", "mlx-lm", "mlx-vlm", "transformers", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    device = "Metal" if mx.metal.is_available() else "its CPU backend"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tables = [[*against_transformers(root)], [*against_mlx_lm(root)], [*against_mlx_vlm(root)]]
    worst, _, worst_vlm = (max(figures(table), key=float) for table in tables)
    text = HEADER.format(device=device, versions=versions, worst=worst, worst_vlm=worst_vlm)
    text += "\n".join(line for table in tables for line in table) + "\n"
    Path(sys.argv[1]).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
