"""The table of fields in docs/server.md is what the code does."""

from pathlib import Path

from tools.fields import BEGIN, END, text

DOCS = Path(__file__).parents[1] / "docs" / "server.md"


def test_the_table_of_fields_is_that_of_the_code() -> None:
    """`python -m tools.fields` prints it."""
    shown = DOCS.read_text()
    assert shown[shown.index(BEGIN) : shown.index(END) + len(END)] == text()


def test_every_class_of_fields_is_there() -> None:
    found = text()
    for field in (
        "`messages.name`",
        "`tools.function.strict`",
        "`context_management`",
        "`text.verbosity`",
        "`thinking.display`",
    ):
        assert field in found
    assert "`guided_json` (send response_format with a JSON schema)" in found
    assert found.count("| honoured |") == 4
