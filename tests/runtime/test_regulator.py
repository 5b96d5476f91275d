"""How many drafts are made, on a machine and with guesses that only exist here."""

from collections.abc import Callable
from random import Random

import pytest

from mlx_qwen35.runtime.regulator import DEPTHS, Acceptance, Regulator, StepTimes


def run(
    seconds: Callable[[int], float], share: Callable[[int], float], tokens: int = 2000, rows: int = 1, seed: int = 1
) -> tuple[float, list[int]]:
    """How much faster than without drafts so many tokens are written, and the drafts of every step.

    Args:
        seconds: Of a step with so many drafts.
        share: How likely a draft is right if those before it are, by its place.
    """
    rng, regulator, taken, written, steps = Random(seed), Regulator(), 0.0, 0, []
    batch = [Acceptance(regulator.acceptance) for _ in range(rows)]
    while written < tokens * rows:
        drafts = regulator.choose(batch, most=DEPTHS[-1])
        for row in batch:
            right = next((place for place in range(drafts) if rng.random() >= share(place)), drafts)
            written += right + 1
            for acceptance in (row, regulator.acceptance):
                acceptance.add(drafts, right)
        # Other programs make some steps longer, never shorter.
        took = seconds(drafts) * (1.0 if rng.random() < 0.7 else 1.0 + rng.random())
        regulator.times.add(rows, drafts, took)
        taken += seconds(drafts)
        steps.append(drafts)
    return written / rows * seconds(0) / taken, steps


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
    regulator, row = Regulator(), Acceptance()
    depths = []
    for step in range(1200):
        drafts = regulator.choose([row], most=7)
        row.add(drafts, drafts if step > 600 else 0)
        regulator.times.add(1, drafts, 1 + 0.2 * drafts)
        depths.append(drafts)
    assert sum(depths[300:600]) < 20
    assert sum(depths[1100:]) > 200


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
