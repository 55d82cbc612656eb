"""The LMS read by ClickHouse itself: what comes of it is what comes of Python's reading, on every database."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url, update

from sink.copying.copies import plan_copies
from sink.copying.sync import sync
from sink.demo_data.lms_tables import EXTERNAL_IDS, PROFILES, USERS
from sink.errors import LmsUnreachableError, SettingsError
from sink.lms.database import LmsDatabase
from sink.lms.passed import PassedQueries
from sink.store import Store
from tests.support.lms_places import Place, each_kind, open_place

OBJECTS = ("user_profile", "external_id")
LONGEST = 1 << 20
# What a driver, an engine or a collation may make something else of.
TEXTS = [
    "",
    " ",
    "ü😀𝔘",
    "a\u0000b",
    "\u0000",
    "tail ",
    "'\"\\%\n\t",
    "NULL",
    "\\N",
    "\ufeffx",
    "0",
    "e\u0301",
    "\U0010ffff",
]
HUGE = ["x" * LONGEST, "x" * (LONGEST + 1), "é" * (LONGEST // 2), "é" * (LONGEST // 2) + "x"]
TIMES = [
    datetime(2020, 1, 1, tzinfo=UTC),
    datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2024, 2, 29, 12, 0, 0, 120000, tzinfo=UTC),
    datetime(1000, 1, 1, tzinfo=UTC),
    datetime(1900, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2262, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
]
# SQLite takes anything into any column.
ANYTHING = [
    *(
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"ok",
        b"a\x00b",
        b"",
        b"\xc3",
        7,
        2**62,
        -5,
        1.5,
        "12",
        "007",
        "-0",
        "x",
        "1" * 19,
        None,
    ),
    *(
        "2020-02-30 00:00:00",
        "2020-01-01T00:00:00+02:00",
        "2020-01-01 00:00:00.12",
        "2020-01-01 24:00:00",
        "2020-01-01",
    ),
    *("0000-00-00 00:00:00", "2020-01-01 00:00:00.123456 ", "20200101T000000", "2020-01-01 00:00:60"),
    *("0" * 32, "A" * 32, "0" * 31, "00000000-0000-0000-0000-00000000000a", "0-0000000000000000000000000000000000"),
]

profiles = st.fixed_dictionaries(
    {
        "name": st.one_of(st.sampled_from(TEXTS), st.text(max_size=255)),
        "goals": st.one_of(st.none(), st.sampled_from(TEXTS), st.text(max_size=400)),
        "bio": st.one_of(st.none(), st.sampled_from(TEXTS), st.text(max_size=3000)),
        "country": st.one_of(st.none(), st.sampled_from(["", "ES", "é😀"])),
        "year_of_birth": st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
        "profile_image_uploaded_at": st.one_of(st.none(), st.sampled_from(TIMES)),
    }
)
ODD_COLUMNS = ["name", "goals", "country", "year_of_birth", "profile_image_uploaded_at", "external_user_id"]
PEOPLE = 30


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as place:
        yield place


@pytest.fixture
def lms(place: Place, store: Store) -> LmsDatabase:
    """An LMS of that kind with six people, and a named collection `lms` that reads it."""
    place.create_tables()
    register(place, range(1, 7))
    name_collection(store, place)
    return LmsDatabase(place.url)


def register(place: Place, user_ids: range) -> None:
    writer = place.writer()
    for user_id in user_ids:
        writer.register_user(user_id, f"reader_{user_id}", f"reader_{user_id}@example.org", f"Reader {user_id}")
    writer.close()


def name_collection(store: Store, place: Place) -> None:
    if place.is_sqlite:
        return
    url = make_url(place.url)
    store.client.execute(
        f"CREATE NAMED COLLECTION lms AS host = '{url.host}', port = {url.port or 3306}, user = '{url.username}', "
        f"password = '', database = '{url.database}'"
    )


def reading(store: Store, reader: str, *, batch_size: int = 1000) -> Store:
    policy = replace(store.policy, lms_reader=reader, lms_collection="lms", sync_batch_size=batch_size)
    return replace(store, policy=policy)


def copy_anew(store: Store, lms: LmsDatabase, reader: str, **options: Any) -> dict[str, Any]:
    """Copy into empty tables: what is in them then, and what was counted."""
    for name in OBJECTS:
        store.client.execute(f"TRUNCATE TABLE {store.client.table(f'event_sink.{name}').sql}")
    counted = sync(reading(store, reader, **options), lms, enabled=True, objects=OBJECTS)
    assert {count.reader for count in counted} == {reader}, [count.reader_note for count in counted]
    return {"rows": read_rows(store), "counts": [without_reader(count) for count in counted]}


def without_reader(count: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(count).items() if not name.startswith("reader")}


def read_rows(store: Store) -> list[list[tuple[Any, ...]]]:
    return [
        store.client.rows(
            f"SELECT {', '.join(f'hex(toString({column}))' for column in copy.columns)} FROM {copy.table.name.sql} ORDER BY ALL"
        )
        for copy in plan_copies(store, OBJECTS)
    ]


def write_profiles(place: Place, found: list[dict[str, Any]]) -> None:
    with place.engine() as engine, engine.begin() as connection:
        for user_id, values in enumerate(found, start=1):
            fitting = {name: fit(place, value) for name, value in values.items()}
            connection.execute(update(PROFILES).where(PROFILES.c.user_id == user_id).values(**fitting))


def fit(place: Place, value: Any) -> Any:
    """A value as the column takes it: PostgreSQL has no NUL, the others no time zones."""
    if isinstance(value, datetime):
        return value if place.kind == "postgresql" else value.replace(tzinfo=None)
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()
        return value.replace("\x00", "") if place.kind == "postgresql" else value
    return value


@each_kind
def test_both_readers_copy_the_same(place: Place, store: Store, lms: LmsDatabase) -> None:
    register(place, range(7, PEOPLE + 1))

    @settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
    @given(found=st.lists(profiles, min_size=PEOPLE, max_size=PEOPLE))
    @example(found=[{"name": text, "goals": text, "bio": text} for text in TEXTS])
    @example(found=[{"goals": text} for text in HUGE])
    @example(found=[{"profile_image_uploaded_at": at} for at in TIMES])
    def compare(found: list[dict[str, Any]]) -> None:
        write_profiles(place, found)
        by_python = copy_anew(store, lms, "python")
        assert copy_anew(store, lms, "clickhouse", batch_size=4) == by_python
        again = sync(reading(store, "clickhouse"), lms, enabled=True, objects=OBJECTS)
        assert [(count.inserted, count.changed, count.removed) for count in again] == [(0, 0, 0)] * 2

    compare()


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_both_readers_find_the_same_rows_bad(place: Place, store: Store, lms: LmsDatabase) -> None:
    odd = list(enumerate(itertools.product(ODD_COLUMNS, ANYTHING), start=7))
    register(place, range(7, 7 + len(odd)))
    connection = sqlite3.connect(make_url(place.url).database or "")
    with connection:
        for user_id, (column, value) in odd:
            table = EXTERNAL_IDS.name if column == "external_user_id" else PROFILES.name
            placed = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
            # Where NULL is not allowed, it stays what it was.
            connection.execute(f"UPDATE OR IGNORE {table} SET {column} = {placed} WHERE user_id = ?", (value, user_id))
    connection.close()
    by_python = copy_anew(store, lms, "python")
    assert [len(count["bad"]) > 10 for count in by_python["counts"]] == [True, True]
    by_engine = copy_anew(store, lms, "clickhouse", batch_size=20)
    for name in ("rows", "counts"):
        assert by_engine[name] == by_python[name]


@pytest.mark.parametrize("place", [pytest.param("mariadb-uuid", marks=pytest.mark.mariadb)], indirect=True)
def test_a_zero_date_is_bad_to_both(place: Place, store: Store, lms: LmsDatabase) -> None:
    place.execute(
        "SET SESSION sql_mode = ''",
        f"UPDATE {PROFILES.name} SET profile_image_uploaded_at = '0000-00-00 00:00:00' WHERE user_id = 2",
        f"UPDATE {PROFILES.name} SET profile_image_uploaded_at = '2020-00-10 00:00:00' WHERE user_id = 3",
    )
    by_python = copy_anew(store, lms, "python")
    assert [bad["user_id"] for bad in by_python["counts"][0]["bad"]] == [2, 3]
    assert copy_anew(store, lms, "clickhouse") == by_python


@each_kind
def test_of_a_copy_only_what_changed_is_written(place: Place, store: Store, lms: LmsDatabase) -> None:
    engine_reads = reading(store, "clickhouse", batch_size=1)
    sync(engine_reads, lms, enabled=True, objects=OBJECTS)
    store.ledger.request([5])
    with place.engine() as engine, engine.begin() as connection:
        connection.execute(update(PROFILES).where(PROFILES.c.user_id == 3).values(bio="new"))
        connection.execute(EXTERNAL_IDS.delete().where(EXTERNAL_IDS.c.user_id == 4))
        connection.execute(update(PROFILES).where(PROFILES.c.user_id == 6).values(id=1006, name="anew"))
    profile, external = sync(engine_reads, lms, enabled=True, objects=OBJECTS, allow_removals=True)
    assert (profile.read, profile.inserted, profile.changed, profile.unchanged, profile.retired) == (6, 0, 2, 3, 1)
    assert external.removed_subjects == 1
    bios = dict(store.client.rows("SELECT toInt64(user_id), bio FROM $event_sink.user_profile"))
    assert (bios[3], sorted(bios)) == ("new", [1, 2, 3, 4, 6])


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_what_clickhouse_does_not_see_is_not_removed(
    place: Place, store: Store, lms: LmsDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = copy_anew(store, lms, "clickhouse")["rows"]
    ids, rows = PassedQueries.write_user_ids, PassedQueries.write_rows
    # A connection that breaks half-way, and nobody says so.
    monkeypatch.setattr(PassedQueries, "write_user_ids", lambda *a: f"{ids(*a)} AND auth_user.id > 2 LIMIT 3")
    monkeypatch.setattr(PassedQueries, "write_rows", lambda *a: f"{rows(*a)} LIMIT 1")
    for count in sync(reading(store, "clickhouse"), lms, enabled=True, objects=OBJECTS):
        assert (count.reader, count.removed, count.removed_subjects) == ("clickhouse", 0, 0)
    assert read_rows(store) == expected


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_reading_that_breaks_off_is_told_and_removes_nothing(
    place: Place, store: Store, lms: LmsDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = copy_anew(store, lms, "clickhouse")["rows"]
    monkeypatch.setattr(PassedQueries, "write_rows", lambda *_: "SELECT nothing FROM nowhere")
    with pytest.raises(LmsUnreachableError, match="ASPECTS_LMS_READER=python"):
        sync(reading(store, "clickhouse"), lms, enabled=True, objects=OBJECTS)
    assert read_rows(store) == expected


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("mariadb-uuid", marks=pytest.mark.mariadb),
        pytest.param("postgresql", marks=pytest.mark.postgres),
    ],
    indirect=True,
)
class TestChoice:
    def test_a_working_collection_is_taken(self, place: Place, store: Store, lms: LmsDatabase) -> None:
        counts = sync(reading(store, "auto"), lms, enabled=True)
        assert [count.reader for count in counts] == ["clickhouse", "clickhouse", "python"]

    def test_a_few_users_are_read_by_python(self, place: Place, store: Store, lms: LmsDatabase) -> None:
        assert {c.reader for c in sync(reading(store, "auto"), lms, enabled=True, user_ids=[3])} == {"python"}

    def test_another_database_is_not_copied(self, place: Place, store: Store, lms: LmsDatabase) -> None:
        place.execute(update(USERS).values(username=USERS.c.username + "x"))
        with lms.snapshot() as snapshot:
            ours = snapshot.passed_queries().read_sample()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PassedQueries, "read_sample", lambda self: dict.fromkeys(ours, b"somebody else"))
            counts = sync(reading(store, "auto"), lms, enabled=True)
            assert {count.reader for count in counts} == {"python"}
            assert "another database" in counts[0].reader_note
            with pytest.raises(SettingsError, match="another database"):
                sync(reading(store, "clickhouse"), lms, enabled=True)

    def test_a_wrong_password_leaves_it_to_python(self, place: Place, store: Store, lms: LmsDatabase) -> None:
        store.client.execute("DROP NAMED COLLECTION lms")
        store.client.execute(
            "CREATE NAMED COLLECTION lms AS host = '127.0.0.1', port = 1, user = 'u', password = 'hunter2', database = 'x'"
        )
        counts = sync(reading(store, "auto"), lms, enabled=True, objects=OBJECTS)
        assert [(count.reader, count.read) for count in counts] == [("python", 6)] * 2
        assert counts[0].reader_note
        assert "hunter2" not in counts[0].reader_note

    def test_a_column_of_another_type_is_read_by_python(self, place: Place, store: Store, lms: LmsDatabase) -> None:
        kind = "bytea USING bio::bytea" if place.kind == "postgresql" else "longblob"
        verb = "ALTER COLUMN bio TYPE" if place.kind == "postgresql" else "MODIFY bio"
        place.execute(f"ALTER TABLE {PROFILES.name} {verb} {kind}")
        profile, external = sync(reading(store, "auto"), lms, enabled=True, objects=OBJECTS)
        assert (profile.reader, external.reader) == ("python", "clickhouse")
        assert "auth_userprofile.bio" in profile.reader_note
