"""What `aspects-pii doctor` looks at in the LMS database.

.. no_pii: addresses without user and password, names of tables and columns.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime

from sink.doors.cli.checks.clickhouse import judge_clock
from sink.doors.cli.checks.examination import Area, Check, Finding, blame, fine, pass_over, warn_of
from sink.errors import LmsUnreachableError
from sink.installation import open_lms, open_store, read_map
from sink.lms.condition import Condition
from sink.lms.database import LmsDatabase
from sink.lms.objects import OBJECTS
from sink.settings import Settings

_SHOWN = 5
_READING = "`aspects-pii docs lms-reading` has the named collection and its grants; or set ASPECTS_LMS_READER=python."


def describe_lms(settings: Settings) -> Area:
    """The checks, in order."""
    if settings.lms_database_url is None:
        said = "ASPECTS_LMS_DATABASE_URL is not set: `sync` and `reconcile` need it"
        check = Check("reachable", lambda: pass_over("reachable", said, "Set ASPECTS_LMS_DATABASE_URL."))
        return Area("LMS", [check], ExitStack())
    look = _Lms(settings)
    return Area(
        "LMS",
        [
            Check("reachable", look.reach, "Check ASPECTS_LMS_DATABASE_URL and that it runs.", is_needed=True),
            Check("read only", look.check_rights),
            Check("isolation", look.check_isolation),
            Check("schema", look.check_schema, "Name the LMS database, and grant SELECT on it."),
            Check("clock", look.check_clock),
            *([Check("read by ClickHouse", look.check_reading, _READING)] if _wants_reading(settings) else []),
        ],
        ExitStack(),
    )


def _wants_reading(settings: Settings) -> bool:
    return settings.lms_reader == "clickhouse" or (settings.lms_reader == "auto" and bool(settings.lms_collection))


class _Lms:
    """What the database said of itself, once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked_at = self._answered_at = datetime.now(UTC)
        self._condition: Condition | None = None

    @property
    def _said(self) -> Condition:
        if self._condition is None:
            raise LmsUnreachableError
        return self._condition

    def _open(self) -> LmsDatabase:
        return open_lms(self._settings, attempts=1)

    def reach(self) -> Finding:
        lms = self._open()
        self._asked_at = datetime.now(UTC)
        self._condition = lms.read_condition()
        self._answered_at = datetime.now(UTC)
        return fine("reachable", f"{lms.place.removeprefix('The LMS database ')} ({self._said.version})")

    def check_rights(self) -> Finding:
        if not self._said.may_write:
            return fine("read only", "the account can only read")
        rights = ", ".join(self._said.may_write[:_SHOWN])
        return warn_of(
            "read only",
            f"the account may also do this: {rights}. Nothing here writes, but whoever gets its password could",
            "Use an account with SELECT alone.",
        )

    def check_isolation(self) -> Finding:
        said = self._said
        if said.is_isolated:
            return fine("isolation", f"{said.isolation.lower()}: a copy is as the LMS was at one moment")
        if said.without_snapshot:
            tables = ", ".join(said.without_snapshot)
            fix = "Have the LMS's administrator convert the tables to InnoDB."
            return warn_of("isolation", f"{tables} can change while they are read: not InnoDB", fix)
        return warn_of("isolation", f"transactions are {said.isolation.lower()}", "Allow REPEATABLE READ.")

    def check_schema(self) -> Finding:
        targets = read_map(self._settings).targets
        kept = {name: targets.get(f"event_sink.{name}") for name in OBJECTS}
        wanted = {
            name: [c for c in OBJECTS[name].columns if target.keep is None or c in target.keep]
            for name, target in kept.items()
            if target is not None
        }
        self._open().check_schema(wanted)
        return fine("schema", f"all that is read is there: {', '.join(wanted)}")

    def check_reading(self) -> Finding:
        from sink.copying.engine_reading import EngineReading

        what = "read by ClickHouse"
        with open_store(self._settings) as store, self._open().snapshot() as snapshot:
            problem = EngineReading(store, snapshot.passed_queries()).explain_unread()
        if not problem:
            return fine(what, "ClickHouse itself reads the same database for full copies")
        if self._settings.lms_reader == "clickhouse":
            return blame(what, f"it does not, and every full copy is refused: {problem}", _READING)
        return warn_of(what, f"it does not, so Python reads for full copies: {problem}", _READING)

    def check_clock(self) -> Finding:
        return judge_clock("clock", "the LMS database", self._said.clock, self._asked_at, self._answered_at)
