"""What `aspects-pii doctor` looks at in ClickHouse.

.. no_pii: names of tables and privileges, counts and times.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

from sink.clickhouse.aspects import explain_events, explain_leftovers, find_events_tables, read_aspects
from sink.clickhouse.catalog import read_tables
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.migrations import find_pending
from sink.clickhouse.versions import OLDEST_SUPPORTED, is_supported
from sink.datasets.access import plan_access
from sink.datasets.build import read_built
from sink.datasets.rights import find_missing
from sink.doors.cli.checks.examination import Area, Check, Finding, blame, fine, pass_over, warn_of
from sink.erasure.plan import read_plan
from sink.erasure.suspects import read_suspects
from sink.errors import StoreMissingError, UnreachableError
from sink.installation import connect, find_address, find_policy, read_map
from sink.ledger.entries import Ledger
from sink.retirement.status import count_held, explain_datasets, explain_held
from sink.settings import Settings
from sink.store import Store
from sink.wording import counted

CLOCKS_MAY_DIFFER = timedelta(seconds=5)
# Short, so that a check can say why before its time is over; a statement is tried once.
_PATIENCE = {"connect_timeout": 5, "timeout": 30, "retries": 0}
_SHOWN = 5


def describe_clickhouse(settings: Settings) -> Area:
    """The checks, in order."""
    closing = ExitStack()
    look = _ClickHouse(settings, closing)
    return Area(
        "ClickHouse",
        [
            Check("reachable", look.reach, "Check ASPECTS_CLICKHOUSE_URL and that ClickHouse runs.", is_needed=True),
            Check("version", look.check_version),
            Check("cluster", look.check_cluster, "Name one of system.clusters in ASPECTS_CLICKHOUSE_CLUSTER."),
            Check("clock", look.check_clock),
            Check("rights", look.check_rights, "Run the output of `aspects-pii access sql` as an administrator."),
            Check("Aspects' migrations", look.check_aspects),
            Check("events", look.check_events),
            Check("store", look.check_store, "Run `aspects-pii init`.", is_needed=True),
            Check("PII map", look.check_map, "Correct the PII map; `aspects-pii map check` says more.", is_needed=True),
            Check("stored people", look.check_held),
            Check("datasets", look.check_datasets, "Run `aspects-pii build`."),
        ],
        closing,
    )


class _ClickHouse:
    """One connection, and what is asked through it."""

    def __init__(self, settings: Settings, closing: ExitStack) -> None:
        self._settings, self._closing = settings, closing
        self._address = find_address(settings, **_PATIENCE)
        self._opened: ClickHouse | None = None

    @property
    def _client(self) -> ClickHouse:
        if self._opened is None:
            raise UnreachableError
        return self._opened

    @property
    def _store(self) -> Store:
        return Store(self._client, read_map(self._settings), Ledger(self._client), find_policy(self._settings))

    def reach(self) -> Finding:
        try:
            self._opened = connect(self._settings, **_PATIENCE)
        except StoreMissingError as error:
            return blame("reachable", str(error), "Run `aspects-pii init`.")
        self._closing.callback(self._opened.close)
        user = "" if self._address.is_embedded else f", as {self._address.user}"
        return fine("reachable", f"{self._address.described}{user}")

    def check_version(self) -> Finding:
        version, oldest = self._client.server_version, ".".join(map(str, OLDEST_SUPPORTED))
        if is_supported(version):
            return fine("version", version)
        return blame(
            "version", f"{version}; {oldest} is the oldest that is supported", f"Upgrade ClickHouse to {oldest}."
        )

    def check_cluster(self) -> Finding:
        name = self._settings.clickhouse_cluster
        if name is None:
            others = [] if self._address.is_embedded else self._list_clusters()
            if others:
                said = f"none is set, and this server is in {', '.join(others[:_SHOWN])}"
                return warn_of(
                    "cluster", said, "Set ASPECTS_CLICKHOUSE_CLUSTER, if the tables are to be on all its hosts."
                )
            return fine("cluster", "none is set: one server")
        hosts = self._client.value("SELECT count() FROM system.clusters WHERE cluster = {name:String}", name=name)
        if not hosts:
            return blame("cluster", f"{name} is not a cluster of this server", "Correct ASPECTS_CLICKHOUSE_CLUSTER.")
        answered = self._client.value(
            f"SELECT uniqExact(serverUUID()) FROM {self._client.replicas('system.databases')}"  # noqa: S608 - quoted
        )
        if answered < hosts:
            return blame("cluster", f"{answered} of {counted(hosts, 'host')} of {name} answer", "Start the others.")
        return fine("cluster", f"{counted(hosts, 'host')} of {name}, all of which answer")

    def _list_clusters(self) -> list[str]:
        """Those that an operator has made, of more than one host."""
        return list(
            self._client.column(
                "SELECT cluster FROM system.clusters GROUP BY cluster HAVING count() > 1 ORDER BY cluster"
            )
        )

    def check_clock(self) -> Finding:
        before = datetime.now(UTC)
        return judge_clock("clock", "ClickHouse", self._client.now(), before, datetime.now(UTC))

    def check_rights(self) -> Finding:
        if self._address.is_embedded:
            return fine("rights", "the engine in process refuses nothing")
        plan = plan_access(
            read_map(self._settings), self._settings.databases, cluster=self._settings.clickhouse_cluster
        )
        missing = find_missing(self._client, plan.grants[plan.names.sink])
        if not missing:
            return fine("rights", f"{self._address.user} may do all that is needed")
        clauses = [grant.clause.replace("`", "") for grant in missing]
        more = f" and {len(clauses) - _SHOWN} more" if len(clauses) > _SHOWN else ""
        return blame(
            "rights",
            f"{self._address.user} lacks {'; '.join(clauses[:_SHOWN])}{more}",
            "Run the output of `aspects-pii access sql` as an administrator, and GRANT aspects_pii_sink to the user.",
        )

    def check_aspects(self) -> list[Finding]:
        found = read_aspects(self._client)
        leftovers = [
            warn_of("Aspects' migrations", line, "See `aspects-pii docs compatibility`.")
            for line in explain_leftovers(self._client)
        ]
        if not found:
            return [pass_over("Aspects' migrations", "Aspects has not been here; where it is to come, it goes first")]
        for aspects in found:
            version = "cannot be read" if aspects.version is None else f"are at {aspects.version or 'their beginning'}"
            what, said = "Aspects' migrations", f"they {version} ({aspects.table})"
            if aspects.version is None:
                leftovers.append(warn_of(what, said, f"GRANT SELECT ON {aspects.table} to {self._address.user}."))
            elif aspects.is_settled:
                leftovers.append(fine(what, said))
            else:
                leftovers.append(blame(what, said, "Let Aspects finish: `tutor local do init --limit=aspects`."))
        return leftovers

    def check_events(self) -> list[Finding]:
        tables = find_events_tables(self._client)
        configured = tables[0]
        lines = explain_events(tables)
        if lines:
            return [warn_of("events", line, "Correct ASPECTS_XAPI_DATABASE.") for line in lines]
        if not configured.rows and configured.newest is None:
            fix = "Have Aspects send events, or set ASPECTS_XAPI_DATABASE to the database that has them."
            return [warn_of("events", f"{configured.name} has none, so the datasets will be empty", fix)]
        newest = f", the newest of {configured.newest:%Y-%m-%d}" if configured.newest else ""
        number = "some" if configured.rows is None else f"{configured.rows:,}"
        return [fine("events", f"{number} in {configured.name}{newest}")]

    def check_store(self) -> Finding:
        ledger = self._client.table("pii_ledger.entries")
        if not read_tables(self._client, [ledger]):
            return blame("store", f"there is none: no table {ledger}", "Run `aspects-pii init`.")
        pending = find_pending(self._client)
        if pending:
            return blame(
                "store", f"{counted(len(pending), 'migration is', 'migrations are')} pending", "Run `aspects-pii init`."
            )
        return fine("store", f"the ledger is in {ledger.database}, and no migration is pending")

    def check_map(self) -> list[Finding]:
        store = self._store
        problems = read_plan(store, with_history=True).problems
        suspects = read_suspects(store)
        found = [blame("PII map", str(problem), "Correct the PII map.") for problem in problems]
        if suspects.places:
            columns = counted(len(suspects.places), "column")
            shown = ", ".join(suspects.places[:_SHOWN])
            found.append(
                warn_of(
                    "PII map", f"{columns} may hold PII that it does not name: {shown}", "Run `aspects-pii map check`."
                )
            )
        elif suspects.checked_at is None:
            found.append(
                warn_of("PII map", "it was never checked against what is stored", "Run `aspects-pii map check`.")
            )
        return found or [
            fine("PII map", f"{counted(len(store.pii_map.targets), 'target')}, all of which can be erased")
        ]

    def check_held(self) -> Finding:
        held, enabled = count_held(self._store), self._settings.enable_pii
        if lines := explain_held(enabled, held):
            return warn_of("stored people", lines[0], "Run `aspects-pii purge`, or set ASPECTS_ENABLE_PII=true.")
        if enabled and not held:
            return warn_of("stored people", "PII is on, and nobody is stored", "Run `aspects-pii sync`.")
        return fine(
            "stored people", f"PII is {'on' if enabled else 'off'}, and {counted(held, 'person', 'people')} stored"
        )

    def check_datasets(self) -> Finding:
        built = read_built(self._client)
        lines = explain_datasets(self._settings.enable_pii, built, count_held(self._store))
        if lines:
            return warn_of("datasets", lines[0], "Run `aspects-pii build`.")
        count = built.with_pii + built.without_pii + built.unknown
        if not count:
            return warn_of("datasets", "none is built", "Run `aspects-pii build`.")
        return fine("datasets", f"{counted(count, 'dataset')}, built for PII {'on' if built.with_pii else 'off'}")


def judge_clock(what: str, place: str, there: datetime, before: datetime, after: datetime) -> Finding:
    """Whether a clock, read between two looks at ours, is right enough."""
    apart = max(before - there, there - after, timedelta())
    if apart <= CLOCKS_MAY_DIFFER:
        return fine(what, f"{place} and this host agree to {CLOCKS_MAY_DIFFER.seconds} s")
    said = f"{place} and this host are {apart.total_seconds():,.0f} s apart"
    return warn_of(what, said, "Have both set their clocks by NTP.")
