"""`aspects-pii settings`: what is in effect, and where it is from. Of a secret only that it is set.

.. no_pii: settings of this installation.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sink.doors.cli.common import Format, FormatOption, Json, print_json
from sink.doors.cli.display import print_lines, print_table
from sink.doors.cli.effective import Effective, find_env_file, list_effective
from sink.wording import counted

commands = typer.Typer()


@commands.command("settings")
def settings_command(
    only_set: Annotated[bool, typer.Option("--set", help="Only those that somebody has set.")] = False,
    form: FormatOption = Format.TEXT,
    as_json: Json = False,
) -> int:
    """Show the settings in effect, and where each comes from: default, environment, `.env` file, secret file.

    Of passwords, keys, and addresses with passwords it shows only whether they are set.
    """
    from sink.settings import load_settings

    shown = [setting for setting in list_effective(load_settings()) if not (only_set and setting.is_default)]
    if as_json or form is Format.JSON:
        print_json(
            {
                "env_file": find_env_file(),
                "settings": [{**asdict(setting), "origin": setting.origin} for setting in shown],
            }
        )
        return 0
    print_table(
        ("setting", "value", "from"),
        [(setting.name, _describe(setting.value), _describe_source(setting)) for setting in shown],
    )
    own = sum(not setting.is_default for setting in shown)
    print_lines([f"{counted(own, 'setting is', 'settings are')} set, all others have their defaults."])
    return 0


def _describe_source(setting: Effective) -> str:
    return f"{setting.source.value} {setting.file}" if setting.file else setting.source.value


def _describe(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
