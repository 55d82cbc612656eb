"""What names a subject: each type of key finds its rows in its own form, or the map is refused with the fix."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from sink.erasure.coverage import check_map
from sink.erasure.findings import Kind
from sink.erasure.keys import Spelling, express_compared, find_spelling, fold_key
from sink.erasure.problems import Problem
from sink.erasure.verify import verify_subjects
from sink.pii_map import PiiMap, Rule
from sink.retirement.retire import retire
from sink.store import Store

ONE = "61f0c404-5cb3-11e7-907b-a6006ad3dba0"
OTHER = "61f0c404-5cb3-11e7-907b-a6006ad3dba1"
PLAIN = "(who {kind}, note String) ENGINE = MergeTree ORDER BY tuple()"
SPELLINGS = {"as it is": ONE, "in capitals": ONE.upper(), "without hyphens": ONE.replace("-", "")}
RULES: dict[str, Any] = {
    "delete": {"delete": True},
    "empty": {"redact": {"note": "empty"}},
    "hash": {"redact": {"note": "hash"}},
    "pseudonym": {"redact": {"note": "pseudonym"}},
}

MakeStore = Callable[..., Store]


@pytest.fixture
def with_notes(store: Store) -> MakeStore:
    """A store whose map has profiles and one table of notes."""

    def make(
        definition: str,
        rows: str,
        on_retire: Any,
        *,
        match: dict[str, str] | None = None,
        kind: str = "text",
        profiles: str = "",
    ) -> Store:
        client = store.client
        client.execute(f"CREATE TABLE $event_sink.notes {definition}", {"allow_suspicious_low_cardinality_types": 1})
        client.execute(f"INSERT INTO $event_sink.notes VALUES {rows}")
        client.execute("CREATE TABLE $event_sink.people (uid UUID, username String) ENGINE = MergeTree ORDER BY uid")
        if profiles:
            client.execute(f"INSERT INTO $event_sink.people VALUES {profiles}")
        document = {
            "version": 1,
            "subject": {"type": kind, "identifiers": {"username": "event_sink.people.username"}},
            "targets": {
                "event_sink.people": {"match": {"uid": "id"}, "pii": {"username": "username"}, "on_retire": "delete"},
                "event_sink.notes": {
                    "match": match or {"who": "id"},
                    "pii": {"note": "other", "doc.name": "name"},
                    "on_retire": on_retire,
                },
            },
        }
        return dataclasses.replace(store, pii_map=PiiMap.model_validate(document))

    return make


def find_problems(store: Store) -> list[Problem]:
    return [problem for problem in check_map(store).problems if "notes" in problem.place]


def retire_one(store: Store, subject: int | str) -> None:
    (outcome,) = retire(store, [subject])
    assert outcome.state == "erased"
    assert verify_subjects(store, [subject]).is_clean


def read_notes(store: Store) -> list[tuple[Any, ...]]:
    return sorted(store.client.rows("SELECT toString(who), note FROM $event_sink.notes"))


@pytest.mark.parametrize(
    ("subject", "on_retire"),
    [(ONE.upper(), rule) for rule in RULES.values()] + [(ONE.replace("-", ""), RULES["delete"]), (ONE, RULES["hash"])],
    ids=[*(f"in capitals, {name}" for name in RULES), "without hyphens, delete", "as it is, hash"],
)
def test_a_uuid_is_found_however_it_is_spelt(with_notes: MakeStore, subject: str, on_retire: Any) -> None:
    rows = f"('{ONE}', 'one'), ('{OTHER}', 'other')"
    store = with_notes(PLAIN.format(kind="UUID"), rows, on_retire)
    assert find_problems(store) == []
    found = verify_subjects(store, [subject]).findings
    assert [(finding.kind, finding.subject, finding.count) for finding in found] == [(Kind.ROWS, subject, 1)]
    retire_one(store, subject)
    notes = dict(read_notes(store))
    assert notes.pop(OTHER) == "other"
    assert notes.get(ONE) != "one"
    assert (notes == {}) == ("delete" in on_retire)


def test_a_uuid_in_capitals_is_found_where_rows_are_rewritten(with_notes: MakeStore) -> None:
    definition = "(who UUID, doc String) ENGINE = MergeTree ORDER BY tuple()"
    rows = f"""('{ONE}', '{{"name": "Zoe"}}'), ('{OTHER}', '{{"name": "Yan"}}')"""
    store = with_notes(definition, rows, {"redact": {"doc.name": {"constant": "Somebody"}}})
    retire_one(store, ONE.upper())
    docs = dict(store.client.rows("SELECT toString(who), doc FROM $event_sink.notes"))
    assert docs == {ONE: '{"name": "Somebody"}', OTHER: '{"name": "Yan"}'}


def test_names_of_a_uuid_in_capitals_are_found_and_are_nobody_elses(with_notes: MakeStore) -> None:
    definition = PLAIN.format(kind="String")
    profiles = f"('{ONE}', 'zoe'), ('{OTHER}', 'yan')"
    store = with_notes(
        definition, "('zoe', 'one'), ('yan', 'other')", RULES["delete"], match={"who": "username"}, profiles=profiles
    )
    retire_one(store, ONE.upper())
    assert read_notes(store) == [("yan", "other")]
    assert [str(uid) for uid in store.client.column("SELECT uid FROM $event_sink.people")] == [OTHER]


def test_two_spellings_of_one_id_are_both_open_until_the_row_is_gone(with_notes: MakeStore) -> None:
    store = with_notes(PLAIN.format(kind="UUID"), f"('{ONE}', 'one')", RULES["delete"])
    both = [ONE, ONE.upper()]
    assert {finding.subject for finding in verify_subjects(store, both).findings} == set(both)
    assert [outcome.state for outcome in retire(store, both)] == ["erased", "erased"]
    assert read_notes(store) == []


KINDS = [
    *("Int8", "UInt16", "Int32", "Nullable(UInt64)", "Int128", "UInt256", "LowCardinality(Int64)"),
    *(
        "String",
        "FixedString(4)",
        "LowCardinality(String)",
        "LowCardinality(Nullable(String))",
        "Nullable(FixedString(4))",
    ),
]


def test_a_number_is_found_in_every_type_that_can_hold_it(store: Store, with_notes: MakeStore) -> None:
    columns = ", ".join(f"k{number} {kind}" for number, kind in enumerate(KINDS))
    rows = ", ".join(f"({', '.join([repr(str(n))] * len(KINDS))}, 'n{n}')" for n in (7, 8))
    made = with_notes(
        f"({columns}, note String) ENGINE = MergeTree ORDER BY tuple()",
        rows,
        RULES["delete"],
        match={"k0": "id"},
        kind="integer",
    )
    document = made.pii_map.model_dump(mode="json", exclude={"targets": {"event_sink.people": True}})
    document["subject"]["identifiers"] = {}
    target = document["targets"].pop("event_sink.notes")
    for number in range(len(KINDS)):
        made.client.execute(
            f"CREATE TABLE $event_sink.notes_{number} AS $event_sink.notes",
            {"allow_suspicious_low_cardinality_types": 1},
        )
        made.client.execute(f"INSERT INTO $event_sink.notes_{number} SELECT * FROM $event_sink.notes")
        rule = {**target["rules"][0], "match": {f"k{number}": "id"}}
        document["targets"][f"event_sink.notes_{number}"] = {**target, "rules": [rule]}
    made = dataclasses.replace(made, pii_map=PiiMap.model_validate(document))
    assert [problem for problem in check_map(made).problems if problem.place.startswith("targets.")] == []
    retire_one(made, 7)
    left = [made.client.column(f"SELECT note FROM $event_sink.notes_{number}") for number in range(len(KINDS))]
    assert left == [["n8"]] * len(KINDS)


def test_a_number_as_text_is_found_in_the_form_of_an_integer(with_notes: MakeStore) -> None:
    store = with_notes(PLAIN.format(kind="Int32"), "(42, 'one'), (43, 'other')", RULES["hash"])
    retire_one(store, "0042")
    assert [who for who, note in read_notes(store) if note == "other"] == ["43"]


@pytest.mark.parametrize("kind", ["UUID", "Int8", "FixedString(4)"])
def test_what_cannot_be_an_id_of_the_column_finds_nothing(with_notes: MakeStore, kind: str) -> None:
    one = {"UUID": ONE, "Int8": "42", "FixedString(4)": "abcd"}[kind]
    store = with_notes(PLAIN.format(kind=kind), f"('{one}', 'one')", RULES["delete"])
    for subject in ("a-word-of-no-use", "424242424242"):
        retire_one(store, subject)
    assert read_notes(store) == [(one, "one")]


def test_null_does_not_exempt_a_row(with_notes: MakeStore) -> None:
    definition = "(who String, note String, kind Nullable(String)) ENGINE = MergeTree ORDER BY tuple()"
    unless = {"column": "kind", "values": ["kept"], "reason": "the law"}
    rows = "('1', 'one', NULL), ('1', 'one', 'kept'), ('1', 'one', 'free'), ('2', 'other', NULL)"
    store = with_notes(definition, rows, {"delete": True, "unless": unless})
    retire_one(store, "1")
    assert sorted(store.client.rows("SELECT who, ifNull(kind, '-') FROM $event_sink.notes")) == [
        ("1", "kept"),
        ("2", "-"),
    ]


UNFIT = {
    "Array(Int64)": "[1]",
    "Array(String)": "['1']",
    "Map(String, String)": "{'1': '1'}",
    "Tuple(a String)": "('1')",
    "Date": "'2026-01-01'",
    "Float64": "1",
    "Enum8('1' = 1)": "'1'",
    "Bool": "1",
    "IPv4": "'127.0.0.1'",
    "Decimal(9, 2)": "1",
}


def test_a_key_whose_type_cannot_hold_an_id_is_refused_with_the_fix(with_notes: MakeStore) -> None:
    columns = ", ".join(f"k{number} {kind}" for number, kind in enumerate(UNFIT))
    made = with_notes(
        f"({columns}, note String) ENGINE = MergeTree ORDER BY tuple()",
        f"({', '.join(UNFIT.values())}, 'one')",
        RULES["delete"],
        match={"k0": "id"},
    )
    document = made.pii_map.model_dump(mode="json")
    (rule,) = document["targets"]["event_sink.notes"]["rules"]
    document["targets"]["event_sink.notes"]["rules"] = [{**rule, "match": {f"k{n}": "id"}} for n in range(len(UNFIT))]
    made = dataclasses.replace(made, pii_map=PiiMap.model_validate(document))
    problems = find_problems(made)
    places = {f"targets.event_sink.notes.match.k{number}" for number in range(len(UNFIT))}
    assert {problem.place for problem in problems} == places
    assert all(problem.fix.startswith(("Keep one row a person", "Match a column")) for problem in problems)
    assert [outcome.state for outcome in retire(made, ["1"])] == ["failed"]
    assert made.client.column("SELECT note FROM $event_sink.notes") == ["one"]


@pytest.mark.parametrize("kind", ["Int64", "UUID", "Date"])
def test_a_user_name_is_no_value_of_a_number_a_uuid_or_a_date(with_notes: MakeStore, kind: str) -> None:
    rows = {"Int64": "(1, 'one')", "UUID": f"('{ONE}', 'one')", "Date": "('2026-01-01', 'one')"}[kind]
    store = with_notes(PLAIN.format(kind=kind), rows, RULES["delete"], match={"who": "username"})
    (problem,) = find_problems(store)
    assert problem.place == "targets.event_sink.notes.match.who"
    assert "no such value is username" in problem.reason
    assert [outcome.state for outcome in retire(store, [ONE])] == ["failed"]


@pytest.mark.parametrize("kind", ["String", "JSON"])
@pytest.mark.parametrize("key", ["doc.people.id", "doc.ids"])
def test_a_path_through_an_array_is_refused_by_the_check(with_notes: MakeStore, kind: str, key: str) -> None:
    rows = """('{"people": [{"id": "1"}, {"id": "2"}], "ids": ["1"]}', 'one')"""
    definition = f"(doc {kind}, note String) ENGINE = MergeTree ORDER BY tuple()"
    store = with_notes(definition, rows, RULES["delete"], match={key: "id"})
    (problem,) = find_problems(store)
    assert "leads through an array" in problem.reason
    assert "Keep one row a person" in problem.fix


@pytest.mark.parametrize("kind", ["String", "JSON"])
def test_a_path_without_arrays_finds_its_rows(with_notes: MakeStore, kind: str) -> None:
    rows = """('{"people": {"id": "1"}, "tags": ["1"]}', 'one'), ('{"people": {"id": "2"}}', 'other')"""
    definition = f"(doc {kind}, note String) ENGINE = MergeTree ORDER BY tuple()"
    store = with_notes(definition, rows, RULES["delete"], match={"doc.people.id": "id"})
    assert find_problems(store) == []
    retire_one(store, "1")
    assert store.client.column("SELECT note FROM $event_sink.notes") == ["other"]


def test_a_declared_uuid_in_json_is_found_in_capitals(with_notes: MakeStore) -> None:
    rows = f"""('{{"who": "{ONE}"}}', 'one'), ('{{"who": "{OTHER}"}}', 'other')"""
    definition = "(doc JSON(who UUID), note String) ENGINE = MergeTree ORDER BY tuple()"
    store = with_notes(definition, rows, RULES["delete"], match={"doc.who": "id"})
    retire_one(store, ONE.upper())
    assert store.client.column("SELECT note FROM $event_sink.notes") == ["other"]


ANN = "mailto:ann@x.org"


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("MailTo:Ann@X.org", ANN),
        (" mailto: ann @x.org\n", ANN),
        ("mailto:\u00a0ann@x.org\ufeff", ANN),
        ("mailto:an\u200bn@x.org", ANN),
        ("mailto:ann%40x.org", ANN),
        ("mailto%3Aann%2540x.org", ANN),
        ("mailto:ann@x.org?subject=a@b&cc=c@d", ANN),
        ("mailto://ann@x.org", ANN),
        ("mailto:<ann@x.org>", ANN),
        ("mailto:Zoe Quinn <ann@x.org>", ANN),
        ('"bob@x.org" <mailto:ann@x.org>?subject=x', ANN),
        ("ann@x.org", ANN),
        # These are about others, or about nobody.
        ('mailto:"ann@x.org"@y.org', 'mailto:"ann@x.org"@y.org'),
        ("mailto:ann@x.org.au", "mailto:ann@x.org.au"),
        ("mailto:ann@x.org>", "mailto:ann@x.org>"),
        ("mailto:o'ann?%zz@x.org", "mailto:o'ann?%zz@x.org"),
        ("MAILTO:Ann", "mailto:ann"),
        ("a:%C3%84 b", "a:äb"),
        ("A b", "a b"),
        ("", ""),
    ],
)
def test_an_address_is_read_however_it_is_written_down(store: Store, written: str, compared: str) -> None:
    rule = Rule(match={"who": "mailto:{email}"}, on_retire={"delete": True})  # type: ignore[arg-type]
    sql = express_compared("{who:String}", rule, Spelling.CASE)
    assert store.client.value(f"SELECT {sql}", who=written) == compared
    assert store.client.value(f"SELECT {sql}", who=compared) == compared


@pytest.mark.parametrize("template", ["mailto:{email}", "sha1:mailto:{email}", "{email}", "user-{username}"])
@pytest.mark.parametrize("spelling", Spelling)
def test_a_row_with_the_key_of_a_person_compares_as_the_key(store: Store, template: str, spelling: Spelling) -> None:
    rule = Rule(match={"who": template}, on_retire={"delete": True})  # type: ignore[arg-type]
    prefix = "mailto:" if rule.is_mailbox else ""
    names = ["Ann@X.org", "ann@x.org", "o'neill+a/b=c?d#e@x.org", '"a b"@x.org', "Zoë.Ä@x.org", "Jane", "A" * 40, ""]
    names += [ONE, ONE.upper(), f"x{'A' * 32}-{'A' * 32}", f"ä{ONE.upper()}"]
    keys = [f"{prefix}{name}" for name in names]
    sql = express_compared("who", rule, spelling)
    found = store.client.column(f"SELECT {sql} FROM (SELECT arrayJoin({{keys:Array(String)}}) AS who)", keys=keys)
    assert found == [fold_key(key, rule, spelling) for key in keys]
    alike = 2 if spelling is Spelling.CASE or rule.is_hashed else int(spelling is Spelling.UUID)
    assert len(set(found)) == len(keys) - alike


@pytest.mark.parametrize("written", [ONE, ONE.upper(), ONE.title(), ONE.replace("-", ""), ONE.replace("-", "").upper()])
@pytest.mark.parametrize("template", ["{external_id}", "https://lms.example.org/{external_id}"])
def test_an_anonymous_id_in_a_text_is_read_in_any_case(store: Store, template: str, written: str) -> None:
    rule = Rule(match={"who": template}, on_retire={"delete": True})  # type: ignore[arg-type]
    spelling = find_spelling(store.pii_map, rule.sources)
    sql = express_compared("{who:String}", rule, spelling)
    found = store.client.value(f"SELECT {sql}", who=template.replace("{external_id}", written))
    assert found == fold_key(template.replace("{external_id}", ONE), rule, spelling)


@pytest.mark.parametrize(
    ("sources", "spelling"),
    [
        (["external_id"], Spelling.UUID),
        (["username"], Spelling.EXACT),
        (["id"], Spelling.EXACT),
        (["email"], Spelling.CASE),
        (["external_id", "email"], Spelling.CASE),
    ],
)
def test_only_anonymous_ids_are_read_as_uuids(store: Store, sources: list[str], spelling: Spelling) -> None:
    """A user name or an address that looks like the id of somebody else must not take their rows along."""
    assert find_spelling(store.pii_map, sources) is spelling


@pytest.mark.parametrize("odd", ["%61nn@x.org", '"ann@x.org"@y.org', "ann@x.org?a@y.org", "//ann@x.org", "<ann@x.org>"])
def test_nobody_takes_rows_of_others_along_by_an_address_of_that_look(with_notes: MakeStore, odd: str) -> None:
    """Whoever may choose an address could have a stranger's rows erased with their own."""
    rows = "('mailto:ann@x.org', 'of Ann'), ('mailto:ann%40x.org', 'of Ann too')"
    store = with_notes(
        PLAIN.format(kind="String"),
        f"{rows}, ('mailto:odd', 'of Odd')",
        RULES["delete"],
        match={"who": "mailto:{username}"},
        profiles=f"('{ONE}', '{odd}'), ('{ONE}', 'odd')",
    )
    retire_one(store, ONE)
    assert sorted(store.client.column("SELECT note FROM $event_sink.notes")) == ["of Ann", "of Ann too"]
