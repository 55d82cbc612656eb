"""What the endpoint keeps statements from: files, addresses and programs of this host, whoever has the password."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from sink.endpoint.app import running
from sink.resources import find_resource
from tests.support.listener import Listener, listening

PASSWORD = SecretStr("the key of these tests")
CANARY = "canary-of-a-file"


@dataclass(frozen=True)
class Server:
    url: str
    outside: Path
    """A folder with a file in it, beside the data."""
    listener: Listener

    def post(self, sql: str, **parameters: str) -> httpx.Response:
        where = {"outside": str(self.outside), "host": f"127.0.0.1:{self.listener.port}"}
        for name, value in where.items():
            sql = sql.replace(f"<{name}>", value)
        auth = ("default", PASSWORD.get_secret_value())
        return httpx.post(self.url, params={"database": "shop", **parameters}, content=sql, auth=auth, timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.csv").write_text(f"1,{CANARY}\n")
    (outside / "row.txt").write_text(f"{CANARY} ${{a:CSV}}\n")
    with listening() as listener, running(tmp_path_factory.mktemp("clickhouse"), password=PASSWORD) as url:
        server = Server(url, outside, listener)
        for sql in (
            "CREATE DATABASE shop",
            "CREATE TABLE people (id UInt64, name String) ENGINE = MergeTree ORDER BY id",
            "INSERT INTO people VALUES (1, 'anna')",
        ):
            response = server.post(sql, **({"database": ""} if "DATABASE" in sql else {}))
            assert response.status_code == 200, response.text
        yield server


READING_FILES = [
    "SELECT * FROM file('<outside>/secret.csv', 'CSV', 'id UInt64, name String')",
    "SELECT * FROM file('<outside>/secret.csv')",
    "SELECT * FROM/**/file('<outside>/secret.csv', LineAsString)",
    "SELECT file('<outside>/secret.csv')",
    "SELECT `file`('<outside>/secret.csv')",
    "SELECT\n file -- of course\n ('<outside>/secret.csv')",
    "SELECT * FROM `<outside>/secret.csv`",
    "SELECT * FROM default.`<outside>/secret.csv`",
    "SELECT * FROM '<outside>/secret.csv'",
    "SELECT * FROM filesystem('<outside>')",
    "SELECT * FROM sqlite('<outside>/secret.csv', 't')",
    "SELECT * FROM icebergLocal('<outside>')",
    "INSERT INTO people SELECT * FROM file('<outside>/secret.csv', 'CSV', 'id UInt64, name String')",
    "INSERT INTO people FROM INFILE '<outside>/secret.csv' FORMAT CSV",
    "CREATE VIEW peeking AS SELECT file('<outside>/secret.csv') AS text",
    "CREATE FUNCTION peek AS (x) -> file('<outside>/secret.csv')",
    "CREATE TABLE peeking (id UInt64, name String DEFAULT file('<outside>/secret.csv')) ENGINE = MergeTree ORDER BY id",
    "CREATE TABLE peeking (id UInt64, name String) ENGINE = File(CSV, '<outside>/secret.csv')",
    "CREATE TABLE peeking (id UInt64) ENGINE = FileLog('<outside>', 'CSV')",
    "CREATE DATABASE peeking ENGINE = Filesystem('<outside>')",
    "CREATE DATABASE peeking ENGINE = SQLite('<outside>/secret.csv')",
    "ALTER TABLE people UPDATE name = file('<outside>/secret.csv') WHERE 1",
    "SELECT 1 AS a FORMAT Template SETTINGS format_template_row = '<outside>/row.txt'",
    "WITH t AS (SELECT file('<outside>/secret.csv') AS x) SELECT x FROM t",
    "SELECT (SELECT any(name) FROM file('<outside>/secret.csv', 'CSV', 'id UInt64, name String'))",
]


@pytest.mark.parametrize("sql", READING_FILES)
def test_files_are_not_read(server: Server, sql: str) -> None:
    response = server.post(sql)
    assert response.status_code >= 400, response.text
    assert CANARY not in response.text
    server.post("DROP VIEW IF EXISTS peeking")
    assert server.post("SELECT groupArray(name) FROM people").text == "['anna']\n"


WRITING_FILES = [
    "SELECT * FROM people INTO OUTFILE '<outside>/written'",
    "SELECT * FROM people INTO/**/OUTFILE '<outside>/written'",
    "SELECT * FROM people INTO -- comment\n OUTFILE '<outside>/written'",
    "SELECT * FROM people INTO OUTFILE '<outside>/written' APPEND FORMAT CSV",
    "SHOW TABLES INTO OUTFILE '<outside>/written'",
    "INSERT/**/INTO FUNCTION file('<outside>/written', 'CSV', 'a Int8') VALUES (1)",
    "INSERT INTO TABLE FUNCTION file('<outside>/written', 'CSV', 'a Int8') SELECT 1",
    "CREATE TABLE peeking (id UInt64) ENGINE = EmbeddedRocksDB(0, '<outside>/written') PRIMARY KEY id",
    "CREATE TABLE peeking (id UInt64) ENGINE = MergeTree ORDER BY id "
    "SETTINGS disk = disk(type = local, path = '<outside>/written/')",
    "BACKUP TABLE people TO File('<outside>/written')",
    "CREATE DATABASE peeking ENGINE = Backup('shop', File('<outside>/written'))",
]


@pytest.mark.parametrize("sql", WRITING_FILES)
@pytest.mark.parametrize("parameters", [{}, {"readonly": "1"}])
def test_files_are_not_written(server: Server, sql: str, parameters: dict[str, str]) -> None:
    response = server.post(sql, **parameters)
    assert response.status_code >= 400, response.text
    assert sorted(path.name for path in server.outside.iterdir()) == ["row.txt", "secret.csv"]


CALLING_OUT = [
    "SELECT * FROM url(concat('http://<host>/?', (SELECT any(name) FROM people)), 'CSV', 'a String')",
    "SELECT * FROM url('http://<host>/', 'CSV', 'a String')",
    "INSERT INTO FUNCTION url('http://<host>/', 'CSV', 'a String') VALUES ('x')",
    "SELECT * FROM remote('<host>', system.one)",
    "SELECT * FROM mysql('<host>', 'd', 't', 'u', 'p')",
    "SELECT * FROM postgresql('<host>', 'd', 't', 'u', 'p')",
    "SELECT * FROM s3('http://<host>/bucket/key', 'CSV', 'a String')",
    "SELECT * FROM redis('<host>', 'k', 'k String, v String')",
    "CREATE TABLE calling (a String) ENGINE = URL('http://<host>/', 'CSV')",
    "CREATE TABLE calling (a String) ENGINE = S3('http://<host>/bucket/key', 'CSV')",
    "CREATE DATABASE calling ENGINE = MySQL('<host>', 'd', 'u', 'p')",
    "CREATE TABLE calling (a String) ENGINE = MergeTree ORDER BY a "
    "SETTINGS disk = disk(type = web, endpoint = 'http://<host>/')",
]
_DICTIONARY = (
    "CREATE OR REPLACE DICTIONARY calling (id UInt64, name String) PRIMARY KEY id SOURCE({}) LAYOUT(FLAT()) LIFETIME(0)"
)
CALLING_OUT += [
    _DICTIONARY.format(source)
    for source in (
        "HTTP(url 'http://<host>/' format 'CSV')",
        "CLICKHOUSE(host '127.0.0.9' port 9000 query 'SELECT 1')",
        "CLICKHOUSE(query 'SELECT 1' host 'example.org')",
        "MYSQL(host '127.0.0.1' port 3306 user 'root' db 'test' table 't')",
        "POSTGRESQL(host '127.0.0.1' port 5432 user 'root' db 'test' table 't')",
        "MONGODB(host '127.0.0.1' port 27017 user '' password '' db 'test' collection 't')",
        "REDIS(host '127.0.0.1' port 6379 storage_type 'simple' db_index 0)",
        "/* */ EXECUTABLE(command 'id' format 'CSV')",
        "EXECUTABLE_POOL(command 'id' format 'CSV')",
        "FILE(path '<outside>/secret.csv' format 'CSV')",
    )
]


@pytest.mark.parametrize("sql", CALLING_OUT)
def test_nothing_is_called_from_here(server: Server, sql: str) -> None:
    before = server.listener.connections
    response = server.post(sql)
    if response.status_code == 200:
        response = server.post("SELECT dictGet('calling', 'name', 1)")
    assert response.status_code >= 400, response.text
    assert server.listener.connections == before


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM executable('id', 'CSV', 'a String')",
        "CREATE TABLE running (a String) ENGINE = Executable('id', 'CSV')",
        "CREATE TABLE running (a String) ENGINE = ExecutablePool('id', 'CSV')",
        "SELECT * FROM Python(secret)",
        "SELECT * FROM python('secret')",
        "SYSTEM SHUTDOWN",
        "SET dialect = 'kusto'",
    ],
)
def test_programs_and_objects_of_the_process_are_out_of_reach(server: Server, sql: str) -> None:
    assert server.post(sql).status_code in (403, 500)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO pets/**/VALUES (1)",
        "INSERT/**/INTO pets SELECT 1",
        "/**/TRUNCATE TABLE pets",
        "WITH 1 AS one INSERT INTO pets SELECT one",
        "SELECT 1 SETTINGS readonly = 0",
        "SET readonly = 0",
        "ALTER TABLE pets DELETE WHERE 1",
    ],
)
@pytest.mark.parametrize("way", ["GET", "readonly=1", "readonly=2"])
def test_what_only_reads_is_held_by_the_engine(server: Server, sql: str, way: str) -> None:
    assert server.post("CREATE OR REPLACE TABLE pets (id UInt64) ENGINE = MergeTree ORDER BY id").status_code == 200
    auth = ("default", PASSWORD.get_secret_value())
    given = {"database": "shop", "query": sql}
    if way == "GET":
        response = httpx.get(server.url, params=given, auth=auth, timeout=60)
    else:
        response = server.post("", query=sql, readonly=way[-1])
    assert response.headers.get("X-ClickHouse-Exception-Code") == "164", response.text
    assert server.post("SELECT count() FROM pets").text == "0\n"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE OR REPLACE TABLE file (id UInt64) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO shop.file (id) VALUES (1)",
        "SELECT 'INTO OUTFILE', 'file(1)' AS `INTO OUTFILE`",
        "SELECT 1 AS file, file + (1)",
        _DICTIONARY.format("CLICKHOUSE(query 'SELECT id, name FROM shop.people')"),
        "SELECT dictGet('calling', 'name', 1)",
        _DICTIONARY.format("CLICKHOUSE(host 'localhost' query 'SELECT id, name FROM shop.people')"),
        "CREATE OR REPLACE TABLE lookup (id UInt64) ENGINE = EmbeddedRocksDB PRIMARY KEY id",
        "CREATE TEMPORARY TABLE t (a Int8)",
        "SELECT * FROM merge('shop', 'people')",
    ],
)
def test_what_stays_in_the_data_folder_is_let_through(server: Server, sql: str) -> None:
    response = server.post(sql)
    assert response.status_code == 200, response.text


def test_an_operator_grants_files(tmp_path: Path) -> None:
    """In a process of its own, since a process has one engine."""
    users = find_resource("config/engine/users.xml").read_text()
    line = "<query>REVOKE SOURCES ON *.*</query>"
    assert line in users
    (tmp_path / "users.xml").write_text(users.replace(line, f"{line}<query>GRANT READ ON FILE</query>"))
    (tmp_path / "secret.csv").write_text(f"{CANARY}\n")
    ask = f"""
