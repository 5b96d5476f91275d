"""Arrays whose items have to differ, where the items are listed: as the lists that there are."""

from collections.abc import Mapping
from itertools import accumulate, combinations, permutations, takewhile
from math import comb, perm
from typing import Any

_MOST_LISTS = 500


def distinct_lists(node: Mapping[str, Any], values: list[Any]) -> list[list[Any]] | None:
    """All lists of different values that an array may be, in every order, or else in that of the values.

    Args:
        node: The array's schema.
        values: What an item may be; each once.
    Returns:
        None if there are too many.
    """
    least, most = node.get("minItems", 0), min(len(values), node.get("maxItems", len(values)))
    lengths = range(least, most + 1)
    for count, choose in ((perm, permutations), (comb, combinations)):
        # Up to where there are too many: behind that, the numbers have thousands of digits.
        sizes = takewhile(
            lambda size: size <= _MOST_LISTS, accumulate(count(len(values), length) for length in lengths)
        )
        if len(list(sizes)) == len(lengths):
            return [list(found) for length in lengths for found in choose(values, length)]
    return None
