"""Grammars for answers: JSON by a schema, tool calls in Qwen's XML."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_qwen35.answers.constraints import Closing, Constraint, control_id, error_message
from mlx_qwen35.answers.equivalents import enforceable
from mlx_qwen35.answers.loosening import loosened, shapes, takes_others
from mlx_qwen35.answers.open_text import OpenText
from mlx_qwen35.answers.schemas import SchemaAnalysis, alone, check_size, list_at, mapping_at
from mlx_qwen35.answers.tightening import tightened
from mlx_qwen35.errors import OptionError
from mlx_qwen35.prompts.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

_SCHEMA_PLACE = "response_format.json_schema.schema"
# No white space between the parts of JSON: small models write it until the answer's end.
_JSON = {"whitespace_flexible": False, "lenient": False}
_NOT_STRING = {"type": ["null", "boolean", "integer", "number", "array", "object"]}
# What the XML can hold between `<function=` or `<parameter=` and `>`.
_NAME = re.compile(r"[^<>\n]+")
# A value that is text ends at the first line that is this.
_END = b"</parameter>"
_TEXT = r"text[lazy]: /(?s:.*)\n<\/parameter>/"
# llguidance keeps which parameters were written in a 64-bit number; further ones may come again, and the last counts.
_MOST_PARAMETERS = 64
# Of the grammar of all functions, in which each parameter has what it refers to; that of 236 published ones has fewer.
_MOST_CHARACTERS = 2_000_000
# Lists of functions whose calls are known: programs send the same ones with every request.
_KEPT = 8


class Grammars:
    """Makes constraints for the answers of one tokenizer; may be used by several threads.

    Args:
        vocab_size: Width of the model's logits, at least the tokenizer's own size.
    Raises:
        OptionError: llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise OptionError("structured output needs llguidance: pip install '.[server]'") from error
        self._matcher = llguidance.LLMatcher
        self._limits = llguidance.LLParserLimits(verbose_errors=False)
        self._tokenizer = tokenizer
        eos = sorted(tokenizer.eos_token_ids)
        # Every control token is special in there: a grammar has to name it, text is never made of it.
        # Their names are taken out: llguidance would write text that a schema prescribes, like "<think>", by the token.
        settings = json.loads(tokenizer._backend.to_str())
        vocabulary = settings["model"]["vocab"]
        for token in settings["added_tokens"]:
            name = f"<\uffff{token['id']}>"
            if token["content"] in vocabulary:
                vocabulary[name] = vocabulary.pop(token["content"])
            token |= {"content": name, "special": True}
        self._llguidance = llguidance.LLTokenizer(json.dumps(settings), n_vocab=vocab_size, eos_token=eos)
        self._free = np.zeros(vocab_size, dtype=np.bool_)
        self._vocabulary = tokenizer._backend.get_vocab()
        self._free[list(self._vocabulary.values())] = True
        self._free[eos] = False
        self._ordinary = self._free.copy()
        self._ordinary[[token["id"] for token in settings["added_tokens"]]] = False
        self._closing = _closing(tokenizer)
        self._text = self._open_text()
        self._kept = lru_cache(_KEPT)(self._calls_of)

    def json_schema(self, schema: Mapping[str, Any], *, in_reasoning: bool, place: str = _SCHEMA_PLACE) -> Constraint:
        """JSON that is valid by a schema; properties come in the schema's order.

        Args:
            in_reasoning: Whether the answer begins in its reasoning.
            place: Where the schema stands, for error messages.
        Raises:
            OptionError: The schema is invalid, too large, cannot be satisfied, or uses a keyword that cannot be
                enforced.
        """
        check_size(schema, place)
        rule = _json(mapping_at(schema, place), place)
        return self._constraint(rule, "", place, in_reasoning, closing=self._closing)

    def json_object(self, *, in_reasoning: bool) -> Constraint:
        """Any JSON object."""
        return self.json_schema({"type": "object"}, in_reasoning=in_reasoning, place="response_format")

    def tool_calls(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        name: str | None = None,
        schema: Mapping[str, Any] | None = None,
        parallel: bool = True,
        in_reasoning: bool,
    ) -> Constraint:
        """Tool calls as the chat template writes them.

        Parameters come in any order, at most once, and all that are required do. Where a schema allows
        strings, the value is text without quotes: one of an enum's, or any text; a pattern, format or
        length is not enforced. Other values are JSON by their schema, or of its shape where it cannot be enforced.
        So are parameters as a whole: of what joins them, only alternatives and their parts are followed.

        Args:
            tools: Function descriptions in OpenAI's format.
            name: The one function to call, once.
            schema: Of JSON that may be written in place of calls; None requires a call.
            parallel: Whether there may be more than one call.
            in_reasoning: Whether the answer begins in its reasoning.
        Raises:
            OptionError: A description or a schema in it cannot be used, or is too large, or no function has this name.
        """
        check_size(tools, "tools")
        check_size(schema, _SCHEMA_PLACE)
        functions, places = _functions(tools, name)
        begin, rules = self._calls(functions)
        start = rf'<[{begin}]> call ("\n" <[{begin}]> call)*' if parallel and name is None else f"<[{begin}]> call"
        if schema is not None:
            answer = _json(mapping_at(schema, _SCHEMA_PLACE), _SCHEMA_PLACE)
            places.setdefault(answer, _SCHEMA_PLACE)
            start = f"({start}) | {answer}"
        return self._constraint(start, rules, "tools", in_reasoning, places)

    def calls_in_text(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        strict: Collection[str] = (),
        hold: bool = True,
        parallel: bool = True,
        in_reasoning: bool,
    ) -> Constraint:
        """Free text, in which each call that begins is of one of these functions, and ends; further ones may follow.

        Parameters are as those of `tool_calls`. Those of a function for which that cannot be had are free, and so are
        those of one that takes other parameters than it names, if it is not strict.

        Args:
            tools, parallel, in_reasoning: As `tool_calls`.
            strict: Names of those functions whose parameters have to follow their schemas.
            hold: Whether those of the others do where they can.
        Raises:
            OptionError: As `tool_calls`, where a strict function cannot be called or a name cannot be written.
        """
        check_size(tools, "tools")
        try:
            described = json.dumps(tools)
        except (TypeError, ValueError) as error:
            raise OptionError(f"tools: {error}") from error
        return self._kept(described, frozenset(strict), hold, parallel, in_reasoning).again()

    def _calls_of(
        self, described: str, strict: Collection[str], hold: bool, parallel: bool, in_reasoning: bool
    ) -> Constraint:
        """What `calls_in_text` makes others of; takes half a second for 200 functions."""
        tools = json.loads(described)
        others = [(name, schema, tool) for tool in tools for name, schema in [_signature(tool)] if name not in strict]
        free = [name for name, schema, _ in others if not hold or takes_others(schema)]
        try:
            return self._calls_in_text(tools, free, parallel, in_reasoning, bool(strict))
        except OptionError:
            free += [name for name, _, tool in others if not self._can_hold(tool)]
            return self._calls_in_text(tools, free, parallel, in_reasoning, bool(strict))

    def _calls_in_text(
        self, tools: Sequence[Mapping[str, Any]], free: Collection[str], parallel: bool, in_reasoning: bool, firm: bool
    ) -> Constraint:
        functions, places = _functions(tools, None, free)
        begin, rules = self._calls(functions)
        start = rf'call ("\n" <[{begin}]> call)*' if parallel else "call"
        return self._constraint(start, rules, "tools", in_reasoning, places, behind=begin, firm=firm)

    def _can_hold(self, tool: Mapping[str, Any]) -> bool:
        """Whether there is a grammar of a function's parameters."""
        try:
            self.tool_calls([tool], in_reasoning=False)
        except OptionError:
            return False
        return True

    def _calls(self, functions: Sequence[str]) -> tuple[int, str]:
        """The token that begins a call, and the rules of what follows it."""
        begin, end = (control_id(self._tokenizer, token) for token in ("<tool_call>", "</tool_call>"))
        names = " | ".join(f"f{number}" for number in range(len(functions)))
        shared = rf"""
call: "\n<function=" ({names}) <[{end}]>
close: "\n</function>\n"
{_TEXT}
anything: /(?s:.*)/
"""
        return begin, shared + "".join(functions)

    def _open_text(self) -> OpenText | None:
        """For the values of calls; None where they have to be followed token by token."""
        packed = np.frombuffer(self._compiled(f"start: text\n{_TEXT}\n").compute_bitmask(), dtype=np.uint8)
        begins = np.unpackbits(packed, count=len(self._free), bitorder="little").view(np.bool_)
        try:
            return OpenText(begins, self._ordinary, _END, self._tokenizer, self._vocabulary)
        except ValueError:
            return None

    def _loosened(self, rules: str, places: dict[str, str]) -> str:
        """The rules of tools with no more than the shape of what cannot be enforced, also in `places`."""
        for part, where in list(places.items()):
            if where != _SCHEMA_PLACE and self._compiled(f"start: {part}").is_error():
                loose = (
                    f"%json {json.dumps({**loosened(json.loads(part.removeprefix('%json '))), 'x-guidance': _JSON})}"
                )
                rules = rules.replace(part, loose)
                places[loose] = places.pop(part)
        return rules

    def _compiled(self, grammar: str) -> "LLMatcher":
        return self._matcher(self._llguidance, grammar, log_level=0, limits=self._limits)

    def _constraint(
        self,
        start: str,
        rules: str,
        place: str,
        in_reasoning: bool,
        places: Mapping[str, str] | None = None,
        closing: Closing | None = None,
        behind: int | None = None,
        firm: bool = True,
    ) -> Constraint:
        """A matcher for rules in Lark.

        Args:
            places: Where those parts stand that may not compile.
            behind: The token that the grammar begins after, which need not come; None requires an answer by it.
            firm: See `Constraint`.
        """
        awaited = [control_id(self._tokenizer, "</think>")] if in_reasoning else []
        free = self._free
        if behind is not None:
            awaited.append(behind)
            free = np.array(free)
            free[list(self._tokenizer.eos_token_ids)] = True
        elif in_reasoning:
            # Qwen writes two newlines after its reasoning.
            start = rf"/\n{{0,4}}/ ({start})"
        matcher = self._compiled(f"start: {start}\n{rules}")
        if matcher.is_error() and places:
            places = dict(places)
            rules = self._loosened(rules, places)
            matcher = self._compiled(f"start: {start}\n{rules}")
        if matcher.is_error():
            for part, where in (places or {}).items():
                single = self._compiled(f"start: {part}")
                if single.is_error():
                    raise OptionError(f"{where}: {error_message(single.get_error())}")
            raise OptionError(f"{place}: {error_message(matcher.get_error())}")
        text = self._text if _TEXT in rules else None
        return Constraint(matcher, place, free, awaited, closing, text, firm)


