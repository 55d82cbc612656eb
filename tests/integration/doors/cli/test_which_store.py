"""Which store a command means: it is named absolutely, only `init` makes one, and nothing is proved where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.datasets.build import build
from sink.errors import StoreMissingError
from sink.installation import connect, find_address
from sink.settings import load_settings
from tests.support.lms_writer import LmsWriter

Command = Callable[..., Any]

OPENING = (
    ("status",),
    ("verify",),
    ("verify", "5"),
    ("sweep",),
    ("second-pass",),
    ("backfill-retired",),
    ("replay",),
    ("retire", "5"),
    ("retire", "5", "--dry-run"),
    ("withdraw", "5"),
    ("reassign", "5", "6"),
    ("purge", "--yes"),
    ("purge", "--dry-run"),
    ("map", "check"),
    ("ledger", "show"),
)


@pytest.mark.parametrize("command", OPENING)
def test_where_no_store_is_a_command_says_where_and_makes_none(
    aspects_pii: Command, tmp_path: Path, command: tuple[str, ...]
) -> None:
    ran = aspects_pii(*command, CLICKHOUSE_URL="chdb://./elsewhere")
    assert (ran.status, ran.out) == (2, "")
    assert f"There is no store on chdb://{tmp_path}/elsewhere." in ran.err
    assert "aspects-pii init" in ran.err
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("setting", ["EVENT_SINK_DATABASE", "XAPI_DATABASE", "REPORTING_DATABASE"])
@pytest.mark.parametrize("other", ["misspelt", "default"])
def test_nothing_is_proved_of_another_database_than_the_store_has(
    aspects_pii: Command, tmp_path: Path, migrated: Callable[[Path], None], setting: str, other: str
) -> None:
    """Nobody is in it, whether or not it is there; before, `retire` and `verify` were green while all PII was still there."""
    migrated(tmp_path / "clickhouse")
    assert len(OPENING) > 10
    for command in (*OPENING, ("retire", "5", "--unknown", "--yes")):
        ran = aspects_pii(*command, **{setting: other})
        assert (ran.status, ran.out) == (2, ""), command
        assert f", not {other} (ASPECTS_{setting})" in ran.err
        assert "aspects-pii init" in ran.err
    assert aspects_pii("status", "--json").json["open"] == 0


def test_a_store_may_move_to_a_database_of_another_name(aspects_pii: Command) -> None:
    assert aspects_pii("init").status == 0
    moved = {"EVENT_SINK_DATABASE": "sink_2"}
    first = aspects_pii("init", **moved)
    assert "Applied 0003_pii_tables." in first.out
    assert "event_sink is the database sink_2 from now on." in first.err
    again = aspects_pii("init", **moved)
    assert again.out.startswith("Nothing to apply.")
    assert again.err == ""
    assert "former_databases: [event_sink]" in aspects_pii("map", "check", **moved).out
    assert aspects_pii("verify").status == 2, "what the settings called it before is not what the store has now"


@pytest.mark.parametrize("setting", ["EVENT_SINK_DATABASE", "XAPI_DATABASE"])
def test_nothing_is_proved_of_a_database_that_is_not_there(
    aspects_pii: Command, tmp_path: Path, migrated: Callable[[Path], None], setting: str
) -> None:
    """Also where its name was never noted: the store is of an earlier version."""
    migrated(tmp_path / "clickhouse")
    with connect(load_settings(clickhouse_url=f"chdb://{tmp_path}/clickhouse")) as client:
        client.execute("DROP TABLE $pii_ledger.database_names")
    for command in OPENING:
        ran = aspects_pii(*command, **{setting: "misspelt"})
        assert (ran.status, ran.out) == (2, ""), command
        assert f"has no database misspelt (ASPECTS_{setting})" in ran.err


def test_a_folder_of_something_else_is_left_as_it_is(aspects_pii: Command, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    ran = aspects_pii("verify", CLICKHOUSE_URL="chdb://notes")
    assert ran.status == 2
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]


def test_a_clickhouse_without_a_ledger_proves_nothing(aspects_pii: Command, tmp_path: Path) -> None:
    with ClickHouse(Address(f"chdb://{tmp_path}/clickhouse")) as client:
        client.execute("CREATE DATABASE event_sink")
    for command in OPENING:
        ran = aspects_pii(*command)
        assert (ran.status, ran.out) == (2, ""), command
        assert f"There is no store on chdb://{tmp_path}/clickhouse (no table pii_ledger.entries)." in ran.err, command


def test_a_misspelt_ledger_database_is_no_store(stored: Command) -> None:
    ran = stored("purge", "--yes", LEDGER_DATABASE="pii_leger")
    assert ran.status == 2
    assert "no table pii_leger.entries" in ran.err
    assert "ASPECTS_LEDGER_DATABASE" in ran.err


def test_build_makes_no_store(aspects_pii: Command, tmp_path: Path) -> None:
    aspects_pii("--version")
    for definer in (None, "somebody"):
        with pytest.raises(StoreMissingError):
            build(find_address(load_settings()), enable_pii=True, definer=definer)
    assert not (tmp_path / "clickhouse").exists()


def test_a_relative_folder_is_named_absolutely(aspects_pii: Command, tmp_path: Path) -> None:
    place = f"chdb://{tmp_path}/data"
    setting = {"CLICKHOUSE_URL": "chdb://./data"}
    assert aspects_pii("init", **setting).out.endswith(f"The store is on {place}.\n")
    assert aspects_pii("init", "--json", **setting).json["store"] == place
    assert aspects_pii("status", "--json", **setting).json["clickhouse"] == place


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("retire", "1"), "1 of 1 retirement is erased and verified on {}."),
        (("sweep",), "Nothing is open on {}."),
        (("second-pass",), "Nothing is open on {}."),
        (("verify",), "places on {}: nothing is left."),
        (("purge", "--yes"), "Purged and verified on {}: no PII is left. Tombstones and ledger stay."),
        (("backfill-retired",), "0 users are retired; rows of 0 of them were on {}."),
        (("replay",), "0 users are retired; rows of 0 of them were on {}."),
        (("reassign", "1", "2"), "rows went from 1 to 2 on {}."),
    ],
)
def test_what_proves_or_destroys_names_the_store(
    stored: Command, tmp_path: Path, command: tuple[str, ...], line: str
) -> None:
    place = f"chdb://{tmp_path}/clickhouse"
    ran = stored(*command)
    assert ran.status == 0, ran.err
    assert ran.out.splitlines()[-1].endswith(line.format(place))
    assert stored(*command, "--json").json["store"] == place


def test_sync_and_reconcile_name_the_store(stored: Command, lms: LmsWriter, lms_url: str, tmp_path: Path) -> None:
    place = f"chdb://{tmp_path}/clickhouse"
    setting = {"LMS_DATABASE_URL": lms_url, "ENABLE_PII": "true"}
    assert f"Copied to {place}." in stored("sync", "--allow-removals", **setting).out
    assert stored("sync", "--json", **setting).json["store"] == place
    assert f"0 of them were not on {place}." in stored("reconcile", **setting).out
    assert stored("reconcile", "--json", **setting).json["store"] == place


def test_a_server_is_named_without_user_and_password() -> None:
    address = Address("https://reader:hidden@clickhouse.example.org:8443/?password=hidden")
    assert address.described == "https://clickhouse.example.org:8443"


def test_who_connects_may_be_allowed_to_create(tmp_path: Path) -> None:
    settings = load_settings(clickhouse_url=f"chdb://{tmp_path}/new")
    with pytest.raises(StoreMissingError):
        connect(settings)
    with connect(settings, creates=True) as client:
        assert client.value("SELECT 1") == 1
