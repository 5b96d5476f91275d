"""transformers' own Qwen3.5 classes as the oracle, in float32 on the CPU. Needs torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForImageTextToText

from mlx_qwen35.prompts.images import PreparedImage
from mlx_qwen35.prompts.prompt import Prompt


class Reference:
    """The model that `save_pretrained` would give back for a checkpoint directory."""

    def __init__(self, directory: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """Teacher-forced logits of the whole prompt in one piece, (S, V)."""
        arguments = {}
        if prompt.media:
            positions, _ = self.rope_index(prompt)
            arguments["position_ids"] = torch.from_numpy(positions)[:, None]
        if prompt.images:
            arguments["pixel_values"] = _pixels(prompt.images)
            arguments["image_grid_thw"] = torch.tensor([image.grid_thw for image in prompt.images])
        if prompt.videos:
            arguments["pixel_values_videos"] = _pixels(
                [prompt.media[index] for video in prompt.videos for index in video]
            )
            arguments["video_grid_thw"] = _video_grids(prompt)
        with torch.no_grad():
            out = self.model(input_ids=_ids(prompt), **arguments)
        logits: NDArray[np.float32] = out.logits[0].numpy()
        return logits

    def rope_index(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]:
        """Positions (3, S) and rope delta from the reference's own function.

        It splits runs of placeholders by their type alone, so that two adjacent images would be one.
        Where there is no video every second image is therefore called one of a pair of frames, which has the same
        positions.
        """
        assert prompt.layout is not None
        types = torch.zeros((1, len(prompt.input_ids)), dtype=torch.int)
        frames = {index for video in prompt.videos for index in video}
        for number, span in enumerate(prompt.layout.spans):
            types[0, span.start : span.stop] = 1 + (number in frames if frames else number % 2)
        images = torch.tensor([image.grid_thw for image in prompt.images])
        if prompt.videos:
            videos = _video_grids(prompt)
        else:
            images, videos = images[0::2], images[1::2]
        positions, delta = self.model.model.get_rope_index(
            _ids(prompt),
            types,
            image_grid_thw=images if len(images) else None,
            video_grid_thw=videos if len(videos) else None,
        )
        return positions[:, 0].numpy(), int(delta)


def _pixels(media: Sequence[PreparedImage]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([unit.pixel_values for unit in media]))


def _video_grids(prompt: Prompt) -> torch.Tensor:
    """One grid for each video, as the reference wants them: it splits them itself."""
    return torch.tensor([(len(video), *prompt.media[video[0]].grid_thw[1:]) for video in prompt.videos])


def _ids(prompt: Prompt) -> torch.Tensor:
    return torch.from_numpy(prompt.input_ids.astype(np.int64))[None]
