"""Which users the LMS has retired or is about to, as conditions in SQL.

.. no_pii: Names of tables and columns, and of states of a retirement.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Select, and_, bindparam, func, or_, select, union

from sink.lms.objects import REQUESTS, STATES, STATUSES, USERS

_CURRENT = STATES.alias("current_state")
_LAST = STATES.alias("last_state")
CURRENT_STATE = func.coalesce(_CURRENT.c.state_name, "")
IS_WAITING = or_(
    CURRENT_STATE == "PENDING", and_(CURRENT_STATE == "ERRORED", func.coalesce(_LAST.c.state_name, "") == "PENDING")
)
# False rather than unknown where there is no status or no user: its negation is used too.
IS_ERASED = func.coalesce(USERS.c.username, "-") == func.coalesce(STATUSES.c.retired_username, "")


def select_requests() -> Select[Any]:
    """The users above the parameter `low` with a retirement request or status, by id, joined with what the LMS says."""
    asked = union(select(REQUESTS.c.user_id), select(STATUSES.c.user_id)).subquery("asked")
    return (
        select(asked.c.user_id)
        .select_from(
            asked.outerjoin(STATUSES, STATUSES.c.user_id == asked.c.user_id)
            .outerjoin(_CURRENT, _CURRENT.c.id == STATUSES.c.current_state_id)
            .outerjoin(_LAST, _LAST.c.id == STATUSES.c.last_state_id)
            .outerjoin(USERS, USERS.c.id == asked.c.user_id)
        )
        .where(asked.c.user_id > bindparam("low", type_=BigInteger))
        .order_by(asked.c.user_id)
    )
