"""Roles as openedx-authz writes them, as data.

`UPSTREAM` is what stood in `casbin_rule` of a database of Django's after openedx-authz 1.23.0 (of 2026-08-13, on
casbin-django-orm-adapter 1.7.0 and Django 5.2) had given these roles by its `assign_role_to_user_in_scope`, in November 2026.
"""

from __future__ import annotations

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert

COURSE = "course-v1:OpenedX+CS101+2024"
OTHER_COURSE = "course-v1:WGU+CS002+2025_T1"
ALL_OF_ORG = "course-v1:OpenedX+*"
ALL = "course-v1:*"

_TEXTS = ("ptype", "v0", "v1", "v2", "v3", "v4", "v5")
RULES = Table(
    "casbin_rule",
    MetaData(),
    Column("id", Integer, primary_key=True),
    *(Column(name, String(255), nullable=False) for name in _TEXTS),
)

UPSTREAM = (
    (1, "g", "user^alice", "role^course_admin", "course-v1^course-v1:OpenedX+CS101+2024", "", "", ""),
    (3, "g", "user^carol", "role^course_staff", "course-v1^course-v1:*", "", "", ""),
    (4, "g", "user^Dave", "role^course_limited_staff", "course-v1^course-v1:WGU+CS002+2025_T1", "", "", ""),
    (5, "g", "user^alice", "role^course_data_researcher", "course-v1^course-v1:OpenedX+CS101+2024", "", "", ""),
    (6, "g", "user^alice", "role^course_beta_tester", "course-v1^course-v1:OpenedX+CS101+2024", "", "", ""),
    (7, "g", "user^alice", "role^ccx_coach", "course-v1^course-v1:OpenedX+CS101+2024", "", "", ""),
    (8, "g", "user^bob", "role^course_editor", "course-v1^course-v1:OpenedX+CS101+2024", "", "", ""),
    (9, "g", "user^bob", "role^library_admin", "lib^lib:DemoX:CSPROB", "", "", ""),
    (10, "g", "user^bob", "role^course_staff", "course-v1^course-v1:OpenedX+*", "", "", ""),
)
# From its authz.policy: what a role may do, and what includes what.
POLICY = (
    (20, "p", "role^course_staff", "act^courses.view_course", "course-v1^*", "allow", "", ""),
    (21, "g2", "act^content_libraries.edit_library_content", "act^content_libraries.view_library", "", "", "", ""),
)


def write_rules(connection: Connection, *rows: tuple[int | str, ...]) -> None:
    """Make the table where there is none, and add rows as above."""
    RULES.create(connection, checkfirst=True)
    if rows:
        connection.execute(insert(RULES), [dict(zip(("id", *_TEXTS), row, strict=True)) for row in rows])


def grant(number: int, username: str, role: str, scope: str) -> tuple[int | str, ...]:
    """The row of a role that somebody has; `scope` as people write it, such as `course-v1:OpenedX+*`."""
    return (number, "g", f"user^{username}", f"role^{role}", f"{scope.partition(':')[0]}^{scope}", "", "", "")
