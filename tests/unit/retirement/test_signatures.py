"""Signatures of receipts: what is genuine, what is not, and keys that are not to be used."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sink.errors import SettingsError, UsageError
from sink.private_files import write_new
from sink.retirement.signatures import (
    Keys,
    Signer,
    check_signatures,
    compute_fingerprint,
    format_public_key,
    load_signer,
    make_private_key,
    read_private_key,
    read_public_key,
)

KEY = SecretStr("key of the data protection officer")
DOCUMENT: dict[str, Any] = {"version": 2, "subject": "5", "targets": [{"rows_before": 1}], "actor": "José"}


def sign(document: dict[str, Any], private_key: Any = None) -> dict[str, Any]:
    """Signed as an installation with both keys does it."""
    return Signer(KEY, private_key or make_private_key()[0]).sign(document)


def check(document: dict[str, Any], *public_keys: Any, hmac_key: SecretStr | None = None) -> list[bool | None]:
    """What came of the signature by HMAC and of the one by Ed25519."""
    return [checked.is_genuine for checked in check_signatures(document, Keys(hmac_key, public_keys))]


def test_signatures_are_genuine_by_their_keys_and_no_others() -> None:
    key, other = make_private_key()[0], make_private_key()[0]
    signed = sign(DOCUMENT, key)
    assert check(signed, key.public_key(), hmac_key=KEY) == [True, True]
    assert check(signed, other.public_key(), hmac_key=SecretStr("another")) == [None, None]
    assert check(signed) == [None, None]
    assert check(signed, other.public_key(), key.public_key()) == [None, True]


@pytest.mark.parametrize(
    "change",
    [{"subject": "6"}, {"targets": [{"rows_before": 0}]}, {"more": 1}, {"version": 3}, {"signature": {}}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_receipt_is_not_genuine(change: dict[str, Any]) -> None:
    key, _ = make_private_key()
    assert check({**sign(DOCUMENT, key), **change}, key.public_key(), hmac_key=KEY) == [False, False]


@pytest.mark.parametrize("value", ["", "00", "no hex at all", "00" * 64])
def test_what_is_no_signature_is_not_genuine(value: str) -> None:
    key, _ = make_private_key()
    signed = sign(DOCUMENT, key)
    for signature in signed["signatures"]:
        signature["value"] = value
    assert check(signed, key.public_key(), hmac_key=KEY) == [False, False]


@pytest.mark.parametrize(
    "added",
    [
        "Erased by order of the court.",
        {"algorithm": "none", "value": "00"},
        {"algorithm": "HMAC-SHA256"},
        {"algorithm": "HMAC-SHA256", "value": "00", "note": "Erased by order of the court."},
        {"algorithm": "Ed25519", "key": ["00"], "value": "00"},
    ],
)
def test_what_is_added_beside_the_signatures_is_not_genuine(added: object) -> None:
    signed = sign(DOCUMENT)
    signed["signatures"].append(added)
    assert check(signed, hmac_key=KEY) == [True, None, False]


def test_a_signature_by_another_secret_is_not_checked() -> None:
    assert check(Signer(KEY).sign(DOCUMENT), hmac_key=SecretStr("the secret of next year")) == [None]


def test_a_signature_that_names_no_secret_is_checked() -> None:
    signed = Signer(KEY).sign(DOCUMENT)
    # As earlier versions signed.
    del signed["signatures"][0]["key"]
    assert check(signed, hmac_key=KEY) == [True]


def test_a_signature_under_the_name_of_another_key_is_not_genuine() -> None:
    key, other = make_private_key()[0], make_private_key()[0]
    signed = sign(DOCUMENT, other)
    signed["signatures"][1]["key"] = compute_fingerprint(key.public_key())
    assert check(signed, key.public_key()) == [None, False]


def test_without_a_key_there_is_no_signature() -> None:
    assert Signer().sign(DOCUMENT) == DOCUMENT


def test_signing_again_gives_the_same() -> None:
    key, _ = make_private_key()
    signed = sign(DOCUMENT, key)
    assert len(signed["signatures"]) == 2
    assert sign(signed, key) == signed


def test_receipts_of_version_1_still_verify() -> None:
    # As 0.1.0 signed it before version 2.
    signed = {
        "version": 1,
        "subject": "5",
        "signature": {
            "algorithm": "HMAC-SHA256",
            "value": "363c10374358e5baffbdcf176af15cb90ce291ce84096b64b0d562c6bfd655f3",
        },
    }
    assert check(signed, hmac_key=SecretStr("key")) == [True]
    assert check({**signed, "subject": "6"}, hmac_key=SecretStr("key")) == [False]


def test_an_authority_can_check_with_openssl_alone(tmp_path: Path) -> None:
    """What the documentation says is signed is what is signed."""
    key, _ = make_private_key()
    signed = sign(DOCUMENT, key)
    (signature,) = [one for one in signed["signatures"] if one["algorithm"] == "Ed25519"]
    unsigned = {name: value for name, value in signed.items() if name != "signatures"}
    message = json.dumps(unsigned, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    (tmp_path / "message").write_text(message, encoding="utf-8")
    (tmp_path / "signature").write_bytes(bytes.fromhex(signature["value"]))
    (tmp_path / "key.pub").write_text(format_public_key(key.public_key()))
    words = "pkeyutl -verify -pubin -inkey key.pub -rawin -in message -sigfile signature"
    ran = subprocess.run(["openssl", *words.split()], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, "Signature Verified Successfully")
    der = subprocess.run(  # noqa: S602 - the pipe that docs/receipts.md shows
        "openssl pkey -pubin -in key.pub -outform DER | sha256sum",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert der.stdout.split()[0] == signature["key"]


def test_a_private_key_is_read_again(tmp_path: Path) -> None:
    key, pem = make_private_key()
    write_new(tmp_path / "key.pem", pem)
    signer = load_signer(None, tmp_path / "key.pem")
    assert check(signer.sign(DOCUMENT), key.public_key()) == [True]


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o644, 0o660, 0o601])
def test_a_private_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    write_new(path, make_private_key()[1])
    path.chmod(mode)
    with pytest.raises(SettingsError, match=f"ASPECTS_RECEIPT_SIGNING_KEY: others may use .*{mode:03o}.*chmod 600"):
        read_private_key(path)


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_private_key_for_owner_and_group_is_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    write_new(path, make_private_key()[1])
    path.chmod(mode)
    assert read_private_key(path)


@pytest.mark.parametrize(
    "content", ["", "hunter2", "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key.pem"
    write_new(path, content.encode())
    with pytest.raises(SettingsError, match=r"ASPECTS_RECEIPT_SIGNING_KEY: .*no unencrypted Ed25519 key") as caught:
        read_private_key(path)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(UsageError, match="no public Ed25519 key"):
        read_public_key(path)


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"key\.pem cannot be read: No such file"):
        read_private_key(tmp_path / "key.pem")
    with pytest.raises(UsageError, match=r"key\.pem cannot be read: No such file"):
        read_public_key(tmp_path / "key.pem")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sink.retirement.signatures.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"aspects-pii-sink\[server\]"):
        load_signer(None, tmp_path / "key.pem")
    assert load_signer(KEY, None).hmac_key == KEY
