"""Sessions on disk: the same bits, or a clear refusal."""

import json
import shutil
import stat
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.errors import SessionError
from mlx_qwen35.state import disk
from mlx_qwen35.state.cache import AttentionCache, GatedDeltaCache
from mlx_qwen35.state.disk import FORMAT, _digest, fingerprint_of, read_outline, read_prefix, write_prefix
from mlx_qwen35.state.kv_quantization import KvQuantization
from mlx_qwen35.state.prefix import ImageRun, Prefix
from mlx_qwen35.state.sequence import FrozenState, Snapshot
from tests.tiny import DENSE, IDS, MOE, WIDE_HEADS, Shape

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "you are brief"},
    {
        "role": "user",
        "content": [{"type": "image", "image": Image.new("RGB", (96, 64), "red")}, {"type": "text", "text": "what?"}],
    },
]


def newest(kit: ModelKit) -> Prefix:
    return next(reversed(kit.prompt_cache._prefixes))


@pytest.fixture(scope="module")
def session(checkpoint_dir: Callable[[Shape], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a conversation; must not be changed."""
    path = tmp_path_factory.mktemp("sessions") / "chat.session"
    with ModelKit.load(checkpoint_dir(DENSE), speculate="off") as kit:
        kit.generate(CONVERSATION, max_tokens=5, temperature=0.0)
        kit.save_session(path)
    return path


@pytest.fixture
def saved_file(session: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(session, tmp_path / "chat.session"))


@pytest.fixture
def saved(fresh: Callable[..., ModelKit], tmp_path: Path) -> tuple[ModelKit, Path]:
    kit = fresh()
    kit.generate(CONVERSATION, max_tokens=5, temperature=0.0)
    path = tmp_path / "chat.session"
    assert kit.save_session(path) == len(newest(kit).input_ids)
    return kit, path


def test_the_restored_state_is_the_same_to_the_bit(
    saved: tuple[ModelKit, Path], fresh: Callable[..., ModelKit]
) -> None:
    kit, path = saved
    other = fresh()
    assert other.load_session(path) == len(newest(kit).input_ids)
    one, two = newest(kit), newest(other)
    assert (one.images, one.turn_start, one.snapshot_tokens) == (two.images, two.turn_start, two.snapshot_tokens)
    assert one.input_ids.tolist() == two.input_ids.tolist()
    assert one.state is not None
    assert two.state is not None
    length = len(one.input_ids)
    for left, right in zip(one.state.held, two.state.held, strict=True):
        for a, b in zip(left, right, strict=True):
            assert mx.array_equal(a[..., :length, :], b).item()
    for left_snapshot, right_snapshot in zip(one.state.snapshots, two.state.snapshots, strict=True):
        assert left_snapshot.tokens == right_snapshot.tokens
        for a, b in zip(left_snapshot.arrays(), right_snapshot.arrays(), strict=True):
            assert a.dtype == b.dtype
            assert mx.array_equal(a, b).item()


def test_a_restored_conversation_goes_on_without_reading_or_encoding(
    saved_file: Path, fresh: Callable[..., ModelKit]
) -> None:
    path = saved_file
    kit, cold = fresh(), fresh(prompt_cache_bytes=0)
    kit.load_session(path)
    result = kit.generate(CONVERSATION, max_tokens=5, temperature=0.0)
    assert result.stats.cached_tokens == result.stats.prompt_tokens - 1
    assert (result.stats.images_encoded, result.stats.images_reused) == (0, 1)
    following = [*CONVERSATION, {"role": "assistant", "content": "red"}, {"role": "user", "content": "and?"}]
    answer = kit.generate(following, max_tokens=8, temperature=0.0)
    assert answer.stats.cached_tokens
    assert answer.tokens == cold.generate(following, max_tokens=8, temperature=0.0).tokens


def test_the_conversation_that_is_named_is_saved(fresh: Callable[..., ModelKit], tmp_path: Path) -> None:
    kit = fresh()
    first = kit.process_prompt(CONVERSATION)
    kit.generate(first, max_tokens=2)
    kit.generate([{"role": "user", "content": "hi"}], max_tokens=2)
    assert kit.save_session(tmp_path / "a.session", first) > len(first.input_ids)
    assert kit.save_session(tmp_path / "b.session") < len(first.input_ids)


def test_with_the_next_prompt_the_whole_conversation_is_saved(fresh: Callable[..., ModelKit], tmp_path: Path) -> None:
    """The answer as it was written too, although the next prompt shows it without its reasoning."""
    kit = fresh()
    prompt = kit.process_prompt(CONVERSATION)
    answer = kit.generate(prompt, max_tokens=5, temperature=0.0, logit_bias={IDS["<|image_pad|>"]: -100.0})
    following = [*CONVERSATION, {"role": "assistant", "content": answer.text}, {"role": "user", "content": "and?"}]
    whole = kit.save_session(tmp_path / "a.session")
    assert whole > len(prompt.input_ids)
    assert kit.save_session(tmp_path / "b.session", kit.process_prompt(following)) == whole
    other = fresh()
    assert other.load_session(tmp_path / "b.session") == whole
    ids = [*prompt.input_ids.tolist(), *answer.tokens, 5, 6]
    images = [CONVERSATION[1]["content"][0]["image"]]
    assert other.generate(other.process_prompt(ids, images=images), max_tokens=1).stats.cached_tokens == whole


def test_of_another_conversation_only_the_beginning_in_common_is_saved(
    fresh: Callable[..., ModelKit], tmp_path: Path
) -> None:
    kit = fresh()
    kit.generate(CONVERSATION, max_tokens=5)
    other = kit.process_prompt([CONVERSATION[0], {"role": "user", "content": "a new one"}])
    shared = kit.save_session(tmp_path / "a.session", other)
    assert shared == len(kit.tokenizer.encode("<|im_start|>system\nyou are brief<|im_end|>\n"))
    line = read_prefix(tmp_path / "a.session", kit.prompt_cache._fingerprint, kit.model.make_cache())
    assert (len(line), line.snapshot_tokens, line.images) == (shared, [shared], ())


def test_nothing_to_save(fresh: Callable[..., ModelKit], tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="found none in the prompt cache"):
        fresh().save_session(tmp_path / "chat.session")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written(saved: tuple[ModelKit, Path], tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"chat\.session: cannot be written \(No such file or directory\)$"):
        saved[0].save_session(tmp_path / "nowhere" / "chat.session")


def test_a_write_that_fails_at_its_end_leaves_nothing_behind(saved: tuple[ModelKit, Path], tmp_path: Path) -> None:
    """Where something stands in the place of the file that cannot be replaced."""
    folder = tmp_path / "folder"
    (folder / "kept").mkdir(parents=True)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SessionError, match=r"folder: cannot be written \("):
        saved[0].save_session(folder)
    assert sorted(tmp_path.iterdir()) == before
    assert list(folder.iterdir()) == [folder / "kept"]


@pytest.mark.parametrize("letter", ["a", "漢"])
def test_a_session_may_have_as_long_a_name_as_a_file_may(
    saved: tuple[ModelKit, Path], tmp_path: Path, letter: str
) -> None:
    """Although it is written under a longer one first; file systems count bytes."""
    kit, path = saved[0], tmp_path / (letter * (255 // len(letter.encode())))
    assert kit.save_session(path) == kit.load_session(path) == len(newest(kit).input_ids)


def refused(kit: ModelKit, path: Path, message: str) -> None:
    """The file is refused, and the kit is as it was."""
    before = len(kit.prompt_cache), kit.prompt_cache.nbytes
    with pytest.raises(SessionError, match=message):
        kit.load_session(path)
    assert (len(kit.prompt_cache), kit.prompt_cache.nbytes) == before


@pytest.mark.parametrize("shape", [WIDE_HEADS, MOE], ids=lambda shape: shape.name)
def test_another_model_is_refused(saved_file: Path, fresh: Callable[..., ModelKit], shape: Shape) -> None:
    refused(fresh(shape), saved_file, "expected a session of this model")


def test_other_weights_of_the_same_shape_are_refused(
    saved_file: Path, checkpoint_dir: Callable[[Shape], Path], tmp_path: Path
) -> None:
    source, changed = checkpoint_dir(DENSE), tmp_path / "changed"
    changed.mkdir()
    for file in source.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    weights = bytearray((changed / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "model.safetensors").write_bytes(weights)
    with ModelKit.load(changed, speculate="off") as kit:
        refused(kit, saved_file, "expected a session of this model")


def test_a_file_cut_short_is_refused(saved_file: Path, fresh: Callable[..., ModelKit]) -> None:
    kit, path = fresh(), saved_file
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(kit, path, "expected")


def test_a_damaged_file_is_refused(saved_file: Path, fresh: Callable[..., ModelKit]) -> None:
    """Any flipped bit, in the arrays or in what is said about them."""
    kit, path = fresh(), saved_file
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    for place in (8 + length, 8 + length + (len(whole) - 8 - length) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        refused(kit, path, "does not match its checksum")
    path.write_bytes(whole.replace(b'\\"turn\\": ', b'\\"turn\\":1'))
    refused(kit, path, "does not match its checksum")


def test_numbers_of_another_type_are_refused(saved_file: Path, fresh: Callable[..., ModelKit]) -> None:
    """The same bits, which the header calls whole numbers."""
    kit, path = fresh(), saved_file
    whole = path.read_bytes()
    assert b'"F32"' in whole
    path.write_bytes(whole.replace(b'"F32"', b'"I32"'))
    refused(kit, path, "does not match its checksum")


@pytest.mark.thorough
def test_no_flipped_bit_gets_through(saved_file: Path, fresh: Callable[..., ModelKit]) -> None:
    """Also in the header, where a file says how to read it."""
    kit, path = fresh(), saved_file
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    rng = Random(1)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.randrange(8 + length)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(SessionError):
            kit.load_session(path)
    assert len(kit.prompt_cache) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 0}, {"layers": 3}, {"turn": 10**9}, {"turn": "x"}, {"places": []}, {"places": [5]},
        {"places": [5, 5]}, {"images": [[3, 10**6, "00"]]}, {"images": [[1, 2, "no"]]}, {"images": [1]},
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(
    saved_file: Path, fresh: Callable[..., ModelKit], change: dict[str, Any]
) -> None:
    """A file that was made by hand, its checksum included."""
    path = saved_file
    loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
    arrays, metadata = loaded
    about = json.dumps({**json.loads(metadata["prefix"]), **change})
    mx.eval(list(arrays.values()))
    made = path.with_name("made.safetensors")
    mx.save_safetensors(str(made), arrays, {**metadata, "prefix": about, "digest": _digest(arrays, about)})
    refused(fresh(), made, "the session is damaged")


def signed(path: Path, change: Callable[[dict[str, mx.array]], Any]) -> Path:
    """The session with other arrays, and a checksum that is right for them."""
    loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
    arrays, metadata = loaded
    change(arrays)
    mx.eval(list(arrays.values()))
    made = path.with_name("made.safetensors")
    about = metadata["prefix"]
    mx.save_safetensors(str(made), arrays, {**metadata, "digest": _digest(arrays, about)})
    return made


def kinds(arrays: dict[str, mx.array]) -> dict[str, str]:
    """A name of an array of each kind: keys, values, convolution, recurrent state."""
    held = sorted(name for name in arrays if name.startswith("held."))
    marks = sorted(name for name in arrays if name.startswith("snapshot."))
    return {"keys": held[0], "values": held[1], "convolution": marks[0], "state": marks[1]}


@pytest.mark.some(15)
@pytest.mark.parametrize("kind", ["keys", "values", "convolution", "state"])
@pytest.mark.parametrize(
    "change",
    [
        lambda array: mx.concatenate([array, array]),
        lambda array: array[None],
        lambda array: array[:, :1] if array.shape[1] > 1 else mx.concatenate([array, array], axis=1),
        lambda array: array[..., :-1],
        lambda array: mx.concatenate([array, array], axis=-1),
        lambda array: array.astype(mx.float16),
        lambda array: array.astype(mx.int32),
        lambda array: mx.where(mx.arange(array.size).reshape(array.shape) == 5, mx.nan, array),
        lambda array: mx.where(mx.arange(array.size).reshape(array.shape) == 5, mx.inf, array),
        lambda array: array[:, :, :-1],
        lambda array: mx.concatenate([array, array], axis=2),
    ],
    ids=["batch", "a dimension", "heads", "narrow", "wide", "half", "integers", "nan", "infinity", "short", "long"],
)
def test_arrays_that_are_not_this_model_s_are_refused(
    saved_file: Path, kit: ModelKit, kind: str, change: Callable[[mx.array], mx.array]
) -> None:
    """The checksum is no key: whoever changes a file can make it anew."""

    def edit(arrays: dict[str, mx.array]) -> None:
        name = kinds(arrays)[kind]
        arrays[name] = change(arrays[name])

    refused(kit, signed(saved_file, edit), "the session is damaged: ValueError")


@pytest.mark.parametrize(
    "ids", [mx.array([-1]), mx.array([0.5]), mx.array([[1]]), mx.array([2**40]), mx.array([True])], ids=str
)
def test_token_ids_that_are_none_are_refused(saved_file: Path, kit: ModelKit, ids: mx.array) -> None:
    def edit(arrays: dict[str, mx.array]) -> None:
        arrays["input_ids"] = mx.contiguous(mx.broadcast_to(ids, (*ids.shape[:-1], len(arrays["input_ids"]))))

    refused(kit, signed(saved_file, edit), "the session is damaged")


@pytest.mark.parametrize(
    "about", ["1e999", "[]", "null", '{"turn": 1e999}', "[" * 100_000, '{"images": [[1e999, 1, "0"]]}', "{", "\x00"]
)
def test_nonsense_about_a_session_is_refused(saved_file: Path, kit: ModelKit, about: str) -> None:
    loaded: Any = mx.load(str(saved_file), format="safetensors", return_metadata=True)
    arrays, metadata = loaded
    if about.startswith("{") and about.endswith("}"):
        about = json.dumps(json.loads(metadata["prefix"]) | {"x": 0})[:-1] + ", " + about[1:]
    made = saved_file.with_name("made.safetensors")
    mx.eval(list(arrays.values()))
    mx.save_safetensors(str(made), arrays, {**metadata, "prefix": about, "digest": _digest(arrays, about)})
    refused(kit, made, "expected a saved session|the session is damaged")


def test_sessions_are_their_owner_s_to_read(saved_file: Path) -> None:
    assert stat.S_IMODE(saved_file.stat().st_mode) == 0o600


def test_an_adapter_s_settings_count(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(checkpoint_dir(DENSE))
    (tmp_path / "adapters.safetensors").write_bytes(b"x" * 100)
    prints = {checkpoint.fingerprint()}
    for scale in (1, 20):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"scale": scale}))
        prints.add(checkpoint.fingerprint(tmp_path))
    assert len(prints) == 3


def test_another_version_is_refused(saved_file: Path, fresh: Callable[..., ModelKit]) -> None:
    path = saved_file
    path.write_bytes(path.read_bytes().replace(FORMAT.encode(), FORMAT.encode()[:-1] + b"9"))
    refused(fresh(), path, f"expected {FORMAT}, found")


def test_other_files_are_refused(
    fresh: Callable[..., ModelKit], checkpoint_dir: Callable[[Shape], Path], tmp_path: Path
) -> None:
    kit = fresh()
    refused(kit, tmp_path / "nothing", "found no such file")
    refused(kit, checkpoint_dir(DENSE) / "model.safetensors", f"expected {FORMAT}, found")
    (tmp_path / "text").write_text(json.dumps({}))
    refused(kit, tmp_path / "text", "expected a saved session")


def test_a_session_larger_than_the_budget_is_refused(saved_file: Path, fresh: Callable[..., ModelKit]) -> None:
    refused(fresh(prompt_cache_bytes=1000), saved_file, "expected at most 1000 bytes")


def test_half_precision_survives(tmp_path: Path) -> None:
    """What numpy cannot hold is written and checked all the same."""
    caches = [GatedDeltaCache(), AttentionCache()]
    state = (mx.random.normal((1, 3, 8)).astype(mx.bfloat16), mx.random.normal((1, 2, 4, 4)))
    pair = (mx.random.normal((1, 1, 4, 8)).astype(mx.bfloat16), mx.random.normal((1, 1, 4, 8)).astype(mx.bfloat16))
    whole = FrozenState((Snapshot(3, (state, ())),), ((), pair))
    write_prefix(tmp_path / "a", Prefix(np.arange(3, dtype=np.int32), (), 2, [3], None), whole.cut(3), "x")
    found = read_prefix(tmp_path / "a", "x", caches).state
    assert found is not None
    assert mx.array_equal(found.held[1][0], pair[0][..., :3, :]).item()
    assert found.held[1][0].dtype == mx.bfloat16
    assert mx.array_equal(found.snapshots[0].arrays()[0], state[0]).item()


def small() -> tuple[Prefix, FrozenState]:
    """A prefix of one GDN and one attention layer that is turned at its end, and its arrays."""
    marks = [((mx.ones((1, 3, 8)) * place, mx.ones((1, 2, 4, 4))), ()) for place in (2, 4)]
    state = FrozenState(
        tuple(Snapshot(place, mark) for place, mark in zip((2, 4), marks, strict=True)),
        ((), (mx.ones((1, 1, 4, 8)), mx.ones((1, 1, 4, 8)))),
    )
    mx.eval(state.arrays())
    return Prefix(np.arange(4, dtype=np.int32), (), 4, [2, 4], state), state


def test_a_file_has_its_name_only_when_the_disk_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the name is written too."""
    seen: list[tuple[bool, bool, int]] = []

    def synchronise(path: Path) -> None:
        seen.append((path == tmp_path, (tmp_path / "a").exists(), 0 if path == tmp_path else path.stat().st_size))

    monkeypatch.setattr(disk, "_synchronise", synchronise)
    write_prefix(tmp_path / "a", *small(), "m")
    assert seen == [(False, False, (tmp_path / "a").stat().st_size), (True, True, 0)]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix, state = small()
    write_prefix(tmp_path / "a", prefix, state, "m")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "_synchronise", full)
    with pytest.raises(SessionError, match="a: cannot be written .*No space left"):
        write_prefix(tmp_path / "a", prefix, state, "m")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    found = read_prefix(tmp_path / "a", "m", [GatedDeltaCache(), AttentionCache()])
    assert (found.turn_start, found.snapshot_tokens) == (4, [2, 4])


def test_how_keys_and_values_are_quantised_is_told_where_only_that_is_another(tmp_path: Path) -> None:
    prefix, state = small()
    fingerprints = [fingerprint_of(model, kv) for model in ("m", "n") for kv in (None, KvQuantization(8, 64))]
    write_prefix(tmp_path / "a", prefix, state, fingerprints[1])
    for fingerprint, message in zip(
        fingerprints,
        ("keys and values not quantised, as .* found of 8 bits in groups of 64$", None, *["found another's$"] * 2),
        strict=True,
    ):
        caches = [GatedDeltaCache(), AttentionCache()]
        if message is None:
            assert len(read_prefix(tmp_path / "a", fingerprint, caches)) == 4
        else:
            with pytest.raises(SessionError, match=message):
                read_prefix(tmp_path / "a", fingerprint, caches)


def test_an_outline_is_of_this_format_and_knows_its_file(tmp_path: Path) -> None:
    write_prefix(tmp_path / "a", *small(), "m")
    outline = read_outline(tmp_path / "a", "m")
    assert outline is not None
    assert (outline.file, outline.file_bytes) == (tmp_path / "a", (tmp_path / "a").stat().st_size)
    assert read_outline(tmp_path / "a", "n") is None
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data.replace(FORMAT.encode(), FORMAT.encode()[:-1] + b"1"))
    assert read_outline(tmp_path / "a", "m") is None


