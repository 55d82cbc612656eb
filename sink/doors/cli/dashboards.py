"""`aspects-pii dashboards`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sink.doors.cli.common import Json, print_json
from sink.doors.cli.display import print_lines, warn
from sink.errors import SettingsError, SupersetError

if TYPE_CHECKING:
    from sink.dashboards.install import Changes
    from sink.dashboards.site import Site
    from sink.dashboards.superset_api import Superset
    from sink.settings import Settings

commands = typer.Typer(help="The dashboards in Superset.", no_args_is_help=True)


@commands.command("install")
def dashboards_install(as_json: Json = False) -> int:
    """Put dashboards, roles and rules into Superset, or put right those that are there."""
    from sink.dashboards.install import install
    from sink.settings import load_settings

    settings = load_settings()
    with _open_superset(settings) as superset:
        changes = install(superset, _describe_site(settings), enable_pii=settings.enable_pii)
    if settings.superset_clickhouse_user is None:
        warn(
            "Superset reaches ClickHouse as ASPECTS_CLICKHOUSE_USER, who may do more than it needs. "
            "Set ASPECTS_SUPERSET_CLICKHOUSE_USER."
        )
    return _show_changes(changes, as_json)


@commands.command("remove")
def dashboards_remove(as_json: Json = False) -> int:
    """Take everything of ours out of Superset: dashboards, charts, datasets, connection, roles, rules."""
    from sink.dashboards.install import remove
    from sink.settings import load_settings

    settings = load_settings()
    with _open_superset(settings) as superset:
        return _show_changes(remove(superset, _describe_site(settings)), as_json)


@commands.command("export")
def dashboards_export(
    file: Annotated[Path, typer.Option("--output", "-o", help="The ZIP file to write.")], as_json: Json = False
) -> int:
    """Write the dashboards as a ZIP for Superset's own import; roles and rules are not in it."""
    from sink.dashboards.site import export
    from sink.settings import load_settings

    settings = load_settings()
    export(_describe_site(settings), file, enable_pii=settings.enable_pii)
    if as_json:
        print_json({"file": file})
    else:
        print_lines([f"The dashboards are in {file}. Superset will ask for the password of ClickHouse."])
    return 0


def _open_superset(settings: Settings) -> Superset:
    from sink.installation import find_superset

    address = find_superset(settings)
    if address is None:
        raise SettingsError(
            "ASPECTS_SUPERSET_URL is not set. Example: ASPECTS_SUPERSET_URL=https://superset.example.org"
        )
    from sink.dashboards.superset_api import Superset

    return Superset(address)


def _describe_site(settings: Settings) -> Site:
    from sink.dashboards.site import describe_site
    from sink.installation import find_address

    return describe_site(
        find_address(settings),
        url=settings.superset_clickhouse_url,
        user=settings.superset_clickhouse_user,
        password=settings.superset_clickhouse_password,
        language=settings.superset_language,
    )


def _show_changes(changes: Changes, as_json: bool) -> int:
    if as_json:
        print_json(asdict(changes))
    else:
        _print_changes(changes)
    return 0


def _print_changes(changes: Changes) -> None:
    for verb, counts in (("installed", changes.installed), ("removed", changes.removed)):
        if counts:
            things = ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items())
            print_lines([f"Superset: {verb} {things}."])
    if not changes.installed and not changes.removed:
        print_lines(["Superset: there was nothing to remove."])
    print_lines(changes.kept)


def purge_dashboards(settings: Settings, as_json: bool) -> None:
    """Take the dashboards out of Superset. The PII is gone already: that does not wait for Superset."""
    from sink.dashboards.install import remove
    from sink.installation import find_address

    try:
        with _open_superset(settings) as superset:
            changes = remove(superset, _describe_site(settings))
    except SupersetError as error:
        raise SupersetError(
            f"No PII is left on {find_address(settings).described}, but the dashboards are still in Superset. {error} "
            "Then run `aspects-pii purge` again."
        ) from None
    if not as_json:
        _print_changes(changes)
