"""A prompt, ready for the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.errors import PromptError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.images import PreparedImage
from mlx_qwen35.prompts.pieces import Piece, cut
from mlx_qwen35.prompts.positions import MediaLayout
from mlx_qwen35.prompts.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """One request, ready for the model. Holds no MLX array and may be used any number of times.

    Args:
        input_ids: Shape (S,), int32; one placeholder per merged image patch. Read-only.
        layout: Where images and frames stand; None for text.
        media: Images and pairs of frames, in prompt order.
        videos: For each video the indices of its pairs of frames among `media`, in order.
        in_reasoning: Whether the answer begins inside a `<think>` block.
        branch_points: Numbers of tokens after which a later prompt may go on differently, in order.
        turn_start: From here on the template writes this turn anew once the next one has begun.
        thinking_budget: At most this many tokens of reasoning in the answer, unless a request says otherwise.
    """

    input_ids: NDArray[np.int32]
    layout: MediaLayout | None = None
    media: tuple[PreparedImage, ...] = field(default=(), repr=False)
    videos: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    in_reasoning: bool = False
    branch_points: tuple[int, ...] = ()
    turn_start: int = 0
    thinking_budget: int | None = None

    def __post_init__(self) -> None:
        # A prompt may be run any number of times, and is what kept prefixes are matched by. The caller's array is not.
        ids = np.array(self.input_ids)
        ids.flags.writeable = False
        object.__setattr__(self, "input_ids", ids)

    def __repr__(self) -> str:
        images = f", {len(self.images)} images ({self.image_tokens} of the tokens)" if self.images else ""
        videos = f", {len(self.videos)} videos ({self.video_tokens} of the tokens)" if self.videos else ""
        return f"Prompt({len(self.input_ids)} tokens{images}{videos}, in_reasoning={self.in_reasoning})"

    @property
    def position_ids(self) -> NDArray[np.int32] | None:
        """Time, height and width positions, shape (3, S); None for a text prompt."""
        return None if self.layout is None else self.layout.position_ids(0, len(self.input_ids))

    @property
    def rope_delta(self) -> int:
        """Position of the first generated token minus S; at most 0."""
        return 0 if self.layout is None else self.layout.rope_delta

    @property
    def images(self) -> tuple[PreparedImage, ...]:
        """What of `media` is no frame of a video."""
        frames = self._frames
        return tuple(unit for index, unit in enumerate(self.media) if index not in frames)

    @property
    def image_tokens(self) -> int:
        """Placeholders of images among `input_ids`."""
        return sum(image.tokens for image in self.images)

    @property
    def video_tokens(self) -> int:
        """Placeholders of videos among `input_ids`."""
        return sum(self.media[index].tokens for index in self._frames)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """What the vision tower looks at in one call each."""
        return cut(self.media, self.videos)

    @cached_property
    def _frames(self) -> frozenset[int]:
        return frozenset(index for video in self.videos for index in video)


def check_ids(ids: Sequence[Any], vocab_size: int) -> list[int]:
    """Token ids as Python's own numbers, refused where the model has no row for them.

    Args:
        ids: Of a caller; or of a tokenizer, which may know more tokens than the model.
    Raises:
        PromptError: One is no whole number in [0, vocab_size).
    """
    for index, token in enumerate(ids):
        whole = isinstance(token, Integral) and not isinstance(token, bool)
        if not whole or not 0 <= token < vocab_size:
            raise PromptError(f"prompt[{index}]: expected a token id below {vocab_size}, found {shorten(repr(token))}")
    return [int(token) for token in ids]


def find_branch_points(
    input_ids: list[int],
    layout: MediaLayout | None,
    tokenizer: Tokenizer,
    videos: Sequence[Sequence[int]] = (),
) -> tuple[tuple[int, ...], int]:
    """Where later prompts part from this one, and from where on the last turn will be written anew.

    They part after the system message, after an image or a whole video, at the last two questions (edited), before
    the reasoning that the template drops later, and at the last token (another answer). Earlier
    turns were branch points of earlier prompts. Few places: each costs a chunk of its own.

    Args:
        input_ids: Expanded, shape (S,).
        videos: See `Prompt`.
    Returns:
        Numbers of tokens between 1 and S - 1, ascending, none inside an image; and `Prompt.turn_start`.
    """
    start, think, result = (tokenizer.control_id(name) for name in ("<|im_start|>", "<think>", "<tool_response>"))
    opening = tokenizer.encode("<|im_start|>user\n")
    size, last = len(opening), len(input_ids) - 1
    messages = [index for index, token in enumerate(input_ids) if token == start]
    # Results of tools stand in a user's message too, and are a part of the turn that they are for.
    questions = [
        index
        for index in messages
        if input_ids[index : index + size] == opening and input_ids[index + size : index + size + 1] != [result]
    ]
    asked = questions[-1] if questions else 0
    reasoning = [index for index in range(asked, len(input_ids)) if input_ids[index] == think]
    points = {*messages[1:2], *questions[-2:], *reasoning, last}
    if layout is not None:
        within = {index for video in videos for index in video[:-1]}
        points |= {span.stop for index, span in enumerate(layout.spans) if index not in within}
        points = {point for point in points if layout.inside(point) is None}
    turn_start = reasoning[0] if reasoning else messages[-1] if messages else len(input_ids)
    return tuple(sorted(point for point in points if 0 < point <= last)), turn_start


def common_length(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Tokens that two prompts begin with alike."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


def begins_in_reasoning(input_ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Whether the last `<think>` of a prompt is still open."""
    start, end = tokenizer.control_id("<think>"), tokenizer.control_id("</think>")
    for token in reversed(input_ids):
        if token == end or token == tokenizer.control_id("<|im_start|>"):
            return False
        if token == start:
            return True
    return False
