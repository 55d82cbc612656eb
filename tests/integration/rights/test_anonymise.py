"""A copy with invented people is to the original as a name is to another: nobody of it is left, and everything fits as before."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from sink.clickhouse.client import ClickHouse
from sink.demo_data.events import (
    COURSE_ENROLLMENT_COLUMNS,
    COURSE_OVERVIEW_COLUMNS,
    course_enrollment_rows,
    course_overview_rows,
    event_rows,
)
from sink.demo_data.lms import create_lms
from sink.installation import open_store
from sink.rights.anonymise import anonymise
from sink.rights.dev_copy.targets import read_copy
from sink.settings import load_settings
from sink.store import Store
from tests.integration.rights.conftest import World, account, make_statement
from tests.support.dev_copy import copy_production

# Beside a token that nobody else has: what people are called, in every script, with what JSON and SQL make of it.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="@", exclude_categories=["Cc"]), max_size=6)
TABLES = (
    "event_sink.user_profile",
    "event_sink.external_id",
    "event_sink.course_access",
    "event_sink.course_enrollment",
)
EVENTS = "xapi.xapi_events_all"


@dataclass(frozen=True)
class Person:
    """Somebody whose every name has a token that nobody else has."""

    user_id: int
    odd: str = field(repr=False)
    external_ids: list[uuid.UUID] = field(repr=False)
    named_by: list[str]
    """How each of the person's events names them."""

    @property
    def token(self) -> str:
        return f"tok{self.user_id:07d}z"

    @property
    def username(self) -> str:
        return f"{self.token}_u"

    @property
    def address(self) -> str:
        return f"{self.token.upper() if self.user_id % 2 else self.token}.a@school.example.org"

    @property
    def name(self) -> str:
        return f"{self.token} Quetzal {self.odd}"

    @property
    def actor(self) -> dict[str, Any]:
        return (
            account(self.external_ids[0]) if self.external_ids else {"openid": f"https://id.example.org/{self.token}"}
        )

    def list_statements(self) -> list[str]:
        """The person's events, each naming them in another way."""
        agents = {
            "account": self.actor,
            "username": {"account": {"name": self.username, "homePage": "https://lms.example.org"}},
            "mbox": {"mbox": f"mailto:{self.address}", "name": self.name},
            "lower": {"mbox": f"mailto:{self.address.lower()}"},
            "digest": {"mbox_sha1sum": hashlib.sha1(f"mailto:{self.address}".encode()).hexdigest()},
            "text": {**self.actor},
        }
        return [
            json.dumps(
                make_statement(
                    agents[way],
                    object={
                        "id": f"https://lms.example.org/course/c{number}",
                        "definition": {"name": {"en": "A course"}},
                    },
                    **(
                        {
                            "result": {
                                "response": f"Ask {self.name} ({self.address}), https://lms.example.org/u/{self.username} "
                                f"or {next(iter(self.external_ids), '')}; mailto%3A{self.address.replace('@', '%40')}"
                            }
                        }
                        if way == "text"
                        else {}
                    ),
                ),
                ensure_ascii=number % 2 == 0,
            )
            for number, way in enumerate(self.named_by)
        ]


@st.composite
def people(draw: st.DrawFn) -> list[Person]:
    """Some people with different ids."""
    ids = draw(st.lists(st.integers(1, 10**6), min_size=2, max_size=25, unique=True))
    ways = st.sampled_from(["account", "username", "mbox", "lower", "digest", "text"])
    return [
        Person(
            user_id,
            draw(TEXTS),
            draw(st.lists(st.uuids(version=4), max_size=2, unique=True)),
            draw(st.lists(ways, max_size=5)),
        )
        for user_id in ids
    ]


def write(world: World, persons: list[Person]) -> None:
    """All rows of all people, in the place of what was there."""
    client = world.store.client
    client.execute("SYSTEM STOP MERGES")
    for table in (*TABLES, EVENTS):
        client.execute(f"TRUNCATE TABLE ${table}")
    world.insert(
        "event_sink.user_profile",
        ("user_id", "username", "name", "email", "bio", "phone_number", "city", "country", "gender"),
        *[
            (
                p.user_id,
                p.username,
                p.name,
                p.address,
                f"I am {p.name}",
                f"+{p.token}",
                p.token,
                "PE" if n % 3 else "ES",
                "f",
            )
            for n, p in enumerate(persons)
        ],
    )
    # An earlier version of a profile, under a user name that was given up; in the same insert it would be none.
    former = [(p.user_id, f"{p.token}_old", p.name, p.address) for p in persons[::3]]
    world.insert("event_sink.user_profile", ("user_id", "username", "name", "email"), *former)
    ids = [(p.user_id, p.username, external_id, "xapi") for p in persons for external_id in p.external_ids]
    world.insert("event_sink.external_id", ("user_id", "username", "external_user_id", "external_id_type"), *ids)
    access = [(p.user_id, p.username, "Org", f"c{n % 3}", "staff") for n, p in enumerate(persons[::2])]
    world.insert("event_sink.course_access", ("user_id", "username", "org", "course_key", "role"), *access)
    enrollments = [(n, f"c{n % 4}", p.user_id, p.username) for n, p in enumerate(persons)]
    # Somebody without a profile.
    enrollments += [(9_999_999, "c0", 2_000_000, "tok2000000z_gone")]
    world.insert("event_sink.course_enrollment", ("id", "course_key", "user_id", "username"), *enrollments)
    events = [(uuid.UUID(int=n), text) for n, text in enumerate(s for p in persons for s in p.list_statements())]
    world.insert(EVENTS, ("event_id", "event"), *events)


