"""The HTTP hook as its callers see it: Open edX's retirement driver, Prometheus, a fuzzer, and those who may not call."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sink.copying.sync import sync
from sink.demo_data.lms import create_lms
from sink.doors import retirement_driver
from sink.doors.web import app as hook
from sink.doors.web.app import create_app, serve_web, serving
from sink.erasure.verify import record_report, verify_subjects
from sink.errors import RetirementDriverError, SettingsError, UsageError
from sink.lms.database import LmsDatabase
from sink.retirement.retire import sweep
from sink.serving import running_in_thread
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support.paths import ROOT
from tests.support.redis_server import emptied, name_database

TOKEN = "a token of the tests"
SECRET = "a secret that signs with thirty-two bytes"
WORKER = "retirement_service_worker"
PATH = "/api/v1/retire_user/"
STREAMS = name_database(14)


def change(settings: Settings, **values: Any) -> Settings:
    return load_settings(**dict(settings) | values)


def call_as_driver(url: str, learner: dict[str, Any], token: str) -> requests.Response:
    """What scripts/user_retirement of the LMS does for a LICENSE_MANAGER: same URL, headers, body and library."""

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"JWT {token}"
        return request

    return requests.request(
        "POST",
        f"{url}/" + "api/v1/retire_user".strip("/") + "/",
        auth=authorize,
        headers={"Content-type": "application/json"},
        json={"lms_user_id": learner["user"]["id"], "original_username": learner["original_username"]},
        timeout=30,
    )


LEARNER = {"user": {"id": 42, "username": "retired__user_1"}, "original_username": "zaphod"}


def sign(claims: dict[str, Any] | None = None, key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    default = {"preferred_username": WORKER, "exp": int(time.time()) + 60, "aud": "openedx", "iss": "lms"}
    chosen = {k: v for k, v in (default | (claims or {})).items() if v is not None}
    return jwt.encode(chosen, key, algorithm, headers=headers or None)


def test_the_driver_retires_a_user(
    settings: Settings, store: Store, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    with serving(change(settings, web_jwt_secret=SECRET, web_jwt_users=WORKER)) as url:
        response = call_as_driver(url, LEARNER, sign())
        assert (response.status_code, response.content) == (204, b"")
        # It may ask again, as after a lost answer.
        assert call_as_driver(url, LEARNER, sign()).status_code == 204
    assert [(r.subject, r.state, r.actor) for r in store.ledger.find([42])] == [("42", "requested", None)]
    assert len(store.ledger.show()) == 1
    assert [outcome.state for outcome in sweep(store)] == ["erased"]
    written = json.dumps([[entry.subject, entry.detail] for entry in store.ledger.show()], default=str)
    seen = capfd.readouterr()
    assert "zaphod" not in written + caplog.text + seen.out + seen.err


@contextmanager
def answering(path: str, *answers: tuple[int, bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers, the last one again and again; its address, and the bodies that it was sent."""
    bodies: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == path
            status, answer = answers[min(len(bodies), len(answers) - 1)]
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(status)
            self.send_header("Location", "/")
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            raise AssertionError("nobody follows")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()


