"""All that learns, and what its losses are."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import Qwen3_5Config

from tools.box.batches import Batch
from tools.box.forward import Tower, decode, tokens_of
from tools.box.network import MultiTokenPrediction, make_model
from tools.box.tower import Seen, Told


class Trained(nn.Module):
    """All that learns: the model, its MTP module, and the heads that are only there in training."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.model = make_model(config)
        self.mtp = MultiTokenPrediction(config)
        self.told = Told()
        self.seen = Seen(self.model)
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
        """Of a batch of dialogues: answers, MTP's guesses, what tokens are asked and what the tower is told.

        The tower's blocks learn from what they are told alone: a tower that learns along with the decoder comes to tell
        it where everything is, and then multimodal positions carry nothing: a runtime that gets them wrong would go
        unnoticed. Only the merger, which looks at one token at a time, learns from the answers too.
        """
        found, merged = {}, None
        if "frames" in batch:
            hidden = self.tower.blocks(batch["frames"], batch["pairs"], batch["grids"])
            found["tower"], found["tower_right"] = self.told(tokens_of(self.tower.merge(hidden), batch), batch["told"])
            merged = self.tower.merge(hidden.detach())
        found |= self._said(batch, merged)
        if merged is not None:
            found["seen"] = self.seen(batch["seen"], batch["seen_at"])
        return found

    def answers_alone(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Of a batch of dialogues: answers and MTP's guesses; the tower is as it is, and nothing else is asked."""
        merged = None
        if "frames" in batch:
            with torch.no_grad():
                merged = self.tower.merge(self.tower.blocks(batch["frames"], batch["pairs"], batch["grids"]))
        return self._said(batch, merged)

    def _said(self, batch: Batch, merged: torch.Tensor | None) -> dict[str, torch.Tensor]:
        found = {}
        hidden = decode(self.model, batch, merged)
        width = hidden.shape[-1]
        logits = self.model.lm_head(hidden.reshape(-1, width)[batch["at"]])
        found["loss"] = functional.cross_entropy(logits.float(), batch["target"])
        found["right"] = (logits.argmax(-1) == batch["target"]).float().mean()
        logits = self.model.lm_head(self.ahead(batch, hidden).reshape(-1, width)[batch["mtp_at"]])
        found["mtp"] = functional.cross_entropy(logits.float(), batch["mtp_target"])
        found["mtp_right"] = (logits.argmax(-1) == batch["mtp_target"]).float().mean()
        return found

    def ahead(self, batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
        """MTP's hidden states from the decoder's, (B, S, H): what it makes of every token and the one behind it."""
        inner = self.model.model.language_model
        rotary = inner.rotary_emb(hidden, batch["position_ids"])
        found: torch.Tensor = self.mtp(inner.embed_tokens(batch["input_ids"].roll(-1, 1)), hidden, rotary)
        return found


def load(directory: Path) -> Trained:
    """A finished checkpoint, in float32, on the CPU."""
    trained = Trained(Qwen3_5Config.from_pretrained(directory))
    trained.start_from(directory)
    trained.tower.prepare(torch.device("cpu"))
    return trained
