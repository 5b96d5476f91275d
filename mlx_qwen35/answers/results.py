"""What a request gives: progress, tokens with their text, and what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from mlx_qwen35.paths import shorten


@dataclass(frozen=True)
class TokenLogprob:
    """One candidate for a position: its id, its text, and its natural log probability."""

    token: int
    text: str
    logprob: float


@dataclass(frozen=True)
class PrefillProgress:
    """How much of the prompt has been read, in tokens, and how many of its frames were looked at before.

    Args:
        frames_seen, frames: Of videos; 0 if nothing has to be encoded.
    """

    processed: int
    total: int
    frames_seen: int = 0
    frames: int = 0


@dataclass(frozen=True)
class GenerationStats:
    """What one request cost.

    Args:
        prompt_tokens, image_tokens: Length of the prompt, and how much of it stands for images.
        cached_tokens: How much of the prompt had been read before, and was not read again.
        images_encoded, images_reused: Images that the vision tower looked at for this request, and others.
        video_tokens, frames_encoded, frames_reused: The same of videos, in frames: two for each pair.
        completion_tokens: Generated tokens, the end-of-sequence token included.
        prompt_tps, generation_tps: Tokens per second of reading what had to be read, and of decoding.
        time_to_first_token: Seconds from the start of the request, image encoding included.
        peak_memory: Most bytes that MLX has held since the process began.
        prompt_cache_bytes: Bytes that earlier conversations take, before this one is added.
        steps: Forward passes of the decoder that gave the generated tokens.
        drafted, accepted: Tokens that were drafted in these passes, by their place behind the first one, and how
            many of them were right.
    """

    prompt_tokens: int
    image_tokens: int
    cached_tokens: int
    images_encoded: int
    images_reused: int
    completion_tokens: int
    prompt_tps: float
    generation_tps: float
    time_to_first_token: float
    peak_memory: int
    prompt_cache_bytes: int
    steps: int = 0
    drafted: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()
    video_tokens: int = 0
    frames_encoded: int = 0
    frames_reused: int = 0

    @property
    def tokens_per_step(self) -> float:
        """Of the answer, for each forward pass: 1 without drafts."""
        return self.completion_tokens / self.steps if self.steps else 1.0


@dataclass(frozen=True)
class GenerationChunk:
    """What one generated token adds to the answer.

    Args:
        text, reasoning: New text; both may be empty.
        token: The id.
        logprob: Its log probability after penalties and bias, before temperature; on request.
        top_logprobs: The most likely tokens at this position, best first; on request. Fewer than asked for where no
            others can come, as under a grammar.
        in_reasoning: Whether the token belongs to the reasoning.
        finish_reason: "stop" or "length" on the last chunk, else None.
        stop_string: The stop string that ended the answer, on the last chunk.
        stats: On the last chunk, else None.
        held: Characters of the answer that come with a later chunk: they may be the beginning of a stop string.
        prompt_logprobs: Of the prompt's tokens behind the first one; on request, on the first chunk.
        prompt_top_logprobs: The likeliest tokens in the place of each of these, best first; on request.
    """

    text: str
    reasoning: str
    token: int
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] | None = None
    in_reasoning: bool = False
    finish_reason: str | None = None
    stop_string: str | None = None
    stats: GenerationStats | None = None
    held: int = 0
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_top_logprobs: tuple[tuple[TokenLogprob, ...], ...] | None = None

    def __repr__(self) -> str:
        values = ((field, getattr(self, field.name)) for field in fields(self))
        told = {field.name: value for field, value in values if value not in ("", field.default)}
        told = {"text": self.text, **told}
        return f"GenerationChunk({', '.join(f'{name}={value!r}' for name, value in told.items())})"


@dataclass(frozen=True)
class GenerationResult:
    """A finished answer: the chunks of a stream put together."""

    text: str
    reasoning: str
    tokens: tuple[int, ...]
    finish_reason: str
    stats: GenerationStats
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_top_logprobs: tuple[tuple[TokenLogprob, ...], ...] | None = None

    def __repr__(self) -> str:
        thought = f", reasoning={shorten(repr(self.reasoning))}" if self.reasoning else ""
        return (
            f"GenerationResult(text={shorten(repr(self.text))}{thought}, {len(self.tokens)} tokens at "
            f"{self.stats.generation_tps:.1f} tokens/s, finish_reason={self.finish_reason!r})"
        )

    def _repr_markdown_(self) -> str:
        """The answer, as notebooks show it."""
        return self.text

    @classmethod
    def from_chunks(cls, chunks: Sequence[GenerationChunk]) -> "GenerationResult":
        """Join all chunks of one stream; the last one carries the finish reason."""
        last = chunks[-1]
        assert last.finish_reason is not None, "the stream was not read to its end"
        assert last.stats is not None
        logprobs = tuple(chunk.logprob for chunk in chunks if chunk.logprob is not None)
        tops = tuple(chunk.top_logprobs for chunk in chunks if chunk.top_logprobs is not None)
        return cls(
            text="".join(chunk.text for chunk in chunks),
            reasoning="".join(chunk.reasoning for chunk in chunks),
            tokens=tuple(chunk.token for chunk in chunks),
            finish_reason=last.finish_reason,
            stats=last.stats,
            logprobs=logprobs or None,
            top_logprobs=tops or None,
            prompt_logprobs=chunks[0].prompt_logprobs,
            prompt_top_logprobs=chunks[0].prompt_top_logprobs,
        )
