"""The client, against the engine in process and against a server that misbehaves on purpose."""

from __future__ import annotations

import logging
import pickle
import shutil
import ssl
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote_plus

import pytest
import stamina
from pydantic import SecretStr

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.errors import (
    AddressError,
    AuthenticationError,
    DatabaseError,
    DatabaseMissingError,
    EmbeddedBusyError,
    EmbeddedDamagedError,
    OverloadedError,
    QueryError,
    ReadOnlyError,
    SettingsError,
    UnreachableError,
)
from sink.installation import connect
from sink.names import TableName, quote
from sink.settings import Settings
from sink.store import Store
from tests.support import served

CANARY = "canary-5d1f"
NASTY = [
    "",
    "O'Reilly",
    'a "quoted" `name`',
    "back\\slash\\",
    "line\nline\ttab\r",
    "{value:String} %s %(value)s $event_sink",
    "ünïcödé 🎉 عربي",
    "zero\x00byte",
    "'; DROP TABLE x; --",
    "NULL",
    "\\N",
]


@pytest.fixture
def client(settings: Settings) -> Iterator[ClickHouse]:
    """The engine in process, empty."""
    with connect(settings, creates=True) as client:
        yield client


@pytest.fixture(autouse=True)
def quick_retries() -> Iterator[None]:
    """As many tries as are set, without the pauses between them."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


# --- values


@pytest.mark.parametrize("value", NASTY)
def test_text_is_bound_as_it_is(client: ClickHouse, value: str) -> None:
    assert client.value("SELECT {value:String}", value=value) == value


def test_arrays_are_bound_as_they_are(client: ClickHouse) -> None:
    assert client.value("SELECT {values:Array(String)}", values=NASTY) == NASTY
    pairs = [(text, text[::-1]) for text in NASTY]
    assert client.value("SELECT {pairs:Array(Tuple(String, String))}", pairs=pairs) == pairs
    assert client.value("SELECT {ids:Array(Int64)}", ids=[]) == []
    numbers = [0, -1, 2**63 - 1, -(2**63)]
    assert client.value("SELECT {ids:Array(Int64)}", ids=numbers) == numbers
    assert client.value("SELECT {ids:Array(UInt64)}", ids=[2**64 - 1]) == [2**64 - 1]
    assert client.value("SELECT {ids:Array(String)}", ids=["1", "[2]"]) == ["1", "[2]"]


def test_other_kinds_are_bound_as_they_are(client: ClickHouse) -> None:
    moment = datetime(2026, 2, 3, 4, 5, 6, 123456, tzinfo=UTC)
    some_id = uuid.UUID(int=7)
    assert client.rows(
        "SELECT {number:Int64}, {moment:DateTime64(6, 'UTC')}, {id:UUID}, {none:Nullable(String)}",
        number=-(2**63),
        moment=moment,
        id=some_id,
        none=None,
    ) == [(-(2**63), moment, some_id, None)]


def test_values_are_inserted_as_they_are(client: ClickHouse) -> None:
    client.execute("CREATE TEMPORARY TABLE batch (id Int64, text String)")
    client.insert("batch", ("id", "text"), list(enumerate(NASTY)))
    assert client.column("SELECT text FROM batch ORDER BY id") == NASTY


def test_insert_names_its_columns(client: ClickHouse) -> None:
    client.execute("CREATE TEMPORARY TABLE batch (a String, b String, c String DEFAULT 'none')")
    client.insert("batch", ("b", "a"), [("second", "first")])
    client.insert("batch", ("a",), [])
    assert client.rows("SELECT a, b, c FROM batch") == [("first", "second", "none")]


def test_insert_leaves_no_file_behind(client: ClickHouse, tmp_path: Path) -> None:
    client.execute("CREATE TEMPORARY TABLE batch (text String)")
    client.insert("batch", ("text",), [(CANARY,)])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


@pytest.mark.needs_chdb_4(reason="all connections of chDB 3 share temporary tables")
def test_temporary_table_is_this_connection_s_own(client: ClickHouse, settings: Settings) -> None:
    client.execute("CREATE TEMPORARY TABLE batch (text String)")
    with connect(settings, creates=True) as other, pytest.raises(QueryError) as caught:
        other.rows("SELECT * FROM batch")
    assert caught.value.name == "UNKNOWN_TABLE"


def test_dollars_that_name_nothing_are_left_alone(client: ClickHouse) -> None:
    client.execute("CREATE DATABASE $event_sink")
    client.execute("CREATE TABLE $event_sink.`a$b` (text String) ENGINE = MergeTree ORDER BY ()")
    client.insert(client.table("event_sink.a$b"), ("text",), [("a",)])
    table = client.table("event_sink.a$b")
    assert client.value(f"SELECT replaceRegexpOne(text, 'a$', '$0$') FROM {table.sql}") == "$0$"


@pytest.mark.parametrize("name", ["plain", "a`b", "a\\b", "a'b", 'a"b', "ü", "a b", "a.b", "-- x"])
def test_quoted_name_is_that_name(client: ClickHouse, name: str) -> None:
    assert client.value(f"SELECT {quote(name)} FROM (SELECT 1 AS {quote(name)})") == 1
    client.execute(f"CREATE TEMPORARY TABLE batch ({quote(name)} String)")
    client.insert("batch", (name,), [("x",)])
    assert client.value(f"SELECT {quote(name)} FROM batch") == "x"


def test_tables_of_the_map_are_those_of_this_installation(client: ClickHouse) -> None:
    assert client.table("event_sink.a") == TableName("event_sink", "a")
    renamed = ClickHouse(Address(client.address.url, databases={"event_sink": "sink_2"}))
    with renamed:
        assert renamed.table("event_sink.a") == TableName("sink_2", "a")
        assert renamed.table("other.a") == TableName("other", "a")
        assert renamed.render("$event_sink.a ${event_sink}") == "`sink_2`.a `sink_2`"


# --- failures of statements


def fail(run: Callable[[], object]) -> DatabaseError:
    """The exception, after a look whether it holds a value anywhere that people or queues may see."""
    with pytest.raises(DatabaseError) as caught:
        run()
    error = caught.value
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code, again.name) == (type(error), str(error), error.code, error.name)
    frames = traceback.TracebackException.from_exception(error)
    shown = f"{error} {error!r} {error.args} {again!r} {vars(error)} {''.join(frames.format())}"
    assert CANARY not in shown
    # What a driver raised is not even hidden behind it; a file that is not there is no secret.
    assert error.__context__ is None or isinstance(error.__context__, FileNotFoundError | NotADirectoryError)
    assert error.__cause__ is None
    return error


@pytest.mark.parametrize(
    ("sql", "kind", "name", "said"),
    [
        ("SELEC 1", QueryError, "SYNTAX_ERROR", "refused a statement ("),
        ("SELECT * FROM nowhere.a", DatabaseMissingError, "UNKNOWN_DATABASE", "The database nowhere does not exist"),
        ("SELECT * FROM system.nothing", QueryError, "UNKNOWN_TABLE", "a statement about system.nothing"),
        ("SELECT nothing FROM system.one", QueryError, "UNKNOWN_IDENTIFIER", "a statement about system.one"),
        ("DELETE FROM `system`.`nothing` WHERE 1", QueryError, "UNKNOWN_TABLE", "a statement about system.nothing"),
        ("SELECT {value:String}", QueryError, "UNKNOWN_QUERY_PARAMETER", "refused a statement ("),
    ],
)
def test_refused_statement_says_what_it_was_about_and_why_without_sql(
    client: ClickHouse, sql: str, kind: type[Exception], name: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sink.clickhouse")
    error = fail(lambda: client.rows(sql))
    assert type(error) is kind
    assert error.name == name
    assert name in str(error) or "aspects-pii init" in str(error)
    assert said in str(error)
    assert sql not in str(error)
    assert "DB::Exception" not in str(error)
    # For whoever asks for it with -vv.
    assert kind is DatabaseMissingError or sql in caplog.text
    assert not error.retriable


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT toInt64({value:String})",
        "SELECT {value:Int64}",
        "SELECT {value:UUID}",
        "SELECT throwIf(text = {value:String}, 'found ' || 'it') FROM (SELECT {value:String} AS text)",
        "SELECT parseDateTimeBestEffort({value:String})",
        "SELECT JSONExtract({value:String}, 'String') AS a, a + 1",
        "SELECT CAST({value:String}, 'Enum8(\\'a\\' = 1)')",
    ],
)
def test_value_that_fails_in_a_statement_is_not_quoted(client: ClickHouse, sql: str) -> None:
    value = CANARY
    assert type(fail(lambda: client.rows(sql, value=value))) is QueryError


@pytest.mark.parametrize("value", [None, 5, f"{CANARY}\ud800", 2.5, [CANARY], object()])
def test_value_that_cannot_be_inserted_is_not_quoted(client: ClickHouse, value: object) -> None:
    client.execute("CREATE TEMPORARY TABLE batch (id Int64, text String)")
    secret = CANARY
    for row in ((secret, "x"), (2**80, secret), (1, value), (1,), (1, secret, secret)):
        if row == (1, None):
            continue
        fail(lambda row=row: client.insert("batch", ("id", "text"), [row]))  # type: ignore[misc]
    fail(lambda: client.insert("batch", ("id", "nothing"), [(1, secret)]))
    fail(lambda: client.insert("nothing", ("id",), [(1,)]))
    assert client.rows("SELECT * FROM batch") == []


def test_argument_that_cannot_be_sent_is_not_quoted(client: ClickHouse) -> None:
    values = [f"{CANARY}\ud800"]
    fail(lambda: client.rows("SELECT {values:Array(String)}", values=values))
    fail(lambda: client.rows("SELECT {value:String}", value=values[0]))


# --- failures of the embedded engine


@pytest.mark.needs_chdb_4(reason="chDB 3 says otherwise why it does not start")
def test_folder_in_use_by_another_process(client: ClickHouse) -> None:
    program = (
        "import sys\n"
        "from sink.clickhouse.address import Address\n"
        "from sink.clickhouse.client import ClickHouse\n"
        "from sink.errors import EmbeddedBusyError\n"
        "try:\n"
        "    ClickHouse(Address(sys.argv[1]))\n"
        "except EmbeddedBusyError as error:\n"
        "    print(error)\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", program, client.address.url], capture_output=True, text=True, check=True
    )
    assert str(client.address.folder) in other.stdout
    assert "in use by another process" in other.stdout
    assert "aspects-pii clickhouse" in other.stdout


def test_second_folder_in_one_process_is_neither_in_use_by_another_nor_damaged(
    client: ClickHouse, tmp_path: Path
) -> None:
    error = fail(lambda: ClickHouse(Address(f"chdb://{tmp_path}/second")))
    assert isinstance(error, EmbeddedBusyError)
    assert "this process has the engine open in another folder" in str(error)


@pytest.mark.needs_chdb_4(reason="chDB 3 says otherwise why it does not start")
@pytest.mark.parametrize("content", [b"", b"ATTACH TABLE", b"\x00" * 100])
def test_folder_that_is_damaged_is_not_in_use(
    content: bytes, settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with connect(settings, creates=True) as client:
        client.execute("CREATE DATABASE kept")
        folder = client.address.folder
    with ClickHouse(Address(f"chdb://{tmp_path}/other")):
        pass
    (folder / "metadata" / "kept.sql").write_bytes(content)
    error = fail(lambda: connect(settings))
    assert isinstance(error, EmbeddedDamagedError)
    assert str(error).startswith(f"The data folder {folder} cannot be opened, and no other process has it")
    assert "restore the folder from a backup" in str(error)
    # What the engine says of it: its code and the file, and nothing else of its words.
    assert "the engine says SYNTAX_ERROR of metadata/kept.sql" in str(error)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["metadata", "store"])
def test_file_in_the_place_of_a_folder_of_the_engine_is_damage(name: str, settings: Settings, tmp_path: Path) -> None:
    with connect(settings, creates=True) as client:
        client.execute("CREATE DATABASE kept")
        folder = client.address.folder
    with ClickHouse(Address(f"chdb://{tmp_path}/other")):
        pass
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).write_text("")
    error = fail(lambda: connect(settings))
    assert isinstance(error, EmbeddedDamagedError)
    assert f"{folder} cannot be opened" in str(error)
    assert f"{name} in it is no folder" in str(error)


def test_folder_is_free_again_after_close(settings: Settings, tmp_path: Path) -> None:
    with connect(settings, creates=True) as client:
        client.execute("CREATE DATABASE kept")
    with ClickHouse(Address(f"chdb://{tmp_path}/other")) as other:
        assert other.value("SELECT count() FROM system.databases WHERE name = 'kept'") == 0
    with connect(settings) as again:
        assert again.value("SELECT count() FROM system.databases WHERE name = 'kept'") == 1


@pytest.mark.parametrize("place", ["/proc/aspects-pii/x", "file/below"])
def test_folder_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    error = fail(lambda: ClickHouse(Address(f"chdb://{tmp_path / place}")))
    assert isinstance(error, ReadOnlyError)
    assert "cannot be made" in str(error)


def test_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Root may write everywhere, so what a refusal looks like is played here.
    from clickhouse_connect.driver.exceptions import OperationalError

    def refuse(**_: object) -> None:
        raise OperationalError(f"Cannot start EmbeddedServer: {CANARY}")

    monkeypatch.setattr("clickhouse_connect.get_client", refuse)
    assert isinstance(fail(lambda: ClickHouse(Address(f"chdb://{tmp_path}/x"))), EmbeddedDamagedError)
    monkeypatch.setattr("os.access", lambda *_: False)
    error = fail(lambda: ClickHouse(Address(f"chdb://{tmp_path}/x")))
    assert isinstance(error, ReadOnlyError)
    assert "cannot be written" in str(error)


def test_data_folder_is_its_owner_s_alone(client: ClickHouse) -> None:
    assert client.address.folder.stat().st_mode & 0o077 == 0


def test_embedded_engine_has_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ASPECTS_CLICKHOUSE_CLUSTER"):
        ClickHouse(Address(f"chdb://{tmp_path}/x", cluster="aspects"))


def test_embedded_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "chdb", None)
    with pytest.raises(SettingsError, match=r"aspects-pii-sink\[embedded\]"):
        ClickHouse(Address(f"chdb://{tmp_path}/x"))


# --- failures of a server


class Server(BaseHTTPRequestHandler):
    """Speaks as much of ClickHouse's protocol as a connection needs, and fails to order."""

    script: ClassVar[list[int | str]] = []
    """What comes next: an error code of ClickHouse, `hang`, or `http NNN`; `SELECT 1` is answered after that."""
    requests: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        text = unquote_plus(f"{self.path} {body.decode('utf-8', 'replace')}")
        if "version()" in text:
            return self.answer(200, b"26.9.1\tUTC\n")
        if "groupArray" in text:
            # One column, one row: an array without elements, which takes eight bytes.
            kind = b"Array(Tuple(String, String, UInt8))"
            return self.answer(200, b"\x01\x01\x01s" + bytes([len(kind)]) + kind + bytes(8))
        if "system.settings" in text:
            return self.answer(200, b"")
        self.requests.append(self.path)
        order = self.script.pop(0) if self.script else ""
        if order == "hang":
            time.sleep(1.5)
        if isinstance(order, int):
            text = f"Code: {order}. DB::Exception: {CANARY}. (SOME_NAME)"
            return self.answer(500, text.encode(), {"X-ClickHouse-Exception-Code": str(order)})
        if order.startswith("http"):
            return self.answer(int(order.split()[1]), CANARY.encode())
        # One column, one row: an UInt8 called `1`.
        return self.answer(200, b"\x01\x01\x011\x05UInt8\x01")

    do_GET = do_POST

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # The client has given up.

    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve on a free port of loopback."""
    Server.script, Server.requests = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    # A client that does not trust the certificate hangs up: no news.
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server."""
    with serving() as port:
        yield port


