"""OEP-30: every table, view, dataset and module that holds or handles PII says so, and says the same as the map."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
import yaml

from sink.pii_map import PiiType, load_map
from sink.resources import find_resource
from tests.support.paths import ROOT
from tests.support.sql_annotations import check

MIGRATIONS = sorted((ROOT / "sql" / "migrations").glob("*.sql"))
MODELS = sorted((ROOT / "dbt_project" / "models").rglob("*.sql"))
RETIREMENTS = {"retained", "local_api", "consumer_api", "third_party"}

# Modules that have values of PII in their hands. The others see names of tables, ids of subjects and counts, and pass
# on what they do not look into.
HANDLING_PII = {
    "sink.doors.cli.rights",
    "sink.lms.names",
    "sink.lms.passed",
    "sink.rights.dev_copy.inventing",
    "sink.rights.dev_copy.people",
    "sink.rights.dev_copy.rebuild",
    "sink.rights.dev_copy.texts",
    "sink.rights.export",
    "sink.rights.find",
    "sink.rights.identity",
    "sink.rights.mentions",
    "sink.rights.package",
    "sink.rights.page",
    "sink.rights.selections",
    "sink.rights.writing",
    "sink.clickhouse.client",
    "sink.copying.batches",
    "sink.copying.copies",
    "sink.copying.engine_reading",
    "sink.copying.meta",
    "sink.copying.sync",
    "sink.datasets.learner_events",
    "sink.demo_data.events",
    "sink.demo_data.lms",
    "sink.demo_data.lms_rows",
    "sink.demo_data.lms_tables",
    "sink.demo_data.people",
    "sink.doors.events.actions",
    "sink.doors.events.avro_events",
    "sink.doors.events.json_events",
    "sink.doors.events.kafka_streams",
    "sink.doors.events.redis_streams",
    "sink.doors.plugin.receivers",
    "sink.doors.web.models",
    "sink.doors.web.privacy.app",
    "sink.doors.web.privacy.actions",
    "sink.doors.web.privacy.forms",
    "sink.doors.web.privacy.pages",
    "sink.endpoint.execution",
    "sink.endpoint.handlers",
    "sink.erasure.agents",
    "sink.erasure.candidates",
    "sink.erasure.changes",
    "sink.erasure.former_names",
    "sink.erasure.hand_over",
    "sink.erasure.identities",
    "sink.erasure.in_place",
    "sink.erasure.json_text",
    "sink.erasure.new_values",
    "sink.erasure.json_nodes",
    "sink.erasure.json_paths",
    "sink.erasure.mentions",
    "sink.erasure.people",
    "sink.erasure.readings",
    "sink.erasure.naming",
    "sink.erasure.reassign",
    "sink.erasure.rewrite",
    "sink.erasure.scan",
    "sink.erasure.search_terms",
    "sink.erasure.statements",
    "sink.erasure.statement_step",
    "sink.erasure.swap",
    "sink.erasure.work",
    "sink.ledger.pseudonym_key",
    "sink.lms.authz",
    "sink.lms.snapshot",
    "sink.lms.users",
    "sink.lms.values",
}


@dataclass(frozen=True)
class Annotation:
    """What a comment says."""

    pii: str | None
    types: frozenset[str]
    retirement: frozenset[str]
    no_pii: str | None

    @property
    def problem(self) -> str | None:
        """What is wrong with it."""
        if self.no_pii and not (self.pii or self.types or self.retirement):
            return None
        if self.no_pii:
            return "it says both `pii` and `no_pii`"
        if not (self.pii and self.types and self.retirement):
            return "it needs `.. no_pii:`, or `.. pii:` with `.. pii_types:` and `.. pii_retirement:`"
        if unknown := self.types - set(get_args(PiiType)):
            return f"OEP-30 has no type {', '.join(sorted(unknown))}"
        if unknown := self.retirement - RETIREMENTS:
            return f"OEP-30 has no retirement {', '.join(sorted(unknown))}"
        return None


def read_annotation(comments: str) -> Annotation:
    """Read the tokens out of comments."""

    def find(token: str) -> str | None:
        found = re.search(rf"^\W*\.\. {token}:[ ]*(.+)$", comments, re.MULTILINE)
        return found[1].strip() if found else None

    def split(token: str) -> frozenset[str]:
        return frozenset(part.strip() for part in (find(token) or "").split(",") if part.strip())

    return Annotation(find("pii"), split("pii_types"), split("pii_retirement"), find("no_pii"))


def list_created() -> Iterator[tuple[str, Annotation]]:
    """Every table and view of the migrations as (`database.table`, annotation).

    The annotation stands before the statement; one in the first paragraph of a file is for the whole file.
    """
    for path in MIGRATIONS:
        text = path.read_text()
        head = text.split("\n\n")[0]
        for statement in re.split(r";[ ]*\n", text):
            created = re.search(
                r"^CREATE (?:OR REPLACE )?(?:TABLE|VIEW|MATERIALIZED VIEW|DICTIONARY)(?: IF NOT EXISTS)? \$(\w+)\.(\w+)",
                statement,
                re.MULTILINE,
            )
            if created:
                own = read_annotation(statement[: created.start()])
                yield f"{created[1]}.{created[2]}", own if own.pii or own.no_pii else read_annotation(head)


CREATED = dict(list_created())


def test_everything_is_found() -> None:
    # A view may be made anew by a later migration.
    made = r"^CREATE (?!DATABASE).*?\$(\w+\.\w+)"
    names = {name for path in MIGRATIONS for name in re.findall(made, path.read_text(), re.MULTILINE)}
    assert set(CREATED) == names
    assert len(names) >= 8
    assert len(MODELS) >= 5


@pytest.mark.parametrize("name", CREATED)
def test_table_is_annotated(name: str) -> None:
    assert CREATED[name].problem is None


def test_annotated_tables_are_the_targets_of_the_map() -> None:
    pii_map = load_map(find_resource("config/pii.yaml"))
    annotated = {name: annotation.types for name, annotation in CREATED.items() if annotation.pii}
    # course_enrollment is joined with its user id, which the map does not redact: the event stays somebody's.
    # Anonymised events are in the map for an LMS that names actors by their addresses.
    # What upstream alone makes is in the map too.
    targets = {name: pii_map.targets[name] for name in pii_map.targets if name in CREATED}
    targets = {name: target for name, target in targets.items() if not target.is_anonymised}
    mapped = {name: {*target.pii.values(), "id"} for name, target in targets.items()}
    assert len(annotated) >= 4
    assert annotated == {name: frozenset(types) for name, types in mapped.items()}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_dataset_is_annotated(path: Path) -> None:
    comments = "\n".join(line for line in path.read_text().splitlines() if line.lstrip().startswith("--"))
    assert read_annotation(comments).problem is None


def test_modules_that_handle_pii_are_those_that_are_annotated() -> None:
    annotated = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "sink").rglob("*.py")
        if read_annotation(path.read_text()).pii
    }
    assert annotated == HANDLING_PII


@pytest.mark.parametrize("path", sorted((ROOT / "sink").rglob("*.py")), ids=lambda path: path.stem)
def test_annotations_of_modules_are_whole(path: Path) -> None:
    annotation = read_annotation(path.read_text())
    assert annotation.problem is None or annotation == Annotation(None, frozenset(), frozenset(), None)


def test_the_linter_of_open_edx_agrees() -> None:
    """As `make lint` runs it."""
    configured = yaml.safe_load((ROOT / ".annotations.yaml").read_text())["annotations"]["pii_group"]
    choices = {token: words["choices"] for one in configured for token, words in one.items() if words}
    assert choices[".. pii_types:"] == list(get_args(PiiType))
    assert set(choices[".. pii_retirement:"]) == RETIREMENTS
    for folder, least in (("sql", 20), ("dbt_project/models", 60)):
        number, errors = check(ROOT / folder)
        assert (number >= least, errors) == (True, [])


def test_the_linter_of_open_edx_finds_what_is_wrong_in_sql(tmp_path: Path) -> None:
    (tmp_path / "bad.sql").write_text("-- .. pii: Names.\n-- .. pii_types: nome\nselect 1")
    number, errors = check(tmp_path)
    assert (number, len(errors)) == (2, 2)


@pytest.mark.parametrize(
    ("comments", "problem"),
    [
        ("-- nothing", "it needs"),
        ("-- .. pii: Names.\n-- .. pii_types: name", "it needs"),
        ("-- .. pii: Names.\n-- .. pii_types: nome\n-- .. pii_retirement: consumer_api", "no type nome"),
        ("-- .. pii: Names.\n-- .. pii_types: name\n-- .. pii_retirement: never", "no retirement never"),
        ("-- .. no_pii: Ids.\n-- .. pii: Names.", "both"),
    ],
)
def test_wrong_annotation_is_found(comments: str, problem: str) -> None:
    assert problem in (read_annotation(comments).problem or "")
