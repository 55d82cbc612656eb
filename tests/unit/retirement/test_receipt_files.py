"""Receipts as files: written once, superseded by name, and read with care."""

from __future__ import annotations

import json
import os
import stat
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from sink.errors import UsageError
from sink.retirement.receipt import Receipt, Superseded, TargetLine, add_earlier, compute_digest, serialize
from sink.retirement.receipt_files import (
    ReceiptFile,
    find_recorded,
    issue_all,
    list_receipts,
    parse_receipt,
    read_receipt,
)
from sink.retirement.signatures import Signer

REQUEST = "7e5595f7-cd3e-5b1f-82bf-91c4a3113481"
RECEIPT = Receipt(
    subject="5",
    request=REQUEST,
    actor=None,
    requested_at="2026-01-01T00:00:00.000+00:00",
    hidden_at="2026-01-01T00:00:01.000+00:00",
    erased_at="2026-01-01T00:00:02.000+00:00",
    nothing_was_stored=False,
    targets=[TargetLine("event_sink.user_profile", "delete", rows_before=1, pii={"name": "name"})],
    reloaded=[],
    verified=["event_sink.user_profile"],
    verified_in_files=True,
    store="chdb:///data",
)
LATER = replace(RECEIPT, hidden_at="2026-01-01T00:18:00.000+00:00", erased_at="2026-01-01T00:18:01.000+00:00")
SIGNER = Signer(SecretStr("key"))


def write(
    folder: Path,
    receipt: Receipt,
    recorded: Sequence[dict[str, Any]] = (),
    *,
    is_unchanged: bool = True,
    signer: Signer = SIGNER,
) -> ReceiptFile:
    """Issue a receipt."""
    return issue_all([(receipt, recorded, is_unchanged)], folder, signer)[0]


def record(file: ReceiptFile) -> dict[str, Any]:
    """The detail of its entry in the ledger, as it comes back from there."""
    detail = {"receipt": file.document, "file": file.path.name, "digest": file.digest}
    kept: dict[str, Any] = json.loads(json.dumps(detail, sort_keys=True))
    return kept


def test_a_receipt_that_was_pasted_is_the_same_whatever_became_of_its_line_breaks(tmp_path: Path) -> None:
    file = write(tmp_path, RECEIPT)
    text = file.path.read_text()
    for pasted in (text, text.replace("\n", "\r\n").strip(), json.dumps(json.loads(text))):
        found = parse_receipt(pasted)
        assert (found.document, found.digest) == (file.document, file.digest)
    assert parse_receipt(text.replace('"5"', '"6"')).digest != file.digest
    for nonsense in ("", "zaphod", "{}", "[]", '{"version": 2}', text.replace('"5"', '"\\ud800"')):
        with pytest.raises(UsageError, match="This is no receipt") as raised:
            parse_receipt(nonsense)
        assert "zaphod" not in str(raised.value)


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_receipt_is_for_its_owner_and_named_by_its_request(tmp_path: Path) -> None:
    file = write(tmp_path / "receipts", RECEIPT)
    assert list_names(tmp_path / "receipts") == [f"{REQUEST}.json"]
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert file.document["supersedes"] is None


def test_the_ledger_can_give_a_lost_file_back_byte_by_byte(tmp_path: Path) -> None:
    file = write(tmp_path, RECEIPT)
    data = file.path.read_bytes()
    assert serialize(record(file)["receipt"]) == data
    assert compute_digest(data) == file.digest


def test_an_issued_receipt_is_never_written_over(tmp_path: Path) -> None:
    first = write(tmp_path, RECEIPT)
    data = first.path.read_bytes()
    second = write(tmp_path, LATER, [record(first)])
    third = write(tmp_path, LATER, [record(first), record(second)])
    assert first.path.read_bytes() == data
    assert list_names(tmp_path) == [f"{REQUEST}-2.json", f"{REQUEST}-3.json", f"{REQUEST}.json"]
    assert second.document["supersedes"] == {"file": f"{REQUEST}.json", "sha256": first.digest}
    assert third.document["supersedes"] == {"file": f"{REQUEST}-2.json", "sha256": second.digest}


