"""Proving that nothing of a subject is left. Unknown is not zero: a check that could not run is a finding.

All questions are asked set-wise, for as many subjects as fit into one statement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, partial
from typing import TYPE_CHECKING

from sink.clickhouse.client import ClickHouse
from sink.clickhouse.parts import count_detached_parts, count_old_parts
from sink.clickhouse.refreshes import describe_replaced_copies
from sink.clickhouse.row_policies import find_hiding_policies
from sink.clickhouse.set_aside import describe_set_aside
from sink.erasure.derived import Dependent, list_exempt_databases, read_dependents
from sink.erasure.findings import Finding, Kind, Report
from sink.erasure.identities import Identities
from sink.erasure.named_rows import count_contested, find_proved, list_unknown
from sink.erasure.named_texts import NO_NAME, scan_for
from sink.erasure.naming import identify
from sink.erasure.plan import Plan, read_plan
from sink.erasure.queues import count_in_buffer, count_queued, find_queues
from sink.erasure.search_terms import read_names
from sink.erasure.shown import find_in_dependent
from sink.erasure.steps import Step
from sink.erasure.work import find_works
from sink.errors import DatabaseError
from sink.ledger.entries import Action, Ledger, State
from sink.names import TableName
from sink.pii_map import SubjectId
from sink.progress import track
from sink.store import Store

if TYPE_CHECKING:
    from sink.lms.database import LmsDatabase


# Why nobody can be looked for in what the map lists as derived.
_NO_KEY = "it has no column {key} by which anybody can be looked for; take `match` out of its `derived` entry, or make it anew"
# Why nobody can be looked for under an id of the ledger.
_NO_ID = "this is no id by `subject.type` of the map"


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
    inquiry = _Inquiry(checked=set(plan.unnamed))
    passing: list[str] = []
    inquiry.ask("row policies", lambda: _find_hidden_tables(client, plan.tables))
    for step in track("verifying", plan.steps, "rules"):
        in_files = scrubbed_at is not None
        inquiry.ask(str(step.table.name), partial(_find_rows, client, step, subjects, identities, in_files=in_files))
        if identities.contested or identities.contested_keys:
            inquiry.ask(str(step.table.name), partial(_find_contested, store, step, subjects, identities))
    inquiry.ask("interrupted changes", lambda: _find_works(client))
    inquiry.ask("queues", lambda: _find_queued(store, plan, subjects, identities))
    if scrubbed_at is not None:
        inquiry.note("dropped and detached tables", lambda: list_set_aside(store), passing)
        # Asked once for all of them; where that fails, each is a question without an answer.
        count_parts = cache(lambda: _count_parts(client, plan.tables, scrubbed_at))
        for table in plan.tables:
            inquiry.ask(str(table), partial(_find_parts, table, count_parts))
    for dependent in track("verifying what shows them", inquiry.list_dependents(store), "views"):
        name, key = dependent.table.name, dependent.key
        if dependent.table.serves_nothing:
            inquiry.checked.add(str(name))
        elif key is not None and key not in dependent.table.columns:
            # ClickHouse tells no columns of a view with parameters, or of one over a table that is gone.
            inquiry.leave_open(str(name), _NO_KEY.format(key=key))
        elif key is not None:
            inquiry.ask(str(name), partial(_find_hidden_tables, client, [name]))
            inquiry.ask(str(name), partial(find_in_dependent, client, dependent, key, subjects))
        elif dependent.stuck:
            # Nobody can be looked for in it, so it may hold anybody.
            inquiry.leave_open(str(name), dependent.stuck)
        if scrubbed_at is not None and dependent.table.refresh is not None:
            inquiry.note(str(name), partial(describe_replaced_copies, client, dependent.table), passing)
    problems = [Finding("PII map", Kind.UNCHECKED, reason=str(problem)) for problem in plan.problems]
    not_asked, not_asked_again = find_unknown(store, plan, subjects, identities)
    findings = [*problems, *inquiry.findings]
    left = [finding for finding in findings if finding.kind is Kind.CONTESTED and identities.leaves_contested]
    findings = [finding for finding in findings if finding not in left]
    checked = sorted(inquiry.checked)
    return Report(len(subjects), checked, plan.absent, findings, not_asked, not_asked_again, left, passing)


def find_unknown(
    store: Store, plan: Plan, subjects: Sequence[SubjectId], identities: Identities
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Where nobody could be looked for whose names are not known: who never was, and who was when the erasure was proved."""
    # Subjects in order, each once: a table may have several rules.
    never: dict[str, dict[str, None]] = {}
    again: dict[str, dict[str, None]] = {}
    for step in plan.steps:
        place = str(step.table.name)
        unknown = list_unknown(store.client, step, subjects, identities)
        proved = find_proved(store, unknown)
        for subject in unknown:
            found = (again if subject in proved and proved[subject].covers(step) else never).setdefault(place, {})
            found[subject] = None
    return {place: list(found) for place, found in never.items()}, {
        place: list(found) for place, found in again.items()
    }


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
            self.leave_open(place, str(error))

    def note(self, place: str, question: Callable[[], list[str]], noted: list[str]) -> None:
        """Ask for what is no finding, and is told."""
        try:
            noted += question()
        except DatabaseError as error:
            self.leave_open(place, str(error))

    def leave_open(self, place: str, reason: str) -> None:
        """A question that cannot be asked is a finding."""
        self.checked.add(place)
        self.findings.append(Finding(place, Kind.UNCHECKED, reason=reason))

    def list_dependents(self, store: Store) -> list[Dependent]:
        """What to ask beside the targets; that it cannot be told is a finding too."""
        try:
            return read_dependents(store)
        except DatabaseError as error:
            self.leave_open("derived", str(error))
            return []


