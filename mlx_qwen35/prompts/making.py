"""The part of a ModelKit that makes prompts."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from mlx_qwen35.errors import OptionError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.builder import FramesCallback, GivenMedia, Messages, PromptBuilder, TokenIds
from mlx_qwen35.prompts.efforts import EffortName
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.prompts.tokenizer import Tokenizer


class PromptOptions(TypedDict, total=False):
    """Keyword arguments of `ModelKit.process_prompt` that `ModelKit.chat` takes too; see there."""

    tools: Sequence[Mapping[str, Any]] | None
    enable_thinking: bool | None
    reasoning_effort: EffortName | None
    max_pixels: int | None
    video_fps: float | None
    min_frames: int | None
    max_frames: int | None
    add_generation_prompt: bool
    chat_template_kwargs: Mapping[str, Any] | None


# What `ModelKit.chat` hands to `process_prompt`; the last two belong to the answer too.
RENDERING = {*PromptOptions.__annotations__, "continue_final_message", "on_frames"}


class PromptMaking:
    """Text, images and videos to prompts."""

    tokenizer: Tokenizer
    _prompts: PromptBuilder

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text: control tokens in it are spelled out."""
        return self.tokenizer.encode_text(text)

    def process_prompt(
        self,
        prompt: Messages | str | TokenIds,
        *,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        reasoning_effort: str | None = None,
        max_pixels: int | None = None,
        video_fps: float | None = None,
        min_frames: int | None = None,
        max_frames: int | None = None,
        on_frames: FramesCallback | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """Turn a request into token ids, pixels and positions.

        Args:
            prompt: Messages in OpenAI's form; or a finished string, in which control tokens count, and which the
                model completes as it is; or token ids (an array, or what a tokenizer gives) with one placeholder
                per image and per video, or expanded runs.
            images: Images in prompt order, for a string, for ids, or for image parts without a source.
            videos: The same of videos; docs/video.md has what a video may be.
            tools: Function descriptions, for messages.
            enable_thinking: Whether the answer begins with reasoning, for messages; None leaves
                it to the checkpoint's template.
            reasoning_effort: "none" or "minimal" (no reasoning), "low", "medium", "high", "xhigh" or "max", for
                messages: reaches the template if it has such a variable, else limits the reasoning's tokens.
            max_pixels: Pixel budget of each image of this prompt, and of all frames together of each video.
            video_fps, min_frames, max_frames: How many frames a second of a video are shown, and how many at least
                and at most; None for the checkpoint's. A video part may say something else for its own video, as
                `fps`, `min_frames`, `max_frames` and `max_pixels`.
            on_frames: Called, in the caller's thread, with the frames of a video that are decoded and their number;
                returning False cancels.
            add_generation_prompt, continue_final_message, chat_template_kwargs: See `render_messages`.
        Returns:
            A prompt that can be run any number of times.
        Raises:
            PromptError: The prompt is malformed, or its placeholders do not fit the images and videos.
            MediaError: An image or a video cannot be read, or the checkpoint cannot see.
            OptionError: An option is of another type, or out of range.
            GenerationCancelled: `on_frames` returned False.
        """
        _check_rendering(enable_thinking, continue_final_message, chat_template_kwargs, on_frames)
        options = {
            "tools": tools, "enable_thinking": enable_thinking, "reasoning_effort": reasoning_effort,
            "chat_template_kwargs": chat_template_kwargs, "continue_final_message": continue_final_message or None,
        }  # fmt: skip
        sampling = {"fps": video_fps, "min_frames": min_frames, "max_frames": max_frames}
        given = GivenMedia(images, videos, max_pixels, sampling, on_frames)
        return self._prompts.build(prompt, given, options, extend=add_generation_prompt)


def _check_rendering(thinking: Any, continues: Any, further: Any, on_frames: Any) -> None:
    """Refuse arguments of another type; a "no" that counts as True would be answered with reasoning.

    Raises:
        OptionError: One is.
    """
    right = {
        "enable_thinking": (thinking, thinking is None or isinstance(thinking, bool), "True, False or None"),
        "continue_final_message": (continues, continues is None or isinstance(continues, bool), "True or False"),
        "chat_template_kwargs": (further, further is None or isinstance(further, Mapping), "a mapping"),
        "on_frames": (on_frames, on_frames is None or callable(on_frames), "a function"),
    }
    for name, (value, is_right, expected) in right.items():
        if not is_right:
            raise OptionError(f"{name}: expected {expected}, found {shorten(repr(value))}")
