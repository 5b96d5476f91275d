"""What was kept outlives the process, however that ended."""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import ref

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.results import GenerationResult
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.state import kept_prefixes
from mlx_qwen35.state.disk import read_prefix, write_prefix
from mlx_qwen35.state.kept_files import KeptFiles
from mlx_qwen35.state.kept_prefixes import KeptPrefixes
from mlx_qwen35.state.prefix import ImageRun, Prefix, keys_of
from mlx_qwen35.state.prefix_cache import PrefixCache
from mlx_qwen35.state.sequence import FrozenState, Snapshot
from tests.conftest import Bench
from tests.state.test_kept_files import made
from tests.tiny import DENSE, IDS, Shape

RED, GREEN = (Image.new("RGB", (96, 64), colour) for colour in ("red", "green"))
FIRST: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image", "image": RED}, {"type": "text", "text": "the quick fox " * 30}]}
]
Load = Callable[..., ModelKit]


@pytest.fixture
def load(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> Iterator[Load]:
    """Makes kits over one directory."""
    made: list[ModelKit] = []

    def get(**options: Any) -> ModelKit:
        made.append(ModelKit.load(checkpoint_dir(DENSE), **{"prompt_cache_dir": tmp_path, **options}))
        return made[-1]

    yield get
    for kit in made:
        kit.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits before it is written."""
    monkeypatch.setattr(kept_prefixes, "_SOON", 0.0)
    monkeypatch.setattr(kept_prefixes, "_LATER", 0.0)


def ask(kit: ModelKit, messages: Any, **options: Any) -> GenerationResult:
    return kit.generate(messages, **{"max_tokens": 5, "temperature": 0.0, **options})


def following(kit: ModelKit, answer: GenerationResult) -> Any:
    """The next turn, in which the model goes on from its answer."""
    ids = kit.process_prompt(FIRST).input_ids.tolist()
    place = ids.index(IDS["<|image_pad|>"])
    del ids[place + 1 : place + 6]
    return kit.process_prompt([*ids, *answer.tokens, 7, 8, 9], images=[RED])


def files_of(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def wait_for(what: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.01)


def test_a_process_that_ended_left_what_it_had_read(load: Load, tmp_path: Path) -> None:
    """The next turn reads the new tokens alone, encodes no image again, and says what a cold kit says."""
    kit = load()
    answer = ask(kit, FIRST)
    kit.close()
    assert len(files_of(tmp_path)) == 1
    warm = load()
    assert (warm.prompt_cache.nbytes, len(warm.prompt_cache)) == (0, 1)
    prompt = following(warm, answer)
    found = ask(warm, prompt)
    assert found.stats.prompt_tokens - found.stats.cached_tokens == 3
    assert found.stats.images_encoded == 0
    assert found.tokens == ask(load(prompt_cache_bytes=0, prompt_cache_dir=None), prompt).tokens


CHILD = """
import sys
from pathlib import Path
from mlx_qwen35 import ModelKit
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.state import kept_prefixes
from mlx_qwen35.state.disk import read_prefix, write_prefix
from tests.state.test_kept_prefixes import FIRST, ask
kept_prefixes._SOON = 0.0
kit = ModelKit.load(sys.argv[1], prompt_cache_dir=sys.argv[2])
print(*ask(kit, FIRST).tokens, flush=True)
sys.stdin.read()
"""


@pytest.mark.thorough
def test_a_process_that_was_killed_left_what_it_had_read(
    load: Load, checkpoint_dir: Callable[[Shape], Path], tmp_path: Path
) -> None:
    """By SIGKILL, while it waits for the next turn."""
    command = [sys.executable, "-c", CHILD, str(checkpoint_dir(DENSE)), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        written = tuple(map(int, process.stdout.readline().split()))
        wait_for(lambda: files_of(tmp_path) and len(files_of(tmp_path)[0].name) < 80)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    again = ask(load(), FIRST)
    assert again.tokens == written
    assert again.stats.cached_tokens == again.stats.prompt_tokens - 1


@pytest.mark.usefixtures("at_once")
def test_two_processes_at_once_go_on_from_each_other_s(load: Load, tmp_path: Path) -> None:
    """Also when one of them has replaced what the other knew of."""
    one, other = load(), load()
    answer = ask(one, FIRST)
    wait_for(lambda: one.prompt_cache.disk_bytes)
    prompt = following(one, answer)
    assert ask(other, prompt).stats.cached_tokens == len(prompt.input_ids) - 3
    wait_for(lambda: other.prompt_cache.disk_bytes)
    one.prompt_cache.clear()
    other.prompt_cache.shrink(0)
    assert ask(one, prompt).stats.cached_tokens > 0
    for file in files_of(tmp_path):
        file.unlink()
    assert ask(other, prompt).tokens == ask(one, prompt).tokens


@pytest.mark.usefixtures("at_once")
def test_the_newest_of_a_conversation_replaces_what_came_before(load: Load, tmp_path: Path) -> None:
    """Once it is whole; until then the earlier file is there."""
    kit = load()
    answer = ask(kit, FIRST)
    wait_for(lambda: kit.prompt_cache.disk_bytes)
    (first,) = files_of(tmp_path)
    write, seen = kit.prompt_cache._files.write, []  # type: ignore[union-attr]

    def look(*arguments: Any) -> Any:
        seen.append(first.exists())
        return write(*arguments)

    kit.prompt_cache._files.write = look  # type: ignore[union-attr, method-assign]
    ask(kit, following(kit, answer))
    wait_for(lambda: files_of(tmp_path) not in ([first], []) and len(files_of(tmp_path)) == 1)
    assert seen == [True]


def test_damage_is_told_and_costs_no_more_than_reading(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind the header, where only reading all of it shows."""
    kit = load()
    answer = ask(kit, FIRST)
    kit.close()
    (file,) = files_of(tmp_path)
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        again = ask(load(), FIRST)
    assert "does not match its checksum; it is removed" in caplog.text
    assert (again.stats.cached_tokens, again.tokens) == (0, answer.tokens)


@pytest.mark.some(1)
@pytest.mark.parametrize("other", [{"kv_bits": 8}, {"speculate": "off"}, {"gated_delta": "native"}], ids=str)
def test_another_arithmetic_does_not_go_on_from_it(load: Load, other: dict[str, Any], tmp_path: Path) -> None:
    """It is not even looked at, and stays."""
    kit = load()
    ask(kit, FIRST)
    kit.close()
    before = files_of(tmp_path)
    changed = load(**other)
    assert len(changed.prompt_cache) == 0
    assert ask(changed, FIRST).stats.cached_tokens == 0
    changed.close()
    assert set(before) < set(files_of(tmp_path))


@pytest.mark.parametrize("limit", ["prompt_cache_dir_bytes", "prompt_cache_write_bytes"])
def test_without_room_or_leave_to_write_nothing_is_written(load: Load, limit: str, tmp_path: Path) -> None:
    kit = load(**{limit: 1000})
    ask(kit, FIRST)
    kit.close()
    assert files_of(tmp_path) == []


def test_forgetting_forgets_what_is_on_disk_too(load: Load, tmp_path: Path) -> None:
    kit = load()
    ask(kit, FIRST)
    kit.close()
    load().prompt_cache.clear()
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("name", ["prompt_cache_dir_bytes", "prompt_cache_write_bytes"])
def test_limits_need_a_directory(load: Load, name: str) -> None:
    with pytest.raises(OptionError, match=f"{name}: expected with prompt_cache_dir, found 5 without"):
        load(**{name: 5, "prompt_cache_dir": None})
    with pytest.raises(OptionError, match=f"{name}: expected"):
        load(**{name: -1})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that prefixes are planned by; nothing rings."""
    now = [1000.0]
    monkeypatch.setattr(kept_prefixes, "monotonic", lambda: now[0])
    monkeypatch.setattr(kept_prefixes.Alarm, "ring_at", lambda *_: None)
    return now


def test_a_kit_that_is_forgotten_is_not_kept_alive_by_what_is_still_to_be_written(
    benches: Callable[[Shape], Bench], tmp_path: Path
) -> None:
    """Nor by the collector's not having come yet."""
    bench = benches(DENSE)
    files = KeptFiles(tmp_path, "m", capacity=10**9, per_hour=10**9)
    cache = KeptPrefixes(bench.model.make_cache, 10**9, fingerprint="m", files=files)
    cache._plan(made())
    seen = ref(cache)
    gc.disable()
    try:
        del cache
        assert seen() is None
    finally:
        gc.enable()


# Prefixes that no model read, in a cache of their own.

SIZE = made().state.nbytes  # type: ignore[union-attr]


def files_in(directory: Path, **limits: int) -> KeptFiles:
    return KeptFiles(directory, "m", **{"capacity": 10**9, "per_hour": 10**9, **limits})


def known(cache: PrefixCache) -> list[tuple[int, bool, bool]]:
    """Of each prefix its first token, and whether it is in memory and on disk."""
    return [(int(p.input_ids[0]), p.state is not None, p.file is not None) for p in cache._prefixes]


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What alarms are set to."""
    found: list[float] = []
    monkeypatch.setattr(kept_prefixes.Alarm, "ring_at", lambda _, at: found.append(at))
    return found


def test_what_is_due_is_written_and_the_alarm_is_set_for_what_is_due_next(
    open_cache: Callable[..., PrefixCache], clock: list[float], rings: list[float], tmp_path: Path
) -> None:
    cache = open_cache(files=files_in(tmp_path))
    for number in range(4):
        cache.insert(made(10 * number))
        clock[0] += 1.0
    assert rings == [1003.0, 1004.0, 1005.0, 1006.0]
    clock[0] = 1004.0
    cache._write_due()
    assert [on_disk for *_, on_disk in known(cache)] == [True, True, False, False]
    assert [prefix.due for prefix in cache._prefixes] == [None, None, 1005.0, 1006.0]
    assert rings[4:] == [1005.0]
    clock[0] = 1007.0
    cache._write_due()
    assert all(on_disk for *_, on_disk in known(cache))
    assert rings[5:] == []


def planned(cache: PrefixCache, new: Prefix, *, saved: int = 0, after: Prefix | None = None) -> float:
    """When a prefix is to be written."""
    new.saved = saved
    if after is not None:
        new.succeed(after, len(after))
    cache._plan(new)
    assert new.due is not None
    return new.due


def test_what_has_grown_is_written_soon_and_what_has_not_later(
    open_cache: Callable[..., PrefixCache], clock: list[float], tmp_path: Path
) -> None:
    """Later costs at most a sixteenth of reading it all, should the process be killed meanwhile."""
    cache = open_cache(files=files_in(tmp_path))
    assert planned(cache, made()) == 1003.0
    assert planned(cache, made(), saved=len(made())) == 1060.0


def test_a_conversation_that_never_rests_is_written_all_the_same(
    open_cache: Callable[..., PrefixCache], clock: list[float], tmp_path: Path
) -> None:
    cache, earlier = open_cache(files=files_in(tmp_path)), made()
    planned(cache, earlier)
    clock[0] += 2.0
    assert planned(cache, made(), after=earlier) == 1003.0


def test_what_could_not_be_written_is_tried_again_later(
    open_cache: Callable[..., PrefixCache], clock: list[float], rings: list[float], tmp_path: Path
) -> None:
    cache = open_cache(files=files_in(tmp_path, per_hour=SIZE))
    for number in range(2):
        cache.insert(made(10 * number))
    clock[0] = 1003.0
    cache._write_due()
    assert [(prefix.file is None, prefix.due) for prefix in cache._prefixes] == [(False, None), (True, 1063.0)]
    assert rings[-1] == 1063.0


def test_a_prefix_that_has_left_memory_is_no_longer_counted(
    open_cache: Callable[..., PrefixCache], told: list[int], rings: list[float], tmp_path: Path
) -> None:
    """On its way to disk it still counts; there, and where it came back and was evicted again, no more."""
    cache = open_cache(files=files_in(tmp_path))
    release = threading.Event()
    cache._disk.post(release.wait, 60)
    cache.insert(made())
    cache.shrink(0)
    on_its_way = told[-1], cache.nbytes
    release.set()
    assert on_its_way == (SIZE, 0)
    assert cache.disk_bytes > SIZE
    assert told[-1] == 0
    cache._fetch(next(iter(cache._prefixes)))
    assert (told[-1], cache.nbytes) == (SIZE, SIZE)
    cache.shrink(0)
    assert (told[-1], cache.nbytes) == (0, 0)
    assert known(cache) == [(0, False, True)]


@pytest.mark.parametrize("way", ["shrink", "reclaim", "clear", "close"])
def test_whatever_gives_memory_back_says_so(open_cache: Callable[..., PrefixCache], told: list[int], way: str) -> None:
    cache = open_cache()
    for number in range(3):
        cache.insert(made(10 * number))
    assert told[-1] == 3 * SIZE
    if way == "shrink":
        cache.shrink(SIZE)
    elif way == "reclaim":
        cache.reclaim(2 * SIZE)
    else:
        getattr(cache, way)()
    left = SIZE if way in ("shrink", "reclaim") else 0
    assert told[-1] == cache.nbytes == left
    assert len(cache) == left // SIZE


def test_what_is_reclaimed_goes_back_to_the_machine(open_cache: Callable[..., PrefixCache]) -> None:
    """Not to the arrays that MLX keeps for later."""
    mx.eval(mx.zeros(2**20) + 1)
    assert mx.get_cache_memory() >= 2**22
    open_cache().reclaim(0)
    assert mx.get_cache_memory() < 2**22


def test_memory_that_the_process_has_too_little_of_is_given_back(open_cache: Callable[..., PrefixCache]) -> None:
    """As much as is too much, however large the budget is."""
    cache = open_cache(most=int(2.5 * SIZE))
    for number in range(6):
        cache.insert(made(10 * number))
    assert known(cache) == [(40, True, False), (50, True, False)]


def long(first: int = 0) -> Prefix:
    """A prefix with a snapshot behind each of its 12 tokens."""
    pair = (mx.ones((1, 1, 12, 8)) * first, mx.ones((1, 1, 12, 8)))
    snapshots = tuple(
        Snapshot(place, ((mx.ones((1, 3, 8)) * place, mx.ones((1, 2, 4, 4)) * place), ())) for place in range(1, 13)
    )
    state = FrozenState(snapshots, ((), pair))
    mx.eval(state.arrays())
    return Prefix(np.arange(first, first + 12, dtype=np.int32), (), 3, list(range(1, 13)), state)


def test_old_snapshots_are_given_up_where_prefixes_are_too_large(open_cache: Callable[..., PrefixCache]) -> None:
    """They are no places to go on from then; the first, the turn's and the newest are."""
    cache = open_cache()
    prefix = long()
    assert prefix.state is not None
    cache.insert(prefix)
    cache._thin(prefix)
    assert prefix.snapshot_tokens == [1, 3, 7, 8, 9, 10, 11, 12]
    assert [snapshot.tokens for snapshot in prefix.state.snapshots] == prefix.snapshot_tokens
    found = [cache._prefixes.find(prefix.keys[:tokens], ()) for tokens in (2, 6, 12)]
    assert found == [(prefix, 1), (prefix, 3), (prefix, 12)]
    cache.clear()
    assert cache.nbytes == 0


@pytest.mark.parametrize("where", ["file", "leaving", "writing"])
def test_what_is_on_disk_or_on_its_way_keeps_its_snapshots(
    open_cache: Callable[..., PrefixCache], where: str, tmp_path: Path
) -> None:
    """Its file holds them all."""
    cache, prefix = open_cache(), long()
    cache.insert(prefix)
    before = prefix.state
    setattr(prefix, where, tmp_path / "file" if where == "file" else True)
    cache._thin(prefix)
    assert prefix.state is before
    assert len(prefix.snapshot_tokens) == 12
    setattr(prefix, where, None if where == "file" else False)


def test_what_fits_the_budget_only_thinned_is_thinned(open_cache: Callable[..., PrefixCache]) -> None:
    whole, thin = long(), long()
    assert whole.state is not None
    probe = open_cache()
    probe.insert(thin)
    probe._thin(thin)
    assert thin.state is not None
    assert thin.state.nbytes < whole.state.nbytes
    cache = open_cache(whole.state.nbytes - 1)
    cache.insert(whole)
    assert whole.snapshot_tokens == thin.snapshot_tokens
    assert len(cache) == 1


def test_the_newest_is_written_first_at_the_end(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path
) -> None:
    """Should there be leave for one only."""
    cache = open_cache(files=files_in(tmp_path, per_hour=SIZE))
    for number in range(3):
        cache.insert(made(10 * number))
    cache.close()
    assert known(open_cache(files=files_in(tmp_path))) == [(20, False, True)]


def test_a_closed_cache_keeps_nothing_and_writes_nothing(
    open_cache: Callable[..., PrefixCache], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor is it woken."""
    closed: list[Any] = []
    monkeypatch.setattr(kept_prefixes.Alarm, "close", lambda alarm: closed.append(alarm))
    cache = open_cache(files=files_in(tmp_path))
    prefix = made()
    cache.insert(prefix)
    cache.close()
    assert closed == [cache._alarm]
    for file in files_of(tmp_path):
        file.unlink()
    late = made(10)
    cache.insert(late)
    cache._write(late)
    cache._write_due()
    cache.close()
    assert (len(cache), files_of(tmp_path)) == (0, [])
    prompt = Prompt(prefix.input_ids)
    reading = cache.begin(prompt)
    assert reading is not None
    assert reading.snapshots is None


def test_files_that_somebody_removed_are_noticed_with_the_next_that_is_written(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path
) -> None:
    """What is in memory stays, and will be written again; what is not is forgotten."""
    cache = open_cache(files=files_in(tmp_path))
    held, gone, third = made(), made(10), made(20)
    for prefix in (gone, held):
        cache.insert(prefix)
        cache._write(prefix)
    cache.shrink(SIZE)
    assert known(cache) == [(10, False, True), (0, True, True)]
    for file in files_of(tmp_path):
        file.unlink()
    cache.insert(third)
    cache._write(third)
    assert known(cache) == [(0, True, False), (20, True, True)]
    assert (held.file_bytes, held.saved) == (0, 0)
    assert cache.disk_bytes == third.file_bytes


def test_what_was_forgotten_while_it_was_written_removes_no_files(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that it was to replace are what there is of what took its place."""
    files = files_in(tmp_path)
    cache, prefix = open_cache(files=files), made()
    earlier = tmp_path / "earlier"
    earlier.write_bytes(b"")
    prefix.earlier = [earlier]
    cache.insert(prefix)
    write = files.write

    def forget(*given: Any) -> Any:
        cache._drop(prefix)
        return write(*given)

    monkeypatch.setattr(files, "write", forget)
    cache._write(prefix)
    assert earlier.exists()
    assert prefix.file is None


def test_a_file_that_is_just_written_here_is_not_found_as_another_s(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before it is known to be whole, and not while it waits to be replaced."""
    files = files_in(tmp_path)
    cache = open_cache(files=files)
    first, longer = made(), long()
    write = files.write

    def look(*given: Any) -> Any:
        written = write(*given)
        cache._look()
        assert len(cache) == 1
        return written

    monkeypatch.setattr(files, "write", look)
    cache.insert(first)
    cache._write(first)
    (file,) = files_of(tmp_path)
    longer.succeed(first, 6)
    cache._drop(first)
    cache.insert(longer)
    cache._look()
    assert len(cache) == 1
    assert longer.earlier == [file]
    cache._write(longer)
    assert (longer.earlier, files_of(tmp_path)) == ([], [longer.file])


def test_a_prefix_on_disk_that_memory_has_no_room_for_is_not_known(
    open_cache: Callable[..., PrefixCache], tmp_path: Path
) -> None:
    large, small = long(), made(20)
    files = files_in(tmp_path)
    sizes = []
    for prefix in (large, small):
        assert prefix.state is not None
        written = files.write(prefix, prefix.state)
        assert written is not None
        sizes.append(written[1])
    assert known(open_cache(sizes[1], files=files_in(tmp_path))) == [(20, False, True)]
    assert len(open_cache(sizes[0], files=files_in(tmp_path))) == 2


def test_room_is_made_before_a_prefix_is_read_back(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(int(2.5 * SIZE), files=files_in(tmp_path))
    prefixes = [made(10 * number) for number in range(3)]
    for prefix in prefixes:
        cache.insert(prefix)
        cache._disk.wait()
    assert known(cache) == [(0, False, True), (10, True, False), (20, True, False)]
    held: list[int] = []

    def read(*given: Any) -> Any:
        held.append(cache.nbytes)
        return read_prefix(*given)

    monkeypatch.setattr(kept_prefixes, "read_prefix", read)
    cache._fetch(prefixes[0])
    assert held == [SIZE if prefixes[0].file_bytes <= 1.5 * SIZE else 0]
    assert prefixes[0].state is not None


def test_who_waits_for_what_cannot_be_read_back_is_told(
    open_cache: Callable[..., PrefixCache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong: a request that nobody wakes would wait for ever. The file may be whole, and stays."""
    prefix = made()
    assert prefix.state is not None
    assert files_in(tmp_path).write(prefix, prefix.state) is not None
    cache = open_cache(files=files_in(tmp_path))

    def read(*given: Any) -> Any:
        raise RuntimeError("[malloc] Unable to allocate")

    monkeypatch.setattr(kept_prefixes, "read_prefix", read)
    ready = threading.Event()
    (found,) = cache._prefixes
    cache._disk.post(cache._fetch_for, found, ready.set)
    cache._disk.wait()
    assert ready.is_set()
    assert (len(cache), len(files_of(tmp_path))) == (0, 1)


def test_nothing_is_read_back_that_the_process_has_no_memory_for(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path
) -> None:
    """What is still on its way to disk takes memory too."""
    files = files_in(tmp_path)
    prefix, other = made(), made(10)
    assert prefix.state is not None
    assert files.write(prefix, prefix.state) is not None
    size = files_of(tmp_path)[0].stat().st_size
    for waiting in (False, True):
        cache = open_cache(files=files_in(tmp_path), most=size + SIZE - 1)
        (found,) = cache._prefixes
        if waiting:
            release = threading.Event()
            cache._disk.post(release.wait, 60)
            cache.insert(other)
            cache.shrink(0)
        read = cache._fetch(found)
        if waiting:
            release.set()
        assert (read is None) is waiting


@pytest.mark.parametrize("what", ["tokens", "images", "places"])
def test_a_file_that_holds_something_else_now_is_not_gone_on_from(
    open_cache: Callable[..., PrefixCache], what: str, tmp_path: Path
) -> None:
    """Whoever has put it there."""
    prefix = long()
    assert prefix.state is not None
    assert files_in(tmp_path).write(prefix, prefix.state) is not None
    cache = open_cache(files=files_in(tmp_path))
    (found,) = cache._prefixes
    assert found.file is not None
    other, state = long(), prefix.state
    if what == "tokens":
        other.input_ids = other.input_ids[::-1].copy()
    elif what == "images":
        other.images = (ImageRun(2, 4, "ff"),)
    else:
        other.snapshot_tokens, state = [3, 12], state.without(lambda snapshot: snapshot.tokens not in (3, 12))
    write_prefix(found.file, other, state, "m")
    assert cache._fetch(found) is None
    assert len(cache) == 0


def test_a_prefix_that_was_read_back_is_the_last_to_go(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path
) -> None:
    cache = open_cache(files=files_in(tmp_path))
    first, second = made(), made(10)
    for prefix in (first, second):
        cache.insert(prefix)
    cache.shrink(SIZE)
    cache._disk.wait()
    assert known(cache) == [(0, False, True), (10, True, False)]
    cache._fetch(first)
    assert known(cache) == [(10, True, False), (0, True, True)]


def test_use_is_told_to_the_files_too(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path
) -> None:
    """So that a process that has a prefix in memory keeps its file from others' making room."""
    cache, prefix = open_cache(files=files_in(tmp_path)), made()
    prefix.images = ()
    prefix.keys = keys_of(prefix.input_ids, ())
    cache.insert(prefix)
    cache._write(prefix)
    (file,) = files_of(tmp_path)
    os.utime(file, (1, 1))
    reading = cache.begin(Prompt(np.array([*prefix.input_ids, 9], np.int32)))
    assert reading is not None
    assert reading.start == 6
    assert file.stat().st_mtime > 10**9


def test_what_fits_exactly_keeps_its_snapshots(open_cache: Callable[..., PrefixCache]) -> None:
    cache = open_cache()
    for number in (0, 100):
        cache.insert(long(number))
    cache.shrink(cache.nbytes)
    assert [len(prefix.snapshot_tokens) for prefix in cache._prefixes] == [12, 12]
    cache.shrink(cache.nbytes - 1)
    assert [len(prefix.snapshot_tokens) for prefix in cache._prefixes] == [8, 12]


def test_what_could_not_be_written_may_be_thinned_again(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path
) -> None:
    cache, prefix = open_cache(files=files_in(tmp_path, per_hour=0)), long()
    cache.insert(prefix)
    cache._write(prefix)
    cache._thin(prefix)
    assert len(prefix.snapshot_tokens) == 8


def test_what_was_written_here_while_others_were_looked_for_is_not_another_s(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_in(tmp_path)
    cache, prefix = open_cache(files=files), made()
    cache.insert(prefix)
    scan = files.scan

    def scanning(known: Any) -> list[Prefix]:
        cache._write(prefix)
        found = scan(known)
        assert len(found) == 1
        return found

    monkeypatch.setattr(files, "scan", scanning)
    cache._look()
    assert list(cache._prefixes) == [prefix]


def test_a_prefix_that_was_forgotten_is_not_read_back(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waited for the disk."""
    cache, prefix = open_cache(files=files_in(tmp_path)), made()
    cache.insert(prefix)
    cache._write(prefix)
    cache.shrink(0)
    cache._drop(prefix)
    monkeypatch.setattr(kept_prefixes, "read_prefix", lambda *_: pytest.fail("read"))
    assert cache._fetch(prefix) is None


def test_a_file_that_cannot_be_read_back_is_removed_and_its_prefix_forgotten(
    open_cache: Callable[..., PrefixCache], rings: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, prefix = open_cache(files=files_in(tmp_path)), made()
    cache.insert(prefix)
    cache._write(prefix)
    cache.shrink(0)
    (file,) = files_of(tmp_path)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert cache._fetch(prefix) is None
    assert (len(cache), files_of(tmp_path)) == (0, [])
    assert "it is removed" in caplog.text


@pytest.mark.parametrize("way", ["forgotten", "wanted"])
def test_what_is_on_its_way_to_disk_counts_once_whatever_becomes_of_it(
    open_cache: Callable[..., PrefixCache], told: list[int], rings: list[float], tmp_path: Path, way: str
) -> None:
    cache, prefix = open_cache(files=files_in(tmp_path)), made()
    prefix.images = ()
    prefix.keys = keys_of(prefix.input_ids, ())
    release = threading.Event()
    cache._disk.post(release.wait, 60)
    cache.insert(prefix)
    cache.shrink(0)
    try:
        if way == "forgotten":
            cache.clear()
            assert (told[-1], cache.nbytes) == (0, 0)
        else:
            assert cache.begin(Prompt(np.array([*prefix.input_ids, 9], np.int32))) is not None
            assert (told[-1], cache.nbytes) == (SIZE, SIZE)
    finally:
        release.set()
