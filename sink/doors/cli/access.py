"""`aspects-pii access`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sink.doors.cli.common import Json
from sink.doors.cli.display import say
from sink.errors import UsageError

commands = typer.Typer(help="Who may do what on a ClickHouse server.", no_args_is_help=True)


@commands.command("sql")
def access_sql(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write instead.")] = None,
    sink_role: Annotated[
        str, typer.Option(help="Role of whoever runs aspects-pii, but for the datasets.")
    ] = "aspects_pii_sink",
    dbt_role: Annotated[str, typer.Option(help="Role of whoever builds the datasets.")] = "aspects_pii_dbt",
    dashboards_role: Annotated[str, typer.Option(help="Role of whoever looks at datasets.")] = "aspects_pii_dashboards",
    exempt: Annotated[
        list[str] | None, typer.Option(help="A user or role that the row policies leave alone; may be repeated.")
    ] = None,
    trust_dashboards: Annotated[
        bool, typer.Option("--trust-dashboards", help="Show the dashboards' role every row: Superset alone filters.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="What takes roles, policies and definer out again.")] = False,
    as_json: Json = False,
) -> int:
    """Print SQL for a server's administrator: roles, least grants, row policies, the definer. Connects nowhere."""
    from sink.datasets.access import plan_access
    from sink.datasets.grants import RoleNames, describe, render
    from sink.installation import read_map
    from sink.private_files import replace_private
    from sink.settings import load_settings

    settings = load_settings()
    definer = settings.clickhouse_definer or RoleNames.definer
    plan = plan_access(
        read_map(settings),
        settings.databases,
        RoleNames(sink_role, dbt_role, dashboards_role, definer),
        cluster=settings.clickhouse_cluster,
        trust_dashboards=trust_dashboards,
        exempt=exempt or (),
    )
    text = json.dumps(describe(plan, remove=remove), indent=2) + "\n" if as_json else render(plan, remove=remove)
    if output is None:
        typer.echo(text, nl=False)
        return 0
    try:
        # An administrator runs it: nobody else is to write it, and no link leads it elsewhere.
        replace_private(output, [text.encode()])
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}.") from None
    say(f"{output}: run it as an administrator of the server, such as clickhouse-client --queries-file {output}")
    return 0
