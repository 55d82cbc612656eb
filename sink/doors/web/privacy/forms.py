"""Forms as browsers send them: what stands in them, and whether a page of ours has sent them.

.. pii: A form may hold the texts of a search, in memory only.
.. pii_types: name, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

from sink.doors.web.privacy.sessions import Session
from sink.errors import HttpProblemError

FORM_TOKEN = "form_token"  # noqa: S105 - the name of a field
_TYPE = "application/x-www-form-urlencoded"
_MOST_FIELDS = 20


class Form:
    """The fields of a form. What was sent is not in its `repr`."""

    def __init__(self, fields: Mapping[str, str] | None = None) -> None:
        """Without fields it is one that nobody has filled in."""
        self._fields = dict(fields or {})

    def text(self, name: str) -> str:
        """A field without blanks around it; empty where it is not there."""
        return self._fields.get(name, "").strip()

    def has(self, name: str) -> bool:
        """Whether a box is ticked."""
        return name in self._fields


async def read_form(request: Request) -> Form:
    """Read what was sent.

    Raises:
        HttpProblemError: it is no form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _TYPE:
        raise HttpProblemError(415, "no_form", "This is no form of this page.")
    try:
        text = (await request.body()).decode("ascii")
        fields = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise HttpProblemError(400, "no_form", "This is no form of this page.") from None
    return Form(dict(fields))


def require_own_page(request: Request) -> None:
    """Refuse what a browser says that a page of somebody else has sent.

    Raises:
        HttpProblemError: another page has sent it.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        is_ours = site == "same-origin"
    else:
        # Browsers do not say it over plain HTTP, and programs never do.
        origin = request.headers.get("origin")
        is_ours = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not is_ours:
        raise HttpProblemError(403, "foreign", "This was sent by another page, and not carried out.")


def require_own_form(form: Form, session: Session) -> None:
    """Refuse a form that no page of this session holds.

    Raises:
        HttpProblemError: it is none of this session's.
    """
    given = form.text(FORM_TOKEN).encode("utf-8", "replace")
    if not hmac.compare_digest(given, session.form_token.encode()):
        raise HttpProblemError(403, "foreign", "This was sent by another page, and not carried out.")
