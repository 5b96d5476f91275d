"""Chat templates: as transformers renders them, and no longer than they may take."""

from functools import cache
from typing import Any

import pytest
from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError

from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.prompts import bounds
from mlx_qwen35.prompts.templates import ChatTemplate
from tests.prompts.families import TEMPLATES

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Wie's <wird> & bleibt\u2028", "parameters": {"type": "object"}},
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2], "x": None}}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": [{"role": "user", "content": "hello"}],
    "a system message": [{"role": "system", "content": " be kind\n"}, {"role": "user", "content": "hello"}],
    "parts": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}, {"type": "image"}]}],
    "calls": [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "sunny"},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "mixed", "reasoning_content": "so"},
        {"role": "user", "content": "thanks"},
    ],
}


@pytest.fixture(scope="module")
def reference() -> Any:
    """transformers' tokenizer of the checkpoint in the package."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BOX)


@cache
def compiled(source: str, special_tokens: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, dict(special_tokens))


@pytest.mark.some(24)
@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize(
    "options",
    [{}, {"add_generation_prompt": True}, {"tools": [TOOL], "enable_thinking": False}],
    ids=["", "open", "tools"],
)
def test_texts_equal_transformers(reference: Any, source: str, conversation: str, options: dict[str, Any]) -> None:
    """Equal texts, or both refuse, against `PreTrainedTokenizerFast.apply_chat_template`."""
    messages = CONVERSATIONS[conversation]
    template = compiled(source, tuple(reference.special_tokens_map.items()))
    try:
        expected = reference.apply_chat_template(messages, chat_template=source, tokenize=False, **options)
    except Exception as error:
        with pytest.raises(type(error)):
            template.render(messages, **options)
    else:
        assert template.render(messages, **options) == expected


PARTS = [
    "{{ bos_token }}{{ messages|tojson(indent=2) }}{{ strftime_now('%Y')|length }}",
    "{% generation %}{{ messages[0].content }}{% endgeneration %}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ loop.index }}{% break %}{% endfor %}",
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ loop.nextitem }}{% endfor %}",
    "{% for m in nothing %}{% else %}empty{% endfor %}",
    "{% set ns = namespace(n=0, self=1) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + loop.revindex %}"
    "{% endfor %}{{ ns.n }}{{ ns.self }}",
    "{% macro twice(x) %}{{ x ~ x }}{% endmacro %}{{ twice('ab') * 2 }}{{ '%s-%s' % (1, 2) }}{{ dict(a=1)|tojson }}",
    "{% set block %}{{ messages[0].role|upper }}{% endset %}{{ block|trim }}{{ block.center(20)|trim }}",
    "{{ messages|map(attribute='role')|join(', ') }}{{ 'abc'|replace('b', 'x') }}{{ 'a\nb'|indent(2) }}",
    "{{ range(3)|list }}{{ 'a,b'.split(',') }}{{ messages[0].items()|list|length }}{{ 'x'.ljust(3, '.') }}",
    "{% for a, b in dict(x=1).items() %}{{ a }}{{ b }}{% endfor %}{{ 'u' if messages[0].role == 'user' else 'o' }}",
]


@pytest.mark.parametrize("source", PARTS, ids=range(len(PARTS)))
def test_what_templates_use_is_as_in_transformers(source: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BOX)
    tokenizer.bos_token = "<|im_start|>"
    messages = [{"role": "user", "content": "<a> & b"}, {"role": "assistant", "content": "ü"}]
    expected = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False)
    assert ChatTemplate(source, tokenizer.special_tokens_map).render(messages) == expected


@pytest.mark.some(20)
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", r"its loops and calls"),
        ("{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}", r"characters"),
        ("{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}", r"characters"),
        ("{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = [n.s, n.s]|join %}{% endfor %}", r"char"),
        ("{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}", r"char"),  # noqa: E501
        ("{% set n = namespace(l=[1]) %}{% for i in range(99) %}{% set n.l = n.l + n.l %}{% endfor %}", r"items"),
        ("{% macro m(s) %}{{ s }}{{ s }}{% endmacro %}{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s = m(n.s) %}{% endfor %}", r"char"),  # noqa: E501
        ("{% for i in range(9999) %}{{ 'x' * 99999 }}{% endfor %}", r"characters"),
        ("{{ 'a' * 10**18 }}", r"characters"),
        ("{{ 10**18 * 'a' }}", r"characters"),
        ("{{ [1] * 10**17 }}", r"items"),
        ("{{ [1] * 65537 }}", r"it makes more than 65536 items"),
        ("{{ 2 * ([1] * 40000) }}", r"it makes more than 65536 items"),
        ("{{ (1,) * 65537 }}", r"it makes more than 65536 items"),
        ("{{ 2**1001 }}", r"in a power"),
        ("{{ 1001**2 }}", r"in a power"),
        ("{{ (0 - 1001)**2 }}", r"in a power"),
        ("{{ '\t'.expandtabs(1000000000000000000) }}", r"characters"),
        ("{{ 'a'.rjust(1000000000000000000) }}", r"characters"),
        ("{{ 'a'.center(1000000000000000000) }}", r"characters"),
        ("{{ '1'.zfill(1000000000000000000) }}", r"characters"),
        ("{{ '{a:99999999}'.format_map({'a': 1}) }}", r"padded too widely"),
        ("{{ 10**10**10 }}", r"in a power"),
        ("{{ 'a'.ljust(1000000000000000000) }}", r"characters"),
        ("{{ ('a' * 999999).replace('a', 'b' * 999999) }}", r"characters"),
        ("{{ ('a' * 999999)|replace('a', 'b' * 999999) }}", r"characters"),
        ("{{ '%99999999d' % 1 }}", r"padded too widely"),
        ("{{ '{:99999999}'.format(1) }}", r"padded too widely"),
        ("{{ '%99999999d'|format(1) }}", r"padded too widely"),
        ("{{ 'x'|center(1000000000000000000) }}", r"characters"),
        ("{{ 'x\nx'|indent(1000000000000000000) }}", r"characters"),
        ("{{ range(9999)|join('x' * 4000000) }}", r"characters"),
        ("{{ range(9999)|map('string')|join('x' * 999) }}", r"characters"),
        ("{{ ('x' * 999).join(range(9999)|map('string')) }}", r"characters"),
        ("{{ ['a']|map('replace', 'a', 'b' * 999999)|map('replace', 'b', 'c' * 9)|list }}", r"characters"),
        ("{{ ['a' * 999999] * 9 }}", r"characters"),
        ("{{ ['a' * 999999, 'a' * 999999, 'a' * 999999, 'a' * 999999, 'a' * 999999] }}", r"characters"),
        ("{% set s = 'a' * 999999 %}{{ s ~ s ~ s ~ s ~ s }}", r"characters"),
        ("{% set n = namespace(l=1) %}{% for i in range(30) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}", "item"),
        ("{% set n = namespace(l=1) %}{% for i in range(30) %}{% set n.l = (n.l, n.l) %}{% endfor %}{{ n.l }}", "item"),
        ("{% set n = namespace(l=1) %}{% for i in range(30) %}{% set n.l = {1: n.l, 2: n.l} %}{% endfor %}", r"item"),
        ("{% set n = namespace(l=1) %}{% for i in range(30) %}{% set n.l = dict(a=n.l, b=n.l) %}{% endfor %}", r"item"),
        ("{{ ([range(9999)] * 9999)|map('sum')|sum }}", r"items"),
        ("{{ [1]|batch(10**9)|list }}", r"characters"),
        ("{{ [1]|slice(70000)|list }}", r"items"),
        ("{{ [[1]]|sum(start=[]) }}", r"only numbers"),
        ("{{ [[1]]|sum(none, []) }}", r"only numbers"),
        ("{{ 1|round(-10**9) }}", r"digits"),
        ("{% set n = namespace(i=999) %}{% for i in range(99) %}{% set n.i = n.i * n.i %}{% endfor %}", r"bits"),
        ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}", r"calls"),
        ("{% set s %}{% for i in range(99) %}{{ 'x' * 999999 }}{% endfor %}{% endset %}", r"characters"),
        ("{% macro m() %}{% for i in range(99) %}{{ 'x' * 999999 }}{% endfor %}{% endmacro %}{{ m()|upper }}", r"char"),
        ("{{ [[1]]|tojson(indent=10**9) }}", r"between two values"),
        ("{{ [1, 2]|tojson(separators=('x' * 9999, ':')) }}", r"between two values"),
        ("{{ '{0:{1}}'.format('a', 10**9) }}", r"stands outside"),
        ("{{ ('{0:999999}' * 99).format(1) }}", r"characters"),
        ("{{ ('{0}' * 9999).format('x' * 9999) }}", r"characters"),
        ("{{ '%*d' % (10**9, 1) }}", r"stands outside"),
        ("{{ ('%999999d' * 99) % 1 }}", r"characters"),
        ("{{ ('%(a)s' * 9999) % {'a': 'x' * 9999} }}", r"characters"),
        ("{{ '%*d'|format(10**9, 1) }}", r"stands outside"),
        ("{{ '\t'.expandtabs(tabsize=10**9) }}", r"characters"),
        ("{{ ('\t' * 9999).expandtabs(9999) }}", r"characters"),
        ("{{ ('a\n' * 9999)|indent('x' * 9999) }}", r"characters"),
    ],
)  # fmt: skip
def test_what_would_grow_without_an_end_is_stopped(monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    """Before it grows: most of these would take more memory than any machine has."""
    monkeypatch.setattr(bounds, "MAX_PASSES", 20_000)
    monkeypatch.setattr(bounds, "MAX_CHARACTERS", 2**22)
    monkeypatch.setattr(bounds, "MAX_ITEMS", 2**16)
    with pytest.raises(TemplateError, match=message):
        ChatTemplate(source).render([])


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 'ab' * 50 }}", "ab" * 50),
        ("{{ ([1] * 20)|length }}", "20"),
        ("{{ 10**3 }}{{ 1000 % 7 }}{{ 12345678 % 10 }}", "100068"),
        ("{{ 'a'.ljust(100)|length }}{{ 'aa'.replace('a', 'b' * 50)|length }}", "100100"),
        ("{{ 'a'|center(20)|length }}", "20"),
        ("{{ '%6d'|format(1)|length }}", "6"),
        ("{{ '%s: %5.1f%%' % ('x', 2.25) }}{{ '{{{0:>3}}}{a}'.format(1, a=2) }}", "x:   2.2%{  1}2"),
        ("{{ [1, 2.5, 3]|sum }}{{ [{'a': 1}]|sum('a') }}{{ [1]|sum(start=2) }}{{ 2.25|round(1) }}", "6.5132.2"),
        ("{{ [1, 2, 3]|batch(2, 0)|list }}{{ [1, 2]|slice(2)|list }}", "[[1, 2], [3, 0]][[1], [2]]"),
        ("{{ 1 ~ 'a' ~ [2] ~ ('b' ~ none) }}{{ ', '.join(['a', 'b']) }}", "1a[2]bNonea, b"),
        ("{{ [{'a': 'x'}, {'a': 'y'}]|map(attribute='a')|join('-') }}", "x-y"),
        ("{{ 12345678901234567890 + 1 }}{{ 5000000000|string }}", "123456789012345678915000000000"),
        ("{{ [1, 2]|join('x' * 49) }}", "1" + "x" * 49 + "2"),
    ],
)
def test_what_stays_within_the_bounds_is_written(monkeypatch: pytest.MonkeyPatch, source: str, text: str) -> None:
    """Up to the last character."""
    monkeypatch.setattr(bounds, "MAX_CHARACTERS", 100)
    monkeypatch.setattr(bounds, "MAX_ITEMS", 20)
    assert ChatTemplate(source).render([]) == text


def test_a_template_itself_has_a_length() -> None:
    """Compiling takes ten seconds for a million characters."""
    with pytest.raises(TemplateError, match="it has more than 131072 characters"):
        ChatTemplate("{{ a }}" * 20_000)


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_SECONDS", -1.0)
    with pytest.raises(TemplateError, match="it takes more than -1 seconds"):
        ChatTemplate("{% for i in range(99) %}{% endfor %}").render([])


def test_all_that_is_written_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_CHARACTERS", 10)
    template = ChatTemplate("{% for m in messages %}{{ m }}{% endfor %}")
    assert template.render(["abcde"] * 2) == "abcdeabcde"
    with pytest.raises(TemplateError, match="it makes more than 10 characters"):
        template.render(["abcde"] * 2 + ["f"])


def test_what_is_asked_for_counts_before_the_tokenizer_s_own_names() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ eos_token }}{{ tools }}{{ documents }}", {"bos_token": "b", "eos_token": "e"}
    )
    assert template.render([]) == "beNoneNone"
    assert template.render([], eos_token="x", tools="t", documents="d") == "bxtd"


@pytest.mark.parametrize(
    ("written", "splits"),
    [
        ("{{ m.reasoning_content or '' }}{{ m.content }}", False),
        ("{{ m.content.split('</think>')[-1].strip() }}", True),
        ("{{ m.content.no_such_method() }}", True),
        ("{{ raise_exception('no') }}", True),
    ],
)
def test_whether_a_template_takes_reasoning_out_of_a_text_is_tried(written: str, splits: bool) -> None:
    assert ChatTemplate(f"{{% for m in messages %}}{written}{{% endfor %}}").splits_reasoning is splits


def test_json_is_written_as_it_is_asked_for() -> None:
    source = "{{ messages|tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}"
    assert ChatTemplate(source).render([{"b": "ü", "a": 1}]) == '[{"a":1,"b":"\\u00fc"}]'


def test_bounds_are_those_of_one_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_PASSES", 10)
    template = ChatTemplate("{% for m in messages %}{{ m }}{% endfor %}")
    for _ in range(3):
        assert template.render(list("abcdefghij")) == "abcdefghij"
    with pytest.raises(TemplateError):
        template.render(list("abcdefghijk"))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{{ raise_exception('no') }}", TemplateError),
        ("{% if %}", TemplateSyntaxError),
        ("{% include 'other' %}", Exception),
        ("{{ ''.__class__.__mro__ }}", SecurityError),
        ("{{ messages.append(1) }}", SecurityError),
        ("{{ namespace(_x=1) }}", SecurityError),
        ("{% set n = namespace() %}{% set n._x = 1 %}", SecurityError),
        ("{{ lipsum(100000000) }}", Exception),
        ("{{ 'a'|xmlattr }}", Exception),
        ("{{ 'a'.encode() }}", SecurityError),
        ("{{ 'a'.translate({97: 'b'}) }}", SecurityError),
        ("{{ (1).to_bytes(1) }}", SecurityError),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", RecursionError),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", RecursionError),
    ],
)
def test_what_templates_may_not_do(source: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        ChatTemplate(source).render([])


def test_variables_are_those_that_a_template_reads() -> None:
    template = ChatTemplate("{% set a = b %}{{ a }}{% for m in messages %}{{ m.c }}{% endfor %}{{ raise_exception }}")
    assert {"b", "messages"} <= template.variables
    assert not {"a", "m", "c"} & template.variables
    assert "enable_thinking" in ChatTemplate(TEMPLATES["like 3.5"]).variables