def connect_to(port: int, **more: Any) -> ClickHouse:
    """A connection with short patience."""
    client = ClickHouse(Address(f"http://127.0.0.1:{port}", **{"retries": 2, "timeout": 1, **more}))
    Server.requests.clear()
    return client


@pytest.mark.parametrize("order", [202, 241, 159, 252, 209, "http 503", "http 502"])
def test_passing_failure_is_tried_again(server: int, order: int | str) -> None:
    with connect_to(server) as client:
        Server.script = [order, order]
        assert client.value("SELECT 1") == 1
    assert len(Server.requests) == 3


def test_passing_failure_is_tried_as_often_as_is_set(server: int) -> None:
    with connect_to(server) as client:
        Server.script = [202] * 10
        error = fail(lambda: client.value("SELECT 1"))
    assert type(error) is OverloadedError
    assert error.retriable
    assert error.code == 202
    assert "too busy" in str(error)
    assert len(Server.requests) == 3


def test_statement_that_cannot_be_repeated_is_not(server: int) -> None:
    with connect_to(server) as client:
        Server.script = [202]
        fail(lambda: client.execute("INSERT INTO a SELECT 1", repeatable=False))
        assert len(Server.requests) == 1
        Server.script = [202]
        client.execute("INSERT INTO a SELECT 1")
    assert len(Server.requests) == 3


