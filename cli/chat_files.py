"""Files of saved chats: what `/save` writes, held against what a chat may be when it is read again."""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlx_qwen35.errors import OptionError
from mlx_qwen35.paths import is_file, is_there, shorten
from mlx_qwen35.prompts.efforts import EFFORTS

_FORMAT = "mlx-qwen35 chat 1"
# Of a message's parts: where the value stands that each has to have, and the text that it is.
_PARTS = {"text": ("text",), "image_url": ("image_url", "url"), "video": ("video",)}


def write_chat(target: Path, chat: dict[str, Any]) -> None:
    """Write a conversation: `system`, `thinking`, `effort` and `turns`.

    Raises:
        OptionError: The file cannot be written.
    """
    content = {"format": _FORMAT, **chat}
    content["messages"] = content.pop("turns")
    try:
        _write_whole(target, json.dumps(content, ensure_ascii=False, indent=1).encode())
    except UnicodeEncodeError as error:
        found = error.object[error.start]
        raise OptionError(f"{target}: expected valid Unicode in the conversation, found {found!r}") from error
    except OSError as error:
        raise OptionError(f"{target}: cannot be written ({error.strerror or error})") from error


def _write_whole(target: Path, content: bytes) -> None:
    """All of it or nothing: where the disk is full, the chat that was there stays."""
    if target.exists() and not target.is_file():  # nothing may stand in the place of a device or a pipe
        target.write_bytes(content)
        return
    # What a link stands for, not the link.
    target = Path(os.path.realpath(target))
    part = target.with_name(f"{os.fsencode(target.name)[:100].decode(errors='ignore')}.{uuid.uuid4().hex}")
    try:
        part.write_bytes(content)
        if target.exists():
            shutil.copymode(target, part)
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read_chat(source: Path) -> dict[str, Any]:
    """What `write_chat` wrote.

    Raises:
        OptionError: The file is missing, or is not a saved chat; names the first place that is wrong.
    """
    if is_there(source) and not is_file(source):  # a pipe or a device may never end
        raise OptionError(f"{source}: expected a file, found a directory or a device")
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        # An escaped half of a surrogate pair could not be written again.
        json.dumps(content, ensure_ascii=False).encode()
    except OSError as error:
        raise OptionError(f"{source}: cannot be read ({error.strerror or error})") from error
    except RecursionError as error:
        raise OptionError(f"{source}: expected a saved chat, found values too deep inside each other") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"{source}: expected a saved chat, found what is no text") from error
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise OptionError(f"{source}: expected a saved chat, found {error}") from error
    known = isinstance(content, dict) and content.get("format") == _FORMAT
    if not known or not isinstance(content.get("messages"), list):
        raise OptionError(f"{source}: expected a chat saved by /save, found something else")
    chat = {name: content.get(name) for name in ("system", "thinking", "effort")}
    check = _Checker(source)
    check(chat["system"], "system", "text", lambda value: value is None or isinstance(value, str))
    check(chat["thinking"], "thinking", "true or false", lambda value: value is None or isinstance(value, bool))
    check(chat["effort"], "effort", f"one of {', '.join(EFFORTS)}", lambda value: value is None or value in EFFORTS)
    for number, message in enumerate(content["messages"]):
        check.message(message, f"messages[{number}]")
    return {**chat, "turns": content["messages"]}


class _Checker:
    """Refuses what a chat does not write, with its place in the file."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def __call__(self, value: Any, place: str, expected: str, right: Callable[[Any], bool]) -> None:
        if not right(value):
            raise OptionError(f"{self._source}: {place}: expected {expected}, found {shorten(repr(value))}")

    def text(self, value: Any, place: str) -> None:
        self(value, place, "text", lambda value: isinstance(value, str))

    def message(self, message: Any, place: str) -> None:
        self(message, place, "a message", lambda value: isinstance(value, dict))
        self(message.get("role"), f"{place}.role", "user or assistant", lambda role: role in ("user", "assistant"))
        content = message.get("content")
        if message["role"] == "assistant" or isinstance(content, str):
            self.text(content, f"{place}.content")
            self.text(message.get("reasoning_content", ""), f"{place}.reasoning_content")
            return
        self(content, f"{place}.content", "text or a list of parts", lambda value: isinstance(value, list))
        for number, part in enumerate(content):
            self.part(part, f"{place}.content[{number}]")

    def part(self, part: Any, place: str) -> None:
        self(part, place, "a part of a message", lambda value: isinstance(value, dict))
        kind, kinds = part.get("type"), ", ".join(_PARTS)
        self(kind, f"{place}.type", f"one of {kinds}", lambda kind: isinstance(kind, str) and kind in _PARTS)
        value, path = part, place
        for name in _PARTS[kind]:
            value, path = value.get(name) if isinstance(value, dict) else None, f"{path}.{name}"
        self.text(value, path)
