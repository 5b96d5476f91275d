"""The commands of a chat: lines that begin with a slash."""

import difflib
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_qwen35.answers.options import Sampling
from mlx_qwen35.cli.tab import PATHS
from mlx_qwen35.errors import MediaError, OptionError, Qwen35Error, SessionError
from mlx_qwen35.paths import expand, is_file, is_there
from mlx_qwen35.prompts.efforts import EFFORTS

if TYPE_CHECKING:
    from mlx_qwen35.cli.chat import Chat
    from mlx_qwen35.prompts.prompt import Prompt

SAMPLE = Path(__file__).parent / "sample.png"
SAMPLE_QUESTIONS = ("What do you see?", "What is on the right?", "Is the circle left of the square?")
_WIDTH, _COLUMN = 80, 17
_CLIPBOARDS = (("pbcopy",), ("wl-copy",), ("xclip", "-selection", "clipboard"), ("xsel", "-b"), ("clip.exe",))
# What /set sets, beside what is sampled with; each a whole number.
_COUNTS = {"max_tokens": 1, "thinking_budget": 0, "prefill_step_size": 1}
SETTINGS = sorted({*Sampling.__annotations__, *_COUNTS} - {"logit_bias"})


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        usage: Name and argument, as the help shows them.
        run: Takes the argument, and returns what is to be said.
        values: What Tab offers as the argument.
    """

    usage: str
    help: str
    run: Callable[[str], str | None]
    values: Sequence[str] = ()


class Commands:
    """What the commands do to a chat."""

    def __init__(self, chat: "Chat") -> None:
        self._chat = chat
        switch = ("on", "off")
        everything = (
            Command(
                "/image PATH", "add a picture to the next message; a path in a message, or a file dropped on the "
                "window, does the same", self._image, PATHS,
            ),
            Command("/video PATH", "the same with a video, or a picture that moves", self._image, PATHS),
            Command("/sample", "a sample picture, and three questions about it", self._sample),
            Command("/think on|off", "answer with or without reasoning; alone it switches", self._think, switch),
            Command("/effort LEVEL", f"how much to think: {', '.join(EFFORTS)}; alone: show it", self._effort, EFFORTS),
            Command("/system TEXT", "set the system message; none removes it; alone: show it", self._system),
            Command(
                "/set NAME VALUE", "change how answers are written, like /set temperature 0.7; default as the value "
                "undoes it; alone: show what there is", self._set, SETTINGS,
            ),
            Command("/max-tokens N", "the same as /set max_tokens N", lambda n: self._set(f"max_tokens {n}")),
            Command("/regenerate", "answer the last question again", self._regenerate),
            Command("/edit", "take the last question back and change it", self._edit),
            Command(
                "/undo", "forget what waits for the next message, or else the last question and its answer", self._undo
            ),
            Command("/copy", "copy the last answer to the clipboard", self._copy),
            Command("/clear", "forget the conversation", self._clear),
            Command(
                "/save FILE", "write the conversation, with its pictures and the paths of its videos, to a "
                "file, and what was read of it to FILE.session", self._save, PATHS,
            ),
            Command(
                "/load FILE", "go on with a saved conversation; what FILE.session holds is not read again",
                self._load, PATHS,
            ),
            Command("/help", "this list", lambda _: self.help()),
            Command("/exit, /quit", "leave; so does Ctrl-D", lambda _: None),
        )  # fmt: skip
        self._all = {name: command for command in everything for name in re.findall(r"/[a-z-]+", command.usage)}
        # As other programs call them.
        self._all |= {"/?": self._all["/help"], "/bye": self._all["/exit"]}

    def completable(self) -> dict[str, Sequence[str]]:
        """The commands, and the values that each takes, for Tab."""
        return {name: command.values for name, command in self._all.items()}

    def is_command(self, text: str) -> bool:
        """Whether a line is one of a command's name, known or not, and no path that is there."""
        name = text.split(maxsplit=1)[0]
        return name in self._all or (
            re.fullmatch(r"/[A-Za-z][A-Za-z_-]*", name) is not None and not is_there(Path(name))
        )

    def leaves(self, text: str) -> bool:
        """Whether a line ends the chat."""
        return self._all.get(text.split(maxsplit=1)[0]) is self._all["/exit"]

    def run(self, text: str) -> str | None:
        """Carry a command out; returns what there is to say.

        Raises:
            Qwen35Error: It cannot be.
        """
        name, _, argument = text.partition(" ")
        if name not in self._all:
            close = difflib.get_close_matches(name, self._all, 1)
            raise OptionError(f"{name}: no such command{f'; {close[0]} is one' if close else ''}; /help lists them")
        return self._all[name].run(argument.strip())

    def help(self) -> str:
        """All commands and keys, in two columns."""
        rows = {command.usage: command.help for command in self._all.values()}
        rows["Enter, Tab"] = "send; complete a command or a path"
        rows["Alt-Enter"] = "begin a new line; so does Esc and then Enter; a paste keeps its lines"
        rows["Ctrl-C"] = "stop an answer, or drop the line"
        rows["a space first"] = "a message, whatever it begins with"
        # As wide as the terminal, while a second column has room in it.
        width = min(_WIDTH, max(2 * _COLUMN, shutil.get_terminal_size((_WIDTH, 0)).columns))
        return "\n".join(
            textwrap.fill(
                text, width, initial_indent=usage.ljust(_COLUMN), subsequent_indent=" " * _COLUMN,
                break_on_hyphens=False,
            )
            for usage, text in rows.items()
        )  # fmt: skip

    def _image(self, argument: str) -> None:
        from mlx_qwen35.cli.dropped import split_dropped_paths

        if not argument:
            raise OptionError("/image, /video: expected a path, found nothing")
        if is_file(expand(argument, MediaError, "image")):
            self._chat.attach(Path(argument))
            return
        message, paths = "", list[Path]()
        with suppress(MediaError):  # said once more where it is read
            message, paths = split_dropped_paths(argument)
        self._chat.attach(*(paths or [Path(argument)]))
        if paths and message:
            self._chat.ask(message)

    def _sample(self, argument: str) -> str:
        self._chat.attach(SAMPLE)
        return "\n".join(["A red circle and a blue square. Ask, for example:", *SAMPLE_QUESTIONS])

    def _think(self, argument: str) -> str:
        conversation = self._chat.conversation
        states = {"on": True, "off": False, "": not self._thinks()}
        if argument not in states:
            raise OptionError(f"/think: expected on or off, found {argument}")
        conversation.thinking, conversation.effort = states[argument], None
        return f"reasoning is {'on' if conversation.thinking else 'off'}"

    def _thinks(self) -> bool:
        """Whether answers begin with reasoning as things are; the template decides until somebody does."""
        question = [{"role": "user", "content": "?"}]
        return self._chat.kit.process_prompt(question, **self._chat.rendering()).in_reasoning

    def _effort(self, argument: str) -> str:
        conversation = self._chat.conversation
        if argument and argument not in EFFORTS:
            raise OptionError(f"/effort: expected one of {', '.join(EFFORTS)}, found {argument}")
        if argument:
            conversation.thinking, conversation.effort = None, argument
        return f"effort: {conversation.effort or 'as the model has it'}"

    def _system(self, argument: str) -> str:
        conversation = self._chat.conversation
        if argument:
            conversation.system = None if argument == "none" else argument
        return f"system message: {conversation.system or 'none'}"

    def _set(self, argument: str) -> str:
        given = self._chat.arguments
        if not argument:
            return "\n".join(f"{name:<20}{self._setting(name)}" for name in SETTINGS)
        name, _, value = argument.replace("=", " ", 1).partition(" ")
        name, value = name.replace("-", "_"), value.strip()
        if name not in SETTINGS:
            raise OptionError(f"/set: expected one of {', '.join(SETTINGS)}, found {name}")
        if value == "default":
            given.pop(name, None)
        elif value:
            given[name] = read_setting(name, value)
        return f"{name}: {self._setting(name)}"

    def _setting(self, name: str) -> str:
        """What a setting is, with the model's own value where there is one."""
        if name in self._chat.arguments:
            return str(self._chat.arguments[name])
        from mlx_qwen35.answers.sampling import default_max_tokens, options_from
        from mlx_qwen35.model_kit import MAX_TOKENS

        defaults = self._chat.kit.checkpoint.generation_config
        own = getattr(options_from(defaults, {}), name, None)
        if name == "max_tokens":
            own = default_max_tokens(defaults) or MAX_TOKENS
        return "as the model has it" + (f" ({own})" if own is not None else "")

    def _regenerate(self, argument: str) -> str | None:
        from mlx_qwen35.answers.sampling import options_from

        if not self._chat.answer_again():
            return None
        given = {name: value for name, value in self._chat.arguments.items() if name in Sampling.__annotations__}
        options = options_from(self._chat.kit.checkpoint.generation_config, given)
        if options.temperature and options.seed is None:
            return None
        return "the answer stays the same: temperature 0, or a seed; /set temperature 0.7, /set seed default vary it"

    def _edit(self, argument: str) -> None:
        self._chat.stop_reading_ahead()
        self._chat.keep(self._chat.conversation.take_back())

    def _undo(self, argument: str) -> str:
        waiting, self._chat.conversation.waiting = self._chat.conversation.waiting, []
        if waiting:
            return f"forgotten: what was to go with the next message ({len(waiting)})"
        self._chat.stop_reading_ahead()
        text = self._chat.conversation.take_back()
        self._chat.conversation.waiting = []
        return f"forgotten: {textwrap.shorten(text, 60)}"

    def _copy(self, argument: str) -> str:
        text = self._chat.conversation.last_answer()
        for command in _CLIPBOARDS:
            if shutil.which(command[0]) is not None:
                with suppress(OSError, subprocess.SubprocessError):
                    subprocess.run(command, input=text.encode(), check=True, timeout=5, capture_output=True)
                    return f"copied: {len(text)} characters"
        names = ", ".join(command[0] for command in _CLIPBOARDS)
        raise OptionError(f"/copy: expected a clipboard that one of {names} reaches, found none")

    def _clear(self, argument: str) -> str:
        self._chat.conversation.clear()
        return "the conversation is empty"

    def _save(self, argument: str) -> str | None:
        if not argument:
            raise OptionError("/save: expected a file, found nothing")
        conversation, kit = self._chat.conversation, self._chat.kit
        if is_there(expand(argument, OptionError, "file")):
            sure = self._chat.confirm(f"{argument} is there already. Overwrite it?")
            if sure is None:
                raise OptionError(f"/save: expected a file that is not there yet, found {argument}")
            if not sure:
                return "not saved"
        conversation.save(argument)
        if not conversation.turns:
            return f"saved to {argument}"
        self._chat.stop_reading_ahead()
        session = Path(f"{argument}.session").expanduser()
        try:
            known = kit.save_session(session, self._next_prompt())
        except Qwen35Error as error:
            with suppress(OSError):
                session.unlink()  # of another conversation
            return f"saved to {argument}; {error}"
        return f"saved to {argument}, and the {known} tokens that were read of it to {argument}.session"

    def _next_prompt(self) -> "Prompt":
        """How the next prompt will begin, whatever the user asks."""
        conversation = self._chat.conversation
        messages = [*conversation.messages(), {"role": "user", "content": "?"}]
        return self._chat.kit.process_prompt(messages, **self._chat.rendering())

    def _load(self, argument: str) -> str:
        from mlx_qwen35.cli.conversation import Conversation

        if not argument:
            raise OptionError("/load: expected a file, found nothing")
        self._chat.stop_reading_ahead()
        self._chat.conversation = Conversation.load(argument)
        loaded = f"{len(self._chat.conversation.turns)} messages from {argument}"
        session = Path(f"{argument}.session").expanduser()
        if not is_file(session):
            return loaded
        try:
            return f"{loaded}; {self._chat.kit.load_session(session)} tokens need not be read again"
        except SessionError as error:
            return f"{loaded}; they will be read again: {error}"


def read_setting(name: str, text: str) -> Any:
    """The value of a setting, as it was typed.

    Raises:
        OptionError: It is none, or out of range.
    """
    from mlx_qwen35.answers.sampling import options_from, whole_number

    try:
        value: Any = int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            value = text
    if name in _COUNTS:
        return whole_number(name, value, _COUNTS[name])
    options_from({}, {name: value})
    return value
