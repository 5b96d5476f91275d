"""What the vision tower and the decoder are asked beside the answers, and how well they know it."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from tools.box.labels import LOOKS, SEEN, TOLD
from tools.box.network import HIDDEN

_WEIGHTS = {"cover kind": 0.5, "cover colour": 0.3, "here": 0.5, "ground": 0.2, "motion": 0.5}
# Few tokens hold a middle: those that do count as much as all the others together.
_RARE = ("kind", "here")


class Questions(nn.Module):
    """One linear layer that answers several multiple-choice questions, all in a few kernels.

    Args:
        classes: How many answers each question has.
    """

    def __init__(self, classes: dict[str, int]) -> None:
        super().__init__()
        # Normalised, so that reading the answers off does not blow the embeddings up.
        self.norm = nn.LayerNorm(HIDDEN, elementwise_affine=False)
        most = max(classes.values())
        self.shape = (len(classes), most)
        self.head = nn.Linear(HIDDEN, len(classes) * most)
        unused = torch.arange(most) >= torch.tensor(list(classes.values()))[:, None]
        self.register_buffer("unused", unused, persistent=False)

    def forward(self, tokens: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropies and guesses, (M, questions) both, of tokens (M, H) and answers, -1 where nothing is asked."""
        logits = self.head(self.norm(tokens)).float().view(-1, *self.shape)
        logits = logits.masked_fill(self.get_buffer("unused"), -1e4)
        losses = functional.cross_entropy(
            logits.view(-1, self.shape[1]), wanted.flatten().long(), ignore_index=-1, reduction="none"
        )
        return losses.view(wanted.shape), logits.argmax(-1)


def shares(asked: torch.Tensor) -> torch.Tensor:
    """Weights that make sums over tokens means: (M, questions), which are asked, to the same."""
    return asked / asked.sum(0).clamp(min=1)


class Told(nn.Module):
    """Reads off a picture's tokens what they show.

    From the answers alone a tower takes long to tell a star from a cross; told per token what lies there, it takes a
    few hundred steps. It is never told the place: places are for the decoder to learn from its positions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.questions = Questions(TOLD)
        self.register_buffer("weights", torch.tensor([_WEIGHTS.get(name, 1.0) for name in TOLD]), persistent=False)
        self.register_buffer("rare", torch.tensor([0.5 * (name in _RARE) for name in TOLD]), persistent=False)

    def forward(self, tokens: torch.Tensor, told: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and the share of what is right for each of TOLD; tokens (M, H), labels (M, len(TOLD))."""
        losses, guesses = self.questions(tokens, told)
        rare = self.get_buffer("rare")
        loss = (losses * (self.get_buffer("weights") * shares(told >= 0) + rare * shares(told > 0))).sum()
        # Of what is rare, only where it is.
        right = ((guesses == told) * shares(torch.where(rare > 0, told > 0, told >= 0))).sum(0)
        return loss, right.detach()


class Seen(nn.Module):
    """Reads off two layers what a token of a picture shows, where it stands, and what was there before.

    Used in training only. From the answers alone the decoder takes thousands of steps to find out what its
    positions are good for, and how to find a thing by its kind; asked at every token, a few hundred. What a picture
    shows is asked in front of the first attention layer, whose keys need it; all else behind it.
    """

    def __init__(self, layer_types: Sequence[str]) -> None:
        super().__init__()
        first = layer_types.index("full_attention")
        self._asked = {first - 1: ("kind", "colour", *LOOKS), first: tuple(SEEN)}
        self.heads = nn.ModuleDict(
            {str(layer): Questions({name: SEEN[name] for name in names}) for layer, names in self._asked.items()}
        )

    def forward(self, layers: Sequence[torch.Tensor], seen: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy.

        Args:
            layers: What every layer gave, (B, S, H).
            seen: Labels (K, len(SEEN)), -1 where there is nothing to ask.
            at: Which tokens of the flattened batch they are of, (K,).
        """
        # Most tokens show nothing; those that do count as much as all the others.
        shows = seen[:, list(SEEN).index("kind"), None] > 0
        total = torch.zeros((), device=seen.device)
        for layer, names in self._asked.items():
            hidden = layers[layer]
            labels = seen[:, [list(SEEN).index(name) for name in names]] if len(names) < len(SEEN) else seen
            losses, _ = self.heads[str(layer)](hidden.reshape(-1, hidden.shape[-1])[at], labels)
            asked = labels >= 0
            total = total + (losses * (shares(asked) + shares(asked & shows))).sum() / len(names)
        return total / (2 * len(self._asked))
