"""Patterns that look ahead at their beginning, as several patterns that all have to match, which llguidance knows."""

import re

# What must not come first where it is a single character, as it is or escaped, or a class of them.
_CHARACTER = re.compile(
    r"(?P<plain>[^\\()\[\]{}.*+?^$|])|\\(?P<escaped>[.\-+*/$^|?(){}\[\]])|\[(?P<among>[^\\\[\]^][^\\\[\]]*)\]"
)


def without_lookahead(pattern: str) -> list[str] | None:
    """The patterns of which all say what one does that looks ahead; None where that is not known, or it does not.

    Known are `(?=...)`, "not blank", and what must not be the first character, all behind `^`.
    """
    found, rest = [], pattern.removeprefix("^")
    while pattern.startswith("^") and rest.startswith(("(?=", "(?!")):
        end = _group_end(rest)
        said = _said(rest[2], rest[3 : end - 1]) if end else None
        if end is None or said is None:
            return None
        found.append(said)
        rest = rest[end:]
    if not found or any(mark in part for part in (*found, rest) for mark in ("(?=", "(?!", "(?<")):
        return None
    # Of alternatives, only the first one would look ahead.
    return None if _has_alternatives(rest) else [*found, f"^{rest}"]


def _said(kind: str, ahead: str) -> str | None:
    if kind == "=":
        return f"^(?:{ahead})"
    if ahead == r"\s*$":
        return r"^\s*\S"
    match = _CHARACTER.fullmatch(ahead)
    if match is None:
        return None
    among = match["among"] or re.escape(match["plain"] or match["escaped"])
    return f"^(?:$|[^{among}])"


def _group_end(pattern: str) -> int | None:
    """Behind the group that a pattern begins with."""
    return next((at + 1 for at, depth in _depths(pattern) if depth == 0), None)


def _has_alternatives(pattern: str) -> bool:
    return any(depth == 0 and pattern[at] == "|" for at, depth in _depths(pattern))


def _depths(pattern: str) -> list[tuple[int, int]]:
    """Each character that is not escaped and in no class, with the groups that are open behind it."""
    found, depth, escaped, in_class = [], 0, False, False
    for at, character in enumerate(pattern):
        if escaped or character == "\\":
            escaped = not escaped
            continue
        if in_class or character == "[":
            in_class = character != "]"
            continue
        depth += (character == "(") - (character == ")")
        found.append((at, depth))
    return found
