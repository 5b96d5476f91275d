"""The model as the runtime uses it, with the module that guesses ahead of it where there is one."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_qwen35.state.kv_quantization import KvQuantization, quantized
from mlx_qwen35.state.sequence import SequenceState


class Decoder:
    """Reads prompts, and verifies and makes guesses.

    A state has one cache per layer of the model, and behind them those of the module, which reads pairs of a
    hidden state and the token that follows. At rest it has read as many as the model has tokens.

    Args:
        model: A `patches.qwen3_5.Model`.
        module: A `patches.mtp.MultiTokenPrediction`; None makes no guesses.
        kv: How keys and values are quantised; None for not at all.
    """

    def __init__(self, model: Any, module: Any = None, kv: KvQuantization | None = None) -> None:
        self.model, self.module, self.kv = model, module, kv
        layers = len(model.layers)
        self._own, self._of_module = slice(layers), slice(layers, None)

    def make_state(self) -> SequenceState:
        """That of a sequence of which nothing is read."""
        caches = self.model.make_cache()
        return SequenceState(quantized(caches if self.module is None else caches + self.module.make_cache(), self.kv))

    def read(self, tokens: mx.array, following: mx.array, state: SequenceState) -> None:
        """Read a chunk of every prompt; nothing is computed yet.

        Args:
            tokens, following: (B, L) each; the second stand one place further on in the prompt.
        """
        if self.module is None:
            # The logits are never evaluated, so the vocabulary projection is not computed.
            self.model(tokens, cache=state.caches)
        else:
            self._guess_from(following, self._hidden(tokens, state), state)

    def step(self, tokens: mx.array, state: SequenceState) -> tuple[mx.array, mx.array | None]:
        """Read a few tokens of every row, of which `settle` will say how many stay.

        Args:
            tokens: (B, L).
        Returns:
            Logits (B, L, V); and, for `follow`, hidden states (B, L, hidden_size).
        """
        if tokens.shape[1] > 1:
            state.begin_step(self._own)
        if self.module is None:
            return self.model(tokens, cache=state.caches), None
        hidden = self._hidden(tokens, state)
        return self.model.language_model.project(hidden), hidden

    def settle(self, state: SequenceState, length: int, kept: Sequence[int]) -> None:
        """Of the `length` tokens of the last step keep the first `kept[row]` of every row, at least one."""
        if length > 1:
            state.settle(length, kept, self._own)

    def follow(
        self, following: mx.array, hidden: mx.array, kept: Sequence[int] | None, state: SequenceState
    ) -> mx.array:
        """Let the module read pairs.

        Args:
            following: (B, L), each the token behind the one that the hidden state (B, L, hidden_size) is of.
            kept: Of each row, how many of its pairs are right, at least one; None for all.
        Returns:
            The module's output at the last right one, (B, 1, hidden_size).
        """
        if kept is None:
            # Any number of them, which is why no step is compiled for it.
            return self._guess_from(following, hidden, state)[:, -1:]
        state.begin_step(self._of_module)
        out = self._guess_from(following, hidden, state)
        state.settle(following.shape[1], kept, self._of_module)
        return mx.take_along_axis(out, mx.array(list(kept))[:, None, None] - 1, axis=1)

    def draft(self, seed: mx.array, depth: int, state: SequenceState) -> mx.array:
        """Guesses (B, depth) for the tokens to come, the likeliest at each place.

        Args:
            seed: The module's output (B, 1, hidden_size) at the newest pair.
        """
        rows = seed.shape[0]
        drafts = [self._likeliest(seed)]
        state.begin_step(self._of_module)
        while len(drafts) < depth:
            seed = self._guess_from(drafts[-1], seed, state)
            drafts.append(self._likeliest(seed))
        state.settle(depth - 1, [0] * rows, self._of_module)
        return mx.concatenate(drafts, axis=1)

    def _likeliest(self, hidden: mx.array) -> mx.array:
        return mx.argmax(self.model.language_model.project(hidden), axis=-1)

    def _hidden(self, tokens: mx.array, state: SequenceState) -> mx.array:
        hidden: mx.array = self.model.language_model.model(tokens, state.caches[self._own])
        return hidden

    def _guess_from(self, following: mx.array, hidden: mx.array, state: SequenceState) -> mx.array:
        embeddings = self.model.language_model.model.embed_tokens(following)
        out: mx.array = self.module(embeddings, hidden, state.caches[self._of_module])
        return out
