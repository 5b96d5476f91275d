"""The command that writes what loads: it measures, and says where another program does not load."""

from pathlib import Path

import pytest

from tests.parity.cases import TOLERANCE
from tests.tiny import DENSE
from tools.checkpoints import __main__ as tables
from tools.checkpoints.extras import heads
from tools.checkpoints.kinds import KINDS

NVFP4 = next(kind for kind in KINDS if kind.name == "NVFP4 of ModelOpt")


@pytest.mark.thorough
def test_a_kind_is_built_loaded_and_compared(tmp_path: Path) -> None:
    row = tables.measure(NVFP4.name, tables.foreign(NVFP4), (DENSE,), tmp_path)
    assert row.becomes == "nvfp4, 4 bits in 16"
    assert 0.3 < row.size < 1.0
    assert 0 < row.plain <= TOLERANCE
    assert row.mlx_lm == {"dense": "does not load"}
    assert isinstance(row.mlx_vlm["dense"], float)
    assert 0 < row.mlx_vlm["dense"] <= TOLERANCE
    assert "| nvfp4, 4 bits in 16 |" in tables.table([row])
    assert tables.short([row]).splitlines()[-1] == "| NVFP4 of ModelOpt | no | yes |"


def test_kinds_with_the_same_verdict_share_a_line() -> None:
    rows = [
        tables.Row("a", mlx_lm={"dense": 0.0, "moe": 0.0}, mlx_vlm={"dense": 1e-6, "moe": 1e-6}),
        tables.Row("b", mlx_lm={"dense": 0.1, "moe": "does not load"}, mlx_vlm={"dense": "needs a GPU"}),
        tables.Row("c", mlx_lm={"dense": 0.0}, mlx_vlm={"dense": 0.0}),
    ]
    assert tables.short(rows).splitlines()[2:] == ["| a; c | yes | yes |", "| b | dense only | needs a GPU |"]
    assert "| b |  | 0.00 | 0 | 1.0e-01, moe: does not load | needs a GPU |" in tables.table(rows)


def test_heads_are_the_same_in_every_packaging_unless_they_are_quantised(tmp_path: Path) -> None:
    found = dict(heads(tmp_path))
    assert len(found) == 7
    assert {name for name, value in found.items() if value} == {name for name in found if " bits" in name}
    assert all(value < 0.2 for value in found.values())


def test_a_table_stands_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- begin checkpoints: python -m tools.checkpoints -->\nold\n<!-- end checkpoints -->\nb\n")
    tables.put(page, "new")
    tables.put(page, "newer")
    assert page.read_text().split("\n\n")[1] == "newer"
    assert page.read_text().startswith("a\n")
    assert page.read_text().endswith("\nb\n")
    page.write_text("a")
    with pytest.raises(SystemExit, match=r"page.md: expected <!-- begin checkpoints"):
        tables.put(page, "new")
