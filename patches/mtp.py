"""The multi-token-prediction (MTP) module: one more decoder layer that predicts the token after the next one.

From the decoder's final hidden state of token i and the embedding of token i + 1 it makes a hidden state from which the
decoder's own head reads a draft of token i + 2. Its own output stands in for the decoder's where a further draft is
wanted.
"""

from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_attention_mask

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.mtp_heads import MtpHead
from mlx_qwen35.patches.compiled_step import CompiledStep
from mlx_qwen35.patches.qwen3_5 import PatchedDecoderLayer, TextModelArgs
from mlx_qwen35.state.cache import AttentionCache


class MultiTokenPrediction(nn.Module):
    """The layers of an MTP head; embedding and vocabulary projection are the decoder's.

    Args:
        layers: Decoder layers with attention, one in every published checkpoint.
    Source:
        vLLM's and mlx-vlm 0.7.10's reading of `mtp.*`: speculative/drafters/qwen3_5_mtp/qwen3_5_mtp.py.
    """

    def __init__(self, args: TextModelArgs, layers: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        hidden, eps = args.hidden_size, args.rms_norm_eps
        self.fc = nn.Linear(2 * hidden, hidden, bias=False)
        self.pre_fc_norm_embedding = nn.RMSNorm(hidden, eps=eps)
        self.pre_fc_norm_hidden = nn.RMSNorm(hidden, eps=eps)
        self.layers = [PatchedDecoderLayer(args, "full_attention") for _ in range(layers)]
        self.norm = nn.RMSNorm(hidden, eps=eps)

    @classmethod
    def from_head(cls, config: ModelConfig, head: MtpHead) -> Self:
        """With the weights of a head, which stay on disk until `materialise`; only on the thread that owns MLX."""
        tensors = {name.removeprefix("mtp."): value for name, value in head.tensors.items()}
        layers = {name.split(".")[1] for name in tensors if name.startswith("layers.")}
        module = cls(TextModelArgs.from_config(config, exact=False, gated_delta="native"), len(layers))

        def quantised(path: str, _: nn.Module) -> bool | dict[str, Any]:
            return head.quantisation.get(f"mtp.{path}", False)

        nn.quantize(module, class_predicate=quantised)
        module.eval()
        module.load_weights(list(tensors.items()))
        # As in `qwen3_5.Model`.
        module._half_offsets = {name.removeprefix("mtp."): value for name, value in head.half_offsets.items()}
        return module

    def make_cache(self) -> list[AttentionCache]:
        """One empty cache per layer."""
        return [AttentionCache() for _ in self.layers]

    def __call__(self, embeddings: mx.array, hidden: mx.array, caches: Sequence[Any]) -> mx.array:
        """What to read drafts from, (B, L, hidden_size).

        Args:
            embeddings: Of the tokens i + 1, (B, L, hidden_size).
            hidden: Of the tokens i, after the decoder's final norm, or this module's own output; the same shape.
            caches: One per layer; they stand at the first token i, whose position it has in the decoder too.
        """
        return self.norm(self.read(self.join(embeddings, hidden), caches))  # type: ignore[no-any-return]

    def join(self, embeddings: mx.array, hidden: mx.array) -> mx.array:
        """What the layers read, (B, L, hidden_size)."""
        joined = [self.pre_fc_norm_embedding(embeddings), self.pre_fc_norm_hidden(hidden)]
        return self.fc(mx.concatenate(joined, axis=-1))

    def read(self, x: mx.array, caches: Sequence[Any]) -> mx.array:
        """The layers, (B, L, hidden_size) to the same."""
        mask = create_attention_mask(x, caches[0])
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, mask, cache)
        return x


class DraftSteps:
    """What of a draft always has the same shapes, compiled: all but the module's layers, which do that for themselves.

    Args:
        module: A `MultiTokenPrediction`.
        language_model: The decoder, whose embedding and vocabulary projection the module uses.
    """

    def __init__(self, module: MultiTokenPrediction, language_model: Any) -> None:
        self._module, self._language_model = module, language_model
        weights = [module, language_model.model.embed_tokens, language_model.get("lm_head", {})]
        self._before, self._after = (CompiledStep(step, inputs=weights) for step in (self._join, self._choose))

    def read(self, following: mx.array, hidden: mx.array, caches: Sequence[Any]) -> mx.array:
        """What the layers make of pairs, (B, L, hidden_size).

        Args:
            following: Tokens i + 1, (B, L).
            hidden: As the module's.
        """
        return self._module.read(self._before(following, hidden), caches)

    def choose(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Of what the layers made of one pair (B, 1, hidden_size): the output, and the likeliest token (B, 1)."""
        return self._after(x)  # type: ignore[no-any-return]

    def _join(self, following: mx.array, hidden: mx.array) -> mx.array:
        return self._module.join(self._language_model.model.embed_tokens(following), hidden)

    def _choose(self, x: mx.array) -> tuple[mx.array, mx.array]:
        out = self._module.norm(x)
        return out, mx.argmax(self._language_model.project(out), axis=-1)