def _closing(tokenizer: Tokenizer) -> Closing | None:
    """None where the tokenizer has no tokens of one character."""
    marks = [tokenizer.encode(text) for text in '"z}],']
    if any(len(ids) != 1 for ids in marks):
        return None
    quote, letter, *others = (ids[0] for ids in marks)
    return Closing(tuple(sorted(tokenizer.eos_token_ids)), quote, letter, (*others, quote))


def _checked_name(name: Any, place: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OptionError(f"{place}: expected a name without '<', '>' and newlines, found {name!r}")
    return name


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(schema: Mapping[str, Any], place: str) -> str:
    try:
        return f"%json {json.dumps({**tightened(enforceable(schema)), 'x-guidance': _JSON})}"
    except (TypeError, ValueError) as error:
        raise OptionError(f"{place}: {error}") from error


def _signature(tool: Mapping[str, Any]) -> tuple[Any, Any]:
    """A function's name and parameters, unchecked."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else {}
    return (function.get("name"), function.get("parameters")) if isinstance(function, Mapping) else (None, None)


def _functions(
    tools: Sequence[Mapping[str, Any]], chosen: str | None, free: Collection[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """The Lark rules f0, f1, ... of functions that may be called, and where those parts stand that may not compile.

    Args:
        chosen: The only one that may be called; None for all.
        free: Those that may be called with anything.
    """
    names: list[str] = []
    rules: list[str] = []
    places: dict[str, str] = {}
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        function = mapping_at(tool, place)
        if "function" in function:
            place += ".function"
            function = mapping_at(function["function"], place)
        names.append(_checked_name(function.get("name"), f"{place}.name"))
        if names[-1] in free:
            rules.append(f"f{len(rules)}: {_literal(names[-1] + '>')} anything\n")
        elif chosen in (None, names[-1]):
            parameters = mapping_at(function.get("parameters") or {}, f"{place}.parameters")
            for shape in shapes(parameters):
                rules.append(_function(f"f{len(rules)}", names[-1], shape, f"{place}.parameters", places))
                _check_grammar(sum(map(len, rules)), f"{place}.parameters")
    if not names:
        raise OptionError("tools: expected at least one function")
    if not rules:
        raise OptionError(f"tool_choice: expected one of {', '.join(map(repr, names))}, found {chosen!r}")
    return rules, places


def _check_grammar(size: int, place: str) -> None:
    if size > _MOST_CHARACTERS:
        raise OptionError(f"{place}: too large to be enforced, with all that each parameter refers to")


def _function(rule: str, name: str, root: Mapping[str, Any], place: str, places: dict[str, str]) -> str:
    """The Lark rule of a function, from its name to its end, and those that it refers to."""
    properties = mapping_at(root.get("properties") or {}, f"{place}.properties")
    required = list_at(root.get("required") or [], f"{place}.required")
    # Required ones have the lowest bits, so that one condition covers them.
    names = list(dict.fromkeys(_checked_name(key, f"{place}.properties") for key in (*required, *properties)))
    if len(set(required)) > _MOST_PARAMETERS:
        raise OptionError(f"{place}.required: expected at most {_MOST_PARAMETERS} names, found {len(set(required))}")
    if not names:
        return f"{rule}: {_literal(name + '>')} close\n"
    needed, analysis = len(set(required)), SchemaAnalysis(root)
    rules = [f"{rule}: {_literal(name + '>')} {rule}_args::0x0 close"]
    rules.append(f'{rule}_args::_: ""' + (f" %if is_ones([0:{needed}])" if needed else ""))
    size = 0
    for bit, key in enumerate(names):
        once = f"set_bit({bit}) %if bit_clear({bit})" if bit < _MOST_PARAMETERS else "_"
        rules[1] += f" | {rule}_{bit} {rule}_args::{once}"
        value = _value(properties.get(key, True), root, analysis, f"{place}.properties.{key}", places)
        opening = _literal(f"\n<parameter={key}>\n")
        rules.append(f"{rule}_{bit}: {opening} {value}")
        size += len(rules[-1])
        _check_grammar(size, place)
    return "\n".join(rules) + "\n"


def _value(schema: Any, root: Mapping[str, Any], analysis: SchemaAnalysis, place: str, places: dict[str, str]) -> str:
    """Lark for a parameter's value and what closes it."""
    strings, others = analysis.accepted(schema, place)
    if strings is None:
        return "text"
    options = [_literal(string) for string in strings]
    if others or not strings:
        typed = {"allOf": [schema, _NOT_STRING]} if strings else schema
        options.append(_json(alone(typed, root), place))
        places.setdefault(options[-1], place)
    return rf'({" | ".join(options)}) "\n</parameter>"'
