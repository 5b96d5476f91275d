"""Where the time goes when a prompt is read, part by part, and how long its matrix products alone would take."""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from mlx_qwen35.model_kit import ModelKit
from mlx_qwen35.patches import gated_delta_net
from mlx_qwen35.patches.operations import Operations

# Parts by the last name of the module that does them.
_MODULES = {
    **dict.fromkeys(("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"), "GDN projections"),
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "attention projections"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "MLP projections"),
    **dict.fromkeys(("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm"), "norms"),
    **dict.fromkeys(("embed_tokens", "lm_head"), "embedding and logits"),
    "rope": "rotation",
}
_OPERATIONS = {
    "attention": "attention",
    "gated": "attention gate",
    "swiglu": "SwiGLU",
    "gated_norm": "GDN gate and norm",
    "causal_conv_silu": "GDN convolution",
}
_FUNCTIONS = {"gated_delta_chunked": "GDN states", "normalize_qk": "GDN norms of q and k", "log_decay": "GDN decay"}
_REST = "the rest"
# Rows and columns of the product that tells how fast large products are.
_LARGE = 1024


@dataclass(frozen=True)
class Part:
    """Medians of one part of reading a prompt.

    Args:
        seconds: By the clock.
        processor: Seconds of all of the process's threads.
        products: Multiplications and additions of its modules' matrix products; those in other parts are not counted.
    """

    seconds: float
    processor: float
    products: int = 0


@dataclass(frozen=True)
class Profile:
    """Where the time of a prompt goes.

    Args:
        parts: By name, the longest first, each waited for before and after.
        whole: The prompt read without waiting in between.
        rate: Multiplications and additions per second of a large product in float32.
    """

    parts: dict[str, Part]
    whole: Part
    rate: float


class _Watch:
    """Adds up what timed functions take."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
        self._inside = False

    def timed(self, function: Callable[..., Any], name: Callable[[Any], str | None]) -> Callable[..., Any]:
        """The function, timed under the name that its first argument gives, unless within another one that is."""

        def run(*args: Any, **more: Any) -> Any:
            part = name(args[0])
            if part is None or self._inside:
                return function(*args, **more)
            _wait((args, more))
            self._inside = True
            began = time.perf_counter(), time.process_time()
            try:
                result = function(*args, **more)
                _wait(result)
            finally:
                self._inside = False
            found = self.found[part]
            found[0] += time.perf_counter() - began[0]
            found[1] += time.process_time() - began[1]
            if isinstance(args[0], nn.Linear | nn.QuantizedLinear):
                found[2] += 2 * args[1].size * result.shape[-1]
            elif isinstance(args[0], SwitchLinear | QuantizedSwitchLinear):
                # Each token's experts multiply what is its own.
                found[2] += 2 * args[2].size * args[1].shape[-1] * result.shape[-1]
            return result

        return run


def _named(part: str) -> Callable[[Any], str]:
    return lambda _: part


def _wait(arrays: Any) -> None:
    mx.eval([array for array in dict(tree_flatten(arrays)).values() if isinstance(array, mx.array)])


@contextmanager
def _watching(model: Any, watch: _Watch) -> Iterator[None]:
    """Every part of the decoder is timed."""
    names = {
        id(module): _MODULES[name]
        for path, module in model.language_model.named_modules()
        if (name := str(path).rsplit(".", 1)[-1]) in _MODULES
    }
    # All layers have the same.
    own = (getattr(part, "_operations", None) for part in model.language_model.modules())
    operations: Operations = next((found for found in own if found is not None), Operations())
    with ExitStack() as stack:
        for kind in {type(module) for module in model.language_model.modules() if id(module) in names}:
            timed = watch.timed(kind.__call__, lambda module: names.get(id(module)))
            stack.enter_context(mock.patch.object(kind, "__call__", timed))
        timed = watch.timed(nn.Embedding.as_linear, lambda module: names.get(id(module)))
        stack.enter_context(mock.patch.object(nn.Embedding, "as_linear", timed))
        for name, part in _OPERATIONS.items():
            timed = watch.timed(getattr(operations, name), _named(part))
            stack.enter_context(mock.patch.object(operations, name, timed))
        for name, part in _FUNCTIONS.items():
            timed = watch.timed(getattr(gated_delta_net, name), _named(part))
            stack.enter_context(mock.patch.object(gated_delta_net, name, timed))
        yield


def measure(kit: ModelKit, length: int, repeats: int, step_size: int) -> Profile:
    """Read a prompt of so many tokens, in turns with and without waiting for every part.

    Args:
        repeats: Counted turns, after one that is not.
        step_size: Tokens that are read at once.
    """
    ids = mx.array(np.random.Generator(np.random.PCG64(1)).integers(0, 200, (1, length)))

    def read() -> tuple[float, float]:
        began = time.perf_counter(), time.process_time()
        cache = kit.model.make_cache()
        for start in range(0, length, step_size):
            hidden = kit.model.language_model.model(ids[:, start : start + step_size], cache)
            mx.eval(hidden, [layer.state for layer in cache])
        mx.eval(kit.model.language_model.project(hidden[:, -1:]))
        return time.perf_counter() - began[0], time.process_time() - began[1]

    def turn() -> tuple[tuple[float, float], dict[str, Part]]:
        whole, watch = read(), _Watch()
        with _watching(kit.model, watch):
            seconds, processor = read()
        parts = {name: Part(found[0], found[1], int(found[2])) for name, found in watch.found.items()}
        parts[_REST] = Part(
            seconds - math.fsum(part.seconds for part in parts.values()),
            processor - math.fsum(part.processor for part in parts.values()),
        )
        return whole, parts

    def run() -> Profile:
        turns = [turn() for _ in range(repeats + 1)][1:]
        parts = {
            name: Part(
                statistics.median(parts[name].seconds for _, parts in turns),
                statistics.median(parts[name].processor for _, parts in turns),
                part.products,
            )
            for name, part in turns[0][1].items()
        }
        ordered = dict(sorted(parts.items(), key=lambda item: -item[1].seconds))
        seconds, processor = (statistics.median(whole[at] for whole, _ in turns) for at in range(2))
        return Profile(ordered, Part(seconds, processor), _rate())

    return kit._thread.call(run)


def _rate() -> float:
    matrix = mx.random.normal((_LARGE, _LARGE))
    mx.eval(matrix, matrix @ matrix)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        mx.eval(matrix @ matrix)
        seconds.append(time.perf_counter() - began)
    return 2 * _LARGE**3 / statistics.median(seconds)
