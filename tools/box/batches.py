"""Dialogues to training batches, through the runtime's own tokenizer, template and image preprocessing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch.utils.data import IterableDataset

from mlx_qwen35.config import ModelConfig
from mlx_qwen35.media import ImagePreprocessor, PreparedImage
from mlx_qwen35.positions import expand_placeholders, lay_out
from mlx_qwen35.prompt import render_messages
from mlx_qwen35.tokenizer import Tokenizer
from tools.box import about_pictures, about_text, about_tools
from tools.box.dialogues import Dialogue

KINDS = ((about_pictures.TASKS, 20.0), (about_text.TASKS, 7.0), (about_tools.TASKS, 3.0))

# Share of the dialogues whose last answer comes after a reasoning.
THINKING = 0.35


def draw_dialogue(rng: Random) -> Dialogue:
    """One dialogue of the whole world."""
    tasks = rng.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])[0]
    return tasks.draw(rng)


@dataclass(frozen=True)
class Example:
    """One conversation.

    Args:
        input_ids: Expanded, shape (S,).
        learn: Which tokens the assistant wrote, shape (S,).
        position_ids: Shape (3, S).
        places: For tokens of an image its number, their row and their column, else -1; shape (3, S).
        images: In prompt order.
    """

    input_ids: np.ndarray
    learn: np.ndarray
    position_ids: np.ndarray
    places: np.ndarray
    images: tuple[PreparedImage, ...]


class Encoder:
    """Turns dialogues to examples as the runtime would turn them to prompts."""

    def __init__(self, directory: Path) -> None:
        config = ModelConfig.from_file(directory / "config.json")
        assert config.media_tokens is not None
        assert config.vision is not None
        self.tokenizer = Tokenizer(directory)
        self.preprocessor = ImagePreprocessor(directory, config.vision)
        self.image_token_id = config.media_tokens.image_token_id
        self._start = self.tokenizer.encode("<|im_start|>assistant\n")
        self._end = self.tokenizer.encode("<|im_end|>")[0]
        self._think = self.tokenizer.encode("<think>\n")
        self._no_think = self.tokenizer.encode("<think>\n\n</think>\n\n")

    def encode(self, dialogue: Dialogue, *, thinking: bool) -> Example:
        """The whole conversation with the assistant's words marked."""
        messages = dialogue.messages(len(dialogue.turns), with_answer=True, thinking=thinking)
        rendered = render_messages(self.tokenizer, messages, tools=dialogue.tools or None, add_generation_prompt=False)
        images = tuple(self.preprocessor(source) for source in rendered.sources)
        ids = expand_placeholders(
            rendered.input_ids, [image.tokens for image in images], image_token_id=self.image_token_id
        )
        layout = lay_out(ids, [image.merged_grid_thw for image in images], image_token_id=self.image_token_id)
        plain = np.broadcast_to(np.arange(len(ids), dtype=np.int32), (3, len(ids)))
        places = np.full((3, len(ids)), -1)
        for number, span in enumerate(layout.spans if layout else ()):
            _, rows, columns = span.grid_thw
            row, column = np.divmod(np.arange(rows * columns), columns)
            places[:, span.start : span.stop] = np.stack([np.full_like(row, number), row, column])
        return Example(
            input_ids=np.array(ids),
            learn=self._written(ids),
            position_ids=plain if layout is None else layout.position_ids(0, len(ids)),
            places=places,
            images=images,
        )

    def _written(self, ids: list[int]) -> np.ndarray:
        """What the assistant writes itself: not the openings that the template gives it."""
        learn = np.zeros(len(ids), dtype=bool)
        at = 0
        while at < len(ids):
            if ids[at : at + len(self._start)] != self._start:
                at += 1
                continue
            at += len(self._start)
            for opening in (self._no_think, self._think):
                if ids[at : at + len(opening)] == opening:
                    at += len(opening)
                    break
            end = ids.index(self._end, at) + 1
            learn[at:end] = True
            at = end
        return learn


def collate(examples: Sequence[Example], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded tensors for the reference implementation."""
    length = max(len(example.input_ids) for example in examples)
    rows = len(examples)
    input_ids = torch.full((rows, length), pad)
    learn = torch.zeros((rows, length), dtype=torch.bool)
    attention_mask = torch.zeros((rows, length), dtype=torch.long)
    position_ids = torch.zeros((3, rows, length), dtype=torch.long)
    places = torch.full((3, rows, length), -1)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        input_ids[row, :size] = torch.from_numpy(example.input_ids)
        learn[row, :size] = torch.from_numpy(example.learn)
        attention_mask[row, :size] = 1
        position_ids[:, row, :size] = torch.from_numpy(example.position_ids.astype(np.int64))
        places[:, row, :size] = torch.from_numpy(example.places)
    batch = {
        "input_ids": input_ids, "learn": learn, "attention_mask": attention_mask, "position_ids": position_ids,
        "places": places,
    }  # fmt: skip
    images = [image for example in examples for image in example.images]
    if images:
        batch["pixel_values"] = torch.from_numpy(np.concatenate([image.pixel_values for image in images]))
        batch["image_grid_thw"] = torch.tensor([image.grid_thw for image in images])
    return batch


class Batches(IterableDataset):  # type: ignore[type-arg]
    """An endless stream of batches, the same for the same seed.

    Batches are cut from a sorted pool, so that little of them is padding, and hold about
    `tokens` tokens each.
    """

    def __init__(self, directory: Path, *, seed: int, tokens: int, pad: int, first_pool: int = 0) -> None:
        self.directory, self.seed, self.tokens, self.pad, self.first_pool = directory, seed, tokens, pad, first_pool

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        encoder = Encoder(self.directory)
        for number in range(self.first_pool, 1 << 30):
            rng = Random(f"{self.seed}-{number}")
            examples = [encoder.encode(draw_dialogue(rng), thinking=rng.random() < THINKING) for _ in range(256)]
            examples.sort(key=lambda example: len(example.input_ids))
            groups: list[list[Example]] = [[]]
            for example in examples:
                if (len(groups[-1]) + 1) * len(example.input_ids) > self.tokens:
                    groups.append([])
                groups[-1].append(example)
            rng.shuffle(groups)
            for group in groups:
                yield collate(group, self.pad) | {"pool": torch.tensor(number)}
