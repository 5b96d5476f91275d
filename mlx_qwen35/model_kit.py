"""ModelKit: one loaded checkpoint, and everything a caller does with it."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Never, Self, Unpack

import mlx.core as mx

from mlx_qwen35.answers.constraints import MinTokens, ThinkingBudget
from mlx_qwen35.answers.options import GenerationOptions, Sampling, check_names
from mlx_qwen35.answers.results import GenerationChunk, GenerationResult
from mlx_qwen35.answers.sampling import (
    SamplingOptions,
    check_flag,
    check_function,
    check_functions,
    default_max_tokens,
    options_from,
    whole_number,
)
from mlx_qwen35.answers.text import check_stop
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import GenerationCancelled, OptionError, PromptError
from mlx_qwen35.patches.operations import choose_operations
from mlx_qwen35.prompts.builder import FramesCallback, Messages, PromptBuilder, TokenIds, ask
from mlx_qwen35.prompts.making import RENDERING, PromptMaking, PromptOptions
from mlx_qwen35.prompts.prompt import Prompt, common_length
from mlx_qwen35.runtime.loading import Loaded, LoadOptions, load
from mlx_qwen35.runtime.memory import Plan
from mlx_qwen35.runtime.request import Request
from mlx_qwen35.runtime.sessions import SessionFiles
from mlx_qwen35.runtime.stream import AnswerStream, stream
from mlx_qwen35.runtime.teacher_forcing import score
from mlx_qwen35.vision import IMAGE_CACHE_BYTES

ProgressCallback = Callable[[int, int], bool | None]

MAX_TOKENS = 4096


class StreamOptions(GenerationOptions, total=False):
    """Keyword arguments of `ModelKit.stream`, and so of `generate`."""

    on_progress: ProgressCallback | None
    on_frames: FramesCallback | None


class ChatOptions(PromptOptions, StreamOptions, total=False):
    """Keyword arguments of `ModelKit.chat`."""


class ModelKit(PromptMaking, SessionFiles):
    """A Qwen3.5 checkpoint that answers prompts of text, images and videos with one set of weights.

    Made by `ModelKit.load`. Any thread may call it; the work runs on one thread that the kit
    owns, and requests that are streamed at the same time take turns.
    """

    def __init__(
        self, loaded: Loaded, *, max_pixels: int | None = None, max_context: int | None = None, **others: Never
    ) -> None:
        if others or not isinstance(loaded, Loaded):
            named = repr(str(loaded)) if isinstance(loaded, str | Path) else "..."
            raise OptionError(f"ModelKit: expected ModelKit.load({named}), found ModelKit({named})")
        self.checkpoint = loaded.checkpoint
        self.config = loaded.checkpoint.config
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.vision = loaded.vision
        self.prompt_cache = loaded.prefix_cache
        self.guard = loaded.guard
        self.ledger = loaded.ledger
        self.speculation = loaded.speculation
        self.context_length = max_context or self.config.text.context_length
        self._loaded = loaded
        self._thread, self._loop = loaded.thread, loaded.loop
        self._prompts = PromptBuilder(self.config, self.tokenizer, self.vision, max_pixels)

    @classmethod
    def load(
        cls, path_or_hub_id: str | Path = BOX, *, adapter_path: str | Path | None = None, revision: str | None = None,
        chat_template: str | Path | None = None, max_pixels: int | None = None, prompt_cache_bytes: int | None = None,
        prompt_cache_dir: str | Path | None = None, prompt_cache_dir_bytes: int | None = None,
        prompt_cache_write_bytes: int | None = None, image_cache_bytes: int = IMAGE_CACHE_BYTES,
        max_context: int | None = None, memory_limit: int | None = None, exact: bool = False,
        gated_delta: str | None = None, speculate: str = "auto", draft_tokens: int | None = None,
        mtp_path: str | Path | None = None, kv_bits: int | None = None, kv_group_size: int | None = None,
    ) -> Self:  # fmt: skip
        """Load a checkpoint directory or a hub repository; of neither, the small model in the package.

        Args:
            adapter_path: An adapter made by mlx_lm.lora, mlx-vlm or peft.
            revision: Branch, tag or commit of a hub repository.
            chat_template: A Jinja template in place of the checkpoint's own: its file, or its text.
            max_pixels: At most this many pixels per image after resizing, unless a prompt says otherwise; None for the
                checkpoint's own limit.
            prompt_cache_bytes: At most this much memory for what was read before, so that it need not be read again;
                None for an eighth of the machine's, 0 for none.
            prompt_cache_dir: What was read is kept here too, for what memory has no room for, and for later processes
                and others; None forgets it.
            prompt_cache_dir_bytes: At most this much in there, of all models; None for ten times as in memory.
            prompt_cache_write_bytes: At most this much is written there in an hour; None for 8 GB.
            image_cache_bytes: At most this much memory for the embeddings of images and videos that were encoded,
                and as much again for the pixels of either.
            max_context: At most this many tokens in a prompt and its answer, for which there has to be room; None for
                what the model was trained on.
            memory_limit: At most this many bytes for weights, caches and what comes and goes, for which prompts are
                read in smaller steps; None for what the system recommends for the GPU, or the machine's memory.
            exact: Text is bit-identical to mlx-lm. Otherwise decode steps are compiled, and prompts are read another
                way where mlx-lm has no kernel; the difference is in the last digits.
            gated_delta: How GDN layers read a prompt: "native" (mlx-lm's way), "chunked" (matrix products), "fast"
                (MLX's built-in function); None for native on Metal, chunked elsewhere.
            speculate: How tokens are drafted, which changes no answer: by the checkpoint's "mtp" module, by
                "lookup" in prompt and answer, "auto" by both as far as it pays, or "off".
            draft_tokens: So many at once, at most 7; None for 2 with "mtp", else 7. Refused where nothing is drafted.
            mtp_path: File, directory or hub id of the MTP head, in place of the checkpoint's own.
            kv_bits: Bits of each key and value, 8 or 4, which changes answers a little; None for those of the model.
            kv_group_size: So many neighbouring ones share a scale: 32, 64 or 128; None for 64.
        Raises:
            OptionError: An option is not what it may be.
            CheckpointError: It is not there, is damaged, or does not fit its config.json.
            InsufficientMemoryError: The weights, or a sequence of max_context, do not fit; before they are read.
            VersionError: mlx-lm or mlx-vlm is outside the tested range.
            SessionError: prompt_cache_dir cannot be written.
            KitClosedError: This process was forked from one that had loaded a model.
        """
        options = LoadOptions(
            path_or_hub_id, adapter_path=adapter_path, revision=revision, max_pixels=max_pixels,
            prompt_cache_bytes=prompt_cache_bytes, prompt_cache_dir=prompt_cache_dir,
            image_cache_bytes=image_cache_bytes, max_context=max_context, memory_limit=memory_limit, exact=exact,
            gated_delta=gated_delta, speculate=speculate, draft_tokens=draft_tokens, mtp_path=mtp_path,
            kv_bits=kv_bits, kv_group_size=kv_group_size, prompt_cache_dir_bytes=prompt_cache_dir_bytes,
            prompt_cache_write_bytes=prompt_cache_write_bytes, chat_template=chat_template,
        )  # fmt: skip
        return cls(load(options), max_pixels=max_pixels, max_context=max_context)

    def logits(self, prompt: Prompt | Messages | str | TokenIds, *, prefill_step_size: int | None = None) -> mx.array:
        """Teacher-forced logits of every position, shape (S, vocab_size), float32.

        Args:
            prompt: From `process_prompt`, or anything that it takes.
            prefill_step_size: Tokens per chunk; None reads the prompt in one piece.
        Raises:
            PromptError, MediaError, ContextLengthError: It is no prompt, or longer than the model's context.
            InsufficientMemoryError: There is no room for it.
        """
        prompt = self._ready(prompt, False)
        self._prompts.check(prompt, 0, self.context_length)
        if prefill_step_size is not None:
            whole_number("prefill_step_size", prefill_step_size, 1)
        return score(self._loaded, prompt, prefill_step_size or len(prompt.input_ids))

    def stream(
        self,
        prompt: Prompt | Messages | str | TokenIds,
        *,
        on_progress: ProgressCallback | None = None,
        on_frames: FramesCallback | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AnswerStream:
        """Generate an answer, token by token, for `for` and `async for`. Bad options are refused by the call itself.

        Args:
            prompt, options: See `request`.
            on_progress: Called in the caller's thread (of `async for`, in another one) with the prompt tokens read
                and their total; returning False cancels.
            on_frames: The same with the frames of videos that are encoded before that, if any have to be.
        Raises:
            OptionError, ContextLengthError, PromptError, MediaError, InsufficientMemoryError: Before any work.
            GenerationCancelled: `on_progress` or `on_frames` returned False.
        """
        _check_callbacks(on_progress=on_progress, on_frames=on_frames)
        return AnswerStream(self._consume(self.request(prompt, **options), on_progress, on_frames))

    def request(self, prompt: Prompt | Messages | str | TokenIds, **options: Unpack[GenerationOptions]) -> Request:
        """Check an answer that is wanted, before any work, for `stream` or an `Engine` to write it.

        Args:
            prompt: From `process_prompt`, or anything that it takes.
            options: See `GenerationOptions`.
        Raises:
            OptionError, ContextLengthError, PromptError, MediaError, InsufficientMemoryError: It cannot be.
        """
        started = time.perf_counter()
        check_names(options, GenerationOptions)
        ready = self._ready(prompt, options.get("continue_final_message", False))
        self._prompts.check(ready, 1, self.context_length)
        vocab_size = self.config.text.vocab_size
        of_sampling = {name: value for name, value in options.items() if name in Sampling.__annotations__}
        sampling = options_from(self.checkpoint.generation_config, of_sampling)
        sampling.check_vocabulary(vocab_size)
        step_size = _step_size(options.get("prefill_step_size"))
        most_tokens, asked = self._most_tokens(options.get("max_tokens")), options.get("prompt_logprobs")
        scored = None if asked is None else whole_number("prompt_logprobs", asked, 0, vocab_size - 1)
        plan = self._plan(ready, most_tokens, step_size, scored=scored is not None)
        sampler, stop = options.get("sampler"), options.get("stop")
        ends = self._ends(options.get("stop_token_ids", ()))
        return Request(
            prompt=ready,
            options=sampling,
            max_tokens=plan.tokens - len(ready.input_ids),
            prefill_step_size=plan.step_size,
            min_tokens=self._min_tokens(options.get("min_tokens", 0), options.get("max_tokens"), ends),
            stop=check_stop(self.checkpoint.generation_config.get("stop_strings") if stop is None else stop),
            stop_token_ids=ends,
            logprobs=check_flag("logprobs", options.get("logprobs", False)),
            top_logprobs=whole_number("top_logprobs", options.get("top_logprobs", 0), 0, vocab_size - 1),
            prompt_logprobs=scored,
            started=started,
            cache_prompt=check_flag("cache_prompt", options.get("cache_prompt", True)) and scored is None,
            sampler=check_function("sampler", sampler) if sampler is not None else None,
            thinking_budget=self._thinking_budget(ready, options.get("thinking_budget")),
            processors=check_functions("logits_processors", options.get("logits_processors", ())),
            unseen=self.vision.unseen_patches(ready),
        )

    def generate(
        self, prompt: Prompt | Messages | str | TokenIds, **options: Unpack[StreamOptions]
    ) -> GenerationResult:
        """The whole answer at once; arguments and errors as in `stream`.

        A string is completed as it is: without the chat template the model knows no question in it. See `chat`.
        """
        check_names(options, StreamOptions)
        return GenerationResult.from_chunks(list(self.stream(prompt, **options)))

    def chat(
        self, question: str | Messages, *, images: Any = None, videos: Any = None, **options: Unpack[ChatOptions]
    ) -> GenerationResult:
        """The answer to a question, or to a whole conversation, through the chat template.

        Args:
            question: What the user says; or messages, as for `process_prompt`.
            images, videos: What stands before the question, images first; for messages see `process_prompt`.
            options: Those of `process_prompt` and of `stream`.
        Raises:
            See `stream`.
        """
        check_names(options, ChatOptions, "images", "videos")
        messages = ask(question, images, videos) if isinstance(question, str) else question
        rendering: Any = {name: value for name, value in options.items() if name in RENDERING}
        further: Any = {name: value for name, value in options.items() if name not in RENDERING - {"on_frames"}}
        return self.generate(self.process_prompt(messages, images=images, videos=videos, **rendering), **further)

    def prefill_ahead(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        reasoning_effort: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        prefill_step_size: int | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> int:
        """Read what every next question will begin with, while the user is still typing it.

        Args:
            messages: The conversation so far, the last answer included.
            tools, enable_thinking, reasoning_effort, chat_template_kwargs: As the next prompt will have them.
            prefill_step_size, on_progress: See `stream`.
        Returns:
            Tokens that the next prompt will not have to read; 0 after a call of a tool, whose result is no question.
        Raises:
            PromptError, MediaError, OptionError: As in `process_prompt`.
            GenerationCancelled: `on_progress` returned False; what was read until then is kept.
        """
        _check_callbacks(on_progress=on_progress)
        step_size = _step_size(prefill_step_size)
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            raise PromptError(f"messages: expected a list of messages, found {type(messages).__name__}")
        if messages and isinstance(messages[-1], Mapping) and messages[-1].get("tool_calls"):
            return 0
        settings: dict[str, Any] = {
            "tools": tools, "enable_thinking": enable_thinking, "reasoning_effort": reasoning_effort,
            "chat_template_kwargs": chat_template_kwargs,
        }  # fmt: skip
        # What the template writes before the question itself, whatever that will be.
        one, other = (
            self.process_prompt([*messages, {"role": "user", "content": question}], **settings) for question in "?!"
        )
        known = common_length(one.input_ids, other.input_ids)
        stop = max((point for point in one.branch_points if point <= known), default=0)
        self._prompts.check(one, 0, self.context_length)
        if not self.prompt_cache.budget or not stop:
            return 0
        step_size = self._plan(one, 0, step_size).step_size
        request = Request(one, SamplingOptions(), 0, step_size, read_to=stop, unseen=self.vision.unseen_patches(one))
        for _ in self._consume(request, on_progress):
            raise AssertionError("a request that only reads writes nothing")
        return stop

    def close(self) -> None:
        """Release the weights, everything that was read, and the thread; the kit cannot be used afterwards."""
        self.model = None
        self._loaded.close()

    def __repr__(self) -> str:
        sees = "text" if self.vision.unavailable else "text and images"
        kind, layers = self.config.model_type, len(self.config.text.layer_types)
        return f"<ModelKit {self.checkpoint.name}: {kind}, {layers} layers, {sees}, context {self.context_length}>"

    def __reduce__(self) -> Never:
        raise TypeError(f"{self!r} can neither be pickled nor copied: call ModelKit.load in each process")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ready(self, prompt: Any, continue_final_message: bool) -> Prompt:
        if not isinstance(prompt, Prompt):
            return self.process_prompt(prompt, continue_final_message=continue_final_message)
        if continue_final_message:
            raise OptionError("continue_final_message: expected only with messages, found with a finished prompt")
        return prompt

    def _consume(
        self, request: Request, on_progress: ProgressCallback | None, on_frames: FramesCallback | None = None
    ) -> Generator[GenerationChunk]:
        seen = 0
        for item in stream(self._loop, request):
            if isinstance(item, GenerationChunk):
                yield item
                continue
            if on_frames is not None and item.frames_seen > seen:
                seen = item.frames_seen
                if on_frames(seen, item.frames) is False:
                    raise GenerationCancelled(f"cancelled after {seen} of {item.frames} frames")
                continue
            if on_progress is not None and on_progress(item.processed, item.total) is False:
                raise GenerationCancelled(f"cancelled after {item.processed} of {item.total} prompt tokens")

    def _plan(self, prompt: Prompt, new_tokens: int, step_size: int, *, scored: bool = False) -> Plan:
        """How a prompt and its answer fit into the context and into memory.

        Args:
            scored: Whether the prompt's own tokens get log probabilities.
        Raises:
            InsufficientMemoryError: They do not.
        """
        length, unseen = len(prompt.input_ids), self.vision.unseen_patches(prompt)
        new_tokens = min(new_tokens, self.context_length - length)
        kept = self.vision.features.nbytes + self.guard.embeddings(sum(unseen)) + self.guard.scoring * scored
        return self.guard.plan(length, new_tokens, step_size, max(unseen, default=0), kept)

    def _most_tokens(self, given: int | None) -> int:
        if given is None:
            return default_max_tokens(self.checkpoint.generation_config) or MAX_TOKENS
        return whole_number("max_tokens", given, 1)

    def _min_tokens(self, given: int, most: int | None, ends: frozenset[int]) -> MinTokens | None:
        count = whole_number("min_tokens", given, 0, most)
        return MinTokens(count, self.tokenizer.eos_token_ids | ends) if count else None

    def _ends(self, given: Any) -> frozenset[int]:
        if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
            raise OptionError(f"stop_token_ids: expected a list of token ids, found {type(given).__name__}")
        last = self.config.text.vocab_size - 1
        return frozenset(whole_number(f"stop_token_ids[{at}]", token, 0, last) for at, token in enumerate(given))

    def _thinking_budget(self, prompt: Prompt, given: int | None) -> ThinkingBudget | None:
        budget = prompt.thinking_budget if given is None else whole_number("thinking_budget", given, 0)
        if budget is None or not prompt.in_reasoning:
            return None
        return ThinkingBudget(self.tokenizer, budget, in_reasoning=True)


def _check_callbacks(**callbacks: Any) -> None:
    """Whether those that were given can be called: they are when work is done already.

    Raises:
        OptionError: One cannot be.
    """
    for name, callback in callbacks.items():
        if callback is not None:
            check_function(name, callback)


def _step_size(given: int | None) -> int:
    """Tokens of a prompt that are read at once, by default as many as suit the device."""
    return choose_operations().prefill_step_size if given is None else whole_number("prefill_step_size", given, 1)
