"""The state of a chat: messages, pictures and videos that wait for the next message, and settings."""

import base64
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_qwen35.cli.chat_files import read_chat, write_chat
from mlx_qwen35.cli.dropped import VIDEOS
from mlx_qwen35.errors import MediaError, OptionError
from mlx_qwen35.paths import expand, is_file, shorten
from mlx_qwen35.prompts.images import open_image, read_image_bytes


@dataclass
class Conversation:
    """What a chat has so far.

    Args:
        system: System message, if any.
        thinking: Whether answers begin with reasoning; None leaves it to the checkpoint.
        effort: How much to think, in place of `thinking`; see `ModelKit.process_prompt`.
        turns: Messages after the system message, in OpenAI's form.
        waiting: Images and videos for the next message, as parts of it.
    """

    system: str | None = None
    thinking: bool | None = None
    effort: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[dict[str, Any]] = field(default_factory=list)

    def messages(self) -> list[dict[str, Any]]:
        """Everything that the model is asked to continue."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self.turns]

    def reasoning(self) -> dict[str, Any]:
        """What `Chat.rendering` says about reasoning."""
        return {"enable_thinking": self.thinking, "reasoning_effort": self.effort}

    def attach(self, *paths: str | Path) -> None:
        """Keep images for the next message; they are read now, so later changes of the files do not matter.

        Raises:
            MediaError: One cannot be read; then none is kept.
        """
        self.waiting += [{"type": "image_url", "image_url": {"url": _data_url(path)}} for path in paths]

    def attach_video(self, path: str | Path, **options: Any) -> None:
        """Keep a video for the next message, by its path: it may be too large to be held.

        Args:
            options: What a video part may say of it: `fps`, `min_frames`, `max_frames`, `max_pixels`.
        Raises:
            MediaError: There is no such file.
        """
        self.waiting.append(video_part(path, **options))

    def ask(self, text: str) -> None:
        """Add the user's message, with the images and videos that wait."""
        self.turns.append({"role": "user", "content": [*self.waiting, {"type": "text", "text": text}]})
        self.waiting = []

    def answer(self, text: str, reasoning: str) -> None:
        """Add the model's message."""
        self.turns.append({"role": "assistant", "content": text, "reasoning_content": reasoning})

    def take_back(self) -> str:
        """Forget the last question and what followed it; its images wait again.

        Returns:
            Its text.
        Raises:
            OptionError: There is none.
        """
        content = self.turns[self._last_question()]["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        self.turns = self.turns[: self._last_question()]
        self.waiting = [*(part for part in parts if part["type"] != "text"), *self.waiting]
        return "".join(part["text"] for part in parts if part["type"] == "text")

    def take_back_answer(self) -> list[dict[str, Any]]:
        """Forget what followed the last question, and return it.

        Raises:
            OptionError: There is no question.
        """
        after = self._last_question() + 1
        self.turns, answer = self.turns[:after], self.turns[after:]
        return answer

    def last_answer(self) -> str:
        """The text of the model's last message.

        Raises:
            OptionError: There is none.
        """
        for turn in reversed(self.turns):
            if turn["role"] == "assistant":
                return str(turn["content"])
        raise OptionError("expected an answer, found none yet")

    def _last_question(self) -> int:
        for index in range(len(self.turns) - 1, -1, -1):
            if self.turns[index]["role"] == "user":
                return index
        raise OptionError("expected a question, found none yet")

    def clear(self) -> None:
        """Forget messages and waiting media; settings stay."""
        self.turns, self.waiting = [], []

    def save(self, path: str | Path) -> None:
        """Write everything to a JSON file, images included.

        Raises:
            OptionError: The file cannot be written.
        """
        settings = {"system": self.system, "thinking": self.thinking, "effort": self.effort}
        write_chat(expand(path, OptionError, "file"), {**settings, "turns": self.turns})

    @classmethod
    def load(cls, path: str | Path) -> "Conversation":
        """Read what `save` wrote.

        Raises:
            OptionError: The file is missing, or is not a saved chat.
        """
        return cls(**read_chat(expand(path, OptionError, "file")))


def video_part(path: str | Path, **options: Any) -> dict[str, Any]:
    """A video as a message has it; see `Conversation.attach_video`."""
    place = f"video {shorten(path)}"
    found = expand(path, MediaError, place).absolute()
    if not is_file(found):
        raise MediaError(f"{place}: expected a file, found none")
    return {"type": "video", "video": str(found), **options}


def is_video(path: Path) -> bool:
    """Whether a file is shown as a video: by its name, or because its picture moves."""
    if path.suffix.lower() in VIDEOS:
        return True
    if not is_file(path.expanduser()):  # to open a pipe waits for its other end
        return False
    from PIL import Image

    # What else is wrong with it is told when it is read.
    with suppress(Exception), Image.open(path.expanduser(), formats=("GIF", "WEBP", "PNG")) as image:
        return bool(getattr(image, "is_animated", False))
    return False


def _data_url(source: str | Path) -> str:
    """An image file as a data URL, after making sure that it is one."""
    data, _ = read_image_bytes(source, "image")
    open_image(data, f"image {shorten(source)}")
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