def _find_contested(store: Store, step: Step, subjects: Sequence[SubjectId], identities: Identities) -> list[Finding]:
    found = count_contested(store, step, subjects, identities)
    return [Finding(contested.place, Kind.CONTESTED, contested.subject, contested.rows) for contested in found]


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

    Who was never retired is looked for too, and named as such in the report.

    For an erased subject, replaced parts that are older than its proof count as residue. For any other subject, parts that
    are older than now do.
    """
    unreadable: list[str] = []
    if subjects is None:
        subjects, unreadable = store.pii_map.subject.sort_out(store.ledger.tombstones())
    plan = read_plan(store)
    states = {retirement.subject: retirement for retirement in store.ledger.find(subjects)}
    # Of whom a retirement was taken back, nothing was erased.
    retired = {subject for subject, retirement in states.items() if retirement.state is not State.WITHDRAWN}
    not_retired = [str(subject) for subject in dict.fromkeys(subjects) if str(subject) not in retired]
    erased = [retirement for retirement in states.values() if retirement.state is State.ERASED]
    if len(erased) == len(subjects) and erased:
        scrubbed_at = max(retirement.scrubbed_at for retirement in erased)
    else:
        scrubbed_at = store.client.now()
    identities = Identities()
    if scan or any(step.needs_identities for step in plan.steps):
        identities = identify(store, subjects, plan.steps, lms=lms)
    if scan:
        identities = identities.merge(read_names(store, subjects))
    report = verify(store, plan, subjects, identities, scrubbed_at=scrubbed_at)
    report = replace(report, not_retired=not_retired)
    if unreadable:
        findings = [Finding("PII map", Kind.UNCHECKED, subject, reason=_NO_ID) for subject in unreadable]
        report = replace(report, subjects=len(subjects) + len(unreadable), findings=[*report.findings, *findings])
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
            "findings": len(report.residue),
            "not_asked": report.with_gaps,
            "scanned": report.scanned,
        },
    )


def _find_hidden_tables(client: ClickHouse, tables: Sequence[TableName]) -> list[Finding]:
    """Where rows may be hidden from us, nothing that is not seen is gone."""
    hiding = find_hiding_policies(client, tables)
    return [Finding(str(table), Kind.UNCHECKED, reason=reason) for table, reason in hiding.items()]


def _find_rows(
    client: ClickHouse, step: Step, subjects: Sequence[SubjectId], identities: Identities, *, in_files: bool
) -> list[Finding]:
    place = str(step.table.name)
    everything = step.count_left(client, subjects, identities, including_hidden=True) if in_files else {}
    if in_files and not everything:
        # What can be read is among what is there.
        return []
    readable = step.count_left(client, subjects, identities)
    findings = [Finding(place, Kind.ROWS, subject, count) for subject, count in readable.items()]
    return findings + [
        Finding(place, Kind.HIDDEN_ROWS, subject, count)
        for subject, count in everything.items()
        if subject not in readable
    ]


def _find_works(client: ClickHouse) -> list[Finding]:
    works = Counter(str(work.target) for work in find_works(client))
    return [Finding(table, Kind.INTERRUPTED, count=count) for table, count in works.items()]


def _count_parts(client: ClickHouse, tables: Sequence[TableName], before: datetime) -> dict[Kind, dict[TableName, int]]:
    return {
        Kind.OLD_PARTS: count_old_parts(client, tables, before),
        Kind.DETACHED_PARTS: count_detached_parts(client, tables),
    }


def _find_parts(table: TableName, count_parts: Callable[[], dict[Kind, dict[TableName, int]]]) -> list[Finding]:
    return [Finding(str(table), kind, count=counts[table]) for kind, counts in count_parts().items() if table in counts]


def list_set_aside(store: Store, accepted: Sequence[TableName] = ()) -> list[str]:
    """What no query reads and is on a disk, but of `accepted` tables: no finding, since it may hold nobody, and told."""
    # Detached targets, and detached parts of targets, are problems and findings.
    known = {*accepted, *map(store.client.table, store.pii_map.targets)}
    return describe_set_aside(store.client, known, list_exempt_databases(store))


def _find_queued(store: Store, plan: Plan, subjects: Sequence[SubjectId], identities: Identities) -> list[Finding]:
    findings = []
    for queue in find_queues(store):
        name = str(queue.table.name)
        if queue.is_buffer:
            rows = count_in_buffer(store.client, queue, plan.steps, subjects, identities)
            findings += [Finding(name, Kind.ROWS, subject, count) for subject, count in rows.items()]
        elif files := count_queued(store.client, queue):
            reason = (
                f"{name} has not written them yet: see system.distribution_queue, then SYSTEM FLUSH DISTRIBUTED {name}"
            )
            findings += [Finding(str(target), Kind.QUEUED, count=files, reason=reason) for target in queue.targets]
    return findings
