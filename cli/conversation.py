"""The state of a chat: messages, pictures and videos that wait for the next message, and settings."""

import base64
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlx_qwen35.errors import MediaError, OptionError
from mlx_qwen35.paths import expand, shorten
from mlx_qwen35.prompts.images import open_image, read_image_bytes

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif"}
_FORMAT = "mlx-qwen35 chat 1"


@dataclass
class Conversation:
    """What a chat has so far.

    Args:
        system: System message, if any.
        thinking: Whether answers begin with reasoning; None leaves it to the checkpoint.
        effort: How much to think, in place of `thinking`; see `ModelKit.process_prompt`.
        turns: Messages after the system message, in OpenAI's form.
        waiting: Images for the next message, as data URLs.
        waiting_videos: Videos for it, as content parts with absolute paths: they are too large to keep, and are read
            again.
    """

    system: str | None = None
    thinking: bool | None = None
    effort: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    waiting_videos: list[dict[str, Any]] = field(default_factory=list)

    def messages(self) -> list[dict[str, Any]]:
        """Everything that the model is asked to continue."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self.turns]

    def reasoning(self) -> dict[str, Any]:
        """What `ModelKit.process_prompt` and `prefill_ahead` need to know about reasoning."""
        return {"enable_thinking": self.thinking, "reasoning_effort": self.effort}

    def attach(self, path: str | Path) -> None:
        """Keep an image for the next message; it is read now, so later changes of the file do not matter.

        Raises:
            MediaError: It cannot be read.
        """
        self.waiting.append(_data_url(path))

    def attach_video(self, path: str | Path, **options: Any) -> None:
        """Keep a video for the next message, behind the images.

        Args:
            options: What a video part may say of it: `fps`, `min_frames`, `max_frames`, `max_pixels`.
        Raises:
            MediaError: There is no such file.
        """
        place = f"video {shorten(path)}"
        found = expand(path, MediaError, place).absolute()
        if not found.is_file():
            raise MediaError(f"{place}: expected a file, found none")
        self.waiting_videos.append({"type": "video", "video": str(found), **options})

    def ask(self, text: str) -> None:
        """Add the user's message, with the images and videos that wait."""
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in self.waiting]
        parts += self.waiting_videos
        self.turns.append({"role": "user", "content": [*parts, {"type": "text", "text": text}]})
        self.waiting, self.waiting_videos = [], []

    def answer(self, text: str, reasoning: str) -> None:
        """Add the model's message."""
        self.turns.append({"role": "assistant", "content": text, "reasoning_content": reasoning})

    def take_back(self) -> None:
        """Forget a question that was not answered; its images and videos wait again."""
        question = self.turns.pop()
        self.waiting = [part["image_url"]["url"] for part in question["content"] if part["type"] == "image_url"]
        self.waiting_videos = [part for part in question["content"] if part["type"] == "video"]

    def clear(self) -> None:
        """Forget messages and waiting media; settings stay."""
        self.turns, self.waiting, self.waiting_videos = [], [], []

    def save(self, path: str | Path) -> None:
        """Write everything to a JSON file, images included.

        Raises:
            OptionError: The file cannot be written.
        """
        content = {
            "format": _FORMAT, "system": self.system, "thinking": self.thinking, "effort": self.effort,
            "messages": self.turns,
        }  # fmt: skip
        target = expand(path, OptionError, "file")
        try:
            target.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        except OSError as error:
            raise OptionError(f"{target}: cannot be written ({error.strerror or error})") from error

    @classmethod
    def load(cls, path: str | Path) -> "Conversation":
        """Read what `save` wrote.

        Raises:
            OptionError: The file is missing, or is not a saved chat.
        """
        source = expand(path, OptionError, "file")
        try:
            content = json.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise OptionError(f"{source}: cannot be read ({error.strerror or error})") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise OptionError(f"{source}: expected a saved chat, found {error}") from error
        known = isinstance(content, dict) and content.get("format") == _FORMAT
        if not known or not isinstance(content.get("messages"), list):
            raise OptionError(f"{source}: expected a chat saved by /save, found something else")
        settings = {name: content.get(name) for name in ("system", "thinking", "effort")}
        return cls(turns=content["messages"], **settings)


def _data_url(source: str | Path) -> str:
    """An image file as a data URL, after making sure that it is one."""
    data, _ = read_image_bytes(source, "image")
    open_image(data, f"image {shorten(source)}")
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


# A word as a shell reads it: quoted at its beginning, or with escaped characters.
_WORD = re.compile(r"""(?<!\S)(?:'[^']*'|"[^"]*")|(?:\\.|[^\s\\])+""")
_PUNCTUATION = ",;:!?.)"


def split_dropped_paths(text: str) -> tuple[str, list[Path]]:
    """Take the paths of images out of a line, as terminals paste them when a file is dropped.

    A path counts if it is absolute or begins with ~, names an image file that exists, and is
    written as a shell would need it: escaped, quoted or as a file: URL. Punctuation may follow.

    Returns:
        The rest of the line, and the paths in order.
    """
    paths: list[Path] = []

    def take(match: re.Match[str]) -> str:
        word = match[0]
        for candidate in (word, word.rstrip(_PUNCTUATION)):
            path = _existing_image(candidate)
            if path is not None:
                paths.append(path)
                return f" {word[len(candidate) :]}"
        return word

    rest = _WORD.sub(take, text)
    return (rest.strip() if paths else text), paths


def _existing_image(word: str) -> Path | None:
    try:
        parts = shlex.split(word)
    except ValueError:
        return None
    if len(parts) != 1:
        return None
    name = unquote(urlsplit(parts[0]).path) if parts[0].startswith("file://") else parts[0]
    if not name.startswith(("/", "~")) or Path(name).suffix.lower() not in _IMAGE_SUFFIXES:
        return None
    try:
        path = expand(name, MediaError, "image")
        return path if path.is_file() else None
    except (MediaError, OSError):
        return None
