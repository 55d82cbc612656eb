"""Random tables and rules, and what an erasure makes of them, in plain Python: what the engine is held against."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import SecretStr

from sink.erasure.pseudonyms import PSEUDONYM, is_pseudonym, keyed_hash, shape_like
from sink.names import TableName, quote
from sink.pii_map import PiiMap
from sink.store import Store

ENGINES = {
    "MergeTree": 6,
    "ReplacingMergeTree": 2,
    "ReplacingMergeTree(ver)": 2,
    "SummingMergeTree(n)": 1,
    "CollapsingMergeTree(sign)": 1,
    "VersionedCollapsingMergeTree(sign, ver)": 1,
}
TEXTS = ("String", "Nullable(String)", "LowCardinality(String)", "LowCardinality(Nullable(String))", "FixedString(60)")
IDS = ("Int64", "UInt32", "Nullable(Int64)", "String", "LowCardinality(String)", "FixedString(12)")
EXTRAS = {
    "projection": "PROJECTION by_course (SELECT course, note, count() GROUP BY course, note)",
    "index": "INDEX i note TYPE bloom_filter GRANULARITY 1",
    "constraint": "CONSTRAINT has_course CHECK length(course) > 0",
    "materialized": "low String MATERIALIZED lower(ifNull(note, ''))",
    "alias": "al String ALIAS upper(ifNull(note, ''))",
    "ephemeral": "ep String EPHEMERAL 'x'",
    "ttl": "",
}
KEPT = "kept"
REDACTIONS: dict[str, Any] = {
    "empty": "empty",
    "constant": {"constant": "Somebody"},
    "truncate": {"truncate": 4},
    "hash": "hash",
    "pseudonym": "pseudonym",
    "default": "default",
    "expression": {"expression": "concat('n', toString(n))"},
}

Row = dict[str, Any]
"""Column -> its value: bytes, a number or None."""


@dataclass(frozen=True)
class Case:
    """One table with its rule."""

    number: int
    engine: str
    key: str
    """`id`, `username`, `email`, or a path into JSON: `doc.actor`."""
    key_type: str
    note_type: str
    note: str | None
    """How the note is redacted, None where it is not."""
    path: bool
    """True where a name inside JSON is redacted."""
    moves: bool
    """True where the key itself becomes a pseudonym."""
    deletes: bool
    key_is_sorted: bool
    other_is_sorted: bool
    partitioned: bool
    unless: bool
    extras: tuple[str, ...]
    secret: SecretStr = field(repr=False)

    @property
    def target(self) -> str:
        """The table, as the map names it."""
        return f"event_sink.case_{self.number}"

    @property
    def people(self) -> list[int]:
        """The ids of four people, who are in no other case."""
        return [1_000_000 + self.number * 10 + place for place in range(4)]

    @property
    def holder(self) -> str:
        """The column that names the subject."""
        return "doc" if self.key == "doc.actor" else "who"

    def rule(self) -> dict[str, Any]:
        """The target, as the map has it."""
        redact: dict[str, Any] = {}
        if self.note is not None:
            redact["note"] = REDACTIONS[self.note]
        if self.path:
            redact["doc.name"] = {"constant": "Somebody"}
        if self.moves:
            redact["doc.actor" if self.holder == "doc" else "who"] = "pseudonym"
        on_retire: Any = {"redact": redact}
        if self.deletes:
            on_retire = {"delete": True, "redact": redact}
        if self.unless:
            on_retire["unless"] = {"column": "course", "values": [KEPT], "reason": "the law"}
        source = {"id": "id", "username": "username", "email": "mailto:{email}", "doc.actor": "mailto:{email}"}[
            self.key
        ]
        pii = {"note": "other", "who": "id", "doc.name": "name", "doc.actor": "email_address"}
        return {
            "match": {"doc.actor" if self.holder == "doc" else "who": source},
            "pii": pii,
            "on_retire": on_retire,
        }

    def pii_map(self, store: Store) -> PiiMap:
        """A map with the profiles and this table."""
        document = store.pii_map.model_dump(include={"version", "subject"}, mode="json")
        del document["subject"]["identifiers"]["external_id"]
        profile = {"match": {"user_id": "id"}, "pii": {"username": "username", "email": "email_address"}}
        targets = {"event_sink.user_profile": {**profile, "on_retire": "delete"}, self.target: self.rule()}
        return PiiMap.model_validate({**document, "targets": targets})

    def statement(self, table: TableName) -> str:
        """CREATE TABLE."""
        columns = [
            "uid UInt32",
            "course String",
            f"who {self.key_type}",
            f"note {self.note_type}",
            "other Nullable(String)",
            "doc String",
            "at DateTime DEFAULT now()",
            "n Int64",
        ]
        columns += ["ver UInt32"] if "ver" in self.engine else []
        columns += ["sign Int8"] if "sign" in self.engine else []
        columns += [EXTRAS[extra] for extra in self.extras if EXTRAS[extra]]
        order = [
            "course",
            *(["who"] if self.key_is_sorted else []),
            *(["other"] if self.other_is_sorted else []),
            "uid",
        ]
        partition = "PARTITION BY uid % 2 " if self.partitioned else ""
        ttl = "TTL at + INTERVAL 1 YEAR " if "ttl" in self.extras else ""
        settings = "allow_nullable_key = 1, deduplicate_merge_projection_mode = 'rebuild'"
        return (
            f"CREATE TABLE {table.sql} ({', '.join(columns)}) ENGINE = {self.engine} {partition}"
            f"ORDER BY ({', '.join(order)}) {ttl}SETTINGS {settings}"
        )

    def key_of(self, person: int) -> bytes:
        """What names a person in the table."""
        return {
            "id": str(person),
            "username": username(person),
            "email": f"mailto:{email(person)}",
            "doc.actor": f"mailto:{email(person)}",
        }[self.key].encode()

    def is_about(self, row: Row, person: int) -> bool:
        """True where a rule for `person` changes the row."""
        if self.unless and row["course"] == KEPT.encode():
            return False
        if self.holder == "doc":
            return bool(
                json.loads(row["doc"].decode("utf-8", "surrogateescape")).get("actor") == self.key_of(person).decode()
            )
        who = row["who"]
        if who is None:
            return False
        return bool((str(who).encode() if isinstance(who, int) else who.rstrip(b"\0")) == self.key_of(person))

    def retire(self, row: Row, subject: int | str) -> Row | None:
        """What becomes of a row of `subject`."""
        if self.deletes:
            return None
        new = dict(row)
        if (self.note is not None and row["note"] is not None) or self.note in ("expression", "default"):
            new["note"] = self._pad("note", self._redact(row, subject))
        if self.path:
            new["doc"] = new["doc"].replace(b'"name": "' + _name_of(row), b'"name": "Somebody')
        if self.moves:
            hashed = keyed_hash(self.secret, PSEUDONYM, subject)
            if self.holder == "doc":
                old = json.loads(row["doc"].decode("utf-8", "surrogateescape"))["actor"]
                new["doc"] = new["doc"].replace(old.encode(), shape_like(old, hashed).encode())
            elif row["who"] is not None:
                new["who"] = shape_like(row["who"].decode(), hashed).encode()
        return new

    def _redact(self, row: Row, subject: int | str) -> bytes | None:
        assert self.note is not None
        text = (row["note"] or b"").rstrip(b"\0") if "Fixed" in self.note_type else (row["note"] or b"")
        if self.note == "truncate":
            try:
                return text.decode()[:4].encode()
            except UnicodeDecodeError:
                return text[:4]
        if self.note in ("hash", "pseudonym"):
            hashed = keyed_hash(self.secret, PSEUDONYM if self.note == "pseudonym" else "other", subject)
            return hashed.encode()
        if self.note == "expression":
            return f"n{row['n']}".encode()
        if self.note == "default" and "Nullable" in self.note_type:
            return None
        return {"empty": b"", "constant": b"Somebody", "default": b""}[self.note]

    def _pad(self, column: str, value: bytes | None) -> bytes | None:
        return value.ljust(60, b"\0") if column == "note" and "Fixed" in self.note_type and value is not None else value


def username(person: int) -> str:
    """Their user name: it stands nowhere else."""
    return f"quokka{person}"


def email(person: int) -> str:
    """Their address."""
    return f"quokka{person}@example.org"


def _name_of(row: Row) -> bytes:
    return bytes(row["doc"].partition(b'"name": "')[2].partition(b'"')[0])


def make_case(number: int, secret: SecretStr) -> Case:
    """A random case; the same number, the same case."""
    chance = random.Random(number)
    key = chance.choice(["id", "username", "email", "doc.actor"])
    key_type = chance.choice(IDS) if key == "id" else chance.choice(TEXTS) if key != "doc.actor" else "Nullable(Int64)"
    deletes = chance.random() < 0.25
    moves = not deletes and key != "id" and "Fixed" not in key_type and chance.random() < 0.5
    path = chance.random() < 0.4
    note = chance.choice([None, *REDACTIONS])
    if not (path or moves or deletes):
        note = note or "empty"
    engine = chance.choices(list(ENGINES), list(ENGINES.values()))[0]
    return Case(
        number,
        engine=engine,
        key=key,
        key_type=key_type,
        note_type=chance.choice(TEXTS),
        note=note,
        path=path,
        moves=moves,
        deletes=deletes,
        key_is_sorted=key != "doc.actor" and chance.random() < 0.5,
        other_is_sorted=chance.random() < 0.3,
        partitioned=chance.random() < 0.5,
        unless=chance.random() < 0.3,
        extras=tuple(
            extra
            for extra in EXTRAS
            # ClickHouse has projections of tables that keep every row, or the last.
            if chance.random() < 0.3 and (extra != "projection" or "Replacing" in engine or engine == "MergeTree")
        ),
        secret=secret,
    )


def make_rows(case: Case) -> list[Row]:
    """Rows about three of the four people and about nobody, some of them twice, some no text."""
    chance = random.Random(case.number)
    rows: list[Row] = []
    for uid in range(40):
        person = chance.choice([*case.people[:3], case.people[0], 0])
        name = f"Quokka {person}" if person else ""
        actor = f'"mailto:{email(person)}"' if person else "null"
        odd = chance.choice([b"plain", b"M\xe9xico", "señor".encode(), b"", b"\xff\x00x"])
        who: Any = case.key_of(person) if person and case.holder == "who" else b""
        if case.key_type.endswith(("Int64", "Int64)", "Int32")):
            who = int(who or 0) if case.holder == "who" else None
        if "Nullable" in case.key_type and not person:
            who = None
        if "FixedString" in case.key_type:
            who = who.ljust(int(case.key_type.partition("(")[2][:-1]), b"\0")
        note: bytes | None = chance.choice([f"says {name}".encode(), odd, b"yes"])
        if "Nullable" in case.note_type and chance.random() < 0.3:
            note = None
        if note is not None and "Fixed" in case.note_type:
            note = note.ljust(60, b"\0")
        row: Row = {
            "uid": uid,
            "course": chance.choice(["c1", "c2", KEPT]).encode(),
            "who": who,
            "note": note,
            "other": chance.choice([None, b"other", odd]),
            "doc": b'{ "actor": '
            + actor.encode()
            + b', "n": 1.50, "name": "'
            + (name.encode() or b"x")
            + b'", "odd": 1e2 }',
            "n": 6,
        }
        if "ver" in case.engine:
            row["ver"] = 1
        if "sign" in case.engine:
            row["sign"] = 1
        rows += [row] * chance.choice([1, 1, 2])
    return rows


def fill(store: Store, case: Case, rows: Sequence[Row]) -> None:
    """Make the case's table and profiles. Bytes go in as digits: the driver sends texts only."""
    client, table = store.client, store.client.table(case.target)
    client.execute(case.statement(table))
    columns = list(rows[0])
    kinds = ", ".join(f"{quote(c)} {'Nullable(String)' if c != 'uid' else 'UInt32'}" for c in columns)
    client.execute("DROP TEMPORARY TABLE IF EXISTS digits")
    client.execute(f"CREATE TEMPORARY TABLE digits ({kinds})")
    client.insert("digits", columns, [[_to_digits(row[c], c) for c in columns] for row in rows])
    chosen = ", ".join(_from_digits(case, rows, column) for column in columns)
    client.execute(
        f"INSERT INTO {table.sql} ({', '.join(columns)}) SELECT {chosen} FROM digits", {"optimize_on_insert": 0}
    )
    client.insert(
        client.table("event_sink.user_profile"),
        ["user_id", "username", "email"],
        [(person, username(person), email(person).replace("q", "Q")) for person in case.people],
    )