# How tables fit together: counts, joins and groups, of which none says who anybody is.
SHAPES = {
    "rows": "SELECT count() FROM {db}{table}",
    "people": "SELECT uniqExact(user_id), uniqExact(username) FROM {db}event_sink.user_profile",
    "versions": "SELECT groupArray(n) FROM (SELECT count() AS n FROM {db}event_sink.user_profile GROUP BY user_id ORDER BY n)",
    "countries": "SELECT country, gender, count() FROM {db}event_sink.user_profile GROUP BY ALL ORDER BY ALL",
    "ids of people": "SELECT count() FROM {db}event_sink.user_profile AS p INNER JOIN {db}event_sink.external_id AS e "
    "ON p.user_id = e.user_id AND p.username = e.username",
    "roles by name": "SELECT course_key, count() FROM {db}event_sink.course_access AS a INNER JOIN "
    "{db}event_sink.user_profile AS p ON a.username = p.username WHERE a.user_id = p.user_id GROUP BY ALL ORDER BY ALL",
    "courses": "SELECT course_key, country, count() FROM {db}event_sink.course_enrollment AS c LEFT JOIN "
    "{db}event_sink.user_profile AS p ON c.user_id = p.user_id GROUP BY ALL ORDER BY ALL",
    "events by id": "SELECT count(), uniqExact(e.user_id) FROM {db}xapi.xapi_events_all AS x INNER JOIN "
    "{db}event_sink.external_id AS e ON JSONExtractString(event, 'actor', 'account', 'name') = toString(external_user_id)",
    "events by name": "SELECT count() FROM {db}xapi.xapi_events_all AS x INNER JOIN {db}event_sink.user_profile AS p "
    "ON JSONExtractString(event, 'actor', 'account', 'name') = p.username",
    "events by address": "SELECT count() FROM {db}xapi.xapi_events_all AS x INNER JOIN {db}event_sink.user_profile AS p "
    "ON JSONExtractString(event, 'actor', 'mbox') = concat('mailto:', p.email)",
    "events by small address": "SELECT count() FROM {db}xapi.xapi_events_all AS x INNER JOIN {db}event_sink.user_profile AS p "
    "ON lower(JSONExtractString(event, 'actor', 'mbox')) = lower(concat('mailto:', p.email))",
    "events by digest": "SELECT count() FROM {db}xapi.xapi_events_all AS x INNER JOIN {db}event_sink.user_profile AS p "
    "ON JSONExtractString(event, 'actor', 'mbox_sha1sum') = lower(hex(SHA1(concat('mailto:', p.email))))",
    "named": "SELECT count() FROM {db}xapi.xapi_events_all AS x INNER JOIN {db}event_sink.user_profile AS p "
    "ON JSONExtractString(event, 'actor', 'name') = p.name",
    "schemes": "SELECT countIf(position(event, 'mailto') > 0) FROM {db}xapi.xapi_events_all",
    "what was done": "SELECT event_id, JSONExtractString(event, 'object', 'id'), JSONExtractString(event, 'verb', 'id'), "
    "JSONExtractKeys(event) FROM {db}xapi.xapi_events_all ORDER BY ALL",
}


def read_shapes(client: ClickHouse, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        table: client.rows(SHAPES["rows"].format(db=prefix, table=table)) for table in (*TABLES, EVENTS)
    }
    return found | {name: client.rows(sql.format(db=prefix)) for name, sql in SHAPES.items() if name != "rows"}


def read_all(client: ClickHouse, database: str) -> list[str]:
    """Every cell of every table of a database, in small letters."""
    tables = client.column("SELECT name FROM system.tables WHERE database = {database:String}", database=database)
    assert tables
    settings = {"apply_deleted_mask": 0, "asterisk_include_materialized_columns": 1}
    return [
        text
        for table in tables
        for text in client.column(f"SELECT lowerUTF8(toString(tuple(*))) FROM `{database}`.`{table}`", settings)
    ]


