"""Dialogues to training batches, through the runtime's own tokenizer and template."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from mlx_qwen35.prompts.messages import render_messages
from mlx_qwen35.prompts.positions import MediaLayout, expand_placeholders, lay_out
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tools.box import (
    about_clips,
    about_functions,
    about_next,
    about_pictures,
    about_programs,
    about_several,
    about_text,
)
from tools.box.cutting import cut
from tools.box.dialogues import Clip, Dialogue, Picture, Tasks, Turn
from tools.box.labels import SEEN, Labels, seen, seen_of_word, told
from tools.box.lean import CHUNK
from tools.box.outlines import SHAPES
from tools.box.palette import COLOURS
from tools.box.prepare import MERGE, size_of
from tools.box.scenes import Scene

# Kinds of dialogues, and how often they are drawn.
World = tuple[tuple[Tasks, float], ...]
WORLD: World = (
    (about_pictures.TASKS, 11.0), (about_several.TASKS, 5.0), (about_next.TASKS, 3.0), (about_clips.TASKS, 3.5),
    (about_text.TASKS, 6.5), (about_text.LONG, 0.2), (about_functions.TASKS, 3.5), (about_programs.TASKS, 4.0),
)  # fmt: skip
# For a run that continues another on a CPU: less of what takes many tokens, and more calls of functions.
CONTINUED: World = (
    (about_pictures.TASKS, 5.5), (about_several.TASKS, 5.5), (about_next.TASKS, 1.8), (about_clips.TASKS, 4.0),
    (about_text.TASKS, 7.0), (about_text.LONG, 0.1), (about_functions.TASKS, 3.5), (about_programs.TASKS, 8.0),
)  # fmt: skip
# For the MTP module alone: drafts are asked for behind long conversations too.
TO_DRAFT: World = (
    (about_pictures.TASKS, 4.0), (about_several.TASKS, 2.0), (about_clips.TASKS, 1.0), (about_text.TASKS, 2.0),
    (about_text.LONG, 8.0), (about_functions.TASKS, 2.0), (about_programs.TASKS, 2.0),
)  # fmt: skip
# How many of MTP's drafts are chained in training.
DEPTHS = 4
# Share of the dialogues whose last answer comes after a reasoning.
THINKING = 0.25
SYSTEM = (
    "You are a helpful assistant.",
    "You are Qwen, a helpful assistant.",
    "Answer briefly.",
    "Be concise.",
    "You can see pictures.",
    "You are a helpful assistant that describes pictures.",
    "Answer the question.",
    "Be helpful and honest.",
)


def draw_dialogue(rng: Random, world: World = WORLD) -> Dialogue:
    """One dialogue of the whole world."""
    tasks = rng.choices([kind for kind, _ in world], [weight for _, weight in world])[0]
    dialogue = tasks.draw(rng)
    if tasks is about_text.LONG and rng.random() < 0.3:
        dialogue = replace(dialogue, turns=(*about_pictures.TASKS.draw(rng).turns, *dialogue.turns))
    if tasks is about_pictures.TASKS and rng.random() < 0.15:
        # Who looks at a picture asks for other things too.
        extra = rng.choice([*[about_text.off_topic_with_picture] * 4, about_text.add, about_text.spell])(rng).turns
        dialogue = replace(dialogue, turns=(*dialogue.turns, *extra[:2]))
    if rng.random() < 0.03 and not dialogue.turns[-1].tool_calls:
        # Whatever it was about, somebody says thanks at the end.
        dialogue = replace(dialogue, turns=(*dialogue.turns, *about_text.parting(rng).turns))
    return replace(dialogue, system=rng.choice(SYSTEM)) if rng.random() < 0.12 else dialogue


@dataclass(frozen=True)
class Shown:
    """One run of placeholders: a picture, or a pair of a clip's frames.

    Args:
        scene: What its tokens show; of a pair, the later frame.
        frames: Patches in bytes, one picture or two frames.
        told: See labels.TOLD.
    """

    scene: Scene
    grid: tuple[int, int]
    frames: tuple[NDArray[np.uint8], ...]
    told: Labels


def show(source: Any) -> Shown:
    """What a message's media part holds: a Picture, or a Clip with the number of a pair."""
    if isinstance(source, Picture):
        scene = source.scene
        size = size_of(scene.width, scene.height)
        return Shown(scene, scene.grid, (cut(source.image, size),), told(scene))
    clip, number = source
    assert isinstance(clip, Clip)
    first, second = clip.scenes[2 * number : 2 * number + 2]
    size = size_of(second.width, second.height, second.frames)
    one, other = clip.frames[2 * number : 2 * number + 2]
    patches = cut(one, size)
    frames = (patches, patches if other is one else cut(other, size))
    return Shown(second, second.grid, frames, told(second, first))


