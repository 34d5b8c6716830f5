"""HTML, in which no text can become markup: every page is made of `element`, and nothing else."""

import re
from collections.abc import Iterable
from html import escape

# What HTML has no place for, or a file in UTF-8: controls, and halves of surrogate pairs.
_UNSHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
VOID = {"img", "meta", "source"}


class Markup(str):
    """Text that is HTML already: what `element` returns."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str) -> Markup:
    """An element with its children, which are escaped unless they are elements themselves.

    Attributes may end in _ where Python has the word (`class_`). Attributes and tags are the
    program's own; children and values of attributes may come from anywhere.
    """
    written = "".join(f' {name.rstrip("_")}="{_safe(value)}"' for name, value in attributes.items())
    start = f"<{tag}{written}>"
    if tag in VOID:
        return Markup(start)
    return Markup(f"{start}{joined(children)}</{tag}>")


def joined(children: Iterable[str]) -> Markup:
    """Elements and texts after each other."""
    return Markup("".join(c if isinstance(c, Markup) else _safe(c) for c in children))


def row(cells: Iterable[str], tag: str = "td") -> Markup:
    """A row of a table."""
    return element("tr", *(element(tag, cell) for cell in cells))


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Markup:
    """A table that scrolls where it is too wide, instead of the page."""
    head, body = element("thead", row(header, "th")), element("tbody", *map(row, rows))
    return element("div", element("table", head, body), class_="scroll", tabindex="0")


def _safe(text: str) -> str:
    return escape(_UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", text))
