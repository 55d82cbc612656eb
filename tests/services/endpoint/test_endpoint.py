"""The endpoint as its clients see it: clickhouse-connect, our own client, dbt, plain HTTP."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clickhouse_connect
import httpx
import lz4.frame  # type: ignore[import-untyped]
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from pydantic import SecretStr

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.migrations import migrate
from sink.endpoint.app import create_app, running
from sink.endpoint.credentials import Account
from sink.errors import AuthenticationError, QueryError
from sink.names import TableName

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DATABASES = {"event_sink": "event_sink", "xapi": "xapi", "reporting": "reporting", "pii_ledger": "pii_ledger"}
PASSWORD = "pässword:with/colon"
KEY = SecretStr("the key of these tests")
SHOP = {"database": "shop"}
AUTH = ("default", KEY.get_secret_value())


@dataclass(frozen=True)
class Server:
    folder: Path
    url: str

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 0

    def connect(self, **options: Any) -> Client:
        own = {"password": KEY.get_secret_value(), "database": "shop"}
        return clickhouse_connect.get_client(host="127.0.0.1", port=self.port, **{**own, **options})

    def post(self, sql: str | bytes = b"", /, **parameters: str) -> httpx.Response:
        return self.post_encoded(sql, "identity", **parameters)

    def post_encoded(self, body: str | bytes, encoding: str, /, **parameters: str) -> httpx.Response:
        own, headers = {**SHOP, **parameters}, {"Content-Encoding": encoding}
        return httpx.post(self.url, params=own, content=body, headers=headers, auth=AUTH, timeout=60)

    def get(self, sql: str, /, **parameters: str) -> httpx.Response:
        return httpx.get(self.url, params={**SHOP, "query": sql, **parameters}, auth=AUTH, timeout=60)


# The engine takes one folder a process: one for the whole file.
@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("clickhouse")
    with running(folder, password=KEY) as url:
        server = Server(folder, url)
        assert server.post("CREATE DATABASE shop", database="").status_code == 200
        yield server


@pytest.fixture
def table(server: Server) -> Iterator[str]:
    """An empty table of two columns."""
    assert server.post("CREATE TABLE people (id UInt64, name String) ENGINE = MergeTree ORDER BY id").status_code == 200
    yield "people"
    server.post("DROP TABLE people")


def names(server: Server) -> list[str]:
    return [
        json.loads(line)["name"]
        for line in server.get("SELECT * FROM people ORDER BY id FORMAT JSONEachRow").text.splitlines()
    ]


# ── clickhouse-connect ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form_encode", [False, True])
@pytest.mark.parametrize("compress", [False, "gzip", "zstd", "lz4"])
def test_clickhouse_connect_inserts_and_queries(
    server: Server, table: str, form_encode: bool, compress: bool | str
) -> None:
    client = server.connect(form_encode_query_params=form_encode, compress=compress)
    rows = [(number, f"name; {number}\n'") for number in range(3000)]
    summary = client.insert(table, rows, column_names=["id", "name"])
    assert summary.written_rows == 3000
    assert client.query(f"SELECT * FROM {table} ORDER BY id").result_rows == rows
    found = client.query("SELECT id FROM people WHERE name = {name:String}", parameters={"name": "name; 7\n'"})
    assert found.result_rows == [(7,)]
    assert client.command("SELECT count() FROM people") == 3000


def test_clickhouse_connect_commands(server: Server, table: str) -> None:
    client = server.connect()
    summary = client.command("INSERT INTO people SELECT number, 'x' FROM numbers(5)")
    assert summary.written_rows == 5  # type: ignore[union-attr]
    client.command("INSERT INTO people VALUES (10, {name:String})", parameters={"name": "tab\tquote'back\\slash"})
    assert client.query("SELECT name FROM people WHERE id = 10").result_rows == [("tab\tquote'back\\slash",)]
    client.command("INSERT INTO people FORMAT CSV", data='11,"a;\nDROP TABLE people;\n"\n')
    assert client.command("SELECT length(name) FROM people WHERE id = 11") == len("a;\nDROP TABLE people;\n")
    assert client.query("SELECT * FROM people LIMIT 0").column_names == ("id", "name")
    assert client.query("SELECT * FROM people WHERE id > 100").result_rows == []
    assert client.command("SELECT name FROM people WHERE id > 100") == ""
    assert client.raw_query("SELECT 1", fmt="JSONEachRow") == b'{"1":1}\n'
    assert client.ping()


def test_clickhouse_connect_arrow(server: Server, table: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    client = server.connect()
    client.insert_arrow(table, arrow.table({"id": arrow.array([1, 2], arrow.uint64()), "name": ["a", "b"]}))
    result = client.query_arrow("SELECT id, name FROM people ORDER BY id", use_strings=True)
    assert result.to_pydict() == {"id": [1, 2], "name": ["a", "b"]}


def test_errors_have_the_engines_code_and_name(server: Server) -> None:
    client = server.connect()
    for sql, code, name in [
        ("SELECT * FROM nowhere", 60, "UNKNOWN_TABLE"),
        ("SELECT * FROM nowhere.people", 81, "UNKNOWN_DATABASE"),
        ("SELECT throwIf(1)", 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT 1 SETTINGS no_such_setting = 1", 115, "UNKNOWN_SETTING"),
    ]:
        with pytest.raises(DatabaseError) as caught:
            client.query(sql)
        assert (caught.value.code, caught.value.name) == (code, name)


def test_an_error_after_the_result_began_reaches_the_client(server: Server) -> None:
    sql = "SELECT throwIf(number > 3000000) FROM numbers(10000000)"
    client = server.connect()
    with (
        client.query_row_block_stream(sql) as stream,
        pytest.raises(StreamFailureError, match="Value passed to 'throwIf'"),
    ):
        list(stream)
    with pytest.raises(httpx.RemoteProtocolError):
        server.get(sql)


def test_a_temporary_table_lives_in_its_session(server: Server) -> None:
    first, second = server.connect(), server.connect()
    first.command("CREATE TEMPORARY TABLE chosen (id Int64)")
    first.insert("chosen", [[1], [2]], column_names=["id"])
    assert first.command("SELECT sum(id) FROM chosen") == 3
    with pytest.raises(DatabaseError):
        second.query("SELECT * FROM chosen")


# ── Our own client ──────────────────────────────────────────────────────────────────────────────────


def test_our_client_migrates_and_inserts(server: Server) -> None:
    with ClickHouse(Address(url=server.url, password=KEY, databases=DATABASES)) as client:
        assert len(migrate(client)) >= 4
        assert migrate(client) == []
        profiles = TableName("event_sink", "user_profile")
        client.insert(profiles, ["user_id", "name"], [[number, f"n{number}"] for number in range(100)])
        client.execute("CREATE TEMPORARY TABLE subjects (id Int64)")
        client.insert("subjects", ["id"], [[5], [7]])
        found = client.column("SELECT name FROM $event_sink.user_profile WHERE user_id IN subjects ORDER BY user_id")
        assert found == ["n5", "n7"]
        client.execute("DELETE FROM $event_sink.user_profile WHERE user_id = {id:Int64}", id=5)
        assert client.value("SELECT count() FROM $event_sink.user_profile") == 99
        with pytest.raises(QueryError) as caught:
            client.rows("SELECT nonsense FROM $event_sink.user_profile")
        assert caught.value.name == "UNKNOWN_IDENTIFIER"


def test_the_folder_stays_open_to_this_process(server: Server, table: str) -> None:
    with ClickHouse(Address(url=f"chdb://{server.folder}")) as embedded:
        embedded.insert(TableName("shop", table), ["id", "name"], [[1, "from here"]])
        server.post("INSERT INTO people VALUES (2, 'from there')")
        assert embedded.column("SELECT name FROM shop.people ORDER BY id") == ["from here", "from there"]
    assert names(server) == ["from here", "from there"]


# ── Plain HTTP ──────────────────────────────────────────────────────────────────────────────────────


def test_liveness(server: Server) -> None:
    for path in ("/ping", "/replicas_status", "/"):
        response = httpx.get(server.url + path)
        assert (response.status_code, response.text) == (200, "Ok.\n")
    assert httpx.get(server.url + "/play").status_code == 404


def test_formats(server: Server) -> None:
    assert server.get("SELECT 1, 'a'").text == "1\ta\n"
    assert server.get("SELECT 1 AS x", default_format="JSONEachRow").text == '{"x":1}\n'
    assert server.get("SELECT 1 AS x FORMAT CSV", default_format="JSONEachRow").text == "1\n"
    response = httpx.get(
        server.url, params={"query": "SELECT 1 AS x"}, headers={"X-ClickHouse-Format": "JSONCompact"}, auth=AUTH
    )
    assert response.json()["data"] == [[1]]
    assert response.headers["X-ClickHouse-Format"] == "JSONCompact"
    assert response.headers["Content-Type"].startswith("application/json")
    assert json.loads(response.headers["X-ClickHouse-Summary"])["result_rows"] == "1"
    assert response.headers["X-ClickHouse-Server-Display-Name"]
    assert response.headers["X-ClickHouse-Timezone"]
    nothing = server.get("SELECT 1 AS x WHERE 0 FORMAT JSON")
    assert nothing.json()["meta"] == [{"name": "x", "type": "UInt8"}]
    assert server.get("SELECT 1", default_format="DataFrame").status_code == 404
    assert server.get("SELECT format('{}', 'x') AS format").text == "x\n"


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("", "INSERT INTO people FORMAT CSV\n1,anna\n2,berta\n"),
        ("INSERT INTO people FORMAT CSV", "1,anna\n2,berta\n"),
        ("INSERT INTO people (id, name) FORMAT JSONEachRow", '{"id":1,"name":"anna"}\n{"id":2,"name":"berta"}'),
        ("INSERT INTO people FORMAT CSV\n1,anna", "2,berta"),
        ("", "INSERT INTO people FORMAT/* as rows */CSV\n1,anna\n2,berta\n"),
        ("INSERT INTO people VALUES", "(1, 'anna'), (2, 'berta');"),
        ("", "INSERT INTO people VALUES (1, 'anna'), (2, 'berta') ; -- and that is all"),
        (
            "",
            "/* FORMAT x */ INSERT INTO people SETTINGS async_insert = 0 VALUES (1, 'anna'), (2, concat('ber', 'ta'))",
        ),
        ("", "INSERT INTO `people` SELECT number + 1, ['anna', 'berta'][number + 1] FROM numbers(2);"),
        ("INSERT INTO people", "SELECT number + 1, ['anna', 'berta'][number + 1] FROM numbers(2)"),
        ("", "INSERT INTO people WITH ['anna', 'berta'] AS n SELECT number + 1, n[number + 1] FROM numbers(2)"),
    ],
)
def test_inserts_in_every_form(server: Server, table: str, query: str, body: str) -> None:
    response = server.post(body, query=query)
    assert response.status_code == 200, response.text
    assert json.loads(response.headers["X-ClickHouse-Summary"])["written_rows"] == "2"
    assert names(server) == ["anna", "berta"]


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("", "INSERT INTO people VALUES (1, ';'); DROP TABLE people"),
        ("", "INSERT INTO people VALUES (1, 'anna'); (2, 'berta')"),
        ("INSERT INTO people FORMAT Values", "(1, concat('\\';', 'x')) /* ; */ ; SELECT 1"),
        ("INSERT INTO people VALUES (1, 'anna');", "(2, 'berta')"),
    ],
)
def test_an_insert_with_something_after_its_rows_is_refused(server: Server, table: str, query: str, body: str) -> None:
    response = server.post(body, query=query)
    assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (400, "62")
    assert "one statement at a time" in response.text
    assert names(server) == []


def test_a_body_of_countless_empty_frames_is_refused(server: Server, table: str) -> None:
    frames = gzip.compress(b"") * 200_000
    body = frames + gzip.compress(b"1,anna\n")
    response = server.post_encoded(body, "gzip", query="INSERT INTO people FORMAT CSV")
    assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (413, "307")
    assert names(server) == []


def test_an_insert_that_is_not_stored_fails(server: Server) -> None:
    """What a stream of rows breaks at its end is an error too."""
    server.post("CREATE TABLE picky (a Int64, CONSTRAINT small CHECK a < 5) ENGINE = MergeTree ORDER BY a")
    refused = server.post("INSERT INTO picky SETTINGS max_insert_threads = 1 FORMAT CSV\n1\n7\n")
    assert (refused.status_code, refused.headers["X-ClickHouse-Exception-Code"]) == (500, "469")
    assert server.post("INSERT INTO picky (a) SETTINGS max_insert_threads = 1 VALUES (1), (2)").status_code == 200
    assert server.get("SELECT groupArray(a) FROM picky").text == "[1,2]\n"
    server.post("DROP TABLE picky")


def test_a_bad_row_fails_the_insert(server: Server, table: str) -> None:
    response = server.post("INSERT INTO people FORMAT CSV\n1,anna\nx,berta\n")
    assert response.status_code == 400
    assert response.headers["X-ClickHouse-Exception-Code"] == "27"
    assert names(server) == []


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstd.compress), ("lz4", lz4.frame.compress)],
)
def test_compressed_bodies(server: Server, table: str, encoding: str, compress: Any) -> None:
    # Two frames, as clients send that compress block by block.
    body = compress(b"INSERT INTO people FORMAT CSV\n1,anna\n") + compress(b"2,berta\n")
    headers = {"Content-Encoding": encoding}
    assert httpx.post(server.url, params=SHOP, content=body, headers=headers, auth=AUTH).status_code == 200
    assert names(server) == ["anna", "berta"]
    cut = httpx.post(server.url, content=body[:-3], headers=headers, auth=AUTH)
    assert cut.headers["X-ClickHouse-Exception-Code"] == "271"
    broken = httpx.post(server.url, content=b"not compressed", headers=headers, auth=AUTH)
    assert broken.headers["X-ClickHouse-Exception-Code"] == "271"


@pytest.mark.parametrize(
    ("encoding", "decompress"),
    [("gzip", gzip.decompress), ("deflate", zlib.decompress), ("zstd", zstd.decompress), ("lz4", lz4.frame.decompress)],
)
@pytest.mark.parametrize("wait", ["0", "1"])
def test_compressed_answers(server: Server, encoding: str, decompress: Any, wait: str) -> None:
    parameters = {
        "query": "SELECT number FROM numbers(200000)",
        "enable_http_compression": "1",
        "wait_end_of_query": wait,
    }
    with httpx.stream(
        "GET", server.url, params=parameters, auth=AUTH, headers={"Accept-Encoding": encoding}
    ) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers["Content-Encoding"] == encoding
    assert decompress(raw) == "".join(f"{number}\n" for number in range(200000)).encode()


@pytest.mark.parametrize("value", ["plain", "ünï\n; '\"\\", "line\r\n", "\r\n--x", "", "a" * 300_000])
def test_parameters_in_a_form(server: Server, value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    form = {"query": (None, "SELECT length({x:String}), {x:String} = unhex({hex:String})"), "param_x": (None, escaped)}
    form["param_hex"] = (None, value.encode().hex())
    response = httpx.post(server.url, files=form, auth=AUTH)
    assert response.text == f"{len(value.encode())}\t1\n"


def test_parameters_in_the_address(server: Server) -> None:
    assert server.get("SELECT {n:UInt8} + 1, {t:Identifier}", param_n="4", param_t="NULL").status_code == 404
    assert server.get("SELECT {n:UInt8} + 1", param_n="4").text == "5\n"
    missing = server.get("SELECT {n:UInt8}")
    assert missing.headers["X-ClickHouse-Exception-Code"] == "456"


def test_settings_and_database_are_the_requests_own(server: Server) -> None:
    server.post("CREATE DATABASE IF NOT EXISTS elsewhere")
    look = "SELECT getSetting('max_threads'), currentDatabase()"
    assert server.post(look, max_threads="7", database="elsewhere").text == "7\telsewhere\n"
    server.post("SET max_threads = 9")
    server.post("USE elsewhere")
    with ThreadPoolExecutor(8) as pool:
        answers = [answer.text for answer in pool.map(lambda _: server.post(look), range(32))]
    assert len(answers) == 32
    assert len(set(answers)) == 1
    assert answers[0].endswith("\tshop\n")
    assert not answers[0].startswith(("7", "9"))
    assert server.post(look, no_such_setting="1").headers["X-ClickHouse-Exception-Code"] == "115"
    assert server.post(look, database="nowhere").status_code == 404


@pytest.mark.parametrize(
    ("sql", "parameters", "status", "code"),
    [
        ("SELECT 1; SELECT 2", {}, 400, 62),
        ("SELECT ';' -- ;\n; DROP TABLE x", {}, 400, 62),
        ("SELEC 1", {}, 400, 62),
        ("--", {}, 400, 62),
        ("SELECT 1 INTO OUTFILE '/tmp/never-written'", {}, 403, 497),
        ("INSERT INTO people FROM INFILE '/etc/passwd' FORMAT CSV", {}, 501, 48),
        ("INSERT INTO people SELECT * FROM input('id UInt64, name String') FORMAT CSV\n1,a", {}, 501, 48),
        ("SELECT 1", {"decompress": "1"}, 501, 48),
        ("SELECT 1", {"compress": "1"}, 501, 48),
        ("SELECT 1", {"role": "admin"}, 501, 48),
        ("SELECT 1", {"session_id": "x", "session_timeout": "4000"}, 500, 374),
        ("SELECT 1", {"session_id": "unheard of", "session_check": "1"}, 500, 372),
        ("SELECT 1", {"a b": "1"}, 400, 36),
        ("CREATE DATABASE other", {"readonly": "1"}, 500, 164),
        ("SELECT 1", {"readonly": "1", "session_id": "x"}, 501, 48),
    ],
)  # fmt: skip
def test_refusals(server: Server, sql: str, parameters: dict[str, str], status: int, code: int) -> None:
    response = server.post(sql, **parameters)
    assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (status, str(code))
    assert response.text.startswith(f"Code: {code}. DB::Exception: ")


@pytest.mark.parametrize("sql", ["SELECT 1 ;\n -- the end", "(SELECT 1)", "/* ; */ SELECT 1", "WITH 1 AS x SELECT x"])
def test_statement_may_have_trimmings(server: Server, sql: str) -> None:
    assert server.post(sql).text == "1\n"


def test_get_only_reads(server: Server, table: str) -> None:
    response = server.get("INSERT INTO people VALUES (1, 'anna')")
    assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (500, "164")
    assert server.get("TRUNCATE TABLE people").headers["X-ClickHouse-Exception-Code"] == "164"
    assert names(server) == []


def test_external_data_is_refused(server: Server) -> None:
    response = httpx.post(
        server.url, params={"query": "SELECT * FROM t", "t_types": "Int8"}, files={"t": ("t.tsv", b"1\n")}, auth=AUTH
    )
    assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (501, "48")


def test_a_body_has_a_limit(server: Server) -> None:
    app = create_app(server.folder, Account("default", KEY), max_body_bytes=1000)
    bodies: list[tuple[bytes, dict[str, str], int]] = [
        (b"SELECT 1", {}, 200),
        (b"SELECT 1" + b" " * 1000, {}, 413),
        (gzip.compress(b"SELECT 1" + b" " * 1000), {"Content-Encoding": "gzip"}, 413),
    ]

    async def post_all() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            return [
                (await client.post("/", content=body, headers=head, auth=AUTH)).status_code for body, head, _ in bodies
            ]

    assert asyncio.run(post_all()) == [status for _, _, status in bodies]


# ── Sessions ────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_keeps_what_statements_set_and_forgets_what_addresses_say(server: Server) -> None:
    look = "SELECT getSetting('max_threads'), currentDatabase()"
    server.post("CREATE DATABASE IF NOT EXISTS elsewhere")
    assert server.post("SET max_threads = 6", session_id="s1", database="").status_code == 200
    assert server.post("USE elsewhere", session_id="s1", database="").status_code == 200
    assert server.post(look, session_id="s1", database="").text == "6\telsewhere\n"
    assert server.post(look, session_id="s1", max_threads="7", database="default").text == "7\tdefault\n"
    assert server.post(look, session_id="s1", database="", session_check="1").text == "6\telsewhere\n"
    assert server.post(look, session_id="s1", database="", close_session="1").text == "6\telsewhere\n"
    assert (
        server.post(look, session_id="s1", database="", session_check="1").headers["X-ClickHouse-Exception-Code"]
        == "372"
    )


def test_a_session_is_put_back_to_what_statements_have_set_since(server: Server) -> None:
    """How a session is put back is remembered: not beyond a statement that changes it."""
    look = "SELECT getSetting('max_threads'), currentDatabase()"
    server.post("CREATE DATABASE IF NOT EXISTS elsewhere")
    for threads, database in (("5", "elsewhere"), ("6", "default")):
        assert server.post(f"SET max_threads = {threads}", session_id="s8", database="").status_code == 200
        assert server.post(f"USE {database}", session_id="s8", database="").status_code == 200
        for _ in range(2):
            assert server.post(look, session_id="s8", max_threads="7", database="system").text == "7\tsystem\n"
            assert server.post(look, session_id="s8", database="").text == f"{threads}\t{database}\n"


def test_a_session_is_one_clients_at_a_time(server: Server) -> None:
    busy = threading.Thread(target=lambda: server.post("SELECT sleep(1.5)", session_id="s2"))
    busy.start()
    time.sleep(0.5)
    response = server.post("SELECT 1", session_id="s2")
    assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (500, "373")
    busy.join()
    assert server.post("SELECT 1", session_id="s2").text == "1\n"


def test_a_session_can_go_on_as_soon_as_a_result_is_read(server: Server) -> None:
    with httpx.Client(base_url=server.url, auth=AUTH) as client:
        for _ in range(100):
            parameters = {"query": "SELECT number FROM numbers(100000)", "session_id": "s3"}
            assert len(client.post("/", params=parameters).content) == 588890


def test_a_result_given_up_frees_its_session(server: Server) -> None:
    parameters = {"query": "SELECT number FROM numbers(10000000000)", "session_id": "s4"}
    with httpx.stream("POST", server.url, params=parameters, auth=AUTH) as response:
        assert response.status_code == 200
        next(response.iter_raw())
    deadline = time.monotonic() + 120
    while server.post("SELECT 1", session_id="s4").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_session_ends_after_its_time(server: Server) -> None:
    server.post("CREATE TEMPORARY TABLE t (a Int8)", session_id="s5", session_timeout="1")
    assert server.post("SELECT count() FROM t", session_id="s5", session_timeout="1").text == "0\n"
    time.sleep(1.2)
    assert server.post("SELECT count() FROM t", session_id="s5").status_code == 404


# ── Load ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_long_query_blocks_nobody(server: Server) -> None:
    busy = [threading.Thread(target=lambda: server.post("SELECT sleep(3)")) for _ in range(20)]
    for thread in busy:
        thread.start()
    time.sleep(0.3)
    assert httpx.get(server.url + "/ping", timeout=60).text == "Ok.\n"
    assert any(thread.is_alive() for thread in busy), "it was answered after the others"
    for thread in busy:
        thread.join()


@pytest.mark.parametrize("wait", ["0", "1"])
def test_a_large_result(server: Server, wait: str) -> None:
    size = 0
    parameters = {"query": "SELECT repeat('x', 999) FROM numbers(120000)", "wait_end_of_query": wait}
    with httpx.stream("GET", server.url, params=parameters, auth=AUTH, timeout=60) as response:
        for piece in response.iter_raw():
            size += len(piece)
    assert size == 120_000_000


def test_a_large_insert(server: Server, table: str) -> None:
    rows = b"".join(b"%d,%s\n" % (number, b"y" * 100) for number in range(300_000))
    assert server.post(b"INSERT INTO people FORMAT CSV\n" + rows).status_code == 200
    assert (
        server.get("SELECT count(), sum(id), sum(length(name)) FROM people").text == "300000\t44999850000\t30000000\n"
    )


CLIENT = """
import sys, clickhouse_connect
client = clickhouse_connect.get_client(host="127.0.0.1", port=int(sys.argv[1]), password=sys.argv[3], database="shop")
for number in range(20):
    client.insert("people", [[number, sys.argv[2]]] * 10, column_names=["id", "name"])
    assert client.command("SELECT count() FROM people WHERE name = {n:String}", parameters={"n": sys.argv[2]}) == 10 * number + 10