def test_a_receipt_whose_file_is_gone_is_superseded_all_the_same(tmp_path: Path) -> None:
    first = write(tmp_path, RECEIPT)
    first.path.unlink()
    second = write(tmp_path, LATER, [record(first)])
    assert list_names(tmp_path) == [f"{REQUEST}-2.json"]
    assert second.document["supersedes"] == {"file": f"{REQUEST}.json", "sha256": first.digest}


def test_what_an_interrupted_pass_has_written_is_its_receipt(tmp_path: Path) -> None:
    """Killed between the receipt and the ledger: the same facts later are no second receipt."""
    left = write(tmp_path, RECEIPT)
    assert write(tmp_path, LATER) == left
    assert list_names(tmp_path) == [f"{REQUEST}.json"]


def test_what_an_interrupted_repetition_has_written_is_its_receipt(tmp_path: Path) -> None:
    first = write(tmp_path, RECEIPT)
    left = write(tmp_path, LATER, [record(first)])
    much_later = replace(LATER, hidden_at="2026-01-02T00:00:00.000+00:00", erased_at="2026-01-02T00:00:01.000+00:00")
    assert write(tmp_path, much_later, [record(first)]) == left
    assert list_names(tmp_path) == [f"{REQUEST}-2.json", f"{REQUEST}.json"]


def test_what_an_interrupted_pass_has_written_may_say_more_of_what_is_not_covered(tmp_path: Path) -> None:
    passing = "files of dropped tables"
    left = write(tmp_path, replace(RECEIPT, not_covered=[*RECEIPT.not_covered, passing]))
    assert write(tmp_path, LATER) == left
    second = write(tmp_path, replace(LATER, not_covered=[*RECEIPT.not_covered, passing, "a log"]))
    assert second.path.name == f"{REQUEST}-2.json"


@pytest.mark.parametrize("why", ["other facts", "rows since", "another key", "changed", "times that cannot be"])
def test_what_an_interrupted_pass_has_written_is_superseded_where_it_does_not_stand(tmp_path: Path, why: str) -> None:
    left = write(tmp_path, replace(RECEIPT, hidden_at="2025-01-01T00:00:00.000+00:00") if "times" in why else RECEIPT)
    if why == "changed":
        document = {**left.document, "hidden_at": "2026-01-01T00:00:00.500+00:00"}
        left.path.write_bytes(serialize(document))
    receipt = replace(LATER, verified=["event_sink.external_id"]) if why == "other facts" else LATER
    signer = Signer(SecretStr("another")) if why == "another key" else SIGNER
    second = write(tmp_path, receipt, is_unchanged=why != "rows since", signer=signer)
    assert second.path.name == f"{REQUEST}-2.json"
    assert second.document["supersedes"] == {
        "file": f"{REQUEST}.json",
        "sha256": compute_digest(left.path.read_bytes()),
    }


@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_what_is_in_the_way_and_no_receipt_of_ours_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    """Of another store that writes to the same folder, or of nobody."""
    path = tmp_path / f"{REQUEST}.json"
    if content is None:
        content = write(tmp_path, replace(RECEIPT, store="chdb:///elsewhere")).path.read_bytes()
    path.write_bytes(content)
    file = write(tmp_path, RECEIPT)
    assert (file.path.name, file.document["supersedes"]) == (f"{REQUEST}-2.json", None)
    assert path.read_bytes() == content


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / f"{REQUEST}.json").symlink_to(tmp_path / "elsewhere")
    assert write(tmp_path, RECEIPT).path.name == f"{REQUEST}-2.json"
    assert not (tmp_path / "elsewhere").exists()


def test_receipts_of_version_1_are_superseded(tmp_path: Path) -> None:
    """Their entries in the ledger have neither file nor digest."""
    document = {name: value for name, value in RECEIPT.to_dict().items() if name not in ("store", "supersedes")}
    document["version"] = 1
    path = tmp_path / f"{REQUEST}.json"
    path.write_text(json.dumps(document, indent=2))
    second = write(tmp_path, LATER, [{"receipt": document}])
    assert second.document["supersedes"] == {"file": path.name, "sha256": compute_digest(path.read_bytes())}
    path.unlink()
    third = write(tmp_path, LATER, [{"receipt": document}, record(second)])
    assert third.path.name == f"{REQUEST}-3.json"


