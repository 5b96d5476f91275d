"""Muon in float32: torch's own works in bfloat16, which few CPUs multiply fast."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal by Newton-Schulz, with the step's size matched to AdamW's.

    After Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the factor
    0.2 * sqrt(max(rows, columns)) is that of Liu et al., "Muon is Scalable for LLM Training" (2025).

    Args:
        params: Matrices, or groups of them.
        lr: Learning rate.
        momentum: Of the running mean, Nesterov's form.
        weight_decay: Decoupled.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                for parameter in parameters:
                    if not self.state[parameter]:
                        self.state[parameter]["mean"] = torch.zeros_like(parameter)
                means = [self.state[parameter]["mean"] for parameter in parameters]
                gradients = [parameter.grad for parameter in parameters]
                torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
                updates = torch.stack(torch._foreach_lerp(gradients, means, group["momentum"]))
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_sub_(parameters, list(orthogonal(updates).mul_(size)))


def orthogonal(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest orthogonal matrices, roughly: shape (N, R, C) to the same."""
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        # 3.4445 x + (-4.7750 x x' + 2.0315 (x x')^2) x
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x if wide else x.mT
