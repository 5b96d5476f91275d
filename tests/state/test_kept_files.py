"""Prefixes in a directory: bounded, checked, and shared with others who come and go."""

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35.errors import SessionError
from mlx_qwen35.state import disk, kept_files
from mlx_qwen35.state.cache import AttentionCache, GatedDeltaCache
from mlx_qwen35.state.disk import read_prefix
from mlx_qwen35.state.kept_files import KeptFiles
from mlx_qwen35.state.prefix import ImageRun, Prefix
from mlx_qwen35.state.sequence import FrozenState, Snapshot
from tests.state.test_write_journal import Clock

TOKENS = 6
IMAGE = ImageRun(2, 4, "0123456789abcdef0123")


def made(first: int = 0) -> Prefix:
    """A prefix of one GDN and one attention layer, with an image."""
    ids = np.arange(first, first + TOKENS, dtype=np.int32)
    mark = (mx.ones((1, 3, 8)) * first, mx.ones((1, 2, 4, 4)))
    pair = (mx.ones((1, 1, TOKENS, 8)) * first, mx.ones((1, 1, TOKENS, 8)))
    state = FrozenState((Snapshot(TOKENS, (mark, ())),), ((), pair))
    mx.eval(state.arrays())
    return Prefix(ids, (IMAGE,), 5, [TOKENS], state)


def write(files: KeptFiles, prefix: Prefix) -> Path | None:
    assert prefix.state is not None
    written = files.write(prefix, prefix.state)
    return None if written is None else written[0]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Callable[..., KeptFiles]:
    """Opens the directory, as another process would."""

    def open_it(model: str = "m", capacity: int = 10**9, per_hour: int = 10**9) -> KeptFiles:
        return KeptFiles(tmp_path, model, capacity=capacity, per_hour=per_hour, clock=clock)

    return open_it


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"mlx-qwen35-written"}


def test_what_one_process_wrote_another_finds_and_reads(opened: Callable[..., KeptFiles]) -> None:
    prefix = made(7)
    path = write(opened(), prefix)
    (found,) = opened().scan()
    assert path is not None
    assert (found.file, found.file_bytes, found.saved) == (path, path.stat().st_size, TOKENS)
    assert found.state is None
    assert found.input_ids.tolist() == prefix.input_ids.tolist()
    assert (found.images, found.turn_start, found.snapshot_tokens) == ((IMAGE,), 5, [TOKENS])
    assert found.keys.tolist() == prefix.keys.tolist()
    whole = read_prefix(path, "m", [GatedDeltaCache(), AttentionCache()])
    assert whole.state is not None
    assert prefix.state is not None
    for one, other in zip(whole.state.arrays(), prefix.state.arrays(), strict=True):
        assert mx.array_equal(one, other).item()


def test_it_is_its_owner_s_to_read(opened: Callable[..., KeptFiles]) -> None:
    path = write(opened(), made())
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((path.parent / "mlx-qwen35-written").stat().st_mode) == 0o600


def test_another_model_s_are_not_found_and_stay(opened: Callable[..., KeptFiles], tmp_path: Path) -> None:
    write(opened("m"), made())
    write(opened("n"), made(1))
    (found,) = opened("n").scan()
    assert found.input_ids[0] == 1
    assert len(names(tmp_path)) == 2


def test_what_is_there_is_not_written_again(opened: Callable[..., KeptFiles], tmp_path: Path) -> None:
    """Nor does it count; another image in the same place is something else."""
    prefix, other = made(), made()
    other.images = (ImageRun(2, 4, "ffff"),)
    assert prefix.state is not None
    files = opened(per_hour=int(2.5 * prefix.state.nbytes))
    first = write(files, prefix)
    for _ in range(3):
        assert write(files, made()) == first
    assert write(files, other) not in (None, first)
    assert write(files, made(3)) is None
    assert len(names(tmp_path)) == 2


def test_the_least_recently_used_make_room_whoever_wrote_them(
    opened: Callable[..., KeptFiles], tmp_path: Path, clock: Clock
) -> None:
    path = write(opened(), made())
    assert path is not None
    size = path.stat().st_size
    path.unlink()
    files, other = opened("m", capacity=3 * size), opened("n", capacity=3 * size)
    paths = []
    for number in range(3):
        paths.append(write(other if number == 0 else files, made(number)))
        clock.now += 10
        files.use(paths[-1])  # type: ignore[arg-type]
    clock.now += 10
    files.use(paths[1])  # type: ignore[arg-type]
    for number in (3, 4):
        paths.append(write(files, made(number)))
        clock.now += 10
        files.use(paths[-1])  # type: ignore[arg-type]
    assert names(tmp_path) == {paths[at].name for at in (1, 3, 4)}  # type: ignore[union-attr]
    assert sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) <= 3 * size


