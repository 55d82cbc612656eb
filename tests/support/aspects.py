"""A stock Aspects in ClickHouse: its tables as `aspects_tables.yaml` lists them, and what flows through them.

What the models compute of events is not made here: a column has what the table that is read has under the same name, or a
default. Who an event is about is found as upstream finds it, and so is what is joined from the dictionary of people.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from sink.clickhouse.client import ClickHouse
from sink.names import quote

_LISTED = yaml.safe_load((Path(__file__).parent / "aspects_tables.yaml").read_text())
MIGRATIONS: dict[str, dict[str, Any]] = _LISTED["migrations"]
MODELS: dict[str, dict[str, Any]] = _LISTED["models"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
COURSE = "course-v1:Org+Demo+2026"
# What a model computes that the others depend on.
_COMPUTED = {
    "xapi.xapi_events_all_parsed": {
        "actor_id": "coalesce(nullIf(JSONExtractString(event, 'actor', 'account', 'name'), ''), "
        "nullIf(JSONExtractString(event, 'actor', 'mbox'), ''), JSONExtractString(event, 'actor', 'mbox_sha1sum'))",
        "object_id": "JSONExtractString(event, 'object', 'id')",
        "verb_id": "JSONExtractString(event, 'verb', 'id')",
        "course_key": f"'{COURSE}'",
        "org": "'Org'",
    },
    "xapi.video_playback_events": {"emission_time_long": "emission_time"},
    "xapi.fact_instance_actors": {
        "actors_cnt": "uniqCombinedState(actor_id)",
        "emission_day": "toStartOfDay(emission_time)",
    },
    "xapi.fact_instance_courses": {
        "courses_cnt": "uniqCombinedState(course_id)",
        "emission_hour": "toStartOfHour(emission_time)",
    },
    "xapi.fact_instance_events": {
        "events_cnt": "uniqCombinedState(event_id)",
        "emission_day": "toStartOfDay(emission_time)",
    },
}
_GROUPED = {"actors_cnt", "courses_cnt", "events_cnt"}
_PEOPLE = "reporting.dim_user_pii"
_PEOPLE_JOIN = (
    f"LEFT JOIN ${_PEOPLE} AS users ON (actor_id LIKE 'mailto:%' AND substring(actor_id, 8) = users.email) "
    "OR actor_id = toString(users.external_user_id)"
)
_USER_PII = (
    "SELECT profiles.user_id AS user_id, if(empty(ids.external_user_id), concat('mailto:', profiles.email), "
    "toString(ids.external_user_id)) AS external_user_id, profiles.username AS username, profiles.name AS name, "
    "profiles.email AS email FROM $event_sink.user_profile AS profiles "
    "LEFT JOIN $event_sink.external_id AS ids ON ids.user_id = profiles.user_id"
)


def create_tables(client: ClickHouse) -> None:
    """What Aspects' own migrations make."""
    for database in ("event_sink", "xapi", "reporting"):
        client.execute(f"CREATE DATABASE IF NOT EXISTS ${database}")
    client.execute("CREATE DATABASE IF NOT EXISTS openedx")
    for name, table in MIGRATIONS.items():
        _create_table(client, name, table)


def create_models(client: ClickHouse) -> None:
    """What Aspects' own `dbt run` makes of them."""
    for name, model in MODELS.items():
        if model["kind"] == "table":
            _create_table(client, name, model)
            client.execute(
                f"CREATE MATERIALIZED VIEW {_place(f'{name}_mv')} TO {_place(name)} AS {_select(name, model)}"
            )
        elif model["kind"] == "view":
            client.execute(f"CREATE VIEW {_place(name)} AS {_select(name, model)}")
        else:
            _create_dictionary(client, name, model)


def replace_enrolments(client: ClickHouse) -> None:
    """Put the table of enrolments as Aspects makes it in the place of ours, which keeps no user name."""
    client.execute("DROP TABLE $event_sink.course_enrollment SYNC")
    _create_table(client, "event_sink.course_enrollment", MIGRATIONS["event_sink.course_enrollment"])


