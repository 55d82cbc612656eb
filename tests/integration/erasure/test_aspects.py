"""A stock Aspects, with the map that ships: its tables are known, and whoever is in them can be erased."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sink.clickhouse import migrations
from sink.erasure.coverage import check_map
from sink.erasure.plan import read_plan
from sink.erasure.purge import plan_purge, purge
from sink.erasure.survey import read_survey
from sink.erasure.verify import verify_subjects
from sink.installation import open_store, read_map
from sink.retirement.retire import retire
from sink.settings import Settings, load_settings
from sink.store import Store
from tests.support import aspects
from tests.support.coverage_page import covers
from tests.support.templates import copy_template

JANE, BOB = 26, 27
JANES = ("jane.roe26", "jane.roe26@example.org", "Jane Wilhelmina Roe")
BOBS = ("bob.poe27", "bob.poe27@example.org", "Robert Marmaduke Poe")
# Where upstream holds who did something: tables with the actor of each row, and the event itself.
ACTORS = [name for name, model in aspects.MODELS.items() if model["kind"] == "table" and "actor_id" in model["columns"]]
EVENTS = ["xapi.xapi_events_all", "xapi.xapi_events_all_parsed"]


@pytest.fixture
def store(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store in a ClickHouse that Aspects has set up before."""

    def make(folder: Path) -> None:
        with open_store(load_settings(clickhouse_url=f"chdb://{folder}"), creates=True) as new:
            aspects.create_tables(new.client)
            aspects.create_models(new.client)
            migrations.migrate(new.client)

    folder = Path(settings.clickhouse_url.removeprefix("chdb://"))
    copy_template("aspects", make, folder, tmp_path_factory.getbasetemp() / "templates")
    with open_store(settings) as store:
        yield store


def fill(store: Store, kind: str) -> None:
    """Two learners with events whose actors are what XAPI_AGENT_IFI_TYPE says: external_id, mbox or mbox_sha1sum."""
    for user, (username, email, name) in ((JANE, JANES), (BOB, BOBS)):
        external = aspects.add_person(store.client, user, username=username, email=email, name=name)
        digest = hashlib.sha1(f"mailto:{email}".encode(), usedforsecurity=False).hexdigest()
        actors: dict[str, dict[str, Any]] = {
            "external_id": {"account": {"homePage": "https://lms.example.org", "name": external}},
            "mbox": {"mbox": f"mailto:{email}"},
            "mbox_sha1sum": {"mbox_sha1sum": digest},
        }
        aspects.add_statement(store.client, actors[kind])


def find(store: Store, word: str) -> set[str]:
    """The tables with rows in which a text has a word."""
    found = set()
    for name in (*aspects.MIGRATIONS, *(n for n, model in aspects.MODELS.items() if model["kind"] == "table")):
        place = f"${name}" if not name.startswith("openedx.") else name
        if store.client.value(
            f"SELECT count() FROM {place} AS t WHERE position(toString(tuple(t.*)), {{word:String}}) > 0", word=word
        ):
            found.add(name)
    return found


def count_all(store: Store) -> dict[str, int]:
    return {name: store.client.value(f"SELECT count() FROM ${name}") for name in (*ACTORS, *EVENTS)}


def test_map_check_finds_nothing_to_put_right_in_a_stock_aspects(store: Store) -> None:
    fill(store, "external_id")
    coverage = check_map(store)
    assert [str(problem) for problem in [*coverage.problems, *coverage.warnings]] == []
    assert set(ACTORS) < set(coverage.targets)
    assert coverage.absent == []


def test_columns_of_aspects_are_known_under_other_names_of_the_databases(settings: Settings) -> None:
    names = {"event_sink_database": "sink_of_events", "xapi_database": "openedx", "reporting_database": "reports"}
    with open_store(settings.model_copy(update=names), creates=True) as store:
        aspects.create_tables(store.client)
        aspects.create_models(store.client)
        migrations.migrate(store.client)
        assert [str(problem) for problem in read_survey(store).find_problems()] == []
        # The events database has two names in the map here.
        aspects.add_statement(store.client, {"mbox": f"mailto:{JANES[1]}"})
        planned = [step.label for step in read_plan(store).steps if step.table.name.table == "xapi_events_all"]
        assert planned == ["openedx.xapi_events_all.event"]


