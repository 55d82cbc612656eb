"""A build where nothing has changed does nothing, and whatever has is noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sink.clickhouse import migrations
from sink.clickhouse.client import ClickHouse
from sink.datasets import build as datasets_build
from sink.datasets import inputs, unchanged
from sink.datasets.build import build
from sink.datasets.build_note import NOTE, Note, Run, find_note, read_note, write_note
from sink.errors import BuildError
from sink.installation import open_store
from sink.names import TableName
from sink.retirement.retire import retire
from sink.settings import load_settings
from sink.store import Store

_SHOWN = TableName("reporting", "enrolled_learners")
_DEFINITION = "SELECT create_table_query FROM system.tables WHERE database = {database:String} AND name = {name:String}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with somebody in it, and its datasets."""
    folder = tmp_path_factory.mktemp("site")
    settings = load_settings(clickhouse_url=f"chdb://{folder}/clickhouse", receipts_dir=folder / "receipts")
    with open_store(settings, creates=True) as store:
        migrations.migrate(store.client)
        store.client.execute(
            "INSERT INTO $event_sink.user_profile (id, user_id, name, username, email) "
            "SELECT number, number, 'A Name', concat('user', toString(number)), 'a@example.com' FROM numbers(1, 9)"
        )
        assert build(store.client.address, enable_pii=True)
        yield store


class Dbt:
    """In the place of dbt: counts its runs, and does in each what a test wants."""

    def __init__(self) -> None:
        self.runs = 0
        self.act: Callable[[], None] = lambda: None

    def __call__(self, *_: Any) -> None:
        self.runs += 1
        self.act()


@pytest.fixture
def dbt(monkeypatch: pytest.MonkeyPatch) -> Dbt:
    dbt = Dbt()
    monkeypatch.setattr(datasets_build, "_run_dbt", dbt)
    return dbt


@pytest.fixture
def noted(built: Store, dbt: Dbt) -> ClickHouse:
    """The datasets, after a build that has noted how they stand; dbt runs no more."""
    build(built.client.address, enable_pii=True, force=True)
    assert not builds(built.client, dbt)
    return built.client


def builds(client: ClickHouse, dbt: Dbt, *arguments: str, **options: Any) -> bool:
    """Whether a build runs dbt; held against what it says of itself."""
    before, said = dbt.runs, list[str]()
    told = build(client.address, arguments, report=said.append, **{"enable_pii": True, **options})
    assert told == (dbt.runs > before)
    assert told != any("nothing was built, and no data test was run" in line for line in said)
    return told


@contextmanager
def replaced(client: ClickHouse, statement: str) -> Iterator[None]:
    """One dataset is another meanwhile."""
    definition = client.value(_DEFINITION, database=_SHOWN.database, name=_SHOWN.table)
    client.execute(statement)
    try:
        yield
    finally:
        client.execute(definition.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))


def test_nothing_is_built_where_nothing_has_changed_also_after_a_retirement(built: Store, dbt: Dbt) -> None:
    # After the build by dbt itself.
    assert not builds(built.client, dbt)
    assert retire(built, [3], force=True)[0].is_done
    built.client.execute("INSERT INTO $event_sink.user_profile (id, user_id) VALUES (77, 77)")
    assert not builds(built.client, dbt)
    assert dbt.runs == 0


@pytest.mark.parametrize(
    "statement",
    [
        f"DROP VIEW {_SHOWN.sql}",
        f"CREATE OR REPLACE VIEW {_SHOWN.sql} AS SELECT 'shown by hand' AS name",
        f"ALTER TABLE {_SHOWN.sql} MODIFY COMMENT 'what it is not'",
    ],
    ids=["dropped", "replaced", "renamed"],
)
def test_a_dataset_that_was_changed_by_hand_is_noticed(noted: ClickHouse, dbt: Dbt, statement: str) -> None:
    said: list[str] = []
    with replaced(noted, statement):
        dbt.act = lambda: None
        assert build(noted.address, enable_pii=True, report=said.append)
    assert any(line.startswith("Changed since the build of ") and "the datasets themselves" in line for line in said)


def test_a_dataset_that_was_changed_by_hand_is_mended(built: Store) -> None:
    client = built.client
    definition = client.value(_DEFINITION, database=_SHOWN.database, name=_SHOWN.table)
    # Without the mark it would be somebody else's, and stop the build.
    client.execute(
        f"CREATE OR REPLACE VIEW {_SHOWN.sql} AS SELECT 'shown by hand' AS name COMMENT '{inputs.DATASET_MARK}PII on.'"
    )
    client.execute("DROP VIEW $reporting.learner_progress")
    assert build(client.address, enable_pii=True)
    assert client.value(_DEFINITION, database=_SHOWN.database, name=_SHOWN.table) == definition
    assert client.value("SELECT count() FROM $reporting.learner_progress") == 0
    assert not build(client.address, enable_pii=True)


def test_a_table_that_is_read_and_has_changed_is_noticed(noted: ClickHouse, dbt: Dbt) -> None:
    noted.execute("ALTER TABLE $event_sink.course_overviews ADD COLUMN more String")
    try:
        assert builds(noted, dbt)
    finally:
        noted.execute("ALTER TABLE $event_sink.course_overviews DROP COLUMN more")


