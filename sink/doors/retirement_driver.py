"""A driver of Open edX's retirement pipeline, for releases that load drivers from entry points.

Upstream has decided so (edx-platform, scripts/user_retirement/docs/decisions/0001-extensibility.rst, of December 2024): the
pipeline finds drivers by Stevedore under `retirement_driver`, makes one with `get_instance(config)`, where `config` is the
whole configuration file as a dictionary, and calls the method that a row of `retirement_pipeline` names with the learner's
dictionary. No release does yet; those take the row `LICENSE_MANAGER` (docs/http.md). Where nobody loads it, this module
does nothing.

It runs in the pipeline's environment, so it needs nothing but the standard library and what the bare package brings.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, Request, build_opener

import stamina

from sink.errors import AspectsPiiError, RetirementDriverError, RetirementDriverRetryError, SettingsError

# .. no_pii: of a learner only the id is sent, and nothing is logged.

#: What the pipeline's rows call it: the name of the entry point in pyproject.toml.
NAME = "ASPECTS_PII"
#: How long an LMS or a hook that is away is waited for, as the pipeline's own services do.
RETRY_SECONDS = 600.0
_TIMEOUT_SECONDS = 30
_RETIRE_PATH = "/api/v1/retire_user/"
_TOKEN_PATH = "/oauth2/access_token/"  # noqa: S105


class RetirementDriver:
    """Asks the HTTP hook to retire a learner.

    Of the configuration it reads `base_urls.aspects_pii`, the address of the hook; `aspects_pii_token`, which is
    ASPECTS_WEB_TOKEN; and, where that is not set, `base_urls.lms`, `client_id` and `client_secret`, with which it asks the
    LMS for a token, as the pipeline does.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Take the configuration; nothing is connected yet."""
        self._config = config

    @staticmethod
    def get_instance(config: Mapping[str, Any]) -> RetirementDriver:
        """Make one.

        Raises:
            SettingsError: a row of the pipeline names this driver, and it does not know where the hook is.
        """
        driver = RetirementDriver(config)
        if any(NAME in row for row in config.get("retirement_pipeline") or ()):
            driver._find_address("aspects_pii")
        return driver

    def retire_learner(self, learner: Mapping[str, Any]) -> str:
        """Have the learner's PII erased; returns once the retirement is in the ledger.

        Raises:
            SettingsError: the configuration lacks an address.
            RetirementDriverError: the hook or the LMS refused, or could not be reached for ten minutes.
        """
        try:
            body = json.dumps({"lms_user_id": learner["user"]["id"]})
        except (KeyError, TypeError):
            raise RetirementDriverError("The learner has no user.id, so nobody was retired.") from None
        for attempt in stamina.retry_context(RetirementDriverRetryError, attempts=None, timeout=RETRY_SECONDS):
            with attempt:
                headers = {"Content-Type": "application/json", "Authorization": self._authorize()}
                _post(self._find_address("aspects_pii") + _RETIRE_PATH, body, headers, "The retirement hook", 204)
        return "The retirement is in the ledger of aspects-pii."

    def _authorize(self) -> str:
        token = self._config.get("aspects_pii_token")
        if token:
            return f"Bearer {token}"
        form = {name: self._config.get(name, "") for name in ("client_id", "client_secret")}
        form |= {"grant_type": "client_credentials", "token_type": "jwt"}
        answer = _post(self._find_address("lms") + _TOKEN_PATH, urlencode(form), {}, "The LMS", 200)
        try:
            return f"JWT {json.loads(answer)['access_token']}"
        except (ValueError, KeyError, TypeError):
            raise RetirementDriverError("The LMS gave no token for client_id and client_secret.") from None

    def _find_address(self, service: str) -> str:
        address = str((self._config.get("base_urls") or {}).get(service) or "")
        if not address.startswith(("http://", "https://")):
            raise SettingsError(
                f"base_urls.{service} of the retirement pipeline's configuration is not an address of http:// or https://."
            )
        return address.rstrip("/")


class _NoRedirects(HTTPRedirectHandler):
    """A redirected POST comes as a GET without its body, and whatever page answers that is no success."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: the redirection is the answer."""
        return


def _post(url: str, body: str, headers: Mapping[str, str], whom: str, expected: int) -> bytes:
    """What it answers, with the status that is expected.

    No text of an answer is passed on: the pipeline keeps what is raised in the LMS's database.
    """
    request = Request(url, body.encode(), {"User-Agent": "aspects-pii", **headers}, method="POST")  # noqa: S310
    failure: AspectsPiiError
    try:
        with build_opener(_NoRedirects).open(request, timeout=_TIMEOUT_SECONDS) as response:
            answer: bytes = response.read()
            if response.status == expected:
                return answer
            failure = RetirementDriverError(f"{whom} answered {response.status}.")
    except HTTPError as error:
        error.close()
        kind = RetirementDriverRetryError if error.code >= 500 or error.code == 429 else RetirementDriverError
        failure = kind(f"{whom} answered {error.code}.")
    except (URLError, OSError, http.client.HTTPException) as error:
        failure = RetirementDriverRetryError(f"{whom} cannot be reached ({type(error).__name__}).")
    raise failure
