"""The thread for files: in order, to the end, and nothing afterwards."""

import threading

import pytest

from mlx_qwen35.state.disk_thread import DiskThread


def test_what_was_posted_is_finished_in_order_when_it_is_closed() -> None:
    """Also what had not begun."""
    disk, release, done = DiskThread(), threading.Event(), []
    assert disk.post(release.wait, 60) is not None
    for number in range(5):
        disk.post(done.append, number)
    closing = threading.Thread(target=disk.close)
    closing.start()
    assert done == []
    release.set()
    closing.join(60)
    assert done == [0, 1, 2, 3, 4]


def test_closed_it_takes_nothing_and_whoever_waits_is_answered_at_once() -> None:
    disk, done = DiskThread(), []
    disk.close()
    disk.close()
    assert disk.post(done.append, 1) is None
    disk.wait()
    assert done == []
    assert disk.call(lambda a, b: a + b, 1, 2) == 3


@pytest.mark.parametrize("closed", [False, True])
def test_an_exception_is_raised_where_it_was_asked_for(closed: bool) -> None:
    disk = DiskThread()
    if closed:
        disk.close()
    with pytest.raises(ZeroDivisionError):
        disk.call(lambda: 1 / 0)
    assert disk.call(int) == 0
    disk.close()


def test_waiting_is_until_everything_is_done() -> None:
    disk, done = DiskThread(), []
    disk.wait()
    for number in range(3):
        disk.post(done.append, number)
    disk.wait()
    assert done == [0, 1, 2]
    disk.close()
