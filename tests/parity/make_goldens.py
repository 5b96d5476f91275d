"""Write the golden files: logits of the reference for every case and shape.

pip install -e '.[test,parity]'
python -m tests.parity.make_goldens [CASE...]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from mlx_qwen35 import ModelKit
from tests.parity.cases import CASES, SHAPES, rows_of
from tests.parity.reference import Reference
from tests.tiny import write_checkpoint

GOLDENS = Path(__file__).parent / "goldens"


def main(names: list[str]) -> None:
    """Overwrite these cases in every golden file, or all of them."""
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as root:
            directory = write_checkpoint(Path(root) / shape.name, shape)
            reference = Reference(directory)
            arrays: dict[str, np.ndarray] = {}
            if names:
                with np.load(GOLDENS / f"{shape.name}.npz") as kept:
                    arrays = dict(kept)
            with ModelKit.load(directory) as kit:
                for name in names or CASES:
                    case = CASES[name]
                    prompt = kit.process_prompt(case.input_ids, **case.media)
                    logits = reference.logits(prompt)
                    arrays[f"{name}/logits"] = logits[rows_of(len(logits))]
                    arrays[f"{name}/argmax"] = logits.argmax(-1).astype(np.int16)
                    arrays[f"{name}/scale"] = np.abs(logits).max()
                    if prompt.layout is not None:
                        positions, delta = reference.rope_index(prompt)
                        arrays[f"{name}/positions"] = positions.astype(np.int16)
                        arrays[f"{name}/rope_delta"] = np.array(delta)
        np.savez_compressed(GOLDENS / f"{shape.name}.npz", **arrays)  # type: ignore[arg-type]
        print(f"{shape.name}: {len(names or CASES)} cases, {(GOLDENS / f'{shape.name}.npz').stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
