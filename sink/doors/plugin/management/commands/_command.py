"""What the commands share: each is a command of `aspects-pii`, run with the settings of the LMS."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, ClassVar
from urllib.parse import quote

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from sink.errors import SettingsError
from sink.settings import Settings, environment_name, load_settings

_LMS_DATABASE_URL = "ASPECTS_LMS_DATABASE_URL"


class SinkCommand(BaseCommand):  # type: ignore[misc]  # Django has no types.
    """Passes all its arguments on: `manage.py lms aspects_pii_sync --object external_id`.

    From code: `call_command("aspects_pii_sync", "--", "--object", "external_id")`.
    """

    command: ClassVar[str]
    requires_system_checks: ClassVar[list[str]] = []

    def add_arguments(self, parser: Any) -> None:
        """Take everything."""
        parser.add_argument("arguments", nargs="*", help=f"see `aspects-pii {self.command} --help`")

    def run_from_argv(self, argv: list[str]) -> None:
        """Keep Django from reading options that are not its own."""
        super().run_from_argv([*argv[:2], "--", *argv[2:]])

    def handle(self, *_: Any, arguments: list[str], **__: Any) -> None:
        """Run the command."""
        # Here, not above: this brings in what an LMS has no use for in its other processes.
        from sink.doors.cli.main import run

        _export_settings()
        status = run([self.command, *arguments])
        if status:
            raise CommandError(f"aspects-pii {self.command} ended with status {status}.", returncode=status)


def _export_settings() -> None:
    """Give the command line, which reads the environment, what the LMS's settings say; the environment wins."""
    for name in map(environment_name, Settings.model_fields):
        value = getattr(settings, name, None)
        if value is not None:
            os.environ.setdefault(name, str(value))
    if getattr(settings, "ASPECTS_PII_BROKER_URL", None):
        os.environ.setdefault("ASPECTS_BROKER_URL", settings.ASPECTS_PII_BROKER_URL)
    # A setting that is not valid is the command's to complain of.
    with suppress(SettingsError):
        if load_settings().lms_database_url is None and (url := _describe_database(settings.DATABASES["default"])):
            os.environ[_LMS_DATABASE_URL] = url


def _describe_database(database: dict[str, Any]) -> str | None:
    """The LMS's own database as an SQLAlchemy address; None for kinds that the sink does not read."""
    engine, name = str(database["ENGINE"]), str(database["NAME"])
    if "sqlite" in engine:
        return f"sqlite:///{name}"
    if "mysql" in engine:
        scheme = "mysql+mysqldb" if find_spec("MySQLdb") else "mysql+pymysql"
    elif "postgresql" in engine:
        scheme = "postgresql+psycopg"
    else:
        return None
    user, password = (quote(str(database.get(key) or ""), safe="") for key in ("USER", "PASSWORD"))
    host, port = database.get("HOST") or "localhost", database.get("PORT")
    return f"{scheme}://{user}:{password}@{host}{f':{port}' if port else ''}/{quote(name, safe='')}"
