"""Links between pages lead somewhere, on GitHub as well, and the reference leaves no name out."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

import halfsafe

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")])


def tokens(page: Path) -> list[Token]:
    """Blocks as they are read, and what stands in a line; links in code are no links."""
    blocks = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    return [token for block in blocks for token in (block, *(block.children or ()))]


def links(page: Path) -> list[str]:
    """Where links and images lead to that name no host."""
    found = [token.attrGet("href") or token.attrGet("src") for token in tokens(page)]
    return [link for link in found if isinstance(link, str) and not urlsplit(link).scheme]


def anchors(page: Path) -> Iterator[str]:
    """What GitHub makes of headings: small letters, hyphens for spaces, a number if it repeats."""
    read, seen = tokens(page), Counter[str]()
    for opening, heading in pairwise(read):
        if opening.type == "heading_open":
            text = "".join(part.content for part in heading.children or ())
            anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            yield f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor
            seen[anchor] += 1


def broken(page: Path, link: str) -> bool:
    """Whether a link leads to no file, or to no heading in it."""
    parts = urlsplit(link)
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_relative_to(ROOT) or not target.exists():
        return True
    return bool(parts.fragment) and parts.fragment not in anchors(target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    assert not [link for link in links(page) if broken(page, link)]


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`: c, d\n\n## Twice\n\n## Twice\n\n"
        "| [x](#a-b-c-d) |\n|---|\n| [x](page.md#twice-1) |\n\n"
        "![x](no.png) [x](no.md) [x](#no) [x](page.md#twice-2) [x](../page.md)\n"
        "`[x](code)` [x](https://example.org/)\n\n```\n[x](code)\n```\n"
    )
    found = [link for link in links(page) if broken(page, link)]
    assert found == ["no.png", "no.md", "#no", "page.md#twice-2", "../page.md"]
    assert links(page)[:2] == ["#a-b-c-d", "page.md#twice-1"]


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(halfsafe.__all__) <= set(re.findall(r"^\.\. auto\w+:: (\w+)", page, re.MULTILINE))
