"""Markdown in a terminal, while it is being written."""

import time
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

# So often is the end of an answer drawn anew.
_SECONDS = 0.1
# HTML is what stands there: a terminal shows no elements, and a `<br>` in a sentence would vanish.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


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
        self._drawn = 0.0

    def write(self, text: str) -> None:
        """The next piece of the answer."""
        self._text += text
        finished, self._text = split_finished(self._text)
        if finished:
            self._end_live()
            self._print(finished)
        if time.monotonic() - self._drawn >= _SECONDS:
            self._draw()

    def close(self) -> None:
        """The answer ends here."""
        self._end_live()
        if self._text.strip():
            self._print(self._text)
        self._text = ""

    def _print(self, text: str) -> None:
        if not self._first:
            self._console.print()
        self._first = False
        self._console.print(as_markdown(text))

    def _draw(self) -> None:
        if not self._text.strip():
            return
        if self._live is None:
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        self._live.update(_End(self._text, gap=not self._first), refresh=True)
        self._drawn = time.monotonic()

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class _End:
    """As much of the end of a text as a terminal has room for."""

    def __init__(self, text: str, *, gap: bool) -> None:
        self._text, self._gap = text, gap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(as_markdown(self._text), options.update(height=None), pad=False)
        if self._gap:
            yield Segment.line()
        for line in lines[-max(1, console.height - 3) :]:
            yield from line
            yield Segment.line()


def split_finished(text: str) -> tuple[str, str]:
    """The blocks of a text that nothing that follows can change, and the last one, which grows."""
    starts = [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    if len(starts) < 2:
        return "", text
    lines = text.splitlines(keepends=True)
    return "".join(lines[: starts[-1]]), "".join(lines[starts[-1] :])


def as_markdown(text: str) -> Markdown:
    """A text as rich renders it; a line break in it stays one, as in verses, and links show where they lead."""
    shown = Markdown("", code_theme="ansi_dark", hyperlinks=False)
    shown.parsed = _PARSER.parse(text)
    for token in _inside(shown.parsed):
        if token.type == "softbreak":
            token.type = "hardbreak"
    return shown


def _inside(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _inside(token.children or [])
