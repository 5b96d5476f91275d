"""What is left of parameters that cannot be enforced, and the shapes that they may have."""

from typing import Any

from mlx_qwen35.answers.loosening import shapes, with_all_properties


def test_unions_that_lead_back_are_looked_at_for_a_moment() -> None:
    """Each level would multiply those below it by fifty."""
    union: dict[str, Any] = {"anyOf": [{"$ref": "#/$defs/next"}] * 50}
    root = {"properties": {"a": {"type": "integer"}}, **union, "$defs": {"next": {**union, "$ref": "#"}}}
    assert 1 <= len(shapes(root)) <= 64
    assert with_all_properties(root)["properties"] == {"a": {"type": "integer"}}
