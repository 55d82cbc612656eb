"""The LMS database, read: the same tests on SQLite, the real MariaDB (both kinds of anonymous id) and PostgreSQL."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import re
import sys
import tracemalloc
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import URL, create_engine, insert, text, update

from sink.demo_data.lms_description import UNTIL, describe_lms
from sink.demo_data.lms_rows import make_profile_rows, make_user_rows
from sink.demo_data.lms_tables import (
    EXTERNAL_IDS,
    PROFILES,
    ROLES,
    USERS,
    insert_all,
)
from sink.demo_data.people import make_external_id, make_person, make_username
from sink.errors import LmsAddressError, LmsError, LmsSchemaError, LmsUnreachableError, SettingsError
from sink.lms import names
from sink.lms.database import LmsDatabase
from sink.lms.objects import OBJECTS
from sink.lms.values import MAX_TEXT_BYTES, BadRow
from tests.support.authz_rows import ALL, ALL_OF_ORG, COURSE, OTHER_COURSE, POLICY, UPSTREAM, grant, write_rules
from tests.support.lms_places import (
    MARIADB,
    PARAMETERS,
    Place,
    disposing,
    each_database,
    each_kind,
    open_place,
)
from tests.support.lms_writer import LmsWriter


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as place:
        yield place


@pytest.fixture
def writer(place: Place) -> Iterator[LmsWriter]:
    writer = place.writer()
    yield writer
    writer.close()


def read(place: Place, name: str, columns: tuple[str, ...] = (), **arguments: Any) -> list[dict[str, Any]]:
    """All good rows as dictionaries; there must be no bad ones."""
    rows, bad = read_all(place, name, columns, **arguments)
    assert bad == []
    return rows


def read_all(
    place: Place, name: str, columns: tuple[str, ...] = (), batch_size: int = 1000, user_ids: list[int] | None = None
) -> tuple[list[dict[str, Any]], list[BadRow]]:
    columns = columns or tuple(OBJECTS[name].columns)
    rows, bad = [], []
    with LmsDatabase(place.url).snapshot() as snapshot:
        for batch in snapshot.rows(name, columns, batch_size, user_ids):
            rows += [dict(zip(columns, row, strict=True)) for row in batch.rows]
            bad += batch.bad
        assert snapshot.count_rows(name, user_ids) == len(rows) + len(bad)
    return rows, bad


@each_database
class TestObjects:
    def test_profile_is_read_as_text(self, place: Place, writer: LmsWriter) -> None:
        place.create_tables()
        writer.register_user(
            7,
            "ana",
            "ana@example.org",
            "Ana Müller-Ōe 🎓",
            year_of_birth=1990,
            country="ES",
            profile_image_uploaded_at=UNTIL.replace(tzinfo=None, microsecond=120),
        )
        (row,) = read(place, "user_profile")
        assert isinstance(row.pop("id"), int)
        image = "2026-06-30T12:00:00.000120Z"
        expected = dict.fromkeys(OBJECTS["user_profile"].columns, "")
        expected |= {"user_id": 7, "name": "Ana Müller-Ōe 🎓", "username": "ana", "email": "ana@example.org"}  # type: ignore[dict-item]
        expected |= {"year_of_birth": "1990", "country": "ES", "profile_image_uploaded_at": image}
        del expected["id"]
        assert row == expected
        assert all(type(value) in (int, str) for value in row.values())

    def test_zero_bytes_and_line_ends_stay(self, place: Place, writer: LmsWriter) -> None:
        place.create_tables()
        # PostgreSQL has no zero bytes in texts.
        told = "one\r\ntwo\t'\"\\ %s" + ("" if place.kind == "postgresql" else "\x00three")
        writer.register_user(1, "a", "a@example.org", "A", bio=told)
        assert [row["bio"] for row in read(place, "user_profile", ("user_id", "bio"))] == [told]

    def test_course_access_is_of_courses_organisations_and_everywhere(self, place: Place, writer: LmsWriter) -> None:
        place.create_tables()
        course = "course-v1:X+1+2026"
        for user_id in range(1, 9):
            writer.register_user(user_id, f"u{user_id}", f"u{user_id}@example.org", "U")
        writer.grant_role(1, "X", course, "instructor")
        writer.grant_role(1, "X", course, "staff")
        writer.grant_role(2, "X", course, "limited_staff")
        writer.grant_role(3, "X", "", "staff")
        writer.grant_role(4, "", "", "staff")
        writer.grant_role(5, "X", course, "beta_testers")
        writer.grant_role(6, "X", course, "staff")
        place.execute(
            update(USERS).where(USERS.c.id.in_([4, 7])).values(is_staff=True),
            update(USERS).where(USERS.c.id == 8).values(is_superuser=True),
            update(USERS).where(USERS.c.id == 6).values(is_active=False),
        )
        columns = ("user_id", "org", "course_key", "role")
        rows = [tuple(row[c] for c in columns) for row in read(place, "course_access")]
        assert sorted(rows) == [
            (1, "X", course, "instructor"),
            (1, "X", course, "staff"),
            (2, "X", course, "limited_staff"),
            (3, "X", "", "staff"),
            # Once, although both the flag and a role say so.
            (4, "", "", "staff"),
            (7, "", "", "staff"),
            (8, "", "", "staff"),
        ]
        with LmsDatabase(place.url).snapshot() as snapshot:
            assert list(snapshot.user_ids("course_access")) == [[1, 2, 3, 4, 7, 8]]

    def test_rows_without_a_user_are_left_out(self, place: Place) -> None:
        place.fill()
        place.execute("DELETE FROM auth_user WHERE id IN (5, 20)")
        for name in ("user_profile", "external_id"):
            users = {row["user_id"] for row in read(place, name)}
            assert users == set(range(1, 61)) - {5, 20}
            with LmsDatabase(place.url).snapshot() as snapshot:
                assert [u for ids in snapshot.user_ids(name) for u in ids] == sorted(users)

    def test_columns_are_those_asked_for_in_that_order(self, place: Place) -> None:
        place.fill()
        rows = read(place, "user_profile", ("email", "user_id"))
        assert len(rows) == 60
        assert [list(row) for row in rows] == [["email", "user_id"]] * 60


@each_kind
def test_anonymous_ids_are_uuids_in_one_spelling(place: Place) -> None:
    lms = place.fill()
    rows = read(place, "external_id")
    assert len(rows) == 63
    expected = {(u, "xapi"): str(make_external_id(lms.seed, u)) for u in range(1, 61)}
    expected |= {(u, "lti"): str(make_external_id(lms.seed, u, "lti")) for u in (20, 40, 60)}
    assert {(row["user_id"], row["external_id_type"]): row["external_user_id"] for row in rows} == expected
    assert {row["user_id"]: row["username"] for row in rows} == {u: make_username(lms.seed, u) for u in range(1, 61)}


@each_database
class TestBatches:
    def test_users_are_whole_and_ascending_whatever_the_size(self, place: Place) -> None:
        lms = place.fill()
        place.execute(*(insert(ROLES).values(**role) for role in many_roles(lms.courses[0].key, user_id=30)))
        for name, total in (("external_id", 63), ("course_access", 31), ("user_profile", 60)):
            assert len(read(place, name)) == total
            for size in (1, 2, 7, 62, 63, 64):
                with LmsDatabase(place.url).snapshot() as snapshot:
                    batches = list(snapshot.rows(name, ("user_id", "username"), size))
                users = [[row[0] for row in batch.rows] for batch in batches]
                assert sum(map(len, users)) == total
                assert [u for batch in users for u in batch] == sorted(u for batch in users for u in batch)
                assert [batch[-1] for batch in users] == [batch.last_user_id for batch in batches]
                assert all(before[-1] < after[0] for before, after in itertools.pairwise(users))
                # Only one user's rows may make a batch longer.
                assert all(len(batch) <= size or len(set(batch)) == 1 for batch in users)

    def test_chosen_users(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        place.fill()
        monkeypatch.setattr("sink.lms.snapshot._MAX_VALUES_PER_STATEMENT", 3)
        wanted = [59, 3, 20, 40, 3, 999_999_999_999]
        rows = read(place, "external_id", batch_size=2, user_ids=wanted)
        assert [row["user_id"] for row in rows] == [3, 20, 20, 40, 40, 59]
        assert read(place, "external_id", user_ids=[]) == []

    def test_user_ids_come_in_chunks(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        place.fill()
        monkeypatch.setattr("sink.lms.snapshot._PAGE_USERS", 25)
        with LmsDatabase(place.url).snapshot() as snapshot:
            chunks = list(snapshot.user_ids("external_id"))
        assert list(map(len, chunks)) == [25, 25, 10]
        assert [u for chunk in chunks for u in chunk] == list(range(1, 61))

    def test_readings_may_be_interleaved(self, place: Place) -> None:
        place.fill()
        with LmsDatabase(place.url).snapshot() as snapshot:
            seen = []
            for batch in snapshot.rows("user_profile", ("user_id",), 20):
                seen += [row[0] for row in batch.rows]
                assert snapshot.count_rows("external_id") == 63
                next(snapshot.rows("external_id", ("user_id",), 5))
        assert seen == list(range(1, 61))

    def test_empty_database(self, place: Place) -> None:
        place.create_tables()
        for name in OBJECTS:
            assert read(place, name) == []
            with LmsDatabase(place.url).snapshot() as snapshot:
                assert list(snapshot.user_ids(name)) == []


def many_roles(course_key: str, user_id: int) -> Iterator[dict[str, Any]]:
    for number in range(20):
        yield {
            "id": 1000 + number,
            "user_id": user_id,
            "org": "X",
            "course_id": f"{course_key}{number}",
            "role": "staff",
        }


@each_database
def test_snapshot_is_of_one_moment(place: Place, writer: LmsWriter) -> None:
    """A writer who changes, adds and removes between the batches is not seen."""
    place.fill()
    if place.is_sqlite:
        # Without it, SQLite keeps the writer waiting until the reader has finished, which is consistent too.
        place.execute("PRAGMA journal_mode=WAL")
    before = read(place, "user_profile")
    columns = tuple(OBJECTS["user_profile"].columns)
    with LmsDatabase(place.url).snapshot() as snapshot:
        batches = snapshot.rows("user_profile", columns, 20)
        rows = next(batches).rows
        writer.change_profile(50, name="Somebody else")
        writer.delete_user(51)
        writer.register_user(61, "late", "late@example.org", "Late")
        writer.grant_role(61, "X", "", "staff")
        for batch in batches:
            rows += batch.rows
        assert 61 not in [u for ids in snapshot.user_ids("course_access") for u in ids]
        assert snapshot.count_rows("user_profile") == 60
    assert [dict(zip(columns, row, strict=True)) for row in rows] == before
    after = {row["user_id"]: row["name"] for row in read(place, "user_profile")}
    assert after[50] == "Somebody else"
    assert 51 not in after
    assert 61 in after


@each_database
def test_snapshot_cannot_write(place: Place) -> None:
    place.fill()
    with (
        LmsDatabase(place.url).snapshot() as snapshot,
        pytest.raises(Exception, match=r"(?i)read[- ]?only"),
    ):
        snapshot._connection.exec_driver_sql("UPDATE auth_user SET username = 'x' WHERE id = 1")


@each_database
def test_memory_does_not_grow_with_the_number_of_users(place: Place) -> None:
    peaks = []
    place.create_tables()
    for number, users in enumerate((500, 4_500)):
        lms = describe_lms(5_000, 3)
        first = 1 + number * 500
        with place.engine() as engine, engine.begin() as connection:
            insert_all(connection, USERS, slice_rows(make_user_rows(lms), first, users))
            insert_all(connection, PROFILES, slice_rows(make_profile_rows(lms), first, users))
        with LmsDatabase(place.url).snapshot() as snapshot:
            # Statements are compiled once and kept.
            next(snapshot.rows("user_profile", tuple(OBJECTS["user_profile"].columns), 250))
            gc.collect()
            tracemalloc.start()
            total = sum(
                len(batch.rows) for batch in snapshot.rows("user_profile", tuple(OBJECTS["user_profile"].columns), 250)
            )
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert total == first - 1 + users
    # Ten times the users: it would be ten times the memory. What is left is when garbage happens to be collected.
    assert peaks[1] < 3 * peaks[0]


def slice_rows(rows: Iterator[dict[str, Any]], first: int, number: int) -> Iterator[dict[str, Any]]:
    return (row for i, row in enumerate(rows, start=1) if first <= i < first + number)


SECRET = "Zaphod Beeblebrox"


@each_database
class TestBadRows:
    """A bad row is named by user, key and column, never by value; the others are read."""

    @pytest.fixture(autouse=True)
    def three_users(self, place: Place, writer: LmsWriter) -> None:
        place.create_tables()
        for user_id in (1, 2, 3):
            writer.register_user(user_id, f"u{user_id}", f"u{user_id}@example.org", f"{SECRET} {user_id}")

    def widen(self, place: Place, column: str, *, to: dict[str, str]) -> None:
        """Change the type of a profile's column; SQLite takes anything anywhere."""
        kind = place.kind.partition("-")[0]
        if kind == "mariadb":
            place.execute(f"ALTER TABLE auth_userprofile MODIFY {column} {to[kind]}")
        elif kind == "postgresql":
            place.execute(f"ALTER TABLE auth_userprofile ALTER {column} TYPE {to[kind]}")

    def expect(self, place: Place, column: str, reason: str) -> None:
        rows, bad = read_all(place, "user_profile", batch_size=2)
        assert [row["user_id"] for row in rows] == [1, 3]
        assert [(b.user_id, b.column) for b in bad] == [(2, column)]
        assert re.search(reason, bad[0].reason)
        assert bad[0].key.isdigit()
        assert SECRET.split()[0] not in repr(bad)

    def test_invalid_utf8(self, place: Place) -> None:
        self.widen(place, "bio", to={"mariadb": "longblob", "postgresql": "bytea USING bio::bytea"})
        bad = {"postgresql": r"'\xff5a61'::bytea", "sqlite": "CAST(x'ff5a61' AS TEXT)"}.get(place.kind, "x'ff5a61'")
        place.execute(f"UPDATE auth_userprofile SET bio = {bad.replace(':', chr(92) + ':')} WHERE user_id = 2")
        self.expect(place, "bio", "UTF-8")

    def test_good_text_in_a_blob(self, place: Place) -> None:
        self.widen(place, "bio", to={"mariadb": "longblob", "postgresql": "bytea USING bio::bytea"})
        good = "convert_to('é', 'UTF8')" if place.kind == "postgresql" else "'é'"
        place.execute(f"UPDATE auth_userprofile SET bio = {good} WHERE user_id = 2")
        assert [row["bio"] for row in read(place, "user_profile")] == ["", "é", ""]

    @pytest.mark.parametrize("length", [7, 25, 100])
    def test_longer_than_the_lms_allows(self, place: Place, length: int) -> None:
        self.widen(place, "gender", to={"mariadb": "varchar(200)", "postgresql": "varchar(200)"})
        place.execute(update(PROFILES).where(PROFILES.c.user_id == 2).values(gender="é" * length))
        place.execute(update(PROFILES).where(PROFILES.c.user_id == 3).values(gender="🎓" * 6))
        self.expect(place, "gender", "longer than 6 characters")

    def test_longer_than_a_mebibyte(self, place: Place, writer: LmsWriter) -> None:
        writer.change_profile(1, goals="g" * MAX_TEXT_BYTES)
        writer.change_profile(2, goals="g" * (MAX_TEXT_BYTES - 1) + "é")
        self.expect(place, "goals", "longer than 1 MiB")

    def test_year_that_is_no_number(self, place: Place) -> None:
        self.widen(place, "year_of_birth", to={"mariadb": "varchar(20)", "postgresql": "varchar(20)"})
        place.execute(
            "UPDATE auth_userprofile SET year_of_birth = 'abc' WHERE user_id = 2",
            "UPDATE auth_userprofile SET year_of_birth = '1990' WHERE user_id = 3",
        )
        self.expect(place, "year_of_birth", "not an integer")
        assert read_all(place, "user_profile")[0][1]["year_of_birth"] == "1990"

    def test_time_that_is_none(self, place: Place) -> None:
        column = "profile_image_uploaded_at"
        self.widen(place, column, to={"mariadb": "varchar(40)", "postgresql": "varchar(40)"})
        place.execute(f"UPDATE auth_userprofile SET {column} = 'yesterday' WHERE user_id = 2")
        self.expect(place, column, "not a date")

    def test_every_row_bad_is_still_a_batch(self, place: Place) -> None:
        self.widen(place, "year_of_birth", to={"mariadb": "varchar(20)", "postgresql": "varchar(20)"})
        place.execute("UPDATE auth_userprofile SET year_of_birth = 'abc'")
        with LmsDatabase(place.url).snapshot() as snapshot:
            batches = list(snapshot.rows("user_profile", ("user_id", "year_of_birth"), 2))
        assert [(len(b.rows), len(b.bad), b.last_user_id) for b in batches] == [(0, 2, 2), (0, 1, 3)]


