"""Whom a name, an address or an anonymous id means."""

from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sink.errors import ErasureError, LedgerError, UsageError
from sink.installation import open_store
from sink.ledger.entries import Ledger
from sink.lms.database import LmsDatabase
from sink.rights.find import Text, find
from sink.rights.folding import express_beginnings, express_folded, fold, list_beginnings
from sink.settings import load_settings
from sink.store import Store
from tests.support import served
from tests.support.small_lms import make_small_lms

NAMES = ("user_id", "username", "name", "email")
PEOPLE = [
    (1, "ZoeCanary", "Zoé  María Łódź-Quetzal", "Zoe@Canary.example.org"),
    (2, "jose_quetzal", "José Ocelot", "jose@canary.example.org"),
    (3, "josefina", "Josefina Strauß", "strauss@x.example.org"),
    (4, "山田太郎", "山田太郎", "yamada@x.example.org"),
    (5, "o'neil", "Sean O'Neil", "sean+lms@x.example.org"),
]


@pytest.fixture
def people(store: Store) -> Store:
    """A store with people of many scripts."""
    store.client.insert(store.client.table("event_sink.user_profile"), NAMES, PEOPLE)
    ids = [(n, f"u{n}", f"{n}{n}{n}{n}{n}{n}{n}{n}-aaaa-4bbb-8ccc-dddddddddddd", "xapi") for n in range(1, 6)]
    columns = ("user_id", "username", "external_user_id", "external_id_type")
    store.client.insert(store.client.table("event_sink.external_id"), columns, ids)
    return store


def find_subjects(store: Store, *texts: str, prefix: bool = False, lms: LmsDatabase | None = None) -> list[str]:
    wanted = [Text(f"text {number}", text) for number, text in enumerate(texts)]
    return sorted(find(store, wanted, prefix=prefix, lms=lms).subjects)


def test_names_are_found_in_other_case_and_without_their_accents(people: Store) -> None:
    cases = {
        "zoecanary": ["1"],
        "ZOE@CANARY.EXAMPLE.ORG": ["1"],
        "  zoe maria   lodz-quetzal ": ["1"],
        "ZOÉ MARÍA ŁÓDŹ-QUETZAL": ["1"],
        "Zoe\u0301 Mari\u0301a Łódź-Quetzal": ["1"],
        "JOSÉ OCELOT": ["2"],
        "Josefina STRAUSS": ["3"],
        "josefina strauß": ["3"],
        "山田太郎": ["4"],
        "O'NEIL": ["5"],
        "sean+LMS@x.example.org": ["5"],
        "22222222-AAAA-4BBB-8CCC-DDDDDDDDDDDD": ["2"],
        "22222222aaaa4bbb8cccdddddddddddd": ["2"],
        "jose": [],
        "%": [],
        "josé_quetzal": ["2"],
        "jose.quetzal": [],
    }
    texts = [Text(text, text) for text in cases]
    found = find(people, texts)
    by_text = {text: sorted({m.subject for m in found.matches if m.label == text}) for text in cases}
    assert by_text == cases


def test_a_prefix_finds_what_begins_so_and_words_of_full_names(people: Store) -> None:
    assert find_subjects(people, "jose", prefix=True) == ["2", "3"]
    assert find_subjects(people, "OCE", prefix=True) == ["2"]
    assert find_subjects(people, "Quetzal", prefix=True) == []
    assert find_subjects(people, "maria lodz", prefix=True) == ["1"]
    assert find_subjects(people, "22222222-aaaa", "stra", prefix=True) == ["2", "3"]
    assert find_subjects(people, "ose", prefix=True) == []


@pytest.mark.parametrize("text", ["", " \t", "\u0301"])
def test_a_text_that_says_nothing_is_refused_and_named_by_where_it_stood(people: Store, text: str) -> None:
    with pytest.raises(UsageError, match=r"^text 0: there is nothing"):
        find_subjects(people, text)
    assert people.ledger.show(action="searched") == []


def test_a_text_that_is_none_is_refused(people: Store) -> None:
    # What an argument has that is no UTF-8.
    with pytest.raises(UsageError, match=r"^text 0: it is not UTF-8"):
        find_subjects(people, "o'neil\udcff")


