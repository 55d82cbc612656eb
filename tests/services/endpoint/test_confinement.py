"""The process that serves the engine reaches nothing beside its data, whatever way a statement finds: the kernel sees to it."""

from __future__ import annotations

import ctypes
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support import served
from tests.support.processes import make_endpoint, running

AUTH = ("default", served.PASSWORD.get_secret_value())
CANARY = "canary-of-a-file"
# https://docs.kernel.org/userspace-api/landlock.html: the version with which TCP can be kept from a process.
VERSION = ctypes.CDLL(None).syscall(444, None, 0, 1) if sys.platform == "linux" else -1
pytestmark = pytest.mark.skipif(VERSION < 4, reason="this kernel has no Landlock that knows TCP (Linux 6.7)")


@dataclass
class Listener:
    """Somebody's host: takes connections, and counts them."""

    socket: socket.socket
    connections: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        self.socket.settimeout(0.1)
        while not self.stop.is_set():
            try:
                self.socket.accept()[0].close()
            except TimeoutError:
                continue
            self.connections += 1


@dataclass(frozen=True)
class Server:
    url: str
    outside: Path
    listener: Listener

    def ask(self, sql: str, **parameters: str) -> httpx.Response:
        port = str(self.listener.socket.getsockname()[1])
        texts = [sql, *parameters.values()]
        sql, *values = [text.replace("<outside>", str(self.outside)).replace("<port>", port) for text in texts]
        given = {"database": "shop", **dict(zip(parameters, values, strict=True))}
        return httpx.post(self.url, params=given, content=sql, auth=AUTH, timeout=60)

    def list_outside(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.outside)): p.read_bytes() for p in self.outside.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.csv").write_text(CANARY)
    (outside / "folder").mkdir()
    (outside / "folder" / "file").write_text("of somebody else")
    folder = tmp_path_factory.mktemp("engine")
    with (
        socket.create_server(("127.0.0.1", 0)) as taking,
        running(make_endpoint(folder, folder / "clickhouse")) as process,
    ):
        listener = Listener(taking)
        thread = threading.Thread(target=listener.run)
        thread.start()
        server = Server(f"http://127.0.0.1:{process.port}", outside, listener)
        assert server.ask("CREATE DATABASE shop", database="").status_code == 200
        made = server.ask("CREATE TABLE people (id UInt64, name String) ENGINE = MergeTree ORDER BY id")
        assert made.status_code == 200
        yield server
        listener.stop.set()
        thread.join()


FILE = "'<outside>/secret.csv'"
READING = [
    (f"SELECT * APPLY(file) FROM (SELECT {FILE} AS a)", {}),
    (f"SELECT arrayMap(file, [{FILE}])", {}),
    ("SELECT arrayMap(file, ['/proc/self/environ'])", {}),
    (f"INSERT INTO people VALUES (2, file({FILE}))", {}),
    (f"INSERT INTO people FORMAT Values (3, (SELECT file({FILE})))", {}),
    ("SELECT 1", {"additional_result_filter": f"throwIf(1, file({FILE}))"}),
    ("SELECT * FROM people", {"additional_table_filters": f"{{'people': 'toUInt8(file(\\{FILE[:-1]}\\'))'}}"}),
    (f"SELECT * FROM format(JSONEachRow, 'a Int8, b String DEFAULT file(\\{FILE[:-1]}\\')', '{{\"a\":1}}')", {}),
    (f"SELECT * FROM eval('SELECT file(\\{FILE[:-1]}\\')')", {}),
    (
        "INSERT INTO people SELECT 7, 'x'" + " " * (1 << 18) + f"UNION ALL SELECT 8, file({FILE})",
        {"max_query_size": "0"},
    ),
    (
        "CREATE VIEW v (p String, c Nullable(String)) SQL SECURITY NONE AS SELECT path, content FROM filesystem('<outside>')",
        {},
    ),
]


@pytest.mark.parametrize(("sql", "parameters"), READING)
def test_no_way_leads_to_a_file_of_the_host(server: Server, sql: str, parameters: dict[str, str]) -> None:
    response = server.ask(sql, **parameters)
    assert response.status_code >= 400
    assert CANARY not in response.text
    assert CANARY not in server.ask("SELECT * FROM people").text


