"""Markdown in a terminal."""

import io
import random
import time

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from mlx_qwen35.cli import markdown
from mlx_qwen35.cli.markdown import MarkdownStream, as_markdown, split_blocks
from mlx_qwen35.cli.terminal import CONTROLS

TEXT = """\
# Title

Some **bold** text,
a line break, `code` and a [link](https://example.com).
Press <b>Enter</b> or write `<br>`.

- one
- two

  still two
3. three

```python
print("hi")

print("there")
```

| a | b |
|---|---|
| 1 | 2 |

> quoted

last ~~words~~"""


def shown(pieces: list[str], *, terminal: bool = False) -> str:
    """What a console of 60 columns and 20 lines shows of pieces that are written one after the other."""
    out = io.StringIO()
    console = Console(file=out, width=60, height=20, color_system=None, force_terminal=terminal, _environ={})
    stream = MarkdownStream(console)
    for piece in pieces:
        stream.write(piece)
    stream.close()
    return out.getvalue()


def test_blocks_are_shown_as_they_would_be_all_at_once() -> None:
    """However the text is cut: what is finished is never drawn again, and nothing is lost."""
    whole = shown([TEXT])
    chance = random.Random(3)
    for _ in range(5):
        cuts = sorted(chance.sample(range(1, len(TEXT)), 30))
        pieces = [TEXT[a:b] for a, b in zip([0, *cuts], [*cuts, len(TEXT)], strict=True)]
        assert shown(pieces) == whole
    for words in (
        "Title",
        "bold text,\na line break",
        "https://example.com",
        "<b>Enter</b>",
        "• two",
        'print("there")',
    ):
        assert words in whole
    assert not any(line.endswith(" ") for line in whole.splitlines())
    assert "\n\n\n" not in whole
    assert "**" not in whole
    assert "```" not in whole


@pytest.mark.parametrize("position", range(0, len(TEXT), 7))
def test_what_is_finished_stays_what_it_is(position: int) -> None:
    """As the parser itself, which nobody here wrote, sees the whole text."""
    blocks = split_blocks(TEXT[:position])
    assert "\n".join(blocks) == TEXT[:position]
    finished = "\n".join(blocks[:-1])
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    whole, part = ([(token.type, token.content) for token in parser.parse(text)] for text in (TEXT, finished))
    assert whole[: len(part)] == part


def test_a_long_block_shows_its_end_while_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_qwen35.cli.markdown._SECONDS", 0.0)
    monkeypatch.setattr("mlx_qwen35.cli.markdown._REST", 0)
    lines = [f"line {number}\n" for number in range(60)]
    written = shown(["```\n", *lines], terminal=True)
    assert written.count("line 0 ") < 30  # while it was among the last, and at the end
    assert written.rstrip().endswith("line 59")
    assert 2 <= written.count("line 59") <= 3  # drawn, perhaps once more when the drawing ends, and for good


def test_a_link_is_shown_and_no_hyperlink() -> None:
    out = io.StringIO()
    Console(file=out, width=60, force_terminal=True, _environ={}).print(as_markdown("[a](https://b.example)"))
    assert "https://b.example" in out.getvalue()
    assert "\x1b]8" not in out.getvalue()


@pytest.mark.parametrize("text", ["42.", "7)", "-", "#", ">", "[a]: b", "42.\n\n43.", "```\n```"])
@pytest.mark.parametrize("before", ["", "So:\n\n"])
def test_what_would_show_nothing_is_shown_as_it_is(text: str, before: str) -> None:
    """A sum's answer is a list item without words to Markdown, and vanished."""
    assert shown(list(before + text)) == f"{before}{text}\n"


def test_formulas_stay_as_they_were_written() -> None:
    """Markdown would take stars and backslashes out of them, and other formulas be left; a piece may end anywhere."""
    text = "So $2*a*b$, \\(c \\, d\\), \\[\\{e^2\\}\\], for $5 and *more*:\n\n1. is $$x*y*z$$\n   $$\n   k\n   $$\n\n"
    text += "$$\nf \\\\\n- g * h * i\n\n+ j\n$$\nend \\*"
    lines = [line.strip() for line in shown(list(text)).splitlines()]
    assert lines == [
        r"So $2*a*b$, \(c \, d\), \[\{e^2\}\], for $5 and more:", "", "1 is $$x*y*z$$", "", "k", "",
        r"f \\", "- g * h * i", "", "+ j", "", "end *",
    ]  # fmt: skip


def test_what_begins_like_a_formula_and_is_none_is_shown_when_the_answer_ends() -> None:
    assert shown(["$$ is *money*\n\n", "next"]) == "$$ is money\n\nnext\n"


def test_pictures_and_addresses_stand_where_they_were_written_once() -> None:
    """rich would draw a picture's name in front of its paragraph, and an address behind itself."""
    text = "A [link](http://a.example), <http://b.example>, ![a cat](cat.png) and ![](dog.png), then words."
    expected = "A link (http://a.example), http://b.example, a cat (cat.png) and (dog.png), then words."
    assert " ".join(shown([text]).split()) == expected


def test_an_address_that_is_read_holds_nothing_that_a_terminal_obeys() -> None:
    """%1b is a character of an address, and became the one that begins a terminal's commands."""
    text = "So <http://a/%1b]52;c;eA==%07>, <http://b/%c2%9b2J>, <mailto:%1b[2J@c.d> and `&#27;`, &#13;."
    written = shown([text])
    assert "http://a/]52;c;eA==" in written
    assert written == written.translate(CONTROLS)


def test_long_blocks_leave_time_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece was read anew with all before it, and what took a second to draw was drawn after a tenth of one."""
    now, drawn = 0.0, 0
    real = MarkdownStream._draw

    def draw(stream: MarkdownStream) -> None:
        nonlocal now, drawn
        now += 1.0
        drawn += 1
        real(stream)

    monkeypatch.setattr(MarkdownStream, "_draw", draw)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    reading = []

    def split(text: str, *, partial: bool = False) -> list[str]:
        reading.append(text)
        return split_blocks(text, partial=partial)

    monkeypatch.setattr(markdown, "split_blocks", split)
    stream = MarkdownStream(Console(file=io.StringIO(), width=60, height=20, _environ={}))
    for _ in range(1000):
        stream.write("- one\n")
        now += 0.01
    assert drawn <= 3
    assert len(reading) <= 3


def test_where_links_lead_is_shown_as_it_was_written() -> None:
    """It stands in no block, and vanished with the one before it where both came in one piece."""
    text = "See [b].\n\n[a]: http://a.example\n[b]: http://b.example\n[a]: twice\n\n> [c]: http://c.example"
    assert "\n".join(split_blocks(text)) == text
    assert [line for line in shown([text]).splitlines() if line.startswith("[")] == [
        "[a]: http://a.example", "[b]: http://b.example", "[a]: twice",
    ]  # fmt: skip
