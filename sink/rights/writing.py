"""The rows of tables, and texts, written into a package as they come from ClickHouse: the same as JSON Lines and as CSV.

.. pii: Everything that the store holds of the subject passes through on its way into the package.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from sink.clickhouse.catalog import Table
from sink.errors import BusyError
from sink.names import quote_text
from sink.rights import manifest
from sink.rights.cells import CSV, JSON_LINES, express_csv_cell, express_disarmed, express_json_cell
from sink.rights.manifest import Column, FileOfRows, Part
from sink.rights.mentions import Mentions, Place
from sink.rights.package import CountedLines, Package
from sink.rights.selections import Kind, Selection
from sink.store import Store

# Bytes of each table that are kept for the page.
_FOR_THE_PAGE = 1 << 20
_MENTIONS = "mentions"
# So that spreadsheets take the file for UTF-8.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FOLDERS = {Kind.ROWS: "data", Kind.EVENTS: "events"}


@dataclass(frozen=True)
class Writer:
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
