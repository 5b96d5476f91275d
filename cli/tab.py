"""What Tab completes in a chat: commands, their values, and paths."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

PATHS = ("",)  # as the values of a command: it takes a path
_ESCAPED = re.compile(r"""([\s'"\\()&;])""")


def completions(line: str, commands: Mapping[str, Sequence[str]]) -> tuple[int, list[str]]:
    """What may stand at the end of a line.

    Args:
        line: Up to the cursor.
        commands: Values that each command takes; `PATHS` for a path.
    Returns:
        Where the part begins that is completed, and what it may become.
    """
    name, space, argument = line.partition(" ")
    if not space and line.startswith("/"):
        found = [command for command in commands if command.startswith(line)]
        if found:
            return 0, [command + (" " if commands[command] else "") for command in found]
    if space and name in commands:
        start = len(name) + 1 + len(argument) - len(argument.lstrip())
        typed = line[start:]
        if commands[name] == PATHS:
            return start, _paths(typed)
        return start, [value for value in commands[name] if value.startswith(typed)]
    start = max((match.end() for match in re.finditer(r"(?<!\\)\s", line)), default=0)
    word = line[start:]
    if "/" not in word and not word.startswith((".", "~")):
        return len(line), []
    return start, [_ESCAPED.sub(r"\\\1", path) for path in _paths(re.sub(r"\\(.)", r"\1", word))]


def _paths(typed: str) -> list[str]:
    """Files and directories whose path begins so, as it was begun."""
    head, slash, tail = typed.rpartition("/")
    try:
        folder = Path(f"{head}{slash}" or ".").expanduser()
        names = sorted(path.name for path in folder.iterdir())
    except (OSError, RuntimeError, ValueError):
        return []
    shown = [name for name in names if name.startswith(tail) and (tail.startswith(".") or not name.startswith("."))]
    return [f"{head}{slash}{name}{'/' if (folder / name).is_dir() else ''}" for name in shown]
