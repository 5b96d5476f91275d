"""How many drafts are made, on a machine and with drafts that only exist here."""

from collections.abc import Callable
from random import Random

import pytest

from mlx_qwen35.runtime.regulator import DEPTHS, Acceptance, Budget, Regulator, StepTimes


def run(
    seconds: Callable[[int], float],
    share: Callable[[int], float],
    tokens: int = 2000,
    rows: int = 1,
    seed: int = 1,
    regulator: Regulator | None = None,
    once: float = 0.0,
) -> tuple[float, list[int]]:
    """How much faster than without drafts so many tokens are written, and the drafts of every step.

    Args:
        seconds: Of a step with so many drafts.
        share: How likely a draft is right if those before it are, by its place.
        once: Steps without drafts that the first one with each number of them takes in addition.
    """
    rng, taken, written, steps = Random(seed), 0.0, 0, []
    regulator = Regulator() if regulator is None else regulator
    batch = [Acceptance(regulator.acceptance) for _ in range(rows)]
    drafts, seen = 0, {0}
    while written < tokens * rows:
        # The next step is begun before it is known what this one gives.
        following = regulator.choose(batch, most=DEPTHS[-1])
        given = 0
        for row in batch:
            right = next((place for place in range(drafts) if rng.random() >= share(place)), drafts)
            given += right + 1
            for acceptance in (row, regulator.acceptance):
                acceptance.add(drafts, right)
        new = following not in seen
        seen.add(following)
        # Other programs make some steps longer, never shorter.
        longer = 1.0 if rng.random() < 0.7 else 1.0 + rng.random()
        took, clean = seconds(drafts) * longer + once * new, seconds(drafts) + once * new
        regulator.took(rows, drafts, following, took)
        plain, usual = regulator.times.of(rows, 0), regulator.times.of(rows, drafts)
        if plain is not None:
            counted = took if usual is None or drafts != following else usual
            regulator.budget.add(plain, given / rows, counted, drafted=drafts > 0 or following > 0)
        taken, written, drafts = taken + clean, written + given, following
        steps.append(drafts)
    return written / rows * seconds(0) / taken, steps


@pytest.mark.some(4)
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(
    ("cost", "share"),
    [(0.3, 0.0), (0.3, 0.1), (0.9, 0.5), (0.9, 0.9), (2.0, 1.0)],
    ids=["never right", "seldom right", "dear", "dear and right", "dearer than a step"],
)
def test_where_drafts_do_not_pay_they_cost_little(cost: float, share: float, rows: int) -> None:
    speed, steps = run(lambda drafts: 1 + cost * drafts, lambda place: share, rows=rows)
    assert speed > 0.97
    # Where a draft is worth what it costs, either is right.
    assert (cost, share) == (0.9, 0.9) or sum(drafts == 0 for drafts in steps) > 0.9 * len(steps)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("cost", [0.1, 0.3])
@pytest.mark.parametrize("share", [0.6, 0.8, 0.95])
def test_where_drafts_pay_nearly_all_of_it_is_gained(cost: float, share: float, rows: int) -> None:
    """Within a tenth of the best fixed number of drafts."""

    def seconds(drafts: int) -> float:
        return 1 + cost * drafts

    def fixed(drafts: int) -> float:
        return sum(share**place for place in range(drafts + 1)) / seconds(drafts)

    speed, _ = run(seconds, lambda place: share, rows=rows)
    assert speed > 0.9 * max(fixed(drafts) for drafts in (0, *DEPTHS))


def test_text_that_becomes_predictable_is_noticed() -> None:
    regulator = Regulator()
    _, before = run(lambda drafts: 1 + 0.2 * drafts, lambda place: 0.0, regulator=regulator)
    _, after = run(lambda drafts: 1 + 0.2 * drafts, lambda place: 1.0, tokens=6000, regulator=regulator)
    assert sum(before[600:]) < 0.1 * len(before[600:])
    assert sum(after[-100:]) > 200


@pytest.mark.parametrize("once", [0.0, 12.0])
@pytest.mark.parametrize("cost", [0.5, 1.0])
def test_short_answers_do_not_pay_for_the_search(cost: float, once: float) -> None:
    """What the first one with each number of drafts takes in addition, for compiling, is not counted."""
    regulator = Regulator()

    def seconds(drafts: int) -> float:
        return 1 + cost * drafts

    speeds = []
    for number in range(40):
        speed, steps = run(seconds, lambda place: 0.3, tokens=32, seed=number, regulator=regulator, once=once)
        compiled = once * len(set(steps) - {0})
        speeds.append(32 / (32 / speed - compiled))
    assert speeds[0] > 0.85
    assert min(speeds[1:]) > 0.9
    assert sum(speeds) / len(speeds) > 0.97


def test_losses_that_no_estimate_explains_end_the_drafts() -> None:
    """As where a change of the number of drafts costs what no two alike steps show."""
    regulator, row = Regulator(), Acceptance()
    for _ in range(4):
        regulator.took(1, 0, 0, 1.0)
    for _ in range(4):
        regulator.took(1, 1, 1, 1.1)
    row.add(1, 1)
    assert regulator.choose([row], most=1) == 1
    for _ in range(10):
        regulator.budget.add(1.0, 1.0, 3.0, drafted=True)
    assert regulator.choose([row], most=1) == 0
    for _ in range(2000):
        regulator.budget.add(1.0, 1.0, 1.0, drafted=False)
    assert regulator.choose([row], most=1) == 1


