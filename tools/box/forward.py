"""The reference's modules over padded batches: what transformers computes picture by picture, all at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

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
            hidden = hidden + self._attend(block.attn, block.norm1(hidden), cos, sin, mask)
            hidden = hidden + block.mlp(block.norm2(hidden))
        return hidden

    def merge(self, hidden: torch.Tensor) -> torch.Tensor:
        """Tokens for the decoder: (N, P, C) to (N, P / 4, H)."""
        count, size, _ = hidden.shape
        merged: torch.Tensor = self.visual.merger(hidden.reshape(count * size, -1))
        return merged.view(count, size // MERGE**2, -1)

    def _attend(
        self, attention: Any, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        count, size, width = hidden.shape
        qkv = attention.qkv(hidden).view(count, size, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key = _turned(qkv[:2], cos, sin)
        found = functional.scaled_dot_product_attention(query, key, qkv[2], attn_mask=mask)
        turned: torch.Tensor = attention.proj(found.transpose(1, 2).reshape(count, size, width))
        return turned

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
        return position[:, :size], cos[:, :, :size], sin[:, :, :size], lengths

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
        parts = (functional.pad(part, room) for part in (position, cos[None], sin[None]))
        return (*parts, torch.tensor(len(position)))


def _fits(rows: int, columns: int) -> bool:
    return MERGE**2 * rows * columns <= MOST_PATCHES and max(rows, columns) <= 8 * min(rows, columns)


def _turned(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = heads.float().chunk(2, dim=-1)
    return (heads * cos + torch.cat([-second, first], dim=-1) * sin).to(heads.dtype)


def tokens_of(merged: torch.Tensor, batch: Tensors) -> torch.Tensor:
    """The pictures' own tokens in the order of their placeholders: (N, T, H) to (M, H)."""
    return merged.reshape(-1, merged.shape[-1])[batch["own"]]


def decode(model: nn.Module, batch: Tensors, merged: torch.Tensor | None) -> torch.Tensor:
    """The decoder's final hidden states, (B, S, H), with the pictures' tokens in their places."""
    inner: Any = model.model
    embeds = inner.language_model.embed_tokens(batch["input_ids"])
    if merged is not None:
        flat = embeds.reshape(-1, embeds.shape[-1])
        embeds = flat.index_copy(0, batch["places"], tokens_of(merged, batch).to(flat.dtype)).view_as(embeds)
    hidden: torch.Tensor = inner.language_model(
        inputs_embeds=embeds, position_ids=batch["position_ids"], use_cache=False
    ).last_hidden_state
    return hidden
