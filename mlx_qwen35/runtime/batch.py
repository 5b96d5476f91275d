"""Rows that are written together: drafts, one forward pass over them, and what stays of it.

A step reads the last token of every row, and drafts behind it. At each place the row's own processors and sampler
choose as they would without drafts; drafts stay as far as they are what was chosen. The next step is on its way while
the tokens of this one are handed out; without drafts it is begun before they are known.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import mlx.core as mx

from mlx_qwen35.answers.results import TokenLogprob
from mlx_qwen35.answers.text import AnswerText
from mlx_qwen35.runtime.choosing import Choice, Choices, Chooser, choose_together
from mlx_qwen35.runtime.decoder import Decoder
from mlx_qwen35.runtime.drafter import Drafter
from mlx_qwen35.runtime.request import Job
from mlx_qwen35.runtime.speculation import Record, Speculation
from mlx_qwen35.state.prefix import Reading
from mlx_qwen35.state.sequence import SequenceState


@dataclass(eq=False)
class Row:
    """What a running job has in memory.

    Args:
        reading: The prompt's state; that of the row moves into a batch while it is written.
        record: What drafts did for it.
        features: Embeddings of the prompt's media that are still to be read, by their index.
        images_encoded, frames_encoded: What the vision tower had to look at.
        began, first: `time.perf_counter()` of the row's beginning, and of its first token.
        finished: Its answer has ended, and only its place in the batch is left.
        prompt_scores: The prompt's tokens behind the first, as far as they are read, and the likeliest in the place of
            each; if the request asks for them.
    """

    job: Job
    reading: Reading
    text: AnswerText
    record: Record
    began: float
    features: dict[int, mx.array] = field(default_factory=dict)
    images_encoded: int = 0
    frames_encoded: int = 0
    first: float = 0.0
    finished: bool = False
    prompt_scores: list[tuple[TokenLogprob, tuple[TokenLogprob, ...]]] = field(default_factory=list)
    chooser: Chooser = field(init=False)

    @property
    def room(self) -> int:
        """Tokens that may still be written behind the next one."""
        return self.job.request.max_tokens - len(self.reading.written) - 1


# Gets a row's new tokens; says how many of them it takes: fewer if the answer ends.
Take = Callable[[Row, Sequence[Choice]], int]


@dataclass
class _Ahead:
    """A step that is on its way.

    Args:
        tokens: That it reads, (B, L): the last one of every row, and drafts.
        hidden: (B, L, hidden_size), if there is a module.
        chosen: Of every row and place; else logits (B, L, V), where each choice waits for the one before.
        drafts: How many of the tokens of each row are drafts, and whether they are the module's.
    """

    tokens: mx.array
    hidden: mx.array | None
    chosen: Choices | mx.array
    drafts: list[tuple[int, bool]]

    @property
    def width(self) -> int:
        """Tokens that each row reads."""
        return self.tokens.shape[1]


class Batch:
    """Rows that get tokens in the same forward pass.

    Args:
        rows: In the order of the batch, each with its chooser.
        state: Theirs: a row's own if it is alone, else merged.
        tokens: The last ones of their prompts, (B, 1).
    """

    def __init__(
        self, decoder: Decoder, speculation: Speculation, vocab_size: int, rows: list[Row], state: SequenceState,
        tokens: mx.array,
    ) -> None:  # fmt: skip
        self._decoder, self._speculation, self._vocab_size = decoder, speculation, vocab_size
        self.rows, self.state = rows, state
        self._drafter = Drafter(decoder) if decoder.module is not None else None
        self._ahead = self._begin(tokens)

    def step(self, take: Take) -> None:
        """Hand out the tokens that are on their way, and begin the next step."""
        ahead, began = self._ahead, time.perf_counter()
        tokens = self._advance(ahead, take)
        done, begun = ((one.width - 1, any(by_module for _, by_module in one.drafts)) for one in (ahead, self._ahead))
        self._speculation.took(len(self.rows), done, begun, tokens, time.perf_counter() - began)

    def _advance(self, ahead: _Ahead, take: Take) -> int:
        """Returns how many tokens were handed out."""
        depth = self._speculation.depth(self.rows) if self._drafter is not None else 0
        plain = depth == 0 and not any(self._speculation.found(row, len(self.rows)) for row in self.rows)
        if plain and isinstance(ahead.chosen, Choices) and ahead.width == 1:
            # Nothing has to be known before the next one begins.
            self._ahead = self._begin(self._clipped(ahead.chosen.tokens))
            self._note(ahead)
            for row, choices in zip(self.rows, self._chosen(ahead), strict=True):
                take(row, choices)
            return len(self.rows)
        chosen = self._chosen(ahead)
        kept = [max(1, take(row, choices)) for row, choices in zip(self.rows, chosen, strict=True)]
        following = self._settle(ahead, [[choice.token for choice in choices] for choices in chosen], kept)
        self._ahead = self._begin(*self._with_drafts(following, depth))
        return sum(kept)

    def add(self, other: "Batch") -> None:
        """Take the rows of another batch in."""
        for batch in (self, other):
            batch._narrow()
            if len(batch.rows) == 1:
                batch.state = SequenceState.merge([batch.state])
        self.state.extend(other.state)
        if self._drafter is not None and other._drafter is not None:
            self._drafter.extend(other._drafter)
        one, two = self._ahead, other._ahead
        assert isinstance(one.chosen, Choices)
        assert isinstance(two.chosen, Choices)
        tokens = mx.concatenate([one.tokens, two.tokens])
        self._ahead = _Ahead(tokens, None, one.chosen.and_then(two.chosen), one.drafts + two.drafts)
        self.rows = self.rows + other.rows

    def remove(self, row: Row, *, keep: bool) -> SequenceState | None:
        """Let a row go; its state if that is to be kept. A row that is left alone gets its own caches back."""
        number = self.rows.index(row)
        self._narrow()
        rows = [other for other in range(len(self.rows)) if other != number]
        state = None
        if keep:
            state = self.state.extract(number) if rows else self.state
        self.rows = [self.rows[other] for other in rows]
        if not rows:
            return state
        self._ahead = _of_rows(self._ahead, rows)
        if self._drafter is not None:
            self._drafter.keep(rows)
        if len(rows) == 1:
            self.state = self.state.extract(rows[0])
        else:
            self.state.keep(rows)
        return state

    def _begin(self, tokens: mx.array, drafts: list[tuple[int, bool]] | None = None) -> _Ahead:
        """Let the decoder read tokens (B, L), and choose what follows each as far as that can be done at once."""
        logits, hidden = self._decoder.step(tokens, self.state)
        choosers = [row.chooser for row in self.rows]
        chosen: Choices | mx.array = logits
        if tokens.shape[1] == 1 or all(chooser.foresees for chooser in choosers):
            chosen = choose_together(choosers, tokens, logits)
        ahead = _Ahead(tokens, hidden, chosen, drafts or [(0, False)] * len(choosers))
        histories = [chooser.history for chooser in choosers if chooser.history is not None]
        awaited = chosen.arrays() if isinstance(chosen, Choices) else chosen
        mx.async_eval(tokens, hidden, awaited, histories)  # type: ignore[no-untyped-call]
        if self._drafter is not None and hidden is not None and ahead.width > 1 and isinstance(chosen, Choices):
            self._drafter.read_step(self._clipped(chosen.tokens), hidden, self.state)
        return ahead

    def _chosen(self, ahead: _Ahead) -> list[list[Choice]]:
        """For each row the tokens that count, known now: those after right drafts, and the one behind them."""
        width, chosen = ahead.width, ahead.chosen
        read: list[list[int]] = ahead.tokens.tolist() if width > 1 else [[]] * len(self.rows)  # type: ignore[assignment]
        numbers = chosen.numbers() if isinstance(chosen, Choices) else [[]] * len(self.rows)
        found = []
        for number, (row, own) in enumerate(zip(self.rows, numbers, strict=True)):
            drafts = read[number][1:]
            if isinstance(chosen, Choices):
                right = next((at for at, draft in enumerate(drafts) if own[at].token != draft), len(drafts))
                found.append(own[: row.chooser.counted(read[number], right + 1)])
                row.chooser.rewind(width - len(found[-1]))
            else:
                place = slice(number, number + 1)
                found.append(row.chooser.choose_while_right(ahead.tokens[place], drafts, chosen[place]))
            self._speculation.stepped(row)
            count, by_module = ahead.drafts[number]
            if count:
                self._speculation.learn(row, count, min(count, len(found[-1]) - 1), by_module=by_module)
        return found

    def _settle(self, ahead: _Ahead, tokens: list[list[int]], kept: list[int]) -> mx.array:
        """Forget what was read of wrong drafts; returns the last token of every row, (B, 1)."""
        width = ahead.width
        for row, own, count in zip(self.rows, tokens, kept, strict=True):
            row.chooser.rewind(len(own) - count)
        self._decoder.settle(self.state, width, kept)
        if self._drafter is not None and ahead.hidden is not None:
            if not self._drafter.is_unsettled:
                padded = mx.array([[*own, *[own[-1]] * (width - len(own))] for own in tokens])
                self._drafter.read_step(self._clipped(padded), ahead.hidden, self.state)
            self._drafter.settle(kept, self.state)
        last = [own[count - 1] for own, count in zip(tokens, kept, strict=True)]
        return self._clipped(mx.array(last)[:, None])

    def _note(self, ahead: _Ahead) -> None:
        """For the module: a step without drafts has been chosen from."""
        if self._drafter is not None and ahead.hidden is not None:
            assert isinstance(ahead.chosen, Choices)
            self._drafter.note(self._clipped(ahead.chosen.tokens), ahead.hidden, self.state)

    def _with_drafts(self, last: mx.array, depth: int) -> tuple[mx.array, list[tuple[int, bool]]]:
        """The last tokens (B, 1) with drafts behind them; of each row how many, and whether they are the module's."""
        depth = min(depth, max((row.room for row in self.rows if not row.finished), default=0))
        found = [[] if row.finished else self._speculation.found(row, len(self.rows)) for row in self.rows]
        made = None
        if depth > 0 and self._drafter is not None and not all(found):
            made = self._drafter.draft(depth, self.state)
        width = max([0 if made is None else depth, *map(len, found)])
        rows, counts = [], []
        for number, own in enumerate(found):
            drafts = mx.zeros((1, 0), mx.uint32)
            if own:
                drafts = mx.array([own], mx.uint32)
            elif made is not None:
                drafts = made[number : number + 1].astype(mx.uint32)
            counts.append((drafts.shape[1], made is not None and not own))
            rows.append(mx.pad(drafts, [(0, 0), (0, width - drafts.shape[1])]))
        return mx.concatenate([last, mx.concatenate(rows)], axis=1) if width else last, counts

    def _narrow(self) -> None:
        """Of the step on its way keep what it makes of the last tokens, and forget its drafts; nothing waits then."""
        ahead, width = self._ahead, self._ahead.width
        if width > 1:
            self._decoder.settle(self.state, width, [1] * len(self.rows))
        if isinstance(ahead.chosen, Choices):
            chosen = ahead.chosen.first()
            for row in self.rows:
                row.chooser.rewind(width - 1)
        else:
            chosen = choose_together([row.chooser for row in self.rows], ahead.tokens[:, :1], ahead.chosen[:, :1])
        hidden = None if ahead.hidden is None else ahead.hidden[:, :1]
        ahead = _Ahead(ahead.tokens[:, :1], hidden, chosen, [(0, False)] * len(self.rows))
        if self._drafter is not None and self._drafter.is_unsettled:
            self._drafter.settle([1] * len(self.rows), self.state)
        elif self._drafter is not None:
            self._note(ahead)
            self._drafter.catch_up(self.state)
        # The module has read it now.
        self._ahead = replace(ahead, hidden=None)

    def _clipped(self, tokens: mx.array) -> mx.array:
        """A sampler of the caller's may name a token that the model does not have."""
        return mx.clip(tokens, 0, self._vocab_size - 1).astype(mx.uint32)


def _of_rows(ahead: _Ahead, rows: list[int]) -> _Ahead:
    """Some rows of a step of which the module has nothing left to read."""
    assert isinstance(ahead.chosen, Choices)
    return _Ahead(ahead.tokens[mx.array(rows)], None, ahead.chosen.of_rows(rows), [ahead.drafts[row] for row in rows])
