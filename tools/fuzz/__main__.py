"""Throw damaged and hostile input at the package, for so long, and end with status 1 if something gives way.

    python -m tools.fuzz                                  # everything, a minute each
    python -m tools.fuzz pictures sessions --seconds 300 --seed 7

bodies       requests that schemathesis makes from /openapi.json, sent to a server: no answer is a 500
pictures     image files with bytes changed, cut and put together: an image, or a MediaError
sessions     saved sessions with their arrays and descriptions changed, signed anew: taken, or a SessionError
checkpoints  a checkpoint with a file replaced or a number changed: it works, or an error of this package

The same seed makes the same input; how much of it is tried depends on the time.
"""

import argparse
import sys
import time
from collections.abc import Callable

from tools.fuzz import bodies, checkpoints, pictures, sessions

FUZZERS: dict[str, Callable[[float, int], list[str]]] = {
    "bodies": bodies.run,
    "pictures": pictures.run,
    "sessions": sessions.run,
    "checkpoints": checkpoints.run,
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"of {', '.join(FUZZERS)}; all by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each; default: 60")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := sorted(set(options.what) - set(FUZZERS)):
        parser.error(f"expected of {', '.join(FUZZERS)}, found {', '.join(unknown)}")
    problems: list[str] = []
    for name in options.what or FUZZERS:
        began = time.monotonic()
        found = FUZZERS[name](options.seconds, options.seed)
        print(f"{name}: {len(found)} problems in {time.monotonic() - began:.0f} s", flush=True)
        problems += [f"{name}: {problem}" for problem in found]
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
