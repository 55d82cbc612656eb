"""The note that a build leaves beside the datasets: what they were built from, and how they then stood.

It is a view without a source, since whoever may make datasets may make that, on a cluster too. While dbt runs it names
the run. A run that was killed leaves it so, and one that ends beside another cannot say what the two of them have made:
then the next build builds everything.

.. no_pii: digests and times.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from sink.clickhouse.client import ClickHouse
from sink.names import TableName, quote_text

NOTE = "aspects_pii_last_build"
"""What it is called, in the database of reports."""


@dataclass(frozen=True)
class Note:
    """What a note says."""

    run: str
    """Which run wrote it."""
    at: str = ""
    """When that had ended and everything was as it should be, by ClickHouse's clock; empty while it is under way."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """What was built from what, see `sink.datasets.inputs`."""


def find_note(client: ClickHouse) -> TableName | None:
    """The view that holds the note, if there is one."""
    name = client.table(f"reporting.{NOTE}")
    found = client.value(
        "SELECT count() FROM system.tables WHERE database = {database:String} AND name = {name:String}",
        database=name.database,
        name=name.table,
    )
    return name if found else None


def read_note(client: ClickHouse) -> Note | None:
    """The note, if there is one that can be read.

    Raises:
        DatabaseError: ClickHouse cannot tell.
    """
    name = find_note(client)
    if name is None:
        return None
    try:
        return Note(**json.loads(client.value(f"SELECT note FROM {name.sql}")))
    except (ValueError, TypeError):
        return None


def write_note(client: ClickHouse, note: Note) -> None:
    """Put a note in the place of the one before.

    Raises:
        DatabaseError: it could not be written.
    """
    name = client.table(f"reporting.{NOTE}")
    text = json.dumps(vars(note), sort_keys=True)
    client.execute(
        f"CREATE OR REPLACE VIEW {name.sql} {client.on_cluster} AS SELECT {quote_text(text)} AS note "
        "COMMENT 'What the datasets of aspects-pii were built from, as digests. Without it the next build builds everything.'"
    )


def drop_note(client: ClickHouse) -> None:
    """Have the next build build everything.

    Raises:
        DatabaseError: it could not be dropped.
    """
    name = client.table(f"reporting.{NOTE}")
    client.execute(f"DROP VIEW IF EXISTS {name.sql} {client.on_cluster}")


class Run:
    """One run of dbt, from the note that it is under way to the one that it was a success."""

    def __init__(self, client: ClickHouse) -> None:
        """Write that it is under way.

        Raises:
            DatabaseError: the note could not be written.
        """
        self._client = client
        self._id = str(uuid.uuid4())
        self.before = read_note(client)
        # Killed, or still at work: nobody can tell.
        self.is_beside_another = self.before is not None and not self.before.at
        write_note(client, Note(self._id))

    def succeed(self, digests: Mapping[str, str]) -> None:
        """Write what was built; without `digests`, of a part of the datasets, put back what stood there.

        Raises:
            DatabaseError: the note could not be written.
        """
        current = read_note(self._client)
        if self.is_beside_another or current is None or current.run != self._id:
            drop_note(self._client)
        elif digests:
            at = self._client.value("SELECT formatDateTime(now('UTC'), '%F %T')")
            write_note(self._client, Note(self._id, at, digests))
        elif self.before is not None:
            write_note(self._client, self.before)
        else:
            drop_note(self._client)
