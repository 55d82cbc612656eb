"""Inventing: what takes the place of a value is computed from the value and a key, and is the same wherever the value stands.

The key is made for one run. It stands, with what people of the copy were called, in helper tables of the copy's own
database; whoever drops them takes away the only way back. All of it is computed by ClickHouse, so that no value leaves it.

.. pii: Helper tables hold names, user names, addresses and anonymous ids of the copied people until the run is at its end.
.. pii_types: id, name, username, email_address
.. pii_retirement: local_api
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sink.clickhouse.client import ClickHouse
from sink.erasure.found_by_value import add_known
from sink.erasure.search_terms import TermKind
from sink.erasure.sure_names import express_form, express_is_sure, express_kind
from sink.errors import RefusedError
from sink.names import HELPER_PREFIX, TableName, quote, quote_text

PREFIX = "anonymising_"
"""What the names of helper tables in a copy begin with."""
DOMAIN = "example.invalid"

_KEY, _GIVEN, _NUMBERS, _PEOPLE, _ORIGINALS = "key", "given", "numbers", "people", "originals"
_NUMBER_COLUMNS = "old Int64, new Int64"
_UUID = "^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_HEX = "^[0-9a-f]{32}$"
_SHA1 = "^[0-9a-f]{40}$"
# Begins the keys of full names among the other things that people are called.
_FULL_NAME = "name "
# 2 to the power of 62: what is given to others still fits above it.
_LARGEST = 4_611_686_018_427_387_904


@dataclass(frozen=True)
class Said:
    """A column that says what subjects are called, or what their anonymous ids are."""

    table: TableName
    subject: str
    """The column with the subject's id."""
    column: str
    kind: str
    """A `TermKind`, or `id`."""


