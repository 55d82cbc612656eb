"""The PII map: what it can say, and that every mistake in it is named by its path in the file.

`maps/passing_*.yml` load; the first line of each `maps/failing_*.yml` is what its error has to say.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from sink.datasets.learner_events import LEARNER_EVENTS
from sink.errors import MapError
from sink.pii_map import PiiMap, PiiType, Redaction, load_map
from sink.resources import find_resource
from tests.support import aspects

MAPS = Path(__file__).with_name("maps")
PASSING = sorted(MAPS.glob("passing_*.yml"))
FAILING = sorted(MAPS.glob("failing_*.yml"))


def test_maps_are_found() -> None:
    assert len(PASSING) >= 4
    assert len(FAILING) >= 25


@pytest.mark.parametrize("path", PASSING, ids=lambda path: path.stem)
def test_load_map(path: Path) -> None:
    assert load_map(path).targets


@pytest.mark.parametrize("path", FAILING, ids=lambda path: path.stem)
def test_load_map_names_the_mistake(path: Path) -> None:
    expected = path.read_text().splitlines()[0].removeprefix("# error: ")
    with pytest.raises(MapError) as caught:
        load_map(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: {expected}")
    assert caught.value.exit_status == 2
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_load_map_names_every_mistake_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pii.yaml"
    path.write_text(
        "version: 1\nsubject: {}\ntargets:\n"
        "  event_sink.a: {match: {user_id: id}, pii: {name: nome}, on_retire: delete}\n"
        "  event_sink.b: {match: {user_id: id}, pii: {name: name}, on_retire: forget}\n"
    )
    with pytest.raises(MapError) as caught:
        load_map(path)
    assert "targets.event_sink.a.pii.name" in str(caught.value)
    assert "targets.event_sink.b.on_retire" in str(caught.value)


def test_load_map_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MapError, match=r"nowhere\.yaml: No such file or directory\. Check ASPECTS_PII_MAP"):
        load_map(tmp_path / "nowhere.yaml")


def test_load_map_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "pii.yaml"
    path.write_bytes(b"version: \xff\n")
    with pytest.raises(MapError, match="not UTF-8"):
        load_map(path)


def test_shipped_map_names_the_tables_of_the_design() -> None:
    shipped = load_map(find_resource("config/pii.yaml"))
    assert set(shipped.targets) >= {
        "event_sink.user_profile",
        "event_sink.external_id",
        "event_sink.course_enrollment",
        "event_sink.course_access",
    }
    assert set(shipped.subject.identifiers) == {"username", "email", "external_id"}
    assert shipped.targets["event_sink.user_profile"].rules[0].on_retire.delete
    redacted = shipped.targets["event_sink.course_enrollment"].rules[0].on_retire.redact
    assert redacted == {"username": Redaction.model_validate({"kind": "empty"})}


def test_shipped_map_says_which_version_of_aspects_made_what_is_of_aspects() -> None:
    """Its tables by the facts, and whatever none of our migrations and models makes."""
    entries = re.findall(
        r"^  ([a-z_]+\.\w+)(?:\.\w+)?:(.*)", find_resource("config/pii.yaml").read_text(), re.MULTILINE
    )
    told = {name for name, rest in entries if re.search(r"\b(migrations?|aspects-dbt) \d", rest)}
    sql = "".join(path.read_text() for path in find_resource("sql/migrations").glob("*.sql"))
    models = {path.stem for path in (find_resource("dbt_project") / "models").rglob("*.sql")} | {LEARNER_EVENTS}
    theirs = {name for name, _ in entries if f"${name}" not in sql and name.partition(".")[2] not in models}
    theirs |= {name for name, _ in entries} & {*aspects.MIGRATIONS, *aspects.MODELS}
    assert len(theirs) > 40
    assert theirs - told == set()


def load_everything() -> PiiMap:
    return load_map(MAPS / "passing_everything.yml")


def test_redactions_are_read() -> None:
    rule = load_everything().targets["certificates.historical_certificate"].rules[0]
    assert {column: redaction.kind for column, redaction in rule.on_retire.redact.items()} == {
        "name": "constant",
        "grade": "default",
        "url": "empty",
        "mail": "hash",
        "about": "truncate",
        "born": "null",
        "nick": "constant",
    }
    assert rule.on_retire.redact["name"].constant == "Former Learner"
    assert rule.on_retire.redact["nick"].constant == "Deleted User"
    assert rule.on_retire.redact["about"].length == 3


def test_rule_template_and_sources() -> None:
    targets = load_everything().targets
    events = targets["xapi.xapi_events_all"].rules[0]
    assert (events.key, events.template, events.sources) == ("event.actor.mbox", "mailto:{email}", {"email"})
    assert not events.is_by_id
    profile = targets["event_sink.user_profile"].rules[0]
    assert (profile.key, profile.template, profile.sources, profile.is_by_id) == ("user_id", "{id}", {"id"}, True)
    assert targets["finance.invoice"].rules[0].template == "{username}"


def test_rules_leave_out_what_is_retained_or_switched_off() -> None:
    loaded = load_everything()
    always = [name for name, _, _ in loaded.rules(redact_history=False)]
    with_history = [name for name, _, _ in loaded.rules(redact_history=True)]
    assert "finance.invoice" not in with_history
    assert set(with_history) - set(always) == {"certificates.historical_certificate"}
    assert always.count("content.asset") == 2


def test_pii_columns_are_paths_cut_to_their_column() -> None:
    assert load_everything().targets["xapi.xapi_events_all"].pii_columns == {"event"}


def test_derived_list_and_mapping_mean_the_same() -> None:
    as_list = load_map(MAPS / "passing_text_subject.yml").derived
    assert list(as_list) == ["sunbird.user_view"]
    entry = load_everything().derived["event_sink.user_pii"]
    assert entry.key == "user_id"


def test_merged_entry_inherits() -> None:
    third = load_map(MAPS / "passing_anchors.yml").targets["event_sink.third"]
    assert third.rules[0].on_retire.delete
    assert set(third.pii) == {"email"}


def test_map_cannot_be_changed() -> None:
    loaded = load_everything()
    with pytest.raises(ValueError, match="frozen"):
        loaded.version = 1


@pytest.mark.parametrize(("text", "parsed"), [("42", 42), (" 7 \n", 7), ("9" * 18, int("9" * 18))])
def test_parse_integer_subject(text: str, parsed: int) -> None:
    assert load_everything().subject.parse(text) == parsed


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "07", "abc", "1 OR 1=1", "9" * 19, "٤٢", "1_000"])
def test_parse_integer_subject_refuses(text: str) -> None:
    # The text is not quoted: somebody may have given a name instead of an id.
    with pytest.raises(ValueError, match=r"^an id is a positive whole number$"):
        load_everything().subject.parse(text)


def test_parse_text_subject() -> None:
    subject = load_map(MAPS / "passing_text_subject.yml").subject
    assert subject.parse(" 6f9619ff ") == "6f9619ff"
    with pytest.raises(ValueError, match="not empty"):
        subject.parse(" ")


def test_every_oep_30_type_is_known() -> None:
    known: TypeAdapter[Any] = TypeAdapter(PiiType)
    assert len(known.json_schema()["enum"]) == 16


def test_deep_or_huge_maps_are_refused_with_the_reason(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    tower = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))
    for text, reason in (
        ("[" * 60 + "]" * 60, "line 1: there are more than 50 lists or mappings in one another"),
        ("[" * 100_000, "line 1: there are more than 50 lists or mappings in one another"),
        ("".join(f"{' ' * n}a:\n" for n in range(60)), "line 51: there are more than 50 lists"),
        (tower, "line 50: there are more than 50 lists or mappings in one another"),
        (bomb, "line 5: there are more than 100,000 values, counting what aliases stand for"),
        ("- x\n" * 100_001, "line 100000: there are more than 100,000 values"),
        ("a: &a [*a]", "line 1: *a stands for what it is in"),
        ("a: " + "x" * (1 << 20), "the file has more than 1,048,576 bytes"),
        ("a: 1" + ":59" * 200_000, "line 1: a value has more than 10,000 characters"),
        ("a: *b", "line 1: not valid YAML (found undefined alias)"),
        ("a: 2026-13-45", "not valid YAML (a date or a number that there cannot be)"),
        ("a: " + "1" * 5000, "not valid YAML (a date or a number that there cannot be)"),
    ):
        path = tmp_path / "map.yaml"
        path.write_text(text)
        with pytest.raises(MapError) as caught:
            load_map(path)
        assert str(caught.value).startswith(f"{path}: {reason}")
