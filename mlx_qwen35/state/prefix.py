"""A prefix: a sequence that was read, and what it takes to go on from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.state.sequence import FrozenState, SequenceState, Snapshot


@dataclass(frozen=True)
class ImageRun:
    """The placeholders of one image or pair of frames, half open, and what was seen there."""

    start: int
    stop: int
    content_hash: str


@dataclass(eq=False)
class Prefix:
    """One sequence that was read, up to its last snapshot.

    Args:
        input_ids: Shape (S,), int32.
        images: The images among them.
        turn_start: From here on the template writes the sequence anew once the next turn has begun.
        snapshot_tokens: Numbers of tokens at its snapshots.
        state: Its arrays; None while they are on disk only.
        file, file_bytes: Where they are on disk, if they are, and how large.
        leaving: They are to leave memory as soon as they are on disk.
        writing: They are being written.
        earlier: Files of prefixes that this one continues, which go once it is on disk itself.
        saved: So many of its first tokens are on disk, in its own file or in one of those.
        due: When it is to be written, by the clock of `time.monotonic`; None if nobody waits for that.
    """

    input_ids: NDArray[np.int32]
    images: tuple[ImageRun, ...]
    turn_start: int
    snapshot_tokens: list[int]
    state: FrozenState | None = field(repr=False)
    file: Path | None = None
    file_bytes: int = 0
    leaving: bool = False
    writing: bool = False
    earlier: list[Path] = field(default_factory=list)
    saved: int = 0
    due: float | None = None

    def __post_init__(self) -> None:
        self.keys = keys_of(self.input_ids, self.images)

    def __len__(self) -> int:
        return len(self.input_ids)

    def has_images(self, images: Sequence[ImageRun], tokens: int) -> bool:
        """Whether its first tokens hold the same images as those of another sequence."""
        return [i for i in self.images if i.start < tokens] == [i for i in images if i.start < tokens]

    def succeed(self, other: "Prefix", tokens: int) -> None:
        """Stand for another prefix from now on, with which it has its first tokens in common; before it is known."""
        self.earlier += [file for file in (other.file, *other.earlier) if file is not None]
        self.saved = max(self.saved, min(other.saved, tokens))
        if other.due is not None:
            self.due = other.due if self.due is None else min(self.due, other.due)

    def is_in(self, file: Path, nbytes: int) -> None:
        """It is in this file, and earlier ones are gone."""
        self.file, self.file_bytes, self.earlier, self.saved = file, nbytes, [], len(self)

    def beginning(self, state: FrozenState, tokens: int) -> "Prefix":
        """Its beginning as a prefix of its own, without arrays.

        Args:
            state: The prefix's arrays.
            tokens: Of one of the snapshots.
        """
        return Prefix(
            input_ids=self.input_ids[:tokens],
            images=tuple(image for image in self.images if image.stop <= tokens),
            turn_start=min(self.turn_start, tokens),
            snapshot_tokens=[snapshot.tokens for snapshot in state.snapshots if snapshot.tokens <= tokens],
            state=None,
        )


@dataclass
class Reading:
    """A prompt on its way into a state of its own, from where an earlier one left off.

    Args:
        state: The first `start` tokens are read.
        start: Tokens that need not be read again.
        snapshots: Taken so far, and before; None if none are to be taken.
        written: Tokens of the answer that the state has read.
    """

    prompt: Prompt
    state: SequenceState
    start: int = 0
    snapshots: list[Snapshot] | None = None
    written: list[int] = field(default_factory=list)


def images_of(prompt: Prompt) -> tuple[ImageRun, ...]:
    """Where a prompt's images and frames stand."""
    if prompt.layout is None:
        return ()
    return tuple(
        ImageRun(prompt.layout.spans[index].start, prompt.layout.spans[index].stop, piece.hash_of(index))
        for piece in prompt.pieces
        for index in range(piece.start, piece.stop)
    )


def keys_of(input_ids: NDArray[np.int32], images: Sequence[ImageRun]) -> NDArray[np.int64]:
    """Token ids, with a negative number in place of an image's placeholders that depends on its content."""
    keys = input_ids.astype(np.int64)
    for image in images:
        keys[image.start : image.stop] = -1 - int(image.content_hash[:15], 16)
    return keys
