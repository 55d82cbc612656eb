"""`aspects-pii dashboards`, and what purging and retiring do to a Superset, against one of the tests' own."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from sink.clickhouse import migrations
from sink.clickhouse.address import Address
from sink.dashboards.site import Site, describe_site
from sink.dashboards.superset_address import SupersetAddress
from sink.dashboards.superset_api import Superset
from sink.dashboards.superset_http import write_rison
from sink.installation import open_store
from sink.serving import running_in_thread
from sink.settings import load_settings
from tests.support.dashboards_contract import DashboardsContract
from tests.support.paths import ROOT
from tests.support.superset_fake import PASSWORD, USER, FakeSuperset

SCHEMA = ROOT / "docs" / "receipt.schema.json"
SECRET = "a password of ClickHouse"
NOWHERE = "http://127.0.0.1:9"

Command = Callable[..., Any]


@pytest.fixture
def fake() -> FakeSuperset:
    return FakeSuperset()


@pytest.fixture
def url(fake: FakeSuperset) -> Iterator[str]:
    with running_in_thread(fake.app, "fake-superset") as url:
        yield url


@pytest.fixture
def superset(url: str) -> Iterator[Superset]:
    with Superset(SupersetAddress(url, USER, SecretStr(PASSWORD))) as superset:
        yield superset


@pytest.fixture
def described() -> Site:
    address = Address("http://clickhouse:8123", databases=load_settings().databases)
    return describe_site(address, url=None, user=None, password=None, language="en")


@pytest.fixture
def command(aspects_pii: Command, url: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`aspects-pii` with PII on and a Superset."""
    settings = {
        "SUPERSET_URL": url,
        "SUPERSET_USER": USER,
        "SUPERSET_PASSWORD": PASSWORD,
        "SUPERSET_CLICKHOUSE_URL": "https://clickhouse.example.org",
        "SUPERSET_CLICKHOUSE_USER": "aspects dashboards",
        "SUPERSET_CLICKHOUSE_PASSWORD": SECRET,
        "ENABLE_PII": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"ASPECTS_{name}", value)
    return partial(aspects_pii)


class TestFakeSuperset(DashboardsContract):
    """The tests that a real Superset passes too."""


def test_install_says_what_it_did(command: Command, fake: FakeSuperset) -> None:
    ran = command("dashboards", "install")
    assert ran.status == 0, ran.err
    assert ran.out.startswith("Superset: installed 4 dashboards, ")
    assert ran.err == ""
    assert command("dashboards", "install", "--json").json["installed"]["role"] == 2
    assert len(fake.objects["dashboard"]) == 4


def test_the_password_travels_beside_the_bundle(command: Command, fake: FakeSuperset) -> None:
    assert command("dashboards", "install").status == 0
    (database,) = fake.objects["database"].values()
    assert fake.passwords == {"databases/aspects_pii.yaml": SECRET}
    assert database["sqlalchemy_uri"] == (
        "clickhousedb://aspects%20dashboards:XXXXXXXXXX@clickhouse.example.org:8443/reporting?secure=true"
    )
    assert SECRET not in json.dumps(list(fake.objects.values()), default=list)


def test_role_stays_with_whoever_has_it(command: Command, fake: FakeSuperset) -> None:
    assert command("dashboards", "install").status == 0
    role = next(role for role in fake.roles.values() if role["name"] == "aspects_pii_course_staff")
    role["users"].add(7)
    assert command("dashboards", "install").status == 0
    assert fake.roles[role["id"]]["users"] == {7}


def test_a_dashboard_keeps_the_roles_that_an_operator_has_added(command: Command, fake: FakeSuperset) -> None:
    assert command("dashboards", "install").status == 0
    other = fake.add_role("Deans")
    for dashboard in fake.objects["dashboard"].values():
        assert len(dashboard["roles"]) == 1
        dashboard["roles"].append({"id": other})
    assert command("dashboards", "install").status == 0
    assert [len(dashboard["roles"]) for dashboard in fake.objects["dashboard"].values()] == [2] * 4


def test_our_user_of_clickhouse_for_superset_is_worth_a_warning(command: Command) -> None:
    ran = command("dashboards", "install", SUPERSET_CLICKHOUSE_USER="")
    assert ran.status == 0
    assert "ASPECTS_SUPERSET_CLICKHOUSE_USER" in ran.err


def test_a_connection_that_others_use_stays(command: Command, fake: FakeSuperset) -> None:
    assert command("dashboards", "install").status == 0
    (connection,) = fake.objects["database"]
    other = fake.add_dataset("reporting", connection)
    ran = command("dashboards", "remove")
    assert ran.status == 0, ran.err
    assert "1 dataset of others uses it" in ran.out
    assert list(fake.objects["database"]) == [connection]
    assert list(fake.objects["dataset"]) == [other]


