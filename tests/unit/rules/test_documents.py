"""Documents: every link leads somewhere, and every page of `docs/` is reached from the README."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE = re.compile(r"^```.*?^```|^ {4}.*?$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def list_links(document: Path) -> list[tuple[Path, str]]:
    """Where the links of a document lead within the project, as (file, heading)."""
    text = _CODE.sub("", document.read_text())
    targets = [link.partition("#") for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]
    return [((document.parent / path).resolve() if path else document, anchor) for path, _, anchor in targets]


def list_anchors(document: Path) -> set[str]:
    """The headings as links name them."""
    headings = _HEADING.findall(document.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere() -> None:
    links = [(document, *link) for document in DOCUMENTS for link in list_links(document)]
    assert len(links) > 100
    dead = [
        f"{document.relative_to(ROOT)}: {file.name}#{anchor}"
        for document, file, anchor in links
        if not file.exists() or (anchor and anchor not in list_anchors(file))
    ]
    assert dead == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached = {ROOT / "README.md"}
    waiting = list(reached)
    while waiting:
        page = waiting.pop()
        found = {file for file, _ in list_links(page) if file.suffix == ".md" and file.exists()} - reached
        reached |= found
        waiting += found
    # The folder of decisions is linked as a whole.
    pages = {page for page in DOCUMENTS if page.parent != ROOT / "docs" / "decisions"}
    assert len(pages) > 20
    assert pages - reached == set()
