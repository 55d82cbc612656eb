"""Exported ledgers: whole, ours and right, or refused by line, with nothing written."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sink.errors import UsageError
from sink.ledger.chain import Trust
from sink.ledger.checking import check_ledger, void_entries
from sink.ledger.entries import Action
from sink.ledger.files import export_ledger, import_ledger
from sink.ledger.installation_id import Installation, read_installation
from sink.retirement.replay import replay
from sink.retirement.retire import retire, sweep
from sink.retirement.status import read_status
from sink.store import Store
from tests.support.paths import ROOT

UNSIGNED = Trust(unsigned=True)
FIELDS = ("subject", "at", "action", "request", "actor", "detail")


@pytest.fixture
def file(store: Store, tmp_path: Path) -> Path:
    """An export with a few retirements; the ledger is empty again."""
    retire(store, [3, 4], actor="17")
    store.ledger.request([5])
    store.ledger.record_event(Action.PURGED, {"rows": {"a.b": 3}}, "17")
    path = tmp_path / "ledger.jsonl"
    export_ledger(store.client, find_installation(store), path)
    empty(store)
    return path


def find_installation(store: Store) -> Installation:
    return read_installation(store.client, store.policy.receipt_key, store.policy.pseudonym_secret)


def empty(store: Store) -> None:
    store.client.execute("TRUNCATE TABLE $pii_ledger.entries")


def take(store: Store, path: Path, trust: Trust | None = None) -> int:
    return import_ledger(store.client, store.pii_map.subject, find_installation(store), path, trust=trust)


def refused(store: Store, path: Path, trust: Trust | None = None) -> str:
    """Why a file is refused; nothing is written."""
    before = store.client.rows("SELECT * FROM $pii_ledger.entries ORDER BY ALL")
    with pytest.raises(UsageError) as caught:
        take(store, path, trust)
    assert store.client.rows("SELECT * FROM $pii_ledger.entries ORDER BY ALL") == before
    assert str(path) in str(caught.value)
    return str(caught.value)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def entry(action: str = "requested", **fields: Any) -> dict[str, Any]:
    return {
        "subject": "" if action in ("purged", "voided") else "42",
        "at": "2026-01-01 00:00:00.000000",
        "action": action,
        "request": str(uuid.UUID(int=42)),
        "actor": None,
        "detail": {},
    } | fields


def write_old(path: Path, *entries: dict[str, Any]) -> None:
    """As older versions have written it: no header, and the detail as a text."""
    write(path, [{**one, "detail": json.dumps(one["detail"])} for one in entries])


def test_an_export_says_whose_it_is_and_brings_everything_back(store: Store, file: Path) -> None:
    header, *entries, end = read(file)
    assert header["format"] == "aspects-pii ledger"
    assert header["version"] == 2
    assert header["installation"] == find_installation(store).id
    assert header["database"] == "pii_ledger"
    assert end["entries"] == len(entries) == 8
    assert end["roles"] == 0
    assert end["key"] == "ASPECTS_PSEUDONYM_SECRET"
    assert all(set(line) == {*FIELDS, "hash"} for line in entries)
    assert all(isinstance(line["detail"], dict) for line in entries)
    assert take(store, file) == 8
    assert store.ledger.tombstones() == ["3", "4", "5"]
    assert store.ledger.count_states() == {"erased": 2, "requested": 1}
    assert take(store, file) == 0
    assert check_ledger(store.client, store.pii_map.subject) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: lines.pop(3), 4),
        (lambda lines: lines.insert(3, lines[3]), 5),
        (lambda lines: lines.insert(4, lines.pop(3)), 4),
        (lambda lines: lines[3].update(subject="7"), 4),
        (lambda lines: lines[3]["detail"].update(more=1), 4),
        (lambda lines: lines[3].update(hash="0" * 64), 4),
        (lambda lines: lines[3].pop("hash"), 4),
        (lambda lines: lines.pop(), 10),
        (lambda lines: lines.pop(-2), 9),
        (lambda lines: lines[-1].update(entries=7), 10),
        (lambda lines: lines[-1].update(signature="0" * 64), 10),
        (lambda lines: lines[-1].update(key="ASPECTS_RECEIPT_KEY"), 10),
        (lambda lines: lines[-1].update(key=["x"]), 10),
        (lambda lines: lines.append(lines[-1]), 11),
        (lambda lines: lines.append(lines[3]), 11),
        (lambda lines: lines.pop(0), 1),
        (lambda lines: lines[0].update(installation=str(uuid.uuid4())), 1),
        (lambda lines: lines[0].update(version=3), 1),
        (lambda lines: lines[0].update(version=True), 1),
        (lambda lines: lines[0].update(format="another"), 1),
        (lambda lines: lines[0].update(more=1), 1),
    ],
)
def test_a_file_that_was_changed_is_refused_by_line(
    store: Store, file: Path, change: Callable[[list[dict[str, Any]]], Any], line: int
) -> None:
    lines = read(file)
    change(lines)
    write(file, lines)
    assert f"line {line}: " in refused(store, file)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", 1),
        (b"\n", 1),
        (b"no json\n", 1),
        (b"[]\n", 1),
        (b"\xff\n", 1),
        (b'{"format": "aspects-pii ledger", "format": 1}\n', 1),
        (b"[" * 100_000, 1),
        (b'{"a":' * 400 + b"1" + b"}" * 400, 1),
        (b'{"a": NaN}', 1),
        (b'{"a": ' + b"9" * 5000 + b"}", 1),
    ],
)
def test_a_file_that_is_no_ledger_is_refused_by_line(store: Store, tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / "wrong.jsonl"
    path.write_bytes(content)
    for trust in (None, UNSIGNED):
        assert f"line {line}: " in refused(store, path, trust)


def test_a_number_without_end_is_refused_in_our_words(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "wrong.jsonl"
    path.write_bytes(b'{"a": ' + b"9" * 5000 + b"}")
    assert refused(store, path).endswith("line 1: a number has too many digits.")


def test_a_file_that_is_cut_off_within_a_line_is_refused(store: Store, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])
    assert "line 10: this is not JSON" in refused(store, file)


def test_a_file_of_another_installation_needs_its_id_to_be_named(store: Store, file: Path) -> None:
    theirs = find_installation(store).id
    store.client.execute("TRUNCATE TABLE $pii_ledger.installation")
    ours = find_installation(store).id
    assert ours != theirs
    assert f"the file is of another `installation`; this one is {ours}" in refused(store, file)
    assert "not the one that --installation names" in refused(store, file, Trust(ours))
    assert take(store, file, Trust(theirs)) == 8


def test_an_export_of_many_pages_has_every_entry_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sink.ledger.written._PAGE", 3)
    # Requests of one call have one time, and these are more than a page has.
    for users in (range(1, 8), range(8, 9), range(9, 13)):
        store.ledger.request(list(users))
    store.client.execute("INSERT INTO $pii_ledger.entries SELECT * FROM $pii_ledger.entries")
    path = tmp_path / "ledger.jsonl"
    assert export_ledger(store.client, find_installation(store), path).entries == 12
    assert sorted(int(line["subject"]) for line in read(path)[1:-1]) == list(range(1, 13))
    assert [line["at"] for line in read(path)[1:-1]] == sorted(line["at"] for line in read(path)[1:-1])


def test_an_installation_keeps_its_id(store: Store) -> None:
    first = find_installation(store).id
    store.client.execute("INSERT INTO $pii_ledger.installation (id) SELECT generateUUIDv4()")
    assert find_installation(store).id == first


def with_keys(store: Store, receipt_key: str | None, pseudonym_secret: str | None) -> Store:
    policy = replace(
        store.policy,
        receipt_key=None if receipt_key is None else SecretStr(receipt_key),
        pseudonym_secret=None if pseudonym_secret is None else SecretStr(pseudonym_secret),
    )
    return replace(store, policy=policy)


@pytest.mark.parametrize(
    ("written", "checked", "key", "outcome"),
    [
        (("a", "b"), ("a", None), "ASPECTS_RECEIPT_KEY", "taken"),
        (("a", "b"), ("other", "b"), "ASPECTS_RECEIPT_KEY", "does not fit"),
        (("a", "b"), (None, "b"), "ASPECTS_RECEIPT_KEY", "cannot be checked"),
        ((None, "b"), ("a", "b"), "ASPECTS_PSEUDONYM_SECRET", "taken"),
        ((None, None), (None, None), "the ledger's database", "taken"),
        # More people read that one than the secret that is set by now.
        ((None, None), ("a", None), "the ledger's database", "cannot be checked"),
    ],
)
def test_a_signature_is_checked_by_the_secret_that_made_it(
    store: Store,
    tmp_path: Path,
    written: tuple[str | None, str | None],
    checked: tuple[str | None, str | None],
    key: str,
    outcome: str,
) -> None:
    path = tmp_path / "ledger.jsonl"
    store.ledger.request([3])
    export_ledger(store.client, find_installation(with_keys(store, *written)), path)
    assert read(path)[-1]["key"] == key
    assert not {"a", "b"} & set(path.read_text().split('"')) - {"a.b"}
    empty(store)
    reader = with_keys(store, *checked)
    if outcome != "taken":
        assert outcome in refused(reader, path)
        assert take(reader, path, UNSIGNED) == 1
    else:
        assert take(reader, path) == 1


def test_what_the_operator_vouches_for_is_the_signature_and_nothing_else(store: Store, file: Path) -> None:
    lines = read(file)
    lines[3]["subject"] = "7"
    write(file, lines)
    assert "line 4: it was changed" in refused(store, file, UNSIGNED)


def test_a_file_of_an_older_version_is_taken_where_the_operator_says_so(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    write_old(path, entry(), entry("purged", detail={"rows": {"a.b": 1}}))
    assert "line 1: the header of an export is missing" in refused(store, path)
    assert take(store, path, UNSIGNED) == 2
    assert store.ledger.tombstones() == ["42"]


TOO_LATE = f"{datetime.now(UTC) + timedelta(days=1, hours=1):%Y-%m-%d %H:%M:%S.%f}"
WRONG = {
    "an address for a subject": (entry(subject="jane@example.com"), "`subject` is no opaque id"),
    "a path for a subject": (entry(subject="../../x"), "`subject` is no opaque id"),
    "a name for a subject": (entry(subject="Jane"), "`subject` is no id by `subject.type: integer`"),
    "a number that nobody writes so": (entry(subject="042"), "`subject` is no id by"),
    "no subject": (entry(subject=""), "`subject` is no opaque id"),
    "a number for a subject": (entry(subject=42), "`subject` is no opaque id"),
    "half a character": (entry(subject="\ud800"), "`subject` is no opaque id"),
    "a subject of what is about nobody": (entry("purged", subject="42"), "`subject` is not empty"),
    "an action that nobody knows": (entry("forgiven"), "`action` is none that this version knows"),
    "an action that is a list": ({**entry(), "action": ["requested"]}, "`action` is none"),
    "the year 9999": (entry(at="9999-12-31 23:59:59.999999"), "`at` is more than a day in the future"),
    "a time in two days": (entry(at=TOO_LATE), "`at` is more than a day in the future"),
    "the year 1970": (entry(at="1970-01-01 00:00:00.000000"), "`at` is before 2012"),
    "a time that is none": (entry(at="2026-02-30 00:00:00.000000"), "`at` is no time"),
    "a time of another kind": (entry(at="2026-01-01T00:00:00Z"), "`at` is no time"),
    "a number for a time": (entry(at=5), "`at` is no time"),
    "a request that is no UUID": (entry(request="42"), "`request` is no UUID"),
    "a request in capitals": (entry(request=str(uuid.UUID(int=0xABC)).upper()), "`request` is no UUID"),
    "an actor with an address": (entry(actor="jane@example.com"), "`actor` is neither"),
    "an actor that may be a name": (entry(actor="Jane"), "`actor` is neither"),
    "a request of somebody else": (entry(request=str(uuid.UUID(int=1))), "`request` is another subject's"),
    "an actor that is a number": (entry(actor=7), "`actor` is neither"),
    "a detail that is a list": (entry(detail=[]), "`detail` is no JSON object"),
    "a detail that is a text": (entry(detail="x"), "`detail` is no JSON object"),
    "more than the action says": (entry(detail={"name": "Jane Doe"}), "`detail` says what entries `requested`"),
    "counts that are none": (entry("found", detail={"rows": {"a.b": "many"}}), "`detail.rows` is not what"),
    "counts below zero": (entry("found", detail={"rows": {"a.b": -1}}), "`detail.rows` is not what"),
    "a receipt that is a text": (entry("erased", detail={"receipt": "x"}), "`detail.receipt` is not what"),
    "an erasure that ends never": (entry("erased", detail={"scrubbed_at": 10**18}), "`detail.scrubbed_at` is not"),
    "a void of nothing": (entry("voided", detail={"reason": "x"}), "`detail.entry` is missing"),
    "an erasure that nobody has asked for": (entry("erased"), "nothing was requested for this subject"),
    "a withdrawal that nobody has asked for": (entry("withdrawn"), "nothing was requested for this subject"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_entry_that_cannot_be_right_is_refused_by_line_and_field(store: Store, tmp_path: Path, case: str) -> None:
    """The operator vouches for the file, and it is looked at all the same."""
    wrong, problem = WRONG[case]
    path = tmp_path / "old.jsonl"
    write_old(path, entry(request=str(uuid.UUID(int=1)), subject="1"), wrong)
    said = refused(store, path, UNSIGNED)
    assert f"line 2: {problem}" in said
    assert "jane" not in said.lower().replace(str(path).lower(), "")


@pytest.mark.parametrize("at", ["2026-01-01 00:00:00.500000", "2026-01-05 00:00:00.000000"])
@pytest.mark.parametrize("begun", ["found", "hidden", "erased"])
@pytest.mark.parametrize("is_here", [True, False], ids=["begun in the ledger", "begun in the file"])
def test_a_withdrawal_in_a_file_takes_back_nothing_that_has_begun(
    store: Store, tmp_path: Path, at: str, begun: str, is_here: bool
) -> None:
    path = tmp_path / "old.jsonl"
    life = [entry(), entry(begun, at="2026-01-02 00:00:00.000000")]
    if is_here:
        write_old(path, *life)
        assert take(store, path, UNSIGNED) == 2
        life = []
    write_old(path, *life, entry("withdrawn", at=at))
    assert f"line {len(life) + 1}: a retirement is `withdrawn` whose erasure has begun" in refused(
        store, path, UNSIGNED
    )
    if is_here:
        assert store.ledger.tombstones() == ["42"]


def test_a_void_in_a_file_takes_out_nothing_that_is_right(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    store.ledger.request([42])
    (requested,) = store.ledger.show()
    out = {"entry": requested.entry, "reason": "forged"}
    write_old(path, entry("voided", request=str(requested.request), detail=out))
    assert "line 1: it takes out an entry that is right" in refused(store, path, UNSIGNED)
    assert store.ledger.tombstones() == ["42"]
    # Nor where both come with the same file.
    at = f"{requested.at:%Y-%m-%d %H:%M:%S.%f}"
    empty(store)
    write_old(
        path,
        entry(at=at, request=str(requested.request)),
        entry("voided", request=str(requested.request), detail=out),
    )
    assert "line 2: it takes out an entry that is right" in refused(store, path, UNSIGNED)


def test_an_import_writes_what_is_twice_in_a_file_once(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    write_old(path, entry(), entry())
    assert take(store, path, UNSIGNED) == 1


def test_an_export_hands_on_what_is_right_and_says_how_much_is_not(store: Store, tmp_path: Path) -> None:
    """A tombstone is not lost because of an actor that is none; what was taken out stays out."""
    path = tmp_path / "ledger.jsonl"
    for at, subject, action, actor, detail in (
        ("2026-01-01", "1", "requested", "jane@example.com", "{}"),
        ("2026-01-02", "1", "failed", None, "{"),
        ("2026-01-03", "jane@example.com", "requested", None, "{}"),
        ("2026-01-04", "2", "withdrawn", None, "{}"),
        ("2026-01-05", "3", "requested", None, ""),
        ("2026-01-06", "4", "forgiven", None, "{}"),
    ):
        add(
            store,
            subject,
            action,
            at,
            actor=actor,
            detail=detail,
            request=uuid.UUID(int=int(at[-1]) if subject != "1" else 1),
        )
    flagged = {found.at[:10]: found for found in check_ledger(store.client, store.pii_map.subject)}
    assert set(flagged) == {"2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04", "2026-01-06"}
    void_entries(store.client, store.pii_map.subject, [flagged["2026-01-04"].entry], "forged")
    exported = export_ledger(store.client, find_installation(store), path)
    assert (exported.entries, exported.left_out, exported.mended) == (4, 2, 2)
    assert "jane" not in path.read_text()
    empty(store)
    assert take(store, path) == 4
    assert store.ledger.tombstones() == ["1", "3"]
    assert [r.state for r in store.ledger.find([1])] == ["failed"]


def add(store: Store, subject: str, action: str, at: str, **fields: Any) -> None:
    values = {"actor": None, "detail": "{}", "request": uuid.UUID(int=42)} | fields
    store.client.insert(
        store.client.table("pii_ledger.entries"),
        FIELDS,
        [
            (
                subject,
                datetime.fromisoformat(at).replace(tzinfo=UTC),
                action,
                values["request"],
                values["actor"],
                values["detail"],
            )
        ],
    )


def test_commands_say_why_and_end_with_2(aspects_pii: Callable[..., Any], tmp_path: Path) -> None:
    aspects_pii("init")
    file = tmp_path / "ledger.jsonl"
    exported = aspects_pii("ledger", "export", file, "--json")
    assert exported.status == 0
    assert exported.json["entries"] == 0
    assert exported.json["installation"] == read(file)[0]["installation"]
    assert aspects_pii("replay", "--from", file).status == 0
    lines = read(file)
    lines[0]["installation"] = str(uuid.uuid4())
    write(file, lines)
    for arguments in ((), ("--dry-run",)):
        ran = aspects_pii("replay", "--from", file, *arguments)
        assert ran.status == 2
        assert "line 1: the header was changed" in ran.err
    assert aspects_pii("replay", "--unsigned").status == 2


def test_a_replay_says_how_old_the_file_is(aspects_pii: Callable[..., Any], tmp_path: Path) -> None:
    """An old export is as genuine as the last one, and has nobody in it who was retired since."""
    aspects_pii("init")
    file = tmp_path / "ledger.jsonl"
    assert aspects_pii("ledger", "export", file).status == 0
    at = read(file)[0]["exported_at"][:19]
    ran = aspects_pii("replay", "--from", file)
    assert f"The file was written at {at} UTC: who was retired since then is not in it." in ran.out
    assert aspects_pii("replay", "--from", file, "--json").json["exported_at"] == at


def test_an_export_is_for_its_owner_and_replaces_only_files(aspects_pii: Callable[..., Any], tmp_path: Path) -> None:
    aspects_pii("init")
    before = os.umask(0o000)
    try:
        assert aspects_pii("ledger", "export", tmp_path / "ledger.jsonl").status == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ledger.jsonl").stat().st_mode) == 0o600
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "ledger.jsonl")
    written = (tmp_path / "ledger.jsonl").read_bytes()
    refused = aspects_pii("ledger", "export", link)
    assert refused.status == 2
    assert f"{link} cannot be written: it is a link, and only a file is replaced" in refused.err
    assert "For standard output the file is `-`" in refused.err
    assert (link.is_symlink(), (tmp_path / "ledger.jsonl").read_bytes()) == (True, written)


def test_an_export_to_standard_output_is_one_that_can_be_replayed(
    aspects_pii: Callable[..., Any], tmp_path: Path
) -> None:
    aspects_pii("init")
    exported = aspects_pii("ledger", "export", "-")
    assert exported.status == 0
    (tmp_path / "ledger.jsonl").write_text(exported.out)
    lines = read(tmp_path / "ledger.jsonl")
    assert f"0 entries. The installation is {lines[0]['installation']}." in exported.err
    assert aspects_pii("replay", "--from", tmp_path / "ledger.jsonl").status == 0
    assert not Path("-").exists()
    assert aspects_pii("ledger", "export", "-", "--json").status == 2


def test_an_export_to_what_takes_nothing_fails_with_the_reason(migrated: Any, tmp_path: Path) -> None:
    migrated(tmp_path / "other")
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", "from sink.doors.cli.main import main; main()", "ledger", "export", "-"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "ASPECTS_CLICKHOUSE_URL": f"chdb://{tmp_path}/other"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ran.returncode == 2
    assert ran.stderr == "Error: Standard output cannot be written: No space left on device.\n"


def test_a_line_that_un_retires_somebody_is_refused_and_they_stay_away(store: Store, file: Path) -> None:
    """What the whole of this is about."""
    assert take(store, file) == 8
    (erased,) = store.ledger.find([3])
    forged = entry(
        "withdrawn", subject="3", request=str(erased.request), at=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"
    )
    write_old(file, forged)
    with pytest.raises(UsageError, match="line 1"):
        replay(store, file=file)
    with pytest.raises(UsageError, match="line 1: a retirement is `withdrawn` whose erasure has begun"):
        replay(store, file=file, trust=UNSIGNED)
    assert "3" in store.ledger.tombstones()
    assert [o.state for o in sweep(store)] == ["erased"]
    assert read_status(store, enabled=True).open == 0
