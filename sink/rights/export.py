"""A subject access package: all that the store holds of one person, in one file that only its owner can read.

.. pii: Everything that the store holds of the subject passes through on its way into the package.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO

from sink.clickhouse.catalog import Table
from sink.clickhouse.row_policies import require_no_row_policy
from sink.errors import BusyError, UsageError
from sink.ledger.entries import Action, State
from sink.ledger.installation_id import read_installation_id
from sink.names import quote_text
from sink.pii_map import SubjectId
from sink.private_files import writing_new
from sink.rights import manifest, page
from sink.rights.cells import CSV, JSON_LINES, express_csv_cell, express_disarmed, express_json_cell
from sink.rights.encryption import encrypting, read_recipients
from sink.rights.identity import read_identity
from sink.rights.manifest import Column, FileOfRows, Part
from sink.rights.mentions import Mentions, Place, find_mentions
from sink.rights.package import CountedLines, Member, Package
from sink.rights.selections import Kind, Selection, select_rows
from sink.rights.words import Language
from sink.store import Store

# Bytes of each table that are kept for the page.
_FOR_THE_PAGE = 1 << 20
_MENTIONS = "mentions"
# So that spreadsheets take the file for UTF-8.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FOLDERS = {Kind.ROWS: "data", Kind.EVENTS: "events"}


@dataclass(frozen=True)
class Wanted:
    """What a package is to have in it."""

    language: Language = Language.ENGLISH
    with_events: bool = True
    with_mentions: bool = True
    recipients: Sequence[str] = ()
    """Public keys that it is encrypted to; it is not, where there are none."""


@dataclass(frozen=True)
class Exported:
    """A package that was made."""

    subject: str
    rows: dict[str, int]
    """Table -> rows, texts included."""
    files: list[Member] = field(repr=False)
    of_others: dict[str, int]
    perhaps: dict[str, int]
    under_shared_names: dict[str, int]
    """Table -> rows that are left out, since somebody else has the name too."""
    unsearched: list[str]
    """Tables that could not be searched for texts that name the subject."""


def export(
    store: Store,
    subject: SubjectId,
    path: Path,
    wanted: Wanted | None = None,
    *,
    actor: str | None = None,
) -> Exported:
    """Write all that the store holds of a subject into a new file, and put that on record before the file is there.

    Args:
        store: the store.
        subject: of whom.
        path: the file, a ZIP archive; with recipients one that is encrypted by age.
        wanted: what is to be in it.
        actor: who asks.

    Raises:
        UsageError: the subject is retired, or nothing is held of them; or the file is there already or cannot be written.
        MapError: rows of a target cannot be found.
        BusyError: rows changed meanwhile.
        ErasureError: rows may be hidden from us.
        DatabaseError: something could not be read.
        LmsError: the LMS, where one is configured, could not be asked what the subject is called.
        LedgerError: it could not be put on record.
        SettingsError: what encrypts is not installed.
    """
    wanted = wanted or Wanted()
    page.require_templates()
    recipients = read_recipients(wanted.recipients)
    _require_free(path)
    _require_not_retired(store, subject)
    try:
        with writing_new(path) as file:
            with encrypting(file, recipients) as plain:
                exported = _write(store, subject, plain, wanted)
            _require_not_retired(store, subject)
            _record(store, exported, actor, is_encrypted=bool(recipients))
    except FileExistsError:
        raise _explain_taken(path) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
    return exported


def _require_free(path: Path) -> None:
    """Before anything is read, what the file system would say at the end."""
    if os.path.lexists(path):
        raise _explain_taken(path)
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: {path.parent} is no folder.")


def _explain_taken(path: Path) -> UsageError:
    return UsageError(f"{path} is there already, and stays as it is. Name a new file.")


def _require_not_retired(store: Store, subject: SubjectId) -> None:
    retirements = store.ledger.find(_list_spellings(subject))
    state = next((r.state for r in retirements if r.state is not State.WITHDRAWN), None)
    if state is State.ERASED:
        raise UsageError(
            f"Nothing was exported: {subject} is retired, and erased on {store.name}. `aspects-pii receipt show {subject}` "
            "says what was erased."
        )
    if state is not None:
        raise UsageError(
            f"Nothing was exported: {subject} is being retired on {store.name} ({state}). What is still there is not given "
            "out. `aspects-pii sweep` goes on with the erasure."
        )


def _list_spellings(subject: SubjectId) -> list[SubjectId]:
    """An id as it may stand in the ledger: a UUID in small letters or in capitals."""
    try:
        one = str(uuid.UUID(str(subject)))
    except ValueError:
        return [subject]
    return list(dict.fromkeys([subject, one, one.upper()]))


def _record(store: Store, exported: Exported, actor: str | None, *, is_encrypted: bool) -> None:
    detail = {"of": exported.subject, "rows": exported.rows, "encrypted": is_encrypted}
    store.ledger.record_event(Action.EXPORTED, detail, actor)


def _write(store: Store, subject: SubjectId, file: IO[bytes], wanted: Wanted) -> Exported:
    with Package(file) as package:
        return _fill(store, subject, package, wanted)


def _fill(store: Store, subject: SubjectId, package: Package, wanted: Wanted) -> Exported:
    started = store.client.now()
    identities = read_identity(store, subject)
    selections, absent = select_rows(store, subject, identities)
    require_no_row_policy(store.client, [selection.table.name for selection in selections])
    writer = _Writer(store, package)
    parts = [
        part
        for selection in selections
        if selection.kind is not Kind.EVENTS or wanted.with_events
        for part in writer.write_selection(selection)
    ]
    unsearched: list[str] = []
    of_others: dict[str, int] = {}
    perhaps: dict[str, int] = {}
    if wanted.with_mentions:
        events = [s.table.name for s in selections if s.kind is Kind.EVENTS and not wanted.with_events]
        with find_mentions(store, subject, identities, selections, events) as mentions:
            unsearched = mentions.unsearched
            for place in mentions.places:
                parts += writer.write_mentions(mentions, place)
                of_others |= {f"{place.table.name}.{column}": rows for column, rows in place.in_rows_of_others.items()}
                perhaps |= {f"{place.table.name}.{column}": rows for column, rows in place.perhaps.items()}
    if not parts:
        raise UsageError(f"Nothing was exported: {store.name} holds nothing of {subject}. Is the id right?")
    described = manifest.Contents(
        subject=str(subject),
        installation=read_installation_id(store.client),
        collected_from=started,
        collected_until=store.client.now(),
        language=wanted.language,
        institution=store.policy.institution,
        contact=store.policy.contact,
        lms_asked=store.lms_url is not None,
        with_events=wanted.with_events,
        with_mentions=wanted.with_mentions,
        parts=parts,
        absent=absent,
        of_others=of_others,
        perhaps=perhaps,
        unsearched=unsearched,
    )
    package.add("index.html", page.render(described))
    package.add("manifest.json", [manifest.serialize(manifest.compose(described, package.members))])
    rows: dict[str, int] = {}
    for part in parts:
        rows[part.table] = rows.get(part.table, 0) + part.rows
    shared = {part.table: part.rows_under_shared_names for part in parts if part.rows_under_shared_names}
    return Exported(str(subject), rows, package.members, of_others, perhaps, shared, unsearched)


@dataclass(frozen=True)
class _Writer:
    """Writes what is read from ClickHouse into the package."""

    store: Store
    package: Package

    def write_selection(self, selection: Selection) -> Iterator[Part]:
        """The subject's rows of a table; nothing where there are none."""
        client, table = self.store.client, selection.table
        cells = [express_json_cell(column, table.columns[column]) for column in selection.columns]
        source = f"FROM {client.shards(table.name.sql)} WHERE {selection.condition}"
        json_lines = client.stream(f"SELECT {', '.join(cells)} {source} {JSON_LINES}", **selection.values)
        cells = [express_csv_cell(column, table.columns[column]) for column in selection.columns]
        csv = client.stream(f"SELECT {', '.join(cells)} {source} {CSV}", **selection.values)
        written = self._write_both(_FOLDERS[selection.kind], table, selection.columns, json_lines, csv)
        shared = self._count_shared(selection, written.rows if written else 0)
        if written is None:
            return
        target = self.store.pii_map.targets.get(selection.target)
        pii_types = target.pii if target is not None else {}
        yield Part(
            table=str(table.name),
            kind=selection.kind,
            description=table.comment,
            processing=manifest.describe_processing(self.store.pii_map, selection.target),
            found_by=selection.found_by,
            columns=manifest.list_columns(client, table, selection.columns, pii_types),
            rows=written.rows,
            files=written.files,
            first=written.first,
            rows_under_shared_names=shared,
        )

    def _count_shared(self, selection: Selection, own: int) -> int:
        """Rows under names that somebody else has too."""
        if selection.shared is None:
            return 0
        client, shared = self.store.client, selection.shared
        sql = f"SELECT count() FROM {client.shards(selection.table.name.sql)} WHERE {shared.condition}"
        return max(0, int(client.value(sql, **shared.values)) - own)

    def write_mentions(self, mentions: Mentions, place: Place) -> Iterator[Part]:
        """Texts of a table that name the subject, each once."""
        if not place.columns:
            return
        values = mentions.bind(place)
        names = ", ".join(quote_text(column) for column in place.columns)
        source = f"FROM ({mentions.express_cells(place)}) WHERE is_sure AND is_meant"
        column = f"arrayElement([{names}], place + 1)"
        json_lines = self.store.client.stream(
            f"SELECT DISTINCT {column} AS `column`, text {source} {JSON_LINES}", **values
        )
        csv = self.store.client.stream(
            f"SELECT DISTINCT {express_disarmed(column)}, {express_disarmed('text')} {source} {CSV}", **values
        )
        written = self._write_both(_MENTIONS, place.table, ["column", "text"], json_lines, csv)
        if written is None:
            return
        yield Part(
            table=str(place.table.name),
            kind=_MENTIONS,
            description=place.table.comment,
            processing={},
            found_by=place.columns,
            columns=[Column("column", "String", None, ""), Column("text", "String", "other", "")],
            rows=written.rows,
            files=written.files,
            first=written.first,
        )

    def _write_both(
        self, folder: str, table: Table, columns: Sequence[str], json_lines: Iterator[bytes], csv: Iterator[bytes]
    ) -> _Written | None:
        """The same rows as JSON Lines and as CSV; None where there are none.

        Raises:
            BusyError: the second reading has other rows than the first.
        """
        first = next(json_lines, None)
        if first is None:
            return None
        name = self.package.name_files(folder, table.name.database, table.name.table)
        exact = CountedLines(chain([first], json_lines), _FOR_THE_PAGE)
        json_file = self.package.add(f"{name}.jsonl", exact)
        sheet = CountedLines(csv, quoted=True)
        csv_file = self.package.add(f"{name}.csv", chain([_head(columns)], sheet))
        if exact.lines != sheet.lines:
            raise BusyError(f"Nothing was exported: rows of {table.name} changed while they were read. Run it again.")
        files = [FileOfRows(json_file, "JSON Lines", exact.lines), FileOfRows(csv_file, "CSV", exact.lines)]
        return _Written(exact.lines, files, exact.first)


@dataclass(frozen=True)
class _Written:
    rows: int
    files: list[FileOfRows]
    first: bytes = field(repr=False)


def _head(columns: Iterable[str]) -> bytes:
    """The first line of a CSV, with names that somebody may have given a column to make a formula."""
    cells = (column if column[:1] not in "=+-@\t\r" else f"'{column}" for column in columns)
    quoted = ('"' + cell.replace('"', '""') + '"' for cell in cells)
    return _BYTE_ORDER_MARK + (",".join(quoted) + "\n").encode()
