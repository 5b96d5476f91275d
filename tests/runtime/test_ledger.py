"""Leases: what fits, who makes room, who hears of it, and what a forgotten checkpoint leaves behind."""

import gc
import threading
from collections.abc import Callable

import pytest

from mlx_qwen35.errors import InsufficientMemoryError
from mlx_qwen35.runtime.ledger import ImageLeases, Lease, Ledger
from tests.runtime.interrupting import interrupted_anywhere, may_leave_locks_held


def kept(ledger: Ledger, nbytes: int) -> tuple[Lease, list[int]]:
    """Something that can be let go a part at a time, and what it was asked for."""
    lease, asked = ledger.open("kept", nbytes), []

    def reclaim(missing: int) -> None:
        asked.append(missing)
        lease.enter(max(0, lease.nbytes - missing))

    ledger.on_pressure(reclaim)
    return lease, asked


def test_leases_are_counted_until_they_are_released() -> None:
    ledger = Ledger(100)
    one, other = ledger.take("a", 30, place="x"), ledger.take("b", 40, place="x")
    more = ledger.take("a", 5, place="x")
    assert (ledger.held, ledger.headroom, ledger.by_purpose()) == (75, 25, {"a": 35, "b": 40})
    assert one.resize(55)
    assert ledger.headroom == 0
    for lease in (one, other, more, more):
        lease.release()
    assert (ledger.held, ledger.by_purpose()) == (0, {})


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    ledger = Ledger(100)
    lease = ledger.take("a", 60, place="x")
    assert not lease.resize(101)
    with pytest.raises(
        InsufficientMemoryError, match=r"image: expected at most .* \(what is left of .*\), found 0.00 GB"
    ):
        ledger.take("b", 41, place="image")
    assert (lease.nbytes, ledger.held) == (60, 60)
    assert ledger.take("b", 40, place="image").nbytes == 40


def test_what_exists_is_entered_beyond_the_limit_and_may_shrink_there() -> None:
    ledger = Ledger(100)
    lease = ledger.open("weights", 150)
    assert ledger.headroom == -50
    assert lease.resize(120)
    assert ledger.held == 120
    assert not lease.resize(121)


def test_room_is_made_with_what_is_missing_and_no_more() -> None:
    ledger = Ledger(100)
    lease, asked = kept(ledger, 80)
    other, untouched = kept(ledger, 10)
    assert ledger.take("caches", 40, place="x")
    assert (asked, lease.nbytes, untouched, other.nbytes) == ([30], 50, [], 10)
    assert not ledger.make_room(61)
    assert lease.nbytes == other.nbytes == 0


def test_what_a_lease_has_already_is_not_missing() -> None:
    ledger = Ledger(100)
    lease, asked = kept(ledger, 60)
    growing = ledger.take("caches", 30, place="x")
    assert growing.resize(50)
    assert (asked, lease.nbytes) == ([10], 50)


def test_a_parent_counts_what_stands_below_it() -> None:
    parent = Ledger(100)
    one, other = Ledger(80, parent), Ledger(80, parent)
    held = one.take("weights", 70, place="x")
    assert (parent.held, one.headroom, other.headroom) == (70, 10, 30)
    assert parent.by_purpose() == {"weights": 70}
    with pytest.raises(InsufficientMemoryError, match="checkpoint"):
        other.take("weights", 31, place="checkpoint")
    assert (parent.held, other.held) == (70, 0)
    held.release()
    assert other.take("weights", 80, place="x").nbytes == parent.held == 80


def test_another_checkpoint_gives_back_what_the_process_misses_and_nothing_else() -> None:
    parent = Ledger(100)
    one, other = Ledger(50, parent), Ledger(100, parent)
    lease, asked = kept(other, 40)
    filled = one.take("caches", 50, place="x")
    assert not one.make_room(1)
    assert asked == []
    filled.release()
    third = parent.take("else", 30, place="x")
    assert one.take("caches", 40, place="x")
    assert (asked, lease.nbytes, parent.held) == ([10], 30, 100)
    third.release()


def test_a_closed_ledger_gives_everything_back_and_makes_no_room() -> None:
    parent = Ledger(100)
    one, other = Ledger(100, parent), Ledger(100, parent)
    lease, asked = kept(one, 60)
    told: list[str] = []
    one.on_release(lambda: told.append("one"))
    other.on_release(lambda: told.append("other"))
    one.close()
    assert (one.held, parent.held, lease.nbytes) == (0, 0, 0)
    assert set(told) == {"other"}
    assert not other.make_room(101)
    assert asked == []


def test_whoever_waits_hears_of_every_release_above_and_beside() -> None:
    parent = Ledger(100)
    one, other = Ledger(100, parent), Ledger(100, parent)
    told: list[str] = []
    one.on_release(lambda: told.append("one"))
    other.on_release(lambda: told.append("other"))
    lease = one.take("caches", 10, place="x")
    lease.resize(20)
    lease.resize(20)
    assert told == []
    lease.resize(15)
    assert sorted(told) == ["one", "other"]
    parent.take("else", 1, place="x").release()
    assert sorted(told) == ["one", "one", "other", "other"]


