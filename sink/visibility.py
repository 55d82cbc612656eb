"""Which rows of a dataset a viewer may see: the condition of dbt_project/macros/access.sql, for SQL outside of dbt.

The macro `visible_to` is the only text of the condition. dbt renders it in models and tests; this module renders it for
row policies of ClickHouse and for datasets and row level security rules of Superset.

.. no_pii: names of columns, and an expression that stands for the viewer.
"""

from __future__ import annotations

from sink.names import quote
from sink.resources import find_resource

VIEWER_SCOPES = "viewer_scopes"
"""The parameterised view that the condition asks."""

_MACROS = "dbt_project/macros/access.sql"
# No course and no organisation has an empty name, so that no scope but the global one matches it.
_NO_COLUMN = "''"


def render_visible_to(viewer: str, reporting: str, *, has_course: bool = True, has_org: bool = True) -> str:
    """Render the condition for rows that a viewer may see.

    Args:
        viewer: an SQL expression without columns for the viewer's user name, such as `currentUser()`.
        reporting: the database that dbt builds into.
        has_course: whether the dataset has a column `course_key`.
        has_org: whether the dataset has a column `org`.
    """
    # Jinja comes with dbt; who neither installs dashboards nor prints grants needs neither.
    from jinja2 import Environment, StrictUndefined

    # It makes SQL, not HTML, and of our own texts only.
    environment = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701
    macros = environment.from_string(find_resource(_MACROS).read_text(encoding="utf-8")).module
    without = {name: _NO_COLUMN for name, is_there in (("course_key", has_course), ("org", has_org)) if not is_there}
    scopes = f"{quote(reporting)}.{quote(VIEWER_SCOPES)}"
    return " ".join(str(vars(macros)["visible_to"](viewer, scopes, **without)).split())
