"""The id of an installation, and the key by which its exports are signed.

.. no_pii: a random id, and key material.
"""

from __future__ import annotations

import hmac
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sink.clickhouse.client import ClickHouse
from sink.clickhouse.driver_errors import UNKNOWN_TABLE
from sink.errors import DatabaseError, MigrationError
from sink.ledger.pseudonym_key import read_secret

if TYPE_CHECKING:
    from pydantic import SecretStr

_PURPOSE = b"aspects-pii exports of the ledger"
IN_THE_LEDGER = "the ledger's database"
"""Where the key is that an installation without a secret has: it is lost together with the ledger."""


@dataclass(frozen=True)
class SigningKeys:
    """The secrets from which keys of exports are derived, by the names of their settings, the first one first."""

    secrets: dict[str, SecretStr]

    @property
    def preferred(self) -> str:
        """The name of the one that signs."""
        return next(iter(self.secrets))

    def sign(self, name: str, message: bytes) -> str:
        """HMAC-SHA256 in hexadecimal, under the key that is derived from the secret of that name."""
        key = hmac.digest(self.secrets[name].get_secret_value().encode(), _PURPOSE, "sha256")
        return hmac.digest(key, message, "sha256").hex()


@dataclass(frozen=True)
class Installation:
    """Whose a ledger is."""

    id: str
    database: str
    keys: SigningKeys


def read_installation(
    client: ClickHouse, receipt_key: SecretStr | None = None, pseudonym_secret: SecretStr | None = None
) -> Installation:
    """Which installation this is, and by which keys its exports are signed.

    Raises:
        MigrationError: `init` has not run.
        DatabaseError: it could not be read or stored.
    """
    keys = _find_signing_keys(client, receipt_key, pseudonym_secret)
    return Installation(read_installation_id(client), client.databases["pii_ledger"], keys)


def _find_signing_keys(
    client: ClickHouse, receipt_key: SecretStr | None, pseudonym_secret: SecretStr | None
) -> SigningKeys:
    given = {"ASPECTS_RECEIPT_KEY": receipt_key, "ASPECTS_PSEUDONYM_SECRET": pseudonym_secret}
    # Where one is set, the key in the ledger's database is none: more people read it, and it is lost with the ledger.
    secrets = {name: secret for name, secret in given.items() if secret is not None}
    if not secrets:
        own = read_secret(client)
        if own is None:
            raise MigrationError("The key of the ledger is not there. Run `aspects-pii init`.")
        secrets = {IN_THE_LEDGER: own}
    return SigningKeys(secrets)


def read_installation_id(client: ClickHouse) -> str:
    """The id of this installation; made where there is none.

    Raises:
        MigrationError: `init` has not run.
        DatabaseError: it could not be read or stored.
    """
    try:
        if not _read_ids(client):
            client.insert(client.table("pii_ledger.installation"), ["id"], [(uuid.uuid4(),)], repeatable=True)
        # Of two that were made at the same moment everybody takes the same.
        return _read_ids(client)[0]
    except DatabaseError as error:
        if error.code == UNKNOWN_TABLE:
            raise MigrationError("The ledger is missing, or of an older version. Run `aspects-pii init`.") from None
        raise


def _read_ids(client: ClickHouse) -> list[str]:
    return [str(found) for found in client.column("SELECT id FROM $pii_ledger.installation ORDER BY made_at, id")]
