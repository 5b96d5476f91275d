"""All that learns, and what its losses are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import Qwen3_5Config

from tools.box.batches import DEPTHS, Batch
from tools.box.forward import Tower, decode, layers_of, tokens_of
from tools.box.network import MultiTokenPrediction, make_model
from tools.box.tower import Seen, Told


class Trained(nn.Module):
    """All that learns: the model, its MTP module, and the heads that are only there in training."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.model = make_model(config)
        self.mtp = MultiTokenPrediction(config)
        self.told = Told()
        self.seen = Seen(self.model.config.text_config.layer_types)
        self.tower = Tower(self.model.model.visual)

    def start_from(self, directory: Path) -> None:
        """Take over a checkpoint's weights."""
        tensors = load_file(directory / "model.safetensors")
        own = {name.removeprefix("mtp."): value for name, value in tensors.items() if name.startswith("mtp.")}
        self.mtp.load_state_dict(own)
        decoder = {name: value for name, value in tensors.items() if not name.startswith("mtp.")}
        self.model.load_state_dict(decoder | {"lm_head.weight": decoder["model.language_model.embed_tokens.weight"]})

    def tower_loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """How well the tower knows what its tokens show."""
        hidden = self.tower.blocks(batch["frames"], batch["pairs"], batch["grids"])
        loss, right = self.told(tokens_of(self.tower.merge(hidden), batch), batch["told"])
        return {"tower": loss, "tower_right": right}

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Of a batch of dialogues: answers, MTP's drafts, what tokens are asked and what the tower is told.

        The tower's blocks learn from what they are told alone: a tower that learns along with the decoder comes to tell
        it where everything is, and then multimodal positions carry nothing: a runtime that gets them wrong would go
        unnoticed. Only the merger, which looks at one token at a time, learns from the answers too.
        """
        found, merged = {}, None
        if "frames" in batch:
            hidden = self.tower.blocks(batch["frames"], batch["pairs"], batch["grids"])
            found["tower"], found["tower_right"] = self.told(tokens_of(self.tower.merge(hidden), batch), batch["told"])
            merged = self.tower.merge(hidden.detach())
        layers = layers_of(self.model, batch, merged)
        found |= self._said(batch, layers[-1])
        if merged is not None:
            found["seen"] = self.seen(layers, batch["seen"], batch["seen_at"])
        return found

    def answers_alone(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Of a batch of dialogues: answers and MTP's drafts; the tower is as it is, and nothing else is asked."""
        return self._said(batch, decode(self.model, batch, self._shown(batch)))

    def drafts_alone(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Of a batch of dialogues: MTP's drafts; everything else is as it is."""
        with torch.no_grad():
            hidden = decode(self.model, batch, self._shown(batch))
        return self._drafted(batch, hidden)

    @torch.no_grad()
    def _shown(self, batch: Batch) -> torch.Tensor | None:
        if "frames" not in batch:
            return None
        return self.tower.merge(self.tower.blocks(batch["frames"], batch["pairs"], batch["grids"]))

    def _said(self, batch: Batch, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {}
        width = hidden.shape[-1]
        logits = self.model.lm_head(hidden.reshape(-1, width)[batch["at"]])
        found["loss"] = functional.cross_entropy(logits.float(), batch["target"])
        found["right"] = (logits.argmax(-1) == batch["target"]).float().mean()
        found |= self._drafted(batch, hidden)
        return found

    def _drafted(self, batch: Batch, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        """How far MTP's drafts are from what the decoder itself would write, over all places of a chain."""
        flat, losses, rights = hidden.reshape(-1, hidden.shape[-1]), [], []
        for at, drafted in self.drafts(batch, hidden):
            with torch.no_grad():
                wanted = self.model.lm_head(flat[at + 1]).float().softmax(-1)
            logits = self.model.lm_head(drafted).float()
            # A small batch may have no answer that is long enough for the last places.
            count = max(len(at), 1)
            losses.append(functional.cross_entropy(logits, wanted, reduction="sum") / count)
            rights.append((logits.argmax(-1) == wanted.argmax(-1)).float().sum() / count)
        # The first one is asked for in every step, the others where all before them were right.
        loss = (losses[0] + torch.stack(losses[1:]).mean()) / 2
        return {"mtp": loss, "mtp_right": torch.stack(rights)}

    def drafts(self, batch: Batch, hidden: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of every place of a chain: tokens whose next but one is drafted, (N,), and what to read drafts from, (N, H).

        Chains begin where the assistant writes, as when a runtime drafts.
        """
        inner, rows = self.model.model.language_model, batch["drafted"]
        hidden, following = hidden[:rows], inner.embed_tokens(batch["input_ids"][:rows].roll(-1, 1))
        rotary = inner.rotary_emb(hidden, batch["position_ids"][:, :rows])
        for at, draft in zip(batch["chains"], self.mtp(following, hidden, rotary, DEPTHS), strict=True):
            yield at, draft.reshape(-1, draft.shape[-1])[at]


def load(directory: Path) -> Trained:
    """A finished checkpoint, in float32, on the CPU."""
    trained = Trained(Qwen3_5Config.from_pretrained(directory))
    trained.start_from(directory)
    trained.tower.prepare(torch.device("cpu"))
    return trained
