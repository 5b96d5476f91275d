"""How many tokens to guess, from how long steps take and from how often guesses were right; knows no array."""

import statistics
from collections import deque
from collections.abc import Sequence

# Numbers of drafts that are tried: a compiled step is made for each.
DEPTHS = (1, 2, 3, 5, 7)
DEEPEST = DEPTHS[-1]
# What a draft adds to a step, as a share of it, until one was measured; and how much less than those that were measured
# further ones add: little, so that they are measured.
_HOPE, _LESS = 0.1, 0.75
# Drafts have to promise so much more speed than none.
_WORTH = 1.08
# Steps after which another number is tried again, because text and machine change; without drafts four times as many.
_AGAIN = 32
# Measured steps of one kind that count, and which share of them: the others are those that other programs made longer.
_MEASURED, _COUNTED = 15, 0.6
_AT_LEAST = 2
# How fast acceptance is forgotten, and how many guesses the first impression counts for.
_MEMORY, _IMPRESSION = 0.97, 4.0


class Acceptance:
    """How often drafts were right, by their place in the step.

    Args:
        like: What is expected until there is experience; None hopes.
    """

    def __init__(self, like: "Acceptance | None" = None) -> None:
        shares = [0.7] * DEEPEST if like is None else [like.share(place) for place in range(DEEPEST)]
        self._right = [_IMPRESSION * share for share in shares]
        self._tried = [_IMPRESSION] * DEEPEST

    def add(self, drafts: int, right: int) -> None:
        """Of a step's drafts the first `right` were right; behind the first wrong one nothing is learnt."""
        for place in range(min(right + 1, drafts, DEEPEST)):
            self._tried[place] = _MEMORY * self._tried[place] + 1
            self._right[place] = _MEMORY * self._right[place] + (place < right)

    def share(self, place: int) -> float:
        """How likely a draft is right if those before it are."""
        return self._right[place] / self._tried[place]

    def expected(self, drafts: int) -> float:
        """Tokens that a step gives, the one that the decoder adds included."""
        total, likely = 1.0, 1.0
        for place in range(drafts):
            likely *= self.share(place)
            total += likely
        return total


class StepTimes:
    """How long steps take, by their number of rows and drafts."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, int], deque[float]] = {}

    def add(self, rows: int, drafts: int, seconds: float) -> None:
        """A step was measured."""
        self._seconds.setdefault((rows, drafts), deque(maxlen=_MEASURED)).append(seconds)

    def of(self, rows: int, drafts: int) -> float | None:
        """What such a step takes; None if that is not known yet."""
        found = self._seconds.get((rows, drafts), ())
        if len(found) < _AT_LEAST:
            return None
        return statistics.fmean(sorted(found)[: round(_COUNTED * len(found))])


class Regulator:
    """Chooses how many drafts the next step of a batch gets."""

    def __init__(self) -> None:
        self.times = StepTimes()
        # Of all rows that there were, for the first impression of new ones.
        self.acceptance = Acceptance()
        self._since = 0

    def choose(self, rows: Sequence[Acceptance], most: int) -> int:
        """A number of drafts, at most `most`, that gives the most tokens per second."""
        count = len(rows)
        plain = self.times.of(count, 0)
        self._since += 1
        if plain is None or most < 1:
            return 0
        best, speed = 0, _WORTH * count / plain
        each = _HOPE * plain
        for depth in DEPTHS:
            if depth > most:
                break
            seconds = self.times.of(count, depth)
            if seconds is None:
                seconds = plain + each * depth
            else:
                each = _LESS * max(seconds - plain, 0.0) / depth
            found = sum(row.expected(depth) for row in rows) / seconds
            if found > speed:
                best, speed = depth, found
        return min(self._other(best), most) if self._since % (_AGAIN if best else 4 * _AGAIN) < _AT_LEAST else best

    def _other(self, best: int) -> int:
        """What to try again in place of the best number: none, or a neighbour of it, in turn."""
        if best == 0:
            return DEPTHS[0]
        place = DEPTHS.index(best)
        neighbours = (0, *DEPTHS[place + 1 : place + 2], *DEPTHS[max(place - 1, 0) : place])
        return neighbours[self._since // _AGAIN % len(neighbours)]
