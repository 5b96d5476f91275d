"""transformers' own Qwen3.5 classes as the oracle, in float32 on the CPU. Needs torch."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForImageTextToText

from mlx_qwen35.prompts.prompt import Prompt


class Reference:
    """The model that `save_pretrained` would give back for a checkpoint directory."""

    def __init__(self, directory: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """Teacher-forced logits of the whole prompt in one piece, (S, V)."""
        arguments = {}
        if prompt.images:
            positions, _ = self.rope_index(prompt)
            arguments = {
                "pixel_values": torch.from_numpy(np.concatenate([image.pixel_values for image in prompt.images])),
                "image_grid_thw": torch.tensor([image.grid_thw for image in prompt.images]),
                "position_ids": torch.from_numpy(positions)[:, None],
            }
        with torch.no_grad():
            out = self.model(input_ids=_ids(prompt), **arguments)
        logits: NDArray[np.float32] = out.logits[0].numpy()
        return logits

    def rope_index(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]:
        """Positions (3, S) and rope delta from the reference's own function.

        It splits runs of placeholders by their type alone, so that two adjacent images would be one.
        Every second image is therefore called a video of one frame, which has the same positions.
        """
        assert prompt.layout is not None
        types = torch.zeros((1, len(prompt.input_ids)), dtype=torch.int)
        for number, span in enumerate(prompt.layout.spans):
            types[0, span.start : span.stop] = 1 + number % 2
        grids = torch.tensor([image.grid_thw for image in prompt.images])
        images, videos = grids[0::2], grids[1::2]
        positions, delta = self.model.model.get_rope_index(
            _ids(prompt), types, image_grid_thw=images, video_grid_thw=videos if len(videos) else None
        )
        return positions[:, 0].numpy(), int(delta)


def _ids(prompt: Prompt) -> torch.Tensor:
    return torch.from_numpy(prompt.input_ids.astype(np.int64))[None]
