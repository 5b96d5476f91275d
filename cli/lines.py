"""What the user types, line by line: edited on a terminal, or as it comes from a pipe."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mlx_qwen35.cli.tab import completions
from mlx_qwen35.cli.terminal import echo_typing, takes_escapes
from mlx_qwen35.errors import OptionError

PROMPT, CONTINUATION = ">>> ", "... "
HOW_TO_LEAVE = "(/exit leaves; so does Ctrl-D)"
_PASTES, _NO_PASTES = "\x1b[?2004h", "\x1b[?2004l"


class Lines(Protocol):
    """Where messages and commands come from."""

    def __iter__(self) -> Iterator[str]: ...

    def keep(self, text: str) -> None:
        """Offer a line once more, to be mended."""

    def confirm(self, question: str) -> bool | None:
        """Ask yes or no; None where there is nobody to ask."""


class PipedLines:
    """Lines of standard input, without a terminal."""

    def __iter__(self) -> Iterator[str]:
        try:
            for line in sys.stdin:
                yield line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise OptionError(f"standard input: expected text, found {error}") from error

    def keep(self, text: str) -> None:
        """Nobody could mend it."""

    def confirm(self, question: str) -> bool | None:
        return None


class EditedLines:
    """A line editor with history and completion, several lines in a message, and pastes as one message.

    Args:
        file: The history that keeps what was typed; None keeps it while the chat lasts.
        commands: See `completions`.
        say: Shows a line of the program's own.
    """

    def __init__(self, file: Path | None, commands: Mapping[str, Sequence[str]], say: Callable[[str], None]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import CompleteEvent, Completer, Completion
        from prompt_toolkit.document import Document
        from prompt_toolkit.history import FileHistory, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
        from prompt_toolkit.shortcuts import CompleteStyle

        class Tab(Completer):
            def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
                line = document.text_before_cursor
                start, found = completions(line, commands)
                for text in found:
                    yield Completion(text, start - len(line))

        keys = KeyBindings()

        @keys.add("enter")
        def _send(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @keys.add("escape", "enter")
        @keys.add("escape", "c-j")
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        self._say, self._kept = say, ""
        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(str(file)) if file else InMemoryHistory(),
            multiline=True, key_bindings=keys, completer=Tab(), complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE, enable_suspend=True,
        )  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        try:
            while True:
                try:
                    kept, self._kept = self._kept, ""
                    text = self._session.prompt(PROMPT, prompt_continuation=CONTINUATION, default=kept)
                except KeyboardInterrupt:
                    self._say(HOW_TO_LEAVE)
                    continue
                except EOFError:
                    return
                # A paste during the answer comes as one as well.
                _write(_PASTES)
                yield text
        finally:
            _write(_NO_PASTES)

    def keep(self, text: str) -> None:
        self._kept = text

    def confirm(self, question: str) -> bool | None:
        from prompt_toolkit import prompt

        try:
            return _means_yes(prompt(f"{question} [y/N] "))
        except (KeyboardInterrupt, EOFError):
            return False


class PlainLines:
    """Python's own line editing, told that the terminal is a dumb one: it writes no escape sequence.

    Args:
        file, commands, say: See `EditedLines`.
    """

    def __init__(self, file: Path | None, commands: Mapping[str, Sequence[str]], say: Callable[[str], None]) -> None:
        os.environ["TERM"] = "dumb"
        import readline

        from prompt_toolkit.history import FileHistory

        self._readline, self._say, self._kept = readline, say, ""
        self._history = None if file is None else FileHistory(str(file))
        for line in reversed(list(self._history.load_history_strings()) if self._history else []):
            readline.add_history(line)
        readline.set_completer_delims("")
        readline.set_completer(lambda text, state: self._complete(text, state, commands))
        readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")

    def _insert_kept(self) -> None:
        kept, self._kept = self._kept, ""
        self._readline.insert_text(kept)

    def _complete(self, text: str, state: int, commands: Mapping[str, Sequence[str]]) -> str | None:
        start, found = completions(text, commands)
        return text[:start] + found[state] if state < len(found) else None

    def __iter__(self) -> Iterator[str]:
        while True:
            self._readline.set_startup_hook(self._insert_kept)
            try:
                with echo_typing():
                    text = input(PROMPT)
            except KeyboardInterrupt:
                print(file=sys.stderr)
                self._say(HOW_TO_LEAVE)
                continue
            except EOFError:
                print()
                return
            finally:
                self._readline.set_startup_hook(None)
            if self._history is not None and text:
                self._history.store_string(text)
            yield text

    def keep(self, text: str) -> None:
        self._kept = text

    def confirm(self, question: str) -> bool | None:
        try:
            with echo_typing():
                return _means_yes(input(f"{question} [y/N] "))
        except (KeyboardInterrupt, EOFError):
            print()
            return False


def open_lines(history: Path | None, commands: Mapping[str, Sequence[str]], say: Callable[[str], None]) -> Lines:
    """What reads standard input as it is.

    Args:
        history: A file for what is typed; one that cannot be written is no reason not to talk.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PipedLines()
    if history is not None:
        try:
            history = history.expanduser()
            history.parent.mkdir(parents=True, exist_ok=True)
            history.touch()
        except (OSError, RuntimeError):
            history = None
    return (EditedLines if takes_escapes(sys.stdout) else PlainLines)(history, commands, say)


def _means_yes(answer: str) -> bool:
    return answer.strip().lower() in ("y", "yes")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
