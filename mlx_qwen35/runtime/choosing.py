"""How a row's tokens are chosen: by its own processors and sampler, in the order in which tokens stand.

Choices that can be taken back are made for all drafts of a step at once, before anybody knows which of them are right.
A caller's own function is called once for every token of the answer and for no other, as it would be without drafts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx

from mlx_qwen35.answers.sampling import LogitsProcessor, Sampler, SeededSampler, draw_together, greedy
from mlx_qwen35.errors import OptionError
from mlx_qwen35.patches.operations import Operations, choose_operations
from mlx_qwen35.runtime.request import Request


class Chooser:
    """Chooses the tokens of one row.

    Args:
        request: Its options, and the caller's functions.
        operations: The model's; None for the device's.
    """

    def __init__(self, request: Request, operations: Operations | None = None) -> None:
        self.operations = choose_operations() if operations is None else operations
        self.sampler: Sampler = request.make_sampler()
        self.processors: list[LogitsProcessor] = request.make_processors()
        # Those of the options look at the history alone.
        self._rewinding = [f for f in (self.sampler, *self.processors) if hasattr(f, "rewind")]
        own = [f for f in (request.sampler, *request.processors) if f is not None]
        # Whether all places of a step may be asked for at once.
        self.foresees = all(hasattr(function, "rewind") for function in own)
        # Those that may have to know the drafts for that.
        self._foreseeing = [function for function in own if hasattr(function, "foresee")]
        # The likeliest tokens that are to be told of each place.
        self.top = request.top_logprobs
        # What went wrong in code that the caller brought along, and at which call.
        self.fault: BaseException | None = None
        self._fault_call = 0
        self._calls = 0
        # Token ids that processors get: the prompt's last one and the answer.
        self.history: mx.array | None = None

    @property
    def needs_drafts(self) -> bool:
        """Whether the drafts of a step have to be known before it is chosen from; if not, see `counted`."""
        return any(not getattr(function, "is_free", False) for function in self._foreseeing)

    def counted(self, read: Sequence[int], count: int) -> int:
        """How many of a step's first `count` choices were made as they have to be, behind drafts that were not known.

        Args:
            read: The step's tokens.
        """
        for function in self._foreseeing:
            if hasattr(function, "counted"):
                count = function.counted(read, count)
        return count

    def processed(
        self, token: mx.array, logits: mx.array, draft: int | None = None, *, behind: bool = False
    ) -> mx.array:
        """Logits (1, V) as the processors leave them behind a token (1,).

        Args:
            draft: The token, for those that have to know it, if it may be wrong.
            behind: Whether it is such a draft.
        """
        self.history = token if self.history is None else mx.concatenate([self.history, token])
        for processor in self.processors:
            foresee = getattr(processor, "foresee", None) if behind else None
            function, newest = (processor, self.history) if foresee is None else (foresee, draft)
            logits = self._guarded("logits_processors", function, lambda _, same: same, newest, logits)
        return logits

    @property
    def has_own_sampler(self) -> bool:
        """Whether the sampler is one that the caller brought along."""
        return self.sampler is not greedy and not isinstance(self.sampler, SeededSampler)

    def sampled(self, scores: mx.array) -> mx.array:
        """A token (1,) from log probabilities (1, V), by the caller's own sampler."""
        return self._guarded("sampler", self.sampler, lambda same: same.argmax(axis=-1), scores)

    def chose(self, count: int = 1) -> None:
        """So many tokens were chosen."""
        self._calls += count

    def choose_while_right(self, tokens: mx.array, drafts: list[int], logits: mx.array) -> "list[Choice]":
        """Place by place, up to the first token that is not the draft; each is waited for.

        Args:
            tokens: That are read there, (1, L).
            drafts: Those behind the first.
            logits: (1, L, V).
        """
        found: list[Choice] = []
        for place in range(tokens.shape[1]):
            here = slice(place, place + 1)
            # Right as it is, but behind the answer's end it is taken back.
            draft = drafts[place - 1] if place else None
            found += choose_together([self], tokens[:, here], logits[:, here], draft).numbers()[0]
            if self.fault is not None or found[-1].token not in drafts[place : place + 1]:
                break
        return found

    def rewind(self, count: int) -> None:
        """The last `count` choices were not made."""
        if count:
            for function in self._rewinding:
                function.rewind(count)
            if self.history is not None:
                self.history = self.history[:-count]
        self._calls -= count
        if self.fault is not None and self._fault_call >= self._calls:
            self.fault = None

    def _guarded(
        self, name: str, function: Callable[..., mx.array], otherwise: Callable[..., mx.array], *args: Any
    ) -> mx.array:
        """What a row's own code gives; where that fails, the row goes on harmlessly until it is removed."""
        expected = otherwise(*args)
        # What can be taken back is called at every place, so that it is known how much there is to take back.
        if self.fault is None or self.foresees:
            try:
                found: Any = function(*args)
                whole = mx.issubdtype(expected.dtype, mx.integer)
                if not isinstance(found, mx.array) or found.shape != expected.shape:
                    raise OptionError(
                        f"{name}: expected shape {expected.shape}, found {getattr(found, 'shape', found)!r}"
                    )
                if whole != mx.issubdtype(found.dtype, mx.integer):
                    raise OptionError(f"{name}: expected {'token ids' if whole else 'logits'}, found {found.dtype}")
                # Wide enough for what is no token id: it must not become one.
                return found.astype(mx.int64) if whole else found
            except BaseException as error:
                if self.fault is None:
                    self.fault, self._fault_call = error, self._calls
        return expected


