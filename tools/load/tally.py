"""What clients saw."""

import math
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence

from tools.load.conversations import Json

MOST_SHOWN = 20


class Tally:
    """What clients saw; any thread may add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.problems: list[str] = []
        self.clear()

    def clear(self) -> None:
        """Forget everything but problems."""
        with self._lock:
            self.statuses: Counter[str] = Counter()
            self.actions: Counter[str] = Counter()
            self.firsts: defaultdict[str, list[float]] = defaultdict(list)
            self.totals: defaultdict[str, list[float]] = defaultdict(list)

    def problem(self, text: str) -> None:
        """Something that must not be."""
        with self._lock:
            self.problems.append(text)
            if len(self.problems) <= MOST_SHOWN:
                print(f"PROBLEM {text}", flush=True)

    def status(self, status: int) -> None:
        """A response has begun."""
        with self._lock:
            self.statuses[str(status)] += 1

    def action(self, name: str) -> None:
        """A client did something."""
        with self._lock:
            self.actions[name] += 1

    def times(self, kind: str, first: float | None, total: float) -> None:
        """A request is complete; `first` is None where the answer came at once."""
        with self._lock:
            self.totals[kind].append(total)
            if first is not None:
                self.firsts[kind].append(first)

    def latency(self) -> dict[str, Json]:
        """By kind of request."""
        return {
            kind: {"requests": len(totals), "first_token": spread(self.firsts[kind]), "total": spread(totals)}
            for kind, totals in sorted(self.totals.items())
        }


def spread(seconds: Sequence[float]) -> dict[str, float] | None:
    """Percentiles; None of nothing."""
    ordered = sorted(seconds)
    return {
        f"p{percent}": round(ordered[math.ceil(len(ordered) * percent / 100) - 1], 4) for percent in (50, 90, 99)
    } if ordered else None  # fmt: skip
