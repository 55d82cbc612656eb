"""HTTP with a Superset: logging in, requests, lists of many pages, and what its errors mean.

What httpx raises, and what Superset answers instead of a result, is translated here, once.

.. no_pii: definitions of dashboards, roles and rules; no request here asks for data.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from sink.dashboards.superset_address import SupersetAddress
from sink.errors import SupersetAuthenticationError, SupersetError, SupersetUnreachableError, translated

#: The first version whose API has all that is used here, the roles included.
OLDEST_VERSION = (5, 0)
_CONNECT_TIMEOUT_SECONDS = 10.0
_ANSWER_TIMEOUT_SECONDS = 120.0
# Superset gives no more at a time, whatever is asked for.
_PAGE_ROWS = 100
_REASON_MAX_CHARACTERS = 300


class SupersetSession:
    """A session with Superset, logged in. Not safe for use by several threads at once."""

    def __init__(self, address: SupersetAddress) -> None:
        """Log in.

        Raises:
            SupersetUnreachableError: there is no answer, or none of Superset's.
            SupersetAuthenticationError: the user or the password is wrong.
        """
        self.address = address
        self._client = httpx.Client(
            base_url=address.url,
            timeout=httpx.Timeout(_ANSWER_TIMEOUT_SECONDS, connect=_CONNECT_TIMEOUT_SECONDS),
            transport=httpx.HTTPTransport(retries=2),
            # Superset compares it with its own address where it checks where a request comes from.
            headers={"Referer": f"{address.url.rstrip('/')}/"},
        )
        try:
            self.bootstrap = _read_bootstrap(self._send("GET", "/login/", follow_redirects=True).text)
            """What Superset tells its own pages about itself; empty where that cannot be found."""
            self._client.headers["Authorization"] = f"Bearer {self._request_token()}"
            if csrf := self._request_csrf_token():
                self._client.headers["X-CSRFToken"] = csrf
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _request_token(self) -> str:
        credentials = {
            "username": self.address.user,
            "password": self.address.password.get_secret_value(),
            "provider": self.address.provider,
            "refresh": False,
        }
        answer = self._send("POST", "/api/v1/security/login", json=credentials)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise SupersetAuthenticationError(
                f"Superset at {self.address.url} refused ASPECTS_SUPERSET_USER or ASPECTS_SUPERSET_PASSWORD. "
                "It has to be an account of Superset's own, or of LDAP (ASPECTS_SUPERSET_PROVIDER=ldap)."
            )
        token = self._read(answer, "logging in").get("access_token")
        if not token:
            raise SupersetUnreachableError(f"What answers at {self.address.url} is not Superset: it gave no token.")
        return str(token)

    def _request_csrf_token(self) -> str:
        """The token against forged requests, empty where Superset wants none."""
        answer = self._send("GET", "/api/v1/security/csrf_token/")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return ""
        return str(self._read(answer, "logging in").get("result", ""))

    def get(self, path: str, what: str) -> dict[str, Any]:
        """Read one document; `what` is for messages."""
        return self._read(self._send("GET", path), what)

    def list_entries(self, path: str, conditions: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every entry of a list that meets `conditions`."""
        page = 0
        while True:
            query = write_rison({**conditions, "page": page, "page_size": _PAGE_ROWS})
            document = self._read(self._send("GET", path, params={"q": query}), f"reading {path}")
            entries = document.get("result", [])
            yield from entries
            page += 1
            if len(entries) < _PAGE_ROWS or page * _PAGE_ROWS >= int(document.get("count", 0)):
                return

    def write(self, method: str, path: str, what: str, **content: Any) -> dict[str, Any]:
        """Send a change; `content` is what httpx takes."""
        return self._read(self._send(method, path, **content), what)

    def delete(self, path: str, what: str) -> None:
        """Delete something; what is gone already is as good."""
        answer = self._send("DELETE", path)
        if answer.status_code != httpx.codes.NOT_FOUND:
            self._read(answer, what)

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        with translated(self._translate):
            return self._client.request(method, path, **content)

    def _translate(self, error: Exception) -> SupersetUnreachableError | None:
        """Neither httpx's words nor the address it quotes: only what kind of failure it was."""
        if not isinstance(error, httpx.HTTPError | httpx.InvalidURL):
            return None
        return SupersetUnreachableError(
            f"Superset at {self.address.url} does not answer ({type(error).__name__}). Check ASPECTS_SUPERSET_URL."
        )

    def _read(self, answer: httpx.Response, what: str) -> dict[str, Any]:
        """The JSON of an answer, or the reason why there is none."""
        where = f"Superset at {self.address.url}"
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise SupersetError(
                f"{where} does not let ASPECTS_SUPERSET_USER do this ({what}). The user needs the role Admin."
            )
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
            raise SupersetError(
                f"{where} does not know {answer.request.url.path} ({what}). Is it older than "
                f"{'.'.join(map(str, OLDEST_VERSION))}, or is its FAB_ADD_SECURITY_API off?"
            )
        if answer.status_code in (502, 503, 504):
            raise SupersetUnreachableError(f"{where} is not ready (status {answer.status_code}).")
        if not answer.is_success:
            raise SupersetError(f"{where} failed at {what} (status {answer.status_code}): {_find_reason(answer)}")
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise SupersetUnreachableError(f"What answers at {self.address.url} is not Superset: it sent no JSON.")
        return document


def write_rison(value: Any) -> str:
    """Write `value` in Rison, the notation in which Superset takes conditions; every text is quoted."""
    if isinstance(value, bool):
        return "!t" if value else "!f"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return f"({','.join(f'{name}:{write_rison(member)}' for name, member in value.items())})"
    if isinstance(value, list):
        return f"!({','.join(map(write_rison, value))})"
    return "'" + re.sub(r"([!'])", r"!\1", str(value)) + "'"


def _read_bootstrap(page: str) -> dict[str, Any]:
    """What Superset tells its own pages about itself; empty where that cannot be found."""
    match = re.search(r"""data-bootstrap=(?:"([^"]*)"|'([^']*)')""", page)
    try:
        document = json.loads(html.unescape(match[1] or match[2])) if match else {}
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _find_reason(answer: httpx.Response) -> str:
    """What Superset says is wrong, without the page around it."""
    try:
        document = answer.json()
        said = document.get("message") or [error.get("message") for error in document.get("errors", [])]
    except (ValueError, AttributeError):
        return "no reason given; its log has one"
    return " ".join(str(said).split())[:_REASON_MAX_CHARACTERS] or "no reason given; its log has one"
