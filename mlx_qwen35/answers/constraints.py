"""Processors that have an answer follow a grammar, end its reasoning after a number of tokens, or not end before one.

Every object belongs to one answer. They go after all other logits processors: what they forbid must stay forbidden.
What they know can be taken back, so that the drafts of a step are asked for at once.
"""

import re
from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.answers.open_text import OpenText
from mlx_qwen35.answers.sampling import whole_number
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

# llguidance's messages go on to say where in the grammar, which no caller has seen.
_GRAMMAR_TEXT = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?|\n +\d+ \| .*", re.DOTALL)


@dataclass(frozen=True)
class Closing:
    """How a model that has nothing more to say ends a JSON value in which it may not end its answer.

    What it would give to the end of the answer counts for the token that leads there: it closes a string, then a list
    or an object. So an answer does not run on with whatever is least unlikely, as those of small models do.

    Args:
        end: The end-of-sequence tokens.
        string: The token that closes a string.
        inside: A token that may stand in a string and nowhere else.
        others: What leads to the end outside of strings, best first.
    """

    end: tuple[int, ...]
    string: int
    inside: int
    others: tuple[int, ...]

    def __call__(self, allowed: NDArray[np.bool_], logits: mx.array) -> mx.array:
        """Logits (1, V) with the wish to end where it can be followed."""
        if allowed[list(self.end)].any():
            return logits
        tokens = (self.string,) if allowed[self.inside] else self.others
        token = next((token for token in tokens if allowed[token]), None)
        if token is None:
            return logits
        wish = mx.logsumexp(logits[:, mx.array(self.end)], axis=-1)
        changed = mx.array(logits)
        changed[:, token] = mx.logaddexp(logits[:, token], wish.astype(logits.dtype))
        return changed


@dataclass(frozen=True)
class _Known:
    """What a constraint knows of its answer.

    Args:
        awaited: Those tokens that are still to come before the grammar.
        begun: Whether the next token is the grammar's.
        matcher: That has followed it.
        line: The newest line, where there may be text that a line ends.
        in_text: Whether it is of such text. The matcher stays behind then, until the line nearly ends it.
    """

    awaited: tuple[int, ...]
    begun: bool
    matcher: "LLMatcher"
    line: bytes = b""
    in_text: bool = False


