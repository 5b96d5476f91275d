"""What reaches a pipe and what reaches a terminal."""

import io
from collections.abc import Iterator

import pytest

from mlx_qwen35.answers.results import GenerationChunk
from mlx_qwen35.cli.screen import Screen

ODD = "\ta:warning:\x1b[31mred\x07\r\n[bold]b[/bold]\x85\x9b2J é 漢"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *chunks: GenerationChunk, markdown: bool = False) -> str:
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def pieces() -> Iterator[GenerationChunk]:
        yield from chunks

    assert list(Screen(markdown=markdown).stream(pieces())) == list(chunks)
    return stream.getvalue()


def test_a_pipe_gets_the_answer_to_the_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tab expanded, no emoji made, nothing removed; and no reasoning."""
    chunks = [GenerationChunk("", "because", 1), GenerationChunk(ODD, "", 2)]
    assert show(io.StringIO(), monkeypatch, *chunks) == ODD + "\n"


def test_a_terminal_gets_no_control_characters_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, or a page that it read, must not move the cursor or change the title."""
    chunks = [GenerationChunk("", "be\x1bcause", 1), GenerationChunk(ODD, "", 2)]
    shown = show(Terminal(), monkeypatch, *chunks)
    assert shown == "\x1b[2mbecause\x1b[0m\n\n\ta:warning:[31mred\n[bold]b[/bold]2J é 漢\n"


class Interrupted(Terminal):
    """Ctrl-C comes as soon as something has been shown."""

    def flush(self) -> None:
        if self.getvalue():
            raise KeyboardInterrupt


def test_what_is_shown_is_known_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question whose answer was stopped at its first word was taken back, though the word was there to read."""
    stream = Interrupted()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    known = []
    with pytest.raises(KeyboardInterrupt):
        known.extend(Screen().stream(iter([GenerationChunk("", "because", 1), GenerationChunk("so", "", 2)])))
    assert "because" in stream.getvalue()
    assert [chunk.reasoning for chunk in known] == ["because"]


def test_markdown_is_rendered_on_a_terminal_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [GenerationChunk("", "why", 1), GenerationChunk("**bo", "", 2), GenerationChunk("ld**", "", 3)]
    assert show(io.StringIO(), monkeypatch, *chunks, markdown=True) == "**bold**\n"
    shown = show(Terminal(), monkeypatch, *chunks, markdown=True)
    assert shown.startswith("\x1b[2mwhy\x1b[0m\n\n")
    assert "bold" in shown
    assert "bold**" not in shown


def test_a_dumb_terminal_gets_reasoning_between_its_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [GenerationChunk("", "be", 1), GenerationChunk("", "cause", 2), GenerationChunk("**so**", "", 3)]
    monkeypatch.setattr("mlx_qwen35.cli.screen.takes_escapes", lambda stream: False)
    shown = show(Terminal(), monkeypatch, *chunks, markdown=True)
    assert shown == "<think>\nbecause\n</think>\n\n**so**\n"


def test_frames_are_counted_before_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bar at a time, each with its own words, and none is left."""
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    screen = Screen()
    screen.on_decoded(1, 4)
    screen.on_decoded(4, 4)
    screen.on_progress(0, 50)
    screen.on_frames(2, 4)
    assert screen._bar is not None
    assert screen._bar[2] == "looking at the video"
    screen.on_frames(4, 4)
    assert screen._bar is None
    screen.on_progress(10, 50)
    screen.end_progress()
    rest = shown.getvalue()
    for word in (
        "decoding the video",
        "frame 4 of 4",
        "0/50 tokens",
        "looking at the video",
        "frame 4 of 4",
        "10/50 tokens",
    ):
        assert word in rest
        rest = rest.split(word, 1)[1]
