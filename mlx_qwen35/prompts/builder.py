"""From whatever a caller asks with, to a prompt: token ids, pixels and positions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlx_qwen35.checkpoints.config import MediaTokens, ModelConfig
from mlx_qwen35.errors import ContextLengthError, OptionError, PromptError, PromptMismatchError
from mlx_qwen35.prompts.arrays import is_array, to_numpy
from mlx_qwen35.prompts.efforts import understand_effort
from mlx_qwen35.prompts.images import PreparedImage, check_pixels
from mlx_qwen35.prompts.messages import MediaPart, fill_sources, render_messages
from mlx_qwen35.prompts.positions import MediaLayout
from mlx_qwen35.prompts.prompt import Prompt, begins_in_reasoning, check_ids, find_branch_points
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.prompts.video_runs import VideoRuns
from mlx_qwen35.prompts.videos import PreparedVideo

# Frames that are done, and how many there are; False ends the work.
FramesCallback = Callable[[int, int], bool | None]
Messages = Sequence[Mapping[str, Any]]


class Array(Protocol):
    """An array of numpy, MLX or torch."""

    @property
    def shape(self) -> Any: ...

    def tolist(self) -> Any: ...


TokenIds = Sequence[int] | Array
# Options that mean something to a chat template.
_OF_MESSAGES = ("tools", "enable_thinking", "reasoning_effort", "continue_final_message", "chat_template_kwargs")


class MediaSource(Protocol):
    """What prepares images and videos; see `VisionAddOn`."""

    def clear_prediction_state(self) -> None:
        """Let go of what was prepared for the last prompt beyond the budget."""

    def require(self, place: str) -> None:
        """Refuse an image or a video that the model would never see."""

    def prepare_image(self, source: Any, *, place: str = "image", **options: Any) -> PreparedImage:
        """Decode one image and cut it into patches."""

    def prepare_video(
        self, source: Any, *, place: str = "video", on_frames: FramesCallback | None = None, **options: Any
    ) -> PreparedVideo:
        """Sample a video's frames and cut them into patches."""

    def prepare_prompt(
        self, input_ids: Sequence[int], images: Sequence[PreparedImage], frames: Sequence[PreparedImage] = ()
    ) -> tuple[list[int], MediaLayout | None]:
        """Expand placeholders of images, and give every token its position."""


@dataclass(frozen=True)
class GivenMedia:
    """The media of one prompt as a caller passes them beside it.

    Args:
        images, videos: In prompt order each; for parts without a source, and for strings and ids.
        max_pixels: Pixel budget of each image, and of all frames of each video.
        video_options: Further arguments of `VideoPreprocessor`, for videos whose part says nothing else.
        on_frames: Is told how many frames of a video are decoded.
    """

    images: Any = None
    videos: Any = None
    max_pixels: int | None = None
    video_options: Mapping[str, Any] = field(default_factory=dict)
    on_frames: FramesCallback | None = None


