"""A head of its own for a decoder whose embedding is its head too."""

from typing import Any

import mlx.nn as nn


def untie(decoder: Any) -> None:
    """Give a decoder a head that begins as its embedding, whose arrays it shares; in place.

    Args:
        decoder: mlx-lm's TextModel, or a subclass of it.
    """
    embedding = decoder.model.embed_tokens
    if isinstance(embedding, nn.QuantizedEmbedding):
        settings = {"group_size": embedding.group_size, "bits": embedding.bits, "mode": embedding.mode}
        # Of any size: its weights are replaced.
        head: Any = nn.QuantizedLinear(512, 1, bias=False, **settings)
        head.scales, head.biases = embedding.scales, embedding.get("biases")
    else:
        head = nn.Linear(1, 1, bias=False)
    head.weight = embedding.weight
    decoder.lm_head = head
    decoder.args.tie_word_embeddings = False