@dataclass(frozen=True)
class Inventing:
    """One run, and the SQL that invents in it."""

    client: ClickHouse
    home: str
    """The database of the copy in which the helper tables stand."""
    run: str = ""

    def helper(self, role: str) -> TableName:
        """The helper table for `role`."""
        return TableName(self.home, f"{PREFIX}{role}")

    @property
    def originals(self) -> TableName:
        """The Set of what people of the copy were called, as `sink.erasure.found_by_value` compares it."""
        return self.helper(_ORIGINALS)

    @property
    def people(self) -> TableName:
        """The Join table of what they were called."""
        return self.helper(_PEOPLE)

    def begin(self, databases: Sequence[str]) -> Inventing:
        """The run that an interruption has left, or a new one.

        Raises:
            RefusedError: the run that was interrupted was about other databases.
        """
        wanted = sorted(databases)
        key = self.helper(_KEY)
        self.client.execute(
            f"CREATE TABLE IF NOT EXISTS {key.sql} (run String, key String, databases Array(String)) "
            "ENGINE = MergeTree ORDER BY run"
        )
        found = self.client.rows(f"SELECT run, databases FROM {key.sql} ORDER BY run LIMIT 1")
        if not found:
            # What is left by a run whose key is gone can be of no use any more.
            self._drop_all(but=key)
            self.client.insert(
                key, ["run", "key", "databases"], [(secrets.token_hex(8), secrets.token_hex(32), wanted)]
            )
            found = self.client.rows(f"SELECT run, databases FROM {key.sql} ORDER BY run LIMIT 1")
        run, begun = found[0]
        if sorted(begun) != wanted:
            raise RefusedError(
                f"Anonymising {', '.join(begun)} was interrupted. Finish that first, with the same databases: "
                f"aspects-pii anonymise {' '.join(f'--database {name}' for name in begun)}"
            )
        self._create(_GIVEN, _NUMBER_COLUMNS, "MergeTree ORDER BY old")
        self._create(_PEOPLE, "value String, subject String, address String, is_sure UInt8", "Join(ANY, LEFT, value)")
        self._create(_ORIGINALS, "digest UInt64", "Set")
        return Inventing(self.client, self.home, run)

    def _create(self, role: str, columns: str, engine: str) -> None:
        self.client.execute(f"CREATE TABLE IF NOT EXISTS {self.helper(role).sql} ({columns}) ENGINE = {engine}")

    def end(self) -> None:
        """Drop what leads back: the key first."""
        self.client.execute(f"DROP TABLE IF EXISTS {self.helper(_KEY).sql} SYNC")
        self._drop_all()

    def drop_interrupted(self) -> None:
        """Drop the helper tables of batches that were interrupted."""
        for name in self._list_tables(HELPER_PREFIX):
            self.client.execute(f"DROP TABLE IF EXISTS {name.sql} SYNC")

    def _drop_all(self, *, but: TableName | None = None) -> None:
        for name in self._list_tables(PREFIX):
            if name != but:
                self.client.execute(f"DROP TABLE IF EXISTS {name.sql} SYNC")

    def _list_tables(self, prefix: str) -> list[TableName]:
        names = self.client.column(
            "SELECT name FROM system.tables WHERE database = {database:String} AND startsWith(name, {prefix:String}) "
            # A lookup before what it was made from.
            "ORDER BY name",
            database=self.home,
            prefix=prefix,
        )
        return [TableName(self.home, name) for name in names]

    def learn(self, said: Iterable[Said], numbers: Sequence[tuple[TableName, str]]) -> int:
        """Write down what people are called, and give their ids other numbers. Whatever is written down already stays.

        Args:
            said: where it says what people are called; of tables that hold nothing that was invented in this run.
            numbers: columns with ids of people, as (table, column).

        Returns:
            The largest number that is given to anybody.
        """
        for source in said:
            self._learn_names(source)
        self._give_numbers(numbers)
        # A Join table cannot be read by what is written into it, so that this one is made when all are given.
        lookup, given = self.helper(_NUMBERS).sql, self.helper(_GIVEN).sql
        self.client.execute(f"DROP TABLE IF EXISTS {lookup} SYNC")
        self.client.execute(
            f"CREATE TABLE {lookup} ({_NUMBER_COLUMNS}) ENGINE = Join(ANY, LEFT, old) AS (SELECT old, new FROM {given})"
        )
        return int(self.client.value(f"SELECT max(new) FROM {given}"))

    def _learn_names(self, source: Said) -> None:
        name = f"ifNull(toString({quote(source.column)}), '')"
        kind = "'id'" if source.kind == "id" else express_kind(quote_text(source.kind), name)
        trimmed = f"trimBoth({name})"
        # An address is hashed as its owner typed it, or in lower case: software does either.
        digests = ", ".join(
            f"(lower(hex(SHA1(concat('mailto:', {text})))), {text})" for text in (trimmed, f"lowerUTF8({trimmed})")
        )
        whole = f"({self.fold_text(name)}, if(position({name}, '@') > 0, {trimmed}, ''))"
        full = f"(concat('{_FULL_NAME}', aspects_pii_form), '')"
        self.client.execute(
            f"INSERT INTO {self.people.sql} (value, subject, address, is_sure) "
            "SELECT aspects_pii_called.1, aspects_pii_subject, aspects_pii_called.2, aspects_pii_is_sure FROM ("
            f"SELECT {name} AS aspects_pii_name, {kind} AS aspects_pii_kind, "
            f"toString({quote(source.subject)}) AS aspects_pii_subject, "
            f"{express_form('aspects_pii_kind', 'aspects_pii_name')} AS aspects_pii_form, "
            f"aspects_pii_kind = 'id' OR {express_is_sure('aspects_pii_kind', 'aspects_pii_form')} AS aspects_pii_is_sure, "
            f"arrayJoin(multiIf(aspects_pii_kind = 'full name', [{full}], "
            f"position(aspects_pii_name, '@') > 0, [{whole}, {digests}], [{whole}])) AS aspects_pii_called "
            f"FROM {source.table.sql} WHERE aspects_pii_name != '') ORDER BY aspects_pii_subject"
        )
        add_known(self.client, self.originals.sql, source.table, source.column, source.kind)

    def _give_numbers(self, columns: Sequence[tuple[TableName, str]]) -> None:
        # In no order that the old ones have, and above all of them, so that none is anybody's old one.
        given = self.helper(_GIVEN).sql
        highest = int(self.client.value(f"SELECT greatest(max(old), max(new)) FROM {given}"))
        for table, column in columns:
            found = self.client.value(f"SELECT max(aspects_pii_id) FROM ({_select_ids(table, column)})")
            highest = max(highest, int(found or 0))
        for table, column in columns:
            self.client.execute(
                f"INSERT INTO {given} (old, new) "
                f"SELECT aspects_pii_id, greatest({{highest:Int64}}, (SELECT max(new) FROM {given})) + "
                f"row_number() OVER (ORDER BY {self._hash('number', 'toString(aspects_pii_id)')}) "
                f"FROM ({_select_ids(table, column)}) WHERE aspects_pii_id NOT IN (SELECT old FROM {given})",
                repeatable=False,
                highest=highest,
            )

    def invent_number(self, text: str) -> str:
        """SQL: the number that takes the place of an id; 0 and what is no id stay. `text` is SQL of a text."""
        numbers = quote_text(str(self.helper(_NUMBERS)))
        old = f"ifNull(toInt64OrNull({text}), 0)"
        return f"joinGet({numbers}, 'new', {old})"

    def invent(self, text: str) -> str:
        """SQL: what takes the place of a user name, address, digest of one or anonymous id, in its shape."""
        address = _strip(text)
        lower = f"lower(trimBoth({text}))"
        mailbox = f"if(startsWith({lower}, 'mailto:'), 'mailto:', '')"
        return (
            f"multiIf({text} = '', '', "
            f"position({address}, '@') > 0 OR startsWith({lower}, 'mailto:'), "
            f"concat({mailbox}, {self._invent_address(address)}), "
            f"match({lower}, '{_SHA1}'), {self._invent_digest(lower)}, "
            f"match({lower}, '{_UUID}'), {self._invent_uuid(text, lower)}, "
            f"match({lower}, '{_HEX}'), {self._hash('id', lower)}, "
            f"concat({_begin(text)}, substring({self._hash('username', f'lowerUTF8({text})')}, 1, 16)))"
        )

    def invent_name(self, subject: str) -> str:
        """SQL: the full name of whoever `subject` tells apart."""
        return f"concat('Learner ', substring({self._hash('name', subject)}, 1, 16))"

    def find_called(self, text: str) -> str:
        """SQL: the id of whoever is called so; empty where nobody is."""
        return self._look_up("subject", self.fold_text(text))

    def find_named(self, text: str) -> str:
        """SQL: the id of whoever has this full name, as a text says it; empty where nobody has, or it may be a word."""
        form = f"concat('{_FULL_NAME}', {express_form(quote_text(TermKind.NAME), text)})"
        return f"if({self._look_up('is_sure', form)}, {self._look_up('subject', form)}, '')"

    def is_sure(self, text: str) -> str:
        """SQL: true where somebody is called so, and it is hardly a word."""
        return self._look_up("is_sure", self.fold_text(text))

    def fold_text(self, text: str) -> str:
        """SQL: a user name, address or id as it is compared."""
        folded = f"lowerUTF8({_strip(text)})"
        return f"if(match({folded}, '{_UUID}'), replaceAll({folded}, '-', ''), {folded})"

    def _look_up(self, column: str, value: str) -> str:
        return f"joinGet({quote_text(str(self.people))}, '{column}', {value})"

    def _invent_address(self, address: str) -> str:
        hashed = f"substring({self._hash('address', f'lowerUTF8({address})')}, 1, 16)"
        return f"concat({_begin(address)}, {hashed}, '@{DOMAIN}')"

    def _invent_digest(self, digest: str) -> str:
        """Of the address that takes the place of the one that was hashed; of an unknown one, something like a digest."""
        address = self._look_up("address", digest)
        known = f"lower(hex(SHA1(concat('mailto:', {self._invent_address(address)}))))"
        unknown = f"concat({self._hash('digest', digest)}, substring({self._hash('more', digest)}, 1, 8))"
        return f"if({address} != '', {known}, {unknown})"

    def _invent_uuid(self, text: str, lower: str) -> str:
        plain = self._hash("id", f"replaceAll({lower}, '-', '')")
        groups = "^(.{8})(.{4})(.{4})(.{4})(.{12})$"
        invented = f"replaceRegexpOne({plain}, '{groups}', '\\\\1-\\\\2-\\\\3-\\\\4-\\\\5')"
        return f"if(trimBoth({text}) = {lower}, {invented}, upper({invented}))"

    def _hash(self, purpose: str, text: str) -> str:
        """SQL: 32 hexadecimal digits that nobody can compute without the key."""
        key = f"(SELECT any(key) FROM {self.helper(_KEY).sql})"
        return f"lower(substring(hex(SHA256(concat({key}, '{purpose}:', {text}))), 1, 32))"


def _select_ids(table: TableName, column: str) -> str:
    """A query of the different ids in a column, as numbers."""
    number = f"toInt64OrNull(toString({quote(column)}))"
    return (
        f"SELECT DISTINCT assumeNotNull({number}) AS aspects_pii_id FROM {table.sql} "
        f"WHERE {number} > 0 AND {number} < {_LARGEST}"
    )


def _strip(text: str) -> str:
    """SQL: a text without blanks around it and without `mailto:`."""
    return f"replaceRegexpOne(trimBoth({text}), '^(?i:mailto:)', '')"


def _begin(text: str) -> str:
    """SQL: what an invented text begins with. Two that differ in capitals stay two for whoever tells them apart."""
    return f"if({text} = lowerUTF8({text}), 'learner_', 'Learner_')"