class PromptBuilder:
    """Makes prompts for one checkpoint.

    Args:
        max_pixels: Pixel budget of images, unless a prompt has its own; None for the checkpoint's limit.
    """

    def __init__(
        self, config: ModelConfig, tokenizer: Tokenizer, vision: MediaSource, max_pixels: int | None = None
    ) -> None:
        self._config, self._tokenizer, self._vision = config, tokenizer, vision
        self._max_pixels = max_pixels
        tokens = config.media_tokens
        self._runs = VideoRuns(tokens, tokenizer) if tokens and tokens.video_token_id is not None else None

    def build(self, prompt: Any, given: GivenMedia, options: Mapping[str, Any], *, extend: bool = True) -> Prompt:
        """A prompt from messages, from a finished string, or from token ids.

        Args:
            options: For `render_messages`, and `reasoning_effort`; those that are None do not count.
            extend: Whether messages end with the beginning of the assistant's turn.
        Raises:
            PromptError, MediaError, OptionError: It cannot be one.
            GenerationCancelled: `on_frames` returned False.
        """
        self._vision.clear_prediction_state()
        images, videos = as_list(given.images), as_list(given.videos, axes=4)
        items = [] if isinstance(prompt, str) else _as_sequence(prompt)
        context = self._config.text.context_length
        encode: Callable[[str], list[int]] = self._tokenizer.encode
        text, thinking_budget = None, None
        if items and isinstance(items[0], Mapping):
            options, thinking_budget = self._with_effort(dict(options))
            rendered = render_messages(self._tokenizer, items, add_generation_prompt=extend, context=context, **options)
            text, encode = rendered.text, rendered.encode
            pictures = fill_sources([part for part in rendered.media if not part.is_video], images)
            clips = fill_sources([part for part in rendered.media if part.is_video], videos, "videos")
        else:
            for name in _OF_MESSAGES:
                if options.get(name) not in (None, {}):
                    raise OptionError(f"{name}: expected only with messages, found with a finished prompt")
            if isinstance(prompt, str):
                self._tokenizer.check_length(prompt, context)
                text = prompt
            pictures = [MediaPart(source, f"images[{index}]") for index, source in enumerate(images)]
            clips = [MediaPart(source, f"videos[{index}]") for index, source in enumerate(videos)]
        seen = self._prepare_videos(clips, given)
        if text is not None:
            items = encode(self._runs.in_text(text, seen) if self._runs is not None and seen else text)
        input_ids = check_ids(items, self._config.text.vocab_size)
        if not input_ids:
            raise PromptError("prompt: expected at least one token, found none")
        prepared = self._prepare_images(pictures, given)
        return replace(self._laid_out(input_ids, prepared, seen), thinking_budget=thinking_budget)

    def _prepare_images(self, parts: Sequence[MediaPart], given: GivenMedia) -> list[PreparedImage]:
        for part in parts:
            self._vision.require(part.place)
        budget = check_pixels(given.max_pixels) if given.max_pixels is not None else self._max_pixels
        for part in parts:
            for name, value in part.options.items():
                check_pixels(value, f"{part.place}.{name}")
        return [
            self._vision.prepare_image(part.source, place=part.place, **{"max_pixels": budget, **part.options})
            for part in parts
        ]

    def _prepare_videos(self, parts: Sequence[MediaPart], given: GivenMedia) -> list[PreparedVideo]:
        for part in parts:
            self._vision.require(part.place)
            if self._runs is None:
                raise PromptMismatchError(
                    f"{part.place}: expected no video, found one; config.json has no token for it"
                )
        overall = {"max_pixels": given.max_pixels, **given.video_options}
        return [
            self._vision.prepare_video(
                part.source, place=part.place, on_frames=given.on_frames, **{**overall, **part.options}
            )
            for part in parts
        ]

    def check(self, prompt: Prompt, new_tokens: int, context: int) -> None:
        """Whether a prompt, perhaps of another checkpoint's, can be run on this one.

        Args:
            new_tokens: Tokens that have to fit into the context after it.
            context: Tokens of prompt and answer, at most.
        Raises:
            PromptError, MediaError: It cannot.
        """
        if not isinstance(prompt, Prompt):
            raise PromptError(f"prompt: expected a Prompt from process_prompt, found {type(prompt).__name__}")
        length = len(prompt.input_ids)
        if length + new_tokens > context:
            whose = "the model's context" if context == self._config.text.context_length else "max_context"
            fits = context - new_tokens
            raise ContextLengthError(f"prompt: expected at most {fits} tokens ({whose}), found {length}", length, fits)
        if (
            length
            and not 0 <= int(prompt.input_ids.min()) <= int(prompt.input_ids.max()) < self._config.text.vocab_size
        ):
            check_ids(prompt.input_ids.tolist(), self._config.text.vocab_size)
        vision = self._config.vision
        for number, unit in enumerate(prompt.media):
            self._vision.require(f"prompt.media[{number}]")
            assert vision is not None
            width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
            if unit.pixel_values.shape[-1] != width or unit.grid_thw[1] % vision.spatial_merge_size:
                raise PromptMismatchError(
                    f"prompt.media[{number}]: expected an image prepared for this checkpoint, found one of another's"
                )

    def _with_effort(self, options: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
        """Options without the effort, which is in the others as the template knows it; and its limit on reasoning."""
        wanted = options.pop("reasoning_effort", None)
        if wanted is None:
            return options, None
        effort = understand_effort(wanted, self._tokenizer.template_variables)
        return effort.apply(options), effort.thinking_budget

    def _laid_out(
        self, input_ids: list[int], images: Sequence[PreparedImage], videos: Sequence[PreparedVideo]
    ) -> Prompt:
        self._refuse_unmatched(input_ids)
        expanded = self._runs.in_ids(input_ids, videos) if self._runs is not None else input_ids
        frames = [pair for video in videos for pair in video.frames]
        expanded, layout = self._vision.prepare_prompt(expanded, images, frames)
        media, of_videos = _in_order(expanded, layout, images, videos, self._config.media_tokens)
        branch_points, turn_start = find_branch_points(expanded, layout, self._tokenizer, of_videos)
        return Prompt(
            input_ids=np.array(expanded, dtype=np.int32),
            layout=layout,
            media=media,
            videos=of_videos,
            in_reasoning=begins_in_reasoning(expanded, self._tokenizer),
            branch_points=branch_points,
            turn_start=turn_start,
        )

    def _refuse_unmatched(self, input_ids: Sequence[int]) -> None:
        """Media placeholders that nothing will ever stand behind."""
        if self._runs is not None:
            return
        kinds = [(self._tokenizer.control_id("<|video_pad|>"), "a video")]
        if self._config.media_tokens is None:
            kinds.append((self._tokenizer.control_id("<|image_pad|>"), "an image"))
        for token, kind in kinds:
            if token is not None and token in input_ids:
                raise PromptMismatchError(
                    f"prompt token {input_ids.index(token)}: expected no placeholder for {kind}, found one; "
                    f"this checkpoint has no {'vision' if self._config.media_tokens is None else 'token for videos'}"
                )


def _in_order(
    input_ids: Sequence[int],
    layout: MediaLayout | None,
    images: Sequence[PreparedImage],
    videos: Sequence[PreparedVideo],
    tokens: MediaTokens | None,
) -> tuple[tuple[PreparedImage, ...], tuple[tuple[int, ...], ...]]:
    """Images and pairs of frames as they stand in an expanded prompt, and which of them make up each video."""
    if layout is None or tokens is None:
        return (), ()
    rest = {tokens.image_token_id: iter(images)}
    if tokens.video_token_id is not None:
        rest[tokens.video_token_id] = (pair for video in videos for pair in video.frames)
    kinds = [input_ids[span.start] for span in layout.spans]
    frames = (index for index, kind in enumerate(kinds) if kind == tokens.video_token_id)
    of_videos = tuple(tuple(islice(frames, len(video.frames))) for video in videos)
    return tuple(next(rest[kind]) for kind in kinds), of_videos


def ask(question: str, images: Any = None, videos: Any = None) -> list[dict[str, Any]]:
    """A question, with image and video parts before it whose sources are passed separately, as messages."""
    parts = [{"type": "image"} for _ in as_list(images)] + [{"type": "video"} for _ in as_list(videos, axes=4)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}] if parts else question}]


