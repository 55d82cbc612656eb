"""Proving that nothing of a subject is left. Unknown is not zero: a check that could not run is a finding.

All questions are asked set-wise, for as many subjects as fit into one statement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property, partial
from typing import TYPE_CHECKING

from sink.clickhouse.client import ClickHouse, split_for_binding
from sink.clickhouse.parts import count_detached_parts, count_old_parts
from sink.clickhouse.row_policies import find_hiding_policies
from sink.erasure.derived import Dependent, read_dependents
from sink.erasure.exemptions import list_retained
from sink.erasure.identities import Identities, ask_lms, read_identities
from sink.erasure.plan import Plan, read_plan
from sink.erasure.scan import Hit
from sink.erasure.scan import scan as search_texts
from sink.erasure.search_terms import can_scan, read_names
from sink.erasure.steps import Step
from sink.errors import DatabaseError
from sink.ledger.entries import Action, Ledger, State
from sink.names import TableName, quote
from sink.pii_map import SubjectId
from sink.store import Store

if TYPE_CHECKING:
    from sink.lms.database import LmsDatabase


# Why somebody could not be searched for.
NO_NAME = "neither the PII tables nor the LMS know a name to search for"


class Kind(StrEnum):
    """What a finding is about."""

    ROWS = "rows"
    HIDDEN_ROWS = "hidden rows"
    """Rows that no reader sees and that are in the files still."""
    DICTIONARY = "dictionary"
    VIEW = "view"
    OLD_PARTS = "old parts"
    DETACHED_PARTS = "detached parts"
    TEXTS = "texts"
    WORDS = "words"
    """Texts with a word that somebody is called and that may mean something, or somebody, else."""
    RETAINED = "retained"
    """Texts in a column whose rows the map keeps."""
    UNCHECKED = "unchecked"
    """A question that got no answer."""


@dataclass(frozen=True)
class Finding:
    """Something that is there and should not be, or a question that got no answer."""

    place: str
    kind: Kind
    subject: str | None = None
    count: int = 0
    reason: str = ""
    """Why there was no answer."""

    def __str__(self) -> str:
        if self.kind is Kind.UNCHECKED:
            return f"{self.place}: {self.reason}"
        if self.kind is Kind.WORDS:
            return (
                f"{self.place}: {self.count} texts with a word that {self.subject} is called and that may mean another"
            )
        if self.kind is Kind.RETAINED:
            return f"{self.place}: {self.count} texts of {self.subject} stay: {self.reason}"
        return f"{self.place}: {self.count} {self.kind}{f' of {self.subject}' if self.subject else ''}"


@dataclass(frozen=True)
class Report:
    """What a verification asked and found."""

    subjects: int
    checked: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    not_asked: dict[str, list[str]] = field(default_factory=dict)
    """Where nobody could be looked for whose other names are not known, as place -> subjects."""
    scanned: bool = False
    """True where every text was searched too."""
    listed: list[Finding] = field(default_factory=list)
    """What the search of texts found that need not go: words that may mean something else, and what is retained."""

    @property
    def with_residue(self) -> int:
        """Subjects of whom something was found; all of them where a finding is about no one in particular."""
        found = {finding.subject for finding in self.findings}
        return self.subjects if None in found else len(found)

    @property
    def is_clean(self) -> bool:
        """True where every question was answered with nothing."""
        return not self.findings

    def not_asked_of(self, subject: SubjectId) -> list[str]:
        """What a receipt says about the places where this subject could not be looked for."""
        return [
            f"{place}: rows are found by another name of the subject, and none was stored"
            for place, subjects in self._unknown_subjects.items()
            if str(subject) in subjects
        ]

    @cached_property
    def _unknown_subjects(self) -> dict[str, set[str]]:
        return {place: set(subjects) for place, subjects in self.not_asked.items()}


def verify(
    store: Store,
    plan: Plan,
    subjects: Sequence[SubjectId],
    identities: Identities,
    *,
    scrubbed_at: datetime | None = None,
) -> Report:
    """Look for anything of `subjects` in targets, dictionaries and views.

    With `scrubbed_at` (what `sink.clickhouse.parts.scrub` returned) also in what only files hold: rows that are hidden but
    not gone, parts that were replaced until then, parts that were set aside.
    """
    client = store.client
    inquiry = _Inquiry()
    inquiry.ask("row policies", lambda: _find_hidden_tables(client, plan.tables))
    for step in plan.steps:
        in_files = scrubbed_at is not None
        inquiry.ask(str(step.table.name), partial(_find_rows, client, step, subjects, identities, in_files=in_files))
    if scrubbed_at is not None:
        for table in plan.tables:
            inquiry.ask(str(table), partial(_find_parts, client, table, scrubbed_at))
    for dependent in inquiry.list_dependents(store):
        name, key = dependent.table.name, dependent.key
        if key is not None:
            inquiry.ask(str(name), partial(_find_hidden_tables, client, [name]))
            inquiry.ask(str(name), partial(_find_in_dependent, client, dependent, key, subjects))
    problems = [Finding("PII map", Kind.UNCHECKED, reason=str(problem)) for problem in plan.problems]
    not_asked = {
        str(step.table.name): unknown
        for step in plan.steps
        if step.needs_identities and (unknown := _find_unknown(step, subjects, identities))
    }
    return Report(len(subjects), sorted(inquiry.checked), plan.absent, [*problems, *inquiry.findings], not_asked)


@dataclass
class _Inquiry:
    """Questions that were asked, and what was found. A question that gets no answer is a finding."""

    checked: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def ask(self, place: str, question: Callable[[], list[Finding]]) -> None:
        self.checked.add(place)
        try:
            self.findings += question()
        except DatabaseError as error:
            self.findings.append(Finding(place, Kind.UNCHECKED, reason=str(error)))

    def list_dependents(self, store: Store) -> list[Dependent]:
        """What to ask beside the targets; that it cannot be told is a finding too."""
        try:
            return read_dependents(store)
        except DatabaseError as error:
            self.checked.add("derived")
            self.findings.append(Finding("derived", Kind.UNCHECKED, reason=str(error)))
            return []


def _find_unknown(step: Step, subjects: Sequence[SubjectId], identities: Identities) -> list[str]:
    sources = step.rule.sources
    return [str(s) for s in subjects if not all(identities.of(s, source) for source in sources)]


def verify_subjects(
    store: Store,
    subjects: Sequence[SubjectId] | None = None,
    *,
    scan: bool = False,
    lms: LmsDatabase | None = None,
) -> Report:
    """Look for residue of `subjects`, or of everybody who was ever retired.

    With `scan` every text of the configured databases is searched for what they were called; after an erasure only the
    LMS can say that, and only until it cleans up. Whom nobody can be searched for is a finding.

    Whose erasure is proved may have been in parts until then; whose is not, until now.
    """
    if subjects is None:
        subjects = [store.pii_map.subject.parse(subject) for subject in store.ledger.tombstones()]
    plan = read_plan(store)
    erased = [retirement for retirement in store.ledger.find(subjects) if retirement.state is State.ERASED]
    if len(erased) == len(subjects) and erased:
        scrubbed_at = max(retirement.scrubbed_at for retirement in erased)
    else:
        scrubbed_at = store.client.now()
    by_name = any(step.needs_identities for step in plan.steps)
    if lms is None and by_name and store.lms_url is not None:
        # Not with the module: SQLAlchemy takes long to import, and the command line imports this at start.
        from sink.lms.database import LmsDatabase

        lms = LmsDatabase(store.lms_url)
    identities = ask_lms(lms, subjects)
    if scan or by_name:
        identities = identities.merge(read_identities(store, subjects))
    if scan:
        identities = identities.merge(read_names(store, subjects))
    report = verify(store, plan, subjects, identities, scrubbed_at=scrubbed_at)
    if not scan:
        return report
    texts = scan_for(store, subjects, identities)
    not_searched = [Finding("scan", Kind.UNCHECKED, subject, reason=NO_NAME) for subject in texts.unknown]
    findings = [*report.findings, *texts.findings, *not_searched]
    return replace(report, findings=findings, listed=texts.listed, scanned=True)


def record_report(ledger: Ledger, report: Report, *, everybody: bool) -> None:
    """Put on record that was looked for residue, and of how many it was found: counts, no ids.

    Raises:
        LedgerError: it could not be written.
    """
    ledger.record_event(
        Action.VERIFIED,
        {
            "everybody": everybody,
            "subjects": report.subjects,
            "with_residue": report.with_residue,
            "findings": len(report.findings),
            "scanned": report.scanned,
        },
    )


@dataclass(frozen=True)
class Texts:
    """What a search of all texts came to."""

    findings: list[Finding] = field(default_factory=list)
    """Of nobody in particular where a table could not be searched."""
    listed: list[Finding] = field(default_factory=list)
    """What need not go: see `Report.listed`."""
    unknown: list[str] = field(default_factory=list)
    """Subjects of whom no name is known that could be searched for."""

    def listed_of(self, subject: str) -> list[str]:
        """What a receipt says about the texts that were found and stay."""
        return [str(finding) for finding in self.listed if finding.subject == subject]


def scan_for(store: Store, subjects: Sequence[SubjectId], identities: Identities) -> Texts:
    """Search every text for what `subjects` are called."""
    unknown = [str(subject) for subject in subjects if not can_scan(store.pii_map, subject, identities)]
    try:
        search = search_texts(store, subjects, identities)
    except DatabaseError as error:
        return Texts([Finding("scan", Kind.UNCHECKED, reason=str(error))], unknown=unknown)
    retained = list_retained(store.client, store.pii_map, redact_history=store.policy.redact_history)
    found = [_describe_hit(hit, retained.get((hit.table, hit.column))) for hit in search.hits]
    unsearched = [
        Finding(place.place, Kind.UNCHECKED, reason=f"texts could not be searched: {place.reason}")
        for place in search.unsearched
    ]
    return Texts(
        [*(finding for finding in found if finding.kind is Kind.TEXTS), *unsearched],
        [finding for finding in found if finding.kind is not Kind.TEXTS],
        unknown,
    )


def _describe_hit(hit: Hit, retained: str | None) -> Finding:
    kind = Kind.WORDS
    if hit.is_sure:
        kind = Kind.TEXTS if retained is None else Kind.RETAINED
    return Finding(hit.place, kind, hit.subject, hit.rows, reason=retained or "" if hit.is_sure else "")


def _find_hidden_tables(client: ClickHouse, tables: Sequence[TableName]) -> list[Finding]:
    """Where rows may be hidden from us, nothing that is not seen is gone."""
    hiding = find_hiding_policies(client, tables)
    return [Finding(str(table), Kind.UNCHECKED, reason=reason) for table, reason in hiding.items()]


def _find_rows(
    client: ClickHouse, step: Step, subjects: Sequence[SubjectId], identities: Identities, *, in_files: bool
) -> list[Finding]:
    place = str(step.table.name)
    readable = step.count_left(client, subjects, identities)
    findings = [Finding(place, Kind.ROWS, subject, count) for subject, count in readable.items()]
    if in_files:
        everything = step.count_left(client, subjects, identities, including_hidden=True)
        findings += [Finding(place, Kind.HIDDEN_ROWS, s, count) for s, count in everything.items() if s not in readable]
    return findings


def _find_parts(client: ClickHouse, table: TableName, before: datetime) -> list[Finding]:
    counts = {
        Kind.OLD_PARTS: count_old_parts(client, table, before),
        Kind.DETACHED_PARTS: count_detached_parts(client, table),
    }
    return [Finding(str(table), kind, count=count) for kind, count in counts.items() if count]


def _find_in_dependent(
    client: ClickHouse, dependent: Dependent, key: str, subjects: Sequence[SubjectId]
) -> list[Finding]:
    kind = Kind.DICTIONARY if dependent.table.is_dictionary else Kind.VIEW
    findings: list[Finding] = []
    for batch in split_for_binding(subjects):
        rows = client.rows(
            f"SELECT toString({quote(key)}) AS subject, count() FROM {dependent.table.name.sql} "
            f"WHERE toString({quote(key)}) IN {{subjects:Array(String)}} GROUP BY subject",
            subjects=[str(subject) for subject in batch],
        )
        findings += [Finding(str(dependent.table.name), kind, str(subject), int(count)) for subject, count in rows]
    return findings
