"""The record of processing as Markdown, JSON and CSV.

.. no_pii: names of tables and columns, and what the operator says of them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from sink.rights.record import SAFEGUARDS, UNKNOWN, Activity

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NOBODY = "nobody beside the operator"


def write_json(activities: Sequence[Activity], institution: str | None, contact: str | None) -> dict[str, Any]:
    """The document."""
    return {
        "institution": institution,
        "contact": contact,
        "safeguards": list(SAFEGUARDS),
        "activities": [{**asdict(activity), "complete": activity.is_complete} for activity in activities],
    }


def write_csv(activities: Sequence[Activity]) -> str:
    """A line a table; lists are separated by semicolons, and no cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for name in Activity.__dataclass_fields__ if name != "columns"]
    writer.writerow(["table", "pii", *names[1:]])
    for activity in activities:
        cells = [_join(getattr(activity, name)) for name in names]
        pii = _join([f"{column}: {kind}" for column, kind in activity.columns.items()])
        writer.writerow([_disarm(cell) for cell in (cells[0], pii, *cells[1:])])
    return text.getvalue()


def _join(value: Any) -> str:
    return "; ".join(value) if isinstance(value, list) else str(value)


def _disarm(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def write_markdown(activities: Sequence[Activity], institution: str | None, contact: str | None) -> str:
    """A section for each kind of table: those of which the map says the same stand together."""
    lines = []
    if institution or contact:
        lines += [f"Responsible: {institution or UNKNOWN}. Contact: {contact or UNKNOWN}.", ""]
    for tables, activity in group_alike(activities):
        lines += [f"### {', '.join(f'`{table}`' for table in tables)}", "", "| | |", "| --- | --- |"]
        lines += [f"| {_escape(name)} | {_escape(text)} |" for name, text in list_cells(activity)]
        lines.append("")
    lines += ["### Safeguards for all of them", "", *(f"- {safeguard}" for safeguard in SAFEGUARDS), ""]
    return "\n".join(lines)


def group_alike(activities: Sequence[Activity]) -> Iterator[tuple[list[str], Activity]]:
    """Tables of which the map says the same, and what it says."""
    alike: list[tuple[list[str], Activity]] = []
    for activity in activities:
        for tables, known in alike:
            if replace(activity, table=known.table) == known:
                tables.append(activity.table)
                break
        else:
            alike.append(([activity.table], activity))
    yield from alike


def list_cells(activity: Activity) -> Iterator[tuple[str, str]]:
    """What the map says of a table, for people: (about what, what)."""
    kinds: dict[str, list[str]] = {}
    for column, kind in activity.columns.items():
        kinds.setdefault(kind, []).append(column)
    yield "what", "; ".join(f"{kind}: {', '.join(columns)}" for kind, columns in kinds.items())
    yield "of whom", activity.subjects
    yield "why", activity.purpose
    yield "legal basis", activity.legal_basis.replace("_", " ")
    yield "from", activity.source
    yield "how long", activity.kept
    yield "who receives it", "; ".join(activity.recipients) or _NOBODY
    if activity.datasets:
        yield "datasets", ", ".join(activity.datasets)
    if activity.dashboards:
        yield "dashboards", ", ".join(activity.dashboards)
    yield "on retirement", "; ".join(activity.on_retirement)
    if activity.safeguards:
        yield "safeguards", "; ".join(activity.safeguards)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
