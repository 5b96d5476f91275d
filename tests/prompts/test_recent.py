"""What was prepared lately is kept within its room."""

from mlx_qwen35.prompts.recent import RecentPixels


def recent(room: int) -> tuple[RecentPixels[bytes], list[int]]:
    told: list[int] = []
    return RecentPixels(room, len, told.append), told


def test_the_least_recently_used_go_first() -> None:
    kept, told = recent(10)
    for name in "abc":
        kept.keep(name, name.encode() * 4)
        assert kept.find("a") == b"aaaa"
    assert kept.find("b") is None
    assert kept.find("c") == b"cccc"
    assert told[-1] == 8
    assert max(told) <= 10


def test_what_is_larger_than_the_room_is_not_kept() -> None:
    kept, told = recent(3)
    kept.keep("a", b"aaaa")
    assert kept.find("a") is None
    assert told == [0]


def test_what_is_kept_again_counts_once() -> None:
    kept, told = recent(10)
    kept.keep("a", b"aaaa")
    kept.keep("a", b"aaaa")
    assert told == [4, 4]


def test_bytes_are_given_back_as_far_as_there_are_any() -> None:
    kept, told = recent(20)
    for name in "abc":
        kept.keep(name, name.encode() * 4)
    kept.reclaim(5)
    assert [name for name in "abc" if kept.find(name)] == ["c"]
    kept.reclaim(100)
    assert kept.find("c") is None
    assert told[-1] == 0
