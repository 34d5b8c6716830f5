"""Equations of docstrings as MathML, when the site is built; browsers draw it by themselves.

An equation is a block of its own in which some word begins with a backslash, such as `\\sum_c q_c
\\log p_c`. What makes it easy to read as text is written out in LaTeX here: `>=`, subscripts of
several letters without braces, names of several letters, sets, words between formulas.
"""

import html
import re
from collections.abc import Callable
from typing import Any

CODE = re.compile(r"<pre>(?:<span></span>)?<code>(.*?)</code></pre>", re.DOTALL)
TAG = re.compile(r"<[^>]+>")
STEPS = (  # in this order
    (re.compile(r"([A-Za-z]{2,})_([A-Za-z]{4,})"), r"\\mathrm{\1\\_\2}"),  # of a name in code
    (re.compile(r"(?<!\\)([_^])([A-Za-z0-9]{2,})"), lambda m: f"{m[1]}{{{' '.join(m[2])}}}"),
    (re.compile(r"(?<![\w^_}\])\\]){([^{}]*)}"), r"\\{\1\\}"),
    (re.compile(r"<([^<>=]+, ?[^<>=]+)>"), r"\\langle \1 \\rangle "),
    (re.compile(r" {2,}"), r" \\quad "),
    (re.compile(r"\bnot in\b"), r"\\notin"),
    (re.compile(r"\bin\b"), r"\\in"),
    (re.compile(r"\|\|"), r"\\parallel "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"<-"), r"\\leftarrow "),
    (re.compile(r" ~ "), r" \\sim "),
    (re.compile(r"[#%]"), r"\\\g<0> "),
)
# A command, with the name that it is of; words in prose; one word, between spaces or not.
WORD = re.compile(
    r"\\mathrm{[^{}]*}|\\[A-Za-z]+|[A-Za-z]{2,}(?:'s)?(?:(?:, | )[A-Za-z]{2,})+(?![A-Za-z_(])"
    r"|(?:(?<= )|^)[a-z]{2,}(?= |$)|[A-Za-z]{2,}"
)


def is_equation(text: str) -> bool:
    """Whether a block of text is one."""
    return re.search(r"\\[A-Za-z]+", text) is not None


def latex(line: str) -> str:
    """A line of an equation in LaTeX."""
    line = line.strip()
    for pattern, written in STEPS:
        line = pattern.sub(written, line)
    return WORD.sub(_worded, line)


def _worded(found: re.Match[str]) -> str:
    said = found[0]
    if said.startswith("\\"):
        return said
    alone = found.string[found.end() : found.end() + 1] in ("", " ") and said.islower()
    return rf"\text{{ {said} }}" if alone or " " in said else rf"\mathrm{{{said}}}"


def drawn(page: str, convert: Callable[[str], str]) -> str:
    """A page with its equations as MathML; what cannot be converted stays as it is."""

    def one(found: re.Match[str]) -> str:
        text = html.unescape(TAG.sub("", found[1]))
        if not is_equation(text):
            return found[0]
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            made = [convert(latex(line)) for line in lines]
        except Exception:  # of a parser: the text is as good to read
            return found[0]
        return f'<div class="equation">{"".join(made)}</div>'

    return CODE.sub(one, page)


def on_page_content(content: str, **_: Any) -> str:
    """Of mkdocs: a page with its equations drawn."""
    from latex2mathml.converter import convert

    return drawn(content, lambda text: convert(text, display="block"))
