"""From whatever a caller asks with, to a prompt: token ids, pixels and positions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.errors import ContextLengthError, OptionError, PromptError, PromptMismatchError
from mlx_qwen35.prompts.arrays import is_array, to_numpy
from mlx_qwen35.prompts.efforts import EffortName, understand_effort
from mlx_qwen35.prompts.images import PreparedImage, check_max_pixels
from mlx_qwen35.prompts.messages import fill_sources, render_messages
from mlx_qwen35.prompts.positions import MediaLayout
from mlx_qwen35.prompts.prompt import Prompt, begins_in_reasoning, check_ids, find_branch_points
from mlx_qwen35.prompts.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]


class PromptOptions(TypedDict, total=False):
    """Keyword arguments of `ModelKit.process_prompt` that `ModelKit.chat` takes too; see there."""

    tools: Sequence[Mapping[str, Any]] | None
    enable_thinking: bool | None
    reasoning_effort: EffortName | None
    max_pixels: int | None
    add_generation_prompt: bool
    chat_template_kwargs: Mapping[str, Any] | None


# Options that mean something to a chat template.
_OF_MESSAGES = ("tools", "enable_thinking", "reasoning_effort", "continue_final_message", "chat_template_kwargs")


class ImageSource(Protocol):
    """What prepares images; see `VisionAddOn`."""

    def require(self, place: str) -> None:
        """Refuse an image that the model would never see."""

    def prepare_image(self, source: Any, *, max_pixels: int | None = None, place: str = "image") -> PreparedImage:
        """Decode one image and cut it into patches."""

    def prepare_prompt(
        self, input_ids: Sequence[int], images: Sequence[PreparedImage]
    ) -> tuple[list[int], MediaLayout | None]:
        """Expand placeholders."""


class PromptBuilder:
    """Makes prompts for one checkpoint.

    Args:
        max_pixels: Pixel budget of images, unless a prompt has its own; None for the checkpoint's limit.
    """

    def __init__(
        self, config: ModelConfig, tokenizer: Tokenizer, vision: ImageSource, max_pixels: int | None = None
    ) -> None:
        self._config, self._tokenizer, self._vision = config, tokenizer, vision
        self._max_pixels = max_pixels

    def build(
        self, prompt: Any, images: Any, max_pixels: int | None, options: Mapping[str, Any], *, extend: bool = True
    ) -> Prompt:
        """A prompt from messages, from a finished string, or from token ids.

        Args:
            images: In prompt order; for image parts without a source, and for strings and ids.
            max_pixels: Pixel budget of each image of this prompt.
            options: For `render_messages`, and `reasoning_effort`; those that are None do not count.
            extend: Whether messages end with the beginning of the assistant's turn.
        Raises:
            PromptError, MediaError, OptionError: It cannot be one.
        """
        images = _as_list(images)
        sources, places = images, [f"images[{index}]" for index in range(len(images))]
        items = [] if isinstance(prompt, str) else _as_sequence(prompt)
        context = self._config.text.context_length
        thinking_budget = None
        if items and isinstance(items[0], Mapping):
            options, thinking_budget = self._with_effort(dict(options))
            rendered = render_messages(self._tokenizer, items, add_generation_prompt=extend, context=context, **options)
            input_ids, places = rendered.input_ids, rendered.places
            sources = fill_sources(rendered.sources, places, images)
        else:
            for name in _OF_MESSAGES:
                if options.get(name) not in (None, {}):
                    raise OptionError(f"{name}: expected only with messages, found with a finished prompt")
            if isinstance(prompt, str):
                self._tokenizer.check_length(prompt, context)
            input_ids = self._tokenizer.encode(prompt) if isinstance(prompt, str) else items
        input_ids = check_ids(input_ids, self._config.text.vocab_size)
        if not input_ids:
            raise PromptError("prompt: expected at least one token, found none")
        for place in places:
            self._vision.require(place)
        budget = check_max_pixels(max_pixels) if max_pixels is not None else self._max_pixels
        prepared = tuple(
            self._vision.prepare_image(source, max_pixels=budget, place=place)
            for source, place in zip(sources, places, strict=True)
        )
        return replace(self._laid_out(input_ids, prepared), thinking_budget=thinking_budget)

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
            raise ContextLengthError(
                f"prompt: expected at most {context - new_tokens} tokens ({whose}), found {length}"
            )
        if (
            length
            and not 0 <= int(prompt.input_ids.min()) <= int(prompt.input_ids.max()) < self._config.text.vocab_size
        ):
            check_ids(prompt.input_ids.tolist(), self._config.text.vocab_size)
        vision = self._config.vision
        for number, image in enumerate(prompt.images):
            self._vision.require(f"prompt.images[{number}]")
            assert vision is not None
            width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
            if image.pixel_values.shape[-1] != width or image.grid_thw[1] % vision.spatial_merge_size:
                raise PromptMismatchError(
                    f"prompt.images[{number}]: expected an image prepared for this checkpoint, found one of another's"
                )

    def _with_effort(self, options: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
        """Options without the effort, which is in the others as the template knows it; and its limit on reasoning."""
        wanted = options.pop("reasoning_effort", None)
        if wanted is None:
            return options, None
        effort = understand_effort(wanted, self._tokenizer.template_variables)
        return effort.apply(options), effort.thinking_budget

    def _laid_out(self, input_ids: list[int], images: tuple[PreparedImage, ...]) -> Prompt:
        self._refuse_unmatched(input_ids)
        expanded, layout = self._vision.prepare_prompt(input_ids, images)
        branch_points, turn_start = find_branch_points(expanded, layout, self._tokenizer)
        return Prompt(
            input_ids=np.array(expanded, dtype=np.int32),
            layout=layout,
            images=images,
            in_reasoning=begins_in_reasoning(expanded, self._tokenizer),
            branch_points=branch_points,
            turn_start=turn_start,
        )

    def _refuse_unmatched(self, input_ids: Sequence[int]) -> None:
        """Media placeholders that nothing will ever stand behind."""
        tokens = self._config.media_tokens
        kinds = [(tokens.video_token_id if tokens else self._tokenizer.control_id("<|video_pad|>"), "a video")]
        if tokens is None:
            kinds.append((self._tokenizer.control_id("<|image_pad|>"), "an image"))
        for token, kind in kinds:
            if token is not None and token in input_ids:
                raise PromptMismatchError(
                    f"prompt token {input_ids.index(token)}: expected no placeholder for {kind}, found one; "
                    f"{'video is not supported' if kind == 'a video' else 'this checkpoint has no vision'}"
                )


def ask(question: str, images: Any = None) -> list[dict[str, Any]]:
    """A question, with image parts before it whose sources are passed separately, as messages."""
    parts = [{"type": "image"} for _ in _as_list(images)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}] if parts else question}]


def _as_list(images: Any) -> list[Any]:
    """Images as callers pass them: none, one, or several in any iterable."""
    if images is None:
        return []
    # An open file gives lines, and a buffer numbers; an array of three axes is one image.
    single = isinstance(images, (str, bytes, bytearray, memoryview, Path)) or hasattr(images, "read")
    single = single or (is_array(images) and len(images.shape) <= 3)
    return [images] if single or not isinstance(images, Iterable) else list(images)


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
    mask = encoding.get("attention_mask")
    if mask is not None and not np.all(to_numpy(mask) if is_array(mask) else np.asarray(mask)):
        raise PromptError("prompt: expected token ids without padding, found an attention_mask with zeros")
    return encoding["input_ids"]