@pytest.mark.parametrize(
    ("order", "kind", "hint"),
    [
        (516, AuthenticationError, "ASPECTS_CLICKHOUSE_PASSWORD"),
        (192, AuthenticationError, "ASPECTS_CLICKHOUSE_USER"),
        ("http 401", AuthenticationError, "ASPECTS_CLICKHOUSE_PASSWORD"),
        (81, DatabaseMissingError, "aspects-pii init"),
        (164, ReadOnlyError, "does not let user default"),
        (497, ReadOnlyError, "does not let user default"),
        (62, QueryError, "SOME_NAME, 62"),
        ("http 404", AddressError, "is not ClickHouse (HTTP status 404); check ASPECTS_CLICKHOUSE_URL"),
    ],
)
def test_lasting_failure_is_not_tried_again(server: int, order: int | str, kind: type[Exception], hint: str) -> None:
    with connect_to(server, password=SecretStr(f"{CANARY}-password")) as client:
        Server.script = [order]
        error = fail(lambda: client.value("SELECT 1"))
    assert type(error) is kind
    assert hint in str(error)
    assert not error.retriable
    # What is wrong with the settings is told from what failed.
    assert error.exit_status == (2 if kind in (AuthenticationError, AddressError) else 1)
    assert len(Server.requests) == 1