@dataclass(frozen=True)
class Example:
    """One conversation.

    Args:
        input_ids: Expanded, shape (S,).
        learn: Which tokens the assistant wrote, shape (S,).
        position_ids: Shape (3, S).
        places: Tokens that stand for pictures, (M,).
        seen_at, seen: Tokens that SEEN is asked of, (K,), and what is right, (K, len(SEEN)).
        shown: In prompt order.
    """

    input_ids: NDArray[np.int64]
    learn: NDArray[np.bool_]
    position_ids: NDArray[np.int64]
    places: NDArray[np.int64]
    seen_at: NDArray[np.int64]
    seen: Labels
    shown: tuple[Shown, ...]


class Encoder:
    """Turns dialogues to examples as the runtime would turn them to prompts."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = Tokenizer(directory)
        encode = self.tokenizer.encode
        self.image_id, self.video_id, self.end_of_image = (
            encode(text)[0] for text in ("<|image_pad|>", "<|video_pad|>", "<|vision_end|>")
        )
        self._start = encode("<|im_start|>assistant\n")
        self._end = encode("<|im_end|>")[0]
        self._think, self._no_think = encode("<think>\n"), encode("<think>\n\n</think>\n\n")
        words = {word: encode(f" {word}") for word in (*SHAPES, *COLOURS)}
        self._words = {ids[0]: word for word, ids in words.items() if len(ids) == 1}

    def prompt(
        self, dialogue: Dialogue, *, thinking: bool, with_answer: bool = True
    ) -> tuple[list[int], tuple[Shown, ...], MediaLayout | None]:
        """Token ids with expanded placeholders, what they show, and where they stand."""
        messages = dialogue.messages(len(dialogue.turns), with_answer=with_answer, thinking=thinking)
        options: dict[str, Any] = {} if with_answer else {"enable_thinking": thinking}
        rendered = render_messages(
            self.tokenizer, messages, tools=dialogue.tools or None, add_generation_prompt=not with_answer, **options
        )
        shown = tuple(show(part.source) for part in rendered.media)
        lengths = [one.grid[0] * one.grid[1] for one in shown]
        ids = expand_placeholders(rendered.input_ids, lengths, image_token_id=self.image_id)
        layout = lay_out(ids, [(1, *one.grid) for one in shown], image_token_id=self.image_id)
        for one, span in zip(shown, layout.spans if layout else (), strict=True):
            if len(one.frames) == 2:
                ids[span.start : span.stop] = [self.video_id] * (span.stop - span.start)
        return ids, shown, layout

    def encode(self, dialogue: Dialogue, *, thinking: bool) -> Example:
        """The whole conversation with the assistant's words marked."""
        ids, shown, layout = self.prompt(dialogue, thinking=thinking)
        plain = np.broadcast_to(np.arange(len(ids)), (3, len(ids)))
        at, asked = self._asked(ids, shown, layout)
        return Example(
            input_ids=np.array(ids),
            learn=self._written(ids),
            position_ids=plain if layout is None else layout.position_ids(0, len(ids)).astype(np.int64),
            places=np.array(
                [token for span in (layout.spans if layout else ()) for token in range(span.start, span.stop)], np.int64
            ),
            seen_at=at,
            seen=asked,
            shown=shown,
        )

    def _asked(
        self, ids: list[int], shown: Sequence[Shown], layout: MediaLayout | None
    ) -> tuple[NDArray[np.int64], Labels]:
        """Where SEEN is asked, and what is right there."""
        at: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        found: list[Labels] = [np.zeros((0, len(SEEN)), np.int8)]
        if layout is None:
            return at[0], found[0]
        earlier = None
        for number, (one, span) in enumerate(zip(shown, layout.spans, strict=True)):
            right = seen(min(number, SEEN["image"] - 1), one.scene, one.told, earlier)
            # The token behind a picture knows how many things it shows.
            last = np.full((1, len(SEEN)), -1, np.int8)
            last[0, list(SEEN).index("so far")] = min(len(one.scene.things), SEEN["so far"] - 1)
            at.append(np.arange(span.start, span.stop + 1))
            found += [right, last]
            earlier = (one.scene, one.told)
        stops = [span.stop for span in layout.spans]
        for token in range(stops[0], len(ids)):
            if ids[token] in self._words:
                before = [one.scene for one, stop in zip(shown, stops, strict=True) if stop <= token]
                things = [(number, scene, thing) for number, scene in enumerate(before) for thing in scene.things
                          if self._words[ids[token]] in (thing.kind, thing.colour)]  # fmt: skip
                if len(things) == 1:
                    at.append(np.array([token]))
                    found.append(np.array([seen_of_word(*things[0])], np.int8))
        return np.concatenate(at), np.concatenate(found)

    def _written(self, ids: list[int]) -> NDArray[np.bool_]:
        """What the assistant writes itself: not the openings that the template gives it."""
        learn = np.zeros(len(ids), dtype=bool)
        for at in [at for at, token in enumerate(ids) if token == self._start[0]]:
            if ids[at : at + len(self._start)] != self._start:
                continue
            begin = at + len(self._start)
            for opening in (self._no_think, self._think):
                if ids[begin : begin + len(opening)] == opening:
                    begin += len(opening)
                    break
            learn[begin : ids.index(self._end, begin) + 1] = True
        return learn