@pytest.mark.parametrize("ids", [[-1, 1, 2, 3], [0, 1, 2, -3]], ids=str)
def test_one_token_id_that_is_none_is_enough(tmp_path: Path, ids: list[int]) -> None:
    prefix, state = small()
    prefix.input_ids = np.array(ids, np.int32)
    write_prefix(tmp_path / "a", prefix, state, "m")
    with pytest.raises(SessionError, match="its token ids are none"):
        read_prefix(tmp_path / "a", "m", [GatedDeltaCache(), AttentionCache()])


@pytest.mark.parametrize(("layers", "message"), [(1, "its layers are not the model's"), (3, "its layers are not")])
def test_a_file_of_another_number_of_layers_is_refused(tmp_path: Path, layers: int, message: str) -> None:
    write_prefix(tmp_path / "a", *small(), "m")
    with pytest.raises(SessionError, match=message):
        read_prefix(tmp_path / "a", "m", [GatedDeltaCache(), AttentionCache(), AttentionCache()][:layers])


@pytest.mark.parametrize(
    ("places", "images", "message"),
    [
        ([2], (), "its snapshots are at .2. of 4 tokens"),
        ([0, 4], (), "its snapshots are at .0, 4. of 4 tokens"),
        ([2, 4], (ImageRun(2, 3, "ab"), ImageRun(0, 1, "ab")), "its parts do not fit each other"),
        ([2, 4], (ImageRun(2, 3, "red"),), "invalid literal"),
        ([2, 4], (ImageRun(2, 3, "a" * 16 + "z"),), "invalid literal"),
        ([2, 4], (ImageRun(2, 5, "ab"),), "its parts do not fit each other"),
    ],
)
def test_places_and_images_that_cannot_be_are_refused(
    tmp_path: Path, places: list[int], images: tuple[ImageRun, ...], message: str
) -> None:
    prefix, state = small()
    prefix.snapshot_tokens, prefix.images = places, images
    write_prefix(tmp_path / "a", prefix, state, "m")
    with pytest.raises(SessionError, match=message):
        read_prefix(tmp_path / "a", "m", [GatedDeltaCache(), AttentionCache()])
    with pytest.raises(SessionError, match=message):
        read_outline(tmp_path / "a", "m")