@covers("place", "databases of before, which settings call otherwise by now (`former_databases`)", "erased")
def test_events_of_before_are_in_a_database_that_the_map_can_name(store: Store, settings: Settings) -> None:
    """Events went over from Ralph to Vector: `xapi` in the map means `openedx` from then on, and `xapi` is still there."""
    fill(store, "mbox")
    moved = settings.model_copy(update={"xapi_database": "openedx"})
    with open_store(moved, creates=True) as later:
        migrations.migrate(later.client)
        asked = {problem.place: problem.fix for problem in check_map(later).problems}
        assert {f"{name}.actor_id" for name in ACTORS if name.startswith("xapi.")} <= set(asked)
        advice = asked["xapi.enrollment_events.actor_id"]
        assert "Add =xapi.enrollment_events under `targets`" in advice
        assert "`former_databases: [xapi]`" in advice
        # It may as well be the database of another LMS.
        assert retire(later, [JANE])[0].state == "erased"
        assert "xapi.enrollment_events" in find(store, JANES[1])
        former = later.pii_map.model_copy(update={"former_databases": ["xapi"]}).cover_former(moved.databases)
        covering = dataclasses.replace(later, pii_map=former)
        assert [problem for problem in check_map(covering).problems if problem.place.startswith("xapi.")] == []
        (outcome,) = retire(covering, [BOB])
        assert outcome.state == "erased", outcome.reason
        assert outcome.receipt is not None
        assert {"xapi.enrollment_events", "xapi.xapi_events_all"} <= set(outcome.receipt["verified"])
        assert find(store, BOBS[1]) == set()


def test_a_database_that_has_the_name_it_is_configured_by_is_never_one_of_before(settings: Settings) -> None:
    shipped = read_map(settings)
    former = shipped.model_copy(update={"former_databases": ["xapi", "reporting"]})
    assert former.cover_former(settings.databases) is former
    covered = former.cover_former({**settings.databases, "reporting": "reports", "xapi": "reporting"})
    added = set(covered.targets) - set(shipped.targets)
    assert {name.partition(".")[0] for name in added} == {"=xapi"}
    assert all(covered.targets[name].optional for name in added)
    assert not shipped.targets["event_sink.user_profile"].optional


@covers("place", "what Aspects makes of events whose actors are addresses, or digests of them", "erased")
@pytest.mark.parametrize("kind", ["mbox", "mbox_sha1sum"])
def test_whoever_is_the_actor_of_events_is_erased_from_all_that_aspects_makes_of_them(store: Store, kind: str) -> None:
    fill(store, kind)
    word = (
        JANES[1] if kind == "mbox" else hashlib.sha1(f"mailto:{JANES[1]}".encode(), usedforsecurity=False).hexdigest()
    )
    before = count_all(store)
    assert len(before) == len(find(store, word) & {*ACTORS, *EVENTS}) == 17
    outcome = retire(store, [JANE])[0]
    assert outcome.state == "erased", outcome.reason
    assert [find(store, text) for text in (word, *JANES)] == [set()] * 4
    assert count_all(store) == before
    report = verify_subjects(store, [JANE])
    assert report.is_clean
    assert report.not_asked == {}
    assert set(ACTORS) <= set(report.checked)
    # Of the other learner everything is there still; upstream joins names to addresses, and not to their digests.
    assert len(find(store, BOBS[1]) & set(ACTORS)) == (16 if kind == "mbox" else 0)
    assert "event_sink.user_profile" in find(store, BOBS[0])


@covers("place", "names that Aspects stores beside figures (`fact_video_engagement`)", "erased")
def test_names_leave_the_stored_copy_of_aspects_and_anonymous_actors_cost_nothing(store: Store) -> None:
    fill(store, "external_id")
    assert "reporting.fact_video_engagement" in find(store, JANES[0])
    plan = read_plan(store)
    keys = {step.rule.key for step in plan.steps if str(step.table.name) in {*ACTORS, *EVENTS}}
    assert keys == {"email", "username", "actor_id"}
    assert {str(step.table.name) for step in plan.steps} & {*ACTORS, *EVENTS} == {"reporting.fact_video_engagement"}
    outcome = retire(store, [JANE])[0]
    assert outcome.state == "erased", outcome.reason
    assert outcome.receipt is not None
    assert "xapi.enrollment_events" in outcome.receipt["verified"]
    assert [find(store, text) for text in JANES] == [set()] * 3
    names = "SELECT username, name, email FROM $reporting.fact_video_engagement ORDER BY username"
    assert store.client.rows(names) == [("", "", ""), (BOBS[0], BOBS[2], BOBS[1])]


@pytest.mark.parametrize("was_retired_before", [False, True], ids=["at once", "after the erasure"])
@covers("key", "an anonymous id as text, in capitals or without hyphens", "erased")
def test_names_go_by_whatever_their_row_has_of_the_person(store: Store, was_retired_before: bool) -> None:
    """An id in another spelling, or nothing but the user name: whose address was unknown then, and whose id is gone."""
    fill(store, "external_id")
    ids = "SELECT toString(external_user_id) FROM $event_sink.external_id WHERE user_id = {user:Int32}"
    jane, bob = (store.client.value(ids, user=user) for user in (JANE, BOB))
    if was_retired_before:
        assert retire(store, [JANE])[0].state == "erased"
    rows = [
        (jane.upper(), JANES[0], JANES[2], ""),
        (jane.replace("-", ""), "", JANES[2], ""),
        ("00000000-0000-4000-8000-000000000000", JANES[0], JANES[2], ""),
        (bob.upper(), BOBS[0], BOBS[2], BOBS[1]),
    ]
    table = store.client.table("reporting.fact_video_engagement")
    store.client.insert(table, ("actor_id", "username", "name", "email"), rows)
    assert "reporting.fact_video_engagement" in find(store, JANES[2])
    outcome = retire(store, [JANE])[0]
    assert outcome.state == "erased", outcome.reason
    assert [find(store, text) for text in JANES] == [set()] * 3
    assert store.client.value("SELECT count() FROM $reporting.fact_video_engagement WHERE name != ''") == 2
    assert store.client.value("SELECT count() FROM $reporting.fact_video_engagement") == 6