def test_nothing_is_told_where_rows_may_be_hidden(people: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ("event_sink", "user_profile", "p", "user_id = 1", False, True, "us")
    rows = type(people.client).rows

    def answer(client: Any, sql: str, *arguments: Any, **values: Any) -> Any:
        return [policy] if "system.row_policies" in sql else rows(client, sql, *arguments, **values)

    monkeypatch.setattr(type(people.client), "rows", answer)
    with pytest.raises(ErasureError, match=r"event_sink\.user_profile: row policies"):
        find_subjects(people, "o'neil")


def test_a_short_prefix_is_refused_without_being_quoted(people: Store) -> None:
    with pytest.raises(UsageError, match="text 0") as refused:
        find_subjects(people, "zo", prefix=True)
    assert "zo" not in str(refused.value).replace("longer", "")


def test_many_texts_are_one_statement(people: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = []
    rows = type(people.client).rows

    def count(client: Any, sql: str, *arguments: Any, **values: Any) -> Any:
        if "find_texts" in sql:
            statements.append(sql)
        return rows(client, sql, *arguments, **values)

    monkeypatch.setattr(type(people.client), "rows", count)
    texts = [f"nobody-{number}" for number in range(5_000)]
    assert find_subjects(people, *texts, "O'Neil", PEOPLE[0][3]) == ["1", "5"]
    assert len(statements) == 1
    assert "nobody" not in statements[0]


def test_the_temporary_table_is_gone_afterwards(people: Store) -> None:
    find_subjects(people, "o'neil")
    assert people.client.value("SELECT count() FROM system.tables WHERE is_temporary AND name = 'find_texts'") == 0


def test_what_cannot_be_put_on_record_is_not_told(people: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LedgerError("no")

    monkeypatch.setattr(Ledger, "record", fail)
    with pytest.raises(LedgerError):
        find_subjects(people, "o'neil")


def test_texts_fold_alike_in_sql_and_here(store: Store) -> None:
    """Every letter up to the end of the scripts that have case or accents, and some beyond."""
    characters = [
        c for c in map(chr, [*range(0x20, 0x3100), *range(0xFB00, 0xFFF0)]) if unicodedata.category(c)[0] != "C"
    ]
    texts = [f" a{character}B  c" for character in characters]
    assert len(texts) > 10_000
    store.client.execute("CREATE TEMPORARY TABLE folded_texts (number UInt32, text String)")
    store.client.insert("folded_texts", ["number", "text"], list(enumerate(texts)))
    folded = store.client.column(f"SELECT {express_folded('text')} FROM folded_texts ORDER BY number")
    assert folded == [fold(text) for text in texts]


@pytest.mark.parametrize("is_full_name", [True, False])
@pytest.mark.parametrize("form", ["ana maria lopez", "ana", "añá 山田 x", "", "a  b"])
def test_beginnings_are_alike_in_sql_and_here(store: Store, form: str, is_full_name: bool) -> None:
    sql = express_beginnings("{form:String}", "{lengths:Array(UInt64)}", is_full_name=is_full_name)
    found = store.client.value(
        f"SELECT arraySort(arrayFilter(x -> isValidUTF8(x), {sql}))", form=form, lengths=[1, 3, 4, 9]
    )
    here = list_beginnings(form, {1, 3, 4, 9}, is_full_name=is_full_name)
    # Cut inside of a character, a beginning equals no text.
    assert set(found) <= here
    assert {begin for begin in here if len(begin.encode()) in (1, 3, 4, 9)} <= {*found, ""}


# The command.


@pytest.fixture
def command(aspects_pii: Callable[..., Any], people: Store) -> Callable[..., Any]:
    """`aspects-pii find` on a store with people in it."""
    return lambda *arguments, **environment: aspects_pii("find", *arguments, **environment)


def test_the_command_says_ids_and_where_and_no_values(command: Callable[..., Any]) -> None:
    ran = command("zoe@canary.example.org", "nobody")
    assert ran.status == 0
    assert "argument 1  1        event_sink.user_profile.email  no" in ran.out
    assert "argument 2: nobody is called so." in ran.out
    assert "canary" not in (ran.out + ran.err).lower()


def test_values_are_shown_where_that_is_asked_for(command: Callable[..., Any]) -> None:
    assert "Zoe@Canary.example.org" in command("zoe@canary.example.org", "--show").out
    (match,) = command("zoe@canary.example.org", "--show", "--json").json["found"]
    assert match["value"] == "Zoe@Canary.example.org"


def test_as_json(command: Callable[..., Any]) -> None:
    document = command("zoecanary", "nobody", "--json").json
    place = "event_sink.user_profile.username"
    assert document["found"] == [{"text": "argument 1", "subject": "1", "place": place, "retired": None}]
    assert document["not_found"] == ["argument 2"]
    assert {place, "event_sink.external_id.external_user_id"} <= set(document["searched"])


def read_from(text: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8")


@pytest.mark.parametrize("arguments", [["--file", "-"], ["-"]])
def test_texts_come_from_standard_input(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", read_from("\ufeffO'NEIL\n\n#nobody\njosé ocelot\n"))
    document = command(*arguments, "--json").json
    assert [(m["text"], m["subject"]) for m in document["found"]] == [
        ("standard input, line 1", "5"),
        ("standard input, line 4", "2"),
    ]
    # Somebody may be called so: it is no comment.
    assert document["not_found"] == ["standard input, line 3"]


def test_texts_come_from_a_file(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("o'neil\n山田太郎\n")
    assert {m["subject"] for m in command("--file", tmp_path / "texts", "--json").json["found"]} == {"4", "5"}
    ran = command("--file", tmp_path / "other")
    assert (ran.status, "cannot" in ran.err or "No such file" in ran.err) == (2, True)


def test_nothing_to_search_for_is_bad_usage(command: Callable[..., Any]) -> None:
    ran = command()
    assert ran.status == 2
    assert "nothing to search for" in ran.err


def test_the_ledger_says_that_somebody_searched_and_not_for_what(
    command: Callable[..., Any], aspects_pii: Callable[..., Any], people: Store
) -> None:
    command("o'neil", "josé ocelot", "nobody", "--actor", "17")
    (entry,) = aspects_pii("ledger", "show", "--action", "searched", "--json").json
    assert entry["actor"] == "17"
    assert entry["subject"] == ""
    counts = {"texts": 3, "found": 2, "retired": 0}
    assert entry["detail"] == {**counts, "prefix": False, "shown": False, "lms": False}
    written = str(people.client.rows("SELECT * FROM $pii_ledger.entries")).lower()
    assert "neil" not in written
    assert "ocelot" not in written
    assert aspects_pii("ledger", "check").status == 0


def test_the_lms_is_searched_too(
    command: Callable[..., Any], aspects_pii: Callable[..., Any], tmp_path: Path, people: Store
) -> None:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    lms = make_small_lms(url)
    external_id = lms.register_user(7, "Ünal_Canary", "unal@canary.example.org", "Ünal Ibex")
    lms.close()
    found = command("UNAL IBEX", str(external_id).upper(), "unal_canary", "--lms", "--json", LMS_DATABASE_URL=url).json
    assert [(m["text"], m["subject"], m["place"]) for m in found["found"]] == [
        ("argument 1", "7", "LMS: auth_userprofile.name"),
        ("argument 2", "7", "LMS: external_user_ids_externalid.external_user_id"),
        ("argument 3", "7", "LMS: auth_user.username"),
    ]
    begins = command("ibe", "--prefix", "--lms", "--json", LMS_DATABASE_URL=url).json
    assert [m["subject"] for m in begins["found"]] == ["7"]
    assert command("unal ibex", "--json", LMS_DATABASE_URL=url).json["found"] == []
    assert command("x", "--lms").status == 2


def test_who_is_retired_is_said_to_be(
    command: Callable[..., Any], aspects_pii: Callable[..., Any], tmp_path: Path, people: Store
) -> None:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    lms = make_small_lms(url)
    lms.request_retirement(2)
    lms.close()
    people.ledger.request([5])
    assert aspects_pii("retire", "2", "--yes", LMS_DATABASE_URL=url).status == 0
    assert command("jose_quetzal", "--json").json["found"] == []
    matches = command("learner2@example.com", "o'neil", "--lms", "--json", LMS_DATABASE_URL=url).json["found"]
    states = {m["subject"]: m["retired"] for m in matches}
    assert states == {"2": "erased", "5": "requested"}
    assert "erased" in command("learner2@example.com", "--lms", LMS_DATABASE_URL=url).out


def test_over_http(aspects_pii: Callable[..., Any], people: Store, tmp_path: Path) -> None:
    with served.serving(tmp_path / "clickhouse") as url:
        found = aspects_pii("find", "JOSE OCELOT", "stra", "--prefix", "--json", CLICKHOUSE_URL=url).json["found"]
        assert {m["subject"] for m in found} == {"2", "3"}
        with open_store(load_settings(clickhouse_url=url)) as store:
            assert find_subjects(store, "山田太郎") == ["4"]
