"""The datasets: runs dbt against whatever ClickHouse is configured, and knows which relations it made.

A whole build that would make what is there already is left out: see `sink.datasets.unchanged`.

dbt (1.11.16) runs as a process of its own, since it keeps connections, logs and environment for the whole of its process.
What it says reaches people line by line and without the texts of its errors: those quote what ClickHouse says,
and ClickHouse quotes values. For the same reason nothing of a run is kept.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pydantic import SecretStr

from sink.clickhouse.address import Address
from sink.clickhouse.aspects import EVENTS_TABLE, explain_events, find_events_tables
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.connection import require_data
from sink.datasets.dbt_folder import compose_program, working_folder
from sink.datasets.dbt_log import DbtResult
from sink.datasets.inputs import DATASET_MARK, PROFILES, PROJECT, RAW_TABLE
from sink.datasets.learner_events import drop_former, find_kept, keep_learner_events
from sink.datasets.unchanged import Plan, is_unchanged, noting
from sink.errors import ReadOnlyError, SettingsError, UsageError
from sink.ledger.pseudonym_key import set_pseudonym_key
from sink.names import TableName
from sink.resources import find_resource

_FULL_REFRESH = {"--full-refresh", "-f"}

# What follows the mark.
_WITH_PII, _WITHOUT_PII = "PII on. ", "PII off. "

# Each would leave what dbt or ClickHouse quotes, or rows that failed a test, where the map does not reach.
_REFUSED_OPTIONS = ("--store-failures", "--write-json", "--log-level-file", "--log-format", "--log-format-file")


def build(
    address: Address,
    arguments: Sequence[str] = (),
    *,
    enable_pii: bool,
    pseudonym_secret: SecretStr | None = None,
    definer: str | None = None,
    keeps_events: bool = True,
    force: bool = False,
    options: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> bool:
    """Build the datasets, as `dbt build` does, and test them, unless they are as such a build has left them.

    Args:
        address: the ClickHouse to build in. The engine in process is served to dbt on a loopback port meanwhile.
        arguments: further arguments of `dbt build`. With others than `--vars` dbt runs whatever has changed.
        enable_pii: show people; else the datasets show pseudonyms.
        pseudonym_secret: what the pseudonyms' key is made from; without it, a random one is made once and kept.
        definer: the ClickHouse user whose rights the datasets read with (see docs/access-sql.md); whoever builds then
            needs none on the PII tables, nor on the key and the statements that are kept, which `init` has seen to.
        keeps_events: the PII map names the table in which statements that count may be kept.
        force: build and test also what has not changed.
        options: arguments of `dbt build` that change nothing of what is built, such as how much dbt says.
        report: takes the lines that dbt says, free of values.

    Returns:
        False where nothing has changed, so that nothing was built, and no data test was run.

    Raises:
        SettingsError: dbt is not installed.
        StoreMissingError: the embedded engine has no data there.
        UsageError: dbt does not know an argument, or it is one that would keep values.
        DatabaseError: one of its subclasses says why ClickHouse cannot be used.
        BuildError: names the models and tests that failed.
    """
    _require_dbt()
    _refuse_options(arguments)
    variables = _read_variables(arguments)
    with ClickHouse(address) as client:
        if definer is None:
            set_pseudonym_key(client, pseudonym_secret)
        for line in explain_events(find_events_tables(client, os.environ.get(RAW_TABLE, EVENTS_TABLE))):
            report(f"Warning: {line}")
        anew = not _FULL_REFRESH.isdisjoint(arguments)
        kept = find_events_kept(client, anew=anew, may_make=definer is None, report=report) if keeps_events else None
        plan = Plan(client, _make_environment(address, enable_pii, definer, kept), variables)
        if not force and is_unchanged(plan, report):
            return False
        with noting(plan, report), working_folder() as folder, _served(address) as served:
            command = [*_list_fixed_arguments(folder), *options, *arguments]
            _run_dbt(command, _make_environment(served, enable_pii, definer, kept), report)
            if kept and definer is None:
                drop_former(client)
    return True


def find_events_kept(
    client: ClickHouse, *, anew: bool = False, may_make: bool = True, report: Callable[[str], None] = lambda line: None
) -> str | None:
    """The table of statements that count, kept as they come in; None where datasets read the statements each time.

    Args:
        client: the connection.
        anew: fill it again.
        may_make: make and fill the table where it is not complete.
        report: is told why there is none.

    Raises:
        BusyError: another process is filling it, or erasing.
        DatabaseError: ClickHouse refused.
    """
    slow = "so that each chart reads all statements."
    if not may_make:
        kept = find_kept(client)
        if kept is None:
            report(
                f"Warning: the statements that count are not kept, {slow} Run `aspects-pii init` as the sink's account."
            )
        return kept
    raw = os.environ.get(RAW_TABLE, EVENTS_TABLE)
    try:
        kept = keep_learner_events(client, raw, anew=anew)
    except ReadOnlyError:
        report(
            f"Warning: the account may not keep the statements that count, {slow} See `aspects-pii docs access-sql`."
        )
        return None
    if kept is None:
        report(f"Warning: {client.table(f'xapi.{raw}')} is no table whose inserts can be followed, {slow}")
    return kept


def _read_variables(arguments: Sequence[str]) -> str | None:
    """The `--vars` of a build of everything; None where other arguments may choose what is built, or how."""
    if not arguments:
        return ""
    if len(arguments) == 1 and arguments[0].startswith("--vars="):
        return arguments[0].partition("=")[2]
    return arguments[1] if len(arguments) == 2 and arguments[0] == "--vars" else None


def list_datasets(client: ClickHouse) -> list[TableName]:
    """The relations that the dbt project made, in the configured databases."""
    return [
        TableName(database, name)
        for database, name in client.rows(
            "SELECT database, name FROM system.tables "
            "WHERE database IN {databases:Array(String)} AND startsWith(comment, {mark:String}) ORDER BY database, name",
            databases=sorted(client.databases.values()),
            mark=DATASET_MARK,
        )
    ]


@dataclass(frozen=True)
class Built:
    """The datasets that are there."""

    with_pii: int = 0
    """How many were built while PII was on."""
    without_pii: int = 0
    unknown: int = 0
    """How many are of a version that did not write it down."""
    at: datetime | None = None
    """When the newest was built."""


def read_built(client: ClickHouse) -> Built:
    """What the datasets say of themselves, whoever built them."""
    ((with_pii, without_pii, total, at),) = client.rows(
        "SELECT countIf(startsWith(comment, {with_pii:String})), countIf(startsWith(comment, {without_pii:String})), "
        "count(), max(toDateTime(metadata_modification_time, 'UTC')) FROM system.tables "
        "WHERE database IN {databases:Array(String)} AND startsWith(comment, {mark:String})",
        databases=sorted(client.databases.values()),
        mark=DATASET_MARK,
        with_pii=DATASET_MARK + _WITH_PII,
        without_pii=DATASET_MARK + _WITHOUT_PII,
    )
    return Built(with_pii, without_pii, total - with_pii - without_pii, at if total else None)


def _require_dbt() -> None:
    if importlib.util.find_spec("dbt") is None or importlib.util.find_spec("dbt.adapters.clickhouse") is None:
        raise SettingsError("dbt is not installed. Install aspects-pii-sink[server].")


def _refuse_options(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if argument.partition("=")[0] in _REFUSED_OPTIONS:
            raise UsageError(
                f"{argument.partition('=')[0]} could keep values outside of the PII map's reach; leave it out."
            )


@contextmanager
def _served(address: Address) -> Iterator[Address]:
    """An address that another process can use."""
    if not address.is_embedded:
        yield address
        return
    from sink.endpoint.app import running

    if not address.creates:
        require_data(address)
    password = SecretStr(secrets.token_urlsafe(24))
    with running(address.folder, user="aspects_pii", password=password) as url:
        yield replace(address, url=url, user="aspects_pii", password=password)


def _list_fixed_arguments(folder: Path) -> list[str]:
    return [
        sys.executable,
        "-P",  # A file called dbt.py in the working directory is not dbt.
        "-c",
        compose_program(folder),
        "build",
        "--project-dir",
        str(find_resource(PROJECT)),
        "--profiles-dir",
        str(find_resource(PROFILES).parent),
        "--target-path",
        str(folder / "target"),
        "--log-path",
        str(folder / "logs"),
        "--log-format",
        "json",
        "--log-level-file",
        "none",
        "--no-write-json",
        # They prove the models, not the data, and ran before this version was released.
        "--exclude-resource-type",
        "unit_test",
    ]


def _make_environment(
    address: Address, enable_pii: bool, definer: str | None = None, kept: str | None = None
) -> dict[str, str]:
    """What dbt reads; none of our secrets but the one it needs, and none of its own options from outside."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ASPECTS_", "DBT_"))}
    databases = {f"ASPECTS_{logical.upper()}_DATABASE": actual for logical, actual in address.databases.items()}
    databases["ASPECTS_LEDGER_DATABASE"] = databases.pop("ASPECTS_PII_LEDGER_DATABASE", "pii_ledger")
    environment = {
        **inherited,
        **databases,
        "ASPECTS_ENABLE_PII": str(enable_pii).lower(),
        "ASPECTS_CLICKHOUSE_URL": address.url,
        "ASPECTS_CLICKHOUSE_USER": address.user,
        "ASPECTS_CLICKHOUSE_CLUSTER": address.cluster or "",
        "ASPECTS_CLICKHOUSE_DEFINER": definer or "",
        "ASPECTS_LEARNER_EVENTS": kept or "",
        "DBT_ENV_SECRET_CLICKHOUSE_PASSWORD": address.password.get_secret_value(),
        # The endpoint of the engine in process is not behind a proxy.
        "no_proxy": ",".join(filter(None, (inherited.get("no_proxy") or inherited.get("NO_PROXY"), "127.0.0.1"))),
    }
    if RAW_TABLE in os.environ:
        environment[RAW_TABLE] = os.environ[RAW_TABLE]
    if address.ca_file:
        environment["SSL_CERT_FILE"] = str(address.ca_file)
    return environment


def _run_dbt(command: Sequence[str], environment: Mapping[str, str], report: Callable[[str], None]) -> None:
    result = DbtResult()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(  # noqa: S603 - a fixed program, by its path; further arguments are the operator's own
            command,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                result.read_event(line, report)
            status = process.wait()
        except BaseException:
            process.terminate()
            raise
        if status == 0:
            return
        errors.seek(0)
        raise result.explain(errors.read())
