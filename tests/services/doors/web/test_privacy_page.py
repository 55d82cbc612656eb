"""The page for the data protection officer, over HTTP and on a real engine: who gets in, what it shows, what it does."""

from __future__ import annotations

import html
import io
import json
import re
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from sink.demo_data.lms import create_lms
from sink.doors.web.app import create_app, serving
from sink.doors.web.privacy.actions import OfficerActions
from sink.doors.web.privacy.app import COOKIE
from sink.errors import UsageError
from sink.ledger.entries import Entry
from sink.retirement.retire import retire, sweep, withdraw
from sink.rights.export import export
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support.privacy_page import ADDRESS, ANA, BOB, NAME, PAGES, TOKEN, Visitor, fill

SECRET = "a secret that signs with thirty-two bytes"
OFFICER = "privacy_officer"
NOBODY = 4711


def change(settings: Settings, **values: Any) -> Settings:
    return load_settings(**dict(settings) | values)


@pytest.fixture
def filled(store: Store) -> Store:
    fill(store)
    return store


@contextmanager
def visiting(settings: Settings, **values: Any) -> Iterator[Visitor]:
    """Serve the page; somebody who is signed in."""
    with serving(change(settings, privacy_page=True, privacy_token=TOKEN, **values)) as url:
        visitor = Visitor(url)
        assert visitor.sign_in().status_code == 303
        yield visitor