def test_a_checksum_is_of_names_types_shapes_and_content() -> None:
    array = mx.arange(6).reshape(2, 3)
    digests = {
        _digest({name: value}, about)
        for name, value, about in [
            ("a", array, "x"), ("b", array, "x"), ("a", array.reshape(3, 2), "x"), ("a", array.view(mx.uint32), "x"),
            ("a", array + 1, "x"), ("a", array, "y"),
        ]
    }  # fmt: skip
    assert len(digests) == 6
    both = {"a": array, "b": array + 1}
    assert _digest(both, "x") == _digest(dict(reversed(both.items())), "x")


def test_marks_of_every_layer_are_written_whichever_comes_last(tmp_path: Path) -> None:
    prefix, state = small()
    turned = FrozenState(tuple(replace(s, marks=s.marks[::-1]) for s in state.snapshots), state.held[::-1])
    write_prefix(tmp_path / "a", prefix, turned, "m")
    found = read_prefix(tmp_path / "a", "m", [AttentionCache(), GatedDeltaCache()]).state
    assert found is not None
    for one, other in zip(found.arrays(), turned.arrays(), strict=True):
        assert mx.array_equal(one, other).item()


def test_a_file_that_ends_too_early_is_none(tmp_path: Path) -> None:
    write_prefix(tmp_path / "a", *small(), "m")
    data = (tmp_path / "a").read_bytes()
    for changed in (b"", data[:5], data[:8], data[:100], data[:-4], data[:-1]):
        (tmp_path / "a").write_bytes(changed)
        with pytest.raises(SessionError, match="a: expected a saved session: "):
            read_prefix(tmp_path / "a", "m", [GatedDeltaCache(), AttentionCache()])
        with pytest.raises(SessionError, match="a: expected a kept prefix: "):
            read_outline(tmp_path / "a", "m")
