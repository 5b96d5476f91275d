"""A request: what was asked for, and where it stands."""

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING

from mlx_qwen35.answers.results import GenerationChunk, PrefillProgress
from mlx_qwen35.prompts.prompt import Prompt

if TYPE_CHECKING:
    from mlx_qwen35.answers.constraints import MinTokens, ThinkingBudget
    from mlx_qwen35.answers.sampling import LogitsProcessor, Sampler, SamplingOptions

# Progress and chunks, up to the chunk with a finish reason, or to the end of what is only read; or the error that
# ended the request.
Event = PrefillProgress | GenerationChunk | BaseException

_ids = count(1)


@dataclass(frozen=True)
class Request:
    """Everything that a caller asked for, checked; may be run any number of times.

    Args:
        prompt: Token ids, media and positions.
        options: Sampling, penalties, bias and seed.
        max_tokens: Of the answer, at most; 0 only reads the prompt.
        prefill_step_size: Tokens of the prompt that are read at once, at most.
        min_tokens: Keeps the answer from ending before it has so many.
        stop: Strings that end the answer; they are not part of it.
        stop_token_ids: Tokens that do, beside those of the sequence's end.
        logprobs: Give each token's log probability.
        top_logprobs: Give so many most likely tokens at each position.
        prompt_logprobs: Give the log probabilities of the prompt's tokens, and so many of the likeliest in the place of
            each; None for none.
        started: `time.perf_counter()` when the caller asked.
        cache_prompt: Begin where an earlier prompt was the same, and keep what is read for later ones.
        sampler: Chooses tokens in place of `options`; see `ModelKit.request`.
        thinking_budget: Ends the reasoning; each run of the request begins with a fresh copy.
        processors: Change logits before a token is chosen; see `ModelKit.request`.
        read_to: Read only so many tokens of the prompt, and write nothing; None reads the prompt and answers it.
        unseen: Patches of each piece of media that had not been encoded when the request was made.
    """

    prompt: Prompt
    options: "SamplingOptions"
    max_tokens: int
    prefill_step_size: int
    min_tokens: "MinTokens | None" = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: int | None = None
    started: float = 0.0
    cache_prompt: bool = True
    sampler: "Sampler | None" = None
    thinking_budget: "ThinkingBudget | None" = None
    processors: "tuple[LogitsProcessor, ...]" = ()
    read_to: int | None = None
    unseen: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Prompt and answer together, at most."""
        return len(self.prompt.input_ids) + self.max_tokens if self.read_to is None else self.read_to

    @property
    def stop_reading(self) -> int:
        """Tokens that are read before the first one is written; the prompt's last token gives it."""
        return len(self.prompt.input_ids) - 1 if self.read_to is None else self.read_to

    def make_sampler(self) -> "Sampler":
        """The caller's, or that of the options."""
        return self.sampler or self.options.sampler()

    def make_processors(self) -> "list[LogitsProcessor]":
        """Of the options, the thinking budget, then the caller's; their history begins with the prompt's last token.

        What keeps the answer from ending comes last, as it yields to what a grammar leaves.
        """
        budget = [] if self.thinking_budget is None else [copy.copy(self.thinking_budget)]
        longer = [] if self.min_tokens is None else [self.min_tokens]
        return [*self.options.logits_processors(prompt_tokens=1), *budget, *self.processors, *longer]


class Status(Enum):
    """Where a request stands."""

    WAITING = "waiting"
    READING = "reading"
    WRITING = "writing"
    DONE = "done"


@dataclass(frozen=True, eq=False)
class Pool:
    """Requests that are answered together, as the rows of one batch.

    Args:
        max_rows: So many of them run at the same time.
        prefill_step_size: Tokens of a prompt that are read at once, at most: meanwhile the others wait.
    """

    max_rows: int
    prefill_step_size: int


@dataclass(eq=False)
class Job:
    """One request on its way; plain numbers, so that a scheduler needs no model.

    Args:
        sink: Called with every event, on the thread that owns MLX; has to return at once.
        pool: Requests it shares forward passes with; None for a request that always runs alone.
        granted: Events that the caller wants so far; None for all of them as soon as they are there.
        deadline: On `time.monotonic`'s clock; None for none.

    What is known while it is WAITING:
        admitted: Memory is set aside for it.
        restoring: What was read before is being fetched from disk.
        stalled_since: When it was found that only callers who do not go on could give memory back.
    While it is READING:
        cached: Tokens that had been read before.
        position: Tokens read.
        pieces: Indices of what is to be encoded first; see `Prompt.pieces`.
        frames_seen, frames: Frames of videos that are encoded, and how many there are; 0 if nothing is to be encoded.
        stops: Numbers of tokens after which reading pauses, so that a snapshot can be taken.
        turn: Tokens read since its turn came.
    Beside:
        delivered: Events handed over.
        cancelled: The caller wants no more.
        snapshot_bytes: Held by snapshots that were taken on the way.
        on_done: Called before the last event, on the thread that owns MLX.
        done: Set after the last event.
    """

    request: Request
    sink: Callable[[Event], None]
    pool: Pool | None = None
    granted: int | None = None
    deadline: float | None = None
    id: int = field(default_factory=lambda: next(_ids))
    status: Status = Status.WAITING
    admitted: bool = False
    restoring: bool = False
    stalled_since: float | None = None
    cached: int = 0
    position: int = 0
    pieces: tuple[int, ...] = ()
    frames_seen: int = 0
    frames: int = 0
    stops: tuple[int, ...] = ()
    turn: int = 0
    delivered: int = 0
    cancelled: bool = False
    snapshot_bytes: int = 0
    on_done: Callable[[], object] = field(default=lambda: None, repr=False)
    done: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def wanted(self) -> bool:
        """Whether the caller waits for another event."""
        return self.granted is None or self.granted > self.delivered

    @property
    def step_size(self) -> int:
        """Tokens of the prompt that are read at once, at most."""
        own = self.request.prefill_step_size
        return own if self.pool is None else min(own, self.pool.prefill_step_size)

    def reads_with(self, other: "Job") -> bool:
        """Whether a chunk of it may be read in the same forward pass as another one's: both are text, of one pool."""
        if self is other or not self.wanted or self.pieces or self.pool is None or self.pool is not other.pool:
            return False
        return self.request.prompt.layout is None and other.request.prompt.layout is None

    def tell(self, event: Event) -> None:
        """Hand over an event; a sink that fails has nobody behind it any more."""
        self.delivered += 1
        try:
            self.sink(event)
        except BaseException:
            self.cancelled = True

    def finish(self, last: Event) -> None:
        """Hand over the last event."""
        self.on_done()
        self.tell(last)
        self.done.set()
