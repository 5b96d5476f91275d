"""The reference's modules over padded batches: what transformers computes picture by picture, all at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen3_5.modeling_qwen3_5 import apply_rotary_pos_emb
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from tools.box.lean import causal_convolution, delta_rule, fused
from tools.box.prepare import MERGE, MOST_PATCHES

Tensors = dict[str, torch.Tensor]


class Tower:
    """A vision tower over pictures of different shapes, padded to one number of patches.

    Args:
        visual: transformers' vision tower; its position embeddings are taken as fixed.
    """

    def __init__(self, visual: nn.Module) -> None:
        self.visual: Any = visual
        self._known: dict[tuple[int, int], int] = {}
        self._table: list[torch.Tensor] = []

    def blocks(self, frames: torch.Tensor, pairs: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        """What the last block gives, before the merger.

        Args:
            frames: Bytes of patches in merge order, (F, P, 3 * patch_size ** 2).
            pairs: The two frames of every picture, (N, 2).
            grids: Rows and columns of tokens of every picture.
        Returns:
            Shape (N, P, C); beyond a picture's own patches there is nothing of use.
        """
        count, size = len(pairs), frames.shape[1]
        two = frames[pairs.flatten()].view(count, 2, size, 3, -1)
        pixels = two.permute(0, 2, 3, 1, 4).reshape(count, size, -1).float() / 127.5 - 1
        proj = self.visual.patch_embed.proj
        position, cos, sin, lengths = self._places_of(grids, size)
        mask = (torch.arange(size, device=frames.device) < lengths[:, None])[:, None, None]
        hidden = functional.linear(pixels, proj.weight.flatten(1), proj.bias) + position
        for block in self.visual.blocks:
            found = functional.scaled_dot_product_attention(*_block_qkv(block, hidden, cos, sin), attn_mask=mask)
            hidden = _block_output(block, hidden, found.transpose(1, 2))
        return hidden

    def merge(self, hidden: torch.Tensor) -> torch.Tensor:
        """Tokens for the decoder: (N, P, C) to (N, P / 4, H)."""
        count, size, _ = hidden.shape
        merged: torch.Tensor = self.visual.merger(hidden.reshape(count * size, -1))
        return merged.view(count, size // MERGE**2, -1)

    def prepare(self, device: torch.device) -> None:
        """Places of the patches of every grid that pictures are brought to, so that no batch has to wait for them."""
        grids = [(rows, columns) for rows in range(1, 41) for columns in range(1, 41) if _fits(rows, columns)]
        self._known = {grid: number for number, grid in enumerate(grids)}
        self._table = [torch.stack(part).to(device) for part in zip(*map(self._place, grids), strict=True)]

    def _places_of(self, grids: Sequence[tuple[int, int]], size: int) -> tuple[torch.Tensor, ...]:
        """Position embeddings, rotary factors and numbers of patches of pictures."""
        device = self._table[0].device
        # A loader's workers hand lists on.
        chosen = torch.tensor([self._known[rows, columns] for rows, columns in grids]).to(device, non_blocking=True)
        position, cos, sin, lengths = (part[chosen] for part in self._table)
        return position[:, :size], cos[:, :size].contiguous(), sin[:, :size].contiguous(), lengths

    def _place(self, grid: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        thw = torch.tensor([[1, MERGE * grid[0], MERGE * grid[1]]])
        indices, weights = get_vision_interpolation_indices_and_weights(
            thw, num_grid_per_side=self.visual.num_grid_per_side, mode="bilinear", align_corners=True,
            spatial_merge_size=MERGE, kwargs={},
        )  # fmt: skip
        embeddings = self.visual.pos_embed.weight.detach().cpu()
        position = (embeddings[indices] * weights[:, :, None]).sum(1)
        cos, sin = self.visual.rotary_pos_emb(embeddings, get_vision_position_ids(thw, MERGE, kwargs={}))
        room = (0, 0, 0, MOST_PATCHES - len(position))
        parts = (functional.pad(part, room) for part in (position, cos, sin))
        return (*parts, torch.tensor(len(position)))


def _fits(rows: int, columns: int) -> bool:
    return MERGE**2 * rows * columns <= MOST_PATCHES and max(rows, columns) <= 8 * min(rows, columns)


@fused
def _block_qkv(block: Any, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Query, key and value of a block of the tower, (N, heads, P, D); hidden (N, P, C), rotary factors (N, P, D)."""
    count, size, _ = hidden.shape
    qkv = block.attn.qkv(block.norm1(hidden)).view(count, size, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key = _turned(qkv[:2], cos[:, None], sin[:, None])
    return query, key, qkv[2].contiguous()


@fused
def _block_output(block: Any, hidden: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """The rest of the block, from what its attention found, (N, P, heads, D)."""
    hidden = hidden + block.attn.proj(found.flatten(2))
    seen: torch.Tensor = hidden + block.mlp(block.norm2(hidden))
    return seen


def _turned(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = heads.float().chunk(2, dim=-1)
    return (heads * cos + torch.cat([-second, first], dim=-1) * sin).to(heads.dtype)


def tokens_of(merged: torch.Tensor, batch: Tensors) -> torch.Tensor:
    """The pictures' own tokens in the order of their placeholders: (N, T, H) to (M, H)."""
    return merged.reshape(-1, merged.shape[-1])[batch["own"]]


def decode(model: nn.Module, batch: Tensors, merged: torch.Tensor | None) -> torch.Tensor:
    """The decoder's final hidden states, (B, S, H)."""
    return layers_of(model, batch, merged)[-1]


def layers_of(model: nn.Module, batch: Tensors, merged: torch.Tensor | None) -> list[torch.Tensor]:
    """What every layer of the decoder gives, (B, S, H), and at the end its final hidden states.

    Args:
        merged: The pictures' tokens, which come to their places.
    """
    inner: Any = model.model.language_model
    hidden = inner.embed_tokens(batch["input_ids"])
    if merged is not None:
        flat = hidden.reshape(-1, hidden.shape[-1])
        hidden = flat.index_copy(0, batch["places"], tokens_of(merged, batch).to(flat.dtype)).view_as(hidden)
    rotary = inner.rotary_emb(hidden, batch["position_ids"])
    found = []
    for layer in inner.layers:
        if layer.block_type == "linear_attention":
            *parts, gate = _gdn_inputs(layer, hidden)
            hidden = _gdn_output(layer, hidden, delta_rule(*parts), gate)
        else:
            # Padding stands at the end, where no token looks.
            query, key, value, gate = attention_qkv(layer, hidden, *rotary)
            attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            hidden = attention_output(layer, hidden, attended.transpose(1, 2), gate)
        found.append(hidden)
    return [*found, inner.norm(hidden)]


@fused
def _gdn_inputs(layer: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Query, key and value, (B, S, heads, D), the decay's logarithm and beta, (B, S, heads), and the output's gate."""
    mixer, normed = layer.linear_attn, layer.input_layernorm(hidden)
    mixed = causal_convolution(mixer.in_proj_qkv(normed), mixer.conv1d.weight.squeeze(1))
    widths = (mixer.key_dim, mixer.key_dim, mixer.value_dim)
    query, key, value = (part.unflatten(-1, (-1, mixer.head_v_dim)) for part in mixed.split(widths, -1))
    decay = -mixer.A_log.exp() * functional.softplus(mixer.in_proj_a(normed).float() + mixer.dt_bias)
    beta = mixer.in_proj_b(normed).float().sigmoid()
    gate = mixer.in_proj_z(normed).unflatten(-1, (-1, mixer.head_v_dim))
    return query.contiguous(), key.contiguous(), value.contiguous(), decay, beta, gate


@fused
def _gdn_output(layer: Any, hidden: torch.Tensor, found: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """The rest of a GDN layer, from what the delta rule gave, (B, S, heads, D)."""
    hidden = hidden + layer.linear_attn.out_proj(layer.linear_attn.norm(found, gate).flatten(2))
    rest: torch.Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return rest


@fused
def attention_qkv(layer: Any, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of a layer of full attention query, key and value, (B, heads, S, D), and the output's gate, (B, S, heads * D)."""
    mixer, normed = layer.self_attn, layer.input_layernorm(hidden)
    query, gate = mixer.q_proj(normed).unflatten(-1, (-1, 2 * mixer.head_dim)).chunk(2, -1)
    key, value = (part(normed).unflatten(-1, (-1, mixer.head_dim)) for part in (mixer.k_proj, mixer.v_proj))
    query, key = mixer.q_norm(query).transpose(1, 2), mixer.k_norm(key).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    key, value = (part.repeat_interleave(mixer.num_key_value_groups, 1) for part in (key, value.transpose(1, 2)))
    return query.to(value.dtype), key.to(value.dtype), value, gate.flatten(2)


@fused
def attention_output(layer: Any, hidden: torch.Tensor, found: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """The rest of the layer, from what its attention found, (B, S, heads, D)."""
    hidden = hidden + layer.self_attn.o_proj(found.flatten(2) * gate.sigmoid())
    rest: torch.Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return rest
