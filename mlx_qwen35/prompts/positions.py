"""Where every token of a prompt with media stands, in plain integers.

Text advances time, height and width together. An image takes one position per merged
patch row and column, so that afterwards the next position lies behind the number of
tokens by `rope_delta`; so does each pair of a video's frames, which has placeholders of its
own. Everything here is derived from the spans of the media; nothing here knows MLX.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.errors import PromptMismatchError


@dataclass(frozen=True)
class MediaSpan:
    """The placeholder run of one image, or of one pair of a video's frames.

    Args:
        start, stop: Token indices, half open.
        position: RoPE position where it begins, on all three axes.
        grid_thw: Merged patches in time, height and width; their product is `stop - start`.
    """

    start: int
    stop: int
    position: int
    grid_thw: tuple[int, int, int]

    @property
    def next_position(self) -> int:
        """RoPE position of the first token after it."""
        return self.position + max(self.grid_thw)

    @property
    def rope_delta(self) -> int:
        """Position minus token index after it; at most 0."""
        return self.next_position - self.stop


@dataclass(frozen=True)
class MediaLayout:
    """The images and pairs of frames of one prompt, in order of their tokens.

    Args:
        spans: At least one, disjoint, in prompt order.
        length: Tokens in the prompt.
    """

    spans: tuple[MediaSpan, ...]
    length: int

    @cached_property
    def _stops(self) -> list[int]:
        return [span.stop for span in self.spans]

    @property
    def rope_delta(self) -> int:
        """Position of the first generated token minus the number of prompt tokens; at most 0."""
        return self.spans[-1].rope_delta

    def delta_at(self, tokens: int) -> int:
        """Position minus index of token number `tokens`, if that token is text.

        Inside an image it is the delta before that image.
        """
        index = bisect_right(self._stops, tokens)
        return self.spans[index - 1].rope_delta if index else 0

    def inside(self, tokens: int) -> MediaSpan | None:
        """The image that a cut after `tokens` tokens would split, if any."""
        index = bisect_right(self._stops, tokens)
        if index < len(self.spans) and self.spans[index].start < tokens:
            return self.spans[index]
        return None

    def overlapping(self, start: int, stop: int) -> range:
        """Indices of the spans with a token in [start, stop)."""
        first = bisect_right(self._stops, start)
        last = first
        while last < len(self.spans) and self.spans[last].start < stop:
            last += 1
        return range(first, last)

    def position_ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """Time, height and width position of the tokens in [start, stop).

        Returns:
            Shape (3, stop - start), in tokens. Tokens beyond the prompt continue as text.
        Source:
            transformers 5.23, Qwen3_5Model.get_rope_index and get_vision_position_ids.
        """
        out = np.empty((3, stop - start), dtype=np.int32)
        cursor = start
        for index in self.overlapping(start, stop):
            span = self.spans[index]
            low, high = max(start, span.start), min(stop, span.stop)
            out[:, cursor - start : low - start] = self._text_positions(cursor, low)
            axes = np.unravel_index(np.arange(low - span.start, high - span.start), span.grid_thw)
            out[:, low - start : high - start] = np.stack(axes) + span.position
            cursor = high
        out[:, cursor - start :] = self._text_positions(cursor, stop)
        return out

    def _text_positions(self, start: int, stop: int) -> NDArray[np.int64]:
        """Of tokens in [start, stop) that are text."""
        return np.arange(start, stop) + self.delta_at(start)


def merged_grid(grid_thw: Sequence[int], spatial_merge_size: int) -> tuple[int, int, int]:
    """An image's grid after the 2x2 (`spatial_merge_size`) merger, from its grid in patches."""
    t, h, w = (int(size) for size in grid_thw)
    return t, h // spatial_merge_size, w // spatial_merge_size


def expand_placeholders(input_ids: Sequence[int], lengths: Sequence[int], *, image_token_id: int) -> list[int]:
    """Give every image as many placeholders as it has merged patches.

    Args:
        input_ids: Shape (S,), either with one placeholder per image, or already expanded.
        lengths: Merged patches of each image, in prompt order.
    Returns:
        The expanded ids, shape (S',).
    Raises:
        PromptMismatchError: The number of placeholders fits neither reading.
    """
    found = sum(1 for token in input_ids if token == image_token_id)
    if found == sum(lengths):
        return list(input_ids)
    if found != len(lengths):
        expanded = f" or {sum(lengths)} (one per merged patch)" if lengths else ""
        raise PromptMismatchError(
            f"prompt: expected {len(lengths)} image placeholders (one per image){expanded}, found {found}"
        )
    remaining = iter(lengths)
    out: list[int] = []
    for token in input_ids:
        out.extend([token] * next(remaining) if token == image_token_id else [token])
    return out


def lay_out(
    input_ids: Sequence[int],
    grids_thw: Sequence[tuple[int, int, int]],
    *,
    image_token_id: int,
    frames_thw: Sequence[tuple[int, int, int]] = (),
    video_token_id: int | None = None,
) -> MediaLayout | None:
    """Find the images and the frames of videos in an expanded prompt, and give every token its position.

    Args:
        input_ids: Expanded prompt, shape (S,); one placeholder per merged patch.
        grids_thw: Merged grid of each image in prompt order, shape (N, 3).
        frames_thw: The same of each pair of frames, of all videos.
    Returns:
        The layout, or None without media.
    Raises:
        PromptMismatchError: The placeholder runs and the grids differ in number or in length.
    """
    kinds = {image_token_id: ("image", grids_thw)}
    if video_token_id is not None:
        kinds[video_token_id] = ("pair of frames", frames_thw)
    found = dict.fromkeys(kinds, 0)
    spans: list[MediaSpan] = []
    delta, token = 0, 0
    while token < len(input_ids):
        kind = input_ids[token]
        if kind not in kinds:
            token += 1
            continue
        name, grids = kinds[kind]
        if found[kind] == len(grids):
            raise PromptMismatchError(
                f"prompt token {token}: expected placeholders for {len(grids)} {_plural(name)}, found more"
            )
        # Two adjacent images form one run: only the grids say where one ends.
        grid = grids[found[kind]]
        stop = token + grid[0] * grid[1] * grid[2]
        run = token
        while run < min(stop, len(input_ids)) and input_ids[run] == kind:
            run += 1
        if run < stop:
            raise PromptMismatchError(
                f"prompt token {token}: {name} {found[kind] + 1} expected {stop - token} placeholders "
                f"(merged grid {grid[0]}x{grid[1]}x{grid[2]}), found {run - token}"
            )
        spans.append(MediaSpan(token, stop, token + delta, grid))
        found[kind] += 1
        delta = spans[-1].rope_delta
        token = stop
    for kind, (name, grids) in kinds.items():
        if found[kind] < len(grids):
            raise PromptMismatchError(
                f"prompt: expected placeholders for {len(grids)} {_plural(name)}, found {found[kind]}"
            )
    return MediaLayout(tuple(spans), len(input_ids)) if spans else None


def _plural(name: str) -> str:
    return name.replace("pair of", "pairs of") if " " in name else f"{name}s"