@each_database
class TestRolesOfOpenedxAuthz:
    def fill(self, place: Place, writer: LmsWriter, *rows: tuple[int | str, ...]) -> None:
        """The people of upstream's rows, by 1 to 4; their rows unless others are given."""
        place.create_tables()
        for user_id, name in enumerate(("alice", "bob", "carol", "Dave"), start=1):
            writer.register_user(user_id, name, f"{name}@example.org", "A")
        self.write(place, *(rows or (*UPSTREAM, *POLICY)))

    def write(self, place: Place, *rows: tuple[int | str, ...]) -> None:
        with place.engine() as engine, engine.begin() as connection:
            write_rules(connection, *rows)

    def list_roles(self, place: Place, **arguments: Any) -> list[tuple[Any, ...]]:
        names = ("user_id", "username", "org", "course_key", "role")
        rows = read_all(place, "course_access", **arguments)[0]
        return [tuple(row[name] for name in names) for row in rows]

    def test_rules_are_read_as_the_lms_reads_them(self, place: Place, writer: LmsWriter) -> None:
        """The roles of course staff, by id; of a course, of an organisation, and of all courses."""
        self.fill(place, writer)
        assert self.list_roles(place) == [
            (1, "alice", "OpenedX", COURSE, "instructor"),
            (2, "bob", "OpenedX", "", "staff"),
            (3, "carol", "", "", "staff"),
            (4, "Dave", "WGU", OTHER_COURSE, "limited_staff"),
        ]

    def test_both_sources_are_read_and_what_both_say_once(self, place: Place, writer: LmsWriter) -> None:
        self.fill(place, writer, grant(1, "bob", "course_staff", COURSE), grant(2, "carol", "course_staff", ALL))
        for user_id, course in ((1, COURSE), (2, COURSE), (2, OTHER_COURSE)):
            writer.grant_role(user_id, course[10:].partition("+")[0], course, "staff")
        place.execute(update(USERS).where(USERS.c.id == 3).values(is_staff=True))
        columns = ("user_id", "username", "org", "course_key", "role")
        with LmsDatabase(place.url).snapshot() as snapshot:
            batches = list(snapshot.rows("course_access", columns, 2))
            users = list(snapshot.user_ids("course_access"))
        assert sorted(row for batch in batches for row in batch.rows) == [
            (1, "alice", "OpenedX", COURSE, "staff"),
            (2, "bob", "OpenedX", COURSE, "staff"),
            (2, "bob", "WGU", OTHER_COURSE, "staff"),
            (3, "carol", "", "", "staff"),
        ]
        assert [batch.last_user_id for batch in batches] == [1, 2, 3]
        assert users == [[1, 2, 3]]

    def test_some_users_are_read_alone(self, place: Place, writer: LmsWriter) -> None:
        self.fill(place, writer)
        assert [row[:2] for row in self.list_roles(place, user_ids=[2, 4])] == [(2, "bob"), (4, "Dave")]
        assert self.list_roles(place, user_ids=[99]) == []

    def test_a_name_is_the_same_to_the_letter(self, place: Place, writer: LmsWriter) -> None:
        """As casbin compares: whoever was renamed has nothing of the old name."""
        rows = (grant(1, "dave", "course_staff", COURSE), grant(2, "ALICE", "course_staff", COURSE))
        self.fill(place, writer, *rows, grant(3, "nobody", "course_staff", COURSE))
        assert self.list_roles(place) == []
        assert self.list_roles(place, user_ids=[1, 4]) == []

    def test_an_account_that_is_not_active_has_no_role(self, place: Place, writer: LmsWriter) -> None:
        self.fill(place, writer)
        place.execute(update(USERS).where(USERS.c.id.in_([1, 2])).values(is_active=False))
        assert [row[0] for row in self.list_roles(place)] == [3, 4]
        assert [row[0] for row in self.list_roles(place, user_ids=[1, 2, 3])] == [3]

    def test_what_is_no_rule_for_courses_gives_nothing(self, place: Place, writer: LmsWriter) -> None:
        scopes = ("course-v1:OpenedX+CS*", "course-v1:O*", "course-v1:OpenedX+CS101", "course-v1:", "lib:OpenedX:*")
        rows = [grant(number, "bob", "course_staff", scope) for number, scope in enumerate(scopes, start=1)]
        group = (11, "g", "group^bob", "role^course_staff", f"course-v1^{ALL_OF_ORG}", "", "", "")
        policy = (12, "p", "user^bob", "role^course_staff", f"course-v1^{COURSE}", "allow", "", "")
        everything = (13, "g", "user^bob", "role^course_staff", "*", "", "", "")
        self.fill(place, writer, *rows, group, policy, everything)
        assert self.list_roles(place) == []

    def test_a_table_without_the_columns_is_no_empty_one(self, place: Place, writer: LmsWriter) -> None:
        self.fill(place, writer)
        place.execute("ALTER TABLE casbin_rule DROP COLUMN v2")
        with pytest.raises(LmsSchemaError, match=r"casbin_rule\.v2"):
            self.list_roles(place)


