"""Chat templates: programs of the checkpoint, run in Jinja's sandbox with bounds on their loops and texts.

The environment is the one that transformers renders templates in (5.23, utils/chat_template_utils.py,
_cached_compile_jinja_template): its filters, functions and tags. Anybody may have written a template, so one that
would loop or grow without an end is stopped.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, cached_property, lru_cache
from itertools import chain
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mlx_qwen35.prompts import bounds

# Of a template's own text, which takes a second to compile; published ones have 5,000 to 20,000.
_MAX_SOURCE = 2**17
_PADDING = ("ljust", "rjust", "center", "zfill", "expandtabs")
# What makes something of another kind, whose growth nobody looks at.
_FORBIDDEN = frozenset(("encode", "translate", "to_bytes"))
# For web pages, and without an end for some texts.
_NO_FILTERS = ("pprint", "urlize", "wordwrap", "xmlattr")


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
        token = bounds.current.set(bounds.Work())
        try:
            pieces: list[str] = []
            written = 0
            for piece in self._template.generate(messages=messages, **options):
                written += len(piece)
                bounds.check(written, bounds.MAX_CHARACTERS, "characters")
                pieces.append(piece)
            return "".join(pieces)
        finally:
            bounds.current.reset(token)


class _Environment(ImmutableSandboxedEnvironment):
    """transformers' environment, whose operators and methods look at what they would make."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters |= {"tojson": _tojson, "bounded_loop": bounds.bounded_loop, "bounded": bounds.bounded_value}
        self.globals |= {
            "raise_exception": _raise_exception, "strftime_now": _strftime_now, "namespace": _PlainNamespace,
            "dict": _Dictionary(),
        }  # fmt: skip
        for name in _NO_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]
        for name in (*bounds.COUNTED, "format", "join", "map", "replace", "round", "sum"):
            self.filters[name] = bounds.checked_filter(name, self.filters[name])

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """See jinja2.sandbox."""
        return attr not in _FORBIDDEN and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """See jinja2.sandbox."""
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(other, int):
                    characters, items = bounds.weight(one)
                    bounds.check(characters * other, bounds.MAX_CHARACTERS, "characters")
                    bounds.check(items * other, bounds.MAX_ITEMS, "items")
        elif operator == "**":
            bounds.check(max(abs(left), abs(right)), 1000, "in a power")
        elif operator == "%" and isinstance(left, str):
            bounds.check_format(bounds.percent_widths(left), right)
        return bounds.bounded_value(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See jinja2.sandbox."""
        bounds.current.get().step()
        # The sandbox wraps `format`.
        owner, name = getattr(getattr(obj, "__wrapped__", obj), "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str):
            if name in _PADDING:
                for width in (*args, *kwargs.values()):
                    times = owner.count("\t") if name == "expandtabs" else 1
                    bounds.check(width * times if isinstance(width, int) else 0, bounds.MAX_CHARACTERS, "characters")
            elif name == "join" and args:
                args = (list(args[0]),)
                bounds.check(len(owner) * len(args[0]), bounds.MAX_CHARACTERS, "characters")
            elif name == "replace" and len(args) > 1:
                bounds.check(owner.count(args[0]) * len(args[1]), bounds.MAX_CHARACTERS, "characters")
            elif name in ("format", "format_map"):
                bounds.check_format(bounds.brace_widths(owner), [*args, *kwargs.values()])
        return super().call(context, obj, *args, **kwargs)


@cache
def _environment() -> _Environment:
    # Nothing is computed before the bounds hold.
    extensions: list[Any] = [_GenerationTag, loopcontrols]
    return _Environment(trim_blocks=True, lstrip_blocks=True, extensions=extensions, optimized=False, finalize=_written)


# Compiling takes a tenth of a second, and every model of a family has the same template.
@lru_cache(maxsize=32)
def _compiled(source: str) -> Template:
    if len(source) > _MAX_SOURCE:
        raise TemplateError(f"it has more than {_MAX_SOURCE} characters")
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
        block.filter = _filtered(block.filter, "bounded", block.lineno)
    # From the innermost outwards.
    for parent in reversed(list(chain([tree], tree.find_all(nodes.Node)))):
        for field, value in list(parent.iter_fields()):
            if isinstance(value, list):
                setattr(parent, field, [_bounded_node(item) for item in value])
            elif not (field == "call" or (field == "filter" and isinstance(parent, nodes.FilterBlock))):
                setattr(parent, field, _bounded_node(value))
    return tree


def _bounded_node(node: Any) -> Any:
    if isinstance(node, nodes.Concat):
        # The same as a join, whose list is weighed before it becomes a text.
        node = _filtered(_filtered(nodes.List(node.nodes, lineno=node.lineno), "bounded"), "join")
    is_tuple = isinstance(node, nodes.Tuple) and node.ctx == "load"
    if is_tuple or isinstance(node, nodes.Call | nodes.Dict | nodes.Filter | nodes.List):
        return _filtered(node, "bounded")
    return node


def _filtered(node: Any, name: str, line: int | None = None) -> nodes.Filter:
    found = nodes.Filter(node, name, [], [], None, None)
    found.set_lineno(node.lineno if line is None else line)
    return found


def _written(value: Any) -> Any:
    # Constants are looked at before any rendering, too.
    return work.write(value) if (work := bounds.current.get(None)) else value


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

    def __repr__(self) -> str:
        # Its values may be namespaces of namespaces.
        return "<Namespace>"

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
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    for given in (indent, *(separators or ())):
        size = len(given) if isinstance(given, str) else given or 0
        bounds.check(size, bounds.SMALL, "characters between two values")
    bounds.weight(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