def _to_digits(value: Any, column: str) -> Any:
    if column == "uid" or value is None:
        return value
    return (value if isinstance(value, bytes) else str(value).encode()).hex()


def _from_digits(case: Case, rows: Sequence[Row], column: str) -> str:
    if column == "uid":
        return column
    text = f"unhex({column})"
    kind = {"who": case.key_type, "note": case.note_type, "other": "Nullable(String)"}.get(column, "")
    if any(isinstance(row[column], int) for row in rows):
        text = f"toInt64OrNull({text})"
    return text if "Nullable" in kind else f"assumeNotNull({text})"


def read(store: Store, case: Case) -> list[Row]:
    """What the table holds."""
    columns = [*make_rows(case)[0], *(["low"] if "materialized" in case.extras else [])]
    chosen = ", ".join(f"hex(toString({quote(c)}))" for c in columns)
    found = store.client.rows(f"SELECT {chosen} FROM {store.client.table(case.target).sql}")
    return [{c: None if d is None else bytes.fromhex(d) for c, d in zip(columns, row, strict=True)} for row in found]


def normalise(case: Case, rows: Iterable[Row], *, hide_pseudonyms: bool = False) -> Counter[Any]:
    """Rows as far as merges leave them alone, as row -> how often, or how much."""
    counts: Counter[Any] = Counter()
    for row in rows:
        # A FixedString is filled up with zero bytes that a query does not show.
        cells = {
            c: v.rstrip(b"\0") if isinstance(v, bytes) else None if v is None else str(v).encode()
            for c, v in row.items()
        }
        if "materialized" in case.extras:
            # As the engine makes it from what is there.
            cells["low"] = bytes((cells["note"] or b"").lower())
        amount = int(cells.pop("n") or 0) if case.engine.startswith("Summing") else 1
        key = tuple(sorted((c, _hide(case.secret, v) if hide_pseudonyms else v) for c, v in cells.items()))
        counts[key] = counts[key] + amount if case.engine.startswith(("Merge", "Summing")) else 1
    return counts


