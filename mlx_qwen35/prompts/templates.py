"""Chat templates: programs of the checkpoint, run in Jinja's sandbox with bounds on their loops and texts.

The environment is the one that transformers renders templates in (5.23, utils/chat_template_utils.py,
_cached_compile_jinja_template): its filters, functions and tags. Anybody may have written a template, so one that
would loop or grow without an end is stopped.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import cache, cached_property, lru_cache, wraps
from itertools import chain
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

# Passes of all loops together; a conversation of a thousand messages takes a few thousand.
MAX_PASSES = 2_000_000
# Of one text, and of all that is written; items of one list.
MAX_CHARACTERS = 2**27
MAX_ITEMS = 2**20
_PADDING = ("ljust", "rjust", "center", "zfill", "expandtabs")
_WIDE = re.compile(r"\d{7}")

_passes: ContextVar[Iterator[int]] = ContextVar("passes")


class ChatTemplate:
    """A checkpoint's chat template.

    Args:
        source: Jinja.
        special_tokens: Further variables that it may use: `bos_token` and the like.
    Raises:
        jinja2.TemplateError: It is no template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, Any] | None = None) -> None:
        self._special_tokens = dict(special_tokens or {})
        self._source = source
        self._template = _compiled(source)

    @property
    def variables(self) -> frozenset[str]:
        """The names that it reads and does not set itself."""
        return _variables(self._source)

    @cached_property
    def splits_reasoning(self) -> bool:
        """Whether it takes a `<think>` block in an assistant's text for its reasoning; not all generations do."""
        question: dict[str, Any] = {"role": "user", "content": "?"}
        inside = {"role": "assistant", "content": "<think>\na\n</think>\n\nb"}
        apart = {"role": "assistant", "content": "b", "reasoning_content": "a"}
        try:
            return self.render([question, inside]) == self.render([question, apart])
        except Exception:  # a template may refuse any conversation, with whatever it likes
            return True

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The text of a conversation.

        Args:
            messages: As the template takes them.
            options: Its other variables: `tools`, `add_generation_prompt`, ...
        Raises:
            jinja2.TemplateError: The template refuses the conversation, or goes beyond a bound.
            Exception: Whatever else it raises.
        """
        options = {"tools": None, "documents": None, **self._special_tokens, **options}
        token = _passes.set(iter(range(MAX_PASSES)))
        try:
            pieces: list[str] = []
            written = 0
            for piece in self._template.generate(messages=messages, **options):
                written += len(piece)
                _check(written, MAX_CHARACTERS, "characters")
                pieces.append(piece)
            return "".join(pieces)
        finally:
            _passes.reset(token)


class _Environment(ImmutableSandboxedEnvironment):
    """transformers' environment, whose operators and methods look at what they would make."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters |= {"tojson": _tojson, "bounded_loop": _bounded_loop, "bounded_text": _bounded_text}
        self.globals |= {
            "raise_exception": _raise_exception, "strftime_now": _strftime_now, "namespace": _PlainNamespace,
            "dict": _Dictionary(),
        }  # fmt: skip
        del self.globals["lipsum"]
        for name in ("center", "indent", "format", "join", "replace"):
            self.filters[name] = _checked_first(name, self.filters[name])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """See jinja2.sandbox."""
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(other, int):
                    _check(len(one) * other, MAX_CHARACTERS if isinstance(one, str) else MAX_ITEMS, "characters")
        elif operator == "**":
            _check(max(abs(left), abs(right)), 1000, "in a power")
        elif operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise TemplateError("a text is padded too widely")
        return _bounded_text(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See jinja2.sandbox."""
        # The sandbox wraps `format`.
        owner, name = getattr(getattr(obj, "__wrapped__", obj), "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str):
            if name in _PADDING and args and isinstance(args[0], int):
                _check(args[0], MAX_CHARACTERS, "characters")
            elif name == "replace" and len(args) > 1:
                _check(owner.count(args[0]) * len(args[1]), MAX_CHARACTERS, "characters")
            elif name in ("format", "format_map") and _WIDE.search(owner):
                raise TemplateError("a text is padded too widely")
        return super().call(context, obj, *args, **kwargs)


@cache
def _environment() -> _Environment:
    # Nothing is computed before the bounds hold.
    extensions: list[Any] = [_GenerationTag, loopcontrols]
    return _Environment(trim_blocks=True, lstrip_blocks=True, extensions=extensions, optimized=False)


# Compiling takes a tenth of a second, and every model of a family has the same template.
@lru_cache(maxsize=32)
def _compiled(source: str) -> Template:
    return _environment().from_string(_bounded(_environment().parse(source)))


@lru_cache(maxsize=32)
def _variables(source: str) -> frozenset[str]:
    return frozenset(find_undeclared_variables(_environment().parse(source)))


def _bounded(tree: nodes.Template) -> nodes.Template:
    """The same template, whose loops and texts are counted."""
    # The list first: what is put around a node would be found again.
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = _filtered(loop.iter, "bounded_loop")
    for block in list(tree.find_all(nodes.AssignBlock)):
        block.filter = _filtered(block.filter, "bounded_text", block.lineno)
    kinds = (nodes.Concat, nodes.Filter, nodes.Call)
    for parent in list(chain([tree], tree.find_all(nodes.Node))):
        for field, value in list(parent.iter_fields()):
            if isinstance(value, kinds) and not isinstance(parent, nodes.CallBlock | nodes.FilterBlock):
                setattr(parent, field, _filtered(value, "bounded_text"))
            elif isinstance(value, list):
                wrapped = [_filtered(item, "bounded_text") if isinstance(item, kinds) else item for item in value]
                setattr(parent, field, wrapped)
    return tree


def _filtered(node: Any, name: str, line: int | None = None) -> nodes.Filter:
    found = nodes.Filter(node, name, [], [], None, None)
    found.set_lineno(node.lineno if line is None else line)
    return found


def _bounded_loop(items: Any) -> Iterator[Any]:
    passes = _passes.get()
    for item in items:
        if next(passes, None) is None:
            raise TemplateError(f"its loops take more than {MAX_PASSES} passes")
        yield item


def _bounded_text(value: Any) -> Any:
    if isinstance(value, str):
        _check(len(value), MAX_CHARACTERS, "characters")
    elif isinstance(value, list | tuple):
        _check(len(value), MAX_ITEMS, "items")
    return value


def _checked_first(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's that looks at its arguments before it makes more of a text than they hold."""

    @wraps(filter_)  # with the marks that tell Jinja what to pass first
    def checked(*args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        texts = [value for value in values if isinstance(value, str)]
        for value in values:
            if isinstance(value, int):
                _check(value * (1 + max(map(len, texts), default=0)), MAX_CHARACTERS, "characters")
            elif name == "join" and isinstance(value, list | tuple | range):
                _check(len(value) * max(map(len, texts), default=0), MAX_CHARACTERS, "characters")
        if name == "format" and any(map(_WIDE.search, texts)):
            raise TemplateError("a text is padded too widely")
        if name == "replace" and len(texts) > 2:
            _check(texts[0].count(texts[1]) * len(texts[2]), MAX_CHARACTERS, "characters")
        return filter_(*args, **kwargs)

    return checked


def _check(found: float, most: int, what: str) -> None:
    if found > most:
        raise TemplateError(f"it makes more than {most} {what}")


class _GenerationTag(Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here it says nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """See jinja2.ext."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PlainNamespace(Namespace):
    """Jinja's, without names that lead into Python."""

    def __init__(*args: Any, **attributes: Any) -> None:
        # As Jinja does it, so that `namespace(self=...)` works.
        self, values = args[0], dict(*args[1:], **attributes)
        for name in values:
            _PlainNamespace._check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        # By the class: Jinja's looks up everything else among the template's own names.
        _PlainNamespace._check_name(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace cannot have an attribute {name!r}")


class _Dictionary:
    """`dict` without the attributes of a class."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    fromkeys: Callable[..., dict[Any, Any]] = staticmethod(dict.fromkeys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form[:100])


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
