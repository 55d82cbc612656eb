"""Restricting somebody: their PII stays, no dataset shows it, and the commands say what was looked at."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from sink.clickhouse.migrations import migrate
from sink.datasets.build import build, list_datasets
from sink.installation import open_store
from sink.retirement.retire import retire
from sink.rights.restriction import unrestrict
from sink.settings import Settings, load_settings
from sink.store import Store

COURSE = "course-v1:Org+A+2026"
# By id, by address, by the digest of an address.
ANA, BEN, CLEO = 910101, 910102, 910103
OTHERS = range(1, 11)
WORDS = {ANA: "canary-ibex-ana", BEN: "canary-ibex-ben", CLEO: "canary-ibex-cleo"}


def mail(user: int) -> str:
    return f"{WORDS.get(user, f'other{user}')}@Example.org"


def external_id(user: int) -> uuid.UUID:
    return uuid.UUID(int=0x4000 << 64 | user)


def find_actor(user: int) -> dict[str, Any]:
    if user == BEN:
        return {"mbox": f"mailto:{mail(user)}"}
    if user == CLEO:
        return {"mbox_sha1sum": hashlib.sha1(f"mailto:{mail(user)}".encode()).hexdigest()}
    return {"account": {"name": str(external_id(user))}}


def write_statement(user: int) -> str:
    return json.dumps(
        {
            "actor": find_actor(user),
            "verb": {"id": "http://adlnet.gov/expapi/verbs/registered"},
            "object": {"id": f"http://lms.example.org/course/{COURSE}"},
        }
    )


def add_people(store: Store) -> None:
    """Everybody is enrolled in one course, and everybody may see its learners."""
    people = [*OTHERS, *WORDS]
    names = [WORDS.get(user, f"other{user}") for user in people]
    insert, table = store.client.insert, store.client.table
    insert(
        table("event_sink.user_profile"),
        ("id", "user_id", "name", "username", "email", "country", "year_of_birth", "time_last_dumped"),
        [(u, u, n, n, mail(u), "PT", "1990", "2026-01-01 00:00:00") for u, n in zip(people, names, strict=True)],
    )
    insert(
        table("event_sink.external_id"),
        ("external_user_id", "external_id_type", "username", "user_id", "time_last_dumped"),
        [
            (external_id(u), "xapi", n, u, "2026-01-01 00:00:00")
            for u, n in zip(people, names, strict=True)
            if u not in (BEN, CLEO)
        ],
    )
    insert(
        table("event_sink.course_access"),
        ("user_id", "username", "org", "course_key", "role"),
        [(u, n, "Org", COURSE, "staff") for u, n in zip(people, names, strict=True)],
    )
    insert(
        table("xapi.xapi_events_all"),
        ("event_id", "emission_time", "event"),
        [(uuid.uuid4(), datetime(2026, 1, 2, tzinfo=UTC), write_statement(user)) for user in people],
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Settings]]:
    """Thirteen people, and every dataset."""
    folder = tmp_path_factory.mktemp("restriction")
    settings = load_settings(
        enable_pii=True,
        clickhouse_url=f"chdb://{folder}/clickhouse",
        receipts_dir=folder / "receipts",
        pseudonym_secret="a secret of the tests",
    )
    with open_store(settings, creates=True) as store:
        migrate(store.client)
        add_people(store)
        build(store.client.address, ["--exclude-resource-type", "test"], enable_pii=True)
        yield store, settings


@pytest.fixture
def command(
    built: tuple[Store, Settings], monkeypatch: pytest.MonkeyPatch, aspects_pii: Callable[..., Any]
) -> Iterator[Callable[..., Any]]:
    """Run a command on the store of this file; afterwards nobody is restricted."""
    store, settings = built
    monkeypatch.setenv("ASPECTS_CLICKHOUSE_URL", settings.clickhouse_url)
    monkeypatch.setenv("ASPECTS_RECEIPTS_DIR", str(settings.receipts_dir))
    yield aspects_pii
    if left := store.client.column("SELECT DISTINCT user_id FROM $pii_ledger.restrictions"):
        unrestrict(store, left)


def read_everything(store: Store) -> dict[str, str]:
    """Every dataset there is, as one text each, in lower case; of `viewer_scopes` what the people of this file see."""
    found = {}
    for name in list_datasets(store.client):
        if name.table == "viewer_scopes":
            scopes = f"SELECT {{v:String}}, * FROM {name.sql}(viewer = {{v:String}})"
            rows = [row for viewer in (*WORDS.values(), "other1") for row in store.client.rows(scopes, v=viewer)]
        else:
            rows = store.client.rows(f"SELECT * FROM {name.sql}")
        found[str(name)] = repr(rows).lower()
    return found


def find_showing(everything: dict[str, str], user: int) -> set[str]:
    """The datasets that hold a word, an address, its digest, or the id of a user."""
    needles = (WORDS[user], hashlib.sha1(f"mailto:{mail(user)}".encode()).hexdigest(), str(user))
    return {name for name, text in everything.items() if any(needle in text for needle in needles)}


# What counts who is held, and lists who is restricted or retired: ids, and no word of anybody.
COUNTED = {"reporting.int_subjects_held"}
RETIRED = {
    f"reporting.{name}" for name in ("privacy_retirements", "stg_pii_ledger__retirements", "stg_pii_ledger__tombstones")
}
LISTED = {f"reporting.stg_pii_ledger__{name}" for name in ("withheld", "restrictions", "entries")}
MARTS = {
    *("event_sink.user_pii", "reporting.dim_user_pii", "reporting.enrolled_learners", "reporting.learner_progress"),
    *("reporting.learner_timeline", "reporting.learners_at_risk", "reporting.fact_enrollments"),
    *("reporting.dim_student_status", "reporting.viewer_scopes"),
}


def test_every_dataset_shows_people_before_and_after_and_none_meanwhile(built: Any, command: Any) -> None:
    store, _ = built
    before = read_everything(store)
    for user in WORDS:
        assert find_showing(before, user) >= MARTS | COUNTED
        assert (user != ANA) == ("xapi.xapi_events_all_parsed" in find_showing(before, user))
    ran = command("restrict", *WORDS, "--json")
    assert (ran.status, ran.json["restricted"]) == (0, list(map(str, WORDS)))
    assert (ran.json["shown"], ran.json["left"], ran.json["proved"]) == ([], [], True)
    meanwhile = read_everything(store)
    assert set(meanwhile) == set(before)
    for user in WORDS:
        assert find_showing(meanwhile, user) == COUNTED | LISTED
    for name, text in meanwhile.items():
        assert text.count("other") == before[name].count("other"), name
    # Everything is held as it was.
    for table in ("user_profile", "course_access"):
        held = f"SELECT count() FROM $event_sink.{table} WHERE user_id IN {{users:Array(Int64)}}"
        assert store.client.value(held, users=list(WORDS)) == 3
    assert command("unrestrict", *WORDS).status == 0
    after = read_everything(store)
    for user in WORDS:
        assert find_showing(after, user) - LISTED == find_showing(before, user)


def test_figures_of_people_leave_out_who_is_restricted_and_figures_of_events_keep_them(
    built: tuple[Store, Settings], command: Any
) -> None:
    store, _ = built
    country = "SELECT max(learners) FROM $reporting.enrollment_demographics WHERE dimension = 'country'"
    events = "SELECT count() FROM $reporting.fact_enrollments"
    assert (store.client.value(country), store.client.value(events)) == (13, 13)
    assert command("restrict", ANA).status == 0
    assert (store.client.value(country), store.client.value(events)) == (12, 13)
    named = "SELECT username, name, email FROM $reporting.fact_enrollments WHERE actor_id = {actor:String}"
    assert store.client.rows(named, actor=str(external_id(ANA))) == [("", "", "")]
    # Whose actor is an address has no row without the person.
    assert command("restrict", BEN, CLEO).status == 0
    assert (store.client.value(country), store.client.value(events)) == (10, 11)


def test_copies_go_on_and_show_nothing(built: Any, command: Any) -> None:
    store, _ = built
    assert command("restrict", ANA).status == 0
    store.client.insert(
        store.client.table("event_sink.user_profile"),
        ("id", "user_id", "name", "username", "email", "time_last_dumped"),
        [(ANA, ANA, WORDS[ANA], WORDS[ANA], mail(ANA), "2026-02-01 00:00:00")],
    )
    shown = "SELECT count() FROM $event_sink.user_pii WHERE user_id = {user:Int64}"
    assert store.client.value(shown, user=ANA) == 0
    assert command("unrestrict", ANA).status == 0
    assert store.client.value(shown, user=ANA) == 1


def test_a_dictionary_of_somebody_else_reads_again_and_a_view_is_reported(
    built: tuple[Store, Settings], command: Any
) -> None:
    store, _ = built
    execute = store.client.execute
    execute(
        "CREATE DICTIONARY $reporting.mine (user_id Int64, name String) PRIMARY KEY user_id "
        "SOURCE(CLICKHOUSE(QUERY 'SELECT user_id, name FROM reporting.stg_event_sink__user_profiles')) "
        "LAYOUT(HASHED()) LIFETIME(0)"
    )
    execute("CREATE VIEW $reporting.theirs AS SELECT user_id, name FROM $event_sink.user_profile")
    execute("CREATE VIEW $reporting.nameless AS SELECT name FROM $event_sink.user_profile")
    name = f"SELECT dictGetOrDefault('reporting.mine', 'name', {ANA}, '')"
    try:
        assert store.client.value(name) == WORDS[ANA]
        ran = command("restrict", ANA)
        assert ran.status == 1
        assert store.client.value(name) == ""
        assert "Still shown: reporting.theirs: " in ran.err
        assert "reporting.mine" not in ran.err
        assert "Not looked at: reporting.nameless." in ran.err
        assert command("unrestrict", ANA).status == 0
        assert store.client.value(name) == WORDS[ANA]
    finally:
        execute("DROP DICTIONARY $reporting.mine")
        execute("DROP VIEW $reporting.theirs")
        execute("DROP VIEW $reporting.nameless")


def test_datasets_of_an_older_version_are_told_from_new_ones(built: Any, command: Any) -> None:
    store, _ = built
    name = "reporting.stg_event_sink__user_profiles"
    query = store.client.value(
        "SELECT create_table_query FROM system.tables WHERE name = 'stg_event_sink__user_profiles'"
    ).replace("CREATE VIEW", "CREATE OR REPLACE VIEW")
    store.client.execute(query.replace("stg_pii_ledger__withheld", "stg_pii_ledger__tombstones"))
    try:
        ran = command("restrict", ANA, "--json")
        assert (ran.status, ran.json["proved"]) == (1, False)
        assert any(line.startswith(name) for line in ran.json["shown"])
        assert "aspects-pii build" in ran.err
    finally:
        store.client.execute(query)
    assert command("restrict", ANA, "--json").json["already"] == [str(ANA)]


def test_retiring_a_restricted_person_works_and_ends_what_is_counted(
    built: tuple[Store, Settings], command: Any
) -> None:
    """The last of this file that needs Cleo."""
    store, _ = built
    assert command("restrict", CLEO, "--ground", "objection", "--actor", "service:office").status == 0
    assert command("status", "--json").json["restricted"] == 1
    assert [outcome.state for outcome in retire(store, [CLEO])] == ["erased"]
    assert command("status", "--json").json["restricted"] == 0
    ran = command("restrict", CLEO, "--json")
    assert (ran.status, ran.json["retired"], ran.json["restricted"]) == (0, [str(CLEO)], [])
    # The restriction goes, the tombstone stays.
    assert command("unrestrict", CLEO).status == 0
    assert find_showing(read_everything(store), CLEO) - LISTED <= RETIRED
    assert store.ledger.tombstones() == [str(CLEO)]
