"""Markdown in a terminal, while it is being written."""

import time
from collections.abc import Iterator
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from mlx_qwen35.cli.terminal import CONTROLS
from mlx_qwen35.server.tex import find_tex

# So often is the end of an answer drawn anew, and not before so many times as long as drawing it took have passed: a
# list of a thousand items takes a second, and the answer is written on the same processor.
_SECONDS, _REST = 0.1, 4
# HTML is what stands there: a terminal shows no elements, and a `<br>` in a sentence would vanish.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).use(find_tex)
# What ends a formula that does not end as it begins.
_TEX_ENDS = {r"\(": r"\)", r"\[": r"\]"}


class MarkdownStream:
    """Prints an answer block by block, and the block that is being written as it is so far.

    What is finished is never drawn again. Of a block that is higher than the terminal the end shows until it is
    finished.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._text = ""
        self._first = True
        self._live: Live | None = None
        self._next = 0.0

    def write(self, text: str) -> None:
        """The next piece of the answer."""
        self._text += text
        began = time.monotonic()
        if began < self._next:
            return
        *finished, self._text = split_blocks(self._text, partial=True)
        if finished:
            self._end_live()
            self._print(finished)
        self._draw()
        ended = time.monotonic()
        self._next = ended + max(_SECONDS, _REST * (ended - began))

    def close(self) -> None:
        """The answer ends here."""
        self._end_live()
        self._print(split_blocks(self._text))
        self._text = ""

    def _print(self, blocks: list[str]) -> None:
        for block in blocks:
            if not block.strip():
                continue
            self._console.print(_Lines(block, gap=not self._first), end="")
            self._first = False

    def _draw(self) -> None:
        if not self._text.strip():
            return
        if self._live is None:
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        most = max(1, self._console.height - 3)
        self._live.update(_Lines(self._text, most=most, gap=not self._first), refresh=True)

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class _Lines:
    """A block as lines, without spaces behind them, which would be copied along, and empty ones around it.

    Args:
        most: So many lines of its end; None for all.
        gap: Whether an empty line stands before it.
    """

    def __init__(self, text: str, *, most: int | None = None, gap: bool = False) -> None:
        self._text, self._most, self._gap = text, most, gap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(height=None)
        lines = _trimmed(console.render_lines(as_markdown(self._text), options, pad=False))
        if not lines:
            # What shows nothing, as a list item without words does: "42." is one.
            lines = _trimmed(console.render_lines(Text(self._text), options, pad=False))
        if self._gap:
            yield Segment.line()
        for line in lines if self._most is None else lines[-self._most :]:
            for segment in [*line[:-1], *(Segment(last.text.rstrip(), last.style) for last in line[-1:])]:
                # Markdown reads addresses, in which any character may be written as %1b.
                yield Segment(segment.text.translate(CONTROLS), segment.style)
            yield Segment.line()


def _trimmed(lines: list[list[Segment]]) -> list[list[Segment]]:
    for line in lines:
        while line and not line[-1].text.rstrip():
            line.pop()
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        lines.pop(0)
    return lines


def split_blocks(text: str, *, partial: bool = False) -> list[str]:
    """The blocks of a text, at least one: nothing that follows can change any but the last.

    Args:
        partial: Whether more may follow, like the end of a formula.
    """
    env: dict[str, Any] = {"partial": partial}
    tokens = _PARSER.parse(text, env)
    # Where links lead has no token of its own.
    targets = [*env.get("references", {}).values(), *env.get("duplicate_refs", ())]
    ranges = [token.map for token in tokens if token.level == 0 and token.map and token.nesting >= 0]
    starts, end = [], 0
    for first, last in sorted([*ranges, *(target["map"] for target in targets)]):
        if first >= end:
            starts.append(first)
            end = last
    lines = text.split("\n")
    ends = [*starts[1:], len(lines)]
    return ["\n".join(lines[start:end]) for start, end in zip([0, *starts[1:]], ends, strict=True)]


def as_markdown(text: str) -> Markdown:
    """A text as rich renders it; a line break in it stays one, as in verses, and links show where they lead.

    TeX stays as it was written: without its backslashes and stars it would be another formula.
    """
    shown = Markdown("", code_theme="ansi_dark", hyperlinks=False)
    shown.parsed = _PARSER.parse(text)
    for token in _inside(shown.parsed):
        if token.type == "softbreak":
            token.type = "hardbreak"
        elif token.type == "image":
            token.type, token.content = "text", f"{token.content} ({token.attrs['src']})".lstrip()
        elif token.markup == "autolink":
            token.type = "text"
        elif token.type == "tex_block":
            token.type, token.content = "code_block", token.content.strip("\n")
        elif token.type.startswith("tex_"):
            token.type = "text"
            token.content = token.markup + token.content + _TEX_ENDS.get(token.markup, token.markup)
    return shown


def _inside(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _inside(token.children or [])
