"""The append-only record of what was asked and done, and the tombstones that follow from it.

An entry holds an opaque subject, an action, a time and counts. The state of a retirement is the last of
its entries; nothing is ever updated in place. Times come from ClickHouse's clock and never run backwards,
whatever the clocks do, because an entry's time is at least a microsecond after the latest one's.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sink.actors import check_actor
from sink.actors import is_opaque as is_opaque_actor
from sink.clickhouse.client import NOW, ClickHouse, split_for_binding
from sink.errors import DatabaseError, LedgerError
from sink.ledger.checkpoints import Checkpoint, count_settled, find_unsettled, read_checkpoint, write_checkpoint
from sink.ledger.details import read_detail
from sink.ledger.rules import BEGUN, FIELDS
from sink.ledger.written import ask_ledger
from sink.pii_map import SubjectId
from sink.wording import choose, counted

# .. no_pii: holds opaque user ids and counts.


class Action(StrEnum):
    """What an entry says was asked or done. Entries of other versions may say something else."""

    REQUESTED = "requested"
    FOUND = "found"
    HIDDEN = "hidden"
    ERASED = "erased"
    FAILED = "failed"
    REOPENED = "reopened"
    WITHDRAWN = "withdrawn"
    RESTRICTED = "restricted"
    """The subject's PII is kept and shown nowhere, until it is `unrestricted` under the same request."""
    UNRESTRICTED = "unrestricted"
    SYNCED = "synced"
    VERIFIED = "verified"
    PURGE_BEGUN = "purge_begun"
    """Without a later `purged`, the purge is under way or was interrupted."""
    PURGED = "purged"
    REASSIGNED = "reassigned"
    REPLAYED = "replayed"
    MAP_CHECKED = "map_checked"
    EMPTIED = "emptied"
    """What other software had stored while PII was off is gone."""
    EXPIRED = "expired"
    """Rows whose time by the map is over went, or were emptied; written also where there were none."""
    SEARCHED = "searched"
    """Somebody has asked which subjects are called so; what they asked for is not written down."""
    EXPORTED = "exported"
    """A subject access package was made; of whom, the detail says."""
    ANONYMISED = "anonymised"
    """A copy of production made for development has invented people in it."""
    VOIDED = "voided"


class State(StrEnum):
    """Where a retirement stands: the last action that moved it. `erased` and `withdrawn` end it until it is reopened."""

    REQUESTED = Action.REQUESTED
    HIDDEN = Action.HIDDEN
    ERASED = Action.ERASED
    FAILED = Action.FAILED
    REOPENED = Action.REOPENED
    WITHDRAWN = Action.WITHDRAWN

    @property
    def is_open(self) -> bool:
        """True until the erasure is proved or taken back."""
        return self not in (State.ERASED, State.WITHDRAWN)