def test_settings_and_variables_are_noticed(noted: ClickHouse, dbt: Dbt, monkeypatch: pytest.MonkeyPatch) -> None:
    assert builds(noted, dbt, enable_pii=False)
    assert builds(noted, dbt)
    assert builds(noted, dbt, "--vars", "{at_risk_days: 14}")
    assert not builds(noted, dbt, "--vars={at_risk_days: 14}")
    assert builds(noted, dbt)
    assert builds(noted, dbt, force=True)
    assert not builds(noted, dbt)
    monkeypatch.setenv("ASPECTS_RAW_XAPI_TABLE", "raw_events")
    assert builds(noted, dbt)


def test_versions_and_the_project_are_noticed(
    noted: ClickHouse, dbt: Dbt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(inputs, "version", lambda package: f"99 of {package}")
        assert builds(noted, dbt)
    assert builds(noted, dbt)
    files = dict(inputs._read_files())
    assert {"models/marts/learners/enrolled_learners.sql", "macros/pii.sql", "config/profiles.yml"} <= set(files)
    changed = files | {"macros/pii.sql": files["macros/pii.sql"] + b" "}
    monkeypatch.setattr(inputs, "_read_files", lambda: iter(changed.items()))
    assert builds(noted, dbt)


def test_a_row_policy_that_was_changed_by_hand_is_noticed(
    noted: ClickHouse, dbt: Dbt, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The engine in process has none, and says so by refusing the question.
    policy: tuple[Any, ...] = ("event_sink", "user_profile", "others", "1", False, True, [], [])
    rows = ClickHouse.rows
    monkeypatch.setattr(
        ClickHouse,
        "rows",
        lambda self, sql, *rest, **values: (
            [policy] if "system.row_policies" in sql else rows(self, sql, *rest, **values)
        ),
    )
    assert builds(noted, dbt)
    assert not builds(noted, dbt)
    policy = (*policy[:3], "0", *policy[4:])
    assert builds(noted, dbt)


def test_a_dataset_that_gives_no_answer_is_built_again(
    noted: ClickHouse, dbt: Dbt, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where this account sees no definition of a table, and a column of it is gone.
    monkeypatch.setattr(unchanged.Plan, "digest", lambda *_: {inputs.BUILT: "the same, as far as is seen"})
    assert builds(noted, dbt)
    assert not builds(noted, dbt)
    noted.execute("RENAME TABLE $event_sink.external_id TO $event_sink.gone")
    try:
        assert builds(noted, dbt)
    finally:
        noted.execute("RENAME TABLE $event_sink.gone TO $event_sink.external_id")


def test_after_a_build_that_failed_everything_is_built(noted: ClickHouse, dbt: Dbt) -> None:
    def fail() -> None:
        raise BuildError("Failed: a data test.")

    dbt.act = fail
    for arguments in ([], ["--select", "test_type:data"]):
        with pytest.raises(BuildError):
            build(noted.address, arguments, enable_pii=True, force=True)
        dbt.act = lambda: None
        assert builds(noted, dbt)
        assert not builds(noted, dbt)
        dbt.act = fail


def test_a_build_of_a_part_leaves_the_note_as_it_was(noted: ClickHouse, dbt: Dbt) -> None:
    before = read_note(noted)
    assert builds(noted, dbt, "--select", "enrolled_learners")
    assert read_note(noted) == before
    assert not builds(noted, dbt)
    # Without one, it makes none.
    noted.execute(f"DROP VIEW $reporting.{NOTE}")
    assert builds(noted, dbt, "--select", "enrolled_learners")
    assert find_note(noted) is None


def test_a_build_that_was_killed_or_is_still_at_work_is_not_vouched_for(noted: ClickHouse, dbt: Dbt) -> None:
    write_note(noted, Note("the run that was killed"))
    # It may be at work still, so what this one leaves may not be its own.
    assert builds(noted, dbt)
    assert builds(noted, dbt)
    assert not builds(noted, dbt)


def test_builds_beside_one_another_are_not_vouched_for(noted: ClickHouse, dbt: Dbt) -> None:
    dbt.act = lambda: Run(noted).succeed({})
    assert builds(noted, dbt, force=True)
    assert find_note(noted) is None


def test_what_changes_while_dbt_is_at_work_is_built_by_the_next(noted: ClickHouse, dbt: Dbt) -> None:
    dbt.act = lambda: noted.execute("ALTER TABLE $event_sink.course_overviews ADD COLUMN more String")
    try:
        assert builds(noted, dbt, force=True)
        dbt.act = lambda: None
        assert builds(noted, dbt)
    finally:
        noted.execute("ALTER TABLE $event_sink.course_overviews DROP COLUMN more")


@pytest.mark.parametrize("note", ["no JSON", '{"run": 1, "of": "another version"}'])
def test_a_note_of_another_kind_is_none(noted: ClickHouse, dbt: Dbt, note: str) -> None:
    noted.execute(f"CREATE OR REPLACE VIEW $reporting.{NOTE} AS SELECT '{note}' AS note")
    assert builds(noted, dbt)
    assert not builds(noted, dbt)


def test_the_note_holds_no_password_and_no_address(noted: ClickHouse) -> None:
    definition = noted.value(_DEFINITION, database="reporting", name=NOTE)
    assert "chdb" not in definition
    named = inputs._READ_FROM_ENVIRONMENT.findall(dict(inputs._read_files())["config/profiles.yml"].decode())
    secrets = [name for name in named if inputs._SECRET.search(name)]
    assert set(secrets) == {"ASPECTS_CLICKHOUSE_PASSWORD", "DBT_ENV_SECRET_CLICKHOUSE_PASSWORD"}
