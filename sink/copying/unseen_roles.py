"""Course roles that the LMS may keep where we cannot see them: in the rules of openedx-authz.

Where `authz.enable_course_authoring` is on for an organisation or a course, the LMS moves the roles there into `casbin_rule` and
leaves those of others where they were. A table that we may not read looks like one that is not there, so that these roles
look like taken away.

.. no_pii: opaque user ids, names of roles, keys of courses.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from sink.copying.copies import Copy
from sink.errors import MigrationError, RefusedError
from sink.ledger.role_trail import Source, list_given
from sink.lms.authz import cover_courses
from sink.lms.snapshot import Snapshot
from sink.store import Store
from sink.wording import counted

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 10_000
# One person who had the only role of an organisation loses it every day: that is said, and stops nothing.
_MANY = 2
_NAMED_AT_MOST = 5
# As opaque-keys has them: `course-v1:ORG+COURSE+RUN` and `ORG/COURSE/RUN`.
_ORG_OF_KEY = re.compile(r"(?:[a-z0-9-]+:)?([^+/:]+)[+/]")


class HeldRole(NamedTuple):
    """A role that somebody has here."""

    user_id: int
    org: str
    course_key: str
    role: str

    @property
    def organisation(self) -> str:
        """Whose courses it is for."""
        found = _ORG_OF_KEY.match(self.course_key)
        return self.org or (found[1] if found else "")

    @property
    def scope(self) -> str:
        """As the audit trail has it."""
        return cover_courses(self.org, self.course_key)


def require_seen_roles(store: Store, snapshot: Snapshot, copy: Copy, user_ids: Sequence[int] | None) -> None:
    """Refuse a copy that would take away roles which the LMS may only keep out of our sight.

    These are: what openedx-authz has told of and we hold; and, where everybody is copied, all roles of several people in one
    organisation. All roles of one person in an organisation where nobody else has any are taken away with a warning.

    Raises:
        RefusedError: it would; the message says how to see them, and how to have them taken away all the same.
        DatabaseError: it could not be found out.
    """
    if snapshot.has_rules:
        return
    held = _read_held(store, copy, user_ids)
    seen, unclear = _read_seen(snapshot, copy, user_ids) if held else (set(), set())
    gone = {role for role in held - seen if role.user_id not in unclear}
    if not gone:
        return
    told_of = _list_told_of(store, gone)
    if by_authz := {role for role in gone if (str(role.user_id), role.role, role.scope) in told_of}:
        raise RefusedError(_explain("course roles", by_authz, "openedx-authz has told of them, and it"))
    if user_ids is not None:
        return
    staying = {role.organisation for role in seen}
    renamed = {role._replace(org="") for role in seen if role.course_key}
    vanished = {role for role in gone if role.organisation not in staying and role._replace(org="") not in renamed}
    active = snapshot.active_user_ids(sorted({role.user_id for role in vanished}))
    people = {(role.organisation, role.user_id) for role in vanished if role.user_id in active}
    held_by = Counter(organisation for organisation, _ in people)
    if roles := {role for role in vanished if held_by[role.organisation] >= _MANY and role.user_id in active}:
        raise RefusedError(_explain("all course roles", roles, "openedx-authz, which LMSs since Verawood have,"))
    if last := {role for role in vanished if role.user_id in active}:
        logger.warning(
            "Nobody has a course role in %s any more: the LMS shows none of the last who had one, and this sync takes it away. "
            "If openedx-authz is on there, the role is in casbin_rule: GRANT SELECT (ptype, v0, v1, v2) on it to the account of "
            "ASPECTS_LMS_DATABASE_URL and run `aspects-pii sync` again",
            _list_organisations(last),
        )


def _list_told_of(store: Store, roles: Collection[HeldRole]) -> set[tuple[str, str, str]]:
    """What openedx-authz has given these people, as (subject, role, scope)."""
    try:
        return list_given(store.client, Source.AUTHZ, [str(role.user_id) for role in roles])
    except MigrationError:
        # Nothing that is wrong with the trail stops a copy.
        return set()


def _read_held(store: Store, copy: Copy, user_ids: Sequence[int] | None) -> set[HeldRole]:
    """The roles that are stored, but those for all courses, which superusers have without a rule."""
    scope = "" if user_ids is None else "AND user_id IN {user_ids:Array(Int64)}"
    rows = store.client.rows(
        f"SELECT DISTINCT toInt64(user_id), org, course_key, toString(role) FROM {copy.table.name.sql} "
        f"WHERE (org != '' OR course_key != '') AND user_id NOT IN (SELECT user_id FROM $pii_ledger.tombstones) {scope}",
        None,
        **({} if user_ids is None else {"user_ids": list(user_ids)}),
    )
    return {HeldRole(*row) for row in rows}


def _read_seen(snapshot: Snapshot, copy: Copy, user_ids: Sequence[int] | None) -> tuple[set[HeldRole], set[int]]:
    """The roles that the LMS shows, and users of whom a row cannot be read."""
    seen: set[HeldRole] = set()
    unclear: set[int] = set()
    for batch in snapshot.rows(copy.object, HeldRole._fields, _ROWS_AT_ONCE, user_ids):
        seen |= {HeldRole(*row) for row in batch.rows}
        unclear |= {bad.user_id for bad in batch.bad if bad.user_id is not None}
    return seen, unclear


def _explain(what: str, roles: Collection[HeldRole], who: str) -> str:
    named = _list_organisations(roles)
    people = counted(len({role.user_id for role in roles}), "person", "people")
    return (
        f"This sync would take away {what} in {named}, of {people}; nothing was copied. {who} keeps such roles in casbin_rule, "
        "which the account of ASPECTS_LMS_DATABASE_URL does not see: GRANT SELECT (ptype, v0, v1, v2) on it. If the LMS has no "
        "such table and these people really have these roles no more, run `aspects-pii sync --allow-removals`."
    )


def _list_organisations(roles: Collection[HeldRole]) -> str:
    organisations = sorted({role.organisation for role in roles})
    return ", ".join(organisations[:_NAMED_AT_MOST]) + (", …" if len(organisations) > _NAMED_AT_MOST else "")