"""


def test_clients_in_two_processes_do_not_meet(server: Server, table: str) -> None:
    clients = [subprocess.Popen([sys.executable, "-c", CLIENT, str(server.port), name, AUTH[1]]) for name in ("a", "b")]
    assert [client.wait(60) for client in clients] == [0, 0]
    assert server.get("SELECT name, count() FROM people GROUP BY name ORDER BY name").text == "a\t200\nb\t200\n"


# ── Credentials ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def locked(server: Server) -> Iterator[Server]:
    """The same engine, behind a password."""
    with running(server.folder, user="aspects", password=SecretStr(PASSWORD)) as url:
        yield Server(server.folder, url)


def test_the_right_credentials_in_every_way(locked: Server) -> None:
    basic = base64.b64encode(f"aspects:{PASSWORD}".encode()).decode()
    headers = {b"X-ClickHouse-User": b"aspects", b"X-ClickHouse-Key": PASSWORD.encode()}
    query = {"query": "SELECT 1"}
    assert httpx.get(locked.url, params=query, headers={"Authorization": f"Basic {basic}"}).text == "1\n"
    assert httpx.get(locked.url, params=query, headers=headers).text == "1\n"
    in_address = {"user": "aspects", "password": PASSWORD}
    assert httpx.get(locked.url, params=query | in_address).text == "1\n"
    assert locked.connect(username="aspects", password=PASSWORD).command("SELECT 1") == 1
    with ClickHouse(Address(url=locked.url, user="aspects", password=SecretStr(PASSWORD))) as client:
        assert client.value("SELECT 1") == 1


@pytest.mark.parametrize(
    ("headers", "parameters", "status"),
    [
        ({}, {}, 401),
        ({}, {"user": "aspects", "password": "wrong"}, 403),
        ({}, {"user": "default", "password": PASSWORD}, 403),
        ({"X-ClickHouse-User": "aspects"}, {}, 403),
        ({"Authorization": "Basic !"}, {}, 403),
        ({"Authorization": "Bearer x"}, {}, 403),
        ({"X-ClickHouse-User": "aspects"}, {"user": "aspects", "password": PASSWORD}, 403),
    ],
)
def test_wrong_credentials(locked: Server, headers: dict[str, str], parameters: dict[str, str], status: int) -> None:
    response = httpx.get(locked.url, params={"query": "SELECT 1", **parameters}, headers=headers)
    assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (status, "516")
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    assert PASSWORD not in response.text
    assert httpx.get(locked.url + "/ping", headers=headers).status_code == 200


def test_clients_name_the_refusal(locked: Server) -> None:
    with pytest.raises(DatabaseError) as caught:
        locked.connect(username="aspects", password="wrong")
    assert caught.value.code == 516
    with pytest.raises(AuthenticationError):
        ClickHouse(Address(url=locked.url, user="aspects", password=SecretStr("wrong"), retries=0))


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_web_pages_are_kept_out(server: Server, headers: dict[str, str], method: str) -> None:
    response = httpx.request(method, server.url, params={"query": "SELECT 1"}, headers=headers, auth=AUTH)
    assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (403, "516")


def test_somebody_who_types_the_address_gets_in(server: Server) -> None:
    response = httpx.get(server.url, params={"query": "SELECT 1"}, headers={"Sec-Fetch-Site": "none"}, auth=AUTH)
    assert response.text == "1\n"


def test_an_image_of_a_web_page_gets_nothing(server: Server) -> None:
    """As a browser sends it that has no `Sec-Fetch-Site`."""
    response = httpx.get(server.url, params={"query": "SELECT 1"}, headers={"Accept": "image/*"})
    assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (401, "516")


def test_an_account_without_a_password_is_refused() -> None:
    with pytest.raises(ValueError, match="password"):
        Account("default", SecretStr(""))


# ── Silence ─────────────────────────────────────────────────────────────────────────────────────────


def test_values_are_not_logged(server: Server, table: str, caplog: Any, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(0)
    server.post("INSERT INTO people VALUES (1, 'canary')")
    server.post("INSERT INTO people FORMAT CSV\ncanary,canary\n")
    server.get("SELECT * FROM people WHERE name = 'canary' AND canary")
    server.get("SELECT throwIf(number > 3000000, 'canary') FROM numbers(10000000)", wait_end_of_query="1")
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not any("canary" in record.getMessage() for record in ours)
    out, err = capfd.readouterr()
    assert "canary" not in out + err