@dataclass(frozen=True)
class Choice:
    """One chosen token, in plain numbers.

    Args:
        logprob: Its log probability.
        top: The likeliest tokens in its place and their log probabilities, at least as many as the row asks for.
    """

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Choices:
    """What was chosen at every place of a step, for all rows; computed with the step itself.

    Args:
        tokens: (B, L), maybe some that the model does not have.
        logprobs: (B, L).
        top, top_logprobs: (B, L, K), the likeliest first; K is 0 where no row asks.
    """

    tokens: mx.array
    logprobs: mx.array
    top: mx.array
    top_logprobs: mx.array

    @classmethod
    def of(cls, tokens: mx.array, scores: mx.array, most: int) -> "Choices":
        """Of tokens (B, L) and what they were chosen from, (B, L, V); with `most` of the likeliest."""
        within = mx.clip(tokens, 0, scores.shape[-1] - 1)[..., None]
        logprobs = mx.take_along_axis(scores, within, axis=-1)[..., 0]
        if not most:
            nothing = (*tokens.shape, 0)
            return cls(tokens, logprobs, mx.zeros(nothing, mx.uint32), mx.zeros(nothing))
        best = mx.argpartition(-scores, kth=most - 1, axis=-1)[..., :most]
        values = mx.take_along_axis(scores, best, axis=-1)
        order = mx.argsort(-values, axis=-1)
        best, values = (mx.take_along_axis(found, order, axis=-1) for found in (best, values))
        return cls(tokens, logprobs, best, values)

    def arrays(self) -> tuple[mx.array, ...]:
        """What is to be computed."""
        return self.tokens, self.logprobs, self.top, self.top_logprobs

    def numbers(self) -> list[list[Choice]]:
        """Of each row at each place; waits for them."""
        lists: list[Any] = [array.tolist() for array in self.arrays()]
        return [
            [
                Choice(token, logprob, tuple(zip(top, values, strict=True)))
                for token, logprob, top, values in zip(*row, strict=True)
            ]
            for row in zip(*lists, strict=True)
        ]

    def first(self) -> "Choices":
        """Those of the first place."""
        return Choices(*(array[:, :1] for array in self.arrays()))

    def of_rows(self, rows: list[int]) -> "Choices":
        """Those of some rows."""
        return Choices(*(array[mx.array(rows)] for array in self.arrays()))

    def and_then(self, other: "Choices") -> "Choices":
        """With those of further rows."""
        most = max(self.top.shape[-1], other.top.shape[-1])

        def widened(array: mx.array) -> mx.array:
            return mx.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, most - array.shape[-1])])

        own, others = self.arrays(), other.arrays()
        pairs = [[one, two] for one, two in zip(own[:2], others[:2], strict=True)]
        pairs += [[widened(one), widened(two)] for one, two in zip(own[2:], others[2:], strict=True)]
        return Choices(*map(mx.concatenate, pairs))