def test_removing_from_a_superset_without_them_is_done(command: Command) -> None:
    ran = command("dashboards", "remove", SUPERSET_CLICKHOUSE_URL="")
    assert (ran.status, ran.out) == (0, "Superset: there was nothing to remove.\n")


def test_permissions_are_read_page_by_page(command: Command, fake: FakeSuperset) -> None:
    for number in range(1_000, 1_250):
        fake.permissions[number] = ("datasource_access", f"[other].[table](id:{number})")
    assert command("dashboards", "install").status == 0
    held = {role["name"]: len(role["permissions"]) for role in fake.roles.values()}
    assert held["aspects_pii_privacy"] > 2
    assert held["Gamma"] == 0


def test_a_wrong_password_of_superset_is_a_wrong_setting(command: Command, fake: FakeSuperset) -> None:
    ran = command("dashboards", "install", SUPERSET_PASSWORD="another")
    assert ran.status == 2
    assert "refused ASPECTS_SUPERSET_USER or ASPECTS_SUPERSET_PASSWORD" in ran.err
    assert fake.changes == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "4.1.2"}, "is version 4.1.2; 5.0 or newer is needed"),
        ({"flags": {}}, "ENABLE_TEMPLATE_PROCESSING"),
        ({"flags": {"ENABLE_TEMPLATE_PROCESSING": False}}, "ENABLE_TEMPLATE_PROCESSING"),
        ({"is_forbidden": True}, "role Admin"),
        ({"is_failing": True}, "status 500"),
    ],
)
def test_an_unsuitable_superset_is_refused(
    command: Command, fake: FakeSuperset, changes: dict[str, Any], said: str
) -> None:
    for name, value in changes.items():
        setattr(fake, name, value)
    ran = command("dashboards", "install")
    assert ran.status == 1
    assert said in ran.err
    assert fake.changes == 0


@pytest.mark.parametrize("which", ["install", "remove"])
@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ({"SUPERSET_URL": NOWHERE}, 1, "does not answer"),
        ({"SUPERSET_PASSWORD": "another"}, 2, "refused ASPECTS_SUPERSET_USER or ASPECTS_SUPERSET_PASSWORD"),
        ({"SUPERSET_URL": ""}, 2, "ASPECTS_SUPERSET_URL is not set"),
        ({"SUPERSET_PASSWORD": ""}, 2, "ASPECTS_SUPERSET_PASSWORD is not"),
        ({"SUPERSET_USER": ""}, 2, "ASPECTS_SUPERSET_USER is not"),
        ({"SUPERSET_URL": "superset.example.org"}, 2, "ASPECTS_SUPERSET_URL is not valid"),
        ({"SUPERSET_LANGUAGE": "tlh"}, 2, "ASPECTS_SUPERSET_LANGUAGE"),
    ],
)
def test_wrong_settings_are_named(
    command: Command, which: str, settings: dict[str, str], status: int, said: str
) -> None:
    ran = command("dashboards", which, **settings)
    assert ran.status == status
    assert said in ran.err
    assert PASSWORD not in ran.err


def test_server_that_is_no_superset_is_refused(command: Command) -> None:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse

    app = Starlette()
    app.add_route("/{path:path}", lambda request: PlainTextResponse("hello"), methods=["GET", "POST"])
    with running_in_thread(app, "no-superset") as url:
        ran = command("dashboards", "install", SUPERSET_URL=url)
    assert ran.status == 1
    assert "is not Superset" in ran.err


def test_the_engine_in_process_is_out_of_supersets_reach(command: Command, fake: FakeSuperset) -> None:
    ran = command("dashboards", "install", SUPERSET_CLICKHOUSE_URL="")
    assert ran.status == 2
    assert "ASPECTS_SUPERSET_CLICKHOUSE_URL" in ran.err
    assert fake.changes == 0