def test_a_forgotten_ledger_leaves_nothing_above() -> None:
    """A checkpoint that nobody closed must not hold the room of the next one, nor live on in what it registered."""
    parent = Ledger(100)
    ledger = Ledger(100, parent)
    _, asked = kept(ledger, 0)
    ledger.take("weights", 90, place="x")
    ledger.on_release(lambda: asked.append(-1))
    assert parent.held == 90
    del ledger, _
    gc.collect()
    assert parent.held == 0
    assert parent.take("weights", 100, place="x")
    assert asked == []


def test_waiting_takes_turns_with_its_own_kind() -> None:
    ledger = Ledger(100)
    inside, let_go = threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        with ledger.waiting("picture", 80, place="x"):
            inside.set()
            assert let_go.wait(10)
            order.append("first")

    def second() -> None:
        with ledger.waiting("picture", 50, place="x"):
            order.append("second")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert inside.wait(10)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    let_go.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]
    assert ledger.held == 0


def test_who_waits_is_woken_by_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """And looks itself now and then only for what it missed, which here it never does."""
    ledger = Ledger(100)
    waits, done, wait = threading.Event(), threading.Event(), ledger._changed.wait

    def until_woken(timeout: float) -> bool:
        waits.set()
        return wait(60)

    def second() -> None:
        with ledger.waiting("picture", 50, place="x"):
            done.set()

    monkeypatch.setattr(ledger._changed, "wait", until_woken)
    first = ledger.take("picture", 80, place="x")
    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    assert waits.wait(10)
    first.release()
    assert done.wait(10)
    thread.join(10)


def test_waiting_is_refused_where_nobody_of_its_kind_will_make_room() -> None:
    ledger = Ledger(100)
    other = ledger.take("caches", 60, place="x")
    with (
        pytest.raises(InsufficientMemoryError, match="image: expected at most"),
        ledger.waiting("picture", 50, place="image"),
    ):
        raise AssertionError("it does not fit")
    other.release()
    with ledger.waiting("picture", 50, place="image"):
        assert ledger.held == 50
    assert ledger.held == 0


def test_what_fails_inside_gives_its_room_back() -> None:
    """As a picture that turns out to be none."""
    ledger = Ledger(100)
    with pytest.raises(ZeroDivisionError), ledger.waiting("picture", 80, place="x"):
        raise ZeroDivisionError
    assert ledger.held == 0


def test_threads_that_race_never_hold_more_than_the_limit() -> None:
    """Two ledgers of four threads below one limit: every lease fits when it is granted, and all of it comes back."""
    parent = Ledger(100)
    ledgers = [Ledger(80, parent), Ledger(80, parent)]
    for ledger in ledgers:
        kept(ledger, 20)
    exceeded: list[int] = []
    taken: list[int] = []

    def run(ledger: Ledger, seed: int) -> None:
        for step in range(150):
            try:
                lease = ledger.take("row", 5 + (seed * 7 + step * 13) % 40, place="x")
            except InsufficientMemoryError:
                continue
            taken.append(lease.nbytes)
            if parent.held > parent.limit or ledger.held > ledger.limit:
                exceeded.append(parent.held)
            lease.release()

    work: list[Callable[[], None]] = [lambda number=n: run(ledgers[number % 2], number) for n in range(4)]
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert taken
    assert exceeded == []
    for ledger in ledgers:
        ledger.close()
    assert parent.held == 0


@pytest.mark.skipif(may_leave_locks_held(), reason="this Python lets Ctrl-C in behind a lock's taking, in any program")
def test_ctrl_c_at_any_moment_leaves_the_ledger_to_others() -> None:
    """In front of the code by which a Condition is left, it would have been held for ever."""
    ledger = Ledger(1000, parent=Ledger(1000))
    lease, moments = ledger.open("one"), 0

    def work() -> None:
        lease.resize(10)
        with ledger.waiting("two", 5, place="two"):
            pass
        lease.release()

    for _ in interrupted_anywhere(work):
        moments += 1
        other = threading.Thread(target=lambda: ledger.open("other", 1).release(), daemon=True)
        other.start()
        other.join(60)
        assert not other.is_alive()
    assert moments > 10


def test_images_and_videos_are_counted_apart() -> None:
    """Each says how much it keeps, and nothing of the other's."""
    ledger = Ledger(1000)
    media = ImageLeases(ledger)
    media.pixels(10)
    media.video_pixels(200)
    media.features(30)
    media.pixels(5)
    assert ledger.by_purpose() == {"image pixels": 5, "video pixels": 200, "image features": 30}
    with media.decoding(100, "video"):
        assert ledger.held == 335
    media.video_pixels(0)
    assert ledger.held == 35
