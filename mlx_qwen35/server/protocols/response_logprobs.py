"""Log probabilities beside the text of a response's message."""

from typing import Any

from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.server.generation import DeltaEvent
from mlx_qwen35.server.protocols.common import delta_logprob


class MessageLogprobs:
    """Those of the tokens that a message's text is of, which may come later than they do.

    Reasoning, newlines behind it, calls of functions, stop strings and the token that ends the answer are no part of
    the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Of tokens whose text has not come yet: part of a character, or perhaps the beginning of a call or stop string.
        self._waiting: list[dict[str, Any]] = []

    def add(self, delta: DeltaEvent, *, begun: bool) -> list[dict[str, Any]]:
        """Those that belong to the delta's text.

        Args:
            begun: Some of the message's text has come before.
        """
        found = delta_logprob(delta, self._tokenizer)
        if found is None:
            return []
        if delta.chunk.in_reasoning:
            self.drop()
            return []
        # One that ends the answer is no text of it.
        if delta.chunk.finish_reason != "stop" or delta.chunk.stop_string is not None:
            self._waiting.append(found)
        if not begun and not delta.text and not found["token"].strip("\n"):
            self.drop()
        if not delta.text:
            return []
        complete, self._waiting = self._waiting, []
        return complete

    def drop(self) -> None:
        """What waited was no text of a message."""
        self._waiting = []
