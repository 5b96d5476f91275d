"""Paths in what a user types: of pictures and videos, as people write them and as terminals paste a dropped file."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlx_qwen35.errors import MediaError
from mlx_qwen35.paths import expand, shorten

VIDEOS = {".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi"}
PICTURES = {".png", ".apng", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif"}
# What people drop in the hope that it is read, and what it is called.
_OTHERS = {
    ".pdf": "a PDF", ".doc": "a document", ".docx": "a document", ".odt": "a document", ".pages": "a document",
    ".ppt": "slides", ".pptx": "slides", ".key": "slides", ".xls": "a table", ".xlsx": "a table",
    ".mp3": "a sound", ".m4a": "a sound", ".wav": "a sound", ".svg": "an SVG drawing",
}  # fmt: skip
_MEDIA = PICTURES | VIDEOS
AS_TEXT = "a space before the line sends it as text"

# A word as a shell reads it: quoted parts, escaped characters and others, one behind the other. Spaces of other kinds
# are parts of it: macOS has one in the name of a screenshot, before AM or PM, and its terminal does not escape it.
_SHELL_WORD = re.compile(r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^ \t\n'"\\])+""")
_ROOTED = re.compile(r"""['"]?(?:/(?!/)|~[\w.-]*/|\.\.?/|file://)""")
_WORD_START, _WORD_END = re.compile(r"(?<!\S)\S"), re.compile(r"(?<=\S)(?=\s|$)")
_PUNCTUATION = ",;:!?.)"
# Names with spaces that nobody quoted, which end as a picture or a document does: of so many words.
_MOST_WORDS, _MOST_CHARACTERS = 24, 1024
# Of a path with every byte written as in a URL; shlex takes a time that grows with the square.
_LONGEST_WORD = 3 * 4096


@dataclass(frozen=True)
class _Found:
    """Something that is there, named in a line up to `end`."""

    path: Path
    end: int

    @property
    def is_media(self) -> bool:
        return self.path.suffix.lower() in _MEDIA and self.path.is_file()


def split_dropped_paths(text: str) -> tuple[str, list[Path]]:
    """Take the paths of pictures and videos out of a line.

    A path counts where a word begins: absolute, relative or with ~, quoted or escaped as a shell would need it, as a
    file: URL, or with spaces as they are; punctuation may follow. It has to be there, and a picture's or a video's.

    Returns:
        The rest of the line, and the paths in order.
    Raises:
        MediaError: The line begins like a path and is none of these, or names a document that is there.
    """
    paths: list[Path] = []
    rest, done = [], 0
    for start in (match.start() for match in _WORD_START.finditer(text)):
        if start < done:
            continue
        found = _longest(text, start)
        if found is not None and found.is_media:
            paths.append(found.path)
            rest += [text[done:start], " "]
            done = found.end
        elif start == 0:
            _refuse_other(text, found)
        elif found is not None and _ROOTED.match(text, start) and found.path.suffix.lower() in _OTHERS:
            raise _no_picture(found.path)
    rest.append(text[done:])
    return ("".join(rest).strip() if paths else text), paths


def _longest(text: str, start: int) -> _Found | None:
    """What is there under a name that begins at a place of the line: media if there are some, the longest of all."""
    there = [found for end, name in _names(text, start) if (found := _existing(name, end)) is not None]
    return max(there, key=lambda found: (found.is_media, found.end), default=None)


def _names(text: str, start: int) -> Iterator[tuple[int, str]]:
    """Names that may be meant, and where they end."""
    word = _SHELL_WORD.match(text, start)
    # Neither a path nor a name with an ending: nearly every word of a long text.
    if word is not None and ("/" in word[0] or "." in word[0]):
        for part in (word[0], word[0].rstrip(_PUNCTUATION)):
            yield start + len(part), _unquoted(part)
    if (start > 0 and not _ROOTED.match(text, start)) or text[start] in "'\"":
        return
    line = text[start:].split("\n", 1)[0][:_MOST_CHARACTERS]
    for number, end in enumerate([match.start() for match in _WORD_END.finditer(line)][:_MOST_WORDS]):
        for part in (line[:end], line[:end].rstrip(_PUNCTUATION)):
            if number == 0 or Path(part).suffix.lower() in _MEDIA | _OTHERS.keys():
                yield start + len(part), part


def _unquoted(word: str) -> str:
    if len(word) > _LONGEST_WORD:
        return word
    try:
        parts = shlex.split(word)
    except ValueError:
        return word
    name = parts[0] if len(parts) == 1 else word
    return unquote(urlsplit(name).path) if name.startswith("file://") else name


def _existing(name: str, end: int) -> _Found | None:
    # A bare word is a path only if it looks like a file that is meant.
    if not name.strip("/") or "://" in name:
        return None
    if "/" not in name and Path(name).suffix.lower() not in _MEDIA | _OTHERS.keys():
        return None
    try:
        path = expand(name, MediaError, "image")
        return _Found(path, end) if path.exists() else None
    except (MediaError, OSError, ValueError):
        return None


def _refuse_other(text: str, found: _Found | None) -> None:
    """A line whose beginning is no picture's path, though it looks like one.

    Raises:
        MediaError: So it is; says what is there instead.
    """
    if found is not None:
        raise _no_picture(found.path)
    named = _meant(text)
    if named is not None and re.match(r"https?://", named):
        raise MediaError(f"{shorten(named)}: expected a picture on this machine, found a web address; {AS_TEXT}")
    if named is not None:
        raise MediaError(f"{shorten(named)}: No such file or directory; {AS_TEXT}")


def _meant(text: str) -> str | None:
    """The path that a line begins with, if it does; up to its ending, where there are spaces in it."""
    word = _SHELL_WORD.match(text)
    first = _unquoted(word[0].rstrip(_PUNCTUATION)) if word is not None else text.split()[0]
    known = _MEDIA | _OTHERS.keys()
    if _ROOTED.match(text):
        inside = first.removeprefix("/")
        if not text.startswith("/") or "/" in inside or Path(first).suffix:
            ends = [end for end, name in _names(text, 0) if Path(name).suffix.lower() in known]
            return first if Path(first).suffix or not ends else text[: min(ends)]
        return None
    return first if Path(first).suffix.lower() in known else None


def _no_picture(path: Path) -> MediaError:
    kind = "a directory" if path.is_dir() else _OTHERS.get(path.suffix.lower(), "a file of another kind")
    return MediaError(f"{shorten(path)}: expected a picture or a video (PNG, JPEG, MP4, ...), found {kind}; {AS_TEXT}")
