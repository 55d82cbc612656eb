"""Keyed digests of what a person is called: of no use to whoever does not have the installation's key.

Datasets compute the same digests in SQL while PII is off (dbt_project/macros/pii.sql). The key is therefore a row of a
table that only the sink and dbt read, and stands in no SQL text, log or artifact.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Sequence

from pydantic import SecretStr

from sink.clickhouse.catalog import is_there
from sink.clickhouse.client import ClickHouse
from sink.errors import MigrationError

# .. pii: Names of users pass through on their way to a digest, in memory only; nothing is kept or logged.
# .. pii_types: id, username, email_address
# .. pii_retirement: consumer_api

_BLOCK = 64
# Says what a digest is of: a learner's is over the actor and a course, and never the same as a viewer's.
_OF_A_VIEWER = "viewer"
_OF_A_NAME = "former"


def set_pseudonym_key(client: ClickHouse, secret: SecretStr | None = None) -> None:
    """Put the key of the pseudonyms where the datasets find it while PII is off: in a table that only the sink reads.

    The key is derived from `secret`, which stays unknown to whoever reads the table. Without a secret the key that is
    there stays, and where there is none a random one is made. Rows and never SQL texts carry it.

    Raises:
        DatabaseError: it could not be stored.
    """
    stored = _read_pads(client)
    if stored and secret is None:
        return
    material = secret.get_secret_value().encode() if secret else secrets.token_bytes(32)
    # Padded as RFC 2104 has it, since SQL has SHA-256 everywhere and HMAC only in new servers.
    key = hmac.digest(material, b"aspects-pii pseudonyms of datasets", "sha256").ljust(_BLOCK, b"\0")
    pads = (bytes(byte ^ 0x36 for byte in key).hex(), bytes(byte ^ 0x5C for byte in key).hex())
    if stored != [pads]:
        client.insert(client.table("pii_ledger.pseudonym_key"), ["inner_pad", "outer_pad"], [pads], repeatable=True)


def read_name_digest(client: ClickHouse, secret: SecretStr | None) -> Callable[[str, str], str]:
    """The function that turns what somebody is called, and what kind of name that is, into 64 hexadecimal digits.

    Where there is no key yet, one is made, as `set_pseudonym_key` does.

    Raises:
        DatabaseError: the key could not be read or stored.
    """
    key = _read_or_make_key(client, secret)
    return lambda name, label: hmac.digest(key, f"{name}\0{_OF_A_NAME} {label}".encode(), "sha256").hex()


def express_name_digest(name: str, label: str) -> str:
    """The same in SQL, of the expressions `name` and `label`; the key is read where the statement runs."""
    newest = "FROM $pii_ledger.pseudonym_key ORDER BY set_at DESC LIMIT 1"
    message = f"{name}, char(0), '{_OF_A_NAME} ', {label}"
    inner = f"SHA256(concat((SELECT unhex(inner_pad) {newest}), {message}))"
    return f"lower(hex(SHA256(concat((SELECT unhex(outer_pad) {newest}), {inner}))))"


def read_viewer_digest(client: ClickHouse) -> Callable[[str], str]:
    """The function that turns a user name into what `course_access_keyed.viewer` holds: 64 hexadecimal digits.

    Raises:
        MigrationError: there is no key; `init` has not run.
        DatabaseError: it could not be read.
    """
    key = _read_key(client)
    return lambda username: hmac.digest(key, f"{username}\0{_OF_A_VIEWER}".encode(), "sha256").hex()


def read_secret(client: ClickHouse) -> SecretStr | None:
    """The key as a secret of keyed hashes that are made outside of SQL; None before `init`.

    Where there is no key yet, one is made, as `set_pseudonym_key` does.

    Raises:
        DatabaseError: it could not be read or stored.
    """
    table = client.table("pii_ledger.pseudonym_key")
    if not is_there(client, table):
        return None
    return SecretStr(_read_or_make_key(client, None).hex())


def _read_or_make_key(client: ClickHouse, secret: SecretStr | None) -> bytes:
    if stored := _read_pads(client):
        return _decode(stored)
    set_pseudonym_key(client, secret)
    # Somebody else may have made one at the same moment.
    return _read_key(client)


def _read_key(client: ClickHouse) -> bytes:
    stored = _read_pads(client)
    if not stored:
        raise MigrationError("The key of the pseudonyms is not there. Run `aspects-pii init`.")
    return _decode(stored)


def _decode(stored: Sequence[tuple[str, str]]) -> bytes:
    return bytes(byte ^ 0x36 for byte in bytes.fromhex(stored[0][0]))


def _read_pads(client: ClickHouse) -> list[tuple[str, str]]:
    return client.rows("SELECT inner_pad, outer_pad FROM $pii_ledger.pseudonym_key ORDER BY set_at DESC LIMIT 1")
