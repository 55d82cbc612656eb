"""What is asked before a retirement is recorded, since nothing takes it back."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sink.errors import UsageError
from sink.installation import open_store
from sink.ledger.entries import Action
from sink.settings import load_settings
from tests.support.lms_writer import LmsWriter
from tests.support.profiles import make_store_of

Command = Callable[..., Any]

NAMES = ("Jane Doe", "jane", "jane@example.org", "jane-7", "17a", "service:Jane", "service:jane doe", "17\n", "")
NOWHERE = "mysql+pymysql://reader:hidden@127.0.0.1:1/openedx"


def read_ledger(aspects_pii: Command) -> list[str]:
    """The actions on record."""
    return [entry["action"] for entry in aspects_pii("ledger", "show", "--limit", "100000", "--json").json]


class Terminal(io.StringIO):
    """Somebody who sits there and has typed something."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have a command run on a terminal, where somebody types an answer."""

    def make(answer: str) -> None:
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)

    return make


# --- ids that nobody knows


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_an_id_that_nothing_knows_is_refused_and_nobody_is_recorded(stored: Command, dry_run: tuple[str, ...]) -> None:
    ran = stored("retire", "1", "2500", "2501", *dry_run)
    assert ran.status == 2
    assert "holds nothing of 2500, 2501." in ran.err
    assert "--unknown" in ran.err
    assert read_ledger(stored) == []


def test_an_id_that_the_lms_does_not_know_either_is_refused(stored: Command, lms: LmsWriter, lms_url: str) -> None:
    ran = stored("retire", "2500", LMS_DATABASE_URL=lms_url)
    assert ran.status == 2
    assert "holds nothing of 2500, and the LMS does not know the ids." in ran.err
    assert read_ledger(stored) == []


def test_an_id_that_the_lms_alone_knows_is_retired(aspects_pii: Command, lms: LmsWriter, lms_url: str) -> None:
    aspects_pii("init")
    lms.request_retirement(5)
    lms.delete_user(5)
    ran = aspects_pii("retire", "4", "5", LMS_DATABASE_URL=lms_url)
    assert ran.status == 0, ran.err
    assert "2 of 2 retirements are erased and verified" in ran.out


def test_an_id_that_the_ledger_knows_is_retired_again(stored: Command) -> None:
    assert stored("retire", "1").status == 0
    assert stored("retire", "1").status == 0


def test_an_unknown_id_is_retired_where_somebody_insists(stored: Command) -> None:
    ran = stored("retire", "2500", "--unknown")
    assert (ran.status, read_ledger(stored)[0]) == (0, "requested")


