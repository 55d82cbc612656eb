"""A package holds exactly what the tables hold of its subject, and nothing of anybody else, whoever and whatever that is."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.integration.rights.conftest import Package, World, account, make_statement

# Every text that ClickHouse takes from Python; Hypothesis likes odd ones.
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
PROFILE = ("user_id", "username", "name", "email", "bio", "phone_number")


@dataclass(frozen=True)
class Person:
    """Somebody's rows, with a token in each that nobody else has."""

    user_id: int
    profiles: list[tuple[Any, ...]]
    external_ids: list[uuid.UUID]
    courses: list[str]
    events: int

    @property
    def token(self) -> str:
        """What stands in the texts of this person alone."""
        return f"token{self.user_id:06d}x"

    def list_statements(self) -> list[str]:
        """The person's events."""
        return [
            json.dumps(make_statement(account(external_id), id=f"{self.token}-{number}"))
            for external_id in self.external_ids
            for number in range(self.events)
        ]


@st.composite
def people(draw: st.DrawFn) -> list[Person]:
    """Some people with different ids; their texts may be alike."""
    ids = draw(st.lists(st.integers(1, 10**6 - 1), min_size=2, max_size=40, unique=True))
    shared = draw(st.lists(TEXTS, min_size=1, max_size=3))
    found = []
    for user_id in ids:
        texts = st.one_of(st.sampled_from(shared), TEXTS)
        of_token = st.builds(f"token{user_id:06d}x{{}}".format, texts)
        profile = st.tuples(st.just(user_id), texts, texts, texts, of_token, texts)
        found.append(
            Person(
                user_id,
                draw(st.lists(profile, max_size=2)),
                draw(st.lists(st.uuids(version=4), max_size=2)),
                draw(st.lists(texts, max_size=3)),
                draw(st.integers(0, 2)),
            )
        )
    return found


def write(world: World, persons: list[Person]) -> None:
    """All rows of all people, a table at a time, in the place of what was there."""
    client = world.store.client
    # What the engine would put together, it puts together when it is inserted.
    client.execute("SYSTEM STOP MERGES")
    for table in ("event_sink.user_profile", "event_sink.external_id", "event_sink.course_enrollment"):
        client.execute(f"TRUNCATE TABLE ${table}")
    client.execute("TRUNCATE TABLE $xapi.xapi_events_all")
    world.insert("event_sink.user_profile", PROFILE, *[row for p in persons for row in p.profiles])
    ids = [(p.user_id, p.token, external_id, "xapi") for p in persons for external_id in p.external_ids]
    world.insert("event_sink.external_id", ("user_id", "username", "external_user_id", "external_id_type"), *ids)
    enrollments = [(n, c, p.user_id, p.token) for p in persons for n, c in enumerate(p.courses, p.user_id * 10)]
    world.insert("event_sink.course_enrollment", ("id", "course_key", "user_id", "username"), *enrollments)
    events = [(uuid.uuid4(), statement) for p in persons for statement in p.list_statements()]
    world.insert("xapi.xapi_events_all", ("event_id", "event"), *events)


def count(rows: list[dict[str, Any]], *columns: str) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(row[column] for column in columns) for row in rows)


def check(world: World, package: Package, person: Person, persons: list[Person]) -> None:
    """Hold a package against what was written of the person, and of the others."""
    columns = ", ".join(PROFILE)
    held = world.store.client.rows(
        f"SELECT {columns} FROM $event_sink.user_profile WHERE user_id = {{id:Int64}}", id=person.user_id
    )
    assert count(package.rows("data/event_sink.user_profile"), *PROFILE) == Counter(held)
    assert {*held} <= {*person.profiles}
    assert bool(held) == bool(person.profiles)
    ids = package.rows("data/event_sink.external_id")
    assert {row["external_user_id"] for row in ids} == {*map(str, person.external_ids)}
    courses = package.rows("data/event_sink.course_enrollment")
    assert count(courses, "course_key") == Counter((course,) for course in person.courses)
    events = package.rows("events/xapi.xapi_events_all")
    assert count(events, "event") == Counter((statement,) for statement in person.list_statements())
    for part in package.manifest["parts"]:
        names = {file["name"].rpartition(".")[0] for file in part["files"]}
        assert len(names) == 1
        assert len(package.rows(*names)) == len(package.cells(*names)) == part["rows"] > 0
    everything = package.everything.decode("utf-8", "replace")
    assert [other.user_id for other in persons if other is not person and other.token in everything] == []


@settings(
    max_examples=6,
    deadline=None,
    # An example takes seconds: what fails is told as it was found.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(persons=people(), pick=st.randoms(use_true_random=False))
def test_round_trip(embedded: World, persons: list[Person], pick: Any) -> None:
    write(embedded, persons)
    held = [p for p in persons if p.profiles or p.external_ids or p.courses]
    for person in pick.sample(held, min(2, len(held))):
        check(embedded, embedded.export("--without-mentions", subject=person.user_id), person, persons)
    for person in [p for p in persons if p not in held][:1]:
        ran = embedded.run("export", person.user_id, "-o", embedded.folder / "none.zip", "--without-mentions")
        assert (ran.status, list(embedded.folder.iterdir())) == (2, [])