def test_drafts_whose_number_is_given_are_made_while_they_pay() -> None:
    """At first in hope, then by what steps take and by how often they were right; a row beside others gains less."""
    regulator, row = Regulator(), Acceptance()
    assert regulator.pays(row, 1, 5)
    assert not regulator.pays(row, 4, 5)
    for _ in range(2):
        regulator.took(1, 0, 0, 1.0)
        regulator.took(1, 5, 5, 3.0)
    assert not regulator.pays(row, 1, 5)
    for _ in range(20):
        row.add(5, 5)
    assert regulator.pays(row, 1, 5)
    wrong = 0
    while regulator.pays(row, 1, 5):
        row.add(5, 0)
        wrong += 1
    assert wrong <= 20


def test_no_more_drafts_than_there_is_room_for() -> None:
    regulator = Regulator()
    for _ in range(20):
        regulator.times.add(1, 0, 1.0)
        assert regulator.choose([Acceptance()], most=2) <= 2
    assert regulator.choose([Acceptance()], most=0) == 0


def test_the_faster_ones_of_the_last_steps_count_once_there_are_two() -> None:
    times = StepTimes()
    times.add(2, 3, 5.0)
    assert times.of(2, 3) is None
    times.add(2, 3, 4.0)
    assert (times.of(2, 3), times.of(1, 3)) == (4.0, None)
    times.add(2, 3, 90.0)
    assert times.of(2, 3) == 4.5
    for _ in range(15):
        times.add(2, 3, 6.0)
    assert times.of(2, 3) == 6.0


def test_what_is_right_is_learnt_by_place() -> None:
    row = Acceptance()
    for _ in range(100):
        row.add(3, 1)
    assert row.share(0) > 0.98
    assert row.share(1) < 0.02
    # Behind the first wrong one nothing was learnt.
    assert row.share(2) == pytest.approx(0.7)
    assert row.expected(0) == 1.0
    assert row.expected(3) == pytest.approx(2.0, abs=0.05)
    assert Acceptance(row).share(1) == pytest.approx(row.share(1))


def test_one_long_step_and_long_gains_count_within_bounds() -> None:
    """What is compiled comes once; what was gained long ago is no reason to lose as much now."""
    budget = Budget()
    budget.add(1.0, 1.0, 100.0, drafted=True)
    assert not budget.in_debt
    for _ in range(20):
        budget.add(1.0, 8.0, 1.0, drafted=True)
    assert budget.allows(8.0)
    assert not budget.allows(8.1)


DEPTHS_AND_NONE = (0, *DEPTHS)


def measured(*seconds: float, last: int = 3) -> Regulator:
    """A regulator that knows what steps with 0, 1, 2 ... drafts take; the last of them were `last` more."""
    regulator = Regulator()
    for place, took in enumerate(seconds):
        if place:
            regulator.took(1, DEPTHS_AND_NONE[place - 1], DEPTHS_AND_NONE[place], took)
        for _ in range(3 if place < len(seconds) - 1 else last):
            regulator.took(1, DEPTHS_AND_NONE[place], DEPTHS_AND_NONE[place], took)
    return regulator


def always_right() -> Acceptance:
    row = Acceptance()
    for _ in range(50):
        row.add(7, 7)
    return row


def test_what_is_to_stay_for_now_stays_within_the_room() -> None:
    regulator = measured(1.0)
    regulator.took(1, 0, 7, 1.0)
    assert [regulator.choose([Acceptance()], most=most) for most in (7, 2, 0)] == [7, 2, 0]


def test_what_is_tried_again_stays_within_the_room() -> None:
    """Here five drafts have their turn, and there is room for three."""
    regulator = measured(1.0, 1.1, 1.2, 1.3, last=40)
    assert regulator.choose([always_right()], most=3) == 3
    assert regulator.choose([always_right()], most=7) == 5


def test_steps_without_drafts_are_measured_again_with_two_alike() -> None:
    regulator, row = measured(1.0, 1.1, last=40), always_right()
    assert regulator.choose([row], most=1) == 0
    found = []
    for drafts in (1, 0, 0):
        regulator.took(1, drafts, 0, 1.0)
        found.append(regulator.choose([row], most=1))
    assert found == [0, 0, 1]


def test_drafts_that_did_not_pay_are_tried_again_after_a_while() -> None:
    """After four times as many steps as another number of drafts."""
    row = Acceptance()
    for _ in range(50):
        row.add(1, 0)
    regulator = measured(1.0, 1.5)
    regulator.took(1, 1, 0, 1.0)
    regulator.budget.add(1.0, 400.0, 1.0, drafted=False)
    for _ in range(127):
        regulator.took(1, 0, 0, 1.0)
    assert regulator.choose([row], most=1) == 0
    regulator.took(1, 0, 0, 1.0)
    assert regulator.choose([row], most=1) == 1
