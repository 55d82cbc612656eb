"""openedx-authz's events, for producers: from openedx-events where it has them, else as 11.2.0 (2026-04-20) defines them."""

from __future__ import annotations

from typing import Any

import attr
from openedx_events.tooling import OpenEdxPublicSignal

TOPIC = "authz-role-assignment-lifecycle"
KINDS = {
    "assigned": "org.openedx.authz.role_assignment.created",
    "unassigned": "org.openedx.authz.role_assignment.deleted",
}
PRODUCER_CONFIG = {
    kind: {TOPIC: {"event_key_field": "role_assignment.subject", "enabled": True}} for kind in KINDS.values()
}

try:
    from openedx_events.authz.data import RoleAssignmentData
    from openedx_events.authz.signals import ROLE_ASSIGNMENT_CREATED, ROLE_ASSIGNMENT_DELETED
except ImportError:

    @attr.s(frozen=True)
    class RoleAssignmentData:  # type: ignore[no-redef]
        """What both events carry."""

        operation = attr.ib(type=str)
        subject = attr.ib(type=str)
        role = attr.ib(type=str)
        scope = attr.ib(type=str)
        actor_id = attr.ib(type=int, default=None)

    ROLE_ASSIGNMENT_CREATED, ROLE_ASSIGNMENT_DELETED = (
        OpenEdxPublicSignal(event_type=kind, data={"role_assignment": RoleAssignmentData}) for kind in KINDS.values()
    )


def send_assignment(event: str, username: str, actor_id: int | None, scope: str, role: str = "course_staff") -> Any:
    """Send `assigned` or `unassigned`, as openedx-authz does it."""
    signal = ROLE_ASSIGNMENT_CREATED if event == "assigned" else ROLE_ASSIGNMENT_DELETED
    return signal.send_event(
        role_assignment=RoleAssignmentData(
            operation=signal.event_type.rpartition(".")[2],
            subject=f"user^{username}",
            role=f"role^{role}",
            scope=f"{scope.partition(':')[0]}^{scope}",
            actor_id=actor_id,
        )
    )
