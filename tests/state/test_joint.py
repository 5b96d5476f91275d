"""Sequences that read a chunk each in one forward pass: each as if it had been alone."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_qwen35.state.joint import reading_together
from mlx_qwen35.state.quantized_cache import QuantizedAttentionCache
from mlx_qwen35.state.sequence import SequenceState
from tests.conftest import Bench
from tests.parity.cases import TOLERANCE
from tests.tiny import DENSE, IDS, Shape

PICTURE = [IDS["<|vision_start|>"], IDS["<|image_pad|>"], IDS["<|vision_end|>"]]
# What each row has read before, and reads now.
BEFORE = ([], list(range(20, 25)), [*range(30, 34), *PICTURE, 40], list(range(50, 83)))
CHUNKS = (list(range(100, 133)), [7], list(range(60, 79)), [9, 8])


def beginnings(bench: Bench, rows: Sequence[int]) -> list[SequenceState]:
    """Fresh states that have read what stands before."""
    states = []
    for row in rows:
        images = [Image.new("RGB", (96, 64), "red")] if PICTURE[1] in BEFORE[row] else None
        prompt = bench.prompt(BEFORE[row], images) if BEFORE[row] else None
        state = SequenceState(bench.model.make_cache() if prompt is None else bench.cache(prompt))
        if prompt is not None:
            bench.model(mx.array(prompt.input_ids)[None], cache=state.caches)
            state.evaluate()
        states.append(state)
    return states


def read_together(bench: Bench, states: Sequence[SequenceState], chunks: Sequence[Sequence[int]]) -> None:
    width = max(map(len, chunks))
    # Padding is no token in particular.
    padded = mx.array([[*chunk, *[3] * (width - len(chunk))] for chunk in chunks])
    with reading_together(states, [len(chunk) for chunk in chunks]) as joint:
        bench.model(padded, cache=joint.caches)
    for state in states:
        state.evaluate()


def following(bench: Bench, state: SequenceState) -> mx.array:
    """Logits of three tokens more, (3, V)."""
    return mx.concatenate([bench.model(mx.array([[token]]), cache=state.caches)[0] for token in (11, 12, 13)])


def arrays(state: SequenceState) -> list[mx.array]:
    """Everything that its caches hold of what was read."""
    found: list[mx.array] = []
    for cache in state.caches:
        found += cache.keys_and_values() if hasattr(cache, "keys_and_values") else cache.cache
    return found


def assert_close(found: mx.array, expected: mx.array) -> None:
    assert found.shape == expected.shape
    scale = float(np.abs(np.array(expected)).max())
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=TOLERANCE * scale)


@pytest.mark.some(3)
@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (1, 3), (3, 2)], ids=str)
def test_rows_that_are_read_together_are_as_if_read_alone(
    benches: Callable[[Shape], Bench], dense_and_moe: Shape, rows: tuple[int, ...]
) -> None:
    """Fresh ones, and behind prefixes of other lengths, one with a picture: states, and what is read from them."""
    bench = benches(dense_and_moe)
    alone, together = beginnings(bench, rows), beginnings(bench, rows)
    for row, state in zip(rows, alone, strict=True):
        bench.model(mx.array([CHUNKS[row]]), cache=state.caches)
    read_together(bench, together, [CHUNKS[row] for row in rows])
    for one, other in zip(together, alone, strict=True):
        assert one.tokens == other.tokens
        for found, expected in zip(arrays(one), arrays(other), strict=True):
            assert_close(found, expected)
        assert_close(following(bench, one), following(bench, other))


def test_chunks_of_one_length_and_of_one_token(benches: Callable[[Shape], Bench]) -> None:
    """Nothing is padded there, and a single token is no step of an answer."""
    bench = benches(DENSE)
    for length in (1, 6):
        alone, together = beginnings(bench, (0, 3)), beginnings(bench, (0, 3))
        chunks = [list(range(200, 200 + length)), list(range(300, 300 + length))]
        for state, chunk in zip(alone, chunks, strict=True):
            bench.model(mx.array([chunk]), cache=state.caches)
        read_together(bench, together, chunks)
        for one, other in zip(together, alone, strict=True):
            assert_close(following(bench, one), following(bench, other))


def test_a_sequence_alone_reads_with_its_own_caches(benches: Callable[[Shape], Bench]) -> None:
    (state,) = beginnings(benches(DENSE), [1])
    with reading_together([state], [5]) as joint:
        assert joint is state


def test_quantised_keys_and_values_stay_quantised(benches: Callable[[Shape], Bench]) -> None:
    """Each row attends to its own. Oracle: each row alone."""
    bench = benches(DENSE)

    def fresh() -> list[SequenceState]:
        states = [SequenceState(bench.model.make_cache()) for _ in range(2)]
        for state in states:
            for layer, cache in enumerate(state.caches):
                if hasattr(cache, "keys_and_values"):
                    state.caches[layer] = QuantizedAttentionCache(group_size=32, bits=8)
        return states

    alone, together = fresh(), fresh()
    for state, chunk in zip(alone, (CHUNKS[0], CHUNKS[2]), strict=True):
        bench.model(mx.array([chunk]), cache=state.caches)
    read_together(bench, together, [CHUNKS[0], CHUNKS[2]])
    for one, other in zip(together, alone, strict=True):
        found: Any = [cache.bits for cache in one.caches if hasattr(cache, "bits")]
        assert found == [8] * len(found) != []
        assert_close(following(bench, one), following(bench, other))
