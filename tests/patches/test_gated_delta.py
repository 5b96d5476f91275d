"""The chunked gated delta rule against mlx-lm's loop over tokens, and how the layers choose between them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_lm.models import qwen3_5 as upstream
from mlx_lm.models.gated_delta import compute_g, gated_delta_ops, normalize_qk

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.errors import OptionError
from mlx_qwen35.patches.attention import PatchedAttention
from mlx_qwen35.patches.gated_delta import gated_delta_chunked, gated_delta_steps, log_decay
from mlx_qwen35.patches.gated_delta_net import PatchedGatedDeltaNet, choose_gated_delta
from mlx_qwen35.patches.qwen3_5 import Model
from tests.parity.cases import CASES, TEXT_TOLERANCE
from tests.tiny import DENSE, Shape

# What `draw` gives for each token, and what for each row.
TOKENS = ("q", "k", "v", "a", "beta")
ROWS = (*TOKENS, "state")


def draw(B: int, L: int, Hk: int, Hv: int, Dk: int, Dv: int, seed: int = 0) -> dict[str, mx.array]:
    """Inputs of the rule, its initial state included."""
    rng = np.random.Generator(np.random.PCG64(seed))

    def normal(*shape: int) -> mx.array:
        return mx.array(rng.standard_normal(shape).astype(np.float32))

    # Keys with something in common, as real ones have.
    q, k = normalize_qk(normal(B, L, Hk, Dk), normal(B, L, Hk, Dk) + 0.5, inv_scale=Dk**-0.5, eps=1e-6)
    return {
        "q": q, "k": k, "v": normal(B, L, Hv, Dv), "a": normal(B, L, Hv), "beta": mx.sigmoid(normal(B, L, Hv)),
        "A_log": normal(Hv), "dt_bias": normal(Hv) - 1, "state": normal(B, Hv, Dv, Dk),
    }  # fmt: skip


def chunked(x: dict[str, mx.array], mask: mx.array | None = None, chunk: int = 32) -> tuple[mx.array, mx.array]:
    log_g = log_decay(x["A_log"], x["a"], x["dt_bias"])
    return gated_delta_chunked(x["q"], x["k"], x["v"], log_g, x["beta"], x["state"], mask, chunk)


def one_by_one(x: dict[str, mx.array], mask: mx.array | None = None) -> tuple[mx.array, mx.array]:
    g = compute_g(x["A_log"], x["a"], x["dt_bias"])
    return gated_delta_ops(x["q"], x["k"], x["v"], g, x["beta"], x["state"], mask)  # type: ignore[no-any-return]


def assert_close(found: mx.array, expected: mx.array, tolerance: float) -> None:
    """Largest difference, as a share of the largest expected value."""
    assert found.shape == expected.shape
    scale = float(mx.abs(expected).max())
    assert float(mx.abs(found - expected).max()) <= tolerance * scale


@pytest.mark.parametrize("chunk", [16, 32, 64])
@pytest.mark.parametrize("length", [2, 15, 16, 17, 33, 64, 100])
def test_any_number_of_tokens(length: int, chunk: int) -> None:
    """Oracle: mlx-lm 0.32.2's gated_delta_ops, float32, 2e-6 of the scale."""
    x = draw(2, length, 2, 4, 32, 16, seed=length)
    for found, expected in zip(chunked(x, chunk=chunk), one_by_one(x), strict=True):
        assert_close(found, expected, 2e-6)


