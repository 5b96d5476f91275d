"""How a row's tokens are chosen: by its own processors and sampler, in the order in which tokens stand.

Choices that can be taken back are made for all drafts of a step at once, before anybody knows which of them are right.
A caller's own function is called once for every token of the answer and for no other, as it would be without drafts.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_qwen35.answers.sampling import LogitsProcessor, Sampler, greedy
from mlx_qwen35.errors import OptionError
from mlx_qwen35.runtime.request import Request


class Chooser:
    """Chooses the tokens of one row.

    Args:
        request: Its options, and the caller's functions.
    """

    def __init__(self, request: Request) -> None:
        self.sampler: Sampler = request.make_sampler()
        self.processors: list[LogitsProcessor] = request.make_processors()
        # Those of the options look at the history alone.
        self._rewinding = [f for f in (self.sampler, *self.processors) if hasattr(f, "rewind")]
        own = [f for f in (request.sampler, *request.processors) if f is not None]
        # Whether all places of a step may be asked for at once.
        self.foresees = all(hasattr(function, "rewind") for function in own)
        self._needs_drafts = any(hasattr(function, "foresee") for function in own)
        # What went wrong in code that the caller brought along, and at which call.
        self.fault: BaseException | None = None
        self._fault_call = 0
        self._calls = 0
        # Token ids that processors get: the prompt's last one and the answer.
        self.history: mx.array | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether a row's tokens are simply the likeliest, so that those of several rows are found at once."""
        return self.sampler is greedy and not self.processors

    def processed(self, token: mx.array, logits: mx.array, draft: int | None = None) -> mx.array:
        """Logits (1, V) as the processors leave them behind a token (1,).

        Args:
            draft: The token, for those that have to know it, if it may be wrong.
        """
        if not self.processors:
            return logits
        self.history = token if self.history is None else mx.concatenate([self.history, token])
        for processor in self.processors:
            foresee = None if draft is None else getattr(processor, "foresee", None)
            function, newest = (processor, self.history) if foresee is None else (foresee, draft)
            logits = self._guarded("logits_processors", function, lambda _, same: same, newest, logits)
        return logits

    def sampled(self, scores: mx.array) -> mx.array:
        """A token (1,) from log probabilities (1, V)."""
        token = self._guarded("sampler", self.sampler, lambda same: same.argmax(axis=-1), scores)
        self._calls += 1
        return token

    def choose(self, tokens: mx.array, logits: mx.array) -> tuple[mx.array, mx.array]:
        """For every place of a step at once.

        Args:
            tokens: That are read there, (1, L).
            logits: (1, L, V).
        Returns:
            Token ids (1, L), and the log probabilities that they were chosen from, (1, L, V).
        """
        chosen, scores = [], []
        # Known before the decoder reads them: what made them is all that is waited for.
        drafts: Any = tokens[0, 1:].tolist() if self._needs_drafts else [None] * tokens.shape[1]
        for place, draft in enumerate([None, *drafts][: tokens.shape[1]]):
            scores.append(normalised(self.processed(tokens[:, place], logits[:, place], draft)))
            chosen.append(self.sampled(scores[-1]))
        return mx.stack(chosen, axis=1), mx.stack(scores, axis=1)

    def choose_while_right(
        self, tokens: mx.array, drafts: list[int], logits: mx.array
    ) -> tuple[list[int], list[mx.array]]:
        """The same place by place, up to the first token that is not the draft; each is waited for."""
        chosen: list[int] = []
        scores: list[mx.array] = []
        for place in range(tokens.shape[1]):
            scores.append(normalised(self.processed(tokens[:, place], logits[:, place])))
            token: Any = self.sampled(scores[-1]).tolist()
            chosen += token
            if self.fault is not None or chosen[-1] not in drafts[place : place + 1]:
                break
        return chosen, [row[0] for row in scores]

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


def normalised(logits: mx.array) -> mx.array:
    """Log probabilities over the last axis."""
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
