"""A receipt as a page: everything a person asks is answered, in text and in HTML, and nothing gets out of its place."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sink.caches import CacheLine
from sink.erasure.stays import StayLine
from sink.retirement.pages import Page, render_html, render_text
from sink.retirement.receipt import Receipt, Superseded, TargetLine
from sink.retirement.receipt_files import ReceiptFile
from sink.retirement.receipt_pages import Responsible, compose_page

RECEIPT = Receipt(
    subject="42",
    request="7e5595f7-cd3e-5b1f-82bf-91c4a3113481",
    actor="officer-1",
    requested_at="2026-03-01T10:00:00.000+00:00",
    hidden_at="2026-03-01T10:00:01.000+00:00",
    erased_at="2026-03-01T10:20:00.000+00:00",
    nothing_was_stored=False,
    targets=[
        TargetLine("event_sink.user_profile", "delete", rows_before=1, pii={"name": "name", "email": "email_address"}),
        TargetLine("event_sink.course_enrollment", "redact", ["username"], 1_204, pii={"username": "username"}),
        TargetLine("event_sink.external_id", "delete"),
        TargetLine("event_sink.course_access", "none", absent=True),
    ],
    reloaded=["event_sink.user_pii"],
    verified=["event_sink.user_profile", "event_sink.user_pii"],
    verified_in_files=True,
    caches=[CacheLine("superset", "https://superset.example.org", 4, "2026-03-01T10:19:00.000+00:00")],
    stays=[StayLine("a.invoices", ["name"], "the law wants it for ten years", 3)],
    suspects=["analytics.newsletter.email"],
    map_checked_at="2026-02-28T00:00:00.000+00:00",
    store="https://clickhouse.example.org:8443",
    institution="University of Nowhere",
    contact="Data Protection Office, room 4",
    supersedes=Superseded("7e5595f7-cd3e-5b1f-82bf-91c4a3113481.json", "ab" * 32),
)
# What the page has to answer: what, when, where, how checked, what stays, what is not covered, who, whether genuine.
ANSWERS = (
    "personal data of user 42 was erased",
    "1,205 rows",
    "event_sink.course_enrollment",
    "values erased, rows kept",
    "e-mail address",
    "event_sink.external_id",
    "event_sink.course_access",
    "1 March 2026, 10:00:00 UTC: the erasure was requested by officer-1.",
    "1 March 2026, 10:00:01 UTC",
    "1 March 2026, 10:20:00 UTC",
    "https://clickhouse.example.org:8443",
    "2 places were asked",
    "event_sink.user_pii",
    "https://superset.example.org",
    "28 February 2026",
    "analytics.newsletter.email",
    "the law wants it for ten years",
    "backups of ClickHouse",
    "the LMS itself",
    "University of Nowhere",
    "Data Protection Office, room 4",
    "cd" * 32,
    "Not signed.",
    "ab" * 32,
)


def make_page(receipt: Receipt, responsible: Responsible | None = None) -> Page:
    """The page of a receipt whose file has some digest."""
    file = ReceiptFile(Path("receipt.json"), receipt.to_dict(), "cd" * 32)
    return compose_page(file, responsible or Responsible(), ["Said first."])


class Reader(HTMLParser):
    """What an HTML page has: elements, and the text outside of `style`."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] != "style":
            self.text += data

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_page_answers_what_people_ask(answer: str) -> None:
    page = make_page(RECEIPT)
    assert answer in " ".join(render_text(page).split())
    assert answer in Reader(render_html(page)).text


def test_text_fits_a_sheet_of_paper() -> None:
    lines = render_text(make_page(RECEIPT)).splitlines()
    assert len(lines) > 40
    # What cannot be broken, as a digest, stands on a line of its own.
    assert [line for line in lines if len(line) > 78] == []


def test_html_is_one_file_that_a_screen_reader_finds_its_way_through() -> None:
    page = render_html(make_page(RECEIPT))
    found = Reader(page)
    assert found.find("html") == [{"lang": "en"}]
    assert len(found.find("title")) == len(found.find("h1")) == len(found.find("main")) == 1
    headings = {attributes["id"] for attributes in found.find("h2")}
    assert len(headings) == 8
    assert {attributes["aria-labelledby"] for attributes in found.find("section")} == headings
    assert [attributes["scope"] for attributes in found.find("th")] == ["col"] * 4 + ["row"] * 2
    for tag in ("script", "link", "img", "iframe"):
        assert found.find(tag) == []
    assert "url(" not in page
    assert "@media print" in page


def test_nothing_that_a_receipt_says_becomes_markup() -> None:
    evil = '<script>alert("1")</script>&amp;'
    receipt = replace(
        RECEIPT,
        subject=evil,
        actor=evil,
        store=evil,
        institution=evil,
        contact=evil,
        not_covered=[evil],
        suspects=[evil],
        targets=[replace(RECEIPT.targets[0], target=evil, pii={"name": evil})],
    )
    found = Reader(render_html(make_page(receipt)))
    assert found.find("script") == []
    assert found.text.count(evil) >= 9


def test_text_holds_no_commands_for_a_terminal() -> None:
    text = render_text(make_page(replace(RECEIPT, institution="University\x1b[2J\x07 of Nowhere")))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_who_had_nothing_stored_is_told_so() -> None:
    receipt = replace(RECEIPT, nothing_was_stored=True, targets=[TargetLine("event_sink.user_profile", "delete")])
    text = render_text(make_page(receipt))
    assert "no personal data of user 42 was stored" in text
    assert "Nothing, as nothing of this user was found." in text


def test_an_older_receipt_names_who_is_responsible_by_the_settings() -> None:
    receipt = replace(RECEIPT, version=1, store="", institution=None, contact=None)
    text = " ".join(render_text(make_page(receipt, Responsible("Institute of Elsewhere", "room 5"))).split())
    assert "Institute of Elsewhere room 5 The receipt itself names nobody" in text
    assert "does not name the store" in text
    assert "The receipt names nobody." in render_text(make_page(receipt))
