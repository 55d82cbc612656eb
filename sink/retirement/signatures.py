"""Signatures of receipts: HMAC-SHA256 for the installation itself, Ed25519 for whoever has the public key.

Both are over the receipt without its signatures, as JSON with sorted keys and without blanks, in UTF-8. Both give the
same bytes whenever the same is signed.

.. no_pii: keys, and receipts.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from sink.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HMAC = "HMAC-SHA256"
ED25519 = "Ed25519"
# Nobody but the owner may write the key, and nobody but owner and group may read it: containers get secrets by group.
_TOO_OPEN = stat.S_IWGRP | stat.S_IRWXO
_SETTING = "ASPECTS_RECEIPT_SIGNING_KEY"
_MEMBERS = {"algorithm", "key", "value"}
_HEX = re.compile("[0-9a-f]+")


@dataclass(frozen=True)
class Signer:
    """The keys that receipts are signed with; none is needed."""

    hmac_key: SecretStr | None = None
    private_key: Ed25519PrivateKey | None = None

    def sign(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The document with a signature by each key; without a key it has no `signatures`."""
        unsigned = {name: value for name, value in document.items() if name != "signatures"}
        if self.hmac_key is None and self.private_key is None:
            return unsigned
        message = _express(document)
        signatures = []
        if self.hmac_key is not None:
            value = _compute_hmac(message, self.hmac_key)
            signatures.append({"algorithm": HMAC, "key": name_hmac_key(self.hmac_key), "value": value})
        if self.private_key is not None:
            fingerprint = compute_fingerprint(self.private_key.public_key())
            value = self.private_key.sign(message).hex()
            signatures.append({"algorithm": ED25519, "key": fingerprint, "value": value})
        return {**unsigned, "signatures": signatures}


def load_signer(hmac_key: SecretStr | None, signing_key: Path | None) -> Signer:
    """The keys of the settings.

    Raises:
        SettingsError: the file of the private key cannot be used, or may be read by others.
    """
    return Signer(hmac_key, None if signing_key is None else read_private_key(signing_key))


@dataclass(frozen=True)
class Keys:
    """What signatures are checked with."""

    hmac_key: SecretStr | None = None
    public_keys: Sequence[Ed25519PublicKey] = ()
    is_given: bool = False
    """True where somebody has given public keys for this very check: a signature by another key is none then."""


@dataclass(frozen=True)
class Checked:
    """What came of one signature."""

    algorithm: str
    key: str | None
    is_genuine: bool | None
    """None where it could not be checked: the key is not there."""
    problem: str | None = None
    """Why it is no signature at all."""


def check_signatures(document: Mapping[str, Any], keys: Keys) -> Iterator[Checked]:
    """Check each signature of a receipt, of any version, by the key that it names, where that is there."""
    message = _express(document)
    by_fingerprint = {compute_fingerprint(key): key for key in keys.public_keys}
    for signature in _list_members(document):
        if problem := _find_problem(signature):
            yield Checked("", None, False, problem)
            continue
        algorithm, key, value = signature["algorithm"], signature.get("key"), signature["value"]
        is_genuine = None
        # Those of earlier versions name no key.
        if algorithm == HMAC and keys.hmac_key is not None and key in (None, name_hmac_key(keys.hmac_key)):
            is_genuine = hmac.compare_digest(value.encode(), _compute_hmac(message, keys.hmac_key).encode())
        elif algorithm == ED25519 and key in by_fingerprint:
            is_genuine = _is_signed(by_fingerprint[key], value, message)
        yield Checked(algorithm, key, is_genuine)


def _find_problem(signature: Any) -> str | None:
    """Why a member of `signatures` is none, or None. What is added there is not signed, so nothing may be added."""
    if not isinstance(signature, dict) or not {"algorithm", "value"} <= set(signature) <= _MEMBERS:
        return "`signatures` holds what is no signature."
    if signature["algorithm"] not in (HMAC, ED25519):
        return "`signatures` names an algorithm that receipts are not signed with."
    if not all(isinstance(value, str) for value in signature.values()) or not _HEX.fullmatch(signature["value"]):
        return "`signatures` holds a signature that is not in hexadecimal digits."
    return None


def list_signatures(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The signatures of a receipt: version 1 has one at most."""
    return [signature for signature in _list_members(document) if isinstance(signature, dict)]


def _list_members(document: Mapping[str, Any]) -> list[Any]:
    if document.get("version") == 1:
        return [document["signature"]] if document.get("signature") is not None else []
    found = document.get("signatures", [])
    return found if isinstance(found, list) else [found]


def name_hmac_key(key: SecretStr) -> str:
    """What a key of `ASPECTS_RECEIPT_KEY` is known by: 16 hexadecimal digits that tell nothing of it."""
    return _compute_hmac(b"the name of this key", key)[:16]


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The private key of `ASPECTS_RECEIPT_SIGNING_KEY`.

    Raises:
        SettingsError: it cannot be read, may be read by others, or is no Ed25519 key. Names the file, never the content.
    """
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{_SETTING}: {path} cannot be read: {error.strerror}.") from None
    if mode & _TOO_OPEN:
        raise SettingsError(f"{_SETTING}: others may use {path} (mode {mode:03o}). Run `chmod 600 {path}`.")
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(
            f"{_SETTING}: {path} is no unencrypted Ed25519 key in PEM. `aspects-pii receipt key FILE` makes one."
        )
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """A public key from a PEM file.

    Raises:
        UsageError: it cannot be read, or is no Ed25519 key.
    """
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path} is no public Ed25519 key in PEM.")
    return key


def make_private_key() -> tuple[Ed25519PrivateKey, bytes]:
    """A new key, and its PEM."""
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    return key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def format_public_key(key: Ed25519PublicKey) -> str:
    """A public key as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def compute_fingerprint(key: Ed25519PublicKey) -> str:
    """What a public key is known by: SHA-256 of it in DER, as `openssl pkey -pubin -outform DER | sha256sum` prints it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _is_signed(key: Ed25519PublicKey, value: str, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(bytes.fromhex(value), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _express(document: Mapping[str, Any]) -> bytes:
    """What is signed. What a version does not know as its signature is signed with the rest."""
    own = "signature" if document.get("version") == 1 else "signatures"
    unsigned = {name: value for name, value in document.items() if name != own}
    return json.dumps(unsigned, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _compute_hmac(message: bytes, key: SecretStr) -> str:
    return hmac.new(key.get_secret_value().encode(), message, hashlib.sha256).hexdigest()


def _require_cryptography() -> None:
    if find_spec("cryptography") is None:
        raise SettingsError(
            "Ed25519 signatures need cryptography, and it is not installed. Install aspects-pii-sink[server]."
        )
