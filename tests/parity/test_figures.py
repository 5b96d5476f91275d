"""What the documents say about parity is what the tests enforce."""

import re
from pathlib import Path

import pytest

from tests.parity.cases import TEXT_TOLERANCE, TOLERANCE
from tests.parity.figures import figures, stated

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("document", "statement", "tolerance"),
    [
        ("README.md", r"held against transformers to (\S+) of the logit scale", TOLERANCE),
        ("CONTRIBUTING.md", r"transformers' own .*?to (\S+) of the scale;", TOLERANCE),
        ("CONTRIBUTING.md", r"unpatched mlx-vlm for images.*?to (\S+) of the scale\.", TOLERANCE),
        ("CONTRIBUTING.md", r"unpatched mlx-lm for text.*?within (\S+) of the scale without;", TEXT_TOLERANCE),
        ("docs/parity.md", r"The tests allow (\S+) ", TOLERANCE),
        ("docs/parity.md", r"and (\S+)\s+for text in float32 against mlx-lm", TEXT_TOLERANCE),
    ],
)
def test_documents_state_what_the_tests_allow(document: str, statement: str, tolerance: float) -> None:
    found = re.search(statement, (ROOT / document).read_text(), re.DOTALL)
    assert found is not None
    assert found[1] == stated(tolerance)


def test_every_measured_figure_is_within_what_the_tests_allow() -> None:
    """And the largest ones are those that the text names."""
    text, transformers, mlx_lm, mlx_vlm = re.split(
        r"^## .*$", (ROOT / "docs/parity.md").read_text(), flags=re.MULTILINE
    )
    float32 = [line for line in mlx_lm.splitlines() if "float32" in line]
    for table, tolerance in ((transformers, TOLERANCE), (mlx_vlm, TOLERANCE), ("\n".join(float32), TEXT_TOLERANCE)):
        assert figures([table])
        assert max(map(float, figures([table]))) <= tolerance
    named = [max(figures([table]), key=float) for table in (transformers, mlx_vlm)]
    assert figures([text]) == named