def test_many_unknown_ids_are_counted(stored: Command, tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("\n".join(map(str, range(2500, 2600))))
    assert "2508, 2509 and 90 more" in stored("retire", "--file", file).err


def test_the_lms_is_not_asked_for_whom_the_store_knows(stored: Command) -> None:
    assert stored("retire", "1", LMS_DATABASE_URL=NOWHERE).status == 0


def test_where_the_lms_cannot_say_nothing_is_recorded(stored: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sink.lms.database.CONNECT_ATTEMPTS", 1)
    ran = stored("retire", "1", "2500", LMS_DATABASE_URL=NOWHERE)
    assert ran.status == 1
    assert "Nothing was recorded" in ran.err
    assert "--unknown" in ran.err
    assert read_ledger(stored) == []


# --- much of a table


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_much_of_a_table_is_refused_once_and_before_anything_is_recorded(
    aspects_pii: Command, migrated: Callable[[Path], None], tmp_path: Path, dry_run: tuple[str, ...]
) -> None:
    make_store_of(migrated, 1_200)
    file = tmp_path / "ids.txt"
    file.write_text("\n".join(map(str, range(1, 1_001))))
    ran = aspects_pii("retire", "--file", file, *dry_run)
    assert ran.status == 1
    assert (ran.out + ran.err).count("ASPECTS_RETIRE_MAX_SHARE") == 1
    assert read_ledger(aspects_pii) == []


def test_what_stops_many_retirements_is_said_once(aspects_pii: Command, migrated: Callable[[Path], None]) -> None:
    make_store_of(migrated, 1_200)
    with open_store(load_settings()) as store:
        store.ledger.request(list(range(1, 1_001)))
    ran = aspects_pii("sweep")
    assert ran.status == 1
    assert ran.out.count("ASPECTS_RETIRE_MAX_SHARE") == 1
    assert "and 990 more: 1,000 failed, and stay open: " in ran.out


# --- whoever sits there


def test_on_a_terminal_retire_asks_with_the_count_and_the_store(
    stored: Command, terminal: Callable[[str], None], tmp_path: Path
) -> None:
    terminal("n\n")
    ran = stored("retire", "1", "2", "2", "3")
    assert ran.status == 1
    assert f"Retire 3 people on chdb://{tmp_path}/clickhouse? This cannot be undone." in ran.err
    assert read_ledger(stored) == []


@pytest.mark.parametrize(("answer", "options"), [("y\n", ()), ("", ("--yes",))])
def test_who_says_yes_retires(
    stored: Command, terminal: Callable[[str], None], answer: str, options: tuple[str, ...]
) -> None:
    terminal(answer)
    assert stored("retire", "1", *options).status == 0


def test_a_script_is_not_asked(stored: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert stored("retire", "1").status == 0


# --- who asks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", [("retire", "1"), ("withdraw", "1"), ("reassign", "1", "2"), ("purge", "--yes")])
def test_a_name_is_no_actor(stored: Command, command: tuple[str, ...], name: str) -> None:
    ran = stored(*command, "--actor", name)
    assert ran.status == 2
    assert "not an opaque id" in ran.err
    assert not name or name not in ran.err.replace("NAME", "")
    assert read_ledger(stored) == []


@pytest.mark.parametrize("actor", ["17", "2f0c8d1e-0f0b-4f8e-9d5a-1d2c3b4a5f60", "service:ticket-desk"])
def test_an_opaque_id_is_an_actor(stored: Command, actor: str) -> None:
    ran = stored("retire", "1", "--actor", actor, "--json")
    assert ran.json["retirements"][0]["receipt"]["actor"] == actor


def test_no_door_gets_a_name_into_the_ledger(stored: Command) -> None:
    with open_store(load_settings()) as store:
        with pytest.raises(UsageError, match="opaque"):
            store.ledger.request([1], "Jane Doe")
        with pytest.raises(UsageError, match="opaque"):
            store.ledger.record_event(Action.PURGED, {}, "Jane Doe")
        assert store.ledger.show() == []


# --- verify of whom nobody has retired


def test_verify_says_that_somebody_was_never_retired(stored: Command) -> None:
    ran = stored("verify", "5")
    assert ran.status == 1
    assert "5 was never retired: 1 row is held, and no residue." in ran.out
    assert stored("verify", "5", "--json").json["not_retired"] == ["5"]
    entry = stored("ledger", "show", "--action", "verified", "--json").json[0]
    assert (entry["detail"]["with_residue"], entry["detail"]["findings"]) == (0, 0)


def test_verify_of_somebody_of_whom_nothing_was_ever_held(stored: Command) -> None:
    ran = stored("verify", "2500")
    assert (ran.status, "2500 was never retired: nothing is held." in ran.out) == (0, True)


def test_verify_of_a_withdrawn_retirement_says_so_too(stored: Command) -> None:
    with open_store(load_settings()) as store:
        store.ledger.request([5])
    assert stored("withdraw", "5").status == 0
    assert "5 was never retired" in stored("verify", "5").out


def test_verify_of_who_is_retired_says_nothing_of_that(stored: Command) -> None:
    assert stored("retire", "5").status == 0
    assert "never retired" not in stored("verify", "5").out
