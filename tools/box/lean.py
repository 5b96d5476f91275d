"""Three of the reference's functions in a form that suits training on a GPU: fewer and larger kernels, same results."""

from typing import Any

import torch
from torch.nn import functional
from transformers.models.qwen3_5 import modeling_qwen3_5 as reference

CHUNK = 64
_with_state = reference.torch_chunk_gated_delta_rule


def for_training() -> None:
    """Put the lean forms in the places of the reference's own."""
    reference.torch_chunk_gated_delta_rule = delta_rule
    reference.causal_conv1d_fn = causal_convolution
    reference.Qwen3_5RMSNorm.forward = rms_norm


def rms_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    """In float32, with a weight around one."""
    found = functional.rms_norm(x.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps)
    return found.type_as(x)


def causal_convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, activation: str | None = None, **_: Any
) -> torch.Tensor:
    """One product over windows: cuDNN would look for an algorithm for every new shape. (B, C, S), weight (C, K)."""
    assert bias is None
    assert activation == "silu"
    taps = weight.shape[1]
    windows = functional.pad(x, (taps - 1, 0)).unfold(-1, taps, 1)
    return functional.silu((windows * weight[:, None, :]).sum(-1)).to(x.dtype)


def delta_rule(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, g: torch.Tensor, beta: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gated delta rule from nothing over whole sequences, in float32 also where all else runs in bfloat16.

    The chunks come first, so that none has to be cut out of a tensor and back into its gradient; after
    torch_chunk_gated_delta_rule, which explains the steps.

    Args:
        query, key: (B, S, Hk, D).
        value: (B, S, Hv, D).
        g, beta: (B, S, Hv).
    """
    if options.get("output_final_state") or options.get("initial_state") is not None:
        found: tuple[torch.Tensor, torch.Tensor | None] = _with_state(query, key, value, g=g, beta=beta, **options)
        return found
    with torch.autocast(query.device.type, enabled=False):
        rows, length, heads, width = value.shape
        repeats = heads // key.shape[2]
        query, key = (_unit(part.float()).repeat_interleave(repeats, 2) for part in (query, key))
        parts = [query * key.shape[-1] ** -0.5, key, value.float(), beta.float()[..., None], g.float()[..., None]]
        query, key, value, beta, decay = (_chunks(part) for part in parts)
        whole = decay.cumsum(2)
        scanned = _scan(query, key, value, beta, whole)
    chunks = scanned.view(-1, rows, heads, CHUNK, width).permute(1, 0, 3, 2, 4).reshape(rows, -1, heads, width)
    return chunks[:, :length].to(options.get("dtype", torch.float32)), None


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def _chunks(x: torch.Tensor) -> torch.Tensor:
    """(B, S, H, D) to (chunks, B * H, CHUNK, D)."""
    rows, length, heads, width = x.shape
    x = functional.pad(x, (0, 0, 0, 0, 0, -length % CHUNK)) if length % CHUNK else x
    return x.view(rows, -1, CHUNK, heads, width).permute(1, 0, 3, 2, 4).reshape(-1, rows * heads, CHUNK, width)


def _scan(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, beta: torch.Tensor, whole: torch.Tensor
) -> torch.Tensor:
    """Everything within the chunks at once, then one chunk after the other."""
    above = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=key.device).triu(1)
    pairs = (whole - whole.mT).masked_fill(above, -torch.inf).exp()
    grown, last = whole.exp(), whole[:, :, -1:]
    weighted = key * beta
    system = (weighted @ key.mT) * pairs
    inside = (query @ key.mT) * pairs
    wanted = torch.cat([value * beta, weighted * grown], -1)
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    new, old = solved.split([value.shape[-1], key.shape[-1]], -1)
    query, key = query * grown, (key * (last - whole).exp()).mT
    state, out = None, []
    for q, k, u, w, near, kept in zip(query, key, new, old, inside, last.exp(), strict=True):
        if state is None:
            out.append(near @ u)
            state = k @ u
        else:
            u = torch.baddbmm(u, w, state, alpha=-1)
            out.append(torch.baddbmm(q @ state, near, u))
            state = torch.baddbmm(state * kept, k, u)
    return torch.stack(out)
