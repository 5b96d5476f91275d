"""ModelKit: one loaded checkpoint, and everything a caller does with it."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import mlx.core as mx
import numpy as np
from mlx_lm.utils import maybe_set_recommended_wired_limit

from mlx_qwen35.answers.results import GenerationChunk, GenerationResult
from mlx_qwen35.answers.sampling import LogitsProcessor, Sampler, default_max_tokens, options_from, whole_number
from mlx_qwen35.answers.text import check_stop
from mlx_qwen35.checkpoints.build import materialise
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.hub import find_checkpoint
from mlx_qwen35.errors import (
    CheckpointError,
    ContextLengthError,
    GenerationCancelled,
    KitClosedError,
    OptionError,
    PromptError,
    PromptMismatchError,
    SessionError,
)
from mlx_qwen35.patches.cpu import on_cpu
from mlx_qwen35.patches.gated_delta_net import choose_gated_delta
from mlx_qwen35.patches.qwen3_5 import Model
from mlx_qwen35.patches.versions import check_versions
from mlx_qwen35.paths import expand, shorten
from mlx_qwen35.prompts.images import check_max_pixels
from mlx_qwen35.prompts.messages import fill_sources, render_messages
from mlx_qwen35.prompts.prompt import Prompt, begins_in_reasoning, find_branch_points
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.runtime.generate import Request, answer, read, remembered, teacher_forced
from mlx_qwen35.runtime.memory import SMALLEST_STEP, MemoryGuard, Plan, default_limit, machine_memory
from mlx_qwen35.runtime.thread import MlxThread
from mlx_qwen35.state.prefix_cache import PromptCache
from mlx_qwen35.vision import IMAGE_CACHE_BYTES, VisionAddOn, make_vision_add_on

Messages = Sequence[Mapping[str, Any]]
ProgressCallback = Callable[[int, int], bool | None]

# Long steps keep a GPU busy; a CPU only spends memory on them.
PREFILL_STEP_SIZE = 512 if on_cpu() else 2048
MAX_TOKENS = 4096


class ModelKit:
    """A Qwen3.5 checkpoint that answers text and image prompts with one set of weights.

    Made by `ModelKit.load`. Any thread may call it; the work runs on one thread that the kit
    owns, and requests that are streamed at the same time take turns.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Any,
        tokenizer: Tokenizer,
        thread: MlxThread,
        vision: VisionAddOn,
        prompt_cache: PromptCache,
        guard: MemoryGuard,
        max_pixels: int | None,
        max_context: int | None,
    ) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.model = model
        self.tokenizer = tokenizer
        self.vision = vision
        self.prompt_cache = prompt_cache
        self._thread = thread
        self.guard = guard
        self.context_length = max_context or self.config.text.context_length
        self._max_pixels = max_pixels

    @classmethod
    def load(
        cls,
        path_or_hub_id: str | Path,
        *,
        adapter_path: str | Path | None = None,
        revision: str | None = None,
        max_pixels: int | None = None,
        prompt_cache_bytes: int | None = None,
        prompt_cache_dir: str | Path | None = None,
        image_cache_bytes: int = IMAGE_CACHE_BYTES,
        max_context: int | None = None,
        memory_limit: int | None = None,
        exact: bool = False,
        gated_delta: str | None = None,
    ) -> Self:
        """Load a checkpoint directory or a hub repository.

        Args:
            adapter_path: A LoRA adapter made by mlx_lm.lora.
            revision: Branch, tag or commit of a hub repository.
            max_pixels: At most this many pixels per image after resizing, unless a prompt says
                otherwise; None for the checkpoint's own limit.
            prompt_cache_bytes: At most this much memory for what was read before, so that it need not be
                read again; None for an eighth of the machine's, 0 for none.
            prompt_cache_dir: Conversations that memory has no room for are kept here, at most ten times as
                many bytes, until the kit is closed; None forgets them.
            image_cache_bytes: At most this much memory for the embeddings of images that were encoded, and
                as much again for their pixels.
            max_context: At most this many tokens in a prompt and its answer, for which there has to be room;
                None for what the model was trained on.
            memory_limit: At most this many bytes for weights, caches and everything that comes and goes; None
                for what the system recommends for the GPU, or else the machine's memory. Prompts are read in
                smaller steps where that is needed to stay below it.
            exact: Text is bit-identical to mlx-lm. Otherwise decode steps are compiled, and prompts are read
                another way where mlx-lm has no kernel; the difference is in the last digits.
            gated_delta: How GDN layers read a prompt: "native" (mlx-lm's way), "chunked" (matrix products),
                "fast" (MLX's built-in function); None for native on Metal, chunked elsewhere.
        Raises:
            OptionError: An option is not what it may be.
            CheckpointError: It is not there, is damaged, or does not fit its config.json.
            InsufficientMemoryError: The weights, or a sequence of max_context, do not fit; before they are read.
            VersionError: mlx-lm or mlx-vlm is outside the tested range.
            SessionError: prompt_cache_dir cannot be written.
        """
        check_versions()
        check_max_pixels(max_pixels)
        way = choose_gated_delta(gated_delta, exact=exact)
        if prompt_cache_bytes is None:
            prompt_cache_bytes = machine_memory() // 8
        budget = whole_number("prompt_cache_bytes", prompt_cache_bytes, 0)
        image_cache = whole_number("image_cache_bytes", image_cache_bytes, 0)
        limit = default_limit() if memory_limit is None else whole_number("memory_limit", memory_limit, 1)
        overflow = None if prompt_cache_dir is None else expand(prompt_cache_dir, OptionError, "prompt_cache_dir")
        checkpoint = Checkpoint.open(find_checkpoint(path_or_hub_id, revision=revision))
        try:
            options_from(checkpoint.generation_config, {})
            default_max_tokens(checkpoint.generation_config)
        except OptionError as error:
            raise CheckpointError(f"{checkpoint.directory / 'generation_config.json'}: {error}") from error
        context = checkpoint.config.text.context_length
        if max_context is not None and whole_number("max_context", max_context, 1) > context:
            raise OptionError(f"max_context: expected at most {context} (the model's context), found {max_context}")
        guard = MemoryGuard.of(checkpoint.config, checkpoint.weight_files(), limit)
        if max_context is not None:
            guard.step_size(SMALLEST_STEP, max_context, place="max_context")
        tokenizer = Tokenizer(checkpoint.directory, checkpoint.eos_token_ids)
        thread = MlxThread()
        try:
            thread.call(maybe_set_recommended_wired_limit)
            model = thread.call(
                Model.from_checkpoint, checkpoint, adapter_path=adapter_path, exact=exact, gated_delta=way
            )
            for _ in thread.iterate(lambda: materialise(model, checkpoint.directory)):
                pass
            prompt_cache = PromptCache(
                model.make_cache,
                budget,
                directory=overflow,
                fingerprint=checkpoint.fingerprint(adapter_path),
            )
            vision = make_vision_add_on(checkpoint.config, model.vision_tower, checkpoint.directory, image_cache)
            return cls(checkpoint, model, tokenizer, thread, vision, prompt_cache, guard, max_pixels, max_context)
        except BaseException:
            thread.close()
            raise

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text: control tokens in it are spelled out."""
        return self.tokenizer.encode_text(text)

    def process_prompt(
        self,
        prompt: Messages | str | Sequence[int],
        *,
        images: Sequence[Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        max_pixels: int | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """Turn a request into token ids, pixels and positions.

        Args:
            prompt: Messages in OpenAI's form; or a finished string, in which control tokens count;
                or token ids with one placeholder per image or expanded runs.
            images: Images in prompt order, for a string, for ids, or for image parts without a source.
            tools: Function descriptions, for messages.
            enable_thinking: Whether the answer begins with reasoning, for messages; None leaves
                it to the checkpoint's template.
            max_pixels: Pixel budget of each image of this prompt.
            add_generation_prompt, chat_template_kwargs: See `render_messages`.
        Returns:
            A prompt that can be run any number of times.
        Raises:
            PromptError: The prompt is malformed, or its placeholders do not fit the images.
            MediaError: An image cannot be read, or the checkpoint cannot see.
        """
        self.vision.clear_prediction_state()
        images = _as_list(images)
        sources, places = images, [f"images[{index}]" for index in range(len(images))]
        if isinstance(prompt, Mapping):
            raise PromptError("prompt: expected a list of messages, found a single message")
        items = [] if isinstance(prompt, str) else _as_sequence(prompt)
        if items and isinstance(items[0], Mapping):
            rendered = render_messages(
                self.tokenizer,
                items,
                tools=tools,
                enable_thinking=enable_thinking,
                add_generation_prompt=add_generation_prompt,
                chat_template_kwargs=chat_template_kwargs,
            )
            input_ids = rendered.input_ids
            sources, places = fill_sources(rendered.sources, rendered.places, images), rendered.places
        else:
            for name, value in (("tools", tools), ("enable_thinking", enable_thinking)):
                if value is not None:
                    raise OptionError(f"{name}: expected only with messages, found with a finished prompt")
            input_ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else self._checked_ids(items)
        if not input_ids:
            raise PromptError("prompt: expected at least one token, found none")
        for place in places:
            self.vision.require(place)
        budget = check_max_pixels(max_pixels) if max_pixels is not None else self._max_pixels
        prepared = tuple(
            self.vision.prepare_image(source, max_pixels=budget, place=place)
            for source, place in zip(sources, places, strict=True)
        )
        self._refuse_unmatched(input_ids)
        expanded, layout = self.vision.prepare_prompt(input_ids, prepared)
        branch_points, turn = find_branch_points(expanded, layout, self.tokenizer)
        return Prompt(
            input_ids=np.array(expanded, dtype=np.int32),
            layout=layout,
            images=prepared,
            in_reasoning=begins_in_reasoning(expanded, self.tokenizer),
            branch_points=branch_points,
            turn=turn,
        )

    def logits(self, prompt: Prompt, *, prefill_step_size: int | None = None) -> mx.array:
        """Teacher-forced logits of every position, shape (S, vocab_size), float32.

        Args:
            prefill_step_size: Tokens per chunk; None reads the prompt in one piece.
        Raises:
            ContextLengthError: The prompt is longer than the model's context.
        """
        self._check_length(prompt, 0)
        length = len(prompt.input_ids)
        step = length if prefill_step_size is None else whole_number("prefill_step_size", prefill_step_size, 1)

        def run() -> mx.array:
            cache = self.vision.fill(self.model.make_cache(), prompt)
            return teacher_forced(self.model, prompt.input_ids, cache, step)

        return self._thread.call(run)

    def stream(
        self,
        prompt: Prompt | Messages | str | Sequence[int],
        *,
        on_progress: ProgressCallback | None = None,
        **options: Any,
    ) -> Iterator[GenerationChunk]:
        """Generate an answer, token by token. Bad options are refused by the call itself.

        Args:
            prompt, options: See `request`.
            on_progress: Called in the caller's thread with the prompt tokens read and their total;
                returning False cancels.
        Raises:
            OptionError, ContextLengthError, PromptError, MediaError, InsufficientMemoryError: Before any work.
            GenerationCancelled: `on_progress` returned False.
        """
        return self._consume(self.request(prompt, **options), on_progress)

    def request(
        self,
        prompt: Prompt | Messages | str | Sequence[int],
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: bool = False,
        top_logprobs: int = 0,
        prefill_step_size: int = PREFILL_STEP_SIZE,
        cache_prompt: bool = True,
        sampler: Sampler | None = None,
        logits_processors: Sequence[LogitsProcessor] = (),
        **sampling: Any,
    ) -> Request:
        """Check an answer that is wanted, before any work, for `stream` or an `Engine` to write it.

        Args:
            prompt: From `process_prompt`, or anything that it takes.
            max_tokens: At most this many tokens; None for the checkpoint's own limit, or else 4096. It
                never exceeds what the context, or memory, holds.
            stop: Strings that end the answer.
            logprobs: Give each token's log probability.
            top_logprobs: Give this many most likely tokens at each position.
            prefill_step_size: Tokens of the prompt that are read at once, fewer where memory asks for it;
                if not given, 2048, on the CPU 512.
            cache_prompt: Begin where an earlier prompt was the same, and let later ones do so; False reads
                everything, and remembers nothing.
            sampler: Chooses tokens (1,) from log probabilities (1, V), on the kit's thread, in place of
                temperature, top_p, top_k and min_p; as in mlx-lm.
            logits_processors: Change logits (1, V) before a token is chosen, given the tokens (L,) before it: the
                prompt's last one and the answer so far; as in mlx-lm.
            sampling: See `SamplingOptions`; what is not given comes from generation_config.json.
        Raises:
            OptionError, ContextLengthError, PromptError, MediaError, InsufficientMemoryError: It cannot be.
        """
        started = time.perf_counter()
        ready = prompt if isinstance(prompt, Prompt) else self.process_prompt(prompt)
        options = options_from(self.checkpoint.generation_config, sampling)
        vocab_size = self.config.text.vocab_size
        options.check_vocabulary(vocab_size)
        room = self._check_length(ready, 1)
        if max_tokens is None:
            max_tokens = default_max_tokens(self.checkpoint.generation_config) or MAX_TOKENS
        max_tokens = min(whole_number("max_tokens", max_tokens, 1), room)
        plan = self._plan(ready, max_tokens, whole_number("prefill_step_size", prefill_step_size, 1))
        if not 0 <= whole_number("top_logprobs", top_logprobs, 0) < vocab_size:
            raise OptionError(f"top_logprobs: expected 0 to {vocab_size - 1}, found {top_logprobs}")
        return Request(
            prompt=ready,
            options=options,
            max_tokens=plan.tokens - len(ready.input_ids),
            prefill_step_size=plan.step_size,
            stop=check_stop(stop),
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            started=started,
            cache_prompt=bool(cache_prompt),
            cache_room=plan.room,
            sampler=sampler,
            processors=tuple(logits_processors),
        )

    def generate(self, prompt: Prompt | Messages | str | Sequence[int], **options: Any) -> GenerationResult:
        """The whole answer at once; arguments and errors as in `request`."""
        return GenerationResult.from_chunks(list(self.stream(prompt, **options)))

    def prefill_ahead(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        prefill_step_size: int = PREFILL_STEP_SIZE,
        on_progress: ProgressCallback | None = None,
    ) -> int:
        """Read what every next question will begin with, while the user is still typing it.

        Args:
            messages: The conversation so far, the last answer included.
            tools, enable_thinking, chat_template_kwargs: As the next prompt will have them.
            prefill_step_size, on_progress: See `stream`.
        Returns:
            Tokens that the next prompt will not have to read; 0 after a call of a tool, whose result is no question.
        Raises:
            PromptError, MediaError, OptionError: As in `process_prompt`.
            GenerationCancelled: `on_progress` returned False; what was read until then is kept.
        """
        step_size = whole_number("prefill_step_size", prefill_step_size, 1)
        if messages and isinstance(messages[-1], Mapping) and messages[-1].get("tool_calls"):
            return 0
        settings: dict[str, Any] = {
            "tools": tools, "enable_thinking": enable_thinking, "chat_template_kwargs": chat_template_kwargs
        }  # fmt: skip
        # What the template writes before the question itself, whatever that will be.
        one, other = (
            self.process_prompt([*messages, {"role": "user", "content": question}], **settings) for question in "?!"
        )
        length = min(len(one.input_ids), len(other.input_ids))
        different = np.flatnonzero(one.input_ids[:length] != other.input_ids[:length])
        known = int(different[0]) if len(different) else length
        stop = max((point for point in one.branch_points if point <= known), default=0)
        self._check_length(one, 0)
        if not self.prompt_cache.budget or not stop:
            return 0
        step_size = self._plan(one, 0, step_size).step_size

        def steps() -> Generator[int, None, None]:
            reading = self.prompt_cache.begin(one)
            if reading.start < stop:
                yield from remembered(
                    self.prompt_cache, reading, read(self.model, self.vision, reading, step_size, stop)
                )

        for processed in self._thread.iterate(steps):
            if on_progress is not None and on_progress(processed, stop) is False:
                raise GenerationCancelled(f"cancelled after {processed} of {stop} prompt tokens")
        return stop

    def save_session(self, path: str | Path, prompt: Prompt | None = None) -> int:
        """Write what was read of a conversation to a file, so that another process need not read it again.

        Args:
            prompt: A prompt of the conversation; None for the one that was used last.
        Returns:
            The number of tokens it holds.
        Raises:
            SessionError: Nothing of it was read, or the file cannot be written.
        """
        target = expand(path, SessionError, "session")
        return self._thread.call(self.prompt_cache.save, target, prompt)

    def load_session(self, path: str | Path) -> int:
        """Take up what `save_session` wrote; later prompts begin where it left off, to the bit.

        Returns:
            The number of tokens it holds.
        Raises:
            SessionError: The file is of another model or version, cut short, damaged, or larger than the
                prompt cache may be. Nothing has changed then.
        """
        return self._thread.call(self.prompt_cache.load, expand(path, SessionError, "session"))

    def close(self) -> None:
        """Release the thread and everything that was read; the kit cannot be used afterwards."""
        with suppress(KitClosedError):
            self._thread.call(self.prompt_cache.close)
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _consume(self, request: Request, on_progress: ProgressCallback | None) -> Iterator[GenerationChunk]:
        for item in self._thread.iterate(
            lambda: answer(self.model, self.vision, self.tokenizer, self.prompt_cache, request)
        ):
            if isinstance(item, GenerationChunk):
                yield item
            elif on_progress is not None and on_progress(item.processed, item.total) is False:
                raise GenerationCancelled(f"cancelled after {item.processed} of {item.total} prompt tokens")

    def _check_length(self, prompt: Prompt, new_tokens: int) -> int:
        """Tokens that may follow the prompt."""
        limit = self.context_length
        if len(prompt.input_ids) + new_tokens > limit:
            whose = "the model's context" if limit == self.config.text.context_length else "max_context"
            raise ContextLengthError(
                f"prompt: expected at most {limit - new_tokens} tokens ({whose}), found {len(prompt.input_ids)}"
            )
        return limit - len(prompt.input_ids)

    def _plan(self, prompt: Prompt, new_tokens: int, step_size: int) -> Plan:
        """How a prompt and its answer fit into memory.

        Raises:
            InsufficientMemoryError: They do not.
        """
        unseen = [image for image in prompt.images if not self.vision.has_seen(image)]
        patches = max((math.prod(image.grid_thw) for image in unseen), default=0)
        return self.guard.plan(len(prompt.input_ids), new_tokens, step_size, patches, self.vision.features.nbytes)

    def _checked_ids(self, ids: Sequence[Any]) -> list[int]:
        vocab_size = self.config.text.vocab_size
        for index, token in enumerate(ids):
            whole = isinstance(token, Integral) and not isinstance(token, bool)
            if not whole or not 0 <= token < vocab_size:
                raise PromptError(
                    f"prompt[{index}]: expected a token id below {vocab_size}, found {shorten(repr(token))}"
                )
        return [int(token) for token in ids]

    def _refuse_unmatched(self, input_ids: Sequence[int]) -> None:
        """Media placeholders that nothing will ever stand behind."""
        tokens = self.config.media_tokens
        kinds = [(tokens.video_token_id if tokens else self.tokenizer.control_id("<|video_pad|>"), "a video")]
        if tokens is None:
            kinds.append((self.tokenizer.control_id("<|image_pad|>"), "an image"))
        for token, kind in kinds:
            if token is not None and token in input_ids:
                raise PromptMismatchError(
                    f"prompt token {input_ids.index(token)}: expected no placeholder for {kind}, found one; "
                    f"{'video is not supported' if kind == 'a video' else 'this checkpoint has no vision'}"
                )


def _as_list(images: Any) -> list[Any]:
    """Images as callers pass them: none, one, or several in any iterable."""
    if images is None:
        return []
    if isinstance(images, (str, bytes, bytearray, Path)) or not isinstance(images, Iterable):
        return [images]
    return list(images)


def _as_sequence(prompt: Any) -> list[Any]:
    if isinstance(prompt, (bytes, bytearray)) or not isinstance(prompt, Iterable):
        raise PromptError(f"prompt: expected messages, a string or token ids, found {type(prompt).__name__}")
    return list(prompt)
