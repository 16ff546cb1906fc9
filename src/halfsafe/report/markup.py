"""Elements of the HTML page, with all text escaped that is not markup already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from halfsafe.report.grammar import counted

SHOWN = 6
"""Lines of a long list that are seen without unfolding it."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str) -> Markup:
    """An element. Children that are not Markup are escaped.

    >>> print(tag("a", "1 < 2", class_="x", data_value="3"))
    <a class="x" data-value="3">1 &lt; 2</a>
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(text)}"' for key, text in attributes.items()
    )
    inner = "".join(c if isinstance(c, Markup) else escape(c) for c in children)
    return Markup(f"<{name}{written}>{inner}</{name}>")


def join(parts: Iterable[Markup]) -> Markup:
    """One after the other."""
    return Markup("".join(parts))


def spaced(texts: Iterable[str]) -> Markup:
    """Texts of one line, which the style sheet sets apart."""
    return Markup(" ".join(tag("span", text) for text in texts))


def number(figure: str, label: str, detail: str) -> Markup:
    """One of the few large figures at the top."""
    return tag(
        "li",
        tag("strong", figure),
        tag("span", label, class_="label"),
        tag("span", detail, class_="detail"),
    )


def folded(items: Sequence[Markup], class_: str, noun: str, name: str = "ul") -> Markup:
    """A list of which only the beginning is seen at first."""
    head = tag(name, *items[:SHOWN], class_=class_)
    rest = items[SHOWN:]
    if not rest:
        return head
    more = tag("summary", counted(len(rest), f"more {noun}"))
    numbered = {"start": str(SHOWN + 1)} if name == "ol" else {}
    return join([head, tag("details", more, tag(name, *rest, class_=class_, **numbered))])


def cells(texts: Iterable[str]) -> list[Markup]:
    """Cells of a row, behind its heading."""
    return [tag("td", text) for text in texts]
