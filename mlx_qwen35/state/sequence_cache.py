"""What one attention layer remembers of one sequence, whatever form its keys and values have."""

from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from mlx_qwen35.errors import CacheError
from mlx_qwen35.prompts.positions import MediaLayout, MediaSpan
from mlx_qwen35.state.media import PromptMedia


class SequenceCache:
    """Keys and values of one sequence in one attention layer, for mlx-lm's attention.

    It behaves as the mlx-lm cache that it wraps, except that `offset` is the RoPE position of
    the next token, and `size()` the number of tokens stored.

    Args:
        parts: mlx-lm caches that together hold keys and values, each the same number of tokens.
        media: The prompt's images, shared with the caches of the other layers; None for text.
    """

    # What the parts hold, as numbers and arrays only; each kind of cache has its own form.
    stored: Any

    def __init__(self, parts: Sequence[KVCache], media: PromptMedia | None) -> None:
        self._parts = tuple(parts)
        self.media = media

    # Whether the tokens to come are drafts, of which `settle` will say how many stay.
    verifying = False

    def size(self) -> int:
        """Tokens stored."""
        return int(self._parts[0].offset)

    @property
    def offset(self) -> int:
        """RoPE position of the next token, if that token is text."""
        stored = self.size()
        return stored if self.media is None else stored + self.media.layout.delta_at(stored)

    def media_ahead(self, tokens: int | None = None) -> PromptMedia | None:
        """The prompt's media if the next `tokens` tokens hold an image (None: any token still to come)."""
        if self.media is None:
            return None
        start = self.size()
        stop = self.media.layout.length if tokens is None else start + tokens
        return self.media if self.media.has_image(start, stop) else None

    def make_mask(self, *args: Any, **kwargs: Any) -> Any:
        """Causal mask over the stored tokens, as KVCache makes it."""
        return self._parts[0].make_mask(*args, **kwargs)

    def is_trimmable(self) -> bool:
        """Always; a cut inside an image is refused by `trim`."""
        return True

    def trim(self, n: int) -> int:
        """Forget the last `n` tokens, at most all; returns how many were forgotten.

        Raises:
            CacheError: The cut would fall inside an image, where positions do not continue as text.
        """
        kept = max(self.size() - n, 0)
        span = self.media.layout.inside(kept) if self.media is not None else None
        if span is not None:
            raise CacheError(
                f"cannot rewind to token {kept}: expected a cut outside the image at tokens {span.start} to {span.stop}"
            )
        return self._forget(n)

    def _forget(self, n: int) -> int:
        return max(int(part.trim(n)) for part in self._parts)

    def empty(self) -> bool:
        """Whether nothing was stored yet."""
        return bool(self._parts[0].empty())

    @property
    def nbytes(self) -> int:
        """Bytes held by keys and values, spare room included."""
        return 0 if self.empty() else sum(int(part.nbytes) for part in self._parts)

    def begin_step(self) -> None:
        """The tokens that are read next may have to be forgotten again."""
        self.verifying = True

    def settle(self, length: int, kept: Sequence[int]) -> None:
        """Of the `length` tokens read since `begin_step` keep the first `kept[0]`."""
        self.verifying = False
        self._forget(length - kept[0])

    def mark(self) -> tuple[mx.array, ...]:
        """Nothing: keys and values are cut."""
        return ()

    def roll_back(self, tokens: int, mark: tuple[mx.array, ...]) -> None:
        """Back to so many tokens.

        Raises:
            CacheError: See `trim`.
        """
        self.trim(self.size() - tokens)

    def held(self) -> tuple[mx.array, ...]:
        """Arrays (1, H, at least size(), X), from which every earlier place can be restored: two of each part."""
        if self.empty():
            return ()
        return tuple(array[...] for part in self._parts for array in (part.keys, part.values))

    def restore(self, tokens: int, held: tuple[mx.array, ...], mark: tuple[mx.array, ...]) -> None:
        """Become the first tokens of what was held; slices are arrays of their own, and the first write copies them."""
        self._parts, self.media = tuple(KVCache() for _ in self._parts), None
        for number, part in enumerate(self._parts):
            part.keys, part.values = (array[..., :tokens, :] for array in held[2 * number : 2 * number + 2])
            part.offset = tokens

    def check(self, tokens: int, held: Sequence[mx.array], mark: Sequence[mx.array]) -> str | None:
        """What is wrong with arrays that `restore` is to take; None if nothing is."""
        fits = len(held) == 2 * len(self._parts)
        fits = fits and all(array.ndim == 4 and array.shape[2] >= tokens for array in held)
        return None if fits and not mark else f"it does not hold {tokens} tokens"

    @property
    def state(self) -> tuple[Any, Any]:
        """What is stored and the images' spans, as numbers and arrays only."""
        spans = None
        if self.media is not None:
            spans = [[s.start, s.stop, s.position, *s.grid_thw] for s in self.media.layout.spans]
        return self.stored, spans

    @state.setter
    def state(self, value: tuple[Any, Any]) -> None:
        self.stored, spans = value
        self.media = None
        if spans is not None:
            read = tuple(MediaSpan(a, b, p, (t, h, w)) for a, b, p, t, h, w in spans)
            self.media = PromptMedia(MediaLayout(read, read[-1].stop), [None] * len(read))

    @classmethod
    def from_state(cls, state: tuple[Any, Any]) -> Self:
        """The counterpart of `state`, as mlx-lm's load_prompt_cache calls it."""
        cache = cls()  # type: ignore[call-arg]
        cache.state = state
        return cache
