"""`doctor` on real servers: an LMS on MariaDB or PostgreSQL whose account, tables or schema are not as they should be; Redis."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from sink.demo_data.lms_tables import create_tables, open_writable
from tests.support.redis_server import emptied, name_database

Command = Callable[..., Any]

MARIADB = "mysql+pymysql://root@127.0.0.1:3306"
POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432"
PASSWORD = "hidden-4711"


class Server:
    """A database of its own on a server, as its administrator has it."""

    def __init__(self, url: str) -> None:
        self.name = f"aspects_pii_test_{uuid.uuid4().hex[:12]}"
        self.url = f"{url}/{self.name}"
        self._server = url

    def run(self, *statements: str, there: bool = True) -> None:
        """Run statements, in the database or beside it."""
        place = self.url if there else f"{self._server}/{'postgres' if 'postgres' in self._server else ''}"
        engine = create_engine(place, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement.format(name=self.name, password=PASSWORD)))
        engine.dispose()

    def make(self) -> None:
        """With an LMS's tables."""
        self.run("CREATE DATABASE {name}", there=False)
        engine = open_writable(self.url)
        with engine.begin() as connection:
            create_tables(connection)
        engine.dispose()


@pytest.fixture
def mariadb() -> Iterator[Server]:
    server = Server(MARIADB)
    server.make()
    server.run("CREATE USER {name} IDENTIFIED BY '{password}'", "GRANT SELECT ON {name}.* TO {name}")
    yield server
    server.run("DROP USER IF EXISTS {name}", "DROP DATABASE {name}", there=False)


@pytest.fixture
def postgres() -> Iterator[Server]:
    server = Server(POSTGRES)
    server.make()
    server.run(
        "CREATE ROLE {name} LOGIN PASSWORD '{password}'", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"
    )
    yield server
    server.run("DROP OWNED BY {name}", there=True)
    server.run("DROP DATABASE {name}", "DROP ROLE {name}", there=False)


def look(command: Command, area: str, **settings: str) -> dict[str, tuple[str, str, str]]:
    """What was said of an area: state, words and fix by what was looked at."""
    ran = command("doctor", "--format", "json", **settings)
    assert ran.err == ""
    assert PASSWORD not in ran.out
    checks = [check for check in ran.json["checks"] if check["area"] == area]
    assert len({check["what"] for check in checks}) == len(checks)
    return {check["what"]: (check["state"], check["said"], check["fix"]) for check in checks}


def name_reader(server: Server, password: str = PASSWORD) -> str:
    return server.url.replace("root@", f"{server.name}:{password}@").replace("postgres@", f"{server.name}:{password}@")


@pytest.mark.mariadb
def test_a_reader_on_mariadb_is_all_right(aspects_pii: Command, mariadb: Server) -> None:
    found = look(aspects_pii, "LMS", LMS_DATABASE_URL=name_reader(mariadb))
    assert {what: state for what, (state, _, _) in found.items()} == dict.fromkeys(
        ("reachable", "read only", "isolation", "schema", "clock"), "ok"
    )
    assert "(MariaDB 1" in found["reachable"][1]


@pytest.mark.mariadb
@pytest.mark.parametrize(
    ("statements", "what", "state", "said"),
    [
        (("GRANT INSERT, DELETE ON {name}.auth_user TO {name}",), "read only", "warning", "DELETE, INSERT"),
        (("GRANT ALL ON {name}.* TO {name}",), "read only", "warning", "ALL PRIVILEGES"),
        (("DROP TABLE student_courseaccessrole",), "schema", "problem", "student_courseaccessrole"),
        (("ALTER TABLE auth_user DROP COLUMN email",), "schema", "problem", "auth_user.email"),
        (
            ("DROP TABLE student_courseaccessrole", "CREATE TABLE student_courseaccessrole (id INT) ENGINE = MyISAM"),
            "isolation",
            "warning",
            "student_courseaccessrole can change while they are read",
        ),
    ],
)
def test_an_lms_on_mariadb_that_is_not_as_it_should_be(
    aspects_pii: Command, mariadb: Server, statements: tuple[str, ...], what: str, state: str, said: str
) -> None:
    mariadb.run(*statements)
    found = look(aspects_pii, "LMS", LMS_DATABASE_URL=name_reader(mariadb))
    assert found[what][0] == state
    assert said in found[what][1]
    assert found[what][2]


@pytest.mark.mariadb
def test_a_wrong_password_and_a_wrong_database_on_mariadb(aspects_pii: Command, mariadb: Server) -> None:
    found = look(aspects_pii, "LMS", LMS_DATABASE_URL=name_reader(mariadb, "wrong"))
    assert found["reachable"][0] == "problem"
    assert "refused the user or the password" in found["reachable"][1]
    assert found["schema"][0] == "not looked at"
    found = look(aspects_pii, "LMS", LMS_DATABASE_URL=f"{MARIADB}/no_such_lms")
    assert "does not exist" in found["reachable"][1]


@pytest.mark.postgres
def test_a_reader_and_a_writer_on_postgresql(aspects_pii: Command, postgres: Server) -> None:
    found = look(aspects_pii, "LMS", LMS_DATABASE_URL=name_reader(postgres))
    assert {what: state for what, (state, _, _) in found.items()} == dict.fromkeys(
        ("reachable", "read only", "isolation", "schema", "clock"), "ok"
    )
    postgres.run("GRANT INSERT, UPDATE ON auth_user TO {name}")
    found = look(aspects_pii, "LMS", LMS_DATABASE_URL=name_reader(postgres))
    assert found["read only"][0] == "warning"
    assert "INSERT, UPDATE" in found["read only"][1]


@pytest.mark.redis
def test_a_broker_and_a_bus_that_are_there_are_left_as_they_are(aspects_pii: Command) -> None:
    address = name_database(6)
    with emptied(address) as redis:
        redis.xadd("learning-user-lifecycle", {"event": "x"})
        found = look(aspects_pii, "broker", BROKER_URL=address)
        assert found["reachable"][:2] == ("ok", "redis")
        found = look(aspects_pii, "event bus", EVENT_BUS_URL=address)
        assert found["reachable"][0] == "ok"
        assert found["reachable"][1].startswith("Redis, with 1 of 3 streams; not there yet: ")
        # No group was made, and nothing sent.
        assert redis.keys() == [b"learning-user-lifecycle"]
        assert redis.xinfo_groups("learning-user-lifecycle") == []
