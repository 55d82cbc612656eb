"""Renders the pages, and says with each what a browser may do with it.

.. pii: What a search found stands in a page, in memory only.
.. pii_types: id, name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response

from sink.doors.web.privacy.words import WORDS
from sink.rights.page import show_text
from sink.rights.words import Language

HOME = "/privacy"
HEADERS = {
    # Nothing but our own style sheet is loaded, nothing runs, and nobody frames the page.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""With every answer, downloads included."""
_TEMPLATES = Path(__file__).parent / "templates"
_MENU = (
    ("requests", "/"),
    ("receipts", "/receipts"),
    ("find", "/find"),
    ("export", "/export"),
    ("retire", "/retire"),
    ("record", "/record"),
)


@dataclass(frozen=True)
class Problem:
    """What went wrong, for whoever reads the page."""

    text: str
    language: str = "en"


@dataclass(frozen=True)
class View:
    """A page before it is rendered."""

    template: str
    title: str
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    here: str = ""
    """Where it is in the menu."""
    status: int = 200
    error: Problem | None = None
    title_language: str = ""
    """Of the title, where it is another one than the page's."""


class Pages:
    """Makes answers of views."""

    def __init__(self, institution: str | None) -> None:
        """`institution` stands on top of each page."""
        self._institution = institution
        self._environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {"iso": _write_iso, "minute": _write_minute, "shown": show_text}
        self.style = (_TEMPLATES / "style.css").read_bytes()

    def render(self, view: View, language: Language, form_token: str | None) -> Response:
        """The page in a language; for whoever is not signed in (no `form_token`) without a menu."""
        text = self._environment.get_template(f"{view.template}.html.j2").render(
            {
                "w": WORDS[language],
                "language": str(language),
                "home": HOME,
                "menu": _MENU,
                "here": view.here,
                "title": view.title,
                "title_language": view.title_language,
                "error": view.error,
                "form_token": form_token,
                "institution": self._institution,
                **view.values,
            }
        )
        return Response(text, view.status, media_type="text/html", headers={"Content-Language": str(language)})


def _write_iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _write_minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
