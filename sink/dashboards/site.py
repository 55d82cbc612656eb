"""What the dashboards of one installation look like, and how its Superset reaches ClickHouse; the bundle as a file.

.. no_pii: addresses and definitions of dashboards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote as quote_url
from urllib.parse import urlsplit

from pydantic import SecretStr

from sink.clickhouse.address import Address
from sink.dashboards.bundle import Bundle, load_bundle, pack
from sink.errors import SettingsError, UsageError
from sink.private_files import replace_private

# What Superset shows instead of a password, and takes as "the password that comes separately".
_MASK = "XXXXXXXXXX"
# The address in a bundle that is only looked at.
_UNKNOWN_URI = "clickhousedb://unknown/default"


@dataclass(frozen=True)
class Site:
    """What an installation's dashboards look like, and how its Superset reaches ClickHouse."""

    database_uri: str
    """Empty where Superset cannot reach it: the engine in process."""
    password: SecretStr
    databases: Mapping[str, str]
    language: str = "en"

    def compose(self, *, enable_pii: bool) -> Bundle:
        """The bundle of this installation.

        Raises:
            SettingsError: there is no translation into the language.
        """
        uri = self.database_uri or _UNKNOWN_URI
        bundle = load_bundle(enable_pii=enable_pii, language=self.language, databases=self.databases, database_uri=uri)
        if not self.password.get_secret_value():
            return bundle
        # The mask makes Superset ask for the password, or take the one that comes beside the bundle.
        masked = {
            path: {**document, "sqlalchemy_uri": _mask(uri)} if path.startswith("databases/") else document
            for path, document in bundle.files.items()
        }
        return replace(bundle, files=masked)


def describe_site(
    clickhouse: Address, *, url: str | None, user: str | None, password: SecretStr | None, language: str
) -> Site:
    """Work out how Superset reaches ClickHouse.

    Args:
        clickhouse: how we do.
        url: address to use instead of ours.
        user: user to use instead of ours; then the password is used too.
        password: see `user`.
        language: language of the dashboards.
    """
    if user is None:
        user, password = clickhouse.user, clickhouse.password
    return Site(
        _write_uri(url or clickhouse.url, user, clickhouse.databases["reporting"]),
        password or SecretStr(""),
        clickhouse.databases,
        language,
    )


def _write_uri(url: str, user: str, database: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "chdb":
        return ""
    secure = "?secure=true" if parts.scheme == "https" else ""
    port = parts.port or (8443 if secure else 8123)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"clickhousedb://{quote_url(user, safe='')}@{host}:{port}/{database}{secure}"


def require_uri(site: Site) -> None:
    if not site.database_uri:
        raise SettingsError(
            "Superset cannot use the engine in process. Serve it with `aspects-pii clickhouse` and set "
            "ASPECTS_SUPERSET_CLICKHOUSE_URL to its address. Example: ASPECTS_SUPERSET_CLICKHOUSE_URL=http://127.0.0.1:8123"
        )


def export(site: Site, file: Path, *, enable_pii: bool) -> None:
    """Write the bundle as a ZIP for Superset's own import, for its owner alone; roles and rules have no place in it.

    Raises:
        SettingsError: there is no translation into the language, or Superset cannot reach ClickHouse.
        UsageError: the file cannot be written.
    """
    require_uri(site)
    bundle = pack(site.compose(enable_pii=enable_pii))
    try:
        replace_private(file, [bundle])
    except OSError as error:
        raise UsageError(f"-o {file}: {error.strerror}.") from None


def _mask(uri: str) -> str:
    user, at, rest = uri.partition("@")
    return f"{user}:{_MASK}{at}{rest}"
