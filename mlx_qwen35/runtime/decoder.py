"""The model as the runtime uses it, with the module that drafts for it where there is one."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_qwen35.patches.mtp import DraftSteps
from mlx_qwen35.patches.operations import Operations
from mlx_qwen35.state.kv_quantization import KvQuantization, quantized
from mlx_qwen35.state.sequence import SequenceState

# The module's output (B, 1, hidden_size) at a pair, and the token (B, 1) that it drafts from it.
Seed = tuple[mx.array, mx.array]


class Decoder:
    """Reads prompts, and verifies and makes drafts.

    A state has one cache per layer of the model, and behind them those of the module, which reads pairs of a
    hidden state and the token that follows. At rest it has read as many as the model has tokens.

    Args:
        model: A `patches.qwen3_5.Model`.
        module: A `patches.mtp.MultiTokenPrediction`; None makes no drafts.
        kv: How keys and values are quantised; None for not at all.
    """

    def __init__(self, model: Any, module: Any = None, kv: KvQuantization | None = None) -> None:
        self.model, self.module, self.kv = model, module, kv
        layers = len(model.layers)
        self._own, self._of_module = slice(layers), slice(layers, None)
        self._drafting = None if module is None else DraftSteps(module, model.language_model)

    @property
    def operations(self) -> Operations:
        """Those of the model's layers."""
        return self.model.language_model.args.operations  # type: ignore[no-any-return]

    def make_state(self) -> SequenceState:
        """That of a sequence of which nothing is read."""
        caches = self.model.make_cache()
        return SequenceState(quantized(caches if self.module is None else caches + self.module.make_cache(), self.kv))

    def read(self, tokens: mx.array, following: mx.array, state: SequenceState) -> mx.array:
        """Read a chunk of every prompt; nothing is computed yet.

        Args:
            tokens, following: (B, L) each; the second stand one place further on in the prompt.
        Returns:
            Hidden states (B, L, hidden_size); of a model without a module, what they alone need is computed only for
            whoever looks at them.
        """
        hidden = self._hidden(tokens, state)
        if self.module is not None:
            self.module(self._embedded(following), hidden, state.caches[self._of_module])
        return hidden

    def project(self, hidden: mx.array) -> mx.array:
        """Logits (B, L, V) of hidden states (B, L, hidden_size)."""
        return self.model.language_model.project(hidden)  # type: ignore[no-any-return]

    def step(self, tokens: mx.array, state: SequenceState) -> tuple[mx.array, mx.array | None]:
        """Read a few tokens of every row, of which `settle` will say how many stay.

        Args:
            tokens: (B, L).
        Returns:
            Logits (B, L, V); and, for the module, hidden states (B, L, hidden_size).
        """
        if tokens.shape[1] > 1:
            state.begin_step(self._own)
        if self.module is None:
            return self.model(tokens, cache=state.caches), None
        hidden = self._hidden(tokens, state)
        return self.project(hidden), hidden

    def settle(self, state: SequenceState, length: int, kept: Sequence[int]) -> None:
        """Of the `length` tokens of the last step keep the first `kept[row]` of every row, at least one."""
        if length > 1:
            state.settle(length, kept, self._own)

    def follow(self, following: mx.array, hidden: mx.array, state: SequenceState) -> Seed:
        """Let the module read pairs that stay, any number of them.

        Args:
            following: (B, L), each the token behind the one that the hidden state (B, L, hidden_size) is of.
        Returns:
            What the module makes of the last one.
        """
        assert self._drafting is not None
        # Any number of them, which is why nothing is compiled for it.
        read = self.module.read(self.module.join(self._embedded(following), hidden), state.caches[self._of_module])
        return self._drafting.choose(read[:, -1:])

    def read_pairs(self, following: mx.array, hidden: mx.array, state: SequenceState) -> mx.array:
        """Let the module read a step's pairs, of which `settle_pairs` will say how many stay; see `follow`."""
        assert self._drafting is not None
        state.begin_step(self._of_module)
        return self._drafting.read(following, hidden, state.caches[self._of_module])

    def settle_pairs(self, read: mx.array, kept: Sequence[int], state: SequenceState) -> Seed:
        """Of the pairs that `read_pairs` has read keep the first `kept[row]` of every row, at least one.

        Returns:
            What the module makes of the last one of each row.
        """
        assert self._drafting is not None
        state.settle(read.shape[1], kept, self._of_module)
        if min(kept) == max(kept):
            return self._drafting.choose(read[:, kept[0] - 1 : kept[0]])
        return self._drafting.choose(mx.take_along_axis(read, mx.array(list(kept))[:, None, None] - 1, axis=1))

    def draft(self, seed: Seed, depth: int, state: SequenceState) -> mx.array:
        """Drafts (B, depth) for the tokens to come, the likeliest at each place.

        Args:
            seed: From the newest pair.
        """
        assert self._drafting is not None
        hidden, draft = seed
        drafts = [draft]
        state.begin_step(self._of_module)
        while len(drafts) < depth:
            hidden, draft = self._drafting.choose(
                self._drafting.read(drafts[-1], hidden, state.caches[self._of_module])
            )
            drafts.append(draft)
        state.settle(depth - 1, [0] * draft.shape[0], self._of_module)
        return mx.concatenate(drafts, axis=1)

    def _embedded(self, tokens: mx.array) -> mx.array:
        return self.model.language_model.model.embed_tokens(tokens)  # type: ignore[no-any-return]

    def _hidden(self, tokens: mx.array, state: SequenceState) -> mx.array:
        hidden: mx.array = self.model.language_model.model(tokens, state.caches[self._own])
        return hidden