class Constraint:
    """A logits processor that leaves the tokens of one answer that its grammar allows.

    What comes before the grammar, such as reasoning, is free. After it only end-of-sequence tokens follow.

    Args:
        matcher: The grammar at its beginning.
        place: What error messages begin with.
        free: Which ids may come before the grammar, a boolean for each.
        awaited: The tokens after which the grammar begins: once all have come, in this order. None begins at once.
        closing: For JSON.
        text: For tool calls.
        firm: Whether an answer fails that the grammar can no longer be followed in; otherwise all is free from there.
    """

    def __init__(
        self,
        matcher: "LLMatcher",
        place: str,
        free: NDArray[np.bool_],
        awaited: Sequence[int],
        closing: Closing | None = None,
        text: OpenText | None = None,
        firm: bool = True,
    ) -> None:
        self._place = place
        self._firm = firm
        self._free = free
        self._closing = closing
        self._text = text
        self._known = _Known(tuple(awaited), False, matcher)
        # The newest token, at which nobody has looked yet because nothing hung on it.
        self._newest: mx.array | None = None
        self._masks: tuple[mx.array, mx.array] | None = None
        # What was known before each draft.
        self._before: list[_Known] = []
        # Whether nobody said what the drafts behind the newest token were, and those that were right.
        self._unseen = False
        self._right: list[int] = []

    def again(self) -> "Constraint":
        """The same for another answer; this one must not have been asked yet."""
        other = copy(self)
        other._known = replace(self._known, matcher=self._known.matcher.deep_copy())
        other._before = []
        return other

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Forbid what may not follow the history; the first call's is the prompt, each next one is a token longer.

        Raises:
            OptionError: The grammar became too complex to follow.
        """
        self._before.clear()
        self._unseen = False
        self._look()
        known, free = self._known, self._in_free_text
        if known.awaited or free:
            # The newest token may still be computed. What is free is as fast as without a grammar because only
            # the device looks at it now; the host does so one call later.
            self._newest = tokens[-1]
            mx.async_eval(self._newest)  # type: ignore[no-untyped-call]
        if not known.awaited:
            if known.begun and not free:
                self._follow(int(np.array(tokens[-1])))
            return self._constrained(logits)
        if self._masks is None:
            self._masks = mx.array(self._mask()), mx.array(self._free)
        begins = tokens[-1] == known.awaited[0] if len(known.awaited) == 1 else mx.array(False)
        return _mask_logits(mx.where(begins, *self._masks), logits)

    @property
    def is_free(self) -> bool:
        """Whether drafts need not be known, as little hangs on them, which `counted` sees to."""
        self._look()
        return bool(self._known.awaited) or self._in_free_text

    @property
    def _in_free_text(self) -> bool:
        """Whether all text may follow whatever the next token is."""
        return self._text is not None and self._known.in_text and not self._text.may_end(self._known.line)

    def counted(self, read: Sequence[int], count: int) -> int:
        """How many of a step's first `count` choices count: where its drafts were not known, none behind one that the
        grammar begins or goes on after.

        Args:
            read: The step's tokens, the first of them the newest.
        """
        if not self._unseen:
            return count
        line = self._known.line
        for place, token in enumerate(read[:count]):
            if self._known.awaited:
                asked = token == self._known.awaited[0]
            else:
                assert self._text is not None, "drafts behind a token that has to be followed"
                line = self._text.line_behind(line, token)
                asked = self._text.is_near(line)
            if asked:
                # A call asked what may follow the first token.
                count = max(1, place)
                break
        self._right = list(read[1:count])
        return count

    def foresee(self, draft: int | None, logits: mx.array) -> mx.array:
        """The same behind a draft, which may be wrong: `rewind` takes it back.

        Args:
            draft: None where it is not known, which `is_free` has to allow.
        Raises:
            OptionError: The grammar forbids the draft, or became too complex to follow.
        """
        if draft is None:
            self._before.append(self._known)
            self._unseen = True
            return _mask_logits(self._free_mask, logits)
        self._look()
        self._before.append(self._known)
        if self._known.awaited:
            self._pass(draft)
            if self._known.awaited:
                return _mask_logits(self._free_mask, logits)
            return self._constrained(logits)
        self._known = replace(self._known, matcher=self._known.matcher.deep_copy())
        self._follow(draft)
        return self._constrained(logits)

    def rewind(self, count: int) -> None:
        """The last `count` drafts were wrong."""
        self._known = self._before[-count]
        del self._before[-count:]
        del self._right[len(self._before) :]

    def _look(self) -> None:
        """At the last tokens of what is free, which are known now."""
        newest, self._newest = self._newest, None
        right, self._right = self._right, []
        if newest is None:
            return
        for token in (int(np.array(newest)), *right):
            if self._known.awaited:
                self._pass(token)
            else:
                self._follow(token)

    @property
    def _free_mask(self) -> mx.array:
        """Of what is free, before the grammar or in a text."""
        if not self._known.awaited:
            assert self._text is not None, "no text is free"
            return self._text.free
        assert self._masks is not None, "a draft before the first token"
        return self._masks[1]

    def _pass(self, token: int) -> None:
        """A token before the grammar."""
        awaited = self._known.awaited
        if token == awaited[0]:
            self._known = replace(self._known, awaited=awaited[1:], begun=len(awaited) == 1)

    def _follow(self, token: int) -> None:
        """A token of the grammar.

        Raises:
            OptionError: It forbids the token, or became too complex to follow, and has to be followed.
        """
        text, known = self._text, self._known
        consumed = [token]
        if text is not None:
            line = text.line_behind(known.line, token)
            self._known = replace(known, line=line, in_text=known.in_text and not text.is_near(line))
            if known.in_text and text.allows(token):
                consumed = text.tokens(line) if text.is_near(line) else []
        for one in consumed:
            known.matcher.consume_token(one)
        self._is_lost()

    def _is_lost(self) -> bool:
        """Whether the grammar cannot be followed any more.

        Raises:
            OptionError: So it is, and has to be.
        """
        matcher = self._known.matcher
        if self._firm and matcher.is_error():
            raise OptionError(f"{self._place}: {error_message(matcher.get_error())}")
        return bool(matcher.is_error())

    def _constrained(self, logits: mx.array) -> mx.array:
        self._known = replace(self._known, begun=True)
        text = self._text
        if text is not None and self._known.in_text:
            return _mask_logits(text.free, logits)
        allowed = self._mask()
        if text is not None and not text.may_end(self._known.line) and np.array_equal(allowed, text.begins):
            self._known = replace(self._known, in_text=True)
        if self._closing is not None:
            logits = self._closing(allowed, logits)
        return _mask_logits(mx.array(allowed), logits)

    def _mask(self) -> NDArray[np.bool_]:
        packed = np.frombuffer(self._known.matcher.compute_bitmask(), dtype=np.uint8)
        if self._is_lost():
            return self._free
        return np.unpackbits(packed, count=len(self._free), bitorder="little").view(np.bool_)


class ThinkingBudget:
    """A logits processor that ends the reasoning of one answer after a number of tokens.

    Args:
        budget: Tokens the reasoning may have before `</think>` is written for the model.
        in_reasoning: Whether the answer begins in its reasoning; otherwise nothing is done.
    Raises:
        OptionError: The budget is no whole number, or the checkpoint has no `</think>`.
    """

    def __init__(self, tokenizer: Tokenizer, budget: int, *, in_reasoning: bool) -> None:
        self._budget = whole_number("thinking_budget", budget, 0)
        self._active = in_reasoning
        self._end_think = control_id(tokenizer, "</think>") if in_reasoning else None
        self._closing = tokenizer.encode("\n</think>\n\n")
        self._prompt: int | None = None
        self._ended = False

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Force the next token of the closing if it is due; the first call's history is the prompt."""
        self._prompt = tokens.shape[0] if self._prompt is None else self._prompt
        due = tokens.shape[0] - self._prompt - self._budget
        if not self._active or not 0 <= due < len(self._closing):
            return logits
        if due == 0:
            # The history is read this one time: its length says enough otherwise.
            self._ended = self._end_think in np.array(tokens[self._prompt :])
        if self._ended:
            return logits
        return _mask_logits(mx.arange(logits.shape[-1]) == self._closing[due], logits)

    def rewind(self, count: int) -> None:
        """Nothing: what it remembers is found again where the history has that length again."""


