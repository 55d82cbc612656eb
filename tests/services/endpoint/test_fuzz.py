"""Statements made by a grammar, and requests around them: the endpoint answers each as a server would, and stays up."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sink.endpoint.app import running
from tests.support.served import PASSWORD

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400"))
AUTH = ("default", PASSWORD.get_secret_value())
CANARY = "canary-outside"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The endpoint, and a folder with one file beside its data."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.csv").write_text(f"1,{CANARY}\n")
    with running(tmp_path_factory.mktemp("clickhouse"), password=PASSWORD) as url:
        made = "CREATE TABLE shop.people (id UInt64, name String) ENGINE = MergeTree ORDER BY id"
        for sql in ("CREATE DATABASE shop", made):
            assert httpx.post(url, content=sql, auth=AUTH).status_code == 200
        yield url, outside


PATHS = st.sampled_from(
    ["'<outside>/secret.csv'", "'<outside>/written'", "'/etc/passwd'", "'x'", "'http://127.0.0.1:9/'"]
)
GAPS = st.sampled_from([" ", "\n", "\t", "/**/", " -- a\n", "/* FORMAT CSV */", " # x\n", "\x00", "\u00a0"])
NAMES = st.sampled_from(
    ["people", "shop.people", "`people`", '"people"', "file", "system.one", "`x FORMAT y`", "default.t"]
)
FUNCTIONS = st.sampled_from(
    [
        "file",
        "FILE",
        "`file`",
        "url",
        "remote",
        "mysql",
        "executable",
        "Python",
        "python",
        "numbers",
        "merge",
        "disk",
        "input",
    ]
)
VALUES = st.one_of(
    st.integers(-5, 5).map(str),
    st.sampled_from(["'a'", "'it''s'", "'\\''", "NULL", "{x:String}", "{x:Identifier}", "$$a'b$$", "$t$ x $t$", "''"]),
    st.builds("{}({})".format, FUNCTIONS, PATHS),
    st.builds("{}({}, 'CSV', 'a String')".format, FUNCTIONS, PATHS),
)
TAILS = st.sampled_from(
    ["", ";", "; SELECT 2", " FORMAT JSON", " FORMAT Template", " INTO OUTFILE '<outside>/written'", " SETTINGS readonly = 0",
     " SETTINGS format_template_row = '<outside>/secret.csv'", " FORMAT CSV\n1,a\n", " PARALLEL WITH SELECT 1", " FORMAT"]
)  # fmt: skip
SELECTS = st.builds("SELECT{}{}{}FROM {}{}".format, GAPS, VALUES, GAPS, st.one_of(NAMES, VALUES), TAILS)
INSERTS = st.one_of(
    st.builds("INSERT{}INTO {}{}VALUES (1, {})".format, GAPS, NAMES, GAPS, VALUES),
    st.builds("INSERT INTO {}{}FORMAT{}CSV{}1,{}".format, NAMES, GAPS, GAPS, GAPS, VALUES),
    st.builds("INSERT INTO FUNCTION {}({}, 'CSV', 'a String'){}VALUES ('x')".format, FUNCTIONS, PATHS, GAPS),
    st.builds("INSERT INTO {} FROM INFILE {} FORMAT CSV".format, NAMES, PATHS),
    st.builds("INSERT INTO {} (id) {}".format, NAMES, SELECTS),
)
OTHERS = st.one_of(
    st.builds("CREATE OR REPLACE VIEW shop.v AS {}".format, SELECTS),
    st.builds("CREATE TABLE IF NOT EXISTS shop.t{} (a UInt64 DEFAULT {}) ENGINE = {}".format, GAPS, VALUES,
              st.sampled_from(["Memory", "Log", "URL('http://127.0.0.1:9/', 'CSV')", "File(CSV, '<outside>/written')",
                               "EmbeddedRocksDB(0, '<outside>/written') PRIMARY KEY a", "Executable('id', 'CSV')"])),
    st.builds("DESCRIBE{}{}".format, GAPS, VALUES),
    st.builds("EXPLAIN{}{}".format, GAPS, SELECTS),
    st.builds("SET{}{} = {}".format, GAPS, st.sampled_from(["max_threads", "readonly", "dialect", "format_schema"]), VALUES),
    st.builds("ALTER TABLE people UPDATE name = {} WHERE 1".format, VALUES),
    st.text(max_size=60),
)  # fmt: skip
STATEMENTS = st.one_of(SELECTS, INSERTS, OTHERS)
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "readonly": st.sampled_from(["0", "1", "2", "x"]),
        "session_id": st.sampled_from(["a", "b"]),
        "session_timeout": st.sampled_from(["1", "nan", "-1", "x"]),
        "default_format": st.sampled_from(["JSON", "DataFrame", "No'such", "Native"]),
        "database": st.sampled_from(["shop", "nowhere", "`"]),
        "param_x": st.text(max_size=8),
        "max_threads": st.sampled_from(["1", "many", "1'"]),
        "query": STATEMENTS,
    },
)


def test_endpoint_answers_whatever_is_asked(place: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, no file read or written outside, and the next request is served."""
    url, outside = place
    seen: Counter[int] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(STATEMENTS, PARAMETERS, st.sampled_from(["POST", "GET"]))
    def ask(sql: str, parameters: dict[str, Any], method: str) -> None:
        sql = sql.replace("<outside>", str(outside))
        given = {name: value.replace("<outside>", str(outside)) for name, value in parameters.items()}
        if method == "GET":
            given["query"] = sql
        body = None if method == "GET" else sql.encode(errors="surrogatepass")
        response = httpx.request(
            method,
            url,
            params={"max_execution_time": "5", "database": "shop", **given},
            content=body,
            auth=AUTH,
            timeout=60,
        )
        seen[response.status_code] += 1
        assert response.status_code < 400 or "X-ClickHouse-Exception-Code" in response.headers, response.text
        assert "Traceback" not in response.text
        assert "The endpoint failed" not in response.text
        assert CANARY not in response.text
        assert [path.name for path in outside.iterdir()] == ["secret.csv"]

    ask()
    assert httpx.post(url, content="SELECT 1", auth=AUTH).text == "1\n"
    assert seen.total() >= EXAMPLES // 2
    with capsys.disabled():
        print(f"\nendpoint: {seen.total()} requests, {dict(sorted(seen.items()))}, tracebacks 0")  # noqa: T201
