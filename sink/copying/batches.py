"""One batch of rows: sent to a temporary table, compared with what is stored, and written where it differs.

.. pii: Sends rows of profiles, anonymous ids and course roles to ClickHouse.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sink.clickhouse.client import split_for_binding
from sink.copying.copies import Copy, express_digest, express_key
from sink.lms.values import BadRow, Batch
from sink.names import quote, quote_columns
from sink.store import Store

_BOOKKEEPING = ("dump_id", "time_last_dumped")
_UUID_COLUMNS = ("external_user_id",)
_INTEGER_COLUMNS = ("id", "user_id")


@dataclass
class CopyCounts:
    """What a sync did to one object; rows, but `removed_subjects`."""

    object: str
    reader: str = "python"
    """Who read the LMS: python, or clickhouse itself."""
    reader_note: str = ""
    """Why ClickHouse did not, where it was to."""
    read: int = 0
    inserted: int = 0
    changed: int = 0
    unchanged: int = 0
    retired: int = 0
    """Rows of tombstoned users, which were not copied."""
    removed: int = 0
    removed_subjects: int = 0
    purged_columns: list[str] = field(default_factory=list)
    """Columns that the map no longer keeps and that were emptied."""
    bad: list[BadRow] = field(default_factory=list)

    @property
    def has_forgotten(self) -> bool:
        """True where people or columns went for good, and not only an old value for a new one."""
        return bool(self.removed or self.purged_columns)


def create_batch_table(store: Store, copy: Copy, batch: Batch) -> None:
    store.client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(copy.temporary)}")
    definitions = ", ".join(f"{quote(column)} {_batch_type(column)}" for column in copy.columns)
    store.client.execute(f"CREATE TEMPORARY TABLE {quote(copy.temporary)} ({definitions}, is_odd Bool)")
    store.client.insert_columns(copy.temporary, copy.columns, copy.convert(batch.columns))


def _batch_type(column: str) -> str:
    return "UUID" if column in _UUID_COLUMNS else "Int64" if column in _INTEGER_COLUMNS else "String"


def _stored(copy: Copy) -> str:
    """What is stored of the users whom a batch answers for: of each row the latest version.

    Where two versions are of the same time none can be told to be the latest: the row then counts as changed, and
    the version that is written supersedes both.
    """
    newest = f"argMax({express_digest(copy)}, {copy.written_at})"
    return (
        f"SELECT {express_key(copy)} AS key, 1 AS is_known, "
        f"if(uniqExact({copy.written_at}) = count(), {newest}, toFixedString('', 16)) AS digest "
        f"FROM {copy.table.name.sql} WHERE user_id > {{low:Int64}} AND user_id <= {{high:Int64}} GROUP BY key"
    )


def _retired_of(temporary: str) -> str:
    """The query for those users of a temporary table who are retired: asking for all who ever were takes longer every year."""
    return (
        f"SELECT user_id FROM $pii_ledger.tombstones WHERE user_id IN (SELECT toInt64(user_id) FROM {quote(temporary)})"
    )


def compare_batch(store: Store, copy: Copy, scope: dict[str, Any], counts: CopyCounts) -> Counter[str]:
    """Note beside each row of the batch what is to be done with it, and count that; the counts of this batch.

    Who is tombstoned from then on, `write_batch` leaves out.
    """
    drop_compared(store, copy)
    store.client.execute(
        f"""
        CREATE TEMPORARY TABLE {quote(copy.compared)} AS
        SELECT {quote_columns(copy.columns)},
               multiIf(
                   user_id IN ({_retired_of(copy.temporary)}), 'retired',
                   is_known = 0, 'inserted',
                   stored.digest != {express_digest(copy)}, 'changed',
                   'unchanged'
               ) AS verdict
        FROM {quote(copy.temporary)} AS batch
        ANY LEFT JOIN ({_stored(copy)}) AS stored ON {express_key(copy)} = stored.key
        WHERE user_id NOT IN (SELECT user_id FROM {quote(copy.temporary)} WHERE is_odd)
        """,
        # Whatever the user's profile says: no match is 0.
        {"join_use_nulls": 0},
        **scope,
    )
    found: Counter[str] = Counter()
    for verdict, rows in store.client.rows(f"SELECT verdict, count() FROM {quote(copy.compared)} GROUP BY verdict"):
        setattr(counts, verdict, getattr(counts, verdict) + rows)
        found[verdict] = rows
    return found


def drop_compared(store: Store, copy: Copy) -> None:
    store.client.execute(f"DROP TEMPORARY TABLE IF EXISTS {quote(copy.compared)}")


def count_bad(store: Store, bad_rows: Sequence[BadRow], counts: CopyCounts) -> None:
    """Count the rows that could not be read; those of tombstoned users would not have been copied anyway."""
    user_ids = sorted({bad.user_id for bad in bad_rows if bad.user_id is not None})
    retired: set[int] = set()
    for some in split_for_binding(user_ids):
        retired |= set(
            store.client.column(
                "SELECT toInt64(user_id) FROM $pii_ledger.tombstones WHERE user_id IN {user_ids:Array(Int64)}",
                None,
                user_ids=some,
            )
        )
    left = [bad for bad in bad_rows if bad.user_id not in retired]
    counts.bad += left
    counts.retired += len(bad_rows) - len(left)


def write_batch(store: Store, copy: Copy) -> None:
    """Write the rows that differ from what is stored, but of nobody who was retired since they were compared."""
    columns = quote_columns(copy.columns)
    store.client.execute(
        f"""
        INSERT INTO {copy.table.name.sql} ({columns}, {quote_columns(_BOOKKEEPING)})
        SELECT {columns}, {{dump_id:UUID}}, parseDateTime64BestEffort({{version:String}}, 6, 'UTC')
        FROM {quote(copy.compared)}
        WHERE verdict IN ('inserted', 'changed') AND user_id NOT IN ({_retired_of(copy.compared)})
        """,
        repeatable=False,
        dump_id=copy.dump_id,
        version=copy.version.isoformat(),
    )
