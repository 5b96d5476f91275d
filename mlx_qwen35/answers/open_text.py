"""Text inside a grammar that need not be followed token by token."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.prompts.tokenizer import Tokenizer


class OpenText:
    """Text of any length that a line ends, as a tool call's value is.

    Nearly everywhere in it all text is allowed. So the grammar need not follow it, which would take a mask of the
    whole vocabulary for each token, nor need anybody wait for a token to say what may come next: only a line that is
    the beginning of the one that ends it is looked at.

    Args:
        begins: What is allowed where it begins, a boolean for each id: all that begins with a whole character.
        free: The same and parts of characters.
        end: The line that ends it, without the newline before it.
        tokenizer: Whose tokens they are.
        vocabulary: Its tokens, as its file writes them.
    Raises:
        ValueError: A token says so much at once that it has to be known what precedes it.
    """

    def __init__(
        self,
        begins: NDArray[np.bool_],
        free: NDArray[np.bool_],
        end: bytes,
        tokenizer: Tokenizer,
        vocabulary: Mapping[str, int],
    ) -> None:
        self.begins = begins
        self.free = mx.array(free)
        self._allowed = free
        self._end = end
        self._tokenizer = tokenizer
        # Of a large vocabulary, those alone that can matter: in files a newline is "Ċ", or a byte's number.
        rests = tuple(end[length:].decode() for length in range(len(end)))
        marks = ("Ċ", "\n", "<0x0A>")
        found = [token for piece, token in vocabulary.items()
                 if piece.startswith(rests) or any(mark in piece for mark in marks)]  # fmt: skip
        pieces = [tokenizer.token_bytes(token) for token in found]
        # Behind these lines some tokens would end the text, and go on with what may not follow.
        self._near = {end} | {
            end[:length]
            for length in range(len(end))
            if any(piece.startswith(end[length:]) and len(piece) > len(end) - length for piece in pieces)
        }
        if any(piece.rpartition(b"\n")[2] in self._near for piece in pieces if b"\n" in piece):
            raise ValueError("a token of a newline and the beginning of the line that ends a text")

    def allows(self, token: int) -> bool:
        return bool(self._allowed[token])

    def line_behind(self, line: bytes, token: int) -> bytes:
        """The line that a token goes on with, as far as it matters."""
        return (line + self._tokenizer.token_bytes(token)).rpartition(b"\n")[2][: len(self._end) + 1]

    def may_end(self, line: bytes) -> bool:
        """Whether a line is the beginning of the one that ends the text, or that."""
        return self._end.startswith(line)

    def is_near(self, line: bytes) -> bool:
        """Whether the grammar has to say what may follow a line."""
        return line in self._near

    def tokens(self, line: bytes) -> list[int]:
        """Such a line, with the newline before it."""
        return self._tokenizer.encode_text("\n" + line.decode())
