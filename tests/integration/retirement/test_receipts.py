"""Receipts last, and can be read and checked: by an operator with a store, and by an authority without one."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import SecretStr

from sink.errors import LedgerError
from sink.installation import open_store
from sink.ledger.entries import Action
from sink.resources import find_resource
from sink.retirement.receipt import serialize
from sink.retirement.retire import retire, sweep
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support.paths import ROOT

Command = Callable[..., Any]

SCHEMA = json.loads((ROOT / "docs" / "receipt.schema.json").read_text())
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def made(settings: Settings, migrated: Callable[[Path], None]) -> Settings:
    """Settings of a store that is there."""
    migrated(Path(settings.clickhouse_url.removeprefix("chdb://")))
    return settings


def add_profiles(store: Store, *users: int) -> None:
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ["user_id", "name", "username", "time_last_dumped"],
        [(user, f"Somebody {user}", f"learner{user}", str(NOW)) for user in users],
    )


def list_files(settings: Settings) -> list[Path]:
    """The receipts, the first of a request before those that supersede it."""
    return sorted(settings.receipts_dir.glob("*.json"), key=lambda path: (len(path.name), path.name))


def count_rows(document: dict[str, Any]) -> dict[str, int]:
    return {line["target"]: line["rows_before"] for line in document["targets"] if line["rows_before"]}


# --- issued once


def test_a_repetition_makes_a_receipt_that_supersedes_the_first(store: Store, settings: Settings) -> None:
    add_profiles(store, 5, 6)
    retire(store, [5])
    (first,) = list_files(settings)
    data = first.read_bytes()
    add_profiles(store, 5)
    outcome = retire(store, [5])[0]
    assert list_files(settings) == [first, outcome.receipt_path]
    assert first.read_bytes() == data
    assert outcome.receipt is not None
    assert outcome.receipt["supersedes"]["file"] == first.name
    details = [entry.detail for entry in store.ledger.show(subject="5", action="erased")]
    assert [detail["file"] for detail in details] == [first.name, f"{first.stem}-2.json"]
    assert outcome.receipt["supersedes"]["sha256"] == details[0]["digest"]


def test_a_later_receipt_counts_what_was_erased_earlier(store: Store, settings: Settings) -> None:
    add_profiles(store, 5)
    retire(store, [5])
    # Nothing in the tables, but something to look at again.
    store.ledger.reopen(store.ledger.find([5]), "a restore")
    assert [o.state for o in sweep(store)] == ["erased"]
    second = json.loads(list_files(settings)[1].read_text())
    assert (second["nothing_was_stored"], count_rows(second)) == (False, {"event_sink.user_profile": 1})
    add_profiles(store, 5)
    retire(store, [5])
    third = json.loads(list_files(settings)[2].read_text())
    assert count_rows(third) == {"event_sink.user_profile": 2}


def test_a_later_receipt_counts_what_was_erased_from_a_table_that_left_the_map(
    aspects_pii: Command, made: Settings, tmp_path: Path
) -> None:
    with open_store(made) as store:
        add_profiles(store, 5)
        retire(store, [5])
        document = yaml.safe_load(find_resource("config/pii.yaml").read_text())
        store.client.execute("RENAME TABLE $event_sink.user_profile TO $event_sink.profiles")
        store.ledger.reopen(store.ledger.find([5]), "a restore")
    target = document["targets"].pop("event_sink.user_profile")
    document["targets"]["event_sink.profiles"] = target
    document["subject"]["identifiers"] = {
        name: place.replace("event_sink.user_profile", "event_sink.profiles")
        for name, place in document["subject"]["identifiers"].items()
    }
    (tmp_path / "pii.yaml").write_text(yaml.safe_dump(document))
    ran = aspects_pii("sweep", "--json", PII_MAP=str(tmp_path / "pii.yaml"))
    receipt = ran.json["retirements"][0]["receipt"]
    assert (receipt["nothing_was_stored"], count_rows(receipt)) == (False, {"event_sink.user_profile": 1})
    jsonschema.validate(receipt, SCHEMA)


def test_killed_between_receipt_and_ledger_leaves_one_receipt(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_profiles(store, 5)
    record = store.ledger.record

    def lose_erased(action: Action, *arguments: Any) -> datetime:
        if action is Action.ERASED:
            raise LedgerError
        return record(action, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store.ledger, "record", lose_erased)
        assert [o.state for o in retire(store, [5])] == ["failed"]
    (left,) = list_files(settings)
    data = left.read_bytes()
    assert [(o.state, o.receipt_path) for o in sweep(store)] == [("erased", left)]
    assert list_files(settings) == [left]
    assert left.read_bytes() == data
    assert store.ledger.find([5])[0].detail["receipt"] == json.loads(data)


def test_killed_between_receipt_and_ledger_with_rows_since_leaves_two_that_say_so(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_profiles(store, 5)
    with monkeypatch.context() as patch:
        patch.setattr(store.client, "insert", fail_to_insert_after_receipt(store, settings))
        assert [o.state for o in retire(store, [5])] == ["failed"]
    (left,) = list_files(settings)
    add_profiles(store, 5)
    assert [o.state for o in sweep(store)] == ["erased"]
    assert [path.name for path in list_files(settings)] == [left.name, f"{left.stem}-2.json"]
    second = json.loads(list_files(settings)[1].read_text())
    assert second["supersedes"]["file"] == left.name
    assert second["erased_at"] > json.loads(left.read_text())["erased_at"]


def fail_to_insert_after_receipt(store: Store, settings: Settings) -> Callable[..., None]:
    """An engine that takes nothing any more once there is a receipt."""
    insert = store.client.insert

    def fail(*arguments: Any, **options: Any) -> None:
        if list_files(settings):
            raise LedgerError
        insert(*arguments, **options)

    return fail


# --- what it says


def test_receipts_are_valid_against_the_published_schema(made: Settings, tmp_path: Path, aspects_pii: Command) -> None:
    assert aspects_pii("receipt", "key", tmp_path / "key.pem").status == 0
    values = {"receipt_key": SecretStr("key"), "receipt_signing_key": tmp_path / "key.pem", "contact": "room 4"}
    with open_store(load_settings(**made.model_dump() | values)) as store:
        add_profiles(store, 1)
        retire(store, [1, 99])
        add_profiles(store, 1)
        retire(store, [1])
    files = list_files(made)
    assert len(files) == 3
    for file in files:
        receipt = json.loads(file.read_text())
        jsonschema.validate(receipt, SCHEMA)
        assert [signature["algorithm"] for signature in receipt["signatures"]] == ["HMAC-SHA256", "Ed25519"]


def test_the_schema_holds_version_2_to_more_than_version_1(store: Store) -> None:
    receipt = retire(store, [5])[0].receipt
    assert receipt is not None
    old = {name: value for name, value in receipt.items() if name not in ("store", "supersedes", "contact")}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(old, SCHEMA)
    jsonschema.validate({**old, "version": 1}, SCHEMA)


def test_a_receipt_names_the_store_and_who_is_responsible(made: Settings, tmp_path: Path) -> None:
    values = {"institution": "University of Nowhere", "contact": "room 4"}
    with open_store(load_settings(**made.model_dump() | values)) as store:
        receipt = retire(store, [5])[0].receipt
    assert receipt is not None
    said = [receipt[name] for name in ("store", "institution", "contact")]
    assert said == [f"chdb://{tmp_path}/clickhouse", "University of Nowhere", "room 4"]


def test_a_receipt_says_what_kinds_of_data_were_erased(store: Store) -> None:
    add_profiles(store, 5)
    receipt = retire(store, [5])[0].receipt
    assert receipt is not None
    pii = {line["target"]: line["pii"] for line in receipt["targets"]}
    assert pii["event_sink.user_profile"]["username"] == "username"
    assert pii["event_sink.course_enrollment"] == {"username": "username"}


def test_a_signing_key_that_cannot_be_used_leaves_the_retirement_open(made: Settings, tmp_path: Path) -> None:
    """Erased all the same: whoever wants to be forgotten does not wait for a key."""
    values = {"receipt_signing_key": tmp_path / "key.pem"}
    with open_store(load_settings(**made.model_dump() | values)) as store:
        add_profiles(store, 5)
        outcome = retire(store, [5])[0]
        assert outcome.state == "failed"
        assert "ASPECTS_RECEIPT_SIGNING_KEY" in outcome.reason
        assert store.client.value("SELECT count() FROM $event_sink.user_profile") == 0
    with open_store(made) as store:
        assert [(o.state, o.rows) for o in sweep(store)] == [("erased", 1)]


# --- receipt list, show, verify, key


@pytest.fixture
def signed(
    aspects_pii: Command,
    settings: Settings,
    migrated: Callable[[Path], None],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Command:
    """The command line of an installation that signs, with 42 retired twice and 7 once; the public key is in key.pub."""
    setting = {"RECEIPT_SIGNING_KEY": str(tmp_path / "key.pem"), "RECEIPT_KEY": "a key", "INSTITUTION": "University"}
    # The same for every test, which takes a copy.
    template = tmp_path_factory.getbasetemp() / "signed"
    if template.exists():
        shutil.copytree(template, tmp_path, dirs_exist_ok=True, symlinks=True)
    else:
        key = aspects_pii("receipt", "key", tmp_path / "key.pem", "--json").json
        (tmp_path / "key.pub").write_text(key["public_key"])
        migrated(tmp_path / "clickhouse")
        for subject in (42, 7, 42):
            with open_store(settings) as store:
                add_profiles(store, subject)
            assert aspects_pii("retire", subject, **setting).status == 0
        shutil.copytree(tmp_path, template, symlinks=True)
    return lambda *arguments, **more: aspects_pii(*arguments, **setting | more)


@pytest.fixture
def files(signed: Command) -> dict[str, Path]:
    """The receipts: both of 42, and that of 7."""
    listed = signed("receipt", "list", "--json").json
    names = {"42": [], "7": []}  # type: dict[str, list[Path]]
    for line in listed:
        names[line["subject"]].append(Path(line["file"]))
    first, second = names["42"]
    (other,) = names["7"]
    return {"first": first, "second": second, "other": other}


def test_list_shows_every_receipt_and_which_are_superseded(signed: Command, files: dict[str, Path]) -> None:
    listed = {Path(line["file"]): line for line in signed("receipt", "list", "--json").json}
    assert set(listed) == set(files.values())
    superseded = [listed[files[name]]["superseded"] for name in ("first", "second", "other")]
    assert superseded == [True, False, False]
    assert listed[files["other"]]["signed"] == ["HMAC-SHA256", "Ed25519"]
    assert listed[files["other"]]["erased_at"].startswith("20")
    ran = signed("receipt", "list")
    assert ran.status == 0
    assert ran.out.count("Ed25519") == 3


def test_list_names_what_is_damaged(signed: Command, files: dict[str, Path]) -> None:
    files["other"].write_text("{")
    ran = signed("receipt", "list")
    assert ran.status == 1
    assert ran.out.count("Ed25519") == 2
    assert files["other"].name in ran.err


def test_show_passes_over_an_entry_that_holds_no_receipt(
    signed: Command, files: dict[str, Path], settings: Settings
) -> None:
    with open_store(settings) as store:
        store.client.execute(
            "INSERT INTO $pii_ledger.entries (subject, request, action, actor, detail, at) SELECT subject, request, "
            'action, actor, \'{"receipt":{"no":"receipt"}}\', at + 1 FROM $pii_ledger.entries '
            "WHERE subject = '7' AND action = 'erased'"
        )
    ran = signed("receipt", "show", 7)
    assert ran.status == 0
    assert files["other"].name in ran.out
    assert "has a later entry without a receipt that can be read" in ran.err


def test_verify_says_what_was_checked(signed: Command, files: dict[str, Path], settings: Settings) -> None:
    ran = signed("receipt", "verify", files["second"], files["other"])
    assert ran.status == 0
    assert ran.out.count(": genuine.") == 2
    assert len(re.findall("HMAC-SHA256 signature by the key [0-9a-f]{16} is genuine", ran.out)) == 2
    assert ran.out.count(f"Its digest stands in the ledger on {settings.clickhouse_url}.") == 2


def test_verify_of_a_superseded_receipt_names_the_one_that_counts(signed: Command, files: dict[str, Path]) -> None:
    ran = signed("receipt", "verify", files["first"])
    assert ran.status == 1
    assert f"{files['second'].name} supersedes it." in ran.out


def test_verify_of_a_receipt_whose_retirement_is_open_again_says_so(
    signed: Command, files: dict[str, Path], settings: Settings
) -> None:
    with open_store(settings) as store:
        store.ledger.reopen(store.ledger.find([7]), "a restore")
    ran = signed("receipt", "verify", files["other"])
    assert ran.status == 1
    assert "open again" in ran.out


def test_verify_finds_what_was_changed(signed: Command, files: dict[str, Path], tmp_path: Path) -> None:
    document = json.loads(files["other"].read_text())
    (tmp_path / "changed.json").write_bytes(serialize({**document, "nothing_was_stored": True}))
    ran = signed("receipt", "verify", tmp_path / "changed.json")
    assert ran.status == 1
    assert ran.out.count("signature") == ran.out.count("does not fit") == 2
    assert "was changed, or is about another store" in ran.out


def test_verify_finds_a_receipt_that_was_made_up(signed: Command, tmp_path: Path, files: dict[str, Path]) -> None:
    document = json.loads(files["other"].read_text())
    unsigned = {name: value for name, value in document.items() if name != "signatures"}
    (tmp_path / "made up.json").write_bytes(serialize({**unsigned, "request": str(uuid.uuid4())}))
    ran = signed("receipt", "verify", tmp_path / "made up.json", "--json")
    assert ran.status == 1
    assert [ran.json[0][name] for name in ("genuine", "in_ledger", "signed_by")] == [False, False, []]


def test_verify_goes_on_after_what_is_no_receipt(signed: Command, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "half.json").write_bytes(files["other"].read_bytes()[:100])
    ran = signed("receipt", "verify", tmp_path / "half.json", files["second"], "--json")
    assert ran.status == 1
    assert [line["genuine"] for line in ran.json] == [False, True]
    assert signed("receipt", "verify", tmp_path / "nowhere.json").status == 2


def test_verify_of_an_unsigned_receipt_is_by_the_ledger(aspects_pii: Command, settings: Settings) -> None:
    aspects_pii("init")
    aspects_pii("retire", 5, "--unknown")
    (file,) = list_files(settings)
    ran = aspects_pii("receipt", "verify", file)
    assert ran.status == 0
    assert "It is not signed." in ran.out
    offline = aspects_pii("receipt", "verify", file, "--offline")
    assert offline.status == 1
    assert "Nothing shows that it is genuine" in offline.out


def test_verify_of_a_receipt_of_version_1(aspects_pii: Command, settings: Settings) -> None:
    """The ledger of that time has the receipt itself, and no digest."""
    aspects_pii("init")
    with open_store(settings) as store:
        (retirement,) = store.ledger.request([5])
        request = retirement.request
        document = {**retire(store, [5])[0].receipt, "version": 1}  # type: ignore[dict-item]
        for name in ("store", "institution", "contact", "supersedes"):
            del document[name]
        store.ledger.record(Action.ERASED, [(5, request, {"receipt": document})])
    file = settings.receipts_dir / f"{request}.json"
    file.write_text(json.dumps(document, indent=2))
    assert aspects_pii("receipt", "verify", file).status == 0
    assert "does not name the store" in " ".join(aspects_pii("receipt", "show", 5).out.split())
    file.write_text(json.dumps({**document, "actor": "somebody"}, indent=2))
    assert aspects_pii("receipt", "verify", file).status == 1


def test_an_authority_verifies_with_the_public_key_alone(
    signed: Command, aspects_pii: Command, files: dict[str, Path], tmp_path: Path
) -> None:
    """No store, no settings: and nothing is made where there is none."""
    elsewhere = tmp_path / "authority"
    elsewhere.mkdir()
    shutil.copy(files["first"], elsewhere / "receipt.json")
    nowhere = {"CLICKHOUSE_URL": f"chdb://{elsewhere}/nowhere"}
    words = ("receipt", "verify", elsewhere / "receipt.json")
    ran = aspects_pii(*words, "--public-key", tmp_path / "key.pub", **nowhere)
    assert ran.status == 0
    assert "The ledger was not asked." in ran.out
    assert "only the ledger could say whether a later one supersedes it" in ran.out
    assert not (elsewhere / "nowhere").exists()

    other = aspects_pii("receipt", "key", tmp_path / "other.pem", "--json").json["public_key"]
    (tmp_path / "other.pub").write_text(other)
    ran = aspects_pii(*words, "--public-key", tmp_path / "other.pub", **nowhere)
    assert ran.status == 1
    assert "is not by the key that was given" in ran.out
    assert aspects_pii(*words, "--public-key", tmp_path / "nokey.pub", **nowhere).status == 2


def test_offline_checks_by_the_keys_of_the_settings(signed: Command, files: dict[str, Path], tmp_path: Path) -> None:
    ran = signed("receipt", "verify", files["first"], "--offline", CLICKHOUSE_URL=f"chdb://{tmp_path}/nowhere")
    assert ran.status == 0
    assert ran.out.count("is genuine") == 2
    assert not (tmp_path / "nowhere").exists()


def test_show_is_the_last_receipt_of_a_subject(signed: Command, files: dict[str, Path]) -> None:
    ran = signed("receipt", "show", 42)
    assert ran.status == 0
    assert ran.out.startswith("Receipt: personal data of user 42 was erased\n")
    assert f"File: {files['second'].name}" in " ".join(ran.out.split())
    assert f"In the place of {files['first'].name}" in " ".join(ran.out.split())
    assert "University" in ran.out
    assert signed("receipt", "show", files["first"]).out != ran.out


def test_show_writes_a_new_file_only(signed: Command, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert signed("receipt", "show", 42, "--format", "html", "-o", page).status == 0
    assert page.read_text().startswith("<!DOCTYPE html>\n<html lang=")
    ran = signed("receipt", "show", 7, "--format", "html", "-o", page)
    assert ran.status == 2
    assert f"{page} is there already" in ran.err
    assert "user 42" in page.read_text()


def test_a_receipt_whose_file_is_gone_comes_back_from_the_ledger(
    signed: Command, files: dict[str, Path], tmp_path: Path
) -> None:
    data = files["second"].read_bytes()
    files["second"].unlink()
    ran = signed("receipt", "show", 42, "--format", "json", "-o", tmp_path / "back.json")
    assert ran.status == 0
    assert "This is what the ledger has of the receipt." in ran.err
    assert (tmp_path / "back.json").read_bytes() == data
    assert signed("receipt", "verify", tmp_path / "back.json").status == 0
    assert "This is what the ledger has" in " ".join(signed("receipt", "show", 42).out.split())


def test_show_does_not_show_what_was_changed(signed: Command, files: dict[str, Path]) -> None:
    document = json.loads(files["other"].read_text())
    files["other"].write_bytes(serialize({**document, "institution": "Somebody Else's"}))
    ran = signed("receipt", "show", 7)
    assert f"{files['other']} was changed." in ran.err
    assert "Somebody Else's" not in ran.out


def test_show_of_whom_nobody_retired_names_the_store(signed: Command, settings: Settings) -> None:
    ran = signed("receipt", "show", 43)
    assert ran.status == 2
    assert f"43 was never retired on {settings.clickhouse_url}" in ran.err
    with open_store(settings) as store:
        store.ledger.request([43])
    assert "43 is requested, and not erased" in signed("receipt", "show", 43).err


def test_key_makes_a_key_once_and_shows_the_public_one_again(
    signed: Command, aspects_pii: Command, tmp_path: Path
) -> None:
    public = (tmp_path / "key.pub").read_text()
    assert signed("receipt", "key").out == public
    private = (tmp_path / "key.pem").read_bytes()
    ran = signed("receipt", "key", tmp_path / "key.pem")
    assert ran.status == 2
    assert "is there already" in ran.err
    assert (tmp_path / "key.pem").read_bytes() == private
    assert "PRIVATE" not in ran.out + ran.err
    assert aspects_pii("receipt", "key").status == 2
