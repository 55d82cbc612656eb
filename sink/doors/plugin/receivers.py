"""What the LMS announces, turned into messages once its transaction is committed.

Nothing here raises into the LMS. A message that is lost costs time, not correctness: `reconcile` finds retirements in
the LMS database, and `sync` finds changes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.models.signals import post_delete, post_save, pre_save

from sink.doors.plugin.events import connect_events
from sink.doors.plugin.sender import send_retirement, send_sync

# .. no_pii: of a user only the id is read.

logger = logging.getLogger(__name__)

# Models by name: where an app is not installed, as some are not in Studio, nothing is connected.
_USER_MODELS = ("student.UserProfile", "external_user_ids.ExternalId", "student.CourseAccessRole")
#: Columns of `auth_user` that are copied or decide what is. A login saves another one.
_COPIED_COLUMNS = frozenset(("username", "email", "is_active", "is_staff", "is_superuser"))
#: What the LMS saves in `meta` of a profile at every login, where PREVENT_CONCURRENT_LOGINS is on. It is never stored.
_SESSION = "session_id"
# On a profile between its two signals: nothing is saved that is copied.
_NOTHING_NEW = "_aspects_pii_nothing_new"


def connect_receivers() -> None:
    """Listen to retirements, and to changes of what is copied."""
    for name in ("USER_RETIRE_LMS_MISC", "USER_RETIRE_LMS_CRITICAL"):
        signal = _find_signal(name)
        if signal is not None:
            signal.connect(on_retirement, dispatch_uid=f"aspects_pii.{name}")
    connect_events(getattr(settings, "ASPECTS_PII_RETIREMENT_EVENTS", ()), _retire_after_commit)
    # After the LMS's own receiver of this signal, which Django has connected with the models.
    pre_save.connect(on_profile_saving, sender="student.UserProfile", dispatch_uid="aspects_pii.saving.profile")
    for model in _USER_MODELS:
        post_save.connect(on_change, sender=model, dispatch_uid=f"aspects_pii.saved.{model}")
    post_delete.connect(on_change, sender="student.CourseAccessRole", dispatch_uid="aspects_pii.deleted")
    post_save.connect(on_user_change, sender=settings.AUTH_USER_MODEL, dispatch_uid="aspects_pii.saved.user")


def _find_signal(name: str) -> Any:
    try:
        from openedx.core.djangoapps.user_api.accounts import signals
    except ImportError:
        # Not in an LMS: some other Django project, or a Studio without these apps.
        return None
    return getattr(signals, name, None)


def on_retirement(user: Any = None, **_: Any) -> None:
    """The LMS retires a user. Told whether PII is on or off, for something may be left from when it was on."""
    _retire_after_commit(getattr(user, "pk", None))


def _retire_after_commit(user_id: Any) -> None:
    with _log_failure("retirement", user_id):
        transaction.on_commit(lambda: send_retirement(user_id))


def on_profile_saving(instance: Any = None, **_: Any) -> None:
    """A profile is about to be saved. A login changes the session in `meta` and nothing else, which is no change to us."""
    if not settings.ASPECTS_ENABLE_PII:
        return
    with _log_failure("change", getattr(instance, "user_id", None)):
        vars(instance)[_NOTHING_NEW] = _changes_nothing(instance)


def _changes_nothing(profile: Any) -> bool:
    """Whether what is saved differs from what was there in the session alone, or in nothing.

    The LMS keeps the former values of changed fields between the two signals (`_changed_fields`, by
    common/djangoapps/util/model_utils.py; its own receiver of the second one removes it). Where it does not, the change
    counts.
    """
    changed = getattr(profile, "_changed_fields", None)
    if profile._state.adding or not isinstance(changed, dict) or changed.keys() - {"meta"}:  # noqa: SLF001
        return False
    if not changed:
        return True
    old, new = (_read_object(text) for text in (changed["meta"], profile.meta))
    return old is not None and new is not None and _without_session(old) == _without_session(new)


def _read_object(text: Any) -> dict[str, Any] | None:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _without_session(meta: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if key != _SESSION}


def on_change(instance: Any = None, using: str | None = None, **_: Any) -> None:
    """Something of a user was saved or deleted."""
    if not settings.ASPECTS_ENABLE_PII:
        return
    user_id = getattr(instance, "user_id", None)
    with _log_failure("change", user_id):
        if not vars(instance).pop(_NOTHING_NEW, False):
            _sync_after_commit(user_id, using or DEFAULT_DB_ALIAS)


def on_user_change(
    instance: Any = None, using: str | None = None, update_fields: frozenset[str] | None = None, **_: Any
) -> None:
    """An account was saved."""
    if not settings.ASPECTS_ENABLE_PII or (update_fields is not None and not _COPIED_COLUMNS & update_fields):
        return
    user_id = getattr(instance, "pk", None)
    with _log_failure("change", user_id):
        _sync_after_commit(user_id, using or DEFAULT_DB_ALIAS)


@contextmanager
def _log_failure(what: str, user_id: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Not the text: whatever failed may quote the row.
        logger.error("the %s of user %s was not sent to the PII sink (%s)", what, user_id, type(error).__name__)


class _Batch:
    """The users that one transaction has changed, each once."""

    def __init__(self) -> None:
        self.user_ids: dict[Any, None] = {}

    def __call__(self) -> None:
        with _log_failure("change", next(iter(self.user_ids), None)):
            send_sync(list(self.user_ids))


def _sync_after_commit(user_id: Any, using: str) -> None:
    # Django forgets what was to run after a savepoint that is rolled back, and the batch with it: so it is looked for
    # there, not remembered here. It has no public way to look (Django 5.2).
    waiting: list[tuple[Any, ...]] = transaction.get_connection(using).run_on_commit
    found: Callable[[], None] | None = next((entry[1] for entry in waiting if isinstance(entry[1], _Batch)), None)
    batch = found if isinstance(found, _Batch) else _Batch()
    batch.user_ids[user_id] = None
    if found is None:
        transaction.on_commit(batch, using=using)
