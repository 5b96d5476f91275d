"""Results of functions, in the order of their calls."""

from collections.abc import Mapping, Sequence
from typing import Any


def order_of(messages: Sequence[Any]) -> list[int]:
    """The places of messages, those of results in a row in the order of the calls before them.

    Clients tell by ids which result is whose, and some send first what was there first. Templates show no ids: the
    first result is the first call's. Results without an id that a call has, or with one twice, stay where they are.

    Args:
        messages: In OpenAI's form, not yet checked.
    """
    order = list(range(len(messages)))
    places: dict[str, int] = {}
    begin = 0
    for at, message in enumerate([*messages, None]):
        if isinstance(message, Mapping) and message.get("role") == "tool":
            continue
        found = [messages[index].get("tool_call_id") for index in range(begin, at)]
        known = [one for one in found if isinstance(one, str) and one in places]
        if len(set(known)) == len(found):
            order[begin:at] = sorted(range(begin, at), key=lambda index: places[messages[index]["tool_call_id"]])
        calls = message.get("tool_calls") if isinstance(message, Mapping) else None
        ids = [call.get("id") for call in calls if isinstance(call, Mapping)] if isinstance(calls, list | tuple) else []
        places = {one: place for place, one in enumerate(ids) if isinstance(one, str)}
        begin = at + 1
    return order
