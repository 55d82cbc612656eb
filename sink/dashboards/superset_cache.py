"""The results that a Superset keeps, which it is told to forget after a retirement."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from sink.caches import CacheLine
from sink.dashboards.superset_address import SupersetAddress


@dataclass(frozen=True)
class SupersetCaches:
    """The cached results of a Superset: of our datasets, and of everybody else's on the same ClickHouse."""

    address: SupersetAddress
    schemas: Collection[str]
    """ClickHouse databases by whose datasets Superset's connections to that ClickHouse are known."""

    def forget(self) -> list[CacheLine]:
        """See `Caches`."""
        # Who has no Superset needs no HTTP client.
        from sink.dashboards.superset_api import Superset

        with Superset(self.address) as superset:
            datasets = superset.list_datasets()
            # A virtual dataset may read from any schema of its connection, whatever it says.
            connections = {dataset.database_id for dataset in datasets if dataset.schema in self.schemas}
            concerned = [dataset for dataset in datasets if dataset.database_id in connections]
            if concerned:
                superset.forget_results(concerned)
        told_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return [CacheLine("superset", self.address.url, len(concerned), told_at)]
