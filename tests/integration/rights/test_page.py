"""The page of a package: read by people, with whatever stands in a row, and looked at in a browser where there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sink.rights.words import WORDS, Language
from tests.integration.rights.conftest import ANA, NAME, World, fill
from tests.support.browser import chromium

NASTY = '</td></table><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} \0 & "quoted" \u202e'


@pytest.fixture
def filled(embedded: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("ASPECTS_INSTITUTION", "Universidad <Canary>")
    monkeypatch.setenv("ASPECTS_CONTACT", "privacy@uni.example.edu")
    fill(embedded)
    embedded.insert("event_sink.user_profile", ("user_id", "username", "bio"), (ANA, "second", NASTY + "x" * 5_000))
    return embedded


@pytest.fixture
def pages(filled: World) -> dict[str, str]:
    """The page in every language."""
    return {language: filled.export("--language", language).read("index.html").decode() for language in Language}


class Reader(HTMLParser):
    """What stands in a page: tags with their attributes, and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_page_is_whole_by_itself_and_can_be_found_around_in(pages: dict[str, str]) -> None:
    for language, page in pages.items():
        read = Reader(page)
        assert read.find("html") == [{"lang": language}]
        assert len(read.find("title")) == len(read.find("h1")) == len(read.find("main")) == 1
        assert {tag for tag, _ in read.tags} & {"script", "img", "link", "iframe", "form"} == set()
        assert "onerror" not in {name for _, attributes in read.tags for name in attributes}
        assert not re.search(r"https?://", "".join(str(a.get("href")) for a in read.find("a")))
        assert len(read.find("table")) == len(read.find("caption")) > 3
        assert {cell.get("scope") for cell in read.find("th")} == {"col", "row"}
        ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        targets = {str(a["href"])[1:] for a in read.find("a") if str(a["href"]).startswith("#")}
        assert targets <= set(ids)
        assert NAME in read.texts
        assert "Universidad <Canary>" in read.texts


def test_what_stands_in_a_row_is_shown_and_does_nothing(pages: dict[str, str]) -> None:
    page = pages["en"]
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page
    assert "\0" not in page
    assert "\u2400" in page
    # The whole of it is in the files.
    assert "x" * 1_001 not in page
    assert WORDS[Language.ENGLISH].shortened in page.replace("&#39;", "'")


def test_links_lead_to_files_of_the_package(filled: World) -> None:
    package = filled.export()
    links = {str(a["href"]) for a in Reader(package.read("index.html").decode()).find("a")}
    files = {link for link in links if not link.startswith("#")}
    assert files == {name for name in package.names if name.endswith((".jsonl", ".csv"))}


def test_every_language_says_everything() -> None:
    english, spanish = WORDS[Language.ENGLISH], WORDS[Language.SPANISH]
    assert set(WORDS) == set(Language)
    for name, text in vars(english).items():
        other = getattr(spanish, name)
        if isinstance(text, str):
            assert text != other
            assert re.findall(r"{\w+}", text) == re.findall(r"{\w+}", other) or set(re.findall(r"{\w+}", text)) == set(
                re.findall(r"{\w+}", other)
            )
        else:
            assert set(text) == set(other)


def test_a_number_is_the_same_number_in_every_language() -> None:
    assert WORDS[Language.ENGLISH].count(1_234_567) == "1,234,567"
    # With a comma it would be a little more than one.
    assert WORDS[Language.SPANISH].count(1_234) == "1\u202f234"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    with chromium() as browser:
        yield browser


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_is_in_the_way_of_anybody_who_reads_it(browser: Any, pages: dict[str, str], tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for language, page in pages.items():
        path = tmp_path / f"{language}.html"
        path.write_text(page)
        context = browser.new_context(bypass_csp=True)
        tab = context.new_page()
        said: list[str] = []
        tab.on("dialog", lambda dialog, said=said: (said.append(dialog.message), dialog.dismiss()))
        tab.on("console", lambda message, said=said: said.append(message.text))
        tab.goto(path.as_uri())
        found = Axe().run(tab).response
        assert [violation["id"] for violation in found["violations"]] == []
        assert len(found["passes"]) > 20
        # On a narrow screen the page itself does not scroll to the side.
        tab.set_viewport_size({"width": 400, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth <= 400")
        assert said == []
        context.close()
        path.unlink()
