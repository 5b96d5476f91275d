"""Chat templates that behave as Qwen3.5's, 3.6's and 3.8's do, in words of our own; and the published ones."""

import copy
from functools import cache
from pathlib import Path

from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.prompts.tokenizer import Tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "templates"
# By the beginnings of their files' names there.
PUBLISHED_AS = {"3.5": "qwen3_5", "3.6": "qwen3_6", "3.8": "qwen3_8"}


def _replaced(text: str, *replacements: tuple[str, str]) -> str:
    for old, new in replacements:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def _like_3_5(text: str) -> str:
    """Values of arguments as Python writes them, unless they are lists or objects; spaces behind a block stay."""
    return _replaced(
        text,
        ("content.split('</think>')[-1] | trim", "content.split('</think>')[-1].lstrip('\\n')"),
        (
            "value if value is string else value | tojson",
            "value | tojson if value is mapping or (value is sequence and value is not string) else value | string",
        ),
    )


def _like_3_6(text: str) -> str:
    """Earlier reasoning stays if `preserve_thinking` says so."""
    return _replaced(
        text,
        ("if loop.index0 > last.query", "if (preserve_thinking | default(false)) is true or loop.index0 > last.query"),
    )


_EFFORT = """
{%- set effort = reasoning_effort | default('xhigh') -%}
{%- set wanted = '' -%}
{%- if enable_thinking is undefined or enable_thinking is true -%}
    {%- if effort not in ['xhigh', 'medium', 'low'] -%}{{ raise_exception('Unexpected effort ' ~ effort) }}{%- endif -%}
    {%- set wanted = {'xhigh': 'Think for long.\n\n', 'medium': '', 'low': 'Think briefly.\n\n'}[effort] -%}
{%- endif -%}
{%- if tools -%}"""


def _like_3_8(text: str) -> str:
    """Earlier reasoning stays unless `preserve_thinking` says not, and is never looked for in the text; efforts."""
    return _replaced(
        text,
        ("if loop.index0 > last.query", "if preserve_thinking | default(true) or loop.index0 > last.query"),
        ("elif '</think>' in content", "elif false"),
        ("\n{%- if tools -%}", _EFFORT),
        ("'<|im_start|>system\\n# Tools", "'<|im_start|>system\\n' + wanted + '# Tools"),
        ("{%- elif messages[0].role == 'system' -%}", "{%- elif opening or wanted -%}"),
        ("'<|im_start|>system\\n' + opening +", "'<|im_start|>system\\n' + (wanted + opening) | trim +"),
    )


_BASE = (BOX / "chat_template.jinja").read_text()
OURS = {"3.5": _like_3_5(_BASE), "3.6": _like_3_6(_BASE), "3.8": _like_3_8(_BASE)}
PUBLISHED = {
    version: path.read_text()
    for version, beginning in PUBLISHED_AS.items()
    for path in sorted(SHARED.glob(f"{beginning}*.jinja"))
}
TEMPLATES = {
    **{f"like {version}": template for version, template in OURS.items()},
    **{f"published {version}": template for version, template in PUBLISHED.items()},
}


@cache  # compiling a template takes longer than many renderings
def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    """The same tokenizer with another chat template."""
    other = copy.copy(tokenizer)
    for cached in ("template", "template_variables"):
        other.__dict__.pop(cached, None)
    other.chat_template = template
    return other
