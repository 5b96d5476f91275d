"""What was kept outlives the process, however that ended."""

import gc
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.results import GenerationResult
from mlx_qwen35.errors import OptionError
from mlx_qwen35.state import kept_prefixes
from mlx_qwen35.state.kept_files import KeptFiles
from mlx_qwen35.state.kept_prefixes import KeptPrefixes
from mlx_qwen35.state.prefix import Prefix
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
from mlx_qwen35.state import kept_prefixes
from tests.state.test_kept_prefixes import FIRST, ask
kept_prefixes._SOON = 0.0
kit = ModelKit.load(sys.argv[1], prompt_cache_dir=sys.argv[2])
print(*ask(kit, FIRST).tokens, flush=True)
sys.stdin.read()
"""


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


@pytest.mark.parametrize("other", [{"kv_bits": 8}, {"speculate": "mtp"}, {"gated_delta": "native"}], ids=str)
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


def planned(load: Load, new: Prefix, *, saved: int = 0, after: Prefix | None = None) -> float:
    """When a prefix is to be written."""
    cache: KeptPrefixes = load().prompt_cache
    new.saved = saved
    if after is not None:
        new.succeed(after, len(after))
    cache._plan(new)
    assert new.due is not None
    return new.due


def test_what_has_grown_is_written_soon_and_what_has_not_later(load: Load, clock: list[float]) -> None:
    """Later costs at most a sixteenth of reading it all, should the process be killed meanwhile."""
    assert planned(load, made()) == 1003.0
    assert planned(load, made(), saved=len(made())) == 1060.0


def test_a_conversation_that_never_rests_is_written_all_the_same(load: Load, clock: list[float]) -> None:
    earlier = made()
    planned(load, earlier)
    clock[0] += 2.0
    assert planned(load, made(), after=earlier) == 1003.0


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
