"""Where ClickHouse is and how to get in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr


@dataclass(frozen=True)
class Address:
    """Where ClickHouse is and how to get in."""

    url: str
    user: str = "default"
    password: SecretStr = field(default_factory=lambda: SecretStr(""))
    cluster: str | None = None
    ca_file: Path | None = None
    connect_timeout: int = 10
    timeout: int = 300
    retries: int = 4
    databases: Mapping[str, str] = field(default_factory=dict)
    creates: bool = True
    """False where the embedded engine opens only what is there: no mistaken folder becomes an empty store."""

    @property
    def is_embedded(self) -> bool:
        """True for the engine in process."""
        return self.url.startswith("chdb://")

    @property
    def folder(self) -> Path:
        """The embedded engine's data folder, absolute."""
        return Path(self.url.removeprefix("chdb://")).expanduser().resolve()

    @property
    def described(self) -> str:
        """The store as people are told of it: `chdb://` and the absolute folder, or the server without user and password."""
        if self.is_embedded:
            return f"chdb://{self.folder}"
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
