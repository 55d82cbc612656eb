"""A page of sections, lists and tables for people: as text, and as HTML that is read anywhere and printed.

.. no_pii: renders what it is given.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 78
# Fits on one sheet where a receipt is of the usual length, and leaves no colour to a printer.
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;color:#111;background:#fff;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.5rem;line-height:1.2}h2{font-size:1.05rem;margin:1.2rem 0 .3rem}p,ul{margin:.3rem 0}"
    "table{border-collapse:collapse;width:100%}th,td{border:1px solid #767676;padding:.2rem .5rem;text-align:left;"
    "vertical-align:top;overflow-wrap:anywhere}li,p{overflow-wrap:anywhere}"
    "@media print{@page{margin:14mm}body{font-size:9.5pt;margin:0;max-width:none;padding:0}h2{break-after:avoid}"
    "tr,li{break-inside:avoid}}"
)


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    heading: str
    paragraphs: Sequence[str] = ()
    items: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    """Paragraphs after the list or the table."""


@dataclass(frozen=True)
class Page:
    """A title, what has to be said first, and the rest."""

    title: str
    notes: Sequence[str]
    sections: Sequence[Section]


def render_text(page: Page) -> str:
    """The page as lines that fit a terminal and a sheet of paper."""
    blocks = [f"{_wrap(page.title)}\n{'=' * min(len(page.title), _WIDTH)}", *map(_wrap, page.notes)]
    for section in page.sections:
        lines = [section.heading, "-" * len(section.heading), *map(_wrap, section.paragraphs)]
        lines += [_wrap(item, "- ") for item in section.items]
        for row in section.rows:
            cells = [f"{name}: {cell}" for name, cell in zip(section.head[1:], row[1:], strict=True)]
            lines.append(_wrap(f"{row[0]}: {'; '.join(cells)}", "- "))
        blocks.append("\n".join([*lines, *map(_wrap, section.notes)]))
    return "\n\n".join(blocks) + "\n"


def render_html(page: Page) -> str:
    """The page as one HTML file, without scripts and without anything from elsewhere."""
    title = escape(page.title)
    body = [f"<h1>{title}</h1>", *_mark("p", page.notes)]
    for number, section in enumerate(page.sections, 1):
        body += [f'<section aria-labelledby="s{number}">', f'<h2 id="s{number}">{escape(section.heading)}</h2>']
        body += _mark("p", section.paragraphs)
        if section.items:
            body += ["<ul>", *_mark("li", section.items), "</ul>"]
        if section.rows:
            head = "".join(f'<th scope="col">{escape(name)}</th>' for name in section.head)
            body += [f'<table aria-labelledby="s{number}">', f"<thead><tr>{head}</tr></thead>", "<tbody>"]
            for first, *cells in section.rows:
                others = "".join(_mark("td", cells))
                body.append(f'<tr><th scope="row">{escape(first)}</th>{others}</tr>')
            body += ["</tbody>", "</table>"]
        body += [*_mark("p", section.notes), "</section>"]
    lines = "\n".join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{lines}\n</main>\n</body>\n</html>\n"
    )


def _wrap(text: str, mark: str = "") -> str:
    # A file from elsewhere may hold what a terminal takes for commands.
    text = "".join(character if character.isprintable() else " " for character in text)
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _mark(tag: str, texts: Iterable[str]) -> list[str]:
    return [f"<{tag}>{escape(text)}</{tag}>" for text in texts]
