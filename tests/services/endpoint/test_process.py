"""The endpoint as a process of its own: started, stopped, killed, and used by dbt."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.endpoint.app import serve
from sink.errors import EmbeddedBusyError, UsageError
from tests.support.paths import ROOT
from tests.support.processes import name_program

KEY = "the-key-of-these-tests"


@dataclass(frozen=True)
class Process:
    child: subprocess.Popen[str]
    line: str

    @property
    def url(self) -> str:
        match = re.search(r"http://\S+", self.line)
        assert match, self.line
        return match[0]

    def post(self, sql: str | bytes, **parameters: str) -> httpx.Response:
        # Tables cannot be made in the database `default`, where the embedded engine looks for files too.
        given = {"database": "shop", **parameters}
        return httpx.post(self.url, params=given, content=sql, auth=("default", KEY), timeout=60)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Process]]:
    """Start the endpoint on `tmp_path/clickhouse`, its temporary files in `tmp_path/temp`."""
    children = []
    (tmp_path / "temp").mkdir()

    def start() -> Process:
        child = subprocess.Popen(
            name_program("endpoint", tmp_path / "clickhouse", 0),
            env={
                **os.environ,
                "ASPECTS_CLICKHOUSE_PASSWORD": KEY,
                "TMPDIR": str(tmp_path / "temp"),
                "PYTHONPATH": str(ROOT),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        assert child.stdout
        process = Process(child, child.stdout.readline())
        assert process.post("CREATE DATABASE IF NOT EXISTS shop", database="system").status_code == 200
        return process

    yield start
    for child in children:
        child.kill()
        child.communicate()


def find_files(folder: Path, needle: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


def wait_until_it_runs(process: Process, beginning: str, asked: threading.Thread) -> None:
    """Wait until the engine is at a query that begins so, or has answered it."""
    deadline = time.monotonic() + 120
    sql = "SELECT count() FROM system.processes WHERE startsWith(query, {beginning:String})"
    while asked.is_alive() and process.post(sql, param_beginning=beginning).text == "0\n":
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_endpoint_says_where_it_is_and_stops_when_told(
    start: Callable[[], Process], tmp_path: Path, number: int
) -> None:
    process = start()
    assert process.post("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a").status_code == 200
    assert process.post("INSERT INTO t VALUES (1)").status_code == 200
    answers: list[str] = []
    running = threading.Thread(target=lambda: answers.append(process.post("SELECT sleep(1), a FROM t").text))
    running.start()
    wait_until_it_runs(process, "SELECT sleep(1)", running)
    process.child.send_signal(number)
    out, err = process.child.communicate(timeout=120)
    running.join()
    assert (process.child.returncode, out, err) == (0, "", "")
    assert answers == ["0\t1\n"], "a running query is waited for"
    with ClickHouse(Address(url=f"chdb://{tmp_path}/clickhouse")) as client:
        assert client.column("SELECT a FROM shop.t") == [1]


def test_query_that_does_not_end_is_cancelled(start: Callable[[], Process]) -> None:
    process = start()
    answers: list[httpx.Response] = []
    sql = "SELECT sleepEachRow(1) FROM numbers(600) SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0"
    running = threading.Thread(target=lambda: answers.append(process.post(sql, wait_end_of_query="1")))
    running.start()
    wait_until_it_runs(process, "SELECT sleepEachRow", running)
    process.child.terminate()
    process.child.communicate(timeout=120)
    running.join()
    assert process.child.returncode == 0
    assert answers[0].headers["X-ClickHouse-Exception-Code"] == "394"


def test_a_second_engine_on_the_folder_is_refused(start: Callable[[], Process], tmp_path: Path) -> None:
    start()
    with pytest.raises(EmbeddedBusyError):
        # This process is to reach its files again afterwards.
        serve(tmp_path / "clickhouse", port=0, confined=False)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """Start `aspects-pii clickhouse` with no password set; what it prints."""
    children = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASPECTS_")}

    def start() -> list[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", "from sink.doors.cli.main import main; main()", "clickhouse", "--port", "0"],
            env={**environment, "PYTHONPATH": str(ROOT), "ASPECTS_CLICKHOUSE_URL": f"chdb://{tmp_path}/clickhouse"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        assert child.stdout
        lines = []
        while line := child.stdout.readline():
            lines.append(line.rstrip())
            if "PASSWORD" in line:
                break
        else:
            lines += child.communicate()[1].splitlines()
        return lines

    yield start
    for child in children:
        child.terminate()
        child.communicate()


def test_a_password_is_made_where_none_is_set(command: Callable[[], list[str]], tmp_path: Path) -> None:
    first, *others = command()
    url = first.split()[3]
    kept = tmp_path / "clickhouse" / "endpoint-password"
    assert others == [
        "In another terminal:",
        f"  export ASPECTS_CLICKHOUSE_URL={url} ASPECTS_CLICKHOUSE_USER=default",
        f'  export ASPECTS_CLICKHOUSE_PASSWORD="$(cat {kept})"',
    ]
    assert kept.stat().st_mode & 0o777 == 0o600
    password = kept.read_text().strip()
    assert len(password) >= 32
    assert httpx.post(url, content="SELECT 1").status_code == 401
    assert httpx.post(url, content="SELECT 1", auth=("default", "")).status_code == 403
    assert httpx.get(url, params={"query": "SELECT 1"}).status_code == 401
    assert httpx.post(url, content="SELECT 1", auth=("default", password)).text == "1\n"


def test_a_password_is_kept(command: Callable[[], list[str]], tmp_path: Path) -> None:
    kept = tmp_path / "clickhouse" / "endpoint-password"
    kept.parent.mkdir()
    kept.write_text("the one of yesterday\n")
    kept.chmod(0o600)
    url = command()[0].split()[3]
    assert httpx.post(url, content="SELECT 1", auth=("default", "the one of yesterday")).text == "1\n"


def test_a_password_that_others_can_read_is_refused(command: Callable[[], list[str]], tmp_path: Path) -> None:
    kept = tmp_path / "clickhouse" / "endpoint-password"
    kept.parent.mkdir()
    kept.write_text("known to all\n")
    kept.chmod(0o644)
    (line,) = command()
    assert line.startswith(f"Error: {kept} is not this user's alone (mode 0644)")
    assert "known to all" not in line


def test_a_compressed_bomb_stays_small(start: Callable[[], Process]) -> None:
    """A gigabyte of blanks in a megabyte: refused, and the process never holds much of it."""
    process = start()
    before = peak_memory(process)
    pieces = zlib.compressobj(9, wbits=31)
    blanks = b" " * (1 << 20)
    bomb = b"".join(pieces.compress(blanks) for _ in range(1 << 10)) + pieces.flush()
    assert len(bomb) < 2 << 20
    refused = httpx.post(
        process.url, content=bomb, headers={"Content-Encoding": "gzip"}, auth=("default", KEY), timeout=120
    )
    assert refused.status_code == 413
    assert peak_memory(process) - before < 600 << 20
    assert process.post("SELECT 1").text == "1\n"


def peak_memory(process: Process) -> int:
    """Bytes, the largest that the process has had."""
    status = Path(f"/proc/{process.child.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) << 10


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t " + "$a$" * 50_000,
        "SELECT " + "/*" * 75_000,
        "SELECT '" + "a'" * 75_000,
        "INSERT INTO t (" + "VALUES " * 20_000,
        "INSERT INTO t " + "FORMAT x " * 16_000,
        "SELECT " + "(" * 150_000,
        "SELECT " + "`" * 150_001,
        "-" * 150_000,
    ],
)
def test_no_text_keeps_the_endpoint_busy(start: Callable[[], Process], text: str) -> None:
    """Whoever asks beside it is answered: the engine parses, in time that grows with the length and no faster."""
    process = start()
    assert process.post("CREATE TABLE t (a Int8) ENGINE = Memory").status_code == 200
    response = httpx.post(process.url, content=text, auth=("default", KEY), timeout=20)
    assert response.status_code >= 400
    assert process.post("SELECT 1").text == "1\n"


def test_other_hosts_need_a_password(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        for password in (None, SecretStr("")):
            with pytest.raises(UsageError, match="ASPECTS_CLICKHOUSE_PASSWORD"):
                serve(tmp_path / "clickhouse", host=host, password=password)
    assert not (tmp_path / "clickhouse").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=str(port)):
            serve(tmp_path / "clickhouse", port=port)


@pytest.mark.parametrize("wait", [0.0, 0.05])
def test_a_kill_in_mid_insert_leaves_no_rows_in_files(
    start: Callable[[], Process], tmp_path: Path, wait: float
) -> None:
    process = start()
    made = process.post("CREATE TABLE people (id UInt64, name String CODEC(NONE)) ENGINE = MergeTree ORDER BY id")
    assert made.status_code == 200
    rows = b"".join(b"%d,canary-%d\n" % (number, number) for number in range(400_000))
    sent = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"INSERT INTO people FORMAT CSV\n" + rows
        sent.set()
        # The rest never comes: the process dies with the body half read.
        if not wait:
            time.sleep(1)
        yield b"1,canary\n"

    def insert() -> None:
        # An insert may be through before the process dies.
        with contextlib.suppress(httpx.TransportError):
            httpx.post(process.url, params={"database": "shop"}, content=body(), auth=("default", KEY), timeout=120)

    inserting = threading.Thread(target=insert)
    inserting.start()
    assert sent.wait(120)
    time.sleep(wait or 0.3)
    process.child.kill()
    process.child.wait()
    inserting.join()
    tables = tmp_path / "clickhouse" / "store"
    assert [path for path in find_files(tmp_path, b"canary") if tables not in path.parents] == []
    if not wait:
        assert find_files(tmp_path, b"canary") == []
    again = start()
    count = int(again.post("SELECT count() FROM people").text)
    assert count in (0, 400_001)
    # What the dead process had begun to write is cleared away when the engine starts.
    assert bool(find_files(tables, b"canary")) == bool(count)
    assert again.post("INSERT INTO people VALUES (1, 'x')").status_code == 200


# ── dbt ─────────────────────────────────────────────────────────────────────────────────────────────

PROJECT = {
    "dbt_project.yml": "name: tiny\nversion: '1.0'\nprofile: tiny\nflags: {send_anonymous_usage_stats: false}\n",
    "seeds/learners.csv": 'id,name\n1,anna\n2,"b;er\nta"\n',
    "models/learner_table.sql": "{{ config(materialized='table') }} select id, name from {{ ref('learners') }}\n",
    "models/learner_count.sql": "{{ config(materialized='view') }} select count() as n from {{ ref('learner_table') }}\n",
    "models/learner_rows.sql": "{{ config(materialized='incremental', unique_key='id') }}\n"
    "select id, name from {{ ref('learners') }}\n",
    "models/schema.yml": """
models:
  - name: learner_table
    columns: [{name: id, data_tests: [unique, not_null]}]
unit_tests:
  - name: test_count
    model: learner_count
    given: [{input: ref('learner_table'), rows: [{id: 1, name: a}]}]
    expect: {rows: [{n: 1}]}
""",
}
PROFILES = """
tiny:
  target: dev
  outputs:
    dev: {type: clickhouse, schema: marts, host: 127.0.0.1, port: %d, user: default, password: %s, threads: 4}
"""


def test_dbt_builds_twice(start: Callable[[], Process], tmp_path: Path) -> None:
    process = start()
    for name, text in PROJECT.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "project" / "profiles.yml").write_text(PROFILES % (httpx.URL(process.url).port, KEY))
    dbt = str(Path(sys.executable).with_name("dbt"))
    for command in ("debug", "build", "build"):
        done = subprocess.run([dbt, command], cwd=tmp_path / "project", capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout
    assert process.post("SELECT n FROM marts.learner_count").text == "2\n"
    assert process.post("SELECT name FROM marts.learner_rows ORDER BY id FORMAT JSONCompactColumns").json() == [
        ["anna", "b;er\nta"]
    ]