def test_what_is_larger_than_all_of_it_removes_nothing(opened: Callable[..., KeptFiles], tmp_path: Path) -> None:
    write(opened(), made())
    before = names(tmp_path)
    assert write(opened(capacity=100), made(1)) is None
    assert names(tmp_path) == before


def test_the_hour_s_bytes_are_not_exceeded(opened: Callable[..., KeptFiles], clock: Clock) -> None:
    prefix = made()
    assert prefix.state is not None
    files = opened(per_hour=prefix.state.nbytes)
    assert write(files, prefix) is not None
    assert write(files, made(1)) is None
    clock.now += 3601
    assert write(files, made(1)) is not None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:50], lambda data: b"", lambda data: b"x" * 99]
)
def test_a_broken_file_is_removed_with_a_warning(
    opened: Callable[..., KeptFiles],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
) -> None:
    path = write(opened(), made())
    whole = write(opened(), made(1))
    assert path is not None
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        (found,) = opened().scan()
    assert found.file == whole
    assert path.name in caplog.text
    assert "it is removed" in caplog.text
    assert not path.exists()


def test_no_flipped_bit_of_a_header_gets_further_than_the_scan(
    opened: Callable[..., KeptFiles], tmp_path: Path
) -> None:
    """It is found, removed, or another model's; what it holds is checked when it is read."""
    path = write(opened(), made())
    assert path is not None
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    for place in range(0, length, 5):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        for found in opened().scan():
            with pytest.raises(SessionError):
                read_prefix(path, "m", [GatedDeltaCache(), AttentionCache()])
            assert found.file == path


def test_what_others_removed_is_not_there_and_nothing_is_said(
    opened: Callable[..., KeptFiles], caplog: pytest.LogCaptureFixture
) -> None:
    files, path = opened(), write(opened(), made())
    assert path is not None
    path.unlink()
    files.use(path)
    files.remove(path)
    files.discard(path, SessionError("gone"))
    assert caplog.text == ""


