"""`mlx-qwen35 chat`: a conversation in the terminal."""

import argparse
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_qwen35.cli.options import (
    add_generation_flags,
    add_media,
    add_model_flags,
    generation_arguments,
    load_kit,
    rendering_arguments,
    video_options,
)
from mlx_qwen35.errors import MediaError, Qwen35Error

if TYPE_CHECKING:
    from mlx_qwen35.cli.conversation import Conversation
    from mlx_qwen35.cli.lines import Lines
    from mlx_qwen35.cli.screen import Screen
    from mlx_qwen35.model_kit import ModelKit

HISTORY = Path("~/.mlx_qwen35/history")
_BARE = ("exit", "quit", "bye", ":q")


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("chat", help="talk in the terminal", description="Talk to a model in the terminal.")
    add_model_flags(parser)
    add_media(parser, "for the first message")
    add_generation_flags(parser)
    parser.add_argument(
        "--prefill-ahead",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read the finished answer into the next prompt's beginning while you type (on a terminal)",
    )
    parser.add_argument("--plain", action="store_true", help="show answers to the letter, without rendering Markdown")
    history = parser.add_mutually_exclusive_group()
    history.add_argument("--history", type=Path, metavar="FILE", default=HISTORY, help="keeps what you type")
    history.add_argument("--no-history", dest="history", action="store_const", const=None, help="keep nothing of it")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load the model and talk until the input ends."""
    from mlx_qwen35.checkpoints.files import BOX
    from mlx_qwen35.cli.conversation import Conversation
    from mlx_qwen35.cli.lines import open_lines
    from mlx_qwen35.cli.screen import Screen
    from mlx_qwen35.cli.terminal import quiet_typing

    answering, rendering = generation_arguments(options), rendering_arguments(options)
    conversation = Conversation(options.system_prompt, rendering["enable_thinking"], rendering["reasoning_effort"])
    conversation.attach(*options.image)
    screen = Screen(markdown=not options.plain)
    with quiet_typing(), load_kit(options) as kit:
        chat = Chat(kit, conversation, screen, answering)
        chat.of_videos, chat.variables = video_options(options), rendering["chat_template_kwargs"]
        chat.attach(*map(Path, options.video))
        chat.reads_ahead = options.prefill_ahead and screen.on_terminal
        lines = open_lines(options.history, chat.commands.completable(), screen.say)
        if screen.on_terminal:
            offer = "; /sample gives you a picture and three questions" if kit.checkpoint.directory == BOX else ""
            screen.say(f"{kit.checkpoint.name}: /help lists the commands{offer}")
        try:
            chat.talk(lines)
        finally:
            chat.stop_reading_ahead()


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
        from mlx_qwen35.cli.chat_commands import Commands

        self.kit = kit
        self.conversation = conversation
        self.screen = screen
        self.arguments = arguments
        self.reads_ahead = False
        # What the flags say of videos, as a video part says it.
        self.of_videos: dict[str, Any] = {}
        # Of the chat template.
        self.variables: dict[str, Any] = {}
        self.commands = Commands(self)
        self._ahead: threading.Thread | None = None
        self._typed = threading.Event()
        self._lines: Lines | None = None

    def rendering(self) -> dict[str, Any]:
        """What `ModelKit.process_prompt` and `prefill_ahead` need to know beside the messages."""
        return {**self.conversation.reasoning(), "chat_template_kwargs": self.variables}

    def talk(self, lines: "Lines") -> None:
        """Handle every line until they end, or one of them leaves."""
        self._lines = lines
        for line in lines:
            if not line.strip():
                continue
            if self.commands.leaves(line) and not line[0].isspace():
                return
            leaves = lines.confirm("Leave the chat?") if line.lower() in _BARE else None
            if leaves:
                return
            if leaves is not None:
                continue
            waiting = list(self.conversation.waiting)
            try:
                self.handle(line)
            except Qwen35Error as error:
                # As before the line, which is there to be mended and sent again.
                self.conversation.waiting = waiting
                self.screen.say(str(error), style="red")
                if line.strip() not in self.commands.completable():
                    lines.keep(line)
            except KeyboardInterrupt:
                self.screen.say("(stopped)")

    def handle(self, line: str) -> None:
        """One command or one message.

        Raises:
            Qwen35Error: It could not be carried out; the conversation is as it was.
        """
        from mlx_qwen35.cli.dropped import split_dropped_paths

        text = line.strip()
        if line[0].isspace():  # a message, whatever it begins with
            self.ask(text)
            return
        if self.commands.is_command(text):
            reply = self.commands.run(text)
            if reply:
                self.screen.say(reply)
            return
        message, paths = split_dropped_paths(text)
        self.attach(*paths)
        if message:
            self.ask(message)

    def confirm(self, question: str) -> bool | None:
        """Ask the user; None where there is nobody to ask."""
        return None if self._lines is None else self._lines.confirm(question)

    def keep(self, text: str) -> None:
        """Have a text edited in the next line."""
        if self._lines is not None:
            self._lines.keep(text)

    def attach(self, *paths: Path) -> None:
        """Pictures and videos for the next message, all of them or none.

        Raises:
            MediaError: One cannot be read, or the model cannot see.
        """
        from mlx_qwen35.cli.conversation import is_video

        if paths:
            self.kit.vision.require("image")
        before = list(self.conversation.waiting)
        try:
            for path in paths:
                if is_video(path):
                    self._attach_video(path)
                else:
                    self.conversation.attach(path)
        except BaseException:
            self.conversation.waiting = before
            raise
        for path in paths:
            self.screen.say(f"{path}: goes with the next message")

    def _attach_video(self, path: Path) -> None:
        """Decoded now, so that what is wrong is told now; the kit keeps its frames until they are asked about."""
        from mlx_qwen35.cli.conversation import video_part

        question = [{"role": "user", "content": [video_part(path, **self.of_videos), {"type": "text", "text": "?"}]}]
        try:
            self.kit.process_prompt(question, on_frames=self.screen.on_decoded)
        except MediaError as error:
            # Nobody here has seen that message; the video's name follows.
            raise MediaError(re.sub(r"^messages\[0\]\.content\[0\](: |\.)", "", str(error))) from error
        finally:
            self.screen.end_progress()
        self.conversation.attach_video(path, **self.of_videos)

    def stop_reading_ahead(self) -> None:
        """The user has finished typing: what was not read by now is read as a part of the prompt."""
        if self._ahead is not None:
            self._typed.set()
            self._ahead.join()
            self._ahead = None

    def _read_ahead(self) -> None:
        step = self.arguments.get("prefill_step_size")
        settings = {**self.rendering(), **({"prefill_step_size": step} if step else {})}
        messages = self.conversation.messages()

        def read() -> None:
            # Whatever goes wrong here goes wrong again, and is told, when the prompt itself is read.
            with suppress(Exception):
                self.kit.prefill_ahead(messages, on_progress=lambda *_: not self._typed.is_set(), **settings)

        self._typed.clear()
        self._ahead = threading.Thread(target=read, name="prefill_ahead")
        self._ahead.start()

    def ask(self, message: str) -> None:
        """Send a message with what waits for it; it is taken back where no answer begins.

        Raises:
            Qwen35Error: It cannot be answered.
        """
        self.conversation.ask(message)
        try:
            answered = self._write_answer()
        except BaseException:
            self.conversation.take_back()
            raise
        if not answered:
            self.conversation.take_back()

    def answer_again(self) -> bool:
        """Another answer to the last question; the one before stays where none comes.

        Returns:
            Whether it says what the one before said.
        Raises:
            OptionError: There is no question.
        """
        before = self.conversation.take_back_answer()
        try:
            answered = self._write_answer()
        except BaseException:
            self.conversation.turns += before
            raise
        if not answered:
            self.conversation.turns += before
        return answered and self.conversation.turns[-1:] == before

    def _write_answer(self) -> bool:
        """Answer the question that the conversation ends with; False where it was stopped before it began."""
        self.stop_reading_ahead()
        text, reasoning = "", ""
        last = None
        try:
            prompt = self.kit.process_prompt(
                self.conversation.messages(), on_frames=self.screen.on_decoded, **self.rendering()
            )
            screen = self.screen
            chunks = self.kit.stream(
                prompt, on_progress=screen.on_progress, on_frames=screen.on_frames, **self.arguments
            )
            for last in self.screen.stream(chunks):
                text += last.text
                reasoning += last.reasoning
        except KeyboardInterrupt:
            self.screen.end_progress()
            self.screen.say("(stopped)")
        if last is None:
            return False
        self.conversation.answer(text, reasoning)
        if last.stats is not None:
            self.screen.status(last.stats, str(last.finish_reason))
        if self.reads_ahead:
            self._read_ahead()
        return True
