"""What an answer looks like in a terminal, and in a pipe."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from mlx_qwen35.cli.terminal import CONTROLS, takes_escapes

if TYPE_CHECKING:
    from mlx_qwen35.answers.results import GenerationChunk, GenerationStats
    from mlx_qwen35.cli.markdown import MarkdownStream


DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Screen:
    """Streams an answer to stdout; reasoning, progress and status only go to a terminal.

    An answer in a pipe is the model's text to the letter.

    Args:
        markdown: Whether a terminal shows what the answer's Markdown means, where it takes escape sequences.
    """

    def __init__(self, *, markdown: bool = False) -> None:
        self.on_terminal = sys.stdout.isatty()
        self.styled = takes_escapes(sys.stdout)
        system: Any = "auto" if takes_escapes(sys.stderr) else None
        self.err = Console(file=sys.stderr, highlight=False, soft_wrap=True, emoji=False, color_system=system)
        self.markdown = markdown and self.styled
        self._bar: tuple[Progress, TaskID, str] | None = None

    def on_progress(self, processed: int, total: int) -> None:
        """Show how much of the prompt is read; for `ModelKit.stream`."""
        self._show_progress("reading the prompt", "{task.completed}/{task.total} tokens", processed, total)

    def on_decoded(self, frames: int, total: int) -> None:
        """Show how many frames of a video are decoded; for `ModelKit.process_prompt`."""
        self._show_progress("decoding the video", "frame {task.completed} of {task.total}", frames, total)

    def on_frames(self, frames: int, total: int) -> None:
        """Show how many frames the model has looked at; for `ModelKit.stream`."""
        self._show_progress("looking at the video", "frame {task.completed} of {task.total}", frames, total)

    def on_written(self, written: int, total: int) -> None:
        """Show how many bytes of a checkpoint are written; for `convert`."""
        megabytes = f"{written >> 20}/{total >> 20} MB"
        self._show_progress("writing", "{task.fields[megabytes]}", written, total, megabytes=megabytes)

    def _show_progress(self, what: str, count: str, done: int, total: int, **fields: Any) -> None:
        if self._bar is not None and self._bar[2] != what:
            self.end_progress()
        if not (self.err.is_terminal and self.err.color_system) or (self._bar is None and done == total):
            return
        if self._bar is None:
            columns = (TextColumn(what), BarColumn(), TextColumn(count))
            progress = Progress(*columns, console=self.err, transient=True)
            # Known before it shows, so that Ctrl-C at any moment takes it away.
            self._bar = (progress, progress.add_task(what, total=total, **fields), what)
            progress.start()
        self._bar[0].update(self._bar[1], completed=done, **fields)
        if done == total:
            self.end_progress()

    def end_progress(self) -> None:
        """Take the bar away, also after an interruption."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def stream(self, chunks: "Iterator[GenerationChunk]") -> "Iterator[GenerationChunk]":
        """Print chunks as they pass through.

        Each is the caller's before it is on the screen, so that a caller that Ctrl-C stops knows all that was shown.
        """
        rendered = self._renderer()
        in_reasoning = False
        try:
            for chunk in chunks:
                self.end_progress()
                yield chunk
                if chunk.reasoning and self.on_terminal:
                    self._reason(chunk.reasoning.translate(CONTROLS), begins=not in_reasoning)
                    in_reasoning = True
                if chunk.text:
                    if in_reasoning:
                        self._write("\n\n" if self.styled else "\n</think>\n\n")
                        in_reasoning = False
                    text = chunk.text.translate(CONTROLS) if self.on_terminal else chunk.text
                    if rendered is None:
                        self._write(text)
                    else:
                        rendered.write(text)
        finally:
            self.end_progress()
            if rendered is None or in_reasoning:
                self._write("\n")
            if rendered is not None:
                rendered.close()

    def _renderer(self) -> "MarkdownStream | None":
        if not self.markdown:
            return None
        from mlx_qwen35.cli.markdown import MarkdownStream

        return MarkdownStream(Console(highlight=False, emoji=False))

    def _reason(self, text: str, *, begins: bool) -> None:
        """Reasoning, dim where that can be shown, or between the marks that the model gives it."""
        if self.styled:
            self._write(f"{DIM}{text}{PLAIN}")
        else:
            self._write(f"{'<think>' + chr(10) if begins else ''}{text}")

    def say(self, text: str, style: str = "dim") -> None:
        """A line of the program itself, on stderr."""
        self.err.print(text, style=style, markup=False)

    def status(self, stats: "GenerationStats", finish_reason: str) -> None:
        """One line about the cost of an answer."""
        kinds = [f"{n} {kind}" for n, kind in ((stats.image_tokens, "image"), (stats.video_tokens, "video")) if n]
        media = f" ({', '.join(kinds)})" if kinds else ""
        known = f", {stats.cached_tokens} known" if stats.cached_tokens else ""
        several = f", {stats.tokens_per_step:.1f} a step" if any(stats.drafted) else ""
        seen = ""
        if stats.image_tokens:
            seen += f", {stats.images_encoded} of {stats.images_encoded + stats.images_reused} images encoded"
        if stats.video_tokens:
            seen += f", {stats.frames_encoded} of {stats.frames_encoded + stats.frames_reused} frames encoded"
        cut = ", cut at --max-tokens" if finish_reason == "length" else ""
        self.say(
            f"[{stats.prompt_tokens} prompt tokens{media}{known}{seen} "
            f"in {stats.time_to_first_token:.2f} s, "
            f"{stats.completion_tokens} tokens at {stats.generation_tps:.1f} tokens/s{several}{cut}]"
        )

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
