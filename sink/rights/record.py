"""The record of processing activities (GDPR article 30), as the PII map has it. It needs no ClickHouse.

.. no_pii: names of tables and columns, and what the operator says of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sink.datasets.readers import find_dashboards, find_readers
from sink.pii_map import PiiMap, Retention, Rule, Target

UNKNOWN = "not said in the map"
SAFEGUARDS = (
    "PII is stored only where the operator has switched it on (ASPECTS_ENABLE_PII).",
    "A retirement hides at once, takes the files off the disk, proves both by query, and leaves a receipt.",
    "Nobody comes back: whoever was retired is never copied again, and is asked for at every write and in every dataset.",
    "Whoever is restricted is kept and shown in no dataset.",
    "Datasets are views without a copy; people see the courses where they teach, and pseudonyms while PII is off.",
    "Logs, messages, the ledger and receipts hold ids and counts, and no value of a person.",
)
"""What holds for every target."""


@dataclass(frozen=True)
class Activity:
    """One table: what is held, why, for how long, and who sees it."""

    table: str
    columns: dict[str, str]
    """Column, or path -> type by OEP-30."""
    subjects: str
    """Of whom, and how they are known."""
    purpose: str
    legal_basis: str
    source: str
    recipients: list[str]
    datasets: list[str]
    """What is made of it and looked at, as database.dataset."""
    dashboards: list[str]
    kept: str
    """For how long."""
    on_retirement: list[str]
    safeguards: list[str]
    """Beside `SAFEGUARDS`."""

    @property
    def is_complete(self) -> bool:
        """True where purpose, legal basis and source are said."""
        return UNKNOWN not in (self.purpose, self.legal_basis, self.source)


def compose_record(pii_map: PiiMap, project: Path) -> list[Activity]:
    """One activity a target, in the order of the map.

    Args:
        pii_map: the map.
        project: the folder of the dbt project.
    """
    readers, dashboards = find_readers(project), find_dashboards(project)
    return [_compose(name, target, readers, dashboards) for name, target in pii_map.targets.items()]


def _compose(
    name: str, target: Target, readers: Mapping[str, list[str]], dashboards: Mapping[str, list[str]]
) -> Activity:
    datasets = readers.get(name, [])
    return Activity(
        table=name,
        columns=dict(target.pii),
        subjects=_describe_subjects(target),
        purpose=target.purpose or UNKNOWN,
        legal_basis=target.legal_basis or UNKNOWN,
        source=target.source or UNKNOWN,
        recipients=list(target.recipients),
        datasets=datasets,
        dashboards=_unite(dashboards.get(dataset.partition(".")[2], []) for dataset in datasets),
        kept=_describe_retention(target),
        on_retirement=[_describe_rule(rule) for rule in target.rules],
        safeguards=_list_safeguards(target),
    )


def _unite(lists: Iterable[list[str]]) -> list[str]:
    return sorted({one for some in lists for one in some})


def _describe_subjects(target: Target) -> str:
    if target.is_anonymised:
        return "users whom the text names; all others by anonymous ids"
    keys = ", ".join(dict.fromkeys(f"{rule.key} ({next(iter(rule.match.values()))})" for rule in target.rules))
    return f"users, known by {keys}"


def _describe_retention(target: Target) -> str:
    if target.retention is not None:
        return _describe_days(target.retention)
    if target.keep is not None:
        return "as long as the LMS has it: `sync` takes out whoever has left"
    if target.rules and all(rule.on_retire.retain for rule in target.rules):
        return "without end"
    return "until the user is retired"


def _describe_days(retention: Retention) -> str:
    what = f"{', '.join(retention.redact)} for " if retention.redact else ""
    return f"{what}{retention.days:,} days after {retention.column}, at the longest until the user is retired"


def _describe_rule(rule: Rule) -> str:
    what = rule.on_retire
    if what.retain:
        return f"rows by {rule.key} stay: {what.retain}"
    done = [f"{column} {_describe_redaction(rule, column)}" for column in what.redact]
    done += ["the rows are deleted"] if what.delete else []
    said = f"by {rule.key}: {', '.join(done)}"
    if what.when == "redact_history":
        said += ", where ASPECTS_REDACT_HISTORY is on"
    if what.unless is not None:
        said += f"; not where {what.unless.column} is {' or '.join(what.unless.values)}: {what.unless.reason}"
    return said


def _describe_redaction(rule: Rule, column: str) -> str:
    redaction = rule.on_retire.redact[column]
    return {
        "null": "becomes NULL",
        "empty": "becomes empty",
        "default": "gets its default",
        "constant": f"becomes `{redaction.constant}`",
        "hash": "becomes a keyed hash",
        "pseudonym": "becomes a pseudonym",
        "truncate": f"is cut to {redaction.length} characters",
        "expression": "is computed anew",
        "person": "loses all that names the person",
    }[redaction.kind]


def _list_safeguards(target: Target) -> list[str]:
    found = []
    if target.keep is not None:
        found.append(f"only {len(target.keep)} columns are copied, as `keep` lists them")
    if target.empty_while_off:
        found.append("emptied by every sweep while PII is off")
    if target.is_anonymised:
        found.append("anonymous by default; statements that name somebody are found and rewritten")
    if target.retention is not None:
        found.append("expiry is on record by counts")
    return found