def _hide(secret: SecretStr, value: bytes | None) -> bytes | None:
    if value is None:
        return None
    text = value.rstrip(b"\0").decode("utf-8", "replace")
    if is_pseudonym(secret, text):
        return b"P"
    if '"actor": "mailto:' in text:
        before, _, rest = text.partition('"actor": "')
        actor, _, after = rest.partition('"')
        if is_pseudonym(secret, actor):
            return f'{before}"actor": "P"{after}'.encode()
    return value


def apply(case: Case, rows: Iterable[Row], person: int) -> list[Row]:
    """What a retirement of `person` leaves."""
    changed = [case.retire(row, person) if case.is_about(row, person) else row for row in rows]
    return [row for row in changed if row is not None]


def apply_to_all(case: Case, rows: Iterable[Row]) -> list[Row]:
    """What a purge leaves; pseudonyms are not the model's business."""
    left = []
    for row in rows:
        exempt = case.unless and row["course"] == KEPT.encode()
        nobody = case.holder == "doc" and json.loads(row["doc"].decode("utf-8", "surrogateescape"))["actor"] is None
        new = row if exempt or nobody else case.retire(row, "anybody")
        if new is not None:
            left.append(new)
    return left


class Killed(BaseException):
    """The process is gone: nothing of it runs any more, not even what tidies up."""


class Killer:
    """Lets a client run so many statements that change something, and none after that."""

    def __init__(self, store: Store, patch: Callable[[object, str, object], None]) -> None:
        self.count = 0
        self.at: int | None = None
        client = store.client
        for name in ("execute", "insert"):
            patch(client, name, self._wrap(getattr(client, name)))
        patch(client, "rows", self._wrap(client.rows, counts=False))

    def _wrap(self, real: Callable[..., Any], *, counts: bool = True) -> Callable[..., Any]:
        def run(*arguments: Any, **values: Any) -> Any:
            if self.at is not None and self.count >= self.at:
                raise Killed
            self.count += counts
            return real(*arguments, **values)

        return run

    def arm(self, at: int) -> None:
        """Kill before the statement number `at` from now, counted from 0."""
        self.count, self.at = 0, at

    def restart(self) -> None:
        """A new process."""
        self.at = None


def with_map(store: Store, case: Case) -> Store:
    """The store with the case's map."""
    return replace(store, pii_map=case.pii_map(store))