Batch = dict[str, Any]


def collate_shown(shown: Sequence[Shown]) -> Batch:
    """Pictures in bytes, padded to one number of patches, and what their tokens show."""
    frames = [frame for one in shown for frame in one.frames]
    size = -(-max(len(frame) for frame in frames) // 16) * 16
    padded = np.zeros((len(frames), size, frames[0].shape[1]), np.uint8)
    for number, frame in enumerate(frames):
        padded[number, : len(frame)] = frame
    pairs, at, own = [], 0, []
    tokens = size // MERGE**2
    for number, one in enumerate(shown):
        pairs.append((at, at + len(one.frames) - 1))
        at += len(one.frames)
        own.append(number * tokens + np.arange(one.grid[0] * one.grid[1]))
    return {
        "frames": torch.from_numpy(padded),
        "pairs": torch.tensor(pairs),
        "grids": [one.grid for one in shown],
        "own": torch.from_numpy(np.concatenate(own)),
        "told": torch.from_numpy(np.concatenate([one.told for one in shown])),
    }


def collate(examples: Sequence[Example], pad: int, drafted: int | None = None) -> Batch:
    """Right-padded tensors; `places` are the placeholders' indices in the flattened batch, `at` those of tokens whose
    next one is learnt, `chains` by MTP's drafts those whose next but one each draft is about.

    Args:
        drafted: In how many rows, the first ones, drafts are asked for; in all of them without.
    """
    # Whole chunks of the delta rule, and never a single one: compiled code is of two or more.
    length = max(2, -(-max(len(example.input_ids) for example in examples) // CHUNK)) * CHUNK
    rows = len(examples)
    input_ids = np.full((rows, length), pad, np.int64)
    position_ids = np.zeros((3, rows, length), np.int64)
    learn = np.zeros((rows, length + 2), bool)
    places, seen_at = [], []
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        input_ids[row, :size], learn[row, :size] = example.input_ids, example.learn
        position_ids[:, row, :size] = example.position_ids
        places.append(row * length + example.places)
        seen_at.append(row * length + example.seen_at)
    at, chains = np.flatnonzero(learn[:, 1:-1]), [np.flatnonzero((learn[:, 1:-1] & learn[:, 2:])[:drafted])]
    # A further draft is asked for where a chain has come to: one token on.
    chains += [chains[0][np.isin(chains[0] - depth, chains[0])] for depth in range(1, DEPTHS)]
    flat = np.concatenate([input_ids, np.full((rows, 1), pad)], axis=1)
    batch: Batch = {
        "input_ids": torch.from_numpy(input_ids), "position_ids": torch.from_numpy(position_ids),
        "at": torch.from_numpy(at), "target": torch.from_numpy(flat[:, 1:].reshape(-1)[at]),
        "drafted": rows if drafted is None else drafted, "chains": [torch.from_numpy(places) for places in chains],
        "seen_at": torch.from_numpy(np.concatenate(seen_at)),
        "seen": torch.from_numpy(np.concatenate([example.seen for example in examples])),
    }  # fmt: skip
    shown = [one for example in examples for one in example.shown]
    if shown:
        batch |= collate_shown(shown) | {"places": torch.from_numpy(np.concatenate(places))}
    return batch


def grouped(examples: Sequence[Example], tokens: int) -> tuple[list[list[Example]], list[Example]]:
    """Examples of nearly one length together, as many as make so many tokens; and what is left for the next pool.

    The longest come first, so that what is left is short: a batch of one or two rows takes as long as a full one.
    """
    groups: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda example: -len(example.input_ids)):
        if (len(groups[-1]) + 1) * len(groups[-1][0].input_ids if groups[-1] else example.input_ids) > tokens:
            groups.append([])
        groups[-1].append(example)
    full = [group for group in groups if group]
    return (full[:-1], full[-1]) if len(full) > 1 else (full, [])


class Batches(IterableDataset):  # type: ignore[type-arg]
    """An endless stream of batches, the same for the same seed and number of workers.

    Batches are cut from a sorted pool, so that little of them is padding, and hold about `tokens` tokens each. MTP's
    drafts are asked for in one of `drafted` rows.
    """

    def __init__(
        self, directory: Path, *, seed: int | str, tokens: int, pad: int, pool: int = 768, world: World = WORLD,
        drafted: int = 1,
    ) -> None:  # fmt: skip
        self.directory, self.seed, self.tokens, self.pad, self.pool = directory, seed, tokens, pad, pool
        self.world, self.drafted = world, drafted

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        encoder = Encoder(self.directory)
        # The first pools are small, so that nobody waits long for the first batch.
        sizes = chain((size for size in (96, 192, 384) if size < self.pool), repeat(self.pool))
        rest: list[Example] = []
        for number, size in zip(range(first, 1 << 40, step), sizes, strict=False):
            rng = Random(f"{self.seed}-{number}")
            examples = [encoder.encode(draw_dialogue(rng, self.world), thinking=rng.random() < THINKING)
                        for _ in range(size)]  # fmt: skip
            groups, rest = grouped([*rest, *examples], self.tokens)
            rng.shuffle(groups)
            for group in groups:
                rng.shuffle(group)
                yield collate(group, self.pad, -(-len(group) // self.drafted))


class LabelledPictures(IterableDataset):  # type: ignore[type-arg]
    """An endless stream of pictures, and pairs of clips' frames, for the tower alone."""

    def __init__(self, *, seed: int, pictures: int) -> None:
        self.seed, self.pictures = seed, pictures

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for number in range(first, 1 << 40, step):
            rng = Random(f"tower-{self.seed}-{number}")
            yield collate_shown([show(source) for source in self._sources(rng)])

    def _sources(self, rng: Random) -> list[Any]:
        found: list[Any] = []
        while len(found) < self.pictures:
            if rng.random() < 0.1:
                turn: Turn = about_clips.clips(rng).turns[0]
                (clip,) = turn.media
                assert isinstance(clip, Clip)
                at = 2 * rng.randrange(len(clip.scenes) // 2)
                found.append((Clip(clip.scenes[at : at + 2]), 0))
            else:
                found.append(Picture(about_pictures.any_scene(rng)))
        return found
