"""Responses that clients come back to by their ids, within bounds of number and memory."""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_qwen35.paths import shorten
from mlx_qwen35.server.wire import ApiError, invalid_request


@dataclass(frozen=True)
class StoredResponse:
    """One response, and the conversation that it ends.

    Args:
        response: As it was answered.
        items: Of the whole conversation before it, as JSON.
    """

    response: dict[str, Any]
    items: Sequence[dict[str, Any]]


class StoredResponses:
    """The newest responses; the oldest go first. Any thread.

    Args:
        most: At most so many; 0 stores nothing.
        most_bytes: Of their JSON, together.
    """

    def __init__(self, most: int = 0, most_bytes: int = 0) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._stored: OrderedDict[str, tuple[StoredResponse, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def enabled(self) -> bool:
        """Whether anything is stored."""
        return self._most > 0

    def add(self, stored: StoredResponse) -> None:
        """Remember a response by its id."""
        size = len(json.dumps([stored.response, stored.items]))
        with self._lock:
            self._stored[stored.response["id"]] = stored, size
            self._bytes += size
            while self._stored and (len(self._stored) > self._most or self._bytes > self._most_bytes):
                _, (_, gone) = self._stored.popitem(last=False)
                self._bytes -= gone

    def get(self, name: str, place: str = "id") -> StoredResponse:
        """A response by its id.

        Raises:
            ApiError: 404: it was never stored, or is gone.
        """
        with self._lock:
            if name not in self._stored:
                raise _gone("response", name, place)
            self._stored.move_to_end(name)
            return self._stored[name][0]

    def items(self, places: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Items of stored conversations by their ids, all of which are looked for at once: there may be many of both.

        Args:
            places: By the ids, where they stand in the request, for error messages.
        Raises:
            ApiError: 404: there is no such item.
        """
        found: dict[str, dict[str, Any]] = {}
        with self._lock:
            for stored, _ in reversed(self._stored.values()):
                for item in (*stored.response["output"], *stored.items):
                    if item.get("id") in places:
                        found.setdefault(item["id"], dict(item))
        for name, place in places.items():
            if name not in found:
                raise _gone("item", name, place)
        return found

    def remove(self, name: str) -> None:
        """Forget a response.

        Raises:
            ApiError: 404: there is none.
        """
        with self._lock:
            if name not in self._stored:
                raise _gone("response", name, "id")
            self._bytes -= self._stored.pop(name)[1]


def page_of(items: Sequence[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """A page of a stored conversation, as OpenAI's lists are asked for: the newest first.

    Args:
        items: The oldest first, each with an id.
        query: `order`, `limit` and `after`, the id of the last one that the client has seen.
    Raises:
        ApiError: One of these is not what it may be; 404: nothing has this id.
    """
    order, limit, after = query.get("order", "desc"), query.get("limit", "20"), query.get("after")
    if order not in ("asc", "desc"):
        raise invalid_request(f"order: expected asc or desc, found {shorten(order, 40)!r}", "order")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= 100):
        raise invalid_request(f"limit: expected 1 to 100, found {shorten(limit, 40)!r}", "limit")
    ordered = list(items) if order == "asc" else list(reversed(items))
    if after:
        places = [at for at, item in enumerate(ordered) if item["id"] == after]
        if not places:
            raise _gone("item", after, "after")
        ordered = ordered[places[0] + 1 :]
    page = ordered[: int(limit)]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return {"object": "list", "data": page, "has_more": len(page) < len(ordered), **ends}


def _gone(what: str, name: str, place: str) -> ApiError:
    message = f"{place}: no {what} {name[:80]!r} is stored; it is gone, or was never stored (see --max-stored)"
    return ApiError(404, "not_found_error", message, place)