def test_export_needs_no_superset_and_holds_no_password(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "dashboards.zip"
    ran = command("dashboards", "export", "-o", file, SUPERSET_URL="")
    assert ran.status == 0, ran.err
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert len(texts) > 40
    assert len({name.split("/")[0] for name in texts}) == 1
    assert not any(SECRET in text for text in texts.values())
    uris = [yaml.safe_load(text)["sqlalchemy_uri"] for name, text in texts.items() if "/databases/" in name]
    assert ["XXXXXXXXXX" in uri for uri in uris] == [True]


def test_export_follows_no_link(command: Command, tmp_path: Path) -> None:
    elsewhere, file = tmp_path / "elsewhere", tmp_path / "dashboards.zip"
    elsewhere.write_text("somebody else's")
    file.symlink_to(elsewhere)
    ran = command("dashboards", "export", "-o", file, SUPERSET_URL="")
    assert ran.status == 2
    assert "it is a link" in ran.err
    assert elsewhere.read_text() == "somebody else's"


def test_export_to_where_nothing_can_be_written(command: Command, tmp_path: Path) -> None:
    ran = command("dashboards", "export", "-o", tmp_path / "no" / "such.zip")
    assert ran.status == 2
    assert "such.zip" in ran.err


def fill(subjects: int = 5) -> None:
    with open_store(load_settings(), creates=True) as store:
        migrations.migrate(store.client)
        store.client.insert(
            store.client.table("event_sink.user_profile"),
            ["user_id", "username"],
            [(number, f"canary{number}") for number in range(1, subjects + 1)],
        )


def count_profiles() -> int:
    with open_store(load_settings()) as store:
        return int(store.client.value("SELECT count() FROM $event_sink.user_profile", {"apply_deleted_mask": 0}))


def test_purging_takes_the_dashboards_out(command: Command, fake: FakeSuperset) -> None:
    fill()
    assert command("dashboards", "install").status == 0
    ran = command("purge", "--yes", ENABLE_PII="false")
    assert ran.status == 0, ran.err
    assert "Superset: removed 4 dashboards" in ran.out
    assert count_profiles() == 0
    assert not any(fake.objects.values())
    assert {role["name"] for role in fake.roles.values()} == {"Admin", "Gamma"}


def test_purging_does_not_wait_for_superset_but_says_what_is_left(command: Command, fake: FakeSuperset) -> None:
    fill()
    assert command("dashboards", "install").status == 0
    ran = command("purge", "--yes", ENABLE_PII="false", SUPERSET_URL=NOWHERE)
    assert ran.status == 1
    assert "still in Superset" in ran.err
    assert count_profiles() == 0
    assert len(fake.objects["dashboard"]) == 4
    assert command("purge", "--yes", ENABLE_PII="false").status == 0
    assert not any(fake.objects.values())


def test_a_rehearsed_purge_leaves_superset_alone(command: Command, fake: FakeSuperset) -> None:
    fill()
    assert command("dashboards", "install").status == 0
    before = fake.changes
    assert command("purge", "--dry-run", ENABLE_PII="false").status == 0
    assert fake.changes == before


def test_superset_is_told_to_forget_after_a_retirement(command: Command, fake: FakeSuperset, url: str) -> None:
    fill()
    assert command("dashboards", "install").status == 0
    (connection,) = fake.objects["database"]
    ours = set(fake.objects["dataset"])
    # Somebody's own dataset on our connection, one on another connection to the same ClickHouse, and a stranger's.
    concerned = {fake.add_dataset("", connection), fake.add_dataset("reporting", 900), fake.add_dataset("x", 900)}
    fake.add_dataset("sales", 901)
    ran = command("retire", 1, 2, "--json")
    assert ran.status == 0, ran.err
    assert len(fake.forgotten) == 1
    assert set(fake.forgotten[0]) == {f"{number}__table" for number in ours | concerned}
    receipt = ran.json["retirements"][0]["receipt"]
    (line,) = receipt["caches"]
    assert {**line, "told_at": ""} == {
        "cache": "superset",
        "url": url,
        "datasets": len(ours | concerned),
        "told_at": "",
    }
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(receipt)
    about = [text for text in receipt["not_covered"] if "Superset" in text]
    assert about == [
        "what Superset keeps without a list of it: results in other caches, saved results, filters and links"
    ]


def test_retirement_stays_open_while_superset_cannot_be_told(command: Command, fake: FakeSuperset) -> None:
    fill()
    assert command("dashboards", "install").status == 0
    ran = command("retire", 1, "--json", SUPERSET_URL=NOWHERE)
    assert ran.status == 1
    (outcome,) = ran.json["retirements"]
    assert outcome["state"] == "failed"
    assert "Superset" in outcome["reason"]
    # The person is gone all the same.
    assert count_profiles() == 4
    assert command("status", "--json").json["open"] == 1
    fake.is_failing = True
    assert command("sweep").status == 1
    fake.is_failing = False
    ran = command("sweep", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["retirements"][0]["state"] == "erased"
    assert len(ran.json["retirements"][0]["receipt"]["caches"]) == 1
    assert command("status", "--json").json["open"] == 0


def test_receipt_without_a_superset_says_that_its_caches_are_not_covered(command: Command) -> None:
    fill()
    ran = command("retire", 1, "--json", SUPERSET_URL="")
    assert ran.status == 0, ran.err
    receipt = ran.json["retirements"][0]["receipt"]
    assert receipt["caches"] == []
    assert "Superset's caches and saved results" in receipt["not_covered"]
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(receipt)


def test_a_superset_of_which_half_is_set_stops_a_retirement_before_it_begins(command: Command) -> None:
    fill()
    ran = command("retire", 1, SUPERSET_PASSWORD="")
    assert ran.status == 2
    assert "ASPECTS_SUPERSET_PASSWORD" in ran.err
    assert count_profiles() == 5


def test_conditions_are_quoted() -> None:
    assert write_rison({"filters": [{"value": "it's !t"}], "page": 0, "is": True}) == (
        "(filters:!((value:'it!'s !!t')),page:0,is:!t)"
    )
