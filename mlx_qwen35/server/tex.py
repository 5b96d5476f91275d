"""TeX in Markdown: where it begins and ends, and MathML for it, which browsers draw by themselves."""

import re
from collections.abc import Iterator
from html import escape, unescape
from xml.etree.ElementTree import Element

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

# What MathML Core has, and what latex2mathml writes: nothing that loads, runs or leads anywhere.
_ELEMENTS = """
math menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow mspace msqrt mstyle msub
msubsup msup mtable mtd mtext mtr munder munderover none
"""
_ATTRIBUTES = """
accent depth display displaystyle fence form height largeop linethickness lspace mathbackground mathcolor mathsize
maxsize minsize movablelimits notation rspace scriptlevel separator stretchy symmetric voffset width
"""
ELEMENTS, ATTRIBUTES = frozenset(_ELEMENTS.split()), frozenset(_ATTRIBUTES.split())
# Attributes that browsers dropped; the page's style sheet has a class for each value instead.
CLASSES = frozenset(("columnalign", "mathvariant"))
# Environments that latex2mathml does not know, by one that it lays out alike.
ALIKE = {"aligned": "split", "dcases": "cases", "eqnarray": "split", "eqnarray*": "split", "gathered": "split"}
ALIKE |= {f"{name}{star}": "split" for name in ("flalign", "gather", "multline") for star in ("", "*")}
# These have the number of columns behind their name.
COUNTED = re.compile(r"\\(begin|end)\{(?:alignat\*?|alignedat)\}(?:\{\d*\})?")
ENVIRONMENT = re.compile(r"\\(begin|end)\{([a-z]+\*?)\}")
OPENING = re.compile(r"\$\$|\\\[|\\begin\{((?:equation|align|alignat|flalign|gather|multline|eqnarray)\*?)\}")
# Where a second dollar begins a sum of money, or the name of a shell's variable; "$n$th" is a formula.
NOT_BEHIND = re.compile(r"[\dA-Z_]")
# Brackets may be escaped ones of Markdown; math has one of these.
TELLS_MATH = re.compile(r"[\\^_=+<>/*-]")
# Of a formula that is a block: a text may have as many beginnings as lines, and no end.
MAX_LINES = 200


class UnknownTexError(ValueError):
    """TeX that would not be shown as it is meant."""


def to_mathml(tex: str, *, display: bool) -> str:
    """MathML of a formula.

    Raises:
        Exception: latex2mathml's own are of many kinds; or it has no sign for something in it.
    """
    # Here, because a terminal needs to know where TeX is, and comes without the server extra.
    from latex2mathml.converter import convert_to_element

    tex = COUNTED.sub(r"\\\1{split}", tex.strip())
    tex = ENVIRONMENT.sub(lambda found: rf"\{found[1]}{{{ALIKE.get(found[2], found[2])}}}", tex)
    if r"\\" in tex and r"\begin" not in tex:
        tex = rf"\begin{{split}}{tex}\end{{split}}"
    return "".join(_written(convert_to_element(tex, display="block" if display else "inline")))


def _written(element: Element) -> Iterator[str]:
    """An element of latex2mathml's as MathML; the library escapes nothing, and takes attributes from the TeX."""
    if element.tag not in ELEMENTS:
        raise UnknownTexError(element.tag)
    # Its characters are references to them.
    text = unescape(element.text or "")
    if text == "&" or (text.startswith("\\") and len(text) > 1) or element.get("linebreak"):
        raise UnknownTexError(text)
    kept = [f' {name}="{escape(value)}"' for name, value in element.attrib.items() if name in ATTRIBUTES]
    if classes := " ".join(element.attrib[name] for name in sorted(CLASSES & element.attrib.keys())):
        kept.append(f' class="{escape(classes)}"')
    yield f"<{element.tag}{''.join(kept)}>{escape(text)}"
    for child in element:
        yield from _written(child)
    yield f"</{element.tag}>"


def find_tex(md: MarkdownIt) -> None:
    r"""A plugin: `$x$`, `\(x\)`, `\[x\]`, `$$x$$` and AMS's environments become tokens, before Markdown changes them.

    Tokens are `tex_inline`, `tex_display` within a paragraph, and `tex_block`; `info` of the last is "open" if its end
    is not there and `env["partial"]` says that more may come. `markup` of the others is what they begin with.
    """
    md.block.ruler.before("fence", "tex_block", _block, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    md.inline.ruler.before("escape", "tex_inline", _inline)


def _block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    if state.is_code_block(start):
        return False
    first = state.bMarks[start] + state.tShift[start]
    opening = OPENING.match(state.src, first, state.eMarks[start])
    if opening is None:
        return False
    closing = rf"\end{{{opening[1]}}}" if opening[1] else {"$$": "$$", r"\[": r"\]"}[opening[0]]
    line, at, found = start, opening.end(), -1
    limit = min(end, start + MAX_LINES)
    while line < limit and not (line > start and not state.isEmpty(line) and state.sCount[line] < state.blkIndent):
        found = state.src.find(closing, at, state.eMarks[line])
        line += 1
        if found >= 0:
            break
        if line < limit:
            at = state.bMarks[line]
    if found >= 0 and state.src[found + len(closing) : state.eMarks[line - 1]].strip(" \t.,;"):
        return False
    if found < 0 and (line - start == MAX_LINES or not state.env.get("partial")):
        return False
    if silent:
        return True
    text = state.getLines(start, line, state.blkIndent, False)
    if not opening[1]:
        text = text.strip().removeprefix(opening[0])
        text = text[: text.rindex(closing)] if found >= 0 else text
    token = state.push("tex_block", "math", 0)
    token.block, token.content, token.info = True, text, "open" if found < 0 else ""
    token.map = [start, line]
    state.line = line
    return True


def _inline(state: StateInline, silent: bool) -> bool:
    source, at = state.src, state.pos
    opening = source[at : at + 2]
    if opening == r"\(":
        token, closing = "tex_inline", r"\)"
    elif opening == r"\[":
        token, closing = "tex_display", r"\]"
    elif opening == "$$":
        token, closing = "tex_display", "$$"
    elif opening[:1] == "$":
        token, opening, closing = "tex_inline", "$", "$"
    else:
        return False
    begin = at + len(opening)
    end = source.find(closing, begin, state.posMax)
    while end > 0 and closing == "$" and source[end - 1] == "\\":
        end = source.find(closing, end + 1, state.posMax)
    text = source[begin:end] if end >= 0 else ""
    # Code is code, whatever stands around it.
    if not text.strip() or "`" in text:
        return False
    after = source[end + len(closing) : end + len(closing) + 1]
    if opening == "$" and (text != text.strip() or NOT_BEHIND.match(after) or source[max(0, at - 1) : at].isalnum()):
        return False
    if opening == r"\[" and (after in ("(", "[") or not TELLS_MATH.search(text)):
        return False
    if not silent:
        pushed = state.push(token, "math", 0)
        pushed.content, pushed.markup = text, opening
    state.pos = end + len(closing)
    return True
