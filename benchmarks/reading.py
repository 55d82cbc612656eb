"""What a chart costs: of the courses of one viewer, and of all; with the statements kept, and read from their text."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.pairs import Ratio, Work, compare
from benchmarks.stores import new_store
from sink.clickhouse.client import ClickHouse
from sink.datasets.build import build
from sink.visibility import render_visible_to

_COURSES = 200
_STATEMENTS_A_USER = 20
_AT_ONCE = 1_000_000
_ONLY_MODELS = ["--exclude-resource-type", "test"]
_DATASET = "learners_at_risk"


def measure(users: int) -> list[Ratio]:
    """Charts of `users` people's statements, twenty each, in 200 courses of ten organisations."""
    with new_store() as store:
        kept = store.client
        statements = users * _STATEMENTS_A_USER
        _fill_people(kept, users)
        _fill_statements(kept, 0, statements // 4, users)
        direct = ClickHouse(replace(kept.address, databases=kept.databases | {"reporting": "reporting_direct"}))
        pseudonyms = ClickHouse(replace(kept.address, databases=kept.databases | {"reporting": "reporting_pseudonyms"}))
        with direct, pseudonyms:
            build(direct.address, _ONLY_MODELS, enable_pii=True, keeps_events=False)
            build(kept.address, _ONLY_MODELS, enable_pii=True)
            few = _measure_course(kept)
            _fill_statements(kept, statements // 4, statements, users)
            build(pseudonyms.address, _ONLY_MODELS, enable_pii=False)
            return [
                few,
                compare(
                    f"a course of 200, {statements:,} statements: kept / from the text",
                    _chart(kept, "teacher"),
                    _chart(direct, "teacher"),
                ),
                compare(
                    f"all courses, {statements:,} statements: kept / from the text",
                    _chart(kept, "manager"),
                    _chart(direct, "manager"),
                ),
                compare(
                    "a course: with people / with pseudonyms",
                    _count(kept, f"course_key = '{_name_course(7)}'"),
                    _count(pseudonyms, f"course_key = '{_name_course(7)}'"),
                    aim="1.3 at most",
                ),
            ]


def _name_course(number: int) -> str:
    return f"course-v1:Org{number % 10}+C{number}+2026"


def _chart(client: ClickHouse, viewer: str) -> Work:
    return _count(client, render_visible_to(f"'{viewer}'", client.databases["reporting"]))


def _count(client: ClickHouse, condition: str) -> Work:
    return lambda run: client.rows(
        f"SELECT course_name, count(), max(days_absent) FROM $reporting.{_DATASET} WHERE {condition} GROUP BY course_name"
    )


def _measure_course(client: ClickHouse) -> Ratio:
    work = _chart(client, "teacher")
    return compare("a course of 200, with a quarter of the statements, twice", work, work)


def _fill_people(client: ClickHouse, users: int) -> None:
    client.execute(
        "INSERT INTO $event_sink.user_profile (id, user_id, name, username, email) SELECT number + 1, number + 1, "
        "concat('n', toString(number)), concat('u', toString(number)), concat('u', toString(number), '@example.com') "
        f"FROM numbers({users})"
    )
    client.execute(
        "INSERT INTO $event_sink.external_id (external_user_id, external_id_type, username, user_id) "
        "SELECT toUUID(concat('00000000-0000-4000-8000-', leftPad(toString(number + 1), 12, '0'))), 'xapi', "
        f"concat('u', toString(number)), number + 1 FROM numbers({users})"
    )
    client.execute(
        "INSERT INTO $event_sink.user_profile (id, user_id, username) VALUES "
        f"({users + 1}, {users + 1}, 'teacher'), ({users + 2}, {users + 2}, 'manager')"
    )
    client.execute(
        "INSERT INTO $event_sink.course_access (user_id, username, org, course_key, role) VALUES "
        f"({users + 1}, 'teacher', 'Org7', '{_name_course(7)}', 'staff'), ({users + 2}, 'manager', '', '', 'staff')"
    )
    client.execute(
        "INSERT INTO $event_sink.course_overviews (org, course_key, display_name, time_last_dumped) "
        "SELECT concat('Org', toString(number % 10)), "
        "concat('course-v1:Org', toString(number % 10), '+C', toString(number), '+2026'), "
        f"concat('Course ', toString(number)), '2026-01-01 00:00:00' FROM numbers({_COURSES})"
    )


def _fill_statements(client: ClickHouse, begin: int, end: int, users: int) -> None:
    """Statements of a kilobyte, half of them visits, over two years at most."""
    for start in range(begin, end, _AT_ONCE):
        client.execute(
            "INSERT INTO $xapi.xapi_events_all SELECT generateUUIDv4(), "
            "toDateTime64('2025-01-01 00:00:00', 6) + number % 60000000, concat("
            '\'{"actor":{"account":{"name":"00000000-0000-4000-8000-\', leftPad(toString(1 + cityHash64(number) '
            f'% {users}), 12, \'0\'), \'"}}}},"verb":{{"id":"\', verb, \'"}},"object":{{"id":"http://lms.example.org/\', '
            "if(number % 10 IN (0, 7), 'course/', concat('xblock/', toString(number % 100), '?of=')), course, "
            '\'","definition":{"extensions":{"https://w3id.org/xapi/acrossx/extensions/type":"audit"}}},"result":\', '
            '\'{"success":true,"score":{"scaled":0.7}},"context":{"contextActivities":{"parent":[{"id":"\', '
            "'http://lms.example.org/course/', course, "
            '\'","definition":{"type":"http://adlnet.gov/expapi/activities/course"}}]},"extensions":{"padding":"\', '
            "repeat('p', 400), '\"}}}') FROM (SELECT number, intHash32(number) "
            f"% {_COURSES} AS n, concat('course-v1:Org', toString(n % 10), '+C', toString(n), '+2026') AS course, "
            "['http://adlnet.gov/expapi/verbs/registered', 'https://w3id.org/xapi/dod-isd/verbs/navigated', "
            "'https://w3id.org/xapi/video/verbs/played', 'https://w3id.org/xapi/video/verbs/paused', "
            "'https://w3id.org/xapi/acrossx/verbs/evaluated', 'https://w3id.org/xapi/dod-isd/verbs/navigated', "
            "'https://w3id.org/xapi/dod-isd/verbs/navigated', 'http://id.tincanapi.com/verb/earned', "
            "'https://w3id.org/xapi/dod-isd/verbs/navigated', 'https://w3id.org/xapi/video/verbs/played']"
            f"[1 + number % 10] AS verb FROM numbers({start}, {min(_AT_ONCE, end - start)}))"
        )