@pytest.mark.parametrize("place", [p for p in PARAMETERS if p.id == "mariadb-uuid"], indirect=True)
def test_rules_of_another_collation_are_read(place: Place, writer: LmsWriter) -> None:
    """MySQL does not compare columns of two collations, and tables of different releases have different ones."""
    roles = TestRolesOfOpenedxAuthz()
    roles.fill(place, writer)
    place.execute("ALTER TABLE casbin_rule CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    assert len(roles.list_roles(place)) == 4


@each_kind
def test_anonymous_id_that_is_no_uuid(place: Place) -> None:
    place.fill()
    if place.kind == "postgresql":
        place.execute(f"ALTER TABLE {EXTERNAL_IDS.name} ALTER external_user_id TYPE varchar(40)")
    elif place.kind == "mariadb-uuid":
        place.execute(f"ALTER TABLE {EXTERNAL_IDS.name} MODIFY external_user_id varchar(40)")
    place.execute(f"UPDATE {EXTERNAL_IDS.name} SET external_user_id = 'not-a-uuid' WHERE user_id = 2")
    rows, bad = read_all(place, "external_id")
    assert len(rows) == 62
    assert bad == [BadRow(2, "2", "external_user_id", "not a UUID")]


@each_database
class TestSchema:
    def test_everything_is_there(self, place: Place) -> None:
        place.create_tables()
        LmsDatabase(place.url).check_schema(list(OBJECTS))

    def test_everything_missing_is_named_at_once(self, place: Place) -> None:
        place.create_tables()
        place.execute(
            "DROP TABLE external_user_ids_externalid",
            "DROP TABLE student_courseaccessrole",
            "ALTER TABLE auth_userprofile DROP COLUMN phone_number",
            "ALTER TABLE auth_userprofile DROP COLUMN state",
        )
        with pytest.raises(LmsSchemaError) as caught:
            LmsDatabase(place.url).check_schema(list(OBJECTS))
        message = str(caught.value)
        assert "tables external_user_ids_externalid, student_courseaccessrole" in message
        assert "columns auth_userprofile.phone_number, auth_userprofile.state" in message
        assert "ASPECTS_LMS_DATABASE_URL" in message

    def test_a_missing_column_that_is_not_read_is_no_error(self, place: Place) -> None:
        place.fill()
        place.execute("ALTER TABLE auth_userprofile DROP COLUMN phone_number")
        columns = tuple(c for c in OBJECTS["user_profile"].columns if c != "phone_number")
        LmsDatabase(place.url).check_schema({"user_profile": columns})
        assert len(read(place, "user_profile", columns)) == 60
        with LmsDatabase(place.url).snapshot() as snapshot, pytest.raises(LmsSchemaError):
            list(snapshot.rows("user_profile", ("user_id", "phone_number"), 10))

    def test_missing_retirement_tables_are_named(self, place: Place) -> None:
        place.create_tables()
        place.execute("DROP TABLE user_api_userretirementrequest")
        with LmsDatabase(place.url).snapshot() as snapshot:
            for ask in (snapshot.retired_user_ids, lambda: snapshot.identities([1])):
                with pytest.raises(LmsSchemaError, match="user_api_userretirementrequest"):
                    ask()


def list_retired(place: Place) -> list[int]:
    with LmsDatabase(place.url).snapshot() as snapshot:
        return [user_id for chunk in snapshot.retired_user_ids() for user_id in chunk]


# The states a retirement went through, whether the LMS had erased the profile, and whether the user counts as retired.
STATES = (
    (["ERRORED"], False, False),
    (["RETIRING_LMS_MISC", "ERRORED"], False, True),
    (["RETIRING_LMS", "ERRORED"], True, True),
    (["ABORTED"], False, False),
    (["RETIRING_LMS_MISC", "ABORTED"], False, False),
    (["COMPLETE"], True, True),
    (["ABORTED"], True, True),
    # An operator put it back to the start after the LMS had erased the profile.
    (["PENDING"], True, True),
)


@each_database
class TestRetirement:
    def test_life_of_a_retirement(self, place: Place, writer: LmsWriter) -> None:
        place.fill()
        assert list_retired(place) == []
        writer.request_retirement(7)
        assert list_retired(place) == []
        for step in (writer.retire_misc, writer.retire, writer.complete_retirement, writer.clean_up_retirement):
            step(7)
            assert list_retired(place) == [7]

    def test_cancelled_in_time(self, place: Place, writer: LmsWriter) -> None:
        lms = place.fill()
        writer.request_retirement(7)
        writer.cancel_retirement(7)
        assert list_retired(place) == []
        (row,) = read(place, "user_profile", user_ids=[7])
        assert row["email"] == make_person(lms.seed, 7).email

    def test_states(self, place: Place, writer: LmsWriter) -> None:
        place.create_tables()
        for user_id, (states, erased, _) in enumerate(STATES, start=1):
            writer.register_user(user_id, f"u{user_id}", f"u{user_id}@example.org", "U")
            writer.request_retirement(user_id)
            if erased:
                writer.retire(user_id)
            for state in states:
                writer.set_retirement_state(user_id, state)
        retired = [user_id for user_id, (_, _, is_retired) in enumerate(STATES, start=1) if is_retired]
        assert list_retired(place) == retired

    def test_retired_users_come_in_chunks(
        self, place: Place, writer: LmsWriter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.fill()
        monkeypatch.setattr("sink.lms.snapshot._PAGE_USERS", 2)
        for user_id in (9, 2, 5):
            writer.request_retirement(user_id)
            writer.retire(user_id)
        with LmsDatabase(place.url).snapshot() as snapshot:
            assert list(snapshot.retired_user_ids()) == [[2, 5], [9]]

    def test_who_they_were(self, place: Place, writer: LmsWriter) -> None:
        lms = place.fill()
        for user_id in (3, 4, 5):
            writer.request_retirement(user_id)
            writer.retire(user_id)
        writer.clean_up_retirement(4)
        place.execute(
            "UPDATE user_api_userretirementstatus SET original_username = 'redacted', original_email = 'redacted' "
            "WHERE user_id = 5"
        )
        with LmsDatabase(place.url).snapshot() as snapshot:
            found = snapshot.identities([3, 4, 5, 6])
        assert [user_id for user_id in sorted(found) if found[user_id].usernames or found[user_id].emails] == [3, 6]
        for user_id in (3, 6):
            username, email = make_username(lms.seed, user_id), make_person(lms.seed, user_id).email
            assert [*found[user_id].usernames, *found[user_id].emails] == [username, email]
            assert username not in repr(found)
        # What the retired user lacks in the account they may have had.
        assert [found[user_id].is_complete for user_id in (3, 6)] == [False, True]

    def test_addresses_of_before_are_known_until_the_lms_retires_the_user(
        self, place: Place, writer: LmsWriter
    ) -> None:
        lms = place.fill()
        others = make_person(lms.seed, 5).email
        pairs = [
            ["Old@example.org", "2026-01-01"],
            [others.upper(), "2026-01-02"],
            "x@example.org",
            [],
            ["no address", ""],
        ]
        writer.change_profile(3, meta=json.dumps({"session_id": "s", "old_emails": pairs}))
        for user_id, meta in ((4, "no JSON"), (6, '{"old_emails": {"a": 1}}'), (7, "[" * 100_000)):
            writer.change_profile(user_id, meta=meta)
        with LmsDatabase(place.url).snapshot() as snapshot:
            found = snapshot.identities([3, 4, 6, 7])
        own = {user_id: make_person(lms.seed, user_id).email for user_id in found}
        assert found[3].emails == {own[3], "Old@example.org"}
        assert [found[user_id].emails for user_id in (4, 6, 7)] == [{own[user_id]} for user_id in (4, 6, 7)]
        writer.request_retirement(3)
        with LmsDatabase(place.url).snapshot() as snapshot:
            assert snapshot.identities([3])[3].emails == {own[3], "Old@example.org"}
        writer.retire(3)
        with LmsDatabase(place.url).snapshot() as snapshot:
            assert snapshot.identities([3])[3].emails == {own[3]}

    def test_anonymous_ids_are_known_when_every_name_is_gone(self, place: Place, writer: LmsWriter) -> None:
        place.fill()
        ids: dict[int, set[str]] = {}
        for row in read(place, "external_id"):
            ids.setdefault(row["user_id"], set()).add(str(row["external_user_id"]))
        (retired, *_) = ids
        writer.request_retirement(retired)
        writer.retire(retired)
        writer.clean_up_retirement(retired)
        with LmsDatabase(place.url).snapshot() as snapshot:
            (found,) = snapshot.identities([retired]).values()
        assert (found.usernames, found.emails, found.external_ids) == (
            frozenset(),
            frozenset(),
            frozenset(ids[retired]),
        )

    def test_values_that_several_status_rows_share_are_no_names(self, place: Place, writer: LmsWriter) -> None:
        lms = place.fill()
        for user_id in (3, 4):
            writer.request_retirement(user_id)
            writer.retire(user_id)
        place.execute("UPDATE user_api_userretirementstatus SET original_username = 'guest'")
        with LmsDatabase(place.url).snapshot() as snapshot:
            found = snapshot.identities([3])
        assert [*found[3].usernames, *found[3].emails] == [make_person(lms.seed, 3).email]

    def test_whose_names_are(self, place: Place, writer: LmsWriter) -> None:
        lms = place.fill()
        writer.request_retirement(4)
        emails = [make_person(lms.seed, user_id).email for user_id in (3, 4)]
        with LmsDatabase(place.url).snapshot() as snapshot:
            owners = list(snapshot.owners([make_username(lms.seed, 5)], [email.upper() for email in emails]))
        assert {owned.user_id for owned in owners} == {3, 4, 5}

    def test_what_everybody_is_called(self, place: Place, writer: LmsWriter, monkeypatch: pytest.MonkeyPatch) -> None:
        place.fill()
        ids = {(row["user_id"], str(row["external_user_id"])) for row in read(place, "external_id")}
        profiles = {row["user_id"]: row for row in read(place, "user_profile")}
        writer.request_retirement(4)
        writer.retire(4)
        monkeypatch.setattr(names, "_PAGE_ROWS", 3)
        with LmsDatabase(place.url).snapshot() as snapshot:
            found = list(snapshot.names())
        assert len(found) == len(set(found)) > len(profiles) > 3
        assert {(n.user_id, n.text) for n in found if n.place == "external_user_ids_externalid.external_user_id"} == ids
        for user_id, profile in profiles.items():
            place_of_names = "user_api_userretirementstatus.original" if user_id == 4 else "auth_user."
            separator = "_" if user_id == 4 else ""
            expected = {f"{place_of_names}{separator}{name}": profile[name] for name in ("username", "email")}
            said = {n.place: n.text for n in found if n.user_id == user_id}
            assert expected.items() <= said.items()
        assert profiles[3]["name"] in {n.text for n in found if n.place == "auth_userprofile.name"}
        assert profiles[3]["name"] not in repr(found)


@each_database
def test_no_value_reaches_a_log(place: Place, writer: LmsWriter, caplog: pytest.LogCaptureFixture) -> None:
    place.create_tables()
    writer.register_user(1, "u", "u@example.org", SECRET)
    caplog.set_level(logging.DEBUG)
    with caplog.at_level(logging.DEBUG, "sqlalchemy"):
        assert read(place, "user_profile")[0]["name"] == SECRET
    assert SECRET not in caplog.text


@pytest.mark.mariadb
@pytest.mark.parametrize(
    ("url", "kind", "says"),
    [
        ("mysql://reader:hunter2@127.0.0.1:3306/openedx", LmsAddressError, "refused the user or the password"),
        ("mysql://root@127.0.0.1:3306/no_such_lms", LmsAddressError, "does not exist"),
        ("mysql://root:hunter2@127.0.0.1:1/openedx", LmsUnreachableError, "cannot be reached"),
    ],
)
def test_mysql_connection_problems(url: str, kind: type[LmsError], says: str) -> None:
    check_connection_problem(url, kind, says)


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("url", "kind", "says"),
    [
        (
            "postgresql://nobody_here:hunter2@127.0.0.1:5432/openedx",
            LmsAddressError,
            "refused the user or the password",
        ),
        ("postgresql://postgres@127.0.0.1:5432/no_such_lms", LmsAddressError, "does not exist"),
        ("postgres://postgres:hunter2@127.0.0.1:1/openedx", LmsUnreachableError, "cannot be reached"),
    ],
)
def test_postgres_connection_problems(url: str, kind: type[LmsError], says: str) -> None:
    check_connection_problem(url, kind, says)


def check_connection_problem(url: str, kind: type[LmsError], says: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sink.lms.database.CONNECT_ATTEMPTS", 2)
        with pytest.raises(LmsError, match=says) as caught, LmsDatabase(SecretStr(url)).snapshot():
            pass
    assert type(caught.value) is kind
    assert caught.value.retriable is (kind is LmsUnreachableError)
    assert caught.value.exit_status == (2 if kind is LmsAddressError else 1)
    assert "ASPECTS_LMS_DATABASE_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    # The driver's exception quotes more than it should.
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.mariadb
def test_privileges_that_are_missing() -> None:
    """Columns that the user may not read count as missing."""
    name = f"aspects_pii_test_{uuid.uuid4().hex[:12]}"
    with disposing(create_engine(f"{MARIADB}/")) as engine, engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            place = Place("mariadb-uuid", f"{MARIADB}/{name}")
            place.create_tables()
            connection.execute(text(f"CREATE USER {name} IDENTIFIED BY 'hunter2'"))
            connection.execute(text(f"GRANT SELECT ON {name}.auth_user TO {name}"))
            lms = LmsDatabase(f"mysql://{name}:hunter2@127.0.0.1:3306/{name}")
            with pytest.raises(LmsSchemaError, match=r"auth_userprofile.*may not read"):
                lms.check_schema(["user_profile"])
            with lms.snapshot() as snapshot, pytest.raises(LmsError, match="grant it SELECT"):
                list(snapshot.rows("user_profile", ("user_id",), 5))
            connection.execute(text(f"GRANT SELECT ON {name}.* TO {name}"))
            lms.check_schema(list(OBJECTS))
        finally:
            connection.execute(text(f"DROP DATABASE {name}"))
            connection.execute(text(f"DROP USER IF EXISTS {name}"))


@pytest.mark.mariadb
def test_a_connection_that_breaks_is_said_so() -> None:
    name = f"aspects_pii_test_{uuid.uuid4().hex[:12]}"
    with disposing(create_engine(f"{MARIADB}/")) as engine, engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            Place("mariadb-uuid", f"{MARIADB}/{name}").fill()
            with LmsDatabase(f"{MARIADB}/{name}").snapshot() as snapshot:
                batches = snapshot.rows("user_profile", ("user_id",), 10)
                next(batches)
                process: int = snapshot._connection.exec_driver_sql("SELECT connection_id()").scalar_one()
                connection.execute(text(f"KILL {process}"))
                with pytest.raises(LmsUnreachableError):
                    list(batches)
        finally:
            connection.execute(text(f"DROP DATABASE {name}"))


@pytest.mark.mariadb
def test_texts_in_another_character_set_are_converted() -> None:
    name = f"aspects_pii_test_{uuid.uuid4().hex[:12]}"
    with disposing(create_engine(f"{MARIADB}/")) as engine, engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            place = Place("mariadb-uuid", f"{MARIADB}/{name}")
            place.create_tables()
            place.execute("ALTER TABLE auth_userprofile CONVERT TO CHARACTER SET latin1")
            writer = place.writer()
            writer.register_user(1, "u", "u@example.org", "Zoé Müller")
            writer.close()
            assert [row["name"] for row in read(place, "user_profile")] == ["Zoé Müller"]
        finally:
            connection.execute(text(f"DROP DATABASE {name}"))


def test_a_missing_sqlite_file_is_not_created(tmp_path: Path) -> None:
    file = tmp_path / "lms.db"
    lms = LmsDatabase(f"sqlite:///{file}")
    for ask in (lambda: lms.check_schema(["user_profile"]), lambda: lms.snapshot().__enter__()):
        with pytest.raises(LmsUnreachableError, match="does not exist"):
            ask()
    assert not file.exists()


def test_a_path_may_hold_what_means_something_in_an_address(tmp_path: Path) -> None:
    file = tmp_path / "my lms?mode=rwc#50%.db"
    place = Place("sqlite", f"sqlite:///{tmp_path}/plain.db")
    place.fill()
    (tmp_path / "plain.db").rename(file)
    with LmsDatabase(URL.create("sqlite", database=str(file)).render_as_string()).snapshot() as snapshot:
        assert snapshot.count_rows("user_profile") == 60


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "lms.db"
    file.write_text(SECRET * 100)
    with pytest.raises(LmsError) as caught:
        LmsDatabase(f"sqlite:///{file}").check_schema(["user_profile"])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["nonsense", "oracle://u:hunter2@h/db", "postgresql+asyncpg://u:hunter2@h/db", "mysql://u:hunter2@h", "sqlite://"],
)
def test_addresses_that_cannot_be(url: str) -> None:
    with pytest.raises(SettingsError, match="ASPECTS_LMS_DATABASE_URL") as caught:
        LmsDatabase(url)
    assert "hunter2" not in str(caught.value)
    assert "Example:" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("mysql://u@h/db", "mysql+pymysql"),
        ("mariadb://u@h/db", "mysql+pymysql"),
        ("postgres://u@h/db", "postgresql+psycopg"),
        ("postgresql://u@h/db", "postgresql+psycopg"),
    ],
)
def test_plain_addresses_get_a_driver(url: str, driver: str) -> None:
    assert LmsDatabase(url)._engine.url.drivername == driver


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(SettingsError, match=r"aspects-pii-sink\[server\]"):
        LmsDatabase("mysql://u:hunter2@h/db")
