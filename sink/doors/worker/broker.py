"""What everything that talks to the broker agrees on: the queue, the names of the tasks, and how to connect.

An LMS imports this module at start, so it imports nothing but Celery, which an LMS has loaded anyway.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.connection import Connection

# .. no_pii: messages carry opaque user ids.

QUEUE = "aspects_pii"

RETIRE_USER = "aspects_pii.retire_user"
RETIRE_USERS = "aspects_pii.retire_users"
SYNC_USER = "aspects_pii.sync_user"
SYNC_USERS = "aspects_pii.sync_users"
SYNC_ALL = "aspects_pii.sync_all"
RECORD_ROLE = "aspects_pii.record_role"
SWEEP = "aspects_pii.sweep"
RECONCILE = "aspects_pii.reconcile"
SECOND_PASS = "aspects_pii.second_pass"  # noqa: S105

# kombu (5.7.0) keeps what is delivered and not acknowledged under keys that all applications of one Redis database
# share, and puts all of it back after the visibility timeout of whoever looks. Ours is shorter than an LMS's.
_OWN_KEYS = {
    "unacked_key": f"{QUEUE}.unacked",
    "unacked_index_key": f"{QUEUE}.unacked_index",
    "unacked_mutex_key": f"{QUEUE}.unacked_mutex",
}


def is_redis(url: str) -> bool:
    """True for an address of Redis, by any of kombu's names for it."""
    return url.startswith(("redis", "sentinel"))


class BrokerApp(Celery):  # type: ignore[misc]  # Celery has no types.
    """A Celery application that talks to one broker, whatever the environment says.

    Celery (5.7.0) lets CELERY_BROKER_URL overrule what an application was given, which in an LMS's container is the LMS's
    own: https://github.com/celery/celery/issues/4284. Once it does not, the methods below and `backend_cls` can go.
    """

    # Here, not as a setting, which CELERY_RESULT_BACKEND would overrule: nobody waits for results.
    backend_cls = "disabled://"

    def __init__(self, url: str, transport_options: dict[str, Any]) -> None:
        """Take the address; nothing is connected yet."""
        # Without the fixup for Django, and not the current application: in an LMS both are the LMS's own.
        super().__init__(QUEUE, broker=url, fixups=set(), set_as_current=False)
        self.url = url
        self.conf.update(
            task_default_queue=QUEUE,
            task_ignore_result=True,
            task_serializer="json",
            result_serializer="json",
            accept_content=["json"],
            broker_transport_options={**(_OWN_KEYS if is_redis(url) else {}), **transport_options},
        )

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        """A connection to consume from."""
        return super().connection_for_read(url or self.url, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Connection:
        """A connection to send with."""
        return super().connection_for_write(url or self.url, **options)

    def connection(self, hostname: str | None = None, **options: Any) -> Connection:
        """A connection for either."""
        return self.connection_for_write(hostname, **options)
