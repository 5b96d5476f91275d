"""Bounds on what a template's loops, texts, lists and numbers may become, and on the time that it takes.

Jinja's sandbox keeps a template from the program around it, and from nothing that only takes time or memory.
"""

import re
import string
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2 import TemplateError

# Passes of all loops, and calls; a conversation of a thousand messages takes some ten thousand.
MAX_PASSES = 2_000_000
# Of the thread's own time: some operations take as long as a thousand passes.
MAX_SECONDS = 5.0
# Of one text, of a list with all that is in it, and of all that is written; values of a list, with those of its lists.
MAX_CHARACTERS = 2**25
MAX_ITEMS = 2**20
MAX_BITS = 2**14
# Of an indentation or a separator of JSON, and digits of a number that is rounded.
SMALL = 1000
# Filters whose first number says how much they make.
COUNTED = ("batch", "center", "indent", "slice")
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?")

# Of the rendering that this thread is at.
current: ContextVar["Work"] = ContextVar("work")


class Work:
    """What one rendering has done so far."""

    def __init__(self) -> None:
        self._passes, self._written, self._end = 0, 0, time.thread_time() + MAX_SECONDS

    def step(self) -> None:
        """Another pass of a loop, or a call."""
        self._passes += 1
        if self._passes > MAX_PASSES:
            raise TemplateError(f"its loops and calls take more than {MAX_PASSES} passes")
        if self._passes % 16 == 0 and time.thread_time() > self._end:
            raise TemplateError(f"it takes more than {MAX_SECONDS:g} seconds")

    def write(self, value: Any) -> Any:
        """Something is written, if only into a variable or what a macro gives."""
        self._written += weight(value)[0]
        # More than comes out in the end, where blocks are put together from blocks.
        check(self._written, 4 * MAX_CHARACTERS, "characters")
        return value


def bounded_loop(items: Any) -> Iterator[Any]:
    """The same items, each of which counts as a pass."""
    work = current.get()
    for item in items:
        work.step()
        yield item


def bounded_value(value: Any) -> Any:
    """The same value, if it is within the bounds."""
    if isinstance(value, int):
        check(value.bit_length(), MAX_BITS, "bits")
    else:
        weight(value)
    return value


def weight(value: Any) -> tuple[int, int]:
    """The characters of a text, and of all that is inside a list or the like, and how many values those are.

    What stands in a list twice counts twice: its text would have it twice.
    """
    if isinstance(value, str):
        check(len(value), MAX_CHARACTERS, "characters")
        return len(value), 0
    characters, items, pending = 0, 0, [value]
    while pending:
        node = pending.pop()
        if isinstance(node, str):
            characters += len(node)
            check(characters, MAX_CHARACTERS, "characters")
        elif isinstance(node, list | tuple | dict | range):
            items += len(node)
            check(items, MAX_ITEMS, "items")
            if not isinstance(node, range):
                pending += node.items() if isinstance(node, dict) else node
    return characters, items


def _bounded_items(items: Any) -> Iterator[Any]:
    characters = 0
    for item in bounded_loop(items):
        characters += weight(item)[0]
        check(characters, MAX_CHARACTERS, "characters")
        yield item


def checked_filter(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's that looks at its arguments before it makes more of a text than they hold."""
    first = int(hasattr(filter_, "jinja_pass_arg"))  # behind what Jinja passes

    @wraps(filter_)
    def checked(*args: Any, **kwargs: Any) -> Any:
        value, given = args[first], [*args[first + 1 :], *kwargs.values()]
        texts = [text for text in (value, *given) if isinstance(text, str)]
        longest = max(map(len, texts), default=0)
        numbers = [number for number in given if isinstance(number, int)]
        if name == "round":
            check(max(map(abs, numbers), default=0), SMALL, "digits")
        elif name == "sum" and any(isinstance(start, list | tuple) for start in given):
            raise TemplateError("only numbers are added up")
        elif name in COUNTED:
            check(max(numbers, default=0) * (1 + longest), MAX_CHARACTERS, "characters")
            check(max(numbers, default=0) if name in ("batch", "slice") else 0, MAX_ITEMS, "items")
            check(value.count("\n") * longest if name == "indent" else 0, MAX_CHARACTERS, "characters")
        elif name == "join":
            args = (*args[:first], list(value), *args[first + 1 :])
            check(len(args[first]) * longest, MAX_CHARACTERS, "characters")
        elif name == "format":
            check_format(percent_widths(str(value)), given)
        elif name == "replace" and len(texts) > 2:
            check(texts[0].count(texts[1]) * len(texts[2]), MAX_CHARACTERS, "characters")
        made = filter_(*args, **kwargs)
        return _bounded_items(made) if name == "map" else made

    return checked


def percent_widths(text: str) -> list[str]:
    """The widths and precisions of a text that `%` fills in, one for each of its fields at least."""
    return [width for found in _PERCENT.findall(text) for width in found]


def brace_widths(text: str) -> list[str]:
    """The same of a text for `format`."""
    found = []
    for _, field, form, _ in string.Formatter().parse(text):
        if field is not None:
            found += ["*"] if "{" in (form or "") else ["", *re.findall(r"\d+", form or "")]
    return found


def check_format(widths: list[str], values: Any) -> None:
    """Hold what a text with fields may become against the bounds."""
    if "*" in widths or any(len(width) > 6 for width in widths):
        raise TemplateError("a text is padded too widely, or by a width that stands outside it")
    padding = sum(int(width or 0) for width in widths)
    check(padding + len(widths) * weight(values)[0], MAX_CHARACTERS, "characters")


def check(found: float, most: int, what: str) -> None:
    """Hold a number against a bound.

    Raises:
        jinja2.TemplateError: It is greater.
    """
    if found > most:
        raise TemplateError(f"it makes more than {most} {what}")
