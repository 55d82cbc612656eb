"""Macros of the dbt project, for SQL outside of dbt: what both need is written once.

Such a macro calls nothing of dbt's but `return`.

.. no_pii: SQL texts of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sink.resources import find_resource


def render_macro(files: Sequence[str], name: str, *arguments: str, **named: str) -> str:
    """Render a macro.

    Args:
        files: those of `dbt_project/macros` that it needs, without the ending.
        name: the macro.
        arguments: what it takes; SQL of ours.
        named: the same, by name.
    """
    # Jinja comes with dbt; who neither builds datasets, installs dashboards nor prints grants needs it not.
    from jinja2 import Environment, StrictUndefined

    # It makes SQL, not HTML, and of our own texts only.
    environment = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701
    environment.globals["return"] = _give
    texts = [find_resource(f"dbt_project/macros/{file}.sql").read_text(encoding="utf-8") for file in files]
    macros = environment.from_string("\n".join(texts)).module
    return str(vars(macros)[name](*arguments, **named))


def _give(value: Any) -> Any:
    """What dbt calls `return`."""
    return value