def test_server_that_does_not_answer(server: int) -> None:
    with connect_to(server, retries=0) as client:
        Server.script = ["hang"]
        started = time.monotonic()
        error = fail(lambda: client.value("SELECT 1"))
    assert time.monotonic() - started < 1.4
    assert type(error) is UnreachableError
    assert "did not answer within 1 s" in str(error)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://nowhere.invalid:8123", "https://127.0.0.1:1"])
def test_server_that_is_not_there(url: str) -> None:
    error = fail(lambda: ClickHouse(Address(url, retries=1, connect_timeout=1)))
    assert type(error) is UnreachableError
    assert url in str(error)
    assert "ASPECTS_CLICKHOUSE_URL" in str(error)


def test_values_do_not_travel_in_the_address(server: int) -> None:
    # A proxy's log holds addresses.
    with connect_to(server) as client:
        client.value("SELECT 1 WHERE {value:String} != ''", value=CANARY)
        client.execute("SELECT {value:String}", value=CANARY)
    assert len(Server.requests) == 2
    assert not [path for path in Server.requests if CANARY in path]


def test_statements_with_values_over_http(tmp_path: Path) -> None:
    address = Address("", password=served.PASSWORD, databases={"event_sink": "event_sink"})
    with served.serving(tmp_path / "data") as url, ClickHouse(replace(address, url=url)) as client:
        client.execute("CREATE DATABASE $event_sink")
        client.execute("CREATE TABLE $event_sink.a (id Int64, text String) ENGINE = MergeTree ORDER BY id")
        client.insert(client.table("event_sink.a"), ("id", "text"), list(enumerate(NASTY)))
        assert client.column("SELECT text FROM $event_sink.a ORDER BY id") == NASTY
        for text in NASTY[1:]:
            client.execute("INSERT INTO $event_sink.a SELECT {id:Int64}, {text:String}", id=99, text=text)
            client.execute("DELETE FROM $event_sink.a WHERE text IN {texts:Array(String)}", texts=[text])
        client.execute(
            "ALTER TABLE $event_sink.a UPDATE text = {text:String} WHERE true", {"mutations_sync": 2}, text=NASTY[1]
        )
        assert client.rows("SELECT id, text FROM $event_sink.a") == [(0, NASTY[1])]
        client.execute("CREATE TEMPORARY TABLE batch (text String)")
        client.execute("INSERT INTO batch SELECT {text:String}", text=NASTY[1])
        assert client.column("SELECT text FROM batch") == [NASTY[1]]
        value = CANARY
        fail(lambda: client.execute("INSERT INTO batch SELECT toString(toInt64({text:String}))", text=value))