class MinTokens:
    """A logits processor that forbids to end an answer before it has a number of tokens.

    It yields to a grammar behind whose end nothing else may follow.

    Args:
        count: Tokens that the answer has at least, its end-of-sequence token not among them.
        ends: The end-of-sequence tokens.
    Source:
        vLLM, `SamplingParams.min_tokens`.
    """

    def __init__(self, count: int, ends: Collection[int]) -> None:
        self.count, self._ends = count, sorted(ends)

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Logits (1, V); the history is the prompt's last token and the answer so far."""
        if tokens.shape[0] - 1 >= self.count:
            return logits
        others = mx.array(logits)
        others[:, mx.array(self._ends)] = -float("inf")
        return mx.where(others.max() > -float("inf"), others, logits)


def _mask_logits(allowed: mx.array, logits: mx.array) -> mx.array:
    return mx.where(allowed, logits, -float("inf"))


def control_id(tokenizer: Tokenizer, token: str) -> int:
    """Of a control token.

    Raises:
        OptionError: The tokenizer has none of that name.
    """
    found = tokenizer.control_id(token)
    if found is None:
        raise OptionError(f"the checkpoint's tokenizer has no {token}")
    return found


def error_message(error: str) -> str:
    """What llguidance says, without the place in a grammar that no caller has seen."""
    text = " ".join(_GRAMMAR_TEXT.sub("", error.replace("<non-verbose/>", "")).split())
    # What it says of a grammar whose rules are each other's beginning.
    text = text.replace("NoExtensionBias", "Unsatisfiable schema: a reference leads back to itself")
    # An option of llguidance's that no caller has.
    return text.replace("Enable 'coerce_one_of' option to approximate oneOf with anyOf", "Send anyOf in its place")
