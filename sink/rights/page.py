"""The page of a subject access package: plain, self-contained HTML that a person reads in a browser and prints.

.. pii: Rows of the subject, in memory only.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sink.errors import SettingsError
from sink.resources import VERSION
from sink.rights.manifest import Column, Contents, Part
from sink.rights.words import WORDS, Language, Words

_TEMPLATES = Path(__file__).parent / "templates"
# Tables with more columns are shown a record at a time.
_MOST_COLUMNS = 8
_MOST_RECORDS = 50
_MOST_ROWS = 200
_LONGEST_CELL = 1_000
# What HTML cannot hold is shown by the pictures that Unicode has for it.
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n\r"} | {0x7F: "\u2421"}


def require_templates() -> None:
    """Make sure that pages can be made.

    Raises:
        SettingsError: what makes them is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise SettingsError("Jinja2 is not installed. Install aspects-pii-sink[server].") from None


def render(contents: Contents) -> Iterator[bytes]:
    """The page, in pieces."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = WORDS[Language(contents.language)]
    pieces = environment.get_template("index.html.j2").generate(
        language=contents.language,
        title=words.title_of.format(institution=contents.institution) if contents.institution else words.title,
        w=words,
        about=list(_list_about(contents, words)),
        parts=[_describe_part(part, words) for part in contents.parts],
        missing=list(_list_missing(contents, words)),
        footer=words.footer.format(software=f"aspects-pii {VERSION}"),
    )
    return (piece.encode() for piece in pieces)


def _list_about(contents: Contents, words: Words) -> Iterator[tuple[str, str]]:
    yield words.user_id, contents.subject
    yield words.collected, f"{contents.collected_until:%Y-%m-%d %H:%M} UTC"
    if contents.institution:
        yield words.institution, contents.institution
    if contents.contact:
        yield words.contact, contents.contact
    yield words.installation, contents.installation


def _describe_part(part: Part, words: Words) -> dict[str, Any]:
    is_wide = len(part.columns) <= _MOST_COLUMNS
    lines = part.first.splitlines()[: _MOST_ROWS if is_wide else _MOST_RECORDS]
    records = [_read_record(line, part.columns, words) for line in lines]
    notes = [words.review] if part.kind == "mentions" else []
    if part.rows > len(records):
        notes.append(words.more.format(rows=words.count(part.rows - len(records)), file=part.files[0].member.name))
    if any(value.endswith("…") for record in records for value in record):
        notes.append(words.shortened)
    if part.rows_under_shared_names:
        notes.append(words.shared.format(rows=words.count(part.rows_under_shared_names)))
    found_by = ", ".join(by.replace(": ", " = ", 1) for by in part.found_by)
    return {
        "heading": f"{part.table}: {words.kinds[part.kind]}",
        "table": part.table,
        "kind": words.kinds[part.kind],
        "rows": words.count(part.rows),
        "files": [{"name": file.member.name} for file in part.files],
        "description": show_text(part.description),
        "how": words.found_mentions if part.kind == "mentions" else words.found_by.format(columns=found_by),
        "processing": [(words.processing.get(n, _speak(n)), _describe(v, words)) for n, v in part.processing.items()],
        "notes": notes,
        "is_wide": is_wide,
        "caption": words.records.format(table=part.table),
        "columns": [{"name": c.name, "about": _describe_column(c, words)} for c in part.columns],
        "records": records,
    }


def _describe(said: Any, words: Words) -> str:
    """What the map says of a target, in a line."""
    if isinstance(said, dict):
        parts = ((words.processing.get(n, _speak(n)), v) for n, v in said.items() if v not in (None, "", [], {}))
        return "; ".join(f"{name}: {_describe(value, words)}" for name, value in parts)
    return _express(said)


def _speak(name: str) -> str:
    return name.replace("_", " ")


def _describe_column(column: Column, words: Words) -> str:
    kind = words.types.get(column.pii_type, column.pii_type) if column.pii_type else ""
    return " – ".join(filter(None, (kind, show_text(column.description))))


def _read_record(line: bytes, columns: Sequence[Column], words: Words) -> list[str]:
    record = json.loads(line)
    return [words.no_value if record[c.name] is None else show_text(_express(record[c.name])) for c in columns]


def _express(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def show_text(text: str) -> str:
    """A text as a page can hold it, and no longer than a reader wants it."""
    short = text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"
    return short.translate(_PICTURES)


def _list_missing(contents: Contents, words: Words) -> Iterator[str]:
    yield words.missing_always
    if not contents.lms_asked:
        yield words.missing_lms
    if not contents.with_events:
        yield words.missing_events
    if not contents.with_mentions:
        yield words.missing_mentions
    for table in contents.unsearched:
        yield words.missing_unsearched.format(table=table)
    if contents.absent:
        yield words.missing_absent.format(tables=", ".join(contents.absent))
    for place, rows in contents.of_others.items():
        yield words.missing_of_others.format(place=place, rows=words.count(rows))
    for place, rows in contents.perhaps.items():
        yield words.missing_perhaps.format(place=place, rows=words.count(rows))