def test_a_digest_that_nobody_knows_is_not_made_up(tmp_path: Path) -> None:
    second = write(tmp_path, LATER, [{"receipt": {**RECEIPT.to_dict(), "version": 1}}])
    assert second.receipt.supersedes == Superseded(f"{REQUEST}.json", None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not JSON"),
        ("[]", "version 1 or 2"),
        ('{"version": 3}', "version 1 or 2"),
        ('{"version": 2}', "`subject` is missing"),
        ('{"version": 2, "version": 2}', "twice"),
        ('{"version": ' + "9" * 5000 + "}", "too many digits"),
    ],
)
def test_what_is_no_receipt_is_named_with_the_reason(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / f"{REQUEST}.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=f"{path} is no receipt.*{reason}"):
        read_receipt(path)
    assert [reason in problem for problem in list_receipts(tmp_path)[1]] == [True]


def test_receipts_are_listed_by_time_and_nothing_else_is(tmp_path: Path) -> None:
    first = write(tmp_path, RECEIPT)
    second = write(tmp_path, LATER, [record(first)])
    for name in ("notes.json", f".{REQUEST}.json.1.partial", f"{REQUEST}-0.json", f"{REQUEST}.json.bak"):
        (tmp_path / name).write_text("{}")
    assert list_receipts(tmp_path) == ([first, second], [])


def test_a_folder_that_is_not_there_holds_no_receipts(tmp_path: Path) -> None:
    assert list_receipts(tmp_path / "receipts") == ([], [])


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "receipts").write_text("")
    with pytest.raises(UsageError, match="ASPECTS_RECEIPTS_DIR"):
        list_receipts(tmp_path / "receipts")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"{REQUEST}.json")
    receipts, problems = list_receipts(tmp_path)
    assert receipts == []
    assert problems == [f"{tmp_path / REQUEST}.json is not a file."]


def test_half_a_character_is_no_receipt(tmp_path: Path) -> None:
    path = tmp_path / f"{REQUEST}.json"
    path.write_text(json.dumps({**RECEIPT.to_dict(), "subject": "\ud800"}))
    with pytest.raises(UsageError, match="is no receipt"):
        read_receipt(path)


@pytest.mark.parametrize("receipt", [None, {}, {"version": 2}, {**RECEIPT.to_dict(), "targets": [{}]}, "no receipt"])
def test_an_entry_whose_receipt_cannot_be_read_has_none(tmp_path: Path, receipt: object) -> None:
    detail = {"receipt": receipt, "file": "../elsewhere.json"}
    assert find_recorded(detail, tmp_path, REQUEST) is None
    assert write(tmp_path, LATER, [detail]).path.name == f"{REQUEST}-2.json"


def test_the_name_of_a_receipt_in_the_ledger_stays_in_its_folder(tmp_path: Path) -> None:
    found = find_recorded({"receipt": RECEIPT.to_dict(), "file": "../elsewhere.json"}, tmp_path, REQUEST)
    assert found is not None
    assert found.path == tmp_path / f"{REQUEST}.json"


def test_what_an_earlier_receipt_has_found_stays_said() -> None:
    line = TargetLine("a.b", "delete", rows_before=3)
    gone = TargetLine("a.gone", "redact", ["name"], rows_before=2)
    now = [replace(line, rows_before=0), TargetLine("a.new", "delete", rows_before=1)]
    assert [(one.target, one.rows_before) for one in add_earlier(now, [line, gone])] == [
        ("a.b", 3),
        ("a.new", 1),
        ("a.gone", 2),
    ]


LINES = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()))


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(LINES) | LINES, min_size=1))
def test_a_receipt_is_written_as_json_with_an_indent_of_two_and_sorted_keys(document: dict[str, Any]) -> None:
    expected = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert serialize(document) == expected.encode()


def test_receipts_issued_together_are_each_whole_and_in_their_order(tmp_path: Path) -> None:
    many = [replace(RECEIPT, subject=str(n), request=str(uuid.uuid4())) for n in range(50)]
    files = issue_all([(receipt, [], True) for receipt in many], tmp_path / "receipts", SIGNER)
    assert [file.receipt.subject for file in files] == [str(n) for n in range(50)]
    assert len({file.path for file in files}) == 50
    assert all(read_receipt(file.path) == file for file in files)
