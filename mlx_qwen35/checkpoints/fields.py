"""Typed fields of a JSON object, and everything that is wrong with them at once."""

from typing import Any

from mlx_qwen35.errors import ConfigError
from mlx_qwen35.paths import shorten

# Beyond what any model has: what is built from such numbers would take all memory before a tensor is missed.
MAX_SIZE = 2**24
# Of a number: the powers and quotients of smaller ones leave float32.
_LEAST = 1e-12


class Fields:
    """Reads fields and collects what is wrong with them.

    A field that is null counts as one that is not there. Without a default it is required.

    Args:
        place: The file, for error messages.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.problems: list[str] = []

    def problem(self, text: str) -> None:
        """Note that something is wrong."""
        self.problems.append(text)

    def raise_if_any(self) -> None:
        """Raises ConfigError with all problems, if there are any."""
        if self.problems:
            raise ConfigError(f"{self.place}: " + "; ".join(self.problems))

    def integer(
        self,
        source: dict[str, Any],
        prefix: str,
        name: str,
        *,
        default: int | None = None,
        least: int = 1,
        most: int = MAX_SIZE,
    ) -> int:
        """A whole number from `least` to `most`."""
        value = _given(source, name, default)
        if isinstance(value, int) and not isinstance(value, bool):
            if least <= value <= most:
                return value
            self._bad(prefix + name, f"{least} to {most}", value)
        else:
            self._bad(prefix + name, "an integer", value)
        return max(least, 1)

    def size(self, source: dict[str, Any], prefix: str, name: str, *, most: int) -> int:
        """A size that may also be written as a list of equal numbers, as patch sizes are."""
        value = source.get(name)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            source = {name: value[0]}
        return self.integer(source, prefix, name, most=most)

    def number(
        self, source: dict[str, Any], prefix: str, name: str, *, default: float | None = None, most: float = 1e12
    ) -> float:
        """A number above 0, at most `most`; not so near 0 that float32 has no number for what is divided by it."""
        value = _given(source, name, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if _LEAST <= value <= most:
                return float(value)
            least = f"of at least {_LEAST:g}" if 0 < value < _LEAST else "above 0"
            self._bad(prefix + name, f"a number {least}, at most {most:g}", value)
        else:
            self._bad(prefix + name, "a number", value)
        return 1.0

    def boolean(self, source: dict[str, Any], prefix: str, name: str, *, default: bool) -> bool:
        """True or false."""
        value = _given(source, name, default)
        if isinstance(value, bool):
            return value
        self._bad(prefix + name, "true or false", value)
        return default

    def only(self, source: dict[str, Any], prefix: str, name: str, allowed: tuple[object, ...]) -> None:
        """Refuse a setting that would change the arithmetic if it were ignored."""
        if name in source and source[name] not in allowed:
            expected = " or ".join(repr(item) for item in allowed)
            self.problem(f"{prefix}{name}: only {expected} is supported, found {shown(source[name])}")

    def _bad(self, name: str, expected: str, value: object) -> None:
        found = "nothing" if value is None else shown(value)
        self.problem(f"{name}: expected {expected}, found {found}")


def shown(value: object) -> str:
    """A value for an error message."""
    return shorten(repr(value))


def _given(source: dict[str, Any], name: str, default: Any) -> Any:
    value = source.get(name)
    return default if value is None else value