def read_text(response: httpx.Response) -> str:
    """What a page says, without its tags."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.text)))


def list_entries(store: Store) -> list[tuple[str, str, str | None]]:
    return [(entry.action, entry.subject, entry.actor) for entry in store.ledger.show()]


def find_entry(store: Store, action: str) -> Entry:
    (entry,) = store.ledger.show(action=action)
    return entry


def sign(key: str = SECRET, **claims: Any) -> str:
    default = {"preferred_username": OFFICER, "administrator": True, "user_id": 17, "exp": int(time.time()) + 600}
    return jwt.encode({k: v for k, v in (default | claims).items() if v is not None}, key, "HS256")


class TestWhoGetsIn:
    def test_there_is_no_page_unless_it_is_switched_on(self, settings: Settings, store: Store) -> None:
        with serving(change(settings, privacy_token=TOKEN)) as url:
            for path in ("", *PAGES, "/sign-in", "/style.css"):
                assert httpx.get(f"{url}/privacy{path}").status_code == 404
            # 404 would be success to the retirement driver.
            assert httpx.post(f"{url}/privacy/sign-in", data={"token": TOKEN}).status_code == 400

    def test_it_does_not_start_where_nobody_could_sign_in_or_too_many_could(self, settings: Settings) -> None:
        with pytest.raises(UsageError, match="nobody could sign in"):
            create_app(change(settings, privacy_page=True))
        with pytest.raises(UsageError, match="nothing can check their tokens"):
            create_app(change(settings, privacy_page=True, privacy_jwt_users=OFFICER))
        with pytest.raises(UsageError, match="are the same"):
            create_app(change(settings, privacy_page=True, privacy_token=TOKEN, web_token=TOKEN))

    def test_somebody_without_a_token_sees_the_sign_in_form_and_nothing_else(
        self, settings: Settings, filled: Store
    ) -> None:
        retire(filled, [ANA])
        (retirement,) = filled.ledger.find([ANA])
        before = list_entries(filled)
        with serving(change(settings, privacy_page=True, privacy_token=TOKEN)) as url:
            visitor = Visitor(url)
            details = (f"/requests/{retirement.request}", f"/receipts/{retirement.request}", "/record/csv")
            for path in (*PAGES, *details, f"/receipts/{retirement.request}/file"):
                answer = visitor.get(path)
                assert (answer.status_code, answer.headers["location"]) == (303, "/privacy/sign-in")
            forms = ("/find", "/export", "/retire", "/retire/preview", "/requests", "/receipts")
            for path in forms:
                answer = visitor.post(path, texts=NAME, user_id=str(BOB), typed=str(BOB))
                assert answer.status_code == 401
                assert "Nothing was done" in answer.text
            shown = visitor.get("/sign-in")
            assert (shown.status_code, "<nav" in shown.text) == (200, False)
            assert httpx.get(f"{url}/privacy").headers["location"] == "/privacy/"
        assert list_entries(filled) == before

    def test_a_wrong_token_gets_nobody_in(
        self, settings: Settings, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        with serving(change(settings, privacy_page=True, privacy_token=TOKEN, web_token="x" * 20)) as url:
            for wrong in ("", "a wrong token", f"{TOKEN}x", "x" * 20, "ümlaut"):
                visitor = Visitor(url)
                answer = visitor.sign_in(wrong)
                assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
                assert "This token is not valid" in answer.text
                assert visitor.get("/").status_code == 303
            for made_up in ("", "x", "\u00fc".encode().decode("latin-1")):
                headers = [(b"Cookie", f"{COOKIE}={made_up}".encode("latin-1"))]
                assert httpx.get(f"{url}/privacy/", headers=headers).status_code == 303
            # The token of the page is none for the hook.
            hook = httpx.post(
                f"{url}/api/v1/retire_user/", json={"lms_user_id": 1}, headers={"Authorization": f"Bearer {TOKEN}"}
            )
            assert hook.status_code == 401
        assert "a wrong token" not in caplog.text
        assert caplog.text.count("could not sign in") == 5

    def test_staff_of_the_lms_get_in_where_they_are_named(self, settings: Settings, filled: Store) -> None:
        wrong = {
            sign(key="another secret with thirty-two bytes!"): 401,
            sign(exp=int(time.time()) - 600): 401,
            sign(exp=None): 401,
            sign(preferred_username="zaphod"): 403,
            sign(preferred_username=[OFFICER]): 403,
            sign(administrator=False): 403,
            sign(administrator=None): 403,
            sign(administrator="true"): 403,
            sign(is_restricted=True): 403,
            sign(user_id=None): 403,
            sign(user_id=True): 403,
            sign(user_id="zoe@example.org"): 403,
            sign(user_id=-1): 403,
            TOKEN: 401,
        }
        with serving(
            change(settings, privacy_page=True, privacy_jwt_users=f"another,{OFFICER}", web_jwt_secret=SECRET)
        ) as url:
            for token, status in wrong.items():
                answer = Visitor(url).sign_in(token)
                assert (answer.status_code, "set-cookie" in answer.headers) == (status, False)
            visitor = Visitor(url)
            assert visitor.sign_in(sign(is_restricted=False)).status_code == 303
            assert visitor.post("/find", texts="nobody is called so").status_code == 200
            # Who may use the page may not for that reason call the hook.
            header = {"Authorization": f"JWT {sign()}"}
            assert httpx.post(f"{url}/api/v1/retire_user/", json={"lms_user_id": 1}, headers=header).status_code == 403
        assert list_entries(filled) == [("searched", "", "17")]

    def test_a_session_ends_with_the_token_of_the_lms(self, settings: Settings, store: Store) -> None:
        with serving(change(settings, privacy_page=True, privacy_jwt_users=OFFICER, web_jwt_secret=SECRET)) as url:
            visitor = Visitor(url)
            # Taken for as long as clocks may differ, and over for a session.
            assert visitor.sign_in(sign(exp=int(time.time()) - 5)).status_code == 303
            assert visitor.get("/").status_code == 303

    def test_the_cookie_is_for_this_host_and_no_script(self, settings: Settings, store: Store) -> None:
        with serving(change(settings, privacy_page=True, privacy_token=TOKEN)) as url:
            visitor = Visitor(url)
            first = visitor.sign_in().headers["set-cookie"]
            value, *attributes = first.split("; ")
            assert re.fullmatch(rf"{COOKIE}=[\w-]{{40,}}", value)
            assert {attribute.lower() for attribute in attributes} == {
                *("httponly", "secure", "samesite=strict", "path=/"),
            }
            # Whoever signs in again has another one, and the former one is worth nothing.
            second = visitor.sign_in().headers["set-cookie"]
            assert second != first
            stolen = httpx.get(f"{url}/privacy/", headers={"Cookie": value})
            assert stolen.status_code == 303

    def test_whoever_signs_out_is_out(self, settings: Settings, store: Store) -> None:
        with visiting(settings) as visitor:
            assert visitor.get("/").status_code == 200
            # A page of somebody else signs nobody out.
            assert visitor.post("/sign-out", form_token="guessed").status_code == 403
            assert visitor.get("/").status_code == 200
            answer = visitor.post("/sign-out")
            assert answer.headers["location"] == "/privacy/sign-in"
            assert "Max-Age=0" in answer.headers["set-cookie"]
            # The cookie, had somebody kept it.
            assert visitor.get("/").status_code == 303

    def test_a_browser_that_keeps_no_cookie_is_told_so(self, settings: Settings, store: Store) -> None:
        with serving(change(settings, privacy_page=True, privacy_token=TOKEN)) as url:
            answer = httpx.post(f"{url}/privacy/sign-in", data={"token": TOKEN})
            told = httpx.get(f"{url}{answer.headers['location']}")
            assert (told.status_code, "over HTTPS only" in told.text) == (401, True)


class TestForms:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Sec-Fetch-Site": "cross-site", "Origin": "{url}"}, 403),
            ({"Sec-Fetch-Site": "same-origin", "Origin": "https://public.example"}, 200),
            ({"Origin": "{url}"}, 200),
        ],
    )
    def test_only_forms_of_the_page_itself_are_carried_out(
        self, settings: Settings, filled: Store, headers: dict[str, str], status: int
    ) -> None:
        with visiting(settings) as visitor:
            base = str(visitor.client.base_url).rstrip("/")
            visitor.client.headers.update({name: value.format(url=base) for name, value in headers.items()})
            assert visitor.post("/find", texts="nobody").status_code == status
        assert len(filled.ledger.show()) == (status == 200)

    def test_forms_without_what_is_hidden_in_them_are_not_carried_out(self, settings: Settings, filled: Store) -> None:
        with (
            visiting(settings) as visitor,
            serving(change(settings, privacy_page=True, privacy_token=TOKEN)) as elsewhere,
        ):
            other = Visitor(elsewhere)
            other.sign_in()
            for form_token in ("", "guessed", "ü", other.find_form_token()):
                for path in ("/find", "/export", "/retire", "/retire/preview", "/requests", "/receipts"):
                    fields = {"texts": NAME, "user_id": str(ANA), "typed": str(ANA), "form_token": form_token}
                    answer = visitor.post(path, **fields)
                    assert answer.status_code == 403, path
                    assert "Nothing was done" in answer.text
        assert filled.ledger.show() == []

    def test_what_is_no_form_is_refused(self, settings: Settings, filled: Store) -> None:
        with visiting(settings) as visitor:
            token = visitor.find_form_token()
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            bodies: list[tuple[bytes, dict[str, str], int]] = [
                (json.dumps({"texts": NAME}).encode(), {"Content-Type": "application/json"}, 415),
                (f"form_token={token}&texts=x".encode(), {"Content-Type": "text/plain"}, 415),
                (b"texts=%ff", form, 400),
                (b"texts=\xff", form, 400),
                ("&".join(f"f{n}=1" for n in range(50)).encode(), form, 400),
                (b"texts=" + b"x" * 70_000, form, 413),
            ]
            for body, headers, status in bodies:
                answer = visitor.client.post("/privacy/find", content=body, headers=headers)
                assert answer.status_code == status
            assert visitor.client.get("/privacy/nowhere").status_code == 404
            assert visitor.client.put("/privacy/find").status_code == 405
            assert visitor.client.get("/privacy/requests/not-a-number").status_code == 404
        assert filled.ledger.show() == []


def test_looking_changes_nothing_and_no_page_is_kept(settings: Settings, filled: Store) -> None:
    retire(filled, [ANA], actor="17")
    filled.ledger.request([BOB])
    (retirement,) = filled.ledger.find([ANA])
    before = list_entries(filled)
    rows = filled.client.value("SELECT count() FROM $event_sink.user_profile")
    with visiting(settings) as visitor:
        details = [
            f"/requests/{retirement.request}",
            f"/receipts/{retirement.request}",
            f"/receipts/{retirement.request}/file",
        ]
        records = ["/record/md", "/record/json", "/record/csv"]
        for path in (*PAGES, *details, *records, "/receipts?page=7", "/receipts?page=x", "/style.css"):
            answer = visitor.get(path)
            assert answer.status_code == 200, path
            headers = answer.headers
            assert headers["cache-control"] == "no-store"
            assert headers["content-security-policy"] == (
                "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            )
            assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
            assert headers["referrer-policy"] == "same-origin"
            assert "set-cookie" not in headers
            if headers["content-type"].startswith("text/html"):
                # The policy allows neither.
                assert "<script" not in answer.text
                assert "style=" not in answer.text
        assert visitor.get("/record/exe").status_code == 404
    assert list_entries(filled) == before
    assert filled.client.value("SELECT count() FROM $event_sink.user_profile") == rows == 1


def test_requests_say_what_is_open_and_what_is_done(settings: Settings, filled: Store) -> None:
    retire(filled, [ANA], actor="17")
    filled.ledger.request([BOB])
    with visiting(settings) as visitor:
        said = read_text(visitor.get("/"))
        assert re.search(r"Open: 1\. .* 6 asked for .* the system", said)
        assert re.search(r"Ended retirements The latest 1\. .* 5 erased and proved .* 17", said)
        assert "No package was made yet." in said
        for user, state in ((ANA, "erased and proved"), (BOB, "asked for")):
            course = read_text(visitor.follow(visitor.post("/requests", user_id=f" {user} ")))
            assert f"Retirement of user {user}" in course
            assert f"State {state}" in course
            assert ("Erasing takes" in course) == (user == BOB)
        for wrong, problem in ((str(NOBODY), "No retirement of this user"), ("zaphod", "no id"), ("", "no id")):
            answer = visitor.post("/requests", user_id=wrong)
            assert (answer.status_code, problem in answer.text) == (422, True)
        assert visitor.get("/requests/8c0d9b52-52b0-4d6f-9a53-6a0b8f7b0f5e").status_code == 404
        assert visitor.get("/receipts/8c0d9b52-52b0-4d6f-9a53-6a0b8f7b0f5e").status_code == 404
        (open_one,) = filled.ledger.find([BOB])
        assert visitor.get(f"/receipts/{open_one.request}").status_code == 422


def test_a_search_is_on_record_and_its_text_is_nowhere(
    settings: Settings, filled: Store, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    with visiting(settings) as visitor:
        answer = visitor.post("/find", texts=f"ANA canary-quetzal\r\n\r\n{ADDRESS}\r\nnobody at all")
        said = read_text(answer)
        assert "Users found: 1. Nobody is called what stands in these lines: 4." in said
        assert re.search(r"5 1 \S+user_profile\.name no .* ?5 3 \S+user_profile\.email no", said)
        assert NAME not in answer.text
        assert (
            NAME
            in visitor.post("/find", texts=ADDRESS, show="on").text
            + visitor.post("/find", texts="canary", prefix="on", show="on").text
        )
        assert all("canary" not in address.lower() for address in visitor.addresses)
    first, *_ = entries = filled.ledger.show()
    assert [(entry.action, entry.actor) for entry in entries] == [("searched", "service:privacy-page")] * 3
    assert first.detail == {
        **{"texts": 3, "found": 1, "retired": 0},
        **{"prefix": False, "shown": False, "lms": False},
    }
    written = json.dumps([entry.detail for entry in entries])
    seen = capfd.readouterr()
    assert "canary" not in (written + caplog.text + seen.out + seen.err).lower()


def test_a_search_that_says_too_little_is_not_begun(settings: Settings, filled: Store) -> None:
    with visiting(settings) as visitor:
        for fields, problem in (
            ({"texts": " \r\n "}, "Give something"),
            ({"texts": "canary\r\nab", "prefix": "on"}, "Line 2: a beginning has 3 characters or more."),
            ({"texts": "x\r\n" * 101}, "Give 100 lines at most."),
            ({"texts": "\u0301"}, "nothing to search for"),
        ):
            answer = visitor.post("/find", **fields)
            assert (answer.status_code, problem in answer.text) == (422, True), problem
    assert filled.ledger.show() == []


def test_the_lms_is_searched_where_there_is_one(settings: Settings, filled: Store, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    create_lms(url, 12, 3)
    with visiting(settings) as visitor:
        assert "LMS too" not in visitor.get("/find").text
        visitor.post("/find", texts="nobody", lms="on")
    with visiting(settings, lms_database_url=url) as visitor:
        assert "LMS too" in visitor.get("/find").text
        visitor.post("/find", texts="nobody", lms="on")
    assert [entry.detail["lms"] for entry in filled.ledger.show()] == [False, True]


def test_what_a_row_says_does_nothing_in_a_page(settings: Settings, store: Store) -> None:
    nasty = "Zoe </td><script>alert(1)</script> {{ 7*7 }} \0 \u202e"
    store.client.insert(store.client.table("event_sink.user_profile"), ["user_id", "name"], [(7, nasty)])
    with visiting(settings) as visitor:
        page = visitor.post("/find", texts="zoe", prefix="on", show="on").text
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7*7 }} \u2400" in page


class TestPackages:
    def test_a_package_is_downloaded_and_nothing_of_it_stays(
        self, settings: Settings, filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "temporary"
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with visiting(settings, institution="University of Example") as visitor:
            fields = {"user_id": str(ANA), "language": "es", "with_events": "on"}
            answer = visitor.post("/export", **fields)
            assert answer.status_code == 200
            assert answer.headers["content-disposition"] == 'attachment; filename="subject-5.zip"'
            assert int(answer.headers["content-length"]) == len(answer.content)
            assert answer.headers["cache-control"] == "no-store"
            assert list(folder.iterdir()) == []
            with zipfile.ZipFile(io.BytesIO(answer.content)) as package:
                assert package.testzip() is None
                assert json.loads(package.read("manifest.json"))["subject"] == str(ANA)
                assert '<html lang="es">' in package.read("index.html").decode()
                assert any(name.startswith("events/") for name in package.namelist())
                assert NAME.encode() in b"".join(map(package.read, package.namelist()))
            bare = visitor.post("/export", user_id=str(ANA), language="xx")
            with zipfile.ZipFile(io.BytesIO(bare.content)) as package:
                assert not any(name.startswith("events/") for name in package.namelist())
            said = read_text(visitor.get("/"))
            assert re.search(r"Packages that were made The latest 2\. .* UTC 5 service:privacy-page no", said)
        entries = filled.ledger.show()
        assert [(e.action, e.actor, e.detail["of"]) for e in entries] == [("exported", "service:privacy-page", "5")] * 2

    def test_a_package_for_a_key_is_encrypted(self, settings: Settings, filled: Store) -> None:
        pyrage = pytest.importorskip("pyrage")
        identity = pyrage.x25519.Identity.generate()
        with visiting(settings) as visitor:
            answer = visitor.post("/export", user_id=str(ANA), recipient=str(identity.to_public()))
            assert answer.headers["content-disposition"].endswith('"subject-5.zip.age"')
            with zipfile.ZipFile(io.BytesIO(pyrage.decrypt(answer.content, [identity]))) as package:
                assert "index.html" in package.namelist()
            assert visitor.post("/export", user_id=str(ANA), recipient="age1nonsense").status_code == 422
        assert find_entry(filled, "exported").detail["encrypted"] is True

    def test_nobody_gets_a_package_of_whom_nothing_is_to_be_given_out(
        self, settings: Settings, filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "temporary"
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        filled.ledger.request([BOB])
        retire(filled, [ANA])
        with visiting(settings) as visitor:
            for user_id, problem in (
                (str(ANA), "5 is retired, and erased"),
                (str(BOB), "6 is being retired"),
                (str(NOBODY), "holds nothing of 4711"),
                ("../../etc", "This is no id of a user."),
            ):
                answer = visitor.post("/export", user_id=user_id)
                assert (answer.status_code, problem in answer.text) == (422, True), answer.text
        assert filled.ledger.show(action="exported") == []
        assert list(folder.iterdir()) == []

    def test_one_package_is_made_at_a_time(
        self, settings: Settings, filled: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def wait_and_export(*arguments: Any, **options: Any) -> Any:
            begun.set()
            assert go_on.wait(120)
            return export(*arguments, **options)

        monkeypatch.setattr("sink.doors.web.privacy.actions.export", wait_and_export)
        with visiting(settings) as visitor:
            answers: list[httpx.Response] = []
            first = threading.Thread(target=lambda: answers.append(visitor.post("/export", user_id=str(ANA))))
            first.start()
            try:
                assert begun.wait(120)
                second = visitor.post("/export", user_id=str(BOB))
                # Meanwhile everything else goes on.
                assert visitor.get("/").status_code == 200
            finally:
                go_on.set()
                first.join()
            assert (second.status_code, "Another package is being made" in second.text) == (503, True)
            assert answers[0].status_code == 200


class TestRetiring:
    def test_somebody_is_retired_once_the_id_was_typed_again(self, settings: Settings, filled: Store) -> None:
        with visiting(settings, web_sweep=True) as visitor:
            preview = read_text(visitor.post("/retire/preview", user_id=str(ANA)))
            assert re.search(r"user_profile rows are deleted 1 .*type the id of the user: 5", preview)
            for typed in ("", "6", "05", "ana", "5 5"):
                answer = visitor.post("/retire", user_id=str(ANA), typed=typed)
                assert (answer.status_code, "Nothing was done" in answer.text) == (422, True)
            assert filled.ledger.show() == []
            shown = visitor.follow(visitor.post("/retire", user_id=str(ANA), typed=str(ANA)))
            assert "Retirement of user 5" in shown.text
            deadline = time.monotonic() + 120
            while "State erased and proved" not in read_text(shown):
                assert time.monotonic() < deadline
                time.sleep(0.1)
                shown = visitor.get(f"/requests/{filled.ledger.find([ANA])[0].request}")
            assert "service:privacy-page" in shown.text
            # Asked for again there is nothing to do.
            again = visitor.follow(visitor.post("/retire/preview", user_id=str(ANA)))
            assert "erased and proved" in again.text
            assert visitor.post("/retire", user_id=str(ANA), typed=str(ANA)).status_code == 303
            assert visitor.post("/retire", user_id=str(ANA), typed="6").status_code == 303
        assert find_entry(filled, "requested").actor == "service:privacy-page"
        assert filled.client.column("SELECT user_id FROM $event_sink.user_profile") == [BOB]

    def test_it_is_left_to_a_worker_where_the_hook_does_not_erase(self, settings: Settings, filled: Store) -> None:
        with visiting(settings) as visitor:
            visitor.post("/retire", user_id=str(ANA), typed=str(ANA))
            assert [r.state for r in filled.ledger.find([ANA])] == ["requested"]
            assert [outcome.state for outcome in sweep(filled)] == ["erased"]

    def test_an_id_of_nobody_is_not_retired(self, settings: Settings, filled: Store, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/lms.sqlite3"
        create_lms(url, 12, 3)
        for values, problem in (({}, "holds nothing of 4711. "), ({"lms_database_url": url}, "the LMS does not know")):
            with visiting(settings, **values) as visitor:
                for path in ("/retire/preview", "/retire"):
                    answer = visitor.post(path, user_id=str(NOBODY), typed=str(NOBODY))
                    assert (answer.status_code, problem in answer.text) == (422, True), answer.text
                assert visitor.post("/retire/preview", user_id="zaphod").status_code == 422
                assert visitor.post("/retire", user_id="zaphod", typed="zaphod").status_code == 422
        assert filled.ledger.show() == []

    def test_somebody_of_whom_nothing_is_here_and_whom_the_lms_knows_is_retired(
        self, settings: Settings, filled: Store, tmp_path: Path
    ) -> None:
        url = f"sqlite:///{tmp_path}/lms.sqlite3"
        user = create_lms(url, 12, 3).users
        with visiting(settings, lms_database_url=url) as visitor:
            assert "No row of this user is here" in visitor.post("/retire/preview", user_id=str(user)).text
            assert visitor.post("/retire", user_id=str(user), typed=str(user)).status_code == 303
        assert [r.state for r in filled.ledger.find([user])] == ["requested"]

    def test_a_retirement_that_was_withdrawn_can_be_asked_for_again(self, settings: Settings, filled: Store) -> None:
        filled.ledger.request([ANA])
        withdraw(filled, [ANA])
        with visiting(settings) as visitor:
            assert "withdrawn" in visitor.get("/").text
            assert visitor.post("/retire", user_id=str(ANA), typed=str(ANA)).status_code == 303
        assert [r.state for r in filled.ledger.find([ANA])] == ["requested"]

    def test_a_plan_that_touches_too_much_is_refused(self, settings: Settings, filled: Store) -> None:
        filled.client.execute("INSERT INTO $event_sink.user_profile (user_id) SELECT number + 100 FROM numbers(1000)")
        with visiting(settings, retire_max_share=0.0001) as visitor:
            for path in ("/retire/preview", "/retire"):
                answer = visitor.post(path, user_id=str(ANA), typed=str(ANA))
                assert (answer.status_code, "ASPECTS_RETIRE_MAX_SHARE" in answer.text) == (422, True)
        assert filled.ledger.show() == []


class TestReceipts:
    def test_a_receipt_is_shown_checked_and_saved(self, settings: Settings, filled: Store) -> None:
        signed = change(settings, receipt_key="a key of the tests for receipts")
        retire(filled, [ANA], actor="17")
        (retirement,) = filled.ledger.find([ANA])
        path = signed.receipts_dir / f"{retirement.request}.json"
        with visiting(signed) as visitor:
            assert f"/privacy/receipts/{retirement.request}" in visitor.get("/receipts").text
            said = read_text(visitor.get(f"/receipts/{retirement.request}"))
            assert "Receipt: personal data of user 5 was erased" in said
            assert "This receipt is genuine. It is not signed." in said
            assert "the erasure was requested by 17." in said
            saved = visitor.get(f"/receipts/{retirement.request}/file")
            assert saved.content == path.read_bytes()
            assert saved.headers["content-disposition"] == f'attachment; filename="{path.name}"'
            # Pasted, with the line breaks that browsers send.
            text = saved.text.replace("\n", "\r\n").strip()
            assert "This receipt is genuine." in visitor.post("/receipts", receipt=text).text
            forged = visitor.post("/receipts", receipt=text.replace('"subject": "5"', '"subject": "6"'))
            assert "This receipt is not shown to be genuine." in forged.text
            for nonsense in ("zaphod@example.org", "", "{}", "[" * 10_000):
                refused = visitor.post("/receipts", receipt=nonsense)
                assert (refused.status_code, "is no receipt" in refused.text) == (422, True)
                assert "zaphod" not in refused.text
            path.write_text("{}")
            said = read_text(visitor.get(f"/receipts/{retirement.request}"))
            assert "This is what the ledger has of the receipt." in said
            path.unlink()
            assert visitor.get(f"/receipts/{retirement.request}/file").content == saved.content

    def test_receipts_are_listed_page_by_page_the_latest_first(self, settings: Settings, store: Store) -> None:
        users = list(range(101, 161))
        assert len(retire(store, users)) == 60
        with visiting(settings) as visitor:

            def list_users(path: str) -> list[int]:
                return [int(user) for user in re.findall(r"Receipt of user (\d+)", visitor.get(path).text)]

            first, second = list_users("/receipts"), list_users("/receipts?page=2")
            assert (len(first), len(second)) == (50, 10)
            assert sorted(first + second) == users
            assert list_users("/receipts?page=3") == []
            for odd in ("0", "-1", "x", "1' OR 1", "9" * 30):
                assert list_users(f"/receipts?page={odd}") == first
            assert "page=2" in visitor.get("/receipts").text
            assert "page=3" not in visitor.get("/receipts?page=2").text


def test_the_record_of_processing_is_shown_and_saved(settings: Settings, store: Store) -> None:
    with visiting(settings, institution="University <of> Example", contact="privacy@uni.example") as visitor:
        page = visitor.get("/record").text
        assert "event_sink.user_profile" in page
        assert "University &lt;of&gt; Example" in page
        document = visitor.get("/record/json").json()
        assert document["institution"] == "University <of> Example"
        tables = [activity["table"] for activity in document["activities"]]
        assert len(tables) > 10
        assert all(html.escape(table) in page for table in tables)
        assert visitor.get("/record/csv").text.count("\n") == len(tables) + 1
        assert visitor.get("/record/md").text.startswith("Responsible: University")


def test_the_page_speaks_the_language_of_the_browser(settings: Settings, filled: Store) -> None:
    with serving(change(settings, privacy_page=True, privacy_token=TOKEN)) as url:
        for accepted, language, heading in (
            ("es-MX,es;q=0.9,en;q=0.8", "es", "Bajas abiertas"),
            ("de, en;q=0.5, es;q=0.4", "en", "Open retirements"),
            ("", "en", "Open retirements"),
            ("es;q=x", "en", "Open retirements"),
        ):
            visitor = Visitor(url, accepted)
            visitor.sign_in()
            answer = visitor.get("/")
            assert (answer.headers["content-language"], f'<h2 id="open">{heading}</h2>' in answer.text) == (
                language,
                True,
            )
            assert f'<html lang="{language}">' in answer.text


def test_a_store_that_does_not_answer_is_said_to_be_away(
    settings: Settings, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with visiting(settings, clickhouse_url="http://127.0.0.1:9") as visitor:
        for path in ("/", "/receipts"):
            answer = visitor.get(path)
            assert (answer.status_code, "That did not work" in answer.text) == (503, True)
        assert visitor.post("/find", texts=NAME).status_code == 503
        # What needs no store goes on.
        assert visitor.get("/record").status_code == 200
    assert "Canary" not in caplog.text


def test_the_page_is_counted_as_one_path_and_is_not_in_the_description(settings: Settings, store: Store) -> None:
    with visiting(settings) as visitor:
        visitor.get("/receipts?page=2")
        visitor.get("/nowhere/at/all")
        metrics = visitor.client.get("/metrics").text
        assert 'aspects_pii_http_requests_total{path="/privacy",status="404"} 1.0' in metrics
        assert "nowhere" not in metrics
        assert "privacy" not in visitor.client.get("/openapi.json").text


def test_an_error_that_nobody_expects_quotes_nothing(
    settings: Settings, filled: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"a row says {ADDRESS}")

    monkeypatch.setattr(OfficerActions, "find", fail)
    with visiting(settings) as visitor:
        answer = visitor.post("/find", texts="nobody")
        assert (answer.status_code, "The request failed." in answer.text) == (500, True)
        assert ADDRESS not in answer.text
    assert "failed (RuntimeError)" in caplog.text
    assert ADDRESS not in caplog.text