def test_a_write_that_was_killed_leaves_no_prefix_and_its_rest_goes_later(
    opened: Callable[..., KeptFiles], tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(path: Path) -> None:
        raise Killed

    monkeypatch.setattr(disk, "_synchronise", kill)
    clock.now = tmp_path.stat().st_mtime
    with pytest.raises(Killed):
        write(opened(), made())
    monkeypatch.undo()
    assert opened().scan() == []
    assert len(names(tmp_path)) == 1
    clock.now += 4000
    assert opened().scan() == []
    assert names(tmp_path) == set()


def test_nothing_else_in_the_directory_is_touched(
    opened: Callable[..., KeptFiles], tmp_path: Path, clock: Clock
) -> None:
    clock.now = tmp_path.stat().st_mtime + 10**6
    (tmp_path / "mine.safetensors").write_bytes(b"x" * 10**4)
    (tmp_path / f"mlx-qwen35-{'0' * 16}-{'0' * 32}.safetensors").symlink_to(tmp_path / "mine.safetensors")
    (tmp_path / f"mlx-qwen35-{'1' * 16}-{'0' * 32}.safetensors").mkdir()
    before = names(tmp_path)
    path = write(opened(capacity=5000), made())
    assert path is not None
    assert opened().scan() != []
    assert names(tmp_path) == before | {path.name}
    assert (tmp_path / "mine.safetensors").stat().st_size == 10**4


def test_it_knows_whether_something_has_changed(opened: Callable[..., KeptFiles], tmp_path: Path) -> None:
    files = opened()
    assert files.changed()
    files.scan()
    assert not files.changed()
    os.utime(tmp_path, ns=(1, 1))
    assert files.changed()


def test_a_full_disk_costs_what_would_have_been_kept_and_nothing_else(
    opened: Callable[..., KeptFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.mx, "save_safetensors", full)
    assert write(opened(), made()) is None
    assert "No space left on device" in caplog.text
    assert names(tmp_path) == set()


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"nowhere: cannot be written \(No such file or directory\)"):
        KeptFiles(tmp_path / "nowhere", "m", capacity=1, per_hour=1)


def size_of(opened: Callable[..., KeptFiles]) -> int:
    """Bytes of one file, which is removed again."""
    path = write(opened(), made())
    assert path is not None
    size = path.stat().st_size
    path.unlink()
    return size


def test_what_is_too_large_to_be_kept_takes_nothing_of_the_hour_s_bytes(opened: Callable[..., KeptFiles]) -> None:
    prefix = made()
    assert prefix.state is not None
    per_hour = prefix.state.nbytes
    assert write(opened(capacity=100, per_hour=per_hour), prefix) is None
    assert write(opened(per_hour=per_hour), prefix) is not None


def test_what_is_to_be_written_again_counts_as_used(
    opened: Callable[..., KeptFiles], tmp_path: Path, clock: Clock
) -> None:
    size = size_of(opened)
    files = opened(capacity=2 * size)
    paths = []
    for number in (0, 1, 0, 2):
        clock.now += 10
        paths.append(write(files, made(number)))
        if len(paths) != 3:
            files.use(paths[-1])  # type: ignore[arg-type]
    assert names(tmp_path) == {paths[0].name, paths[3].name}  # type: ignore[union-attr]


@pytest.mark.parametrize("spare", ["arrays", "file"])
def test_neither_before_nor_after_a_write_is_there_more_than_there_may_be(
    opened: Callable[..., KeptFiles], tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, spare: str
) -> None:
    """A file's header is known only when it is written: then room is made once more."""
    size, arrays = size_of(opened), made().state.nbytes  # type: ignore[union-attr]
    assert arrays < size
    capacity = 2 * size + (arrays if spare == "arrays" else 0)
    files = opened(capacity=capacity)
    free: list[int] = []

    def writing(*given: object) -> None:
        free.append(capacity - sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")))
        disk.write_prefix(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(kept_files, "write_prefix", writing)
    paths = []
    for number in range(3):
        paths.append(write(files, made(number)))
        clock.now += 10
        files.use(paths[-1])  # type: ignore[arg-type]
    assert min(free) >= arrays
    assert names(tmp_path) == {path.name for path in paths[1:]}  # type: ignore[union-attr]


def test_files_that_are_known_are_not_read_again(opened: Callable[..., KeptFiles]) -> None:
    paths = [write(opened(), made(number)) for number in range(2)]
    assert [found.file for found in opened().scan({paths[0], None})] == [paths[1]]
    assert opened().scan(set(paths)) == []


def test_another_model_s_damaged_files_are_left_to_it(
    opened: Callable[..., KeptFiles], caplog: pytest.LogCaptureFixture
) -> None:
    path = write(opened("n"), made())
    assert path is not None
    path.write_bytes(path.read_bytes()[:-1])
    assert opened("m").scan() == []
    assert path.exists()
    assert caplog.text == ""


def test_what_comes_while_the_directory_is_read_is_seen_the_next_time(
    opened: Callable[..., KeptFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(opened(), made())
    files = opened()

    def reading(path: Path, fingerprint: str) -> Prefix | None:
        os.utime(tmp_path, ns=(5, 5))
        return disk.read_outline(path, fingerprint)

    monkeypatch.setattr(kept_files, "read_outline", reading)
    assert len(files.scan()) == 1
    assert files.changed()


def test_other_users_files_are_neither_read_nor_removed(
    opened: Callable[..., KeptFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory that all may write to."""
    size = size_of(opened)
    write(opened(), made())
    monkeypatch.setattr(kept_files.os, "geteuid", lambda: os.getuid() + 1)
    assert opened().scan() == []
    assert write(opened(capacity=size), made(1)) is not None
    assert len(names(tmp_path)) == 2


def test_the_least_recently_used_are_found_first(opened: Callable[..., KeptFiles], clock: Clock) -> None:
    files, paths = opened(), []
    for number in range(3):
        paths.append(write(files, made(number)))
    for place in (1, 2, 0):
        clock.now += 10
        files.use(paths[place])  # type: ignore[arg-type]
    assert [found.file for found in files.scan()] == [paths[1], paths[2], paths[0]]


def test_what_differs_in_anything_has_a_file_of_its_own(opened: Callable[..., KeptFiles]) -> None:
    """Token ids, images, where the turn begins, places and the model."""
    whole = made()
    others = [made(1), *(made() for _ in range(3))]
    others[1].images = (ImageRun(2, 4, IMAGE.content_hash[:-1] + "4"),)
    others[2].turn_start = 4
    others[3].snapshot_tokens = [3, TOKENS]
    paths = {opened().path_of(prefix) for prefix in (whole, *others)} | {opened("n").path_of(whole)}
    assert len(paths) == 6
    assert opened().path_of(made()) == opened().path_of(whole)


def test_all_files_of_a_prefix_are_removed_but_for_one(opened: Callable[..., KeptFiles], tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    prefix = made()
    prefix.file, prefix.earlier = paths[0], paths[1:]
    for but, left in ((paths[1], [paths[1]]), (paths[0], [paths[0]]), (None, [])):
        for path in paths:
            path.write_bytes(b"")
        opened().remove_all(prefix, but=but)
        assert [path for path in paths if path.exists()] == left
