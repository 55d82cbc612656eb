"""Which rows of a dataset a viewer may see: the condition of dbt_project/macros/access.sql, for SQL outside of dbt.

The macro `visible_to` is the only text of the condition. dbt renders it in models and tests; this module renders it for
row policies of ClickHouse and for datasets and row level security rules of Superset.

.. no_pii: names of columns, and an expression that stands for the viewer.
"""

from __future__ import annotations

from sink.dbt_macros import render_macro
from sink.names import quote

VIEWER_SCOPES = "viewer_scopes"
"""The parameterised view that the condition asks."""

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
    without = {name: _NO_COLUMN for name, is_there in (("course_key", has_course), ("org", has_org)) if not is_there}
    scopes = f"{quote(reporting)}.{quote(VIEWER_SCOPES)}"
    return " ".join(render_macro(["access"], "visible_to", viewer, scopes, **without).split())
