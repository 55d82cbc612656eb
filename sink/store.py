"""What every operation works on: a connection, the map, the ledger and the limits that the operator has set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from sink.caches import Caches
from sink.clickhouse.client import ClickHouse
from sink.ledger.entries import Ledger
from sink.pii_map import PiiMap


@dataclass(frozen=True)
class Policy:
    """The limits and keys of an installation; see the settings of the same names."""

    redact_history: bool = False
    pseudonym_secret: SecretStr | None = None
    receipt_key: SecretStr | None = None
    receipt_signing_key: Path | None = None
    institution: str | None = None
    contact: str | None = None
    receipts_dir: Path = Path("aspects-pii-receipts")
    sync_batch_size: int = 20_000
    sync_max_removed_share: float = 0.05
    lms_reader: str = "auto"
    lms_collection: str | None = None
    retire_batch_size: int = 10_000
    retire_max_share: float = 0.5
    scrub_within: float = 600
    max_mutations: int = 20
    second_pass_after: float = 86_400
    map_check_rows: int = 1_000_000
    keep_former_names_days: int = 365


@dataclass(frozen=True)
class Store:
    """The PII store of one installation."""

    client: ClickHouse
    pii_map: PiiMap
    ledger: Ledger
    policy: Policy
    lms_url: SecretStr | None = None
    """Where retired users' other names are asked for, where the map searches by them and the LMS has replaced them here."""

    caches: Caches | None = None
    """What is told to forget after a retirement."""

    @property
    def name(self) -> str:
        """Which store this is, absolutely: what is said to be done or proved, is so there and nowhere else."""
        return self.client.address.described

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