def test_an_actor_that_is_named_later_is_seen(store: Store) -> None:
    fill(store, "external_id")
    assert set(read_plan(store).idle) == {f"{name}.event" for name in (*EVENTS, "openedx.xapi_events_all")}
    aspects.add_statement(store.client, {"mbox": f"mailto:{JANES[1]}"})
    labels = {step.label for step in read_plan(store).steps}
    assert labels >= {f"{name}.actor_id" for name in ACTORS}


def test_a_search_of_all_texts_finds_nobody_after_a_retirement(store: Store) -> None:
    fill(store, "mbox")
    outcome = retire(store, [JANE], scan=True)[0]
    assert outcome.state == "erased", outcome.reason


@covers("place", "raw tracking logs", "erased")
def test_tracking_logs_of_the_person_go_and_what_others_did_with_them_names_them_no_more(store: Store) -> None:
    fill(store, "external_id")
    aspects.add_tracking_log(store.client, username=JANES[0], user_id=JANE, event={"target_url": "/u/jane.roe26"})
    aspects.add_tracking_log(store.client, username=JANES[0], user_id=None, event={})
    aspects.add_tracking_log(store.client, username=BOBS[0], user_id=BOB, event={"student": JANES[1], "user": JANES[0]})
    aspects.add_tracking_log(store.client, username="", user_id=None, event={})
    outcome = retire(store, [JANE])[0]
    assert outcome.state == "erased", outcome.reason
    assert [find(store, text) for text in JANES] == [set()] * 3
    users = "SELECT JSONExtractString(message, 'username') FROM openedx._tracking ORDER BY 1"
    assert store.client.column(users) == ["", BOBS[0]]


def test_an_actor_is_found_however_the_address_is_spelt(store: Store) -> None:
    """The LMS spells it in one way; other tools send events, too."""
    fill(store, "external_id")
    address, digest = JANES[1], hashlib.sha1(f"mailto:{JANES[1]}".encode(), usedforsecurity=False).hexdigest()
    spelt = [
        f"MAILTO:{address.upper()}",
        f"mailto: {address}",
        f" mailto:{address.title()}",
        f"mailto:{address.replace('@', '%40')}",
        f"mailto:{address.replace('@', '%2540')}",
        f"mailto:{address}?subject=hello",
        f"mailto://{address}",
        f"mailto:<{address}>",
        f"mailto:Jane <{address}>",
    ]
    for mbox in spelt:
        aspects.add_statement(store.client, {"mbox": mbox})
    aspects.add_statement(store.client, {"mbox_sha1sum": digest.upper()})
    assert [len(find(store, text) & {*ACTORS, *EVENTS}) for text in (*spelt, digest.upper())] == [17] * 10
    outcome = retire(store, [JANE])[0]
    assert outcome.state == "erased", outcome.reason
    assert [find(store, text) for text in (*spelt, digest.upper())] == [set()] * 10
    assert find(store, address) == set()


@pytest.mark.parametrize("kind", ["external_id", "mbox"])
def test_purge_leaves_nobody_in_what_aspects_made(store: Store, kind: str) -> None:
    fill(store, kind)
    aspects.add_tracking_log(store.client, username=JANES[0], user_id=JANE, event={})
    aspects.add_tracking_log(store.client, username="", user_id=None, event={})
    before = count_all(store)
    left = purge(store, plan_purge(store, []), enabled=False)
    assert left.suspects == []
    assert [find(store, text) for text in (*JANES, *BOBS)] == [set()] * 6
    assert count_all(store) == before
    # A line of nobody's has an address of a computer too.
    assert store.client.value("SELECT count() FROM openedx._tracking") == 0


def test_what_was_a_view_in_earlier_releases_stops_no_retirement(store: Store) -> None:
    for name in ("fact_video_engagement_mv", "fact_video_engagement"):
        store.client.execute(f"DROP TABLE $reporting.{name} SYNC")
    store.client.execute(
        "CREATE VIEW $reporting.fact_video_engagement AS SELECT s.actor_id AS actor_id, username, name, email "
        "FROM $reporting.fact_video_segments AS s LEFT JOIN $reporting.dim_user_pii AS u ON s.actor_id = u.external_user_id"
    )
    fill(store, "external_id")
    assert read_survey(store).find_problems() == []
    outcome = retire(store, [JANE])[0]
    assert outcome.state == "erased", outcome.reason
    assert store.client.column("SELECT username FROM $reporting.fact_video_engagement WHERE username != ''") == [
        BOBS[0]
    ]
