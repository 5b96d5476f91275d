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
    ids: list[Any] = []
    begin = 0
    for at, message in enumerate([*messages, None]):
        if isinstance(message, Mapping) and message.get("role") == "tool":
            continue
        found = [messages[index].get("tool_call_id") for index in range(begin, at)]
        if None not in found and len(set(map(str, found))) == len(found) and all(one in ids for one in found):
            order[begin:at] = sorted(range(begin, at), key=lambda index: ids.index(messages[index]["tool_call_id"]))
        calls = message.get("tool_calls") if isinstance(message, Mapping) else None
        calls = calls if isinstance(calls, list | tuple) else ()
        ids = [call.get("id") if isinstance(call, Mapping) else None for call in calls]
        begin = at + 1
    return order
