"""Stored responses: the newest, within bounds."""

from typing import Any

import pytest

from mlx_qwen35.server.stored import StoredResponse, StoredResponses, page_of
from mlx_qwen35.server.wire import ApiError


def response(name: str, *items: str, text: str = "") -> StoredResponse:
    output: list[dict[str, Any]] = [{"type": "message", "id": item} for item in items]
    return StoredResponse({"id": name, "output": output, "text": text}, [{"type": "message", "id": f"in_{name}"}])


def names(stored: StoredResponses) -> list[str]:
    return list(stored._stored)


def test_the_oldest_go_first_and_use_keeps_them() -> None:
    stored = StoredResponses(2, 10_000)
    for name in ("a", "b"):
        stored.add(response(name))
    assert stored.get("a").response["id"] == "a"
    stored.add(response("c"))
    assert names(stored) == ["a", "c"]
    stored.remove("a")
    assert names(stored) == ["c"]


def test_bytes_are_bounded() -> None:
    stored = StoredResponses(100, 1000)
    for number in range(10):
        stored.add(response(str(number), text="x" * 300))
    assert 1 < len(names(stored)) < 4
    stored.add(response("large", text="x" * 2000))
    assert names(stored) == []
    assert stored._bytes == 0


def test_the_conversation_before_a_response_counts_too() -> None:
    stored = StoredResponses(100, 1000)
    stored.add(StoredResponse({"id": "a", "output": []}, [{"type": "message", "content": "x" * 1000}]))
    assert (names(stored), stored._bytes) == ([], 0)


def test_what_is_removed_makes_room() -> None:
    stored = StoredResponses(100, 1000)
    for number in range(10):
        stored.add(response(str(number), text="x" * 600))
        assert names(stored) == [str(number)]
        stored.remove(str(number))
        assert (names(stored), stored._bytes) == ([], 0)


def test_items_are_found_in_answers_and_in_what_was_asked() -> None:
    stored = StoredResponses(5, 10_000)
    stored.add(response("a", "msg_1", "msg_2"))
    stored.add(response("b", "msg_3"))
    found = stored.items({"msg_1": "input[0].id", "in_b": "input[1].id"})
    assert {name: item["id"] for name, item in found.items()} == {"msg_1": "msg_1", "in_b": "in_b"}
    stored.add(StoredResponse({"id": "c", "output": [{"id": "msg_1", "text": "newer"}]}, []))
    newer = {"msg_1": {"id": "msg_1", "text": "newer"}}
    found = stored.items({"msg_1": "input[0].id"})
    assert found == newer
    # A copy: what is done with it changes nothing here.
    found["msg_1"]["text"] = "changed"
    assert stored.items({"msg_1": "input[0].id"}) == newer
    with pytest.raises(ApiError, match=r"^input\[3\]\.id: no item 'msg_9' is stored; it is gone") as error:
        stored.items({"msg_1": "input[0].id", "msg_9": "input[3].id"})
    assert (error.value.status, error.value.param) == (404, "input[3].id")


def test_nothing_is_stored_where_nothing_may_be() -> None:
    stored = StoredResponses()
    assert not stored.enabled
    stored.add(response("a"))
    with pytest.raises(ApiError, match="id: no response 'a' is stored"):
        stored.get("a")
    with pytest.raises(ApiError):
        stored.remove("a")


ITEMS = [{"id": str(number)} for number in range(25)]


@pytest.mark.parametrize(
    ("query", "first", "last", "more"),
    [
        ({}, 24, 5, True), ({"after": "5"}, 4, 0, False), ({"order": "asc"}, 0, 19, True),
        ({"order": "asc", "limit": "3", "after": "1"}, 2, 4, True), ({"limit": "100"}, 24, 0, False),
        ({"limit": "25"}, 24, 0, False),
    ],
)  # fmt: skip
def test_a_page_of_a_conversation(query: dict[str, str], first: int, last: int, more: bool) -> None:
    page = page_of(ITEMS, query)
    shown = [int(item["id"]) for item in page.pop("data")]
    assert shown == list(range(first, last + 1) if first < last else range(first, last - 1, -1))
    assert page == {"object": "list", "has_more": more, "first_id": str(first), "last_id": str(last)}


def test_an_empty_page_of_a_conversation() -> None:
    for items, query in (([], {}), (ITEMS, {"after": "0"})):
        found = page_of(items, query)
        assert found == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({"order": "up"}, 400, "order: expected asc or desc, found 'up'"),
        ({"limit": "0"}, 400, "limit: expected 1 to 100, found '0'"),
        ({"limit": "101"}, 400, "found '101'"),
        ({"limit": "-1"}, 400, "found '-1'"),
        ({"limit": "²"}, 400, "limit: expected 1 to 100"),
        ({"after": "nobody"}, 404, "after: no item 'nobody' is stored"),
    ],
)
def test_a_page_that_is_asked_for_wrongly(query: dict[str, str], status: int, said: str) -> None:
    with pytest.raises(ApiError, match=said) as caught:
        page_of(ITEMS, query)
    assert caught.value.status == status
