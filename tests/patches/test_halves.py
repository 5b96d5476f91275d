"""A chunk that is read as two halves on two streams, against the same chunk read whole."""

from typing import Any

import mlx.core as mx
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.patches import halves
from mlx_qwen35.state.cache import GatedDeltaCache
from mlx_qwen35.state.joint import reading_together
from mlx_qwen35.state.kv_quantization import KvQuantization, quantized
from mlx_qwen35.state.sequence import SequenceState

needs_cpu = pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="MLX runs on another backend here")
LENGTH = 2 * halves.SHORTEST + 5


def read(kit: ModelKit, length: int, *, halved: bool, then: int = 3) -> tuple[mx.array, list[mx.array]]:
    """Logits of a prompt and of what follows it, and all states of GDN layers."""
    decoder = kit.model.language_model.model
    decoder._halving = halved
    try:
        caches = kit.model.make_cache()
        ids = mx.arange(length + then)[None] * 7 % 200
        logits = [kit.model(ids[:, :length], cache=caches), kit.model(ids[:, length:], cache=caches)]
        # Room for keys grows in other steps; logits of what follows show what is in it.
        states = [array for cache in caches if isinstance(cache, GatedDeltaCache) for array in cache.cache]
        mx.eval(logits, states)
    finally:
        decoder._halving = True
    return mx.concatenate(logits, axis=1), states


@needs_cpu
@pytest.mark.parametrize("length", [halves.SHORTEST, LENGTH])
def test_halves_are_the_chunk(kit: ModelKit, length: int) -> None:
    """Logits, states, and what is read behind them."""

    def both() -> None:
        (expected, whole), (found, halved) = (read(kit, length, halved=halved) for halved in (False, True))
        assert mx.abs(found - expected).max().item() <= 1e-4 + 1e-5 * mx.abs(expected).max().item()
        for one, other in zip(whole, halved, strict=True):
            assert one.shape == other.shape
            assert mx.abs(one - other).max().item() <= 1e-4 * (1 + mx.abs(one).max().item())

    kit._thread.call(both)


@needs_cpu
def test_a_long_chunk_is_cut_at_whole_blocks(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each half on a stream of its own, on all layers."""
    layers = kit.model.language_model.model.layers
    seen: list[tuple[int, str]] = []
    kind = type(layers[0])
    call = kind.__call__

    def noted(self: Any, x: mx.array, *args: Any, **more: Any) -> Any:
        seen.append((x.shape[1], str(mx.default_stream(mx.cpu))))
        return call(self, x, *args, **more)

    monkeypatch.setattr(kind, "__call__", noted)
    kit._thread.call(read, kit, LENGTH, halved=True, then=1)
    assert [length for length, _ in seen] == [128, LENGTH - 128] * len(layers) + [1] * len(layers)
    streams = [stream for _, stream in seen[: 2 * len(layers)]]
    first, second = set(streams[0::2]), set(streams[1::2])
    assert len(first) == len(second) == 1
    assert first != second


def test_what_is_read_whole(kit: ModelKit) -> None:
    """Short chunks, several rows, padding, and keys and values that would be written out twice."""

    def check() -> None:
        layers = kit.model.language_model.model.layers
        hidden, caches = mx.zeros((1, LENGTH, 8)), kit.model.make_cache()
        assert halves.can_be_halved(layers, hidden, caches)
        assert not halves.can_be_halved(layers, hidden, None)
        assert not halves.can_be_halved(layers, hidden[:, : halves.SHORTEST - 1], caches)
        assert not halves.can_be_halved(layers, mx.zeros((2, LENGTH, 8)), caches)
        assert not halves.can_be_halved(layers, hidden, quantized(caches, KvQuantization(8, 64)))
        for lengths in ([LENGTH, 3], [LENGTH, LENGTH]):
            with reading_together([SequenceState(kit.model.make_cache()) for _ in lengths], lengths) as joint:
                assert not halves.can_be_halved(layers, hidden, joint.caches)
        padded = kit.model.make_cache()
        padded[0].left_padding = mx.array([2])
        assert not halves.can_be_halved(layers, hidden, padded)

    kit._thread.call(check)
