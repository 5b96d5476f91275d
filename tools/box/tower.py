"""Teach the vision tower what each of its tokens shows, before the decoder learns to talk about it.

From the answers alone a tower takes thousands of steps to tell a star from a cross; told per token
what lies there, it takes a few hundred. What it is told is kind, colour and size, never the place:
places are for the decoder to learn from its multimodal positions.
"""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.prompts.images import ImagePreprocessor
from tools.box.scenes import COLOURS, KINDS, SIZES, Box, draw, random_scale, random_scene

# Class 0 of the first three is the ground; the last says whether a thing's middle is in the token.
CLASSES = (len(KINDS) + 1, len(COLOURS) + 1, len(SIZES) + 1, 2)


def labels(boxes: list[Box], rows: int, columns: int) -> np.ndarray:
    """What each merged token shows: shape (rows * columns, 4), row by row."""
    found = np.zeros((rows, columns, 4), dtype=np.int64)
    for row in range(rows):
        for column in range(columns):
            left, top, right, bottom = column / columns, row / rows, (column + 1) / columns, (row + 1) / rows
            shares = [
                max(0.0, min(right, box.right) - max(left, box.left))
                * max(0.0, min(bottom, box.bottom) - max(top, box.top))
                for box in boxes
            ]  # fmt: skip
            # A corner that is hardly touched is ground.
            if not shares or max(shares) < 0.1 / (rows * columns):
                continue
            box = boxes[int(np.argmax(shares))]
            x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
            found[row, column] = (
                1 + KINDS.index(box.thing.kind),
                1 + list(COLOURS).index(box.thing.colour),
                1 + SIZES.index(box.thing.size),
                left <= x < right and top <= y < bottom,
            )
    return found.reshape(-1, 4)


class LabelledPictures(IterableDataset):  # type: ignore[type-arg]
    """An endless stream of batches of pictures with their tokens' labels, the same for the same seed."""

    def __init__(self, directory: Path, *, seed: int, pictures: int) -> None:
        self.directory, self.seed, self.pictures = directory, seed, pictures

    def __iter__(self) -> Any:
        vision = ModelConfig.from_file(self.directory / "config.json").vision
        assert vision is not None
        preprocessor = ImagePreprocessor(self.directory, vision)
        number = 0
        while True:
            rng = Random(f"tower-{self.seed}-{number}")
            number += 1
            prepared, wanted = [], []
            for _ in range(self.pictures):
                digits = rng.random() < 0.4
                scene = random_scene(rng, digits=digits, most=5)
                image, boxes = draw(scene, rng, random_scale(scene, rng))
                prepared.append(preprocessor(image))
                _, rows, columns = prepared[-1].merged_grid_thw
                wanted.append(labels(boxes, rows, columns))
            yield {
                "pixel_values": torch.from_numpy(np.concatenate([image.pixel_values for image in prepared])),
                "image_grid_thw": torch.tensor([image.grid_thw for image in prepared]),
                "labels": torch.from_numpy(np.concatenate(wanted)),
            }


def teach(visual: nn.Module, directory: Path, *, seed: int, steps: int, optimizers: Any, rate_at: Any) -> None:
    """Train the tower in place.

    Args:
        visual: transformers' vision tower.
        directory: Checkpoint directory with the image processor's settings.
        optimizers: Makes the optimizers of a list of modules.
        rate_at: Learning rate of a step.
    """
    width = visual.config.out_hidden_size  # type: ignore[union-attr]
    # Normalised, so that reading the labels off does not blow the embeddings up.
    head = nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, sum(CLASSES)))
    chosen = optimizers([visual, head])
    stream = DataLoader(LabelledPictures(directory, seed=seed, pictures=48), batch_size=None, num_workers=1)
    window = []
    for step, batch in zip(range(steps), stream, strict=False):
        for optimizer in chosen:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step)
            optimizer.zero_grad(set_to_none=True)
        seen = visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
        guesses = head(seen).split(CLASSES, dim=-1)
        wanted = batch["labels"].unbind(-1)
        loss = sum(functional.cross_entropy(guess, want) for guess, want in zip(guesses, wanted, strict=True))
        loss.backward()  # type: ignore[union-attr]
        for optimizer in chosen:
            optimizer.step()
        thing = wanted[0] > 0
        window.append([(guess.argmax(-1) == want)[thing].float().mean().item()
                       for guess, want in zip(guesses, wanted, strict=True)])  # fmt: skip
        if (step + 1) % 50 == 0:
            means = [sum(values) / len(window) for values in zip(*window, strict=True)]
            print("tower", step + 1, *(f"{value:.3f}" for value in means), flush=True)
            window.clear()
