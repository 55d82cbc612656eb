"""What the LMS announces, turned into messages once its transaction is committed.

Nothing here raises into the LMS. A message that is lost costs time, not correctness: `reconcile` finds retirements in
the LMS database, and `sync` finds changes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.models.signals import post_delete, post_save, pre_save

from sink.doors.plugin.events import connect_events
from sink.doors.plugin.sender import send_retirement, send_role_change, send_sync

# .. pii: A user name, as openedx-authz says whose role it is, until it is looked up; of users else only the id is read.
# .. pii_types: username
# .. pii_retirement: local_api

logger = logging.getLogger(__name__)

# Models by name: where an app is not installed, as some are not in Studio, nothing is connected.
_USER_MODELS = ("student.UserProfile", "external_user_ids.ExternalId", "student.CourseAccessRole")
#: Columns of `auth_user` that are copied or decide what is. A login saves another one.
_COPIED_COLUMNS = frozenset(("username", "email", "is_active", "is_staff", "is_superuser"))
#: What the LMS saves in `meta` of a profile at every login, where PREVENT_CONCURRENT_LOGINS is on. It is never stored.
_SESSION = "session_id"
# On a profile between its two signals: nothing is saved that is copied.
_NOTHING_NEW = "_aspects_pii_nothing_new"
#: Events that say that a role was given; the others of their kind say that one was taken.
_GIVING = frozenset(
    ("org.openedx.learning.user.course_access_role.added.v1", "org.openedx.authz.role_assignment.created")
)


def connect_receivers() -> None:
    """Listen to retirements, and to changes of what is copied."""
    for name in ("USER_RETIRE_LMS_MISC", "USER_RETIRE_LMS_CRITICAL"):
        _connect(_find_signal("openedx.core.djangoapps.user_api.accounts.signals", name), on_retirement, name)
    connect_events(getattr(settings, "ASPECTS_PII_RETIREMENT_EVENTS", ()), _retire_after_commit)
    # After the LMS's own receiver of this signal, which Django has connected with the models.
    pre_save.connect(on_profile_saving, sender="student.UserProfile", dispatch_uid="aspects_pii.saving.profile")
    # Since openedx-events 9.11 (Redwood has it), and of openedx-authz since 11.2.0.
    for module, names, receiver in (
        ("openedx_events.learning.signals", ("COURSE_ACCESS_ROLE_ADDED", "COURSE_ACCESS_ROLE_REMOVED"), on_course_role),
        ("openedx_events.authz.signals", ("ROLE_ASSIGNMENT_CREATED", "ROLE_ASSIGNMENT_DELETED"), on_role_assignment),
    ):
        for name in names:
            _connect(_find_signal(module, name), receiver, name)
    for model in _USER_MODELS:
        post_save.connect(on_change, sender=model, dispatch_uid=f"aspects_pii.saved.{model}")
    post_delete.connect(on_change, sender="student.CourseAccessRole", dispatch_uid="aspects_pii.deleted")
    post_save.connect(on_user_change, sender=settings.AUTH_USER_MODEL, dispatch_uid="aspects_pii.saved.user")


def _find_signal(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name, None)
    except ImportError:
        # Not in an LMS: some other Django project, a Studio without these apps, or an older release.
        return None


def _connect(signal: Any, receiver: Callable[..., None], name: str) -> None:
    if signal is not None:
        signal.connect(receiver, dispatch_uid=f"aspects_pii.{name}")


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


def on_course_role(signal: Any = None, course_access_role_data: Any = None, metadata: Any = None, **_: Any) -> None:
    """The LMS gave a role, or took it: for the audit trail, whether PII is on or off, since that holds ids."""
    user_id = getattr(getattr(course_access_role_data, "user", None), "id", None)
    with _log_failure("role", user_id):
        role = course_access_role_data
        course_key = "" if role.course_key is None else str(role.course_key)
        what = {"role": role.role, "org": role.org_key or "", "course_key": course_key}
        _tell_of_role(signal, "course_access_role", user_id, None, metadata, what)


def on_role_assignment(signal: Any = None, role_assignment: Any = None, metadata: Any = None, **_: Any) -> None:
    """openedx-authz gave a role, or took it. It says by name whose it is, and keeps it where no other signal tells of it."""
    with _log_failure("role", None):
        user_id = _find_user(role_assignment.subject)
        if user_id is None:
            logger.warning("the event %s is about a role of somebody whom the LMS does not know", metadata.id)
            return
        what = {"role": role_assignment.role, "scope": role_assignment.scope}
        _tell_of_role(signal, "openedx-authz", user_id, role_assignment.actor_id, metadata, what)
        if settings.ASPECTS_ENABLE_PII:
            _sync_after_commit(user_id, DEFAULT_DB_ALIAS)


def _find_user(subject: str) -> Any:
    """The id of `user^NAME`, also where a retirement has renamed the account meanwhile."""
    namespace, _, name = subject.partition("^")
    if namespace != "user":
        return None
    # A savepoint of its own: what fails here must not fail the LMS's transaction.
    with transaction.atomic():
        found = _match(get_user_model(), "pk", "username", name)
        if found is None:
            with suppress(LookupError):
                statuses = apps.get_model("user_api", "UserRetirementStatus")
                found = _match(statuses, "user_id", "original_username", name)
    return found


def _match(model: Any, wanted: str, column: str, name: str) -> Any:
    # MySQL compares without regard to case, openedx-authz does not.
    rows = model.objects.filter(**{column: name}).values_list(wanted, column)
    return next((key for key, value in rows if value == name), None)


def _tell_of_role(signal: Any, source: str, user_id: Any, actor: Any, metadata: Any, what: dict[str, str]) -> None:
    told = {
        "event": str(metadata.id),
        "at": metadata.time.isoformat(),
        "operation": "given" if signal.event_type in _GIVING else "taken",
        "source": source,
        "subject": str(user_id),
        "actor": None if actor is None else str(actor),
        **what,
    }
    transaction.on_commit(lambda: send_role_change(told))


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
