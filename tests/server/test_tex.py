"""TeX becomes MathML, and what is no TeX stays what it was."""

import re

import pytest

pytest.importorskip("latex2mathml", reason="needs the server extra")

from mlx_qwen35.server.markdown import render_markdown
from mlx_qwen35.server.tex import MAX_LINES, UnknownTexError, to_mathml

X = "<mi>x</mi>"
SOURCE = '<code class="tex">x\n\n- y</code>'
INLINE, DISPLAY = '<math display="inline"><mrow>{}</mrow></math>', '<math display="block"><mrow>{}</mrow></math>'


def html(text: str, *, partial: bool = False) -> str:
    return "".join(block["html"] for block in render_markdown(text, partial=partial))


def block(inside: str) -> str:
    return f'<div class="formula" tabindex="0">{inside}</div>'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a $x$ b", f"<p>a {INLINE.format(X)} b</p>"),
        ("the $x$th", f"<p>the {INLINE.format(X)}th</p>"),
        ("$x$ is 5", f"<p>{INLINE.format(X)} is 5</p>"),
        (r"$\$x$ is 5", f"<p>{INLINE.format('<mi>$</mi><mi>x</mi>')} is 5</p>"),
        (r"$x\$$ is 5", f"<p>{INLINE.format('<mi>x</mi><mi>$</mi>')} is 5</p>"),
        (r"$x\$\$x$ is 5", f"<p>{INLINE.format('<mi>x</mi><mi>$</mi><mi>$</mi><mi>x</mi>')} is 5</p>"),
        (r"a \(x\)\\", rf"<p>a {INLINE.format(X)}\</p>"),
        ("a $$x$$ b", f"<p>a {DISPLAY.format(X)} b</p>"),
        (r"a \[x^2\] b", f"<p>a {DISPLAY.format('<msup><mi>x</mi><mn>2</mn></msup>')} b</p>"),
        ("$$x$$", block(DISPLAY.format(X))),
        ("$$\nx\n$$.", block(DISPLAY.format(X))),
        ("text\n\\[\nx\n\n\\]\ntext", f"<p>text</p>{block(DISPLAY.format(X))}<p>text</p>"),
        ("$*x*$", f"<p>{INLINE.format('<mo>*</mo><mi>x</mi><mo>*</mo>')}</p>"),
        (r"\begin{equation}x\end{equation}", block(DISPLAY.format(f"<mrow>{X}</mrow>"))),
        ("> $$\n> x\n> $$", f"<blockquote>\n{block(DISPLAY.format(X))}</blockquote>"),
    ],
)
def test_a_formula_is_found_however_it_is_written(text: str, shown: str) -> None:
    assert html(text) == shown


def test_lines_of_a_formula_are_not_markdown() -> None:
    """A line of signs would underline a heading, and a minus begin a list."""
    for opening, closing in (("$$", "$$"), (r"\[", r"\]"), (r"\begin{align*}", r"\end{align*}")):
        shown = html(f"{opening}\nx\n=\n1\n- 2\n+ #\n{closing}")
        assert shown.startswith('<div class="formula"')
        assert "<math" in shown
        assert not re.search("<h[1-6]|<ul|<li", shown)


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $10.",
        "A range of $5-$10.",
        "It lies in $HOME/$USER/x.",
        "Between $5 and 6 $ it is US$7, or A$8.",
        "$ x $",
        "a $ b",
        "$",
        "$$",
        "a $$ b",
        r"\$x\$",
        "Set `$HOME` and `$PATH`.",
        "It is $5 for `a$b`.",
        "```\n$x$\n```",
        "    $$x$$",
        "$`x`$",
    ],
)
def test_what_is_no_formula_stays_text(text: str) -> None:
    assert "<math" not in html(text)
    assert "formula" not in html(text)


def test_escaped_brackets_of_markdown_stay_brackets() -> None:
    assert html(r"\[1\], \[a\](b) and \[x\]") == "<p>[1], [a](b) and [x]</p>"


@pytest.mark.parametrize(
    "text", [r"$\foo{x}$", "$a_b_c$", r"$\left( x$", r"$\begin{unheard}a&b\end{unheard}$", r"$\frac$"]
)
def test_what_cannot_be_shown_stays_as_it_was_written(text: str) -> None:
    """The library drops environments that it does not know, and what is wrong with the rest it says in many ways."""
    assert html(text).replace("&amp;", "&") == f'<p><code class="tex">{text[1:-1]}</code></p>'


def test_environments_of_lines_keep_their_lines() -> None:
    for name in (
        "aligned",
        "gather*",
        "split",
        "align*",
        "gathered",
        "alignat*}{2",
        "flalign",
        "eqnarray*",
        "multline",
    ):
        shown = to_mathml(rf"\begin{{{name}}}a &= b \\ c &= d\end{{{name.split('}')[0]}}}", display=True)
        assert shown.count("<mtr>") == 2, name
        assert "&amp;" not in shown, name
    assert to_mathml(r"a \\ b", display=True).count("<mtr>") == 2


def test_columns_are_aligned_by_classes_since_browsers_dropped_the_attribute() -> None:
    shown = to_mathml(r"\begin{array}{rl}a & b\end{array}", display=True)
    assert '<mtd class="right"><mi>a</mi></mtd><mtd class="left"><mi>b</mi></mtd>' in shown


def test_an_unknown_environment_is_an_error() -> None:
    with pytest.raises(UnknownTexError):
        to_mathml(r"\begin{unheard}a&b\end{unheard}", display=True)


def test_nothing_in_tex_becomes_html_or_a_link() -> None:
    shown = to_mathml(
        r"\text{<img src=x onerror=y>}\href{javascript:z}{a}\style{color:red}{b}\class{c}{d}", display=False
    )
    assert set(re.findall("<([^ />]+)", shown)) == {"math", "mrow", "mtext", "mi"}
    assert "&lt;img" in shown
    assert not re.search(r"javascript|style=|href|class=", shown)


def test_while_it_is_written_a_formula_that_is_not_closed_is_one_already() -> None:
    text = "a\n\n$$\nx\n\n- y"
    assert html(text, partial=True) == f"<p>a</p>{block(SOURCE)}"
    assert "<ul>" in html(text)


def test_an_end_is_looked_for_a_while_only() -> None:
    """A text of 8,000 beginnings was looked through from each of them: two minutes, in a chat's terminal too."""
    formula = "\\begin{{align}}\n{}\\end{{align}}"
    for partial in (False, True):
        assert "<math" in html(formula.format("x\n" * (MAX_LINES - 2)), partial=partial)
        assert "<math" not in html(formula.format("x\n" * MAX_LINES), partial=partial)
        assert "formula" not in html(formula.format("x\n" * MAX_LINES), partial=partial)
