"""Databases for an LMS in tests: SQLite, the real MariaDB (both kinds of anonymous id) and PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from sink.demo_data.lms import fill_lms
from sink.demo_data.lms_description import DemoLms, describe_lms
from sink.demo_data.lms_tables import create_tables
from tests.support.lms_writer import LmsWriter, open_lms

MARIADB = "mysql+pymysql://root@127.0.0.1:3306"
POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432"
KINDS = {
    "sqlite": [],
    "mariadb-uuid": [pytest.mark.mariadb],
    "mariadb-char32": [pytest.mark.mariadb],
    "postgresql": [pytest.mark.postgres],
}
PARAMETERS = [pytest.param(kind, marks=marks, id=kind) for kind, marks in KINDS.items()]
each_kind = pytest.mark.parametrize("place", PARAMETERS, indirect=True)
each_database = pytest.mark.parametrize("place", [p for p in PARAMETERS if p.id != "mariadb-char32"], indirect=True)


@dataclass
class Place:
    """An empty database of one kind."""

    kind: str
    url: str

    @property
    def native_uuid(self) -> bool:
        return self.kind != "mariadb-char32"

    @property
    def is_sqlite(self) -> bool:
        return self.kind == "sqlite"

    def fill(self, users: int = 60, courses: int = 3) -> DemoLms:
        lms = describe_lms(users, courses)
        with self.engine() as engine:
            fill_lms(engine, lms)
        return lms

    def create_tables(self) -> None:
        with self.engine() as engine, engine.begin() as connection:
            create_tables(connection)

    def engine(self) -> Any:
        return disposing(open_lms(self.url, native_uuid=self.native_uuid))

    def execute(self, *statements: Any) -> None:
        with self.engine() as engine, engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement) if isinstance(statement, str) else statement)

    def writer(self) -> LmsWriter:
        return LmsWriter(self.url, native_uuid=self.native_uuid)


class disposing:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __enter__(self) -> Engine:
        return self.engine

    def __exit__(self, *_: object) -> None:
        self.engine.dispose()


@contextmanager
def open_place(kind: str, folder: Path) -> Iterator[Place]:
    """An empty database of a kind, in `folder` or on this machine's server; removed at the end."""
    if kind == "sqlite":
        yield Place(kind, f"sqlite:///{folder}/lms.db")
        return
    name = f"aspects_pii_test_{uuid.uuid4().hex}"
    server, options = (
        (f"{MARIADB}/", {})
        if kind.startswith("mariadb")
        else (f"{POSTGRES}/postgres", {"isolation_level": "AUTOCOMMIT"})
    )
    with disposing(create_engine(server, **options)) as engine:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield Place(kind, f"{server.rpartition('/')[0]}/{name}")
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