# Any constant: what requests are named after.
_REQUESTS = uuid.UUID("8c0d9b52-52b0-4d6f-9a53-6a0b8f7b0f5e")
_ENTRIES = "$pii_ledger.entries"
# The view marks entries that were taken out, and those that cannot be right; see sql/migrations.
_MARKED = "$pii_ledger.marked_entries"
# Entries of before now need not be read: a minute is more than a statement takes between two looks at the clock. One that is more
# than a day ahead is a mistake, or a forgery, and no entry is to follow it.
_AHEAD = f"(SELECT at FROM {_ENTRIES} WHERE at >= {NOW} - toIntervalMinute(1) AND at <= {NOW} + toIntervalDay(1))"
_write_json = json.JSONEncoder(sort_keys=True).encode
_WORD = re.compile(r"[a-z_]{1,32}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The view computes what follows from the entries, for us and for dbt alike; see sql/migrations.
_CURRENT = "$pii_ledger.retirements WHERE is_current"
_COLUMNS_OF_RETIREMENT = "subject, state, request, requested_at, requested_by, since, detail"


@dataclass(frozen=True)
class Retirement:
    """Where one subject's retirement stands."""

    subject: str
    state: State
    request: uuid.UUID
    requested_at: datetime
    actor: str | None
    since: datetime
    detail: dict[str, Any]

    @property
    def scrubbed_at(self) -> datetime:
        """The time, by ClickHouse's clock, until which the proof of the erasure answers for files."""
        seconds = self.detail.get("scrubbed_at")
        return self.since if seconds is None else datetime.fromtimestamp(seconds, UTC)

    @property
    def is_open(self) -> bool:
        """True until the erasure is proved."""
        return self.state.is_open


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    entry: str
    """What it is called: the same wherever it is written."""
    subject: str
    """Empty, where what stands there is no opaque id."""
    at: datetime
    action: str
    request: uuid.UUID
    actor: str | None
    detail: dict[str, Any]
    """Of what stands there as much as is as it should be."""
    is_voided: bool
    """True where it was taken out by an entry of its own."""


class Ledger:
    """The ledger in ClickHouse."""

    def __init__(self, client: ClickHouse) -> None:
        self._client = client

    def record(
        self,
        action: Action,
        entries: Iterable[tuple[SubjectId, uuid.UUID, Mapping[str, Any]]],
        actor: str | None = None,
    ) -> datetime:
        """Append one entry for each (subject, request, detail) and return their time.

        Raises:
            UsageError: the actor is no opaque id; nothing was written.
            LedgerError: nothing may be taken as done; the entries may or may not have been written.
        """
        check_actor(actor)
        try:
            at = self._client.later_than(_AHEAD)
            rows = [
                (str(subject), at, action, request, actor, _write_json(detail)) for subject, request, detail in entries
            ]
            # A repeated line says the same at the same time, and readers take it once.
            self._client.insert(self._client.table("pii_ledger.entries"), FIELDS, rows, repeatable=True)
        except DatabaseError as error:
            raise LedgerError(f"The ledger could not be written: {error}") from None
        return at

    def record_event(self, action: Action, detail: Mapping[str, Any], actor: str | None = None) -> datetime:
        """Append an entry that is about no one subject, such as a purge."""
        return self.record(action, [("", uuid.uuid4(), detail)], actor)

    def request(self, subjects: Sequence[SubjectId], actor: str | None = None) -> list[Retirement]:
        """Record that `subjects` are to be retired, which makes them tombstones, and return where each stands.

        Subjects that are retired already, or about to be, get no second entry.

        Raises:
            LedgerError: not everybody's request was recorded.
        """
        known = {r.subject: r for r in self.find(subjects)}
        new = {
            subject: self._name_request(str(subject), known.get(str(subject)))
            for subject in dict.fromkeys(subjects)
            if str(subject) not in known or known[str(subject)].state is State.WITHDRAWN
        }
        if new:
            at = self.record(Action.REQUESTED, [(subject, request, {}) for subject, request in new.items()], actor)
            self._require_shown(new, at)
            known |= {
                str(subject): Retirement(str(subject), State.REQUESTED, request, at, actor, at, {})
                for subject, request in new.items()
            }
        return sorted(known.values(), key=lambda retirement: (retirement.requested_at, retirement.subject))

    def _require_shown(self, requests: Mapping[SubjectId, uuid.UUID], at: datetime) -> None:
        """Acknowledged is only what can be read again, whatever was answered to the insert."""
        shown: set[tuple[str, uuid.UUID]] = set()
        for batch in split_for_binding(list(map(str, requests))):
            shown |= set(
                self._ask(
                    f"SELECT subject, request FROM {_ENTRIES} WHERE subject IN {{subjects:Array(String)}} "
                    "AND action = 'requested' AND at = {at:DateTime64(6, 'UTC')}",
                    subjects=batch,
                    at=at,
                )
            )
        if lost := {(str(subject), request) for subject, request in requests.items()} - shown:
            raise LedgerError(
                f"The ledger took {counted(len(lost), 'request')} and does not show {choose(len(lost), 'it', 'them')}, so "
                "nothing was recorded. Is the disk full?"
            )

    def reopen(self, retirements: Iterable[Retirement], reason: str) -> None:
        """Record that the closed ones of `retirements` are open again, and why.

        Raises:
            LedgerError: they may still count as closed.
        """
        closed = [(r.subject, r.request, {"reason": reason}) for r in retirements if not r.is_open]
        if closed:
            self.record(Action.REOPENED, closed)

    def _name_request(self, subject: str, withdrawn: Retirement | None) -> uuid.UUID:
        """The id of a request: the same one from every door that records it at the same moment."""
        before = str(withdrawn.request) if withdrawn else self._client.databases["pii_ledger"]
        return uuid.uuid5(_REQUESTS, f"{before}:{subject}")

    def find(self, subjects: Sequence[SubjectId]) -> list[Retirement]:
        """The retirements of `subjects`, those that have one."""
        wanted = [str(subject) for subject in subjects]
        found: list[Retirement] = []
        for batch in split_for_binding(wanted):
            found += self._read("subject IN {subjects:Array(String)}", subjects=batch)
        return sorted(found, key=lambda retirement: (retirement.requested_at, retirement.subject))

    def find_open(self) -> list[Retirement]:
        """Every retirement that is not proved yet, oldest first; before them those of which nobody can say whose they are."""
        checkpoint = read_checkpoint(self._client)
        found = self.find(find_unsettled(self._client, checkpoint))
        return [*self._find_without_subject(checkpoint), *(retirement for retirement in found if retirement.is_open)]

    def note_progress(self) -> None:
        """Note where a long ledger stands, so that `find_open` and `count_states` read from there; for whoever calls often.

        Raises:
            DatabaseError: the ledger could not be read, or the note not be written.
        """
        write_checkpoint(self._client)

    def _find_without_subject(self, checkpoint: Checkpoint | None) -> list[Retirement]:
        """Requests about what is no opaque id, and may be a name or an address: known by their entries instead."""
        scope, values = "", {}
        if checkpoint and not checkpoint.nameless:
            scope, values = "AND at > {until:DateTime64(6, 'UTC')}", {"until": checkpoint.until}
        rows = self._ask(
            f"SELECT DISTINCT entry, request, counted_at FROM {_MARKED} "
            f"WHERE action = 'requested' AND NOT has_subject AND NOT is_voided {scope} ORDER BY counted_at, entry",
            **values,
        )
        return [
            Retirement(f"(entry {entry})", State.REQUESTED, request, at, None, at, {}) for entry, request, at in rows
        ]

    def find_erased(self, *, before: datetime | None = None) -> list[Retirement]:
        """Every retirement whose erasure was proved, oldest first; only those proved before a time."""
        if before is None:
            return self._read("state = 'erased'")
        return self._read("state = 'erased' AND since <= {before:DateTime64(6, 'UTC')}", before=before)

    def find_closed(self, *, erased_only: bool = False, limit: int, offset: int = 0) -> list[Retirement]:
        """Retirements that have ended, the latest first; `offset` of them are passed over."""
        states = [State.ERASED] if erased_only else [State.ERASED, State.WITHDRAWN]
        return self._read(
            "state IN {states:Array(String)}",
            order="since DESC, subject LIMIT {limit:UInt64} OFFSET {offset:UInt64}",
            states=list(map(str, states)),
            limit=limit,
            offset=offset,
        )

    def find_by_request(self, request: uuid.UUID) -> Retirement | None:
        """The retirement that a request began, if there is one and it was not withdrawn and asked for again since."""
        subjects = self._ask(
            f"SELECT DISTINCT subject FROM {_MARKED} WHERE request = {{request:UUID}} AND has_subject", request=request
        )
        found = self.find([subject for (subject,) in subjects])
        return next((retirement for retirement in found if retirement.request == request), None)

    def find_counts(self, retirements: Sequence[Retirement]) -> dict[str, dict[str, int]]:
        """The rows that were found before anything was erased, as subject -> {table: rows}, of all passes together.

        A pass that was interrupted finds fewer rows when it goes on; the receipt is about all of them. One that comes
        after an erasure finds other rows, which are counted beside those of the pass before.
        """
        found: dict[str, dict[str, int]] = {}
        before: dict[str, dict[str, int]] = {}
        sound = f"if(action = 'found', detail, '') FROM {_MARKED} WHERE action IN ('found', 'erased') AND NOT is_voided"
        for subject, action, detail in self._read_of(retirements, sound, "ORDER BY at"):
            if action == Action.ERASED:
                before[subject] = dict(found.get(subject, {}))
                continue
            known, earlier = found.setdefault(subject, {}), before.get(subject, {})
            for table, rows in read_detail(Action.FOUND, detail).get("rows", {}).items():
                known[table] = max(earlier.get(table, 0) + rows, known.get(table, 0))
        return found

    def find_erasures(self, retirements: Sequence[Retirement]) -> dict[str, list[dict[str, Any]]]:
        """What the entries `erased` of `retirements` say, as subject -> details, oldest first."""
        found: dict[str, list[dict[str, Any]]] = {}
        erased = f"detail FROM {_MARKED} WHERE action = 'erased' AND NOT is_voided"
        for subject, _, detail in self._read_of(retirements, erased, "ORDER BY at LIMIT 1 BY subject, at, request"):
            found.setdefault(subject, []).append(read_detail(Action.ERASED, detail))
        return found

    def find_begun(self, retirements: Sequence[Retirement]) -> set[str]:
        """Whose erasure has begun, whatever was withdrawn or taken out since."""
        begun = f"'' FROM {_ENTRIES} WHERE action IN {{actions:Array(String)}}"
        return {subject for subject, _, _ in self._read_of(retirements, begun, "", actions=list(BEGUN))}

    def _read_of(
        self, retirements: Sequence[Retirement], selected: str, order: str, **values: Any
    ) -> Iterator[tuple[str, str, str]]:
        """Subject, action and a text of entries of `retirements`, and of none that has another request of the same subjects.

        Args:
            retirements: whose.
            selected: the text, where from, and which.
            order: the end of the query.
            values: what `selected` binds.
        """
        requests = {retirement.subject: retirement.request for retirement in retirements}
        for batch in split_for_binding(list(requests)):
            for subject, request, action, text in self._ask(
                f"SELECT subject, request, toString(action), {selected} AND subject IN {{subjects:Array(String)}} {order}",
                subjects=batch,
                **values,
            ):
                if request == requests[subject]:
                    yield subject, action, text

    def tombstones(self) -> list[str]:
        """Every retired subject."""
        return [str(subject) for (subject,) in self._ask("SELECT subject FROM $pii_ledger.tombstones ORDER BY subject")]

    def count_states(self) -> dict[str, int]:
        """How many retirements are in each state."""
        checkpoint = read_checkpoint(self._client)
        unsettled = find_unsettled(self._client, checkpoint)
        counts = Counter(str(retirement.state) for retirement in self.find(unsettled))
        counts[State.ERASED.value] += count_settled(self._client, checkpoint)
        return {state: counts[state] for state in sorted(counts) if counts[state]}

    def show(
        self,
        *,
        subject: str | None = None,
        action: str | None = None,
        actor: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 1000,
        with_voided: bool = True,
    ) -> list[Entry]:
        """The newest `limit` entries that fit, oldest first; with those that were taken out, unless they are not wanted."""
        conditions: dict[str, tuple[str, Any]] = {
            "subject = {subject:String}": ("subject", subject),
            "action = {action:String}": ("action", action),
            "actor = {actor:String}": ("actor", actor),
            "at >= {since:DateTime64(6, 'UTC')}": ("since", since),
            "at < {until:DateTime64(6, 'UTC')}": ("until", until),
        }
        used = {text: pair for text, pair in conditions.items() if pair[1] is not None}
        sound = [] if with_voided else ["NOT is_voided", "NOT is_ahead"]
        where = f"WHERE {' AND '.join([*used, *sound])}" if used or sound else ""
        rows = self._ask(
            "SELECT entry, if(has_subject, subject, ''), toUnixTimestamp64Micro(at), toString(action), request, actor, "
            f"detail, is_voided FROM {_MARKED} {where} "
            "ORDER BY at DESC, subject DESC LIMIT 1 BY subject, at, action, request LIMIT {limit:UInt64}",
            limit=limit,
            **dict(used.values()),
        )
        return [
            Entry(
                entry,
                s,
                _read_time(at),
                _read_action(a),
                request,
                _read_actor(who),
                read_detail(a, text),
                bool(is_voided),
            )
            for entry, s, at, a, request, who, text, is_voided in reversed(rows)
        ]

    def _read(self, condition: str, *, order: str = "requested_at, subject", **values: Any) -> list[Retirement]:
        rows = self._ask(f"SELECT {_COLUMNS_OF_RETIREMENT} FROM {_CURRENT} AND {condition} ORDER BY {order}", **values)
        return [
            Retirement(
                subject, State(state), request, requested_at, _read_actor(actor), since, read_detail(state, detail)
            )
            for subject, state, request, requested_at, actor, since, detail in rows
        ]

    def _ask(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        return ask_ledger(self._client, sql, **values)


def _read_actor(actor: str | None) -> str | None:
    """Who asked; nobody, where what stands there is no opaque id, since it may be a name."""
    return actor if actor is not None and is_opaque_actor(actor) else None


def _read_action(action: str) -> str:
    """What was done, or one word of another version; nothing, where it is neither."""
    return action if _WORD.fullmatch(action) else ""


def _read_time(microseconds: int) -> datetime:
    """A time of the table, which has room for later ones than Python has."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if microseconds > 0 else datetime.min.replace(tzinfo=UTC)
