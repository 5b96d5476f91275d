"""What was written in the last hour, by whom ever."""

import fcntl
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_qwen35.state import write_journal
from mlx_qwen35.state.write_journal import WriteJournal


class Clock:
    """Shows what it is set to."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_no_more_than_so_much_is_written_in_any_hour(tmp_path: Path) -> None:
    clock = Clock()
    journal = WriteJournal(tmp_path / "written", 100, clock)
    assert not journal.reserve(101)
    assert [journal.reserve(40) for _ in range(3)] == [True, True, False]
    clock.now += 3599
    assert [journal.reserve(20), journal.reserve(1)] == [True, False]
    clock.now += 2
    assert [journal.reserve(80), journal.reserve(1)] == [True, False]
    assert len((tmp_path / "written").read_text().splitlines()) == 2


def test_all_processes_count_and_those_that_are_gone(tmp_path: Path) -> None:
    clock = Clock()
    one, other = (WriteJournal(tmp_path / "written", 100, clock) for _ in range(2))
    assert one.reserve(60)
    assert not other.reserve(60)
    assert other.reserve(40)
    del one, other
    assert not WriteJournal(tmp_path / "written", 100, clock).reserve(1)


@pytest.mark.parametrize("nonsense", [b"\xff\xfe", b"1 2 3\n", b"nan nan\n", b"x 50\n1000000 -5\n", b"1e999 7\n"])
def test_nonsense_in_the_journal_is_nothing(tmp_path: Path, nonsense: bytes) -> None:
    (tmp_path / "written").write_bytes(nonsense)
    journal = WriteJournal(tmp_path / "written", 100, Clock())
    assert [journal.reserve(100), journal.reserve(1)] == [True, False]


def test_a_clock_that_was_set_back_stops_nobody_for_longer_than_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    journal = WriteJournal(tmp_path / "written", 100, clock)
    assert journal.reserve(100)
    clock.now -= 10_000
    assert journal.reserve(100)


def test_who_holds_the_journal_stops_writing_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_journal, "_PAUSE", 0.0)
    journal = WriteJournal(tmp_path / "written", 100, Clock())
    journal.check()
    file = os.open(tmp_path / "written", os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_EX)
    assert not journal.reserve(1)
    os.close(file)
    assert journal.reserve(1)


def test_a_journal_behind_a_link_is_not_written(tmp_path: Path) -> None:
    """In a directory that others may write to too."""
    (tmp_path / "target").write_text("precious")
    (tmp_path / "written").symlink_to(tmp_path / "target")
    journal = WriteJournal(tmp_path / "written", 100, Clock())
    with pytest.raises(OSError, match="written"):
        journal.check()
    assert not journal.reserve(1)
    assert (tmp_path / "target").read_text() == "precious"


def test_what_is_let_go_meanwhile_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the journal for as long as it takes to write a few lines."""
    journal = WriteJournal(tmp_path / "written", 100, Clock())
    file, pauses = os.open(tmp_path / "written", os.O_RDWR | os.O_CREAT), []
    fcntl.flock(file, fcntl.LOCK_EX)

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            fcntl.flock(file, fcntl.LOCK_UN)

    monkeypatch.setattr(write_journal, "time", SimpleNamespace(sleep=sleep))
    assert journal.reserve(1)
    assert len(pauses) == 3
    assert 0.5 < sum(pauses) / len(pauses) * write_journal._TRIES < 5
    os.close(file)


def test_no_file_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there was leave to write or not."""
    opened: list[int] = []
    closed: list[int] = []

    def watched_open(*given: Any) -> int:
        opened.append(os.open(*given))
        return opened[-1]

    def watched_close(file: int) -> None:
        closed.append(file)
        os.close(file)

    monkeypatch.setattr(
        write_journal, "os", SimpleNamespace(**vars(os) | {"open": watched_open, "close": watched_close})
    )
    journal = WriteJournal(tmp_path / "written", 100, Clock())
    journal.check()
    assert [journal.reserve(nbytes) for nbytes in (60, 60, 101)] == [True, False, False]
    assert closed == opened
    assert len(opened) == 3


def test_all_of_the_hour_s_bytes_may_be_written(tmp_path: Path) -> None:
    journal = WriteJournal(tmp_path / "written", 100, Clock())
    assert [journal.reserve(60), journal.reserve(40), journal.reserve(0)] == [True, True, True]
    assert WriteJournal(tmp_path / "other", 100, Clock()).reserve(100)
