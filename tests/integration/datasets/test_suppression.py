"""Demographics point at nobody: no small number is shown, and none can be computed from what is shown."""

from __future__ import annotations

import itertools
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sink.clickhouse.address import Address
from sink.clickhouse.client import ClickHouse
from sink.clickhouse.migrations import migrate
from sink.datasets.build import build

DATABASES = {"event_sink": "event_sink", "xapi": "xapi", "reporting": "reporting", "pii_ledger": "pii_ledger"}
SMALLEST_CELL = 5
HIDDEN = "Too few to show"
GENDERS = {"f": "Female", "m": "Male", "o": "Other"}


class Learner(NamedTuple):
    """Who enrols in a course of these tests."""

    gender: str = "f"
    country: str = "ES"
    state: str = ""


class Cell(NamedTuple):
    """A row of the dataset."""

    dimension: str
    country: str
    value: str
    learners: int | None


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """An engine with the dataset and nobody in it."""
    address = Address(f"chdb://{tmp_path_factory.mktemp('clickhouse')}", databases=DATABASES)
    with ClickHouse(address) as client:
        migrate(client)
        build(address, ["--select", "+enrollment_demographics", "--exclude-resource-type", "test"], enable_pii=True)
        yield client


_user_ids = itertools.count(1)


def enrol(client: ClickHouse, learners: Iterable[tuple[str, Learner]]) -> None:
    """Put learners into courses, given as (course, learner)."""
    profiles, external_ids, events = [], [], []
    for course, learner in learners:
        user_id = next(_user_ids)
        actor = uuid.UUID(int=user_id)
        profiles.append((user_id, user_id, learner.gender, learner.country, learner.state))
        external_ids.append((actor, "xapi", user_id))
        statement = {
            "actor": {"account": {"name": str(actor)}},
            "verb": {"id": "http://adlnet.gov/expapi/verbs/registered"},
            "object": {"id": f"http://lms.example.com/course/{course}"},
        }
        events.append((uuid.uuid4(), json.dumps(statement)))
    tables = (
        ("event_sink.user_profile", ["id", "user_id", "gender", "country", "state"], profiles),
        ("event_sink.external_id", ["external_user_id", "external_id_type", "user_id"], external_ids),
        ("xapi.xapi_events_all", ["event_id", "event"], events),
    )
    for table, columns, rows in tables:
        client.insert(client.table(table), columns, rows)


def read_cells(client: ClickHouse, where: str, **values: Any) -> dict[str, list[Cell]]:
    """The dataset by course."""
    courses: dict[str, list[Cell]] = defaultdict(list)
    for course, *cell in client.rows(
        f"SELECT course_key, dimension, country, value, learners FROM $reporting.enrollment_demographics WHERE {where}",
        **values,
    ):
        courses[course].append(Cell(*cell))
    return courses


def test_no_hidden_number_follows_from_what_is_shown_and_the_total(datasets: ClickHouse) -> None:
    """Every course of three genders with up to seven learners each: whoever sees a publication, knows the total and
    this algorithm, is left with several possible numbers for each hidden cell."""
    worlds = {
        f"course-v1:All+{'-'.join(map(str, counts))}+2026": counts
        for counts in itertools.product(range(SMALLEST_CELL + 3), repeat=len(GENDERS))
        if any(counts)
    }
    enrol(
        datasets,
        (
            (course, Learner(gender))
            for course, counts in worlds.items()
            for gender, count in zip(GENDERS, counts, strict=True)
            for _ in range(count)
        ),
    )
    published = read_cells(datasets, "dimension = 'gender'")
    assert len(published) == len(worlds) == 511

    possible: dict[tuple[int, tuple[Cell, ...]], list[Sequence[int]]] = defaultdict(list)
    for course, counts in worlds.items():
        possible[sum(counts), tuple(sorted(published[course]))].append(counts)
    with_hidden_cells = 0
    for (_, cells), alternatives in possible.items():
        shown = {cell.value: cell.learners for cell in cells if cell.learners is not None}
        assert all(learners >= SMALLEST_CELL for learners in shown.values())
        if len(shown) == len(cells):
            continue
        with_hidden_cells += 1
        for index, label in enumerate(GENDERS.values()):
            if label not in shown:
                assert len({counts[index] for counts in alternatives}) > 1, alternatives
    assert with_hidden_cells > 20


_learners = st.lists(
    st.builds(
        Learner,
        gender=st.sampled_from(["f", "m", "o", ""]),
        country=st.sampled_from(["ES", "ES", "DE", "FR", ""]),
        state=st.sampled_from(["A", "A", "A", "B", "C"]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_learners)
def test_rest_of_any_total_is_never_a_small_number(datasets: ClickHouse, learners: list[Learner]) -> None:
    course = f"course-v1:Any+{uuid.uuid4().hex}+2026"
    enrol(datasets, ((course, learner) for learner in learners))
    cells = read_cells(datasets, "course_key = {course:String}", course=course)[course]
    assert {cell.dimension for cell in cells} >= {"country", "gender", "age_group", "level_of_education"}
    assert all(cell.learners is None or cell.learners >= SMALLEST_CELL for cell in cells)

    countries = Counter(learner.country or "Unknown" for learner in learners)
    shown_countries = {cell.value for cell in cells if cell.dimension == "country" and cell.learners is not None}
    # States of a country that is hidden are not even mentioned.
    assert {cell.country for cell in cells if cell.dimension == "state"} == shown_countries

    tables: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        tables[cell.dimension, cell.country].append(cell)
    for (dimension, country), table in tables.items():
        total = countries[country] if dimension == "state" else len(learners)
        hidden = total - sum(cell.learners or 0 for cell in table)
        assert any(cell.value == HIDDEN for cell in table) == (hidden > 0)
        # Either a full cell's worth, or nothing at all is shown of the table.
        assert hidden == 0 or hidden >= SMALLEST_CELL or len(table) == 1
        # Every number that is shown is right.
        counts = Counter(
            {"country": x.country or "Unknown", "state": x.state, "gender": GENDERS.get(x.gender, "Unknown")}.get(
                dimension, "Unknown"
            )
            for x in learners
            if dimension != "state" or (x.country or "Unknown") == country
        )
        assert all(cell.learners == counts[cell.value] for cell in table if cell.learners is not None)