# --- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for loopback that nobody has signed, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(path), "-out", str(path.with_suffix(".crt"))]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return path


@pytest.fixture
def tls_url(certificate: Path) -> Iterator[str]:
    """A server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.with_suffix(".crt"), certificate)
    with serving(context) as port:
        yield f"https://127.0.0.1:{port}"


def test_certificate_that_nobody_signed_is_refused(tls_url: str) -> None:
    error = fail(lambda: ClickHouse(Address(tls_url, password=SecretStr(CANARY), timeout=2)))
    assert type(error) is AddressError
    assert "is not trusted; set ASPECTS_CLICKHOUSE_CA_FILE" in str(error)
    assert not error.retriable


def test_certificate_is_accepted_with_its_authority(tls_url: str, certificate: Path) -> None:
    with ClickHouse(Address(tls_url, ca_file=certificate.with_suffix(".crt"))) as client:
        assert client.value("SELECT 1") == 1


def test_certificate_for_another_host_is_refused(certificate: Path, tls_url: str) -> None:
    url = tls_url.replace("127.0.0.1", "127.0.0.2")
    assert isinstance(
        fail(lambda: ClickHouse(Address(url, ca_file=certificate.with_suffix(".crt"), retries=0))), DatabaseError
    )


def test_authority_that_is_none(certificate: Path) -> None:
    for path, reason in ((certificate, "no certificate in it"), (certificate.with_suffix(".none"), "No such file")):
        with pytest.raises(SettingsError, match=f"ASPECTS_CLICKHOUSE_CA_FILE is not valid.*{reason}"):
            ClickHouse(Address("https://127.0.0.1:1", ca_file=path))


# --- cluster


def test_cluster_clauses(store: Store) -> None:
    client = store.client
    assert client.on_cluster == ""
    assert client.replicas("system.parts") == "system.parts"
    client.cluster = "aspects"
    assert client.on_cluster == "ON CLUSTER `aspects`"
    assert client.replicas("system.parts") == "clusterAllReplicas(`aspects`, system.parts)"
    assert client.shards("`a`.`b`") == "cluster(`aspects`, `a`.`b`)"
    assert client.render("CREATE TABLE a $on_cluster (b Int8) ENGINE = ${replicated}MergeTree") == (
        "CREATE TABLE a ON CLUSTER `aspects` (b Int8) ENGINE = ReplicatedMergeTree"
    )