def summed_as_on_cuda(x: mx.array, axis: int) -> mx.array:
    """Sums of four, then of twice as many threads again and again: mlx 0.32, backend/cuda/scan.cu, contiguous_scan."""
    assert axis == -1
    own = np.cumsum(np.array(x).reshape(-1, x.shape[-1] // 4, 4), axis=-1, dtype=np.float32)
    before = own[..., 3].copy()
    step = 1
    while step < before.shape[-1]:
        before[:, step:] = before[:, step:] + before[:, :-step]
        step *= 2
    own[:, 1:] += before[:, :-1, None]
    return mx.array(own.reshape(x.shape))


@pytest.mark.some(3)
@pytest.mark.parametrize(
    ("length", "chunk", "bound"),
    [(17, 16, 2e-6), (17, 32, 5e-6), (33, 32, 2e-6), (33, 64, 5e-6), (64, 64, 2e-6), (100, 32, 2e-6), (100, 64, 2e-5)],
)
def test_decays_that_another_device_sums_otherwise(
    monkeypatch: pytest.MonkeyPatch, length: int, chunk: int, bound: float
) -> None:
    """And takes the logarithms of with another rounding of the last bit. Same oracle; seen are 4e-6 and 1.5e-5.

    A larger bound than above stands where an H100 did not keep that one.
    """
    x = draw(2, length, 2, 4, 32, 16, seed=length)
    log_g, rng, expected = log_decay(x["A_log"], x["a"], x["dt_bias"]), np.random.default_rng(0), one_by_one(x)
    mx.eval(log_g, expected)
    monkeypatch.setattr(mx, "cumsum", summed_as_on_cuda)
    worst = 0.0
    for _ in range(20):
        rounded = np.array(log_g) * (1 + 1.2e-7 * rng.integers(-1, 2, log_g.shape))
        found = gated_delta_chunked(
            x["q"], x["k"], x["v"], mx.array(rounded.astype(np.float32)), x["beta"], x["state"], None, chunk
        )
        pairs = zip(found, expected, strict=True)
        worst = max(worst, *(float(mx.abs(one - other).max() / mx.abs(other).max()) for one, other in pairs))
    assert worst <= bound


@pytest.mark.parametrize(("Hk", "Hv", "Dk", "Dv"), [(1, 1, 128, 128), (2, 2, 32, 64), (2, 6, 48, 32)])
def test_heads(Hk: int, Hv: int, Dk: int, Dv: int) -> None:
    x = draw(1, 70, Hk, Hv, Dk, Dv)
    for found, expected in zip(chunked(x), one_by_one(x), strict=True):
        assert_close(found, expected, 2e-6)


def in_steps(x: dict[str, mx.array]) -> tuple[mx.array, mx.array]:
    """Outputs, and the state after each token, (B, L, Hv, Dv, Dk)."""
    g = compute_g(x["A_log"], x["a"], x["dt_bias"])
    out, states = gated_delta_steps(mx.stack([x["q"], x["k"]], axis=2), x["v"], g, x["beta"], x["state"])
    return out, mx.concatenate(states, axis=1)


@pytest.mark.parametrize(("Hk", "Hv", "Dk", "Dv"), [(1, 1, 128, 128), (2, 2, 32, 64), (2, 6, 48, 32)])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [1, 4])
def test_a_few_tokens(length: int, rows: int, Hk: int, Hv: int, Dk: int, Dv: int) -> None:
    """Oracle: mlx-lm 0.32.2's gated_delta_ops, float32, 2e-6 of the scale; to the bit the same beside other rows."""
    x = draw(rows, length, Hk, Hv, Dk, Dv)
    out, states = in_steps(x)
    for array, expected in zip((out, states[:, -1]), one_by_one(x), strict=True):
        assert_close(array, expected, 2e-6)
    for row in range(rows):
        own = {name: array[row : row + 1] if name in ROWS else array for name, array in x.items()}
        for array, other in zip((out, states), in_steps(own), strict=True):
            assert mx.array_equal(array[row : row + 1], other).item()


def test_a_few_tokens_are_to_the_bit_that_many_steps_of_one() -> None:
    x = draw(2, 5, 2, 4, 32, 16)
    out, states = in_steps(x)
    state = x["state"]
    for at in range(5):
        one = {name: array[:, at : at + 1] if name in TOKENS else array for name, array in x.items()}
        found, after = in_steps(one | {"state": state})
        state = after[:, 0]
        assert mx.array_equal(found, out[:, at : at + 1]).item()
        assert mx.array_equal(state, states[:, at]).item()


def test_a_few_tokens_in_half_precision_are_computed_in_float32() -> None:
    x = draw(2, 3, 2, 4, 32, 16)
    half = x | {name: x[name].astype(mx.bfloat16) for name in "qkv"}
    out, states = in_steps(half)
    expected, last = one_by_one(half | {name: half[name].astype(mx.float32) for name in "qkv"})
    assert (out.dtype, states.dtype) == (mx.bfloat16, mx.float32)
    assert_close(out.astype(mx.float32), expected, 2**-8)
    assert_close(states[:, -1], last, 2e-6)


def test_the_state_is_handed_on() -> None:
    x = draw(1, 90, 2, 4, 32, 32)
    whole, last = chunked(x)
    parts, state = [], x["state"]
    for start, stop in ((0, 41), (41, 43), (43, 90)):
        cut = {name: value[:, start:stop] if value.ndim > 2 else value for name, value in x.items()}
        out, state = chunked(cut | {"state": state})
        parts.append(out)
    assert_close(mx.concatenate(parts, axis=1), whole, 2e-6)
    assert_close(state, last, 2e-6)


def test_masked_tokens_change_nothing() -> None:
    """Padding on either side, as mlx-lm's batches have it."""
    x = draw(2, 50, 2, 4, 32, 32)
    places = mx.arange(50)
    mask = mx.stack([places >= 7, places < 31])
    out, state = chunked(x, mask)
    for row, (start, stop) in enumerate(((7, 50), (0, 31))):
        cut = dict(x, state=x["state"][row : row + 1])
        for name in ("q", "k", "v", "a", "beta"):
            cut[name] = x[name][row : row + 1, start:stop]
        expected, last = one_by_one(cut)
        assert_close(out[row : row + 1, start:stop], expected, 2e-6)
        assert_close(state[row : row + 1], last, 2e-6)


def test_decay_that_underflows() -> None:
    """A head that forgets everything at every token: its decay is 0 in float32, the logarithm is not."""
    x = draw(1, 80, 2, 4, 32, 32)
    x["A_log"] = mx.array([6.0, -8.0, 0.0, 5.0])
    x["a"] = x["a"] + 3
    assert float(compute_g(x["A_log"], x["a"], x["dt_bias"]).min()) == 0.0
    assert np.isfinite(np.array(log_decay(x["A_log"], x["a"], x["dt_bias"]))).all()
    for found, expected in zip(chunked(x), one_by_one(x), strict=True):
        assert_close(found, expected, 2e-6)


@pytest.mark.parametrize("chunk", [16, 32, 64])
def test_keys_that_repeat(chunk: int) -> None:
    """The same key again and again, nothing forgotten: the triangular system is at its worst.

    Oracle: the recurrence in float64; mlx-lm's loop in float32 is held to the same bound.
    """
    x = draw(1, 64, 1, 1, 32, 32)
    x["k"] = mx.broadcast_to(x["k"][:, :1], x["k"].shape)
    x["beta"] = mx.full(x["beta"].shape, 0.999)
    x["A_log"] = mx.array([-20.0])
    q, k, v = (np.array(x[name], dtype=np.float64)[0, :, 0] for name in "qkv")
    state, rows = np.array(x["state"], dtype=np.float64)[0, 0], []
    for t in range(64):
        state = state + 0.999 * np.outer(v[t] - state @ k[t], k[t])
        rows.append(state @ q[t])
    expected = mx.array(np.stack(rows).astype(np.float32))
    for out, _ in (chunked(x, chunk=chunk), one_by_one(x)):
        assert_close(out[0, :, 0], expected, 1e-5)


def test_half_precision_inputs() -> None:
    """Outputs in the inputs' type, the state and the arithmetic in float32."""
    x = draw(1, 40, 2, 4, 32, 32)
    half = {name: value if name == "state" else value.astype(mx.bfloat16) for name, value in x.items()}
    out, state = chunked(half)
    assert out.dtype == mx.bfloat16
    assert state.dtype == mx.float32
    expected, last = one_by_one({name: value.astype(mx.float32) for name, value in half.items()})
    assert_close(out.astype(mx.float32), expected, 2**-8)
    # The decay is computed from bfloat16 sums, as mlx-lm computes it.
    assert_close(state, last, 2**-7)


def test_half_precision_inputs_lose_nothing_on_the_way() -> None:
    """With a decay in float32 the state is that of float32 arithmetic throughout."""
    x = draw(1, 40, 2, 4, 32, 32)
    half = {name: x[name].astype(mx.bfloat16) for name in ("q", "k", "v", "beta")}
    out, state = chunked(x | half)
    expected, last = one_by_one(x | {name: value.astype(mx.float32) for name, value in half.items()})
    assert_close(out.astype(mx.float32), expected, 2**-8)
    assert_close(state, last, 2e-6)


def test_a_decay_rate_in_half_precision_is_used_in_full() -> None:
    """Its exponential is taken in float32, as mlx-lm takes it."""
    x = draw(1, 40, 2, 4, 32, 32)
    A_log = x["A_log"].astype(mx.bfloat16)
    found = log_decay(A_log, x["a"], x["dt_bias"])
    assert found.dtype == mx.float32
    assert_close(found, log_decay(A_log.astype(mx.float32), x["a"], x["dt_bias"]), 1e-7)
    assert_close(mx.exp(found), compute_g(A_log, x["a"], x["dt_bias"]), 1e-6)


def test_choices() -> None:
    assert choose_gated_delta(None, exact=True) == "native"
    assert choose_gated_delta("fast") == "fast"
    if not mx.metal.is_available():
        assert choose_gated_delta(None) == "chunked"
    with pytest.raises(OptionError, match="gated_delta: expected one of native, chunked, fast, found 'quick'"):
        choose_gated_delta("quick")
    with pytest.raises(OptionError, match="expected native where exact is asked for, found 'chunked'"):
        choose_gated_delta("chunked", exact=True)


@pytest.mark.metal
def test_metal_keeps_its_kernels() -> None:
    assert choose_gated_delta(None) == "native"


@pytest.mark.parametrize(
    ("available", "kind", "chosen"),
    [(True, mx.gpu, "native"), (True, mx.cpu, "chunked"), (False, mx.gpu, "chunked"), (False, mx.cpu, "chunked")],
)
def test_mlx_lm_s_kernel_is_chosen_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, available: bool, kind: mx.DeviceType, chosen: str
) -> None:
    """Not where there is Metal and MLX was told to use the CPU."""
    monkeypatch.setattr(mx.metal, "is_available", lambda: available)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(kind))
    assert choose_gated_delta(None) == chosen
    assert choose_gated_delta(None, exact=True) == choose_gated_delta("native", exact=True) == "native"


