"""Tool calls in an answer's text, by Qwen3.5's markers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlx_qwen35.answers.arguments import coerce, mapping_or_empty
from mlx_qwen35.answers.loosening import with_all_properties
from mlx_qwen35.answers.schemas import check_size

_CALL, _END_CALL = "<tool_call>", "</tool_call>"
_FUNCTION, _END_FUNCTION = "<function=", "</function>"
_PARAMETER, _END_PARAMETER = "<parameter=", "</parameter>"
_TEXT, _END = "text", "end"
_NESTED = "nested"
_BLANKS = " \t\r\n"

_MARKERS = (_CALL, _END_CALL, _FUNCTION, _END_FUNCTION, _PARAMETER, _END_PARAMETER)
_BEGINNINGS = {marker[:length] for marker in _MARKERS for length in range(1, len(marker) + 1)}
_LONGEST_NAME = 200
_MARKER = re.compile(
    rf"({_CALL}|{_END_CALL}|{_END_FUNCTION}|{_END_PARAMETER})|({_FUNCTION}|{_PARAMETER})([^<>\n]{{1,{_LONGEST_NAME}}})>"
)
_OPEN_NAME = re.compile(rf"({_FUNCTION}|{_PARAMETER})[^<>\n]{{0,{_LONGEST_NAME}}}")
_LONGEST = len(_PARAMETER) + _LONGEST_NAME + len(">")

# Inside a value these markers end it if one of those follows; otherwise they are part of it.
_ENDS_VALUE = {
    _END_PARAMETER: {_PARAMETER, _END_FUNCTION, _END_CALL, _END},
    _END_FUNCTION: {_END_CALL, _CALL, _FUNCTION, _END},
    _END_CALL: {_CALL, _FUNCTION, _END},
}
_LAST_MARKERS = re.compile(rf"\n?{_END_PARAMETER}\s*({_END_FUNCTION}\s*)?({_END_CALL}\s*)?\Z")


@dataclass(frozen=True)
class ToolCall:
    """One call.

    Args:
        name: The function's name.
        arguments: Values that JSON can hold, by parameter.
    """

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Parsed:
    """What a stretch of text adds.

    Args:
        text: New text of the answer.
        calls: Calls that became complete, in order.
    """

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


class _Token(NamedTuple):
    """A marker, a stretch of text between markers, or the end of the answer.

    Args:
        kind: The marker without its name, `_TEXT` or `_END`.
        raw: The characters that it stands for; at the end, those of a marker that was cut off.
        name: The function's or parameter's; empty if the marker is malformed.
    """

    kind: str
    raw: str
    name: str = ""

    @property
    def blank(self) -> bool:
        return self.kind == _TEXT and not self.raw.strip(_BLANKS)


class ToolCallParser:
    """Splits the stream of an answer's text into text and tool calls.

    A call is `<function=NAME>`, any number of `<parameter=KEY>`, value, `</parameter>`, and `</function>`;
    the `<tool_call>` around one or more of them may be missing. A call of a function that is not among
    the tools stays text, to the character, and so does everything else that cannot be read.

    One newline after `<parameter=KEY>` and one before the end of the value are not part of it; all else
    is, markers too. What follows a marker inside a value, after white space, says whether it ends it:

    - `</parameter>` does before `<parameter=`, `</function>`, `</tool_call>` and the end of the text.
    - `</function>` does before `</tool_call>`, `<tool_call>`, `<function=` and the end of the text.
    - `</tool_call>` does before `<tool_call>`, `<function=` and the end of the text.
    - The end of the text does. A closing marker that is cut off there is dropped.
    - `<parameter=KEY>` at the beginning of a line does if KEY is declared and has not come yet.
    - None does inside a call that is written out in the value: from `<function=NAME>`, directly before
      `<parameter=` or `</function>`, to its own `</function>` and a `</tool_call>` directly after that.

    So a piece of a call in a value, if it looks exactly like the end of one, is taken for the end.
    After `<function=NAME>` a parameter or `</function>` has to come; inside `<tool_call>`, `</tool_call>`
    or the end of the text may.

    White space before, between and after calls is dropped, and one `</tool_call>` after each. If text
    stands on both sides of calls, the white space after the last of them stays, to keep it apart.

    Args:
        tools: Function descriptions in OpenAI's format. If there are none, every name is accepted.
    Raises:
        OptionError: The descriptions are too large; see `check_size`.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        check_size(tools, "tools")
        functions = [tool.get("function", tool) for tool in tools]
        self._schemas = {
            function["name"]: with_all_properties(mapping_or_empty(function.get("parameters")))
            for function in functions
        }
        self._held = ""
        # From the first marker of a call until the call is complete, or known to be none.
        self._raw: list[str] = []
        self._reader: _Function | None = None
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._space: list[str] = []
        self._text_begun = False
        self._after_call = False
        self._may_end_call = False
        self._cut_off = False

    def add(self, text: str) -> Parsed:
        """What more text gives; pieces may be cut anywhere."""
        return self._take(text, last=False)

    def close(self, *, cut_off: bool = False) -> Parsed:
        """The rest, when the answer has ended; no text may follow.

        Args:
            cut_off: Whether the model would have gone on. The end completes no call then, which stays text: its
                arguments would be other ones than the model was about to give.
        """
        self._cut_off = cut_off
        return self._take("", last=True)

    def _take(self, text: str, *, last: bool) -> Parsed:
        for token in self._tokens(text, last=last):
            self._read(token)
        if last and not self._after_call:
            self._text += self._space
        parsed = Parsed("".join(self._text), tuple(self._calls))
        self._text, self._calls = [], []
        return parsed

    def _tokens(self, text: str, *, last: bool) -> Iterator[_Token]:
        """Cut the held text and `text` at markers, and hold what may be the beginning of one."""
        text, self._held = self._held + text, ""
        start = 0
        while (at := text.find("<", start)) >= 0:
            if at > start:
                yield _Token(_TEXT, text[start:at])
            if match := _MARKER.match(text, at):
                yield _Token(match[1] or match[2], match[0], (match[3] or "").strip())
                start = match.end()
                continue
            rest = text[at : at + _LONGEST + 1]
            if rest in _BEGINNINGS or _OPEN_NAME.fullmatch(rest):
                if last:
                    yield _Token(_END, rest)
                else:
                    self._held = rest
                return
            raw, kind = (_PARAMETER, _PARAMETER) if rest.startswith(_PARAMETER) else ("<", _TEXT)
            yield _Token(kind, raw)
            start = at + len(raw)
        if start < len(text):
            yield _Token(_TEXT, text[start:])
        if last:
            yield _Token(_END, "")

    def _read(self, token: _Token) -> None:
        if not self._raw:
            self._read_text(token)
            return
        if token.kind == _END and self._cut_off and not (self._reader and self._reader.closed):
            self._raw.append(token.raw)
            self._leave(None)
            return
        used = self._reader.read(token) if self._reader else self._read_opening(token)
        self._raw.append(token.raw[:used])
        if used is None:
            return
        self._leave(self._reader.call if self._reader else None)
        if used == 0:
            self._read_text(token)
        elif used < len(token.raw):
            self._read_text(_Token(_TEXT, token.raw[used:]))

    def _read_text(self, token: _Token) -> None:
        if token.kind in (_CALL, _FUNCTION):
            self._raw = [token.raw]
            if token.kind == _FUNCTION:
                self._reader = self._function(token.name, wrapped=False)
        elif self._may_end_call and (token.kind == _END_CALL or (token.kind == _END and token.raw[:2] == "</")):
            self._may_end_call = False
            self._space = []
        else:
            self._pass_on(token.raw)

    def _read_opening(self, token: _Token) -> int | None:
        """After `<tool_call>`; returns what the readers return."""
        if token.blank:
            return None
        if token.kind == _FUNCTION:
            self._reader = self._function(token.name, wrapped=True)
            return None
        return 0

    def _function(self, name: str, *, wrapped: bool) -> "_Function":
        return _Function(name, self._schemas.get(name, {}), wrapped=wrapped)

    def _leave(self, call: ToolCall | None) -> None:
        """Back to text, with a call or with what was none after all."""
        raw, self._raw, self._reader = "".join(self._raw), [], None
        if call is None or not call.name or (self._schemas and call.name not in self._schemas):
            self._pass_on(raw)
            return
        self._calls.append(call)
        self._space = []
        self._after_call = self._may_end_call = True

    def _pass_on(self, text: str) -> None:
        """Text of the answer; white space at its end waits for what follows."""
        kept = text.strip(_BLANKS)
        if not kept:
            self._space.append(text)
            return
        before, _, after = text.partition(kept)
        if self._text_begun or not self._after_call:
            self._text += [*self._space, before]
        self._text.append(kept)
        self._space = [after]
        self._text_begun, self._after_call, self._may_end_call = True, False, False