def run_pipeline(config: dict[str, Any], learner: dict[str, Any]) -> list[str]:
    """What the pipeline is to do with drivers, by upstream's decision: find, make, call by name. What they return."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, value in project["entry-points"]["retirement_driver"].items():
        config[name] = EntryPoint(name, value, "retirement_driver").load().get_instance(config)
    return [getattr(config[service], method)(learner) for _, _, service, method in config["retirement_pipeline"]]


PIPELINE = [["RETIRING_PII_SINK", "PII_SINK_COMPLETE", "ASPECTS_PII", "retire_learner"]]


class TestTheDriverOfTheEntryPoint:
    """`retirement_driver`, for pipelines that load it."""

    def test_retires_a_user_with_a_token_of_the_lms(self, settings: Settings, store: Store) -> None:
        answer = json.dumps({"access_token": sign()}).encode()
        with (
            answering("/oauth2/access_token/", (200, answer)) as (lms, forms),
            serving(change(settings, web_jwt_secret=SECRET, web_jwt_users=WORKER)) as url,
        ):
            config = {"client_id": "worker", "client_secret": "hidden", "retirement_pipeline": PIPELINE}
            said = run_pipeline(config | {"base_urls": {"lms": lms + "/", "aspects_pii": url + "/"}}, LEARNER)
        assert said == ["The retirement is in the ledger of aspects-pii."]
        assert [(r.subject, r.state) for r in store.ledger.find([42])] == [("42", "requested")]
        (form,) = forms
        assert parse_qs(form) == {
            **{"client_id": ["worker"], "client_secret": ["hidden"]},
            **{"grant_type": ["client_credentials"], "token_type": ["jwt"]},
        }

    def test_retires_a_user_with_the_token_of_the_hook(self, settings: Settings, store: Store) -> None:
        with serving(change(settings, web_token=TOKEN)) as url:
            config = {"base_urls": {"aspects_pii": url}, "aspects_pii_token": TOKEN, "retirement_pipeline": PIPELINE}
            run_pipeline(config, LEARNER)
        assert [r.state for r in store.ledger.find([42])] == ["requested"]

    def test_says_what_was_refused_and_nothing_of_the_learner(self, settings: Settings, store: Store) -> None:
        with (
            serving(change(settings, web_token=TOKEN)) as url,
            answering("/oauth2/access_token/", (401, b"zaphod"), (200, b"zaphod")) as (lms, _),
        ):
            config: dict[str, Any] = {"base_urls": {"aspects_pii": url, "lms": lms}, "retirement_pipeline": PIPELINE}
            with pytest.raises(RetirementDriverError) as raised:
                run_pipeline(config, LEARNER)
            assert str(raised.value) == "The LMS answered 401."
            with pytest.raises(RetirementDriverError) as raised:
                run_pipeline(config, LEARNER)
            assert str(raised.value) == "The LMS gave no token for client_id and client_secret."
            with pytest.raises(RetirementDriverError) as raised:
                run_pipeline({**config, "aspects_pii_token": "another token altogether"}, LEARNER)
            assert str(raised.value) == "The retirement hook answered 401."
            with pytest.raises(RetirementDriverError, match="has no user"):
                run_pipeline(config, {"original_username": "zaphod"})
        assert store.ledger.show() == []

    def test_tries_again_while_the_hook_cannot_record_it(self) -> None:
        with answering(PATH, (503, b"zaphod"), (429, b""), (204, b"")) as (url, bodies):
            config = {"base_urls": {"aspects_pii": url}, "aspects_pii_token": TOKEN, "retirement_pipeline": PIPELINE}
            assert len(run_pipeline(config, LEARNER)) == 1
        assert bodies == ['{"lms_user_id": 42}'] * 3

    @pytest.mark.parametrize("status", [200, 302, 404])
    def test_takes_nothing_but_the_hooks_own_answer_for_success(self, status: int) -> None:
        with answering(PATH, (status, b"zaphod")) as (url, bodies):
            config = {"base_urls": {"aspects_pii": url}, "aspects_pii_token": TOKEN, "retirement_pipeline": PIPELINE}
            with pytest.raises(RetirementDriverError) as raised:
                run_pipeline(config, LEARNER)
        assert str(raised.value) == f"The retirement hook answered {status}."
        assert len(bodies) == 1

    def test_gives_up_in_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        config = {"base_urls": {"aspects_pii": address}, "aspects_pii_token": TOKEN, "retirement_pipeline": PIPELINE}
        monkeypatch.setattr(retirement_driver, "RETRY_SECONDS", 0.2)
        with pytest.raises(RetirementDriverError, match="The retirement hook cannot be reached"):
            run_pipeline(config, LEARNER)

    def test_needs_nothing_where_the_pipeline_does_not_name_it(self) -> None:
        assert run_pipeline({"base_urls": {"lms": "http://lms"}, "retirement_pipeline": []}, LEARNER) == []

    def test_is_refused_without_an_address_where_the_pipeline_names_it(self) -> None:
        for address in ("", "ftp://hook", "file:///etc/passwd"):
            with pytest.raises(SettingsError, match="aspects_pii of the retirement pipeline's configuration"):
                run_pipeline({"base_urls": {"aspects_pii": address}, "retirement_pipeline": PIPELINE}, LEARNER)


def test_retirements_are_worked_off_afterwards(settings: Settings, store: Store) -> None:
    store.ledger.request([1])
    store.client.execute(
        "INSERT INTO $event_sink.user_profile (user_id, name) SELECT number, 'Zaphod' FROM numbers(50)"
    )
    with serving(change(settings, web_sweep=True)) as url:
        for user_id in (2, 3, 4):
            assert httpx.post(url + PATH, json={"lms_user_id": user_id, "original_username": "z"}).status_code == 204
        deadline = time.monotonic() + 120
        while store.ledger.count_states() != {"erased": 4}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    held = store.client.column("SELECT user_id FROM $event_sink.user_profile ORDER BY user_id")
    assert held == [0, *range(5, 50)]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b'{"lms_user_id": "zaphod", "original_username": "zaphod"}', "lms_user_id"),
        (b'{"lms_user_id": true}', "lms_user_id"),
        (b'{"lms_user_id": 0}', "lms_user_id"),
        (b'{"lms_user_id": -42}', "lms_user_id"),
        (b'{"lms_user_id": 4.5}', "lms_user_id"),
        (b'{"lms_user_id": null}', "lms_user_id"),
        (b'{"lms_user_id": 99999999999999999999999999}', "lms_user_id"),
        (b'{"original_username": "zaphod"}', "lms_user_id"),
        (b'{"lms_user_id": 42, "original_username": ["zaphod"]}', "original_username"),
        (b'"zaphod"', "body"),
        (b'{"zaphod', "body"),
        (b"\xffzaphod", "body"),
        (b"", "body"),
        (b"[" * 20_000, "body"),
    ],
)
def test_bad_input_names_the_field_and_not_the_value(
    settings: Settings, store: Store, content: bytes, field: str
) -> None:
    with serving(settings) as url:
        response = httpx.post(url + PATH, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert list(response.json()["fields"]) == [field]
    assert "zaphod" not in response.text
    assert store.ledger.show() == []


def test_a_wrong_address_is_no_success(settings: Settings, store: Store) -> None:
    """The driver takes 404 for a user of whom nothing is held."""
    with serving(settings) as url:
        for path in ("/", "/api/v1/retire_user/x", "/api/v1/retire", "/user/retire/", "/api/v1/retire_user//"):
            response = httpx.post(url + path, json={"lms_user_id": 42})
            assert response.status_code == 400, path
            assert response.json()["error"] == "no_such_endpoint"
        # Without the slash it is the same place, not a redirection.
        assert httpx.post(url + PATH.rstrip("/"), json={"lms_user_id": 42}).status_code == 204
        assert httpx.get(url + "/nothing").status_code == 404
        assert httpx.get(url + PATH).status_code == 405


def test_hook_answers_503_to_what_cannot_be_recorded(
    settings: Settings, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(change(settings, clickhouse_url="http://127.0.0.1:9")) as url:
        response = call_as_driver(url, LEARNER, "")
        assert response.status_code == 503
        assert response.json()["error"] == "unavailable"
        health = httpx.get(url + "/health")
        assert (health.status_code, health.json()["clickhouse"]) == (503, False)
        assert "aspects_pii_clickhouse_up 0.0" in httpx.get(url + "/metrics").text
    with serving(change(settings, ledger_database="not_there")) as url:
        response = call_as_driver(url, LEARNER, "")
        assert 500 <= response.status_code < 600
        assert response.status_code != 504
        assert response.json()
        shown = httpx.get(url + "/metrics").text
        assert "aspects_pii_clickhouse_up 1.0" in shown
        assert "aspects_pii_ledger_readable 0.0" in shown
    assert "zaphod" not in caplog.text


def test_a_clickhouse_that_hangs_does_not_hold_the_driver_up(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sink.doors.web.app.RECORD_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr("sink.doors.web.app.PROBE_TIMEOUT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # It takes connections and never answers.
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with serving(change(settings, clickhouse_url=address)) as url:
            # ClickHouse's own timeout is 300 seconds.
            assert httpx.get(url + "/health", timeout=120).status_code == 503
            assert call_as_driver(url, LEARNER, "").status_code == 503


def test_a_clickhouse_that_comes_back_is_used_again(settings: Settings, store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with serving(change(settings, clickhouse_url=f"http://127.0.0.1:{port}")) as url:
        assert call_as_driver(url, LEARNER, "").status_code == 503
        with forwarding(port, httpx.URL(settings.clickhouse_url).port or 0):
            assert call_as_driver(url, LEARNER, "").status_code == 204
            assert httpx.get(url + "/health").status_code == 200
        assert call_as_driver(url, LEARNER, "").status_code == 503
        with forwarding(port, httpx.URL(settings.clickhouse_url).port or 0):
            assert call_as_driver(url, LEARNER, "").status_code == 204
    assert [r.state for r in store.ledger.find([42])] == ["requested"]


@contextmanager
def forwarding(source: int, target: int) -> Iterator[None]:
    """Make a port of this host lead to another one, until the end; then everybody is cut off."""
    open_sockets: list[socket.socket] = []

    def copy(reader: socket.socket, writer: socket.socket) -> None:
        with suppress(OSError):
            while data := reader.recv(65_536):
                writer.sendall(data)
        with suppress(OSError):
            writer.shutdown(socket.SHUT_RDWR)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                pair = (listener.accept()[0], socket.create_connection(("127.0.0.1", target)))
                open_sockets.extend(pair)
                for reader, writer in (pair, pair[::-1]):
                    threading.Thread(target=copy, args=(reader, writer), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", source))
    thread = threading.Thread(target=accept, args=(listener,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        for one in (listener, *open_sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        thread.join()


def test_callers_must_authenticate(settings: Settings, store: Store) -> None:
    attacker = rsa.generate_private_key(65537, 2048)
    wrong = {
        None: 401,
        "": 401,
        "JWT": 401,
        f"Basic {TOKEN}": 401,
        f"JWT {TOKEN}x": 401,
        "JWT ümlaut": 401,
        f"Bearer {sign(key='another secret with thirty-two bytes!')}": 401,
        f"Bearer {sign({'exp': int(time.time()) - 3600})}": 401,
        f"Bearer {sign({'exp': None})}": 401,
        f"Bearer {sign({'aud': 'others'})}": 401,
        f"Bearer {sign({'aud': None})}": 401,
        f"Bearer {sign({'iss': 'others'})}": 401,
        f"Bearer {sign(key=attacker, algorithm='RS256')}": 401,
        f"Bearer {jwt.encode({'preferred_username': WORKER, 'exp': time.time() + 60}, '', 'none')}": 401,
        f"Bearer {sign({'preferred_username': 'zaphod'})}": 403,
        f"Bearer {sign({'preferred_username': None})}": 403,
        f"Bearer {sign({'preferred_username': [WORKER]})}": 403,
    }
    closed = change(
        settings,
        web_token=TOKEN,
        web_jwt_secret=SECRET,
        web_jwt_users=f"{WORKER},another",
        web_jwt_audience="openedx",
        web_jwt_issuer="lms",
    )
    with serving(closed) as url:
        for header, status in wrong.items():
            headers = [] if header is None else [(b"Authorization", header.encode())]
            response = httpx.post(url + PATH, json={"lms_user_id": 42}, headers=headers)
            assert (response.status_code, "error" in response.json()) == (status, True), header
        assert store.ledger.show() == []
        for header in (f"jwt {TOKEN}", f"Bearer {TOKEN}", f"JWT {sign()}", f"Bearer {sign({'aud': ['x', 'openedx']})}"):
            response = httpx.post(url + PATH, json={"lms_user_id": 42}, headers={"Authorization": header})
            assert response.status_code == 204
        # Monitoring has no token that could erase anybody.
        assert httpx.get(url + "/health").status_code == 200


@pytest.mark.parametrize("length", [8, 31, 32])
def test_a_short_secret_of_the_lms_counts_with_a_warning(
    settings: Settings, store: Store, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    secret = "s" * length
    with serving(change(settings, web_jwt_secret=secret, web_jwt_users=WORKER)) as url:
        with warnings.catch_warnings(action="ignore"):
            token = sign(key=secret)
        assert call_as_driver(url, LEARNER, token).status_code == 204
        assert call_as_driver(url, LEARNER, sign()).status_code == 401
    said = [record.getMessage() for record in caplog.records if "ASPECTS_WEB_JWT_SECRET" in record.getMessage()]
    assert len(said) == (length < 32)
    assert all(f"ASPECTS_WEB_JWT_SECRET has {length} bytes" in line and "openssl rand -hex 32" in line for line in said)
    assert secret not in caplog.text


def _pem(key: rsa.RSAPrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form).decode()


def _jwks(key: rsa.RSAPrivateKey) -> str:
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "lms-1"}
    return json.dumps({"keys": [jwk]})


@pytest.mark.parametrize("write", [_pem, _jwks])
def test_tokens_that_the_lms_signs_with_its_own_key(
    settings: Settings, store: Store, tmp_path: Path, write: Callable[[rsa.RSAPrivateKey], str]
) -> None:
    key, attacker = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)
    file = tmp_path / "keys"
    file.write_text(write(key))
    with serving(change(settings, web_jwt_public_keys=file, web_jwt_users=WORKER)) as url:

        def post(token: str) -> int:
            return int(call_as_driver(url, LEARNER, token).status_code)

        assert post(sign(key=key, algorithm="RS512", kid="lms-1")) == 204
        assert post(sign(key=key, algorithm="RS256")) == 204
        assert post(sign(key=attacker, algorithm="RS512", kid="lms-1")) == 401
        # The public key is known to everybody: it must not pass for a secret.
        header, payload = jwt.encode({"preferred_username": WORKER, "exp": 9e9}, "x" * 32, "HS256").split(".")[:2]
        assert post(f"{header}.{payload}.c2ln") == 401


def test_other_hosts_are_served_only_with_authentication(settings: Settings, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(UsageError, match="ASPECTS_WEB_TOKEN"):
            serve_web(settings, host, 0)
    with pytest.raises(UsageError, match="ASPECTS_WEB_JWT_USERS"):
        create_app(change(settings, web_jwt_secret=SECRET))
    (tmp_path / "keys").write_text("zaphod")
    for file in (tmp_path / "keys", tmp_path / "absent"):
        with pytest.raises(SettingsError, match="ASPECTS_WEB_JWT_PUBLIC_KEYS") as raised:
            create_app(change(settings, web_jwt_public_keys=file, web_jwt_users=WORKER))
        assert "zaphod" not in str(raised.value)


def test_web_pages_are_not_served_without_authentication(settings: Settings, store: Store) -> None:
    with serving(settings) as url:
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
            assert httpx.post(url + PATH, json={"lms_user_id": 42}, headers=headers).status_code == 403
    assert store.ledger.show() == []


def test_large_requests_are_turned_away(settings: Settings, store: Store) -> None:
    body = json.dumps({"lms_user_id": 42, "original_username": "z" * 70_000}).encode()
    with serving(settings) as url:
        whole = httpx.post(url + PATH, content=body, headers={"Content-Type": "application/json"})
        pieces = httpx.post(
            url + PATH, content=iter([body[:40_000], body[40_000:]]), headers={"Content-Type": "application/json"}
        )
    assert (whole.status_code, pieces.status_code) == (413, 413)
    assert whole.json()["error"] == "too_large"
    assert store.ledger.show() == []


def test_connections_without_a_request_keep_nobody_out(settings: Settings, store: Store) -> None:
    with serving(settings) as url, ExitStack() as opened:
        host, port = url.removeprefix("http://").split(":")
        for _ in range(205):
            opened.enter_context(socket.create_connection((host, int(port))))
        # Nor do those who have begun one.
        for _ in range(205):
            slow = opened.enter_context(socket.create_connection((host, int(port))))
            slow.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n".encode())
        assert call_as_driver(url, LEARNER, "").status_code == 204
    assert [r.state for r in store.ledger.find([42])] == ["requested"]


def test_so_many_requests_at_a_time_are_answered_and_more_are_told_to_come_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook, "_REQUESTS_AT_A_TIME", 2)
    app = create_app(settings)
    held, go_on = threading.Semaphore(0), threading.Event()

    @app.get("/held")
    def hold() -> None:
        held.release()
        go_on.wait(60)

    with running_in_thread(app, "hook") as url, ThreadPoolExecutor(2) as callers:
        answers = [callers.submit(httpx.get, url + "/held", timeout=120) for _ in range(2)]
        try:
            assert held.acquire(timeout=60)
            assert held.acquire(timeout=60)
            refused = httpx.get(url + "/metrics", timeout=120)
        finally:
            go_on.set()
        assert (refused.status_code, refused.json()["error"]) == (503, "busy")
        assert [answer.result().status_code for answer in answers] == [200, 200]


@pytest.fixture
def streams() -> Iterator[Any]:
    """An empty database of Redis."""
    with emptied(STREAMS) as client:
        yield client


@pytest.mark.redis
def test_metrics_say_what_is_open_and_how_far_behind(settings: Settings, store: Store, streams: Any) -> None:
    streams.xgroup_create("jobs", "aspects-pii", id="0-0", mkstream=True)
    for _ in range(3):
        streams.xadd("jobs", {"event": "{}"})
    streams.xreadgroup("aspects-pii", "one", {"jobs": ">"}, count=1)
    store.ledger.request([1, 2])
    list(sweep(store))
    store.ledger.request([3])
    time.sleep(0.1)
    with serving(change(settings, event_bus_url=STREAMS, event_streams="jobs")) as url:
        httpx.post(url + PATH, json={"lms_user_id": "x"})
        response = httpx.get(url + "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    assert lines["aspects_pii_clickhouse_up"] == "1.0"
    assert lines["aspects_pii_ledger_readable"] == "1.0"
    assert lines["aspects_pii_retirements_open"] == "1.0"
    assert 0.1 <= float(lines["aspects_pii_retirements_oldest_open_seconds"]) < 600
    assert lines['aspects_pii_retirements{state="erased"}'] == "2.0"
    assert lines['aspects_pii_ledger_entries_total{action="requested"}'] == "3.0"
    assert lines[f'aspects_pii_http_requests_total{{path="{PATH}",status="400"}}'] == "1.0"
    assert lines['aspects_pii_events_waiting{stream="jobs"}'] == "2.0"
    assert lines['aspects_pii_events_unfinished{stream="jobs"}'] == "1.0"
    assert 0.1 <= float(lines['aspects_pii_sync_lag_seconds{stream="jobs"}']) < 600


def test_metrics_say_what_the_last_looks_have_found(settings: Settings, store: Store, tmp_path: Path) -> None:
    def read(url: str) -> dict[str, float]:
        lines = dict(line.rsplit(" ", 1) for line in httpx.get(url + "/metrics").text.splitlines() if line[0] != "#")
        wanted = (
            "aspects_pii_residue_findings",
            "aspects_pii_residue_age_seconds",
            "aspects_pii_full_copy_age_seconds",
        )
        return {name: float(lines[name]) for name in wanted if name in lines}

    store.ledger.request([1])
    list(sweep(store))
    lms = f"sqlite:///{tmp_path}/lms.sqlite3"
    create_lms(lms, 12, 3)
    with serving(settings) as url:
        assert read(url) == {}
        # What was never looked at has no number.
        record_report(store.ledger, verify_subjects(store, [1]), everybody=False)
        assert read(url) == {}
        record_report(store.ledger, verify_subjects(store), everybody=True)
        sync(store, LmsDatabase(lms), enabled=True)
        first = read(url)
        assert first["aspects_pii_residue_findings"] == 0
        assert set(first) == {
            "aspects_pii_residue_findings",
            "aspects_pii_residue_age_seconds",
            "aspects_pii_full_copy_age_seconds",
        }
        # Somebody has put a retired user's row back by hand.
        store.client.insert(store.client.table("event_sink.user_profile"), ["user_id"], [(1,)])
        record_report(store.ledger, verify_subjects(store), everybody=True)
        assert read(url)["aspects_pii_residue_findings"] >= 1
        assert read(url)["aspects_pii_full_copy_age_seconds"] > first["aspects_pii_full_copy_age_seconds"]


def test_a_fuzzer_finds_nothing(settings: Settings, store: Store) -> None:
    with serving(change(settings, web_token=TOKEN)) as url:
        ran = subprocess.run(
            [
                sys.executable,
                *("-m", "schemathesis.cli", "run", url + "/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"),
                *("--checks", "all", "--max-examples", "25", "--seed", "1", "--no-color"),
                *("--phases", "examples,coverage,fuzzing"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ran.returncode == 0, ran.stdout
    assert "3 selected / 3 total" in ran.stdout
    assert store.ledger.show()


def test_the_process_stops_when_it_is_told_to(settings: Settings, store: Store) -> None:
    code = "from sink.doors.web.app import serve_web; from sink.settings import load_settings; serve_web(load_settings(), port=0)"
    environment = {
        f"ASPECTS_{name.upper()}": str(getattr(settings, name))
        for name in ("clickhouse_url", "ledger_database", "event_sink_database", "xapi_database", "reporting_database")
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.fullmatch(rf"Retirement hook on (http://127\.0\.0\.1:\d+{PATH})\n", line)
    assert address
    assert call_as_driver(address[1].removesuffix(PATH), LEARNER, "").status_code == 204
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert len(store.ledger.find([42])) == 1


def test_curl_can_call_it_as_the_manual_says(settings: Settings, store: Store) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with serving(change(settings, web_token=TOKEN)) as url:
        ran = subprocess.run(
            [
                *("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", url + PATH),
                *("-H", f"Authorization: Bearer {TOKEN}", "-H", "Content-Type: application/json"),
                *("-d", '{"lms_user_id": 42}'),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    assert ran.stdout == "204"
