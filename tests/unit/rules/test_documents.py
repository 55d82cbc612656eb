"""Documents: links lead somewhere, every page is reached, and what a page quotes or has people type is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sink.doors.cli.main import app
from sink.doors.cli.tree import list_commands, make_command

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


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {file for file, _ in list_links(index)}
    pages = {page for page in DOCUMENTS if page.parent.is_relative_to(ROOT / "docs")} - {index}
    assert len(pages) > 40
    assert pages - listed == set()


def test_every_decision_has_a_status_and_a_date() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert len(decisions) >= 20
    status = re.compile(r"# \d{4}: .+\n\nStatus: (accepted|replaced|proposed), \d{4}-\d\d-\d\d[.;]")
    assert [path.name for path in decisions if not status.match(path.read_text())] == []


# --- what people type

_BLOCK = re.compile(r"^```(?:sh|bash|ini)?\n(.*?)^```|((?:^ {4}.*\n?)+)", re.MULTILINE | re.DOTALL)
# In a block or in backticks, up to what a shell or a sentence ends it with.
_TYPED = re.compile(
    r"(?<![\w/.-])(?<!images build )aspects-pii ((?:[a-z][a-z-]*|-{1,2}[a-z][a-z-]*)(?: [^`|>&;#\n]*)?)"
)
_SPAN = re.compile(r"`([^`\n]+)`")


def list_typed(document: Path) -> Iterator[str]:
    """The commands of ours that a page has people type, without the program's name."""
    text = document.read_text()
    blocks = [found[1] or found[2] for found in _BLOCK.finditer(text)]
    yield from (typed.strip() for code in [*blocks, *_SPAN.findall(text)] for typed in _TYPED.findall(code))


def check_typed(typed: str, commands: dict[str, click.Command]) -> str | None:
    """What is wrong with it: the command, or one of its options, is not there."""
    words = typed.split()
    name = next((" ".join(words[:length]) for length in (2, 1) if " ".join(words[:length]) in commands), None)
    if name is None:
        # `aspects-pii ledger` and the like stand for all its commands.
        return None if any(command.startswith(f"{words[0]} ") for command in commands) else "there is no such command"
    if name == "build":
        # What it does not know it hands to dbt.
        return None
    command = commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    asked = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    return next((f"there is no {option}" for option in asked if option not in {*known, "--help", "-h"}), None)


# Options of the program itself, and the text that keys of exports are derived from.
_NO_COMMANDS = ("--version", "--help", "exports of the ledger")


def test_what_people_are_told_to_type_is_there() -> None:
    commands = dict(list_commands(make_command(app)))
    typed = [(document, line) for document in DOCUMENTS for line in list_typed(document)]
    assert len(typed) > 200
    wrong = [
        f"{document.relative_to(ROOT)}: {line}: {problem}"
        for document, line in typed
        if not line.startswith(_NO_COMMANDS) and (problem := check_typed(line, commands))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("retire 42 --scann", "there is no --scann"),
        ("retyre 42", "there is no such command"),
        ("retire 42 --scan", None),
    ],
)
def test_what_is_not_there_is_found(typed: str, problem: str | None) -> None:
    assert check_typed(typed, dict(list_commands(make_command(app)))) == problem


# --- what pages quote

_LITERALS = re.compile(r"\s+")


def test_messages_that_the_index_quotes_are_said_somewhere() -> None:
    said = " ".join(
        _LITERALS.sub(" ", re.sub(r'"\s*\n\s*f?"', "", path.read_text())) for path in (ROOT / "sink").rglob("*.py")
    )
    rows = [line for line in (ROOT / "docs/troubleshooting.md").read_text().splitlines() if line.startswith("| `")]
    quoted = [line.split("|")[1].strip().strip("`") for line in rows]
    assert len(quoted) > 12
    assert [text for text in quoted if text not in said] == []
