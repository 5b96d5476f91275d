"""One rank of tests/test_distributed.py: reads prompts on sharded and pipelined models, one after the other.

python -m tests.distributed_worker FOLDER KIND=CHECKPOINT...

Rank 0 writes FOLDER/KIND-NAME.npy for each; what one of them raises is written to FOLDER/KIND-NAME.RANK.error instead.
"""

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.upstream import import_decoder
from tests.parity.cases import CASES, SHORT_IDS


def logits(directory: Path, kind: str, group: Any) -> np.ndarray:
    """Last logits of a prompt, and of one more token, for a text and an image; `kind` "solo" is one process."""
    # Without what mlx_lm's own __init__ imports, which takes longer than all jobs.
    import_decoder()
    from mlx_qwen35.patches.qwen3_5 import Model
    from mlx_qwen35.vision import make_vision_add_on

    checkpoint = Checkpoint.open(directory)
    model = Model.from_checkpoint(checkpoint)
    vision = make_vision_add_on(checkpoint.config, model.vision_tower, checkpoint.directory)
    if kind == "shard":
        model.shard(group)
    elif kind == "pipeline":
        model.model.pipeline(group)
    rows = []
    case = CASES["image first"]
    for given, pictures in ((SHORT_IDS, []), (case.input_ids, case.images)):
        images = tuple(vision.prepare_image(picture) for picture in pictures)
        ids, layout = vision.prepare_prompt(given, images)
        cache = vision.fill(model.make_cache(), Prompt(np.array(ids, np.int32), layout, images))
        for tokens in (ids, [5]):
            found = model(mx.array([tokens]), cache=cache)[0, -1]
            mx.eval(found)
            rows.append(np.array(found))
    return np.stack(rows)


def main() -> None:
    """All jobs of the command line."""
    folder, jobs = Path(sys.argv[1]), [job.split("=", 1) for job in sys.argv[2:]]
    group = mx.distributed.init(backend="ring", strict=True)
    for kind, directory in jobs:
        name = f"{kind}-{Path(directory).name}"
        try:
            found = logits(Path(directory), kind, group)
        except Exception as error:
            (folder / f"{name}.{group.rank()}.error").write_text(f"{type(error).__name__}: {error}")
        else:
            if group.rank() == 0:
                np.save(folder / f"{name}.npy", found)


if __name__ == "__main__":
    main()