def test_no_dictionary_leads_to_a_file_of_the_host(server: Server) -> None:
    query = f"SELECT 1 AS id, file(\\{FILE[:-1]}\\') AS name"
    made = server.ask(
        "CREATE OR REPLACE DICTIONARY reading (id UInt64, name String) PRIMARY KEY id "
        f"SOURCE(CLICKHOUSE(query '{query}')) LAYOUT(FLAT()) LIFETIME(0)"
    )
    assert made.status_code == 200, made.text
    response = server.ask("SELECT dictGet('reading', 'name', 1)")
    assert response.status_code >= 400
    assert CANARY not in response.text


WRITING = [
    (
        "SELECT 1 AS a FORMAT Protobuf",
        {"output_format_schema": "<outside>/secret.csv", "format_protobuf_use_autogenerated_schema": "1"},
    ),
    (
        "INSERT INTO people FORMAT CSV\nx,y\n",
        {"input_format_record_errors_file_path": "<outside>/rows", "input_format_allow_errors_num": "10"},
    ),
    ("ATTACH TABLE moved FROM '<outside>/folder/' (id UInt64) ENGINE = MergeTree ORDER BY id", {}),
    ("ATTACH TABLE moved FROM '<outside>/folder/' (id UInt64) ENGINE = Log", {}),
]


@pytest.mark.parametrize(("sql", "parameters"), WRITING)
def test_no_way_leads_to_a_changed_file_of_the_host(server: Server, sql: str, parameters: dict[str, str]) -> None:
    before = server.list_outside()
    assert len(before) == 2
    assert server.ask(sql, **parameters).status_code >= 400
    assert server.list_outside() == before


CALLING = [
    (
        "SELECT * FROM format(AvroConfluent, unhex('0000000001616263'))",
        {"format_avro_schema_registry_url": "http://127.0.0.1:<port>"},
    ),
    (
        "CREATE VIEW w (a String) SQL SECURITY NONE AS SELECT * FROM url('http://127.0.0.1:<port>/', 'CSV', 'a String')",
        {},
    ),
    ("CREATE VIEW w (a UInt8) SQL SECURITY NONE AS SELECT * FROM remote('127.0.0.1:<port>', system.one)", {}),
    (
        "CREATE DATABASE lake ENGINE = DataLakeCatalog('http://127.0.0.1:<port>/') "
        "SETTINGS catalog_type = 'rest', warehouse = 'w'",
        {},
    ),
]


@pytest.mark.parametrize(("sql", "parameters"), CALLING)
def test_no_way_leads_to_another_host(server: Server, sql: str, parameters: dict[str, str]) -> None:
    assert server.ask(sql, **parameters).status_code >= 400
    assert server.listener.connections == 0


def test_no_dictionary_leads_to_a_port_of_this_host(server: Server) -> None:
    server.ask(
        "CREATE OR REPLACE DICTIONARY calling (id UInt64, name String) PRIMARY KEY id "
        "SOURCE(CLICKHOUSE(host 'localhost' port <port> query 'SELECT 1')) LAYOUT(FLAT()) LIFETIME(0)"
    )
    assert server.ask("SELECT dictGet('calling', 'name', 1)").status_code >= 400
    assert server.listener.connections == 0


def test_what_is_in_the_data_folder_works(server: Server) -> None:
    assert server.ask("CREATE TABLE many (id UInt64, text String) ENGINE = MergeTree ORDER BY id").status_code == 200
    rows = "".join(f"{number},{number}\n" for number in range(1000))
    assert server.ask(f"INSERT INTO many FORMAT CSV\n{rows}").status_code == 200
    assert server.ask("ALTER TABLE many DELETE WHERE id < 500 SETTINGS mutations_sync = 2").status_code == 200
    assert server.ask("OPTIMIZE TABLE many FINAL").status_code == 200
    dictionary = (
        "CREATE DICTIONARY one (id UInt64, text String) PRIMARY KEY id "
        "SOURCE(CLICKHOUSE(query 'SELECT id, text FROM shop.many')) LAYOUT(HASHED()) LIFETIME(0)"
    )
    assert server.ask(dictionary).status_code == 200
    assert server.ask("SELECT dictGet('shop.one', 'text', toUInt64(999)), count() FROM many").text == "999\t500\n"
    in_berlin = server.ask("SELECT toString(toDateTime('2026-07-01 00:00:00', 'Europe/Berlin'), 'UTC')")
    assert in_berlin.text == "2026-06-30 22:00:00\n"
