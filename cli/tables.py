"""What the measurements of `mlx-qwen35 bench` share: their flags, tables and JSON."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence

from mlx_qwen35.errors import OptionError
from mlx_qwen35.paths import shorten

PARENTS = ("mlx-lm", "mlx-vlm")


def add_common(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    *,
    repeats: str,
    against: str = "measure it too",
) -> None:
    """The flags of every measurement."""
    parser.add_argument(
        "--against", action="append", default=[], choices=PARENTS, help=f"{against}; repeatable; default: none"
    )
    parser.add_argument("--repeats", type=int, default=3, help=repeats)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def refuse(options: argparse.Namespace, when: str, *names: str) -> None:
    """What the measurement that is asked for would not look at.

    Args:
        names: Of options without a default.
    Raises:
        OptionError: One is given.
    """
    for name in names:
        found = getattr(options, name)
        if found not in (None, [], ()):
            raise OptionError(f"--{name.replace('_', '-')}: expected none {when}, found {shorten(found)}")


class Table:
    """A Markdown table on standard output, row by row as figures come.

    Args:
        head: A title for each column.
        align: For each column, "l" for words and "r" for numbers.
        shown: Whether it is printed at all; JSON takes its place.
    """

    def __init__(self, head: Sequence[str], align: str, *, shown: bool) -> None:
        self._shown = shown
        self.row(*head)
        if shown:
            print("|" + "|".join({"l": "---", "r": "--:"}[side] for side in align) + "|")

    def row(self, *cells: object) -> None:
        """One row; an empty cell is a single space."""
        if self._shown:
            print("|" + "|".join(f" {cell} " if str(cell) else " " for cell in cells) + "|", flush=True)


def print_json(report: Mapping[str, object]) -> None:
    """One object on standard output."""
    json.dump(report, sys.stdout, indent=1)
    print()


def cell(text: str, ratio: float | None) -> str:
    """A figure, and how this package compares, where there is something to compare with."""
    return text if ratio is None else f"{text} ({ratio:.2f})"
