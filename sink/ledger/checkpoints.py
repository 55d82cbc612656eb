"""Where the ledger stood at a moment, so that `who is open` need not be asked of everybody who was ever retired.

Nearly everybody in a ledger is done with: asked once, erased last, nothing withdrawn or taken out. A checkpoint names the
others. Whoever is in question now is among those, or has an entry since. It can only add to who is looked at: where the entries
up to its moment are not as many as they were, or a day has gone by, all entries are read as if there were none.

.. no_pii: opaque user ids, counts and times.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sink.clickhouse.client import NOW, ClickHouse
from sink.clickhouse.driver_errors import UNKNOWN_TABLE
from sink.errors import DatabaseError
from sink.ledger.written import ask_ledger

_CHECKPOINTS = "$pii_ledger.checkpoints"
_ENTRIES = "$pii_ledger.entries"
_MARKED = "$pii_ledger.marked_entries"
# So many entries are read at once that fewer are not worth a note.
_MANY_ENTRIES = 20_000
# Two a day are written where a sweep runs often enough, so that hardly any runs out.
_HOURS_UNTIL_RENEWED = 12
_HOURS_UNTIL_OUT = 24

# Whoever has a request of which this is not so: that it was erased last, and that nothing was withdrawn or taken out. The view
# of retirements says how these stand, and takes ten times as long; of nearly everybody in a ledger it need not be asked.
_REQUESTS = f"""
SELECT DISTINCT subject FROM (
    SELECT subject, request FROM {_ENTRIES}
    WHERE subject != '' AND action IN ('requested', 'hidden', 'erased', 'failed', 'reopened', 'withdrawn')
"""
_NOT_DONE_WITH = f"""
    GROUP BY subject, request
    HAVING NOT (
        countIf(action = 'requested') > 0 AND countIf(action = 'withdrawn') = 0
        AND maxIf(at, action = 'erased') > maxIf(at, action IN ('hidden', 'failed', 'reopened'))
        AND min(at) >= toDateTime64(0, 6, 'UTC') AND max(at) <= {NOW} + toIntervalDay(1)
    )
    OR request IN (SELECT request FROM {_ENTRIES} WHERE action = 'voided')
)
"""
_UNSETTLED = f"{_REQUESTS} {_NOT_DONE_WITH}"
_SINCE = f"SELECT subject FROM {_ENTRIES} WHERE at > {{until:DateTime64(6, 'UTC')}}"
# Of whom the checkpoint knows, or an entry came since. What takes an entry out names no subject, but the request.
_UNSETTLED_STILL = f"""{_REQUESTS} AND subject IN (
    SELECT arrayJoin(unsettled) FROM {_CHECKPOINTS} WHERE noted_at = {{noted_at:DateTime64(6, 'UTC')}}
    UNION ALL {_SINCE}
    UNION ALL SELECT subject FROM {_ENTRIES}
    WHERE request IN (SELECT request FROM {_ENTRIES} WHERE at > {{until:DateTime64(6, 'UTC')}} AND action = 'voided')
) {_NOT_DONE_WITH}"""
_REQUESTED = f"FROM {_MARKED} WHERE has_subject AND action = 'requested'"


@dataclass(frozen=True)
class Checkpoint:
    """Where the ledger stood, and what came since."""

    noted_at: datetime
    until: datetime
    asked: int
    """Subjects whose retirement had been requested."""
    nameless: int
    """Requests whose subject was no opaque id."""
    is_old: bool
    """True where it is time for a new one."""
    since: int
    """Entries that came later."""

    @property
    def values(self) -> dict[str, Any]:
        """What is bound to a statement that reads from here on."""
        return {"noted_at": self.noted_at, "until": self.until}


def read_checkpoint(client: ClickHouse) -> Checkpoint | None:
    """The newest checkpoint, if it still counts; None where all entries have to be read.

    Raises:
        MigrationError: the ledger is not there.
        DatabaseError: it could not be read.
    """
    try:
        # One that comes from a clock which has been put back since says nothing of its age.
        found = client.rows(
            f"SELECT noted_at, until, entries, asked, nameless, noted_at < {NOW} - toIntervalHour({{renewed:UInt32}}) "
            f"FROM {_CHECKPOINTS} WHERE noted_at <= {NOW} AND noted_at > {NOW} - toIntervalHour({{out:UInt32}}) "
            "ORDER BY noted_at DESC LIMIT 1",
            renewed=_HOURS_UNTIL_RENEWED,
            out=_HOURS_UNTIL_OUT,
        )
    except DatabaseError as error:
        if error.code == UNKNOWN_TABLE:
            # An older ledger has none, and stays readable until `init` has run.
            return None
        raise
    if not found:
        return None
    noted_at, until, entries, asked, nameless, is_old = found[0]
    # How many there are the engine knows without reading, and what came later it finds by an index of times.
    ((everything, since),) = ask_ledger(
        client,
        f"SELECT (SELECT count() FROM {_ENTRIES}), "
        f"(SELECT count() FROM {_ENTRIES} WHERE at > {{until:DateTime64(6, 'UTC')}})",
        until=until,
    )
    if everything - since != entries:
        return None
    return Checkpoint(noted_at, until, asked, nameless, bool(is_old), since)


def find_unsettled(client: ClickHouse, checkpoint: Checkpoint | None) -> list[str]:
    """Subjects of whom the view of retirements has to be asked where they stand; everybody else is erased.

    Raises:
        DatabaseError: the ledger could not be read.
    """
    rows = ask_ledger(client, _UNSETTLED_STILL, **checkpoint.values) if checkpoint else ask_ledger(client, _UNSETTLED)
    return [str(subject) for (subject,) in rows]


def count_settled(client: ClickHouse, checkpoint: Checkpoint | None) -> int:
    """How many subjects have been requested and are not among the unsettled.

    Raises:
        DatabaseError: the ledger could not be read.
    """
    if checkpoint is None:
        rows = ask_ledger(client, f"SELECT uniqExact(subject) {_REQUESTED} AND subject NOT IN ({_UNSETTLED})")
        return int(rows[0][0])
    ((new, unsettled),) = ask_ledger(
        client,
        f"SELECT (SELECT count() FROM (SELECT subject {_REQUESTED} AND subject IN ({_SINCE} AND action = 'requested') "
        "GROUP BY subject HAVING min(at) > {until:DateTime64(6, 'UTC')})), "
        f"(SELECT uniqExact(subject) {_REQUESTED} AND subject IN ({_UNSETTLED_STILL}))",
        **checkpoint.values,
    )
    return int(checkpoint.asked + new - unsettled)


def write_checkpoint(client: ClickHouse) -> None:
    """Note where the ledger stands, if it is long and that was not noted lately.

    Raises:
        DatabaseError: the ledger could not be read, or the note not be written.
    """
    known = read_checkpoint(client)
    since = known.since if known else ask_ledger(client, f"SELECT count() FROM {_ENTRIES}")[0][0]
    if since < _MANY_ENTRIES and not (known and known.is_old):
        return
    until = client.now()
    # Counted first: what comes to stand before that moment later makes more of them, and the note does not count.
    ((entries,),) = ask_ledger(
        client, f"SELECT count() FROM {_ENTRIES} WHERE at <= {{until:DateTime64(6, 'UTC')}}", until=until
    )
    client.execute(
        f"INSERT INTO {_CHECKPOINTS} (until, entries, asked, nameless, unsettled) "
        "SELECT {until:DateTime64(6, 'UTC')}, {entries:UInt64}, "
        f"(SELECT uniqExact(subject) {_REQUESTED} AND at <= {{until:DateTime64(6, 'UTC')}}), "
        f"(SELECT count() FROM {_MARKED} WHERE NOT has_subject AND action = 'requested'), "
        # By their requests, so that what is no opaque id is not written once more.
        f"(SELECT groupUniqArray(subject) {_REQUESTED} AND subject IN ({_UNSETTLED}))",
        until=until,
        entries=entries,
    )
