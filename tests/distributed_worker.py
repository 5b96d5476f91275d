"""One rank of tests/test_distributed.py: reads prompts on a sharded or pipelined model.

python -m tests.distributed_worker KIND CHECKPOINT OUT
"""

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.patches.qwen3_5 import Model
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.vision import make_vision_add_on
from tests.parity.cases import CASES


def main() -> None:
    """Last logits of a prompt, and of one more token, for text and for two images."""
    kind, directory, out = sys.argv[1:]
    group = mx.distributed.init(backend="ring", strict=True) if kind != "solo" else None
    checkpoint = Checkpoint.open(Path(directory))
    model = Model.from_checkpoint(checkpoint)
    vision = make_vision_add_on(checkpoint.config, model.vision_tower, checkpoint.directory)
    if kind == "shard":
        model.shard(group)
    elif kind == "pipeline":
        model.model.pipeline(group)
    rows = []
    for name in ("text", "two images"):
        images = tuple(vision.prepare_image(image) for image in CASES[name].images)
        ids, layout = vision.prepare_prompt(CASES[name].input_ids, images)
        cache = vision.fill(model.make_cache(), Prompt(np.array(ids, np.int32), layout, images))
        for tokens in (ids, [5]):
            logits = model(mx.array([tokens]), cache=cache)[0, -1]
            mx.eval(logits)
            rows.append(np.array(logits))
    if group is None or group.rank() == 0:
        np.save(out, np.stack(rows))


if __name__ == "__main__":
    main()