import httpx, sys
from pathlib import Path
from pydantic import SecretStr
from sink.endpoint.engine import Engine
engine = Engine(Path({str(tmp_path / "data")!r}), Path({str(tmp_path / "users.xml")!r}))
print(sorted(engine.granted))
from sink.endpoint.app import running
with running(Path({str(tmp_path / "data")!r}), password=SecretStr("secret")) as url:
    for sql in ("SELECT file('{tmp_path}/secret.csv')", "SELECT * FROM file('{tmp_path}/secret.csv', LineAsString)",
                "SELECT 1 INTO OUTFILE '{tmp_path}/written'"):
        print(httpx.post(url, content=sql, auth=("default", "secret")).status_code)
"""
    run = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout.splitlines() == ["['READ ON FILE']", "200", "200", "403"], run.stderr


@pytest.mark.parametrize(("content", "reason"), [("<clickhouse><users>", "no XML"), (None, "no such file")])
def test_a_users_file_that_is_none_is_named(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "users.xml"
    if content is not None:
        path.write_text(content)
    run = subprocess.run(
        [sys.executable, "-c", "from sink.doors.cli.main import main; main()", "clickhouse", "--port", "0"],
        env={
            **os.environ,
            "ASPECTS_CLICKHOUSE_URL": f"chdb://{tmp_path}/data",
            "ASPECTS_CLICKHOUSE_USERS_FILE": str(path),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"Error: ASPECTS_CLICKHOUSE_USERS_FILE is not valid: {path}: ")
    assert reason in run.stderr