class _Function:
    """Reads what stands after `<function=NAME>`.

    `read` returns None while it wants more; once the call has ended, or cannot be one, it returns how
    many characters of the token belong to it. `call` is set if it was one.

    Args:
        schema: Of the function's parameters.
        wrapped: Whether it stands in a `<tool_call>`.
    """

    def __init__(self, name: str, schema: Mapping[str, Any], *, wrapped: bool) -> None:
        self.call: ToolCall | None = None
        self._name = name
        self._schema = schema
        self._properties = mapping_or_empty(schema.get("properties"))
        self._allowed = {_PARAMETER, _END_FUNCTION, *((_END_CALL, _END) if wrapped else ())}
        self._arguments: dict[str, Any] = {}
        self._key = ""
        self._value: list[str] = []
        # The last marker in the value and what followed it, until it is clear what it is.
        self._marker = ""
        self._after_marker: list[str] = []
        self._depth = 0

    @property
    def closed(self) -> bool:
        """Whether its end has come, if nothing more does."""
        return self._marker in (_END_FUNCTION, _END_CALL)

    def read(self, token: _Token) -> int | None:
        if not self._key:
            return self._read_between(token)
        if token.blank:
            (self._after_marker if self._marker else self._value).append(token.raw)
            return None
        marker = self._marker
        if token.kind in _ENDS_VALUE.get(marker, ()):
            self._end_value()
            return self._read_between(token) if marker == _END_PARAMETER else self._end(0)
        self._value += self._after_marker
        self._marker, self._after_marker = "", []
        return self._read_value(token, marker)

    def _end(self, used: int) -> int:
        self.call = ToolCall(self._name, self._arguments)
        return used

    def _read_between(self, token: _Token) -> int | None:
        """Between values, where only markers may stand."""
        if token.blank:
            return None
        if token.kind not in self._allowed or (token.kind == _PARAMETER and not token.name):
            return 0
        if token.kind == _PARAMETER:
            self._allowed = {*self._allowed, _END_CALL, _END}
            self._key = token.name
            return None
        return self._end(len(token.raw))

    def _read_value(self, token: _Token, before: str) -> int | None:
        """Inside a value, where `before` is the marker that this token follows directly, if any."""
        if token.kind == _END:
            if token.raw[:2] != "</":
                self._value.append(token.raw)
            # A call that is not written out in full took them for its own.
            self._value = [_LAST_MARKERS.sub("", "".join(self._value))]
            self._end_value()
            return self._end(len(token.raw))
        if before == _FUNCTION and token.kind in (_PARAMETER, _END_FUNCTION):
            self._depth += 1
        if token.kind == _FUNCTION:
            self._marker = _FUNCTION
        elif self._depth and token.kind == _END_FUNCTION:
            self._depth -= 1
            self._marker = _NESTED
        elif not self._depth and token.kind == _PARAMETER and self._opens_next(token.name):
            self._end_value()
            return self._read_between(token)
        elif not self._depth and token.kind in _ENDS_VALUE and (before, token.kind) != (_NESTED, _END_CALL):
            self._marker = token.kind
        (self._after_marker if self._marker else self._value).append(token.raw)
        return None

    def _opens_next(self, key: str) -> bool:
        missing = key in self._properties and key != self._key and key not in self._arguments
        return missing and bool(self._value) and self._value[-1].endswith("\n")

    def _end_value(self) -> None:
        text = "".join(self._value).removeprefix("\n").removesuffix("\n")
        schema = self._properties.get(self._key, self._schema.get("additionalProperties"))
        self._arguments[self._key] = coerce(text, schema, self._schema)
        self._key, self._value, self._marker, self._after_marker, self._depth = "", [], "", [], 0
