"""Dialogues to training batches, through the runtime's own tokenizer, template and image preprocessing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch.utils.data import IterableDataset

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.prompts.images import ImagePreprocessor, PreparedImage
from mlx_qwen35.prompts.messages import render_messages
from mlx_qwen35.prompts.positions import expand_placeholders, lay_out
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tools.box import about_pictures, about_text, about_tools
from tools.box.dialogues import Dialogue, Picture
from tools.box.network import SEEN
from tools.box.scenes import COLOURS, KINDS, SHAPES, Scene

WORLD = ((about_pictures.TASKS, 20.0), (about_text.TASKS, 3.0), (about_tools.TASKS, 2.0))

# Share of the dialogues whose last answer comes after a reasoning.
THINKING = 0.35


def draw_dialogue(rng: Random) -> Dialogue:
    """One dialogue of the whole world."""
    tasks = rng.choices([kind for kind, _ in WORLD], [weight for _, weight in WORLD])[0]
    return tasks.draw(rng)


@dataclass(frozen=True)
class Example:
    """One conversation.

    Args:
        input_ids: Expanded, shape (S,).
        learn: Which tokens the assistant wrote, shape (S,).
        position_ids: Shape (3, S).
        seen: For tokens of an image, and for words that mean one thing of an image, what SEEN names, else -1;
            shape (7, S).
        images: In prompt order.
    """

    input_ids: np.ndarray
    learn: np.ndarray
    position_ids: np.ndarray
    seen: np.ndarray
    images: tuple[PreparedImage, ...]


def see(pictures: Sequence[Picture], number: int, rows: int, columns: int) -> np.ndarray:
    """What SEEN asks of every token of picture `number`, row by row: shape (7, rows * columns)."""
    scene = pictures[number].scene
    row, column = np.divmod(np.arange(rows * columns), columns)
    cells = (row * scene.rows // rows) * scene.columns + column * scene.columns // columns
    earlier = pictures[number - 1].scene if number else None
    if earlier is not None and (earlier.rows, earlier.columns) != (scene.rows, scene.columns):
        earlier = None
    here, there = (np.full((2, len(row)), -1) if one is None else _cells(one)[:, cells] for one in (scene, earlier))
    return np.stack([np.full_like(row, number), row, column, *here, *there])


def _cells(scene: Scene) -> np.ndarray:
    """Kind and colour of the thing in every cell, 0 where there is none: shape (2, cells)."""
    found = np.zeros((2, scene.rows * scene.columns), dtype=np.int64)
    for thing in scene.things:
        cell = thing.row * scene.columns + thing.column
        found[:, cell] = 1 + KINDS.index(thing.kind), 1 + list(COLOURS).index(thing.colour)
    return found


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
        # Kinds and colours that are one token each, as all are but digits.
        words = {word: self.tokenizer.encode(f" {word}") for word in (*SHAPES, *COLOURS)}
        self._words = {ids[0]: word for word, ids in words.items() if len(ids) == 1}
        self._numbers = {self.tokenizer.encode(str(number))[0]: number for number in (1, 2, 3)}
        self._picture, self._the = (self.tokenizer.encode(word) for word in (" picture", " the"))

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
        seen = np.full((len(SEEN), len(ids)), -1)
        pictures = [picture for turn in dialogue.turns for picture in turn.images]
        for number, span in enumerate(layout.spans if layout else ()):
            seen[:, span.start : span.stop] = see(pictures, number, *span.grid_thw[1:])
        if layout is not None:
            stops = [span.stop for span in layout.spans]
            for at in range(stops[0], len(ids)):
                if ids[at] in self._words:
                    shown = [picture.scene for picture, stop in zip(pictures, stops, strict=True) if stop <= at]
                    seen[:, at] = self._meant(ids[at - 4 : at + 1], shown)
        return Example(
            input_ids=np.array(ids),
            learn=self._written(ids),
            position_ids=plain if layout is None else layout.position_ids(0, len(ids)),
            seen=seen,
            images=images,
        )

    def _meant(self, ids: list[int], scenes: Sequence[Scene]) -> list[int]:
        """What SEEN asks of a word, the last of `ids`, that only one thing fits; -1 throughout for other words."""
        word, number = self._words[ids[-1]], self._numbers.get(ids[-3], 0)
        # "picture 2 the star"; the blank before a digit is a token of its own.
        if ids[-2:-1] == self._the and ids[:1] == self._picture and 0 < number <= len(scenes):
            numbers: Sequence[int] = [number - 1]
        else:
            numbers = range(len(scenes))
        things = [
            (number, thing)
            for number in numbers
            for thing in scenes[number].things
            if word in (thing.kind, thing.colour)
        ]
        if len(things) != 1:
            return [-1] * len(SEEN)
        ((number, thing),) = things
        # Every cell is two tokens wide and high.
        place = [number, 2 * thing.row, 2 * thing.column]
        return [*place, 1 + KINDS.index(thing.kind), 1 + list(COLOURS).index(thing.colour), -1, -1]

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
    seen = torch.full((len(SEEN), rows, length), -1)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        input_ids[row, :size] = torch.from_numpy(example.input_ids)
        learn[row, :size] = torch.from_numpy(example.learn)
        attention_mask[row, :size] = 1
        position_ids[:, row, :size] = torch.from_numpy(example.position_ids.astype(np.int64))
        seen[:, row, :size] = torch.from_numpy(example.seen)
    batch = {
        "input_ids": input_ids, "learn": learn, "attention_mask": attention_mask, "position_ids": position_ids,
        "seen": seen,
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