def test_a_kit_refuses_an_unknown_choice(checkpoint_dir: Callable[[Shape], Path]) -> None:
    with pytest.raises(OptionError, match="gated_delta: expected one of"):
        ModelKit.load(checkpoint_dir(DENSE), gated_delta="quick")


@pytest.mark.some(1)
@pytest.mark.parametrize("case", [pytest.param("text", marks=pytest.mark.thorough), "two images"])
def test_every_way_reads_the_same(case: str, dense_and_moe: Shape, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """Oracle: the exact kit, float32, TEXT_TOLERANCE of the scale; whole and in pieces, and the same greedy answer."""

    def ask(kit: ModelKit, steps: Sequence[int | None]) -> tuple[list[mx.array], tuple[int, ...]]:
        prompt = kit.process_prompt(CASES[case].input_ids, images=CASES[case].images or None)
        logits = [kit.logits(prompt, prefill_step_size=step) for step in steps]
        return logits, kit.generate(prompt, temperature=0.0, max_tokens=6).tokens

    with ModelKit.load(checkpoint_dir(dense_and_moe), exact=True) as exact:
        (expected,), answer = ask(exact, [None])
    for gated_delta in ("chunked", "fast", "native"):
        with ModelKit.load(checkpoint_dir(dense_and_moe), gated_delta=gated_delta) as kit:
            found, tokens = ask(kit, [None, 7])
        for logits in found:
            assert_close(logits, expected, TEXT_TOLERANCE)
        assert tokens == answer, gated_delta


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that GDN layers, mlx-lm's and ours, and our attention are called with: once per trace, if compiled."""
    seen: list[tuple[int, ...]] = []
    original = upstream.DecoderLayer.__call__

    def watched(self: Any, x: mx.array, *rest: Any) -> Any:
        if self.is_linear:
            seen.append(tuple(x.shape))
        return original(self, x, *rest)

    verify, project = PatchedGatedDeltaNet.verify, PatchedAttention.project

    def watched_verify(self: PatchedGatedDeltaNet, x: mx.array, *states: mx.array) -> tuple[mx.array, ...]:
        seen.append(tuple(x.shape))
        return verify(self, x, *states)

    def watched_project(self: PatchedAttention, x: mx.array, turn: Any) -> tuple[mx.array, ...]:
        seen.append(tuple(x.shape))
        return project(self, x, turn)

    monkeypatch.setattr(upstream.DecoderLayer, "__call__", watched)
    monkeypatch.setattr(PatchedGatedDeltaNet, "verify", watched_verify)
    monkeypatch.setattr(PatchedAttention, "project", watched_project)
    return seen


def test_a_decode_step_is_compiled_once(
    traces: list[tuple[int, ...]], dense_and_moe: Shape, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    model = Model.from_checkpoint(Checkpoint.open(checkpoint_dir(dense_and_moe)))
    cache = model.make_cache()
    mx.eval(model(mx.array([[1, 2, 3]]), cache=cache))
    del traces[:]
    for step in range(6):
        mx.eval(model(mx.array([[step]]), cache=cache))
        assert len(traces) == len(model.layers)
    batch = [layer[0].merge(list(layer)) for layer in zip(cache, cache, strict=True)]
    for _ in range(3):
        mx.eval(model(mx.array([[5], [6]]), cache=batch))
        assert len(traces) == 2 * len(model.layers), "one more for another number of rows"


def test_a_compiled_step_sees_new_weights(checkpoint_dir: Callable[[Shape], Path]) -> None:
    """As an adapter brings them."""
    models = [Model.from_checkpoint(Checkpoint.open(checkpoint_dir(DENSE)), exact=exact) for exact in (False, True)]
    tokens = mx.array([[9, 8, 7, 6]])
    for factor in (1.0, 0.5):
        logits = []
        for model in models:
            model.update(tree_map(lambda value, factor=factor: value * factor, model.parameters()))
            cache = model.make_cache()
            model(tokens, cache=cache)
            logits.append(model(mx.array([[3]]), cache=cache))
        assert_close(logits[0], logits[1], 1e-5)


@pytest.mark.parametrize("gated_delta", ["chunked", "fast"])
def test_training_runs_upstream_code(
    gated_delta: str, traces: list[tuple[int, ...]], checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """Nothing is compiled, and the outputs are mlx-lm's to the last bit."""
    checkpoint = Checkpoint.open(checkpoint_dir(DENSE))
    outs = []
    for options in ({"gated_delta": gated_delta}, {"exact": True}):
        model = Model.from_checkpoint(checkpoint, **options)  # type: ignore[arg-type]
        model.train()
        cache = model.make_cache()
        del traces[:]
        outs.append([model(mx.array([tokens]), cache=cache) for tokens in ([1, 2, 3], [4], [5])])
        assert [shape[1] for shape in traces] == [3] * 3 + [1] * 6
    assert all(mx.array_equal(found, expected).item() for found, expected in zip(*outs, strict=True))


def test_a_step_that_gathers_from_other_machines_is_not_compiled(
    traces: list[tuple[int, ...]], checkpoint_dir: Callable[[Shape], Path]
) -> None:
    """Here a group of one; what two compute is in test_distributed."""
    model = Model.from_checkpoint(Checkpoint.open(checkpoint_dir(DENSE)))
    model.shard(mx.distributed.init())
    cache = model.make_cache()
    mx.eval(model(mx.array([[1, 2, 3]]), cache=cache))
    del traces[:]
    for step in range(3):
        mx.eval(model(mx.array([[step]]), cache=cache))
    # The attention layer runs mlx-lm's own call, which does not go through ours.
    assert traces == [(1, 1, 64)] * 3 * 3
