"""`mlx-qwen35 chat`: a conversation in the terminal."""

import argparse
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_qwen35.cli.options import (
    add_generation_flags,
    add_media_flags,
    add_model_flags,
    generation_arguments,
    load_kit,
    video_options,
)
from mlx_qwen35.errors import OptionError, Qwen35Error, SessionError
from mlx_qwen35.prompts.efforts import EFFORTS

if TYPE_CHECKING:
    from mlx_qwen35.cli.conversation import Conversation
    from mlx_qwen35.cli.screen import Screen
    from mlx_qwen35.model_kit import ModelKit
    from mlx_qwen35.prompts.prompt import Prompt

HISTORY = Path("~/.mlx_qwen35/history")

HELP = """\
/image PATH      add an image to the next message; dropping a file on the window does the same
/think on|off    answer with or without reasoning; /think alone switches
/effort LEVEL    how much to think: none, low, medium, high or max; /effort alone shows it
/system TEXT     set the system message; /system none removes it, /system alone shows it
/clear           forget the conversation
/save FILE       write the conversation, with its images, to a file, and what was read of it to FILE.session
/load FILE       go on with a saved conversation; what FILE.session holds is not read again
/help            this list
/quit            leave; so does Ctrl-D
Enter sends; Alt-Enter, or Esc and then Enter, begins a new line. Ctrl-C stops an answer."""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("chat", help="talk in the terminal", description="Talk to a model in the terminal.")
    add_model_flags(parser)
    add_media_flags(parser, "for the first message")
    add_generation_flags(parser)
    parser.add_argument(
        "--prefill-ahead",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read the finished answer into the next prompt's beginning while you type (on a terminal)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load the model and talk until the input ends."""
    from mlx_qwen35.cli.conversation import Conversation
    from mlx_qwen35.cli.screen import Screen

    conversation = Conversation(options.system_prompt, options.think, options.reasoning_effort)
    for path in options.image:
        conversation.attach(path)
    for path in options.video:
        conversation.attach_video(path, **video_options(options))
    screen = Screen()
    with load_kit(options) as kit:
        if screen.on_terminal:
            screen.say(f"{kit.checkpoint.directory.name}: /help lists the commands")
        chat = Chat(kit, conversation, screen, generation_arguments(options))
        chat.reads_ahead = options.prefill_ahead and screen.on_terminal
        try:
            chat.talk(read_lines())
        finally:
            chat.stop_reading_ahead()


def read_lines() -> Iterator[str]:
    """What the user types; with editing and history on a terminal, plain lines otherwise."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        try:
            for line in sys.stdin:
                yield line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise OptionError(f"standard input: expected text, found {error}") from error
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    history: History = InMemoryHistory()
    try:
        path = HISTORY.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        history = FileHistory(str(path))
    except (OSError, RuntimeError):
        pass  # a home that cannot be written is no reason not to talk
    session: PromptSession[str] = PromptSession(history=history, multiline=True, key_bindings=keys)
    while True:
        try:
            yield session.prompt(">>> ", prompt_continuation="... ")
        except KeyboardInterrupt:
            continue  # an empty line: Ctrl-C at the prompt discards what was typed
        except EOFError:
            return


class Chat:
    """Turns typed lines to commands and messages.

    Args:
        arguments: Keyword arguments of `ModelKit.stream`.
    """

    def __init__(
        self,
        kit: "ModelKit",
        conversation: "Conversation",
        screen: "Screen",
        arguments: dict[str, Any],
    ) -> None:
        self.kit = kit
        self.conversation = conversation
        self.screen = screen
        self.arguments = arguments
        self.reads_ahead = False
        self._ahead: threading.Thread | None = None
        self._typed = threading.Event()
        self._commands: dict[str, Callable[[str], str | None]] = {
            "/image": self._image,
            "/think": self._think,
            "/effort": self._effort,
            "/system": self._system,
            "/clear": self._clear,
            "/save": self._save,
            "/load": self._load,
            "/help": lambda _: HELP,
        }

    def talk(self, lines: Iterator[str]) -> None:
        """Handle every line until they end, or one of them is /quit."""
        for line in lines:
            text = line.strip()
            if text in ("/quit", "/exit"):
                return
            if not text:
                continue
            try:
                self.handle(text)
            except Qwen35Error as error:
                self.screen.say(str(error), style="red")
            except KeyboardInterrupt:
                self.screen.say("(stopped)")

    def handle(self, text: str) -> None:
        """One command or one message.

        Raises:
            Qwen35Error: It could not be carried out; the conversation is as it was.
        """
        from mlx_qwen35.cli.conversation import split_dropped_paths

        name, _, argument = text.partition(" ")
        if name in self._commands:
            reply = self._commands[name](argument.strip())
            if reply:
                self.screen.say(reply)
            return
        message, paths = split_dropped_paths(text)
        for path in paths:
            self._attach(path)
        if not paths and name.startswith("/") and name[1:].isalpha():
            raise OptionError(f"{name}: no such command; /help lists them")
        if message:
            self._answer(message)

    def stop_reading_ahead(self) -> None:
        """The user has finished typing: what was not read by now is read as a part of the prompt."""
        if self._ahead is not None:
            self._typed.set()
            self._ahead.join()
            self._ahead = None

    def _read_ahead(self) -> None:
        step = self.arguments.get("prefill_step_size")
        settings = {**self.conversation.reasoning(), **({"prefill_step_size": step} if step else {})}
        messages = self.conversation.messages()

        def read() -> None:
            # Whatever goes wrong here goes wrong again, and is told, when the prompt itself is read.
            with suppress(Exception):
                self.kit.prefill_ahead(messages, on_progress=lambda *_: not self._typed.is_set(), **settings)

        self._typed.clear()
        self._ahead = threading.Thread(target=read, name="prefill_ahead")
        self._ahead.start()

    def _answer(self, message: str) -> None:
        self.stop_reading_ahead()
        self.conversation.ask(message)
        text, reasoning = "", ""
        last = None
        try:
            prompt = self.kit.process_prompt(
                self.conversation.messages(), on_frames=self.screen.on_decoded, **self.conversation.reasoning()
            )
            chunks = self.kit.stream(
                prompt, on_progress=self.screen.on_progress, on_frames=self.screen.on_frames, **self.arguments
            )
            for last in self.screen.stream(chunks):
                text += last.text
                reasoning += last.reasoning
        except KeyboardInterrupt:
            self.screen.end_progress()
            self.screen.say("(stopped)")
        except BaseException:
            self.screen.end_progress()
            self.conversation.take_back()
            raise
        if last is None:
            self.conversation.take_back()
            return
        self.conversation.answer(text, reasoning)
        if last.stats is not None:
            self.screen.status(last.stats, str(last.finish_reason))
        if self.reads_ahead:
            self._read_ahead()

    def _attach(self, path: Path) -> None:
        self.kit.vision.require("image")
        self.conversation.attach(path)
        self.screen.say(f"{path}: goes with the next message")

    def _image(self, argument: str) -> str | None:
        from mlx_qwen35.cli.conversation import split_dropped_paths

        if not argument:
            raise OptionError("/image: expected a path, found nothing")
        _, paths = split_dropped_paths(argument)
        for path in paths or [Path(argument)]:
            self._attach(path)
        return None

    def _think(self, argument: str) -> str:
        states = {"on": True, "off": False, "": not self._thinks()}
        if argument not in states:
            raise OptionError(f"/think: expected on or off, found {argument}")
        self.conversation.thinking, self.conversation.effort = states[argument], None
        return f"reasoning is {'on' if self.conversation.thinking else 'off'}"

    def _thinks(self) -> bool:
        """Whether answers begin with reasoning as things are; the template decides until somebody does."""
        question = [{"role": "user", "content": "?"}]
        return self.kit.process_prompt(question, **self.conversation.reasoning()).in_reasoning

    def _effort(self, argument: str) -> str:
        if argument and argument not in EFFORTS:
            raise OptionError(f"/effort: expected one of {', '.join(EFFORTS)}, found {argument}")
        if argument:
            self.conversation.thinking, self.conversation.effort = None, argument
        return f"effort: {self.conversation.effort or 'as the model has it'}"

    def _system(self, argument: str) -> str:
        if argument:
            self.conversation.system = None if argument == "none" else argument
        return f"system message: {self.conversation.system or 'none'}"

    def _clear(self, argument: str) -> str:
        self.conversation.clear()
        return "the conversation is empty"

    def _save(self, argument: str) -> str:
        if not argument:
            raise OptionError("/save: expected a file, found nothing")
        self.conversation.save(argument)
        if not self.conversation.turns:
            return f"saved to {argument}"
        self.stop_reading_ahead()
        session = Path(f"{argument}.session").expanduser()
        try:
            known = self.kit.save_session(session, self._next_prompt())
        except Qwen35Error as error:
            with suppress(OSError):
                session.unlink()  # of another conversation
            return f"saved to {argument}; {error}"
        return f"saved to {argument}, and the {known} tokens that were read of it to {argument}.session"

    def _next_prompt(self) -> "Prompt":
        """How the next prompt will begin, whatever the user asks."""
        messages = [*self.conversation.messages(), {"role": "user", "content": "?"}]
        return self.kit.process_prompt(messages, **self.conversation.reasoning())

    def _load(self, argument: str) -> str:
        from mlx_qwen35.cli.conversation import Conversation

        if not argument:
            raise OptionError("/load: expected a file, found nothing")
        self.stop_reading_ahead()
        self.conversation = Conversation.load(argument)
        loaded = f"{len(self.conversation.turns)} messages from {argument}"
        session = Path(f"{argument}.session").expanduser()
        if not session.is_file():
            return loaded
        try:
            return f"{loaded}; {self.kit.load_session(session)} tokens need not be read again"
        except SessionError as error:
            return f"{loaded}; they will be read again: {error}"
