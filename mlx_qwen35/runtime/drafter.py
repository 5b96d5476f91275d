"""What the MTP module knows of the rows of a batch."""

import mlx.core as mx

from mlx_qwen35.runtime.decoder import Decoder, Seed
from mlx_qwen35.state.sequence import SequenceState

# Pairs that wait before the module reads them, while it makes no drafts.
_MOST_UNREAD = 64


class Drafter:
    """Drafts for the rows of one batch. What it gets wrong costs time and nothing else.

    While no drafts are wanted, the module's pairs only wait: it reads many at once for little more than one.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._unread: list[tuple[mx.array, mx.array]] = []
        self._unsettled: mx.array | None = None
        self._seed: Seed | None = None

    def note(self, following: mx.array, hidden: mx.array, state: SequenceState) -> None:
        """A token (B, 1) that was chosen behind a hidden state (B, 1, hidden_size)."""
        self._unread.append((following, hidden))
        if len(self._unread) >= _MOST_UNREAD:
            self.catch_up(state)

    def read_step(self, following: mx.array, hidden: mx.array, state: SequenceState) -> None:
        """Read the pairs of a step, of which `settle` will say how many stay.

        With drafts, before anybody knows which were right: the device has something to do while that is found out.

        Args:
            following: What was chosen at every place, (B, L).
            hidden: (B, L, hidden_size).
        """
        self.catch_up(state)
        self._unsettled = self._decoder.read_pairs(following, hidden, state)
        mx.async_eval(self._unsettled)  # type: ignore[no-untyped-call]

    @property
    def is_unsettled(self) -> bool:
        """Whether `settle` is still to say which pairs stay."""
        return self._unsettled is not None

    def settle(self, kept: list[int], state: SequenceState) -> None:
        """Of the pairs that `read_step` has read keep the first `kept[row]` of every row, at least one."""
        assert self._unsettled is not None
        self._seed, self._unsettled = self._decoder.settle_pairs(self._unsettled, kept, state), None

    def catch_up(self, state: SequenceState) -> None:
        """Read what waits."""
        if not self._unread:
            return
        following, hidden = (mx.concatenate(list(parts), axis=1) for parts in zip(*self._unread, strict=True))
        self._unread = []
        self._seed = self._decoder.follow(following, hidden, state)

    def draft(self, depth: int, state: SequenceState) -> mx.array | None:
        """Drafts (B, depth); None while it has read nothing."""
        self.catch_up(state)
        if self._seed is None:
            return None
        drafts = self._decoder.draft(self._seed, depth, state)
        # On its way while the decoder's step is put together.
        mx.async_eval(drafts)  # type: ignore[no-untyped-call]
        return drafts

    def keep(self, rows: list[int]) -> None:
        """Keep these rows; what waited was read before."""
        self._seed = None if self._seed is None else (self._seed[0][rows], self._seed[1][rows])

    def extend(self, other: "Drafter") -> None:
        """Append the rows of another batch; what waited was read before."""
        if self._seed is None or other._seed is None:
            self._seed = None
        else:
            hidden, draft = (mx.concatenate(list(parts)) for parts in zip(self._seed, other._seed, strict=True))
            self._seed = hidden, draft
