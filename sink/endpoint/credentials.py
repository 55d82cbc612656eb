"""Who may ask the endpoint: one account, whose credentials a request carries in any of ClickHouse's three ways.

.. no_pii: user and password of ClickHouse.
"""

from __future__ import annotations

import hmac
from base64 import b64decode
from dataclasses import dataclass

from pydantic import SecretStr
from starlette.requests import Request

from sink.errors import ProtocolError


@dataclass(frozen=True)
class Account:
    """The only account that may ask."""

    user: str
    password: SecretStr

    def __post_init__(self) -> None:
        """Refuse an account that anybody could use."""
        if not self.password.get_secret_value():
            raise ValueError("an account needs a password")

    def check(self, request: Request) -> None:
        """Compare a request's credentials, wherever it carries them.

        Raises:
            ProtocolError: they are wrong or missing, or a web page asks.
        """
        _refuse_web_pages(request)
        user, password, given = _read_credentials(request)
        same_user = hmac.compare_digest(user.encode(), self.user.encode())
        same_password = hmac.compare_digest(password.encode(), self.password.get_secret_value().encode())
        if not (same_user and same_password):
            raise _authentication_failed(
                f"{user if same_user else 'User'}: Authentication failed: password is incorrect, "
                "or there is no user with such name.",
                given,
            )


def _refuse_web_pages(request: Request) -> None:
    """Any web page could reach this host's endpoint through its visitor's browser, which may know the password.

    A browser says so by `Origin`, or, for an image or a link that has none, by `Sec-Fetch-Site`; only what somebody has
    typed into the address bar comes with `none`.
    """
    if request.headers.get("origin") or request.headers.get("sec-fetch-site", "none") != "none":
        raise _authentication_failed("Web pages cannot ask here; let a server ask.", True)


def _authentication_failed(message: str, given: bool) -> ProtocolError:
    if given:
        return ProtocolError("AUTHENTICATION_FAILED", message)
    headers = {"WWW-Authenticate": 'Basic realm="ClickHouse server HTTP API"'}
    return ProtocolError("AUTHENTICATION_FAILED", message, status=401, headers=headers)


def _read_credentials(request: Request) -> tuple[str, str, bool]:
    """User, password, and whether there were any."""
    headers, url = request.headers, request.query_params
    in_headers = "x-clickhouse-user" in headers or "x-clickhouse-key" in headers
    basic = headers.get("authorization", "")
    in_url = "user" in url or "password" in url
    if in_headers + bool(basic) + in_url > 1:
        raise _authentication_failed("Invalid authentication: several ways are used simultaneously.", True)
    if in_headers:
        user, password = headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key", "")
        # Header values arrive decoded byte by byte.
        return _utf8(user), _utf8(password), True
    if basic:
        scheme, _, secret = basic.partition(" ")
        try:
            user, _, password = b64decode(secret, validate=True).decode().partition(":")
        except ValueError:
            scheme = ""
        if scheme.lower() != "basic":
            raise _authentication_failed("Invalid authentication: only Basic is supported.", True)
        return user, password, True
    return url.get("user", "default"), url.get("password", ""), in_url


def _utf8(value: str) -> str:
    return value.encode("latin-1").decode(errors="replace")
