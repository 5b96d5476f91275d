"""How many tokens to draft, from how long steps take and from how often drafts were right; knows no array."""

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
# Alike steps that follow a change, so that what it changed is measured.
_STAY = 2
# The search may cost this share of the time that tokens take without drafts; and so many steps without drafts at first.
_SHARE, _FIRST = 0.02, 1.0
# Most that is put by and owed, in steps without drafts; further losses of one step, as for compiling it, come once.
_MOST, _OWED, _ONCE = 8.0, -4.0, 1.0
# Measured steps of one kind that count, and which share of them: the others are those that other programs made longer.
_MEASURED, _COUNTED = 15, 0.6
_AT_LEAST = 2
# How fast acceptance is forgotten, and how many drafts the first impression counts for.
_MEMORY, _IMPRESSION = 0.97, 3.0


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


class Budget:
    """What the search for the best number of drafts may cost: what drafts have gained, and a share of all time."""

    def __init__(self) -> None:
        self._steps = _FIRST

    def add(self, plain: float, tokens: float, seconds: float, *, drafted: bool) -> None:
        """A step gave each row so many tokens; `plain` is what one takes without drafts."""
        gain = max(tokens - seconds / plain, -_ONCE) if drafted else 0.0
        self._steps = min(self._steps + gain + _SHARE * tokens, _MOST)

    def allows(self, cost: float) -> bool:
        """Whether so many steps without drafts may be lost."""
        return self._steps >= cost

    @property
    def in_debt(self) -> bool:
        """Whether drafts have lost more than any estimate should."""
        return self._steps < _OWED


class Regulator:
    """Chooses how many drafts the next step of a batch gets.

    Args:
        budget: Of the kit, for all searches together.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = Budget() if budget is None else budget
        self.times = StepTimes()
        # Of all rows that there were, for the first impression of new ones.
        self.acceptance = Acceptance()
        # Steps since the number of drafts changed last, how often it did, and the number that is to stay for now.
        self._since, self._changes = 0, 0
        self._kept: int | None = None
        self._resting = False

    def took(self, rows: int, drafts: int, following: int, seconds: float) -> None:
        """In so many seconds a step with so many drafts was waited for, and one with `following` drafts was begun."""
        # Where the work is done, in this call or in the one before, depends on the device; of two alike it is the same.
        if drafts == following:
            self.times.add(rows, drafts, seconds)
            self._since += 1
        else:
            self._since, self._changes = 0, self._changes + 1
        # Without drafts only where that was asked for: there may have been none to be found.
        self._kept = following if self._since < _STAY and (following or self._resting) else None
        self._resting = self._resting and self._kept is not None

    def choose(self, rows: Sequence[Acceptance], most: int) -> int:
        """A number of drafts, at most `most`, that gives the most tokens per second."""
        count = len(rows)
        plain = self.times.of(count, 0)
        if plain is None or most < 1:
            return 0
        if self._kept is not None:
            return min(self._kept, most)
        # By the number of drafts: steps without drafts that such a step takes, and tokens that it gives each row.
        costs, each = {}, _HOPE
        for depth in DEPTHS:
            seconds = self.times.of(count, depth)
            costs[depth] = 1 + each * depth if seconds is None else seconds / plain
            if seconds is not None:
                each = _LESS * max(costs[depth] - 1, 0.0) / depth
        gives = {depth: sum(row.expected(depth) for row in rows) / count for depth in DEPTHS if depth <= most}
        speeds = {0: _WORTH} | {depth: tokens / costs[depth] for depth, tokens in gives.items()}
        known = [depth for depth in speeds if not depth or self.times.of(count, depth) is not None]
        best = max(known, key=speeds.__getitem__)
        # One further at a time: what seven drafts cost is not known while one has not been tried.
        unknown = [depth for depth in speeds if depth not in known][:1]
        hoped = max([best, *unknown], key=speeds.__getitem__)
        if hoped == best and self._since >= (_AGAIN if best else 4 * _AGAIN):
            hoped = min(self._other(best), most)
        if hoped != best:
            loss = max(costs[hoped] - gives[hoped], 0.0) if hoped in gives else 0.0
            if self.budget.allows((_STAY + 1) * loss + 0.5):
                self._resting = hoped == 0
                return hoped
        return 0 if self.budget.in_debt else best

    def pays(self, row: Acceptance, rows: int, drafts: int) -> bool:
        """Whether one row of so many gains by drafts whose number the text gave, if the others have none."""
        plain, seconds = self.times.of(rows, 0), self.times.of(rows, drafts)
        cost = 1 + _HOPE * drafts if plain is None or seconds is None else seconds / plain
        return not self.budget.in_debt and (row.expected(drafts) + rows - 1) / rows > _WORTH * cost

    def _other(self, best: int) -> int:
        """What to try again in place of the best number: none, or a neighbour of it, in turn."""
        if best == 0:
            return DEPTHS[0]
        place = DEPTHS.index(best)
        neighbours = (0, *DEPTHS[place + 1 : place + 2], *DEPTHS[max(place - 1, 0) : place])
        return neighbours[self._changes // 2 % len(neighbours)]
