"""The reference's GDN arithmetic in a form that suits training on a GPU: fewer and larger kernels, same results."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch.fx.experimental import _config as shapes
from torch.nn import functional

CHUNK = 64
# Kinds of devices that `fused` compiles for.
COMPILED = {"cuda"}


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled where its tensors are on a GPU, where most of the time would go into starting small kernels; on a CPU
    if COMPILED names it.

    The first two dimensions of its tensors differ from batch to batch, all others stay. Compiled code is of one row or
    of any greater number: a single one is left as it is.
    """

    @cache
    def compiled() -> Callable[..., Any]:
        # Dimensions that happen to be equal in the first batch are not so in the next.
        shapes.use_duck_shape = False
        return torch.compile(function)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
        if tensors[0].device.type not in COMPILED or len(tensors[0]) == 1:
            return function(*arguments)
        for tensor in tensors:
            torch._dynamo.maybe_mark_dynamic(tensor, [0, 1])
        return compiled()(*arguments)

    return call


def causal_convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sums over windows, then SiLU: cuDNN would look for an algorithm for every new shape. (B, S, C), weight (C, K)."""
    taps, length = weight.shape[1], x.shape[1]
    padded = functional.pad(x, (0, 0, taps - 1, 0)).float()
    mixed = torch.stack([padded[:, tap : tap + length] * weight[:, tap] for tap in range(taps)]).sum(0)
    return functional.silu(mixed).to(x.dtype)


def delta_rule(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, g: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    """The gated delta rule from nothing over whole sequences, in float32 also where all else runs in bfloat16.

    After transformers' torch_chunk_gated_delta_rule, which explains the steps; what goes on within the chunks comes at
    once, and only the states go from one chunk to the next.

    Args:
        query, key: (B, S, Hk, D), which become unit vectors here.
        value: (B, S, Hv, D).
        g, beta: (B, S, Hv).
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, near, new, old, kept = _chunk_terms(query, key, value, g, beta)
        states, new = States.apply(key, new, old, kept)
        return _chunk_outputs(query, states, near, new, value)  # type: ignore[no-any-return]


@fused
def _chunk_terms(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, g: torch.Tensor, beta: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """What can be said of every chunk without the state that it begins with, each (chunks, B * H, ...)."""
    heads = value.shape[2]
    repeats = heads // key.shape[2]
    query, key = (_unit(part.float()).repeat_interleave(repeats, 2) for part in (query, key))
    parts = [query * key.shape[-1] ** -0.5, key, value.float(), beta.float()[..., None], g.float()[..., None]]
    query, key, value, beta, decay = (_chunks(part) for part in parts)
    whole = decay.cumsum(2)
    above = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=key.device).triu(1)
    pairs = (whole - whole.mT).masked_fill(above, -torch.inf).exp()
    grown, last = whole.exp(), whole[:, :, -1:]
    weighted = key * beta
    wanted = torch.cat([value * beta, weighted * grown], -1)
    system = (weighted @ key.mT) * pairs
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    new, old = solved.split([value.shape[-1], key.shape[-1]], -1)
    near, key = (query @ key.mT) * pairs, (key * (last - whole).exp()).mT
    return query * grown, key.contiguous(), near, new.contiguous(), old.contiguous(), last.exp()


class States(torch.autograd.Function):
    """From chunk to chunk: new_i - old_i @ state_i is what is written, and kept_i * state_i + key_i @ that comes next.

    By hand, as autograd would start four times as many kernels; what needs no order waits for the end.
    """

    @staticmethod
    def forward(
        ctx: Any, key: torch.Tensor, new: torch.Tensor, old: torch.Tensor, kept: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States that the chunks begin with, (chunks, N, D, V), and what they write, (chunks, N, CHUNK, V).

        Args:
            key: (chunks, N, D, CHUNK).
            new: (chunks, N, CHUNK, V).
            old: (chunks, N, CHUNK, D).
            kept: (chunks, N, 1, 1).
        """
        states, written = new.new_zeros(*key.shape[:3], new.shape[-1]), torch.empty_like(new)
        parts = zip(*(part.unbind() for part in (key, new, old, kept, written)), strict=True)
        each = states.unbind()
        for (k, n, o, keep, out), state, following in zip(parts, each, [*each[1:], None], strict=True):
            torch.baddbmm(n, o, state, alpha=-1, out=out)
            if following is not None:
                torch.baddbmm(state * keep, k, out, out=following)
        ctx.save_for_backward(key, old, kept, states, written)
        return states, written

    @staticmethod
    def backward(ctx: Any, of_states: torch.Tensor, of_written: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gradients of the four."""
        key, old, kept, states, written = ctx.saved_tensors
        # Of the state that comes after each chunk; nothing asks for the last one.
        after, total = torch.zeros_like(states), torch.empty_like(written)
        turned = (part.unbind() for part in (key.mT, old.mT, kept, of_states, of_written, total))
        parts = reversed(list(zip(*turned, strict=True)))
        each = after.unbind()
        for (k, o, keep, state, wrote, out), behind, here in zip(parts, each[::-1], [*each[-2::-1], None], strict=True):
            torch.baddbmm(wrote, k, behind, out=out)
            if here is not None:
                torch.baddbmm(torch.addcmul(state, behind, keep), o, out, alpha=-1, out=here)
        of_kept = (after * states).sum((2, 3), keepdim=True)
        return after @ written.mT, total, -(total @ states.mT), of_kept


@fused
def _chunk_outputs(
    query: torch.Tensor, states: torch.Tensor, near: torch.Tensor, new: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """What the queries find in the states and in their own chunks, in value's shape."""
    rows, length, heads, width = value.shape
    found = (query @ states + near @ new).unflatten(1, (rows, heads))
    return found.permute(1, 0, 3, 2, 4).reshape(rows, -1, heads, width)[:, :length].contiguous()


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def _chunks(x: torch.Tensor) -> torch.Tensor:
    """(B, S, H, D) to (chunks, B * H, CHUNK, D)."""
    rows, length, heads, width = x.shape
    x = functional.pad(x, (0, 0, 0, 0, 0, -length % CHUNK)) if length % CHUNK else x
    return x.view(rows, -1, CHUNK, heads, width).permute(1, 0, 3, 2, 4).reshape(-1, rows * heads, CHUNK, width)