def as_list(media: Any, axes: int = 3) -> list[Any]:
    """Images or videos as callers pass them: none, one, or several in any iterable.

    Args:
        axes: Of an array that is one of them.
    """
    if media is None:
        return []
    # An open file gives lines, and a buffer numbers.
    single = isinstance(media, (str, bytes, bytearray, memoryview, Path)) or hasattr(media, "read")
    single = single or (is_array(media) and len(media.shape) <= axes)
    return [media] if single or not isinstance(media, Iterable) else list(media)


def _as_sequence(prompt: Any) -> list[Any]:
    """Messages or ids as a list; ids may be an array of any library, or what a tokenizer gives."""
    given = _encoded(prompt) if isinstance(prompt, Mapping) else prompt
    if is_array(given):
        values = to_numpy(given)
        if values is None or values.dtype.kind not in "ui" or values.ndim not in (1, 2):
            raise PromptError(
                f"prompt: expected token ids of shape (S,), found {tuple(given.shape)} of type {given.dtype}"
            )
        given = values.tolist()
    if isinstance(given, (bytes, bytearray)) or not isinstance(given, Iterable):
        raise PromptError(f"prompt: expected messages, a string or token ids, found {type(given).__name__}")
    items = list(given)
    # Tokenizers and processors give a batch, even of one.
    if given is not prompt and items and isinstance(items[0], list):
        if len(items) > 1:
            raise PromptError(f"prompt[0]: expected a token id of one prompt, found a batch of {len(items)}")
        items = items[0]
    return items


def _encoded(encoding: Mapping[Any, Any]) -> Any:
    """The ids of a tokenizer's BatchEncoding."""
    if "input_ids" not in encoding:
        raise PromptError("prompt: expected a list of messages, found a single message")
    if "pixel_values" in encoding:
        raise PromptError("prompt: expected images as images=[...], found pixel_values of a processor")
    if "pixel_values_videos" in encoding:
        raise PromptError("prompt: expected videos as videos=[...], found pixel_values_videos of a processor")
    mask = encoding.get("attention_mask")
    if mask is not None and not np.all(to_numpy(mask) if is_array(mask) else np.asarray(mask)):
        raise PromptError("prompt: expected token ids without padding, found an attention_mask with zeros")
    return encoding["input_ids"]
