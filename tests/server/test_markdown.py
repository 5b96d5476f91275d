"""Markdown as HTML: what GitHub's own parser says of the same text, and nothing that a page should not have."""

import json
import re
import subprocess
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("latex2mathml", reason="needs the server extra")

from mlx_qwen35.server import markdown
from mlx_qwen35.server.markdown import render_markdown
from mlx_qwen35.server.rendering import COMMAND
from mlx_qwen35.server.tex import ATTRIBUTES, ELEMENTS

VOID = {"br", "hr", "input", "img"}
PROSE = frozenset(
    """
    a blockquote br code div em h3 h4 h5 h6 header hr input li ol p pre s span strong table tbody td th thead tr ul
    """.split()  # noqa: SIM905
)
ALLOWED = {"href", "target", "rel", "class", "tabindex", "start", "type", "disabled", "checked", *ATTRIBUTES}


class Outline(HTMLParser):
    """Tags with what matters of their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[Any] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.roots = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        kept = [f"{name}={value}" for name, value in attrs if name in ("href", "start", "checked")]
        aligned = [
            value for name, value in attrs if name in ("align", "class") and value in ("left", "right", "center")
        ]
        self.found.append((tag, *kept, *aligned))
        self.roots += not self.open
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.found.append((f"/{tag}",))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        if not self.open:
            assert not data.strip()
        self.found.append(data)


def outline(html: str) -> list[Any]:
    """Without blank space between blocks, in which renderers differ."""
    joined: list[Any] = []
    for piece in Outline(html).found:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    pieces = [piece.strip() if isinstance(piece, str) else piece for piece in joined]
    return [piece for piece in pieces if piece]


def html(text: str) -> str:
    return "\n".join(block["html"] for block in render_markdown(text))


def as_github_has_it(ours: str) -> str:
    """Without what this page wants otherwise: colours and frames of code, lower headings."""
    ours = re.sub(r'<div class="(?:code|table)"[^>]*>(?:<header>[^<]*</header>)?|</div>|</?span[^>]*>', "", ours)
    return re.sub(r"(</?h)([3-6])", lambda found: f"{found[1]}{int(found[2]) - 2}", ours)


SAMPLES = [
    "# One\n## Two\nthree\n=====\nfour\n---",
    "*a* **b** ***c*** _d_ __e__ f_g_h 2*3*4 **a`**`b**",
    "~~gone~~ ~one~ a~b",
    "- a\n- b\n\n  c\n    - d\n1. e\n2) f\n\n10. g",
    "- [ ] a\n- [x] b\n  - [X] c\n- [y] d\n1. [ ] e",
    "| a | b | c |\n|:--|:-:|--:|\n| 1 | `2` | **3** |\n| x\\|y |\n\nafter",
    "| a |\n| - |\n| b |\n> quote",
    "see https://example.org/a_b(c)?d=1&e=2. and www.example.org, not README.md or a.b",
    "<https://example.org> [a](https://example.org/x) [b][c] ![alt](https://example.org/x.png)\n\n[c]: https://example.org/y",
    "me@example.org and http://example.org/~x_y_z_",
    "> a\nb\n> > c\n\nd",
    "```python x\na = '<b>'\n\n\n```\n~~~\nb\n~~~\n\n    c\n\nd",
    'a\\*b\\_c \\\\ \\# `\\*` &amp; &lt; &#35; < > "',
    "***\n- - -\n___",
    "a  \nb\\\nc",
    "1. a\n\n   ```\n   code\n   ```\n\n   b\n2. c",
    "```\nopen",
    "\ta\n\n \tb",
    "a\r\nb\rc",
    "* a\n * b\n  * c\n\n\n    d",
    "price \\$5, 5\\% and C:\\dir\\[x]",
]


@pytest.mark.parametrize("text", SAMPLES)
def test_markdown_is_what_it_is_to_github(text: str) -> None:
    cmarkgfm = pytest.importorskip("cmarkgfm", reason="needs the test extra")
    # Its pictures are links here, and single lines of a paragraph stay lines.
    theirs = cmarkgfm.github_flavored_markdown_to_html(text, cmarkgfm.cmark.Options.CMARK_OPT_HARDBREAKS)
    theirs = re.sub(r'<img src="([^"]*)" alt="([^"]*)" />', r'<a href="\1">\2</a>', theirs).replace("del>", "s>")
    assert outline(as_github_has_it(html(text))) == outline(theirs)


PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>*{display:none}</style>",
    "<math href='javascript:alert(1)'>x</math>",
    "<!--><script>alert(1)</script>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?php x ?>",
    "<x onclick=alert(1)>y",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox(1))",
    "[x](//evil.example)",
    "[x]()",
    "![x](<>)",
    "[x]\n\n[x]: <>",
    "[x](/v1/models)",
    "[x](file:///etc/passwd)",
    "[x](blob:https://example.org/1)",
    "<javascript:alert(1)>",
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    '!["><script>](https://a.example)',
    '[x](https://a.example/"onmouseover=alert(1)//)',
    "[x](https://a.example 'a\" onclick=\"alert(1)')",
    "[x]: javascript:alert(1)\n\n[x]",
    '[x](<https://a.example/"><script>>)',
    'https://a.example/"onclick=alert(1)',
    "https://a.example/<script>",
    "www.a.example/'onclick='x",
    'mailto:a@b.example?"onclick=x',
    "`<script>`",
    '```"><script>alert(1)</script>\nx\n```',
    "```html\n<script>alert(1)</script>\n```",
    "| <script> |\n| --- |\n| <img src=x onerror=y> |",
    "- [ ] <script>alert(1)</script>",
    "$\\text{<script>alert(1)</script>}$",
    "$\\href{javascript:alert(1)}{x}$",
    "$<script>$",
    '$\\color{red" onclick="alert(1)}{x}$',
    '$\\style{" onclick="alert(1)}{x}$',
    '$\\class{"><script>}{x}$',
    "$$\n</math><script>\n$$",
    "$&#x3C;script&#x3E;$",
    "$\\unicode{x3c}script$",
    "\\(</math><img src=x onerror=y>\\)",
    "\\begin{align}<script>&</align>\\end{align}",
    "# <script>",
    "<div\n\nonclick=x>",
    "&lt;script&gt;",
    "\0<script>",
    "<scr\0ipt>",
    "</p><script>",
    "[<script>](https://a.example)",
]


def check_harmless(text: str) -> None:
    for partial in (False, True):
        for block in render_markdown(text, partial=partial):
            found = Outline(block["html"])
            # One element for each block, all of them closed: what is shown in its place replaces all of it.
            assert found.roots == 1
            assert found.open == []
            tags = {one[0] for one in found.found if isinstance(one, tuple) and not one[0].startswith("/")}
            assert tags <= PROSE | ELEMENTS
            for _, name, value in found.attributes:
                assert name in ALLOWED
                assert name != "href" or re.match("(https?://|mailto:)", value, re.IGNORECASE)


@pytest.mark.parametrize("text", PAYLOADS)
def test_nothing_runs_loads_or_leads_astray(text: str) -> None:
    check_harmless(text)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([*PAYLOADS, "\n", "\n\n", "> ", "- ", "`", "*", "$", "|", "[", "](", "\\", "```\n"]), max_size=8
    )
)
def test_nothing_runs_however_it_is_put_together(pieces: list[str]) -> None:
    check_harmless("".join(pieces))


def test_blocks_know_the_line_that_they_begin_on() -> None:
    text = "# a\nb\n\n\n- c\n\n  d\n\n```\ne\n```\n[f]: https://example.org\n\n$$\nx\n$$\n| g |\n|---|\n"
    assert [block["line"] for block in render_markdown(text)] == [0, 1, 4, 8, 13, 16]


def test_code_is_highlighted_where_its_language_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert '<span class="k">return</span>' in html("```python\nreturn 1\n```")
    assert "<code>return 1\n</code>" in html("```unheard-of\nreturn 1\n```")
    assert html("```js\n\n x\n\n```").endswith('<span class="nx">x</span>\n\n</code></pre></div>')
    monkeypatch.setattr(markdown, "LONGEST_HIGHLIGHTED", 5)
    assert "<code>return 1\n</code>" in html("```python\nreturn 1\n```")


def test_a_link_that_is_repeated_cannot_make_much_of_little(monkeypatch: pytest.MonkeyPatch) -> None:
    assert html(f"[a](https://example.org/{'x' * 3000})").startswith("<p>[a](")
    monkeypatch.setattr(markdown, "MAX_HTML", 1000)
    with pytest.raises(ValueError, match="at most 1000 bytes of HTML"):
        render_markdown(f"[a]: https://example.org/{'x' * 100}\n\n" + "[a] " * 10)


def test_the_program_answers_each_line_with_a_line(tmp_path: Any) -> None:
    """In any directory, whatever modules lie there; what it cannot render is an error, and it goes on."""
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    lines = [
        {"text": "*a*", "partial": False},
        {"text": "> " * 5000 + "a", "partial": False},
        {"text": "é\nb", "partial": True},
    ]
    asked = "".join(f"{json.dumps(line)}\n" for line in lines)
    done = subprocess.run(COMMAND, input=asked, capture_output=True, text=True, cwd=tmp_path, check=True)
    ready, first, second, third = done.stdout.splitlines()
    assert ready == "ready"
    assert json.loads(first) == {"blocks": [{"html": "<p><em>a</em></p>", "line": 0}]}
    assert set(json.loads(second)) <= {"blocks", "error"}
    assert json.loads(third) == {"blocks": [{"html": "<p>é<br>\nb</p>", "line": 0}]}
    assert done.stderr == ""
