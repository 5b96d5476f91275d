"""What the server's process holds, and whether it is too much."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Growth is counted from here on, or from a third of a shorter run.
SETTLED_SECONDS = 60.0
MAX_GROWTH = 50 * 2**20
MAX_LEFT = 2


@dataclass(frozen=True)
class Sample:
    """What the server's process holds.

    Args:
        seconds: Since the load began.
        rss: Bytes of memory.
        handles: Open files and sockets.
    """

    seconds: float
    rss: int
    threads: int
    handles: int


def sample(pid: int, began: float) -> Sample:
    """Look at a process; on Linux only.

    Raises:
        OSError: It has ended.
    """
    process = Path("/proc") / str(pid)
    lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    if "VmRSS" not in lines:  # ended, but its parent has not looked yet
        raise ProcessLookupError(f"process {pid} has ended")
    return Sample(
        round(time.monotonic() - began, 2),
        int(lines["VmRSS"].split()[0]) * 1024,
        int(lines["Threads"]),
        len(list((process / "fd").iterdir())),
    )


def growth(samples: Sequence[Sample]) -> int:
    """Bytes that memory grew from the end of the first minute (of the first third, if that is less) to the end."""
    settled = min(SETTLED_SECONDS, samples[-1].seconds / 3)
    later = [sample.rss for sample in samples if sample.seconds >= settled]
    window = max(1, len(later) // 10)
    return round(statistics.median(later[-window:]) - statistics.median(later[:window]))


def leaks(before: Sample, after: Sample, samples: Sequence[Sample]) -> list[str]:
    """What a server keeps too much of.

    Args:
        before, after: Without work: once everything has run that starts threads, and at the end.
        samples: While it worked.
    """
    found = []
    for name in ("threads", "handles"):
        old, new = getattr(before, name), getattr(after, name)
        if new > old + MAX_LEFT:
            found.append(f"leak: expected at most {old + MAX_LEFT} {name} at the end, found {new}")
    grown = growth(samples)
    if grown > MAX_GROWTH:
        found.append(f"leak: expected memory to grow by at most {MAX_GROWTH} bytes, found {grown}")
    return found