def add_person(client: ClickHouse, user: int, *, username: str, email: str, name: str) -> str:
    """A profile and an anonymous id as upstream's sinks write them, with an enrolment; returns the id."""
    external = str(uuid.uuid5(uuid.NAMESPACE_URL, username))
    dumped = [str(uuid.uuid4()), "2026-01-01 00:00:00.123456+00:00"]
    profile: dict[str, Any] = dict.fromkeys(MIGRATIONS["event_sink.user_profile"]["columns"], "")
    profile |= {"id": user, "user_id": user, "name": name, "username": username, "email": email}
    profile |= dict(zip(("dump_id", "time_last_dumped"), dumped, strict=True))
    client.insert(client.table("event_sink.user_profile"), list(profile), [tuple(profile.values())])
    for table, row in (
        ("external_id", [external, "xapi", username, user, *dumped]),
        ("course_enrollment", [user, COURSE, "2026-01-01", True, "audit", username, user, *dumped]),
    ):
        client.insert(
            client.table(f"event_sink.{table}"), list(MIGRATIONS[f"event_sink.{table}"]["columns"]), [tuple(row)]
        )
    if client.value("SELECT count() FROM system.dictionaries WHERE name = 'user_pii'"):
        client.execute("SYSTEM RELOAD DICTIONARY $event_sink.user_pii")
    return external


def add_statement(client: ClickHouse, actor: dict[str, Any], database: str = "$xapi") -> None:
    """One event about `actor`, which flows into every table that is made of events."""
    statement = {
        "id": str(uuid.uuid4()),
        "actor": {"objectType": "Agent", **actor},
        "verb": {"id": "https://w3id.org/xapi/video/verbs/played"},
        "object": {"id": "https://lms.example.org/xblock/block-v1:Org+Demo+2026+type@video+block@1"},
    }
    client.execute(
        f"INSERT INTO {database}.xapi_events_all (event_id, emission_time, event) "
        "SELECT {event:UUID}, {time:DateTime64(6)}, {text:String}",
        repeatable=False,
        event=statement["id"],
        time=NOW,
        text=json.dumps(statement),
    )


def add_tracking_log(client: ClickHouse, *, username: str, user_id: int | None, event: dict[str, Any]) -> None:
    """A line of the LMS's tracking log, as Vector stores it."""
    message = {
        "name": "edx.instructor.student.viewed",
        "username": username,
        "context": {"user_id": user_id, "course_id": COURSE, "path": "/event"},
        "ip": "203.0.113.7",
        "agent": "Mozilla/5.0",
        "event": event,
        "event_source": "server",
        "time": "2026-01-01T00:00:00.000000+00:00",
    }
    client.insert(client.table("openedx._tracking"), ["time", "message"], [(NOW, json.dumps(message))])


def _place(name: str) -> str:
    database, table = name.split(".")
    return f"{'' if database == 'openedx' else '$'}{database}.{quote(table)}"


def _create_table(client: ClickHouse, name: str, table: dict[str, Any]) -> None:
    columns = ", ".join(f"{quote(column)} {kind}" for column, kind in table["columns"].items())
    partition = f"PARTITION BY {table['partition_by']}" if "partition_by" in table else ""
    order = ", ".join(quote(part.strip()) for part in table["order_by"].strip("()").split(","))
    client.execute(
        f"CREATE TABLE IF NOT EXISTS {_place(name)} ({columns}) ENGINE = {table['engine']} {partition} ORDER BY ({order})"
    )


def _create_dictionary(client: ClickHouse, name: str, model: dict[str, Any]) -> None:
    columns = ", ".join(f"{quote(column)} {kind}" for column, kind in model["columns"].items())
    query = (_USER_PII if name == "event_sink.user_pii" else _select(name, model)).replace('"', "`")
    client.execute(
        f"CREATE DICTIONARY {_place(name)} ({columns}) PRIMARY KEY {model['key']} "
        f'SOURCE(CLICKHOUSE(QUERY "{query}")) LAYOUT({model["layout"]}) LIFETIME(120)'
    )


def _select(name: str, model: dict[str, Any]) -> str:
    source, *others = model["reads"]
    there = (MODELS.get(source) or MIGRATIONS[source])["columns"]
    people = MODELS[_PEOPLE]["columns"] if _PEOPLE in others else {}
    computed = _COMPUTED.get(name, {})
    shown = []
    for column, kind in model["columns"].items():
        if column in computed:
            value = computed[column]
        elif column in people:
            value = f"users.{column}"
        elif column in there:
            value = f"source.{quote(column)}"
        else:
            value = f"defaultValueOfTypeName('{kind}')"
        shown.append(f"{value if column in _GROUPED else f'CAST({value} AS {kind})'} AS {quote(column)}")
    grouped = _GROUPED & set(model["columns"])
    group = (
        f"GROUP BY {', '.join(quote(column) for column in model['columns'] if column not in grouped)}"
        if grouped
        else ""
    )
    return f"SELECT {', '.join(shown)} FROM {_place(source)} AS source {_PEOPLE_JOIN if people else ''} {group}"