@settings(
    max_examples=6,
    deadline=None,
    # An example takes seconds: what fails is told as it was found.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# A letter since Unicode 15, which Python 3.11 does not know and ClickHouse does.
@example(persons=[Person(1472, "\U000320d6", [uuid.UUID(int=4 << 76 | 1 << 63)], ["text"]), Person(1473, "", [], [])])
@given(persons=people())
def test_nobody_is_left_and_everything_fits(embedded: World, persons: list[Person]) -> None:
    write(embedded, persons)
    store = embedded.store
    names = copy_production(store.client, "event_sink", "xapi")
    before = read_shapes(store.client, "dev_")

    done = anonymise(store, read_copy(store, names), allowed=True)

    assert done.left == []
    assert read_shapes(store.client, "dev_") == before
    assert read_shapes(store.client, "") == before, "production is as it was"
    texts = [text for name in names for text in read_all(store.client, name)]
    assert len(texts) >= 2 * len(persons)
    external_ids = {str(external_id) for p in persons for external_id in p.external_ids}
    assert [text for text in texts if "tok" in text or "quetzal" in text] == []
    assert [text for text in texts for external_id in external_ids if external_id in text] == []
    ids = {person.user_id for person in persons}
    for table in TABLES:
        assert not ids & set(store.client.column(f"SELECT user_id FROM dev_{table}"))


DATASETS = (
    *("enrolled_learners", "learner_progress", "learners_at_risk", "learner_timeline", "enrollment_demographics"),
    *("fact_enrollments", "dim_student_status"),
)
PEOPLE = ("user_id", "learner_key", "learner_id", "actor_id", "external_user_id", "username", "name", "email", "viewer")


def read_figures(client: ClickHouse, database: str) -> dict[str, Counter[str]]:
    """All rows of the datasets, without the columns that say who somebody is."""
    figures = {}
    for name in DATASETS:
        columns = client.column(
            "SELECT name FROM system.columns WHERE database = {database:String} AND table = {table:String} ORDER BY position",
            database=database,
            table=name,
        )
        kept = ", ".join(f"`{column}`" for column in columns if column not in PEOPLE)
        assert columns, name
        figures[name] = Counter(map(str, client.rows(f"SELECT {kept or '1'} FROM `{database}`.`{name}`")))
    return figures


def test_datasets_on_a_copy_have_the_same_figures(
    aspects_pii: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASPECTS_ENABLE_PII", "true")
    monkeypatch.setenv("ASPECTS_ALLOW_ANONYMISE", "true")
    monkeypatch.setenv("ASPECTS_LMS_DATABASE_URL", f"sqlite:///{tmp_path}/lms.sqlite3")
    until = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    lms = create_lms(os.environ["ASPECTS_LMS_DATABASE_URL"], users=240, seed=7, until=until)
    assert aspects_pii("init").status == 0
    with open_store(load_settings()) as store:
        load_aspects(store, lms)
    assert aspects_pii("sync").status == 0
    assert aspects_pii("build", "--quiet").status == 0
    with open_store(load_settings()) as store:
        copy_production(store.client, "event_sink", "xapi")
        # It reads a dataset, which is not copied.
        store.client.execute("DROP DICTIONARY dev_event_sink.user_pii")
    ran = aspects_pii("anonymise", "--database", "dev_event_sink", "--database", "dev_xapi", "--yes", "--json")
    assert ran.json["left"] == []

    dev = {f"{name}_DATABASE": f"dev_{name.lower()}" for name in ("EVENT_SINK", "XAPI", "REPORTING", "LEDGER")}
    assert aspects_pii("init", **dev).status == 0
    # With its data tests, which are green or the build is not.
    built = aspects_pii("build", "--quiet", **dev)
    assert (built.status, built.err) == (0, "")
    with open_store(load_settings()) as store:
        wanted, found = (read_figures(store.client, database) for database in ("reporting", "dev_reporting"))
        assert all(sum(figures.values()) >= 10 for figures in wanted.values()), {
            n: f.total() for n, f in wanted.items()
        }
        assert found == wanted
        assert (
            store.client.value("SELECT count() FROM dev_reporting.enrolled_learners WHERE name LIKE 'Learner %'") > 100
        )
        shown = "SELECT DISTINCT name FROM {database}.enrolled_learners"
        people_of_production, people_of_copy = (
            set(store.client.column(shown.format(database=name))) for name in ("reporting", "dev_reporting")
        )
        assert len(people_of_copy) >= 100
        assert not people_of_production & people_of_copy


def load_aspects(store: Store, lms: Any) -> None:
    """What Aspects would have put into ClickHouse."""
    client = store.client
    for rows in course_enrollment_rows(lms):
        client.insert(client.table("event_sink.course_enrollment"), COURSE_ENROLLMENT_COLUMNS, rows)
    client.insert(client.table("event_sink.course_overviews"), COURSE_OVERVIEW_COLUMNS, course_overview_rows(lms))
    for events in event_rows(lms):
        client.insert(client.table(EVENTS), ("event_id", "emission_time", "event"), events)
