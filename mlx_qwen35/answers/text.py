"""From generated tokens to text: reasoning, answer, stop strings."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_qwen35.errors import OptionError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.tokenizer import Tokenizer

# Each is looked for behind every token, while other answers wait.
MAX_STOPS = 256


@dataclass(frozen=True)
class Piece:
    """What one token adds.

    Args:
        text: New text of the answer.
        reasoning: New text of the reasoning.
        stopped: Whether a stop string or a token that ends it, as that of the sequence's end, ended the answer.
        stop_string: The stop string that did.
    """

    text: str = ""
    reasoning: str = ""
    stopped: bool = False
    stop_string: str | None = None

    def __add__(self, later: "Piece") -> "Piece":
        return Piece(
            self.text + later.text,
            self.reasoning + later.reasoning,
            self.stopped or later.stopped,
            self.stop_string or later.stop_string,
        )


def check_stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings as callers give them: none, one, or a list.

    Raises:
        OptionError: One is empty or no string, or there are too many.
    """
    if stop is None:
        return ()
    strings = [stop] if isinstance(stop, str) else stop
    if not isinstance(strings, Sequence) or any(not isinstance(text, str) or not text for text in strings):
        raise OptionError(f"stop: expected strings of at least one character, found {shorten(repr(stop))}")
    if len(strings) > MAX_STOPS:
        raise OptionError(f"stop: expected at most {MAX_STOPS} strings, found {len(strings)}")
    return tuple(strings)


class AnswerText:
    """Splits one stream of tokens into reasoning and answer, and watches for its end.

    Reasoning stands between the control tokens `<think>` and `</think>`; the same characters
    spelled out as text are text. Newlines around the block belong to neither side. Stop
    strings apply to the answer; text that may be the beginning of one is held back.

    Args:
        in_reasoning: The prompt ends inside an open `<think>`.
        stop: Strings that end the answer; they are not part of it.
        min_tokens: So many tokens have to come before a stop string counts.
        ends: Tokens that end the answer as an end-of-sequence token does.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, in_reasoning: bool = False, stop: tuple[str, ...] = (), min_tokens: int = 0,
        ends: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer()
        self._think = tokenizer.control_id("<think>")
        self._end_think = tokenizer.control_id("</think>")
        self._stop, self._ends = stop, ends | tokenizer.eos_token_ids
        self._tokens_until_stop = min_tokens
        self._in_reasoning = in_reasoning
        self._held = ""
        self._answer_begun = False
        self._skip_newlines = in_reasoning

    @property
    def in_reasoning(self) -> bool:
        """Whether the next token belongs to the reasoning."""
        return self._in_reasoning

    @property
    def held(self) -> int:
        """Characters of the answer that wait, because a stop string may begin with them."""
        return 0 if self._in_reasoning else len(self._held)

    def add(self, token: int) -> Piece:
        """The text that one more token gives; after `stopped` no token may follow."""
        if token in self._ends:
            return self._close(stopped=True)
        piece = self._add(token)
        self._tokens_until_stop -= 1
        return piece

    def _add(self, token: int) -> Piece:
        if token == self._end_think and self._in_reasoning:
            piece = self._take(self._detokenizer.flush())
            self._in_reasoning, self._skip_newlines = False, True
            return piece
        begun = self._answer_begun or self._detokenizer.pending or self._held.strip()
        if token == self._think and not self._in_reasoning and not begun:
            space, self._held, self._in_reasoning, self._skip_newlines = self._held, "", True, True
            return Piece(text=space)
        return self._take(self._detokenizer.add(token))

    def close(self) -> Piece:
        """The rest, when the answer ends without an end-of-sequence token."""
        return self._close(stopped=False)

    def _close(self, *, stopped: bool) -> Piece:
        return self._take(self._detokenizer.flush(), last=True) + Piece(stopped=stopped)

    def _take(self, text: str, *, last: bool = False) -> Piece:
        """Pass on what is safe of the held text and `text`; all of an answer's if it is the last."""
        text = self._held + text
        self._held = ""
        if self._skip_newlines:
            text = text.lstrip("\n")
            if not text:
                return Piece()
            self._skip_newlines = False
        if self._in_reasoning:
            # Newlines before </think> are dropped, so they wait for what follows.
            kept = text.rstrip("\n")
            self._held = text[len(kept) :]
            return Piece(reasoning=kept)
        stops = self._stop if self._tokens_until_stop <= 0 else ()
        found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            cut, stop = min(found)
            return Piece(text=text[:cut], stopped=True, stop_string=stop)
        hold = 0 if last else _possible_beginning(text, stops)
        self._held = text[len(text) - hold :]
        text = text[: len(text) - hold]
        self._answer_begun = self._answer_begun or bool(text.strip())
        return Piece(text=text)


def _possible_beginning(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that a stop string begins with."""
    for length in range(len(text) if stops else 0, 0, -1):
        tail = text[-length:]
        if any(stop.startswith(tail) for stop in stops):
            return length
    return 0
