"""Markdown as HTML for the page; run as a program, it renders for the server, which ends it when it takes too long.

Whatever the text, the HTML has no scripts, no styles, nothing that is loaded and no links but to the web and to mail.
"""

import json
import re
import resource
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from mdit_py_plugins.gfm_autolink import gfm_autolink_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from mlx_qwen35.server.tex import find_tex, to_mathml

LINK = re.compile(r"(?:https?://|mailto:)[^\s]", re.IGNORECASE)
# Characters: of a link, which a text may use many times, and of code that is highlighted.
LONGEST_LINK = 2048
LONGEST_HIGHLIGHTED = 50_000
# Bytes of HTML, and of memory where the system can hold a process to it.
MAX_HTML = 8 * 2**20
MAX_MEMORY = 2**30
# Below the page's own headings.
HEADINGS = {"h1": "h3", "h2": "h4", "h3": "h5", "h4": "h6", "h5": "h6"}
ALIGNED = {"text-align:left": "left", "text-align:center": "center", "text-align:right": "right"}


class Renderer(RendererHTML):
    """markdown-it's, for a page without inline styles: what it writes are classes, and one element for each block."""

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A block of code, in colours if its language is known."""
        token = tokens[idx]
        language = (token.info.split() or [""])[0]
        code = highlighted(token.content, language)
        return (
            f'<div class="code"><header>{escape(language or "code")}</header>'
            f'<pre tabindex="0"><code>{code}</code></pre></div>'
        )

    code_block = fence

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A link: a page that loaded pictures would tell whoever has them."""
        token = tokens[idx]
        text = self.renderInlineAsText(token.children, options, env) or "picture"
        return f"{opened_link(str(token.attrs['src']))}{escape(text)}</a>"

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Opens elsewhere, and tells nobody where from."""
        return opened_link(str(tokens[idx].attrs["href"]))

    def heading_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """See `HEADINGS`."""
        return f"<{HEADINGS.get(tokens[idx].tag, tokens[idx].tag)}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """See `HEADINGS`."""
        return f"</{HEADINGS.get(tokens[idx].tag, tokens[idx].tag)}>"

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """In a box that scrolls."""
        return '<div class="table" tabindex="0"><table>'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """See `table_open`."""
        return "</table></div>"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A cell, aligned by its class."""
        aligned = ALIGNED.get(str(tokens[idx].attrs.get("style")))
        return f'<{tokens[idx].tag} class="{aligned}">' if aligned else f"<{tokens[idx].tag}>"

    td_open = th_open

    def tex_inline(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A formula in a line."""
        return formula(tokens[idx].content, display=False)

    def tex_display(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A formula on a line of its own, within a paragraph."""
        return formula(tokens[idx].content, display=True)

    def tex_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A formula that is a block; as its source while it is being written."""
        token = tokens[idx]
        inside = tex_source(token.content) if token.info else formula(token.content, display=True)
        return f'<div class="formula" tabindex="0">{inside}</div>'


def opened_link(address: str) -> str:
    """The tag before a link's text; one to nowhere does not lead to the page itself."""
    if not address:
        return "<a>"
    return f'<a href="{escape(address)}" target="_blank" rel="noopener noreferrer">'


def is_link(address: str) -> bool:
    """Whether an address may be linked: it is of the web or of mail, and not endless."""
    return len(address) <= LONGEST_LINK and LINK.match(address) is not None


def highlighted(code: str, language: str) -> str:
    """Code as HTML; escaped only, if its language is not known."""
    if not language or len(code) > LONGEST_HIGHLIGHTED:
        return escape(code)
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return escape(code)
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


def formula(tex: str, *, display: bool) -> str:
    """A formula as MathML, or as its source if it has something that cannot be shown."""
    try:
        return to_mathml(tex, display=display)
    except MemoryError:
        raise
    except Exception:
        # latex2mathml's errors are of many kinds, some of them plain IndexError: none of them is about this program.
        return tex_source(tex)


def tex_source(tex: str) -> str:
    """TeX that is shown as it was written."""
    return f'<code class="tex">{escape(tex.strip())}</code>'


class Parser(MarkdownIt):
    """markdown-it's, with `is_link`."""

    def validateLink(self, url: str) -> bool:
        """Whether a link is one; its source is shown otherwise."""
        return is_link(url)


@cache
def parser() -> Parser:
    """CommonMark with GitHub's extensions and TeX, without HTML."""
    options = {"html": False, "breaks": True, "tasklists": True, "strikethrough_single_tilde": True}
    md = Parser("js-default", options, renderer_cls=Renderer)
    md.use(gfm_autolink_plugin).use(find_tex)
    return md


def render_markdown(text: str, *, partial: bool = False) -> list[dict[str, Any]]:
    """The blocks of a text.

    Args:
        partial: More of it may come, so that a formula that is not closed may still be one.
    Returns:
        For each its HTML, which is one element, and the line of the text that it begins on.
    Raises:
        ValueError: The HTML is too large.
    """
    env: dict[str, Any] = {"partial": partial}
    tokens, md = parser().parse(text, env), parser()
    blocks: list[dict[str, Any]] = []
    start, size = 0, 0
    for at, token in enumerate(tokens):
        if token.level == 0 and token.nesting != 1:
            html = md.renderer.render(tokens[start : at + 1], md.options, env).strip("\n")
            size += len(html)
            if size > MAX_HTML:
                raise ValueError(f"text: expected Markdown of at most {MAX_HTML} bytes of HTML, found more")
            blocks.append({"html": html, "line": (tokens[start].map or [0])[0]})
            start = at + 1
    return blocks


def main() -> None:
    """Render what comes on standard input, a line of JSON each, until it is closed."""
    # Not every system knows it, and some hold to less.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    parser()
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            wanted = json.loads(line)
            answer = {"blocks": render_markdown(wanted["text"], partial=wanted["partial"])}
            text = json.dumps(answer)
        except (ValueError, RecursionError, MemoryError) as error:
            text = json.dumps({"error": str(error) or "text: expected Markdown that is less deep or large"})
        except Exception:
            traceback.print_exc()
            text = json.dumps({"error": "text: expected Markdown that can be rendered"})
        print(text, flush=True)


if __name__ == "__main__":
    main()
