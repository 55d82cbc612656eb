"""The account that docs/by-hand.md makes in the LMS database: it reads all that is read, and nothing else."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from tests.support.small_lms import make_small_lms

PAGE = (Path(__file__).parents[3] / "docs/by-hand.md").read_text()
ROOTS = {"mysql": "mysql+pymysql://root@127.0.0.1:3306", "postgresql": "postgresql+psycopg://postgres@127.0.0.1:5432"}
SERVERS = [
    pytest.param("mysql", marks=pytest.mark.mariadb, id="mariadb"),
    pytest.param("postgresql", marks=pytest.mark.postgres, id="postgresql"),
]


def list_statements(kind: str) -> list[str]:
    """The SQL of the page for this kind of server."""
    blocks = [
        block for block in re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) if "CREATE USER" in block
    ]
    assert len(blocks) == 2
    return [line.rstrip(";") for line in blocks[kind == "postgresql"].splitlines()]


def run(url: str, statements: list[str]) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement.replace(":", r"\:")))
    engine.dispose()


@pytest.fixture
def reader(request: pytest.FixtureRequest) -> Iterator[str]:
    """An LMS database, and its address for the account that the page makes."""
    kind: str = request.param
    name, user = f"aspects_pii_test_{uuid.uuid4().hex}", f"reader_{uuid.uuid4().hex[:12]}"
    root = ROOTS[kind] + ("/" if kind == "mysql" else "/postgres")
    run(root, [f"CREATE DATABASE {name}"])
    lms = make_small_lms(f"{ROOTS[kind]}/{name}")
    lms.close()
    inside = f"{ROOTS[kind]}/{name}"
    # The names that the page uses are whoever's who reads it: another database and account beside those of other tests.
    run(inside, [made.replace("aspects_pii", user).replace("openedx.", f"{name}.") for made in list_statements(kind)])
    scheme, _, rest = inside.partition("://")
    yield f"{scheme}://{user}:a long random password@{rest.partition('@')[2]}".replace(" ", "%20")
    owned = [] if kind == "mysql" else [f"DROP OWNED BY {user}"]
    run(inside, [*owned, f"DROP USER {user}" + ("@'%'" if kind == "mysql" else "")])
    run(root, [f"DROP DATABASE {name}"])


@pytest.mark.parametrize("reader", SERVERS, indirect=True)
def test_the_account_of_the_page_reads_what_is_copied_and_nothing_else(
    reader: str, aspects_pii: Callable[..., Any]
) -> None:
    setting = {"LMS_DATABASE_URL": reader, "ENABLE_PII": "true"}
    assert aspects_pii("init").status == 0
    copied = aspects_pii("sync", "--json", **setting)
    assert copied.status == 0, copied.err
    assert aspects_pii("reconcile", **setting).status == 0
    checks = [check for check in aspects_pii("doctor", "--json", **setting).json["checks"] if check["area"] == "LMS"]
    assert len(checks) >= 4
    assert {check["what"]: check["said"] for check in checks if check["state"] != "ok"} == {}
    engine = create_engine(reader)
    with engine.connect() as connection:
        for refused in (
            "SELECT password FROM auth_user",
            "DELETE FROM auth_userprofile",
            "UPDATE auth_user SET email = ''",
        ):
            with pytest.raises(DBAPIError):
                connection.execute(text(refused))
            connection.rollback()
    engine.dispose()
