"""ModelKit: one loaded checkpoint, and everything a caller does with it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import mlx.core as mx

from mlx_qwen35.answers.grammars import ThinkingBudget
from mlx_qwen35.answers.results import GenerationChunk, GenerationResult
from mlx_qwen35.answers.sampling import (
    LogitsProcessor,
    Sampler,
    SamplingOptions,
    check_function,
    check_functions,
    default_max_tokens,
    options_from,
    whole_number,
)
from mlx_qwen35.answers.text import check_stop
from mlx_qwen35.errors import GenerationCancelled, OptionError, PromptError
from mlx_qwen35.patches.operations import choose_operations
from mlx_qwen35.prompts.builder import FramesCallback, Messages, PromptBuilder, ask
from mlx_qwen35.prompts.making import RENDERING, PromptMaking
from mlx_qwen35.prompts.prompt import Prompt, common_length
from mlx_qwen35.runtime.loading import Loaded, LoadOptions, load
from mlx_qwen35.runtime.memory import Plan
from mlx_qwen35.runtime.request import Request
from mlx_qwen35.runtime.sessions import SessionFiles
from mlx_qwen35.runtime.stream import stream
from mlx_qwen35.runtime.teacher_forcing import score
from mlx_qwen35.vision import IMAGE_CACHE_BYTES

ProgressCallback = Callable[[int, int], bool | None]

MAX_TOKENS = 4096


class ModelKit(PromptMaking, SessionFiles):
    """A Qwen3.5 checkpoint that answers prompts of text, images and videos with one set of weights.

    Made by `ModelKit.load`. Any thread may call it; the work runs on one thread that the kit
    owns, and requests that are streamed at the same time take turns.
    """

    def __init__(self, loaded: Loaded, *, max_pixels: int | None = None, max_context: int | None = None) -> None:
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
        speculate: str = "off",
        draft_tokens: int | None = None,
        mtp_path: str | Path | None = None,
    ) -> Self:
        """Load a checkpoint directory or a hub repository.

        Args:
            adapter_path: An adapter made by mlx_lm.lora, mlx-vlm or peft.
            revision: Branch, tag or commit of a hub repository.
            max_pixels: At most this many pixels per image after resizing, unless a prompt says
                otherwise; None for the checkpoint's own limit.
            prompt_cache_bytes: At most this much memory for what was read before, so that it need not be
                read again; None for an eighth of the machine's, 0 for none.
            prompt_cache_dir: Conversations that memory has no room for are kept here, at most ten times as
                many bytes, until the kit is closed; None forgets them.
            image_cache_bytes: At most this much memory for the embeddings of images and videos that were encoded,
                and as much again for the pixels of either.
            max_context: At most this many tokens in a prompt and its answer, for which there has to be room;
                None for what the model was trained on.
            memory_limit: At most this many bytes for weights, caches and everything that comes and goes; None
                for what the system recommends for the GPU, or else the machine's memory. Prompts are read in
                smaller steps where that is needed to stay below it.
            exact: Text is bit-identical to mlx-lm. Otherwise decode steps are compiled, and prompts are read
                another way where mlx-lm has no kernel; the difference is in the last digits.
            gated_delta: How GDN layers read a prompt: "native" (mlx-lm's way), "chunked" (matrix products),
                "fast" (MLX's built-in function); None for native on Metal, chunked elsewhere.
            speculate: How tokens are guessed ahead, which changes no answer: by the checkpoint's "mtp" module, by
                "lookup" in prompt and answer, "auto" by both as far as it pays, "off".
            draft_tokens: So many at once, at most 7; None for 3 with "mtp", else 7.
            mtp_path: File, directory or hub id of the MTP head, in place of the checkpoint's own.
        Raises:
            OptionError: An option is not what it may be.
            CheckpointError: It is not there, is damaged, or does not fit its config.json.
            InsufficientMemoryError: The weights, or a sequence of max_context, do not fit; before they are read.
            VersionError: mlx-lm or mlx-vlm is outside the tested range.
            SessionError: prompt_cache_dir cannot be written.
        """
        options = LoadOptions(
            path_or_hub_id, adapter_path=adapter_path, revision=revision, max_pixels=max_pixels,
            prompt_cache_bytes=prompt_cache_bytes, prompt_cache_dir=prompt_cache_dir,
            image_cache_bytes=image_cache_bytes, max_context=max_context, memory_limit=memory_limit, exact=exact,
            gated_delta=gated_delta, speculate=speculate, draft_tokens=draft_tokens, mtp_path=mtp_path,
        )  # fmt: skip
        return cls(load(options), max_pixels=max_pixels, max_context=max_context)

    def logits(self, prompt: Prompt, *, prefill_step_size: int | None = None) -> mx.array:
        """Teacher-forced logits of every position, shape (S, vocab_size), float32.

        Args:
            prefill_step_size: Tokens per chunk; None reads the prompt in one piece.
        Raises:
            PromptError, ContextLengthError: It is no prompt, or longer than the model's context.
            InsufficientMemoryError: There is no room for it.
        """
        self._prompts.check(prompt, 0, self.context_length)
        if prefill_step_size is not None:
            whole_number("prefill_step_size", prefill_step_size, 1)
        return score(self._loaded, prompt, prefill_step_size or len(prompt.input_ids))

    def stream(
        self,
        prompt: Prompt | Messages | str | Sequence[int],
        *,
        on_progress: ProgressCallback | None = None,
        on_frames: FramesCallback | None = None,
        **options: Any,
    ) -> Iterator[GenerationChunk]:
        """Generate an answer, token by token. Bad options are refused by the call itself.

        Args:
            prompt, options: See `request`.
            on_progress: Called in the caller's thread with the prompt tokens read and their total;
                returning False cancels.
            on_frames: The same with the frames of videos that are encoded before that, if any have to be.
        Raises:
            OptionError, ContextLengthError, PromptError, MediaError, InsufficientMemoryError: Before any work.
            GenerationCancelled: `on_progress` or `on_frames` returned False.
        """
        return self._consume(self.request(prompt, **options), on_progress, on_frames)

    def request(
        self,
        prompt: Prompt | Messages | str | Sequence[int],
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: bool = False,
        top_logprobs: int = 0,
        prefill_step_size: int | None = None,
        cache_prompt: bool = True,
        thinking_budget: int | None = None,
        continue_final_message: bool = False,
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
            logprobs, top_logprobs: Give each token's log probability, and so many most likely tokens in its place.
            prefill_step_size: Tokens of the prompt that are read at once, fewer where memory asks for it;
                None for 2048, on the CPU 512.
            cache_prompt: Begin where an earlier prompt was the same, and let later ones do so; False reads
                everything, and remembers nothing.
            thinking_budget: At most this many tokens of reasoning; None for what the prompt's effort says.
            continue_final_message: Go on with the last of the messages, the assistant's, where its text ends.
            sampler: Chooses tokens (1,) from log probabilities (1, V), on the kit's thread, in place of
                temperature, top_p, top_k and min_p; as in mlx-lm.
            logits_processors: Change logits (1, V) before a token is chosen, given the tokens (L,) before it: the
                prompt's last one and the answer so far; as in mlx-lm.
            sampling: See `SamplingOptions`; what is not given comes from generation_config.json.
        Raises:
            OptionError, ContextLengthError, PromptError, MediaError, InsufficientMemoryError: It cannot be.
        """
        started = time.perf_counter()
        ready = self._ready(prompt, continue_final_message)
        self._prompts.check(ready, 1, self.context_length)
        vocab_size = self.config.text.vocab_size
        options = options_from(self.checkpoint.generation_config, sampling)
        options.check_vocabulary(vocab_size)
        plan = self._plan(ready, self._most_tokens(max_tokens), _step_size(prefill_step_size))
        return Request(
            prompt=ready,
            options=options,
            max_tokens=plan.tokens - len(ready.input_ids),
            prefill_step_size=plan.step_size,
            stop=check_stop(stop),
            logprobs=logprobs,
            top_logprobs=whole_number("top_logprobs", top_logprobs, 0, vocab_size - 1),
            started=started,
            cache_prompt=bool(cache_prompt),
            sampler=check_function("sampler", sampler) if sampler is not None else None,
            thinking_budget=self._thinking_budget(ready, thinking_budget),
            processors=check_functions("logits_processors", logits_processors),
            unseen=self.vision.unseen_patches(ready),
        )

    def generate(self, prompt: Prompt | Messages | str | Sequence[int], **options: Any) -> GenerationResult:
        """The whole answer at once; arguments and errors as in `request`.

        A string is completed as it is: without the chat template the model knows no question in it. See `chat`.
        """
        return GenerationResult.from_chunks(list(self.stream(prompt, **options)))

    def chat(
        self, question: str | Messages, *, images: Any = None, videos: Any = None, **options: Any
    ) -> GenerationResult:
        """The answer to a question, or to a whole conversation, through the chat template.

        Args:
            question: What the user says; or messages, as for `process_prompt`.
            images, videos: What stands before the question, images first; for messages see `process_prompt`.
            options: Those of `process_prompt` and of `request`.
        Raises:
            See `request`.
        """
        messages = ask(question, images, videos) if isinstance(question, str) else question
        rendering = {name: options.pop(name) for name in RENDERING & options.keys()}
        if "on_frames" in rendering:
            options["on_frames"] = rendering["on_frames"]
        return self.generate(self.process_prompt(messages, images=images, videos=videos, **rendering), **options)

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
    ) -> Iterator[GenerationChunk]:
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

    def _plan(self, prompt: Prompt, new_tokens: int, step_size: int) -> Plan:
        """How a prompt and its answer fit into the context and into memory.

        Raises:
            InsufficientMemoryError: They do not.
        """
        length, unseen = len(prompt.input_ids), self.vision.unseen_patches(prompt)
        new_tokens = min(new_tokens, self.context_length - length)
        kept = self.vision.features.nbytes + self.guard.embeddings(sum(unseen))
        return self.guard.plan(length, new_tokens, step_size, max(unseen, default=0), kept)

    def _most_tokens(self, given: int | None) -> int:
        if given is None:
            return default_max_tokens(self.checkpoint.generation_config) or MAX_TOKENS
        return whole_number("max_tokens", given, 1)

    def _thinking_budget(self, prompt: Prompt, given: int | None) -> ThinkingBudget | None:
        budget = prompt.thinking_budget if given is None else whole_number("thinking_budget", given, 0)
        if budget is None or not prompt.in_reasoning:
            return None
        return ThinkingBudget(self.tokenizer, budget, in_reasoning=True)


def _step_size(given: int | None) -> int:
    """Tokens of a prompt that are read at once, by default as many as suit the device."""
    return choose_operations().prefill_step_size if given is None else whole_number("prefill_step_size", given, 1)