def choose_together(
    choosers: Sequence[Chooser], tokens: mx.array, logits: mx.array, draft: int | None = None
) -> Choices:
    """The choices of all rows at every place of a step, each as its own chooser makes it, in one graph.

    Args:
        choosers: One per row.
        tokens: That are read there, (B, L).
        logits: (B, L, V).
        draft: The first place's token where that is a draft too, of a row alone.
    """
    most = max(chooser.top for chooser in choosers)
    operations = choosers[0].operations
    if all(chooser.sampler is greedy and not chooser.processors for chooser in choosers):
        if not most:
            return Choices(*_likeliest(operations)(logits))
        scores = normalised(logits, operations)
        return Choices.of(greedy(scores), scores, most)
    # Penalties and biases are finer than the steps of half precision.
    given, own = _given(choosers, tokens, logits.astype(mx.float32), draft)
    scores = normalised(given, operations)
    return Choices.of(_sampled(choosers, scores, own), scores, most)


def _given(
    choosers: Sequence[Chooser], tokens: mx.array, logits: mx.array, draft: int | None
) -> tuple[mx.array, dict[int, list[mx.array]]]:
    """What is chosen from, (B, L, V), and what callers' own samplers choose from it, by row: L times (1,)."""
    own: dict[int, list[mx.array]] = {row: [] for row, chooser in enumerate(choosers) if chooser.has_own_sampler}
    places = range(tokens.shape[1])
    if not own and not any(chooser.processors for chooser in choosers):
        for chooser in choosers:
            chooser.chose(len(places))
        return logits, own
    drafts: Any = None
    if len(places) > 1 and any(chooser.needs_drafts for chooser in choosers):
        # Known before the decoder reads them: what made them is all that is waited for.
        drafts = tokens.tolist()
    given = []
    for place in places:
        here = logits[:, place]
        if any(chooser.processors for chooser in choosers):
            here = mx.concatenate(
                [
                    chooser.processed(
                        tokens[row : row + 1, place],
                        here[row : row + 1],
                        drafts[row][place] if drafts and place else draft,
                        behind=place > 0 or draft is not None,
                    )
                    if chooser.processors
                    else here[row : row + 1]
                    for row, chooser in enumerate(choosers)
                ]
            )
        for row, found in own.items():
            found.append(choosers[row].sampled(normalised(here[row : row + 1], choosers[row].operations)))
        for chooser in choosers:
            chooser.chose()
        given.append(here)
    return mx.stack(given, axis=1), own


@cache
def _likeliest(operations: Operations) -> Callable[[mx.array], tuple[mx.array, ...]]:
    """A compiled function from logits (B, L, V) to the arrays of greedy choices."""

    def choose(logits: mx.array) -> tuple[mx.array, ...]:
        scores = normalised(logits, operations)
        return Choices.of(greedy(scores), scores, 0).arrays()

    return mx.compile(choose)


def _sampled(choosers: Sequence[Chooser], scores: mx.array, own: Mapping[int, Sequence[mx.array]]) -> mx.array:
    """Tokens (B, L) from log probabilities (B, L, V); samplers that differ in their seeds alone draw together.

    Args:
        own: What callers' samplers chose, see `_given`.
    """
    kinds: dict[object, list[int]] = {}
    for row, chooser in enumerate(choosers):
        sampler = chooser.sampler
        alike = sampler.filters if isinstance(sampler, SeededSampler) else "greedy" if sampler is greedy else row
        kinds.setdefault(alike, []).append(row)
    found: list[mx.array] = []
    for kind, rows in kinds.items():
        part = scores if len(rows) == len(choosers) else scores[mx.array(rows)]
        if kind == "greedy":
            found.append(greedy(part))
        elif isinstance(kind, tuple):
            samplers = [choosers[row].sampler for row in rows]
            found.append(draw_together([one for one in samplers if isinstance(one, SeededSampler)], part))
        else:
            found.append(mx.stack(list(own[rows[0]]), axis=1))
    if len(found) == 1:
        return found[0]
    order = [row for rows in kinds.values() for row in rows]
    return mx.concatenate(found)[mx.array([order.index(row) for row in range(len(order))])]


def normalised(logits: mx.array, operations: Operations) -> mx.array:
    """Log probabilities over the last axis, in float32: logits near 20 leave half precision steps of a tenth."""
    wide = logits.astype(mx.float32)
    return wide - operations.logsumexp(wide)
