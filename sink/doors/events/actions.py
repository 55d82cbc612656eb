"""What messages lead to: copies, requests, retirements, hand-overs and the audit trail of roles, in one store.

.. pii: User names, from the LMS or in events, in memory only.
.. pii_types: username
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sink.copying.copies import WITHOUT_PII
from sink.copying.sync import sync
from sink.doors.events.work import Message, RoleReport, Work
from sink.doors.outcomes import expire_if_due, log_outcomes
from sink.erasure.arrivals import empty_arrivals
from sink.erasure.reassign import reassign
from sink.errors import AspectsPiiError, UsageError
from sink.installation import find_lms, open_store
from sink.ledger.role_trail import record_changes
from sink.pii_map import SubjectId
from sink.retirement.retire import sweep, work_off
from sink.settings import Settings
from sink.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """A message with the work that it asks for."""

    message: Message
    work: Work


class Actions:
    """What messages can ask for, done in the store; it and the LMS are opened when they are first needed."""

    def __init__(self, settings: Settings, *, asks_for_copies: bool) -> None:
        """Check the settings; `asks_for_copies` says whether messages can ask for copies from the LMS.

        Raises:
            UsageError: PII is on and there is no LMS to copy from.
            SettingsError: the LMS's address is not valid.
        """
        if settings.enable_pii and asks_for_copies and settings.lms_database_url is None:
            raise UsageError(
                "ASPECTS_ENABLE_PII is on, so events lead to copies, but ASPECTS_LMS_DATABASE_URL is not set. "
                "Example: mysql+pymysql://reader:secret@mysql:3306/openedx"
            )
        self.enabled = settings.enable_pii
        self._settings = settings
        self._lms = find_lms(settings)
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The store.

        Raises:
            DatabaseError: there is no connection.
        """
        if self._store is None:
            self._store = open_store(self._settings)
        return self._store

    def close(self) -> None:
        """Give up the connection."""
        if self._store is not None:
            self._store.client.close()

    def has_use_for(self, work: Work) -> bool:
        """Whether a message about a copy leads to anything: to the copy, or to a line in the audit trail of roles."""
        return self._can_copy(work) or bool(work.role and work.subjects)

    def _can_copy(self, work: Work) -> bool:
        """While PII is off only course roles are copied; and there has to be an LMS that knows the user."""
        if self._lms is None or not all(isinstance(subject, int) for subject in work.subjects):
            return False
        return self.enabled or not {*WITHOUT_PII}.isdisjoint(work.objects or WITHOUT_PII)

    def sync(self, deliveries: Iterable[Delivery]) -> None:
        """Copy the users whom messages name, each once, and tell the audit trail of their roles."""
        works = self._look_up([delivery.work for delivery in deliveries])
        # First, for a safeguard may refuse the copy.
        self._record_roles([work for work in works if work.role])
        self._copy([work for work in works if self._can_copy(work)])

    def _look_up(self, works: Sequence[Work]) -> list[Work]:
        """The same with ids; without those whose name no account has or had."""
        names = {work.role.username for work in works if work.role and work.role.username}
        ids: dict[str, int] = {}
        if names and self._lms is not None:
            with self._lms.snapshot() as snapshot:
                for owned in snapshot.owners(names, ()):
                    # Accounts come before names that accounts had before their retirement.
                    ids.setdefault(owned.username, owned.user_id)
        known = []
        for work in works:
            report = work.role
            if report is None or not report.username:
                known.append(work)
            elif report.username in ids:
                user_id = ids[report.username]
                change = replace(report.change, subject=str(user_id))
                known.append(replace(work, subjects=(user_id,), role=RoleReport(change)))
            else:
                _log.warning("Event %s is about a role of somebody whom the LMS does not know", report.change.event)
        return known

    def _record_roles(self, works: Sequence[Work]) -> None:
        """Write the audit trail. What is wrong with it stops nothing else, and is logged."""
        changes = [work.role.change for work in works if work.role]
        if not changes:
            return
        try:
            record_changes(self.store.client, changes)
        except AspectsPiiError as error:
            # ClickHouse is away: the messages come again.
            if error.retriable:
                raise
            _log.error("%s changes of roles are not in the audit trail: %s", len(changes), error)

    def _copy(self, works: Iterable[Work]) -> None:
        by_user: dict[int, set[str]] = {}
        whole: set[int] = set()
        for work in works:
            for subject in work.subjects:
                by_user.setdefault(int(subject), set()).update(work.objects)
                if not work.objects:
                    whole.add(int(subject))
        groups: dict[tuple[str, ...], list[int]] = {}
        for user_id, objects in by_user.items():
            chosen = () if user_id in whole else tuple(sorted(objects))
            groups.setdefault(chosen if self.enabled else WITHOUT_PII, []).append(user_id)
        for chosen, user_ids in groups.items():
            assert self._lms is not None
            counts = sync(self.store, self._lms, enabled=self.enabled, objects=chosen, user_ids=sorted(user_ids))
            for count in counts:
                for bad in count.bad:
                    _log.warning("%s: user %s, %s: %s; not copied", count.object, bad.user_id, bad.column, bad.reason)

    def request(self, deliveries: Iterable[Delivery]) -> list[SubjectId]:
        """Record that the subjects of messages are to be retired, and return them."""
        by_actor: dict[str | None, list[SubjectId]] = {}
        for delivery in deliveries:
            by_actor.setdefault(delivery.work.actor, []).extend(delivery.work.subjects)
        for actor, subjects in by_actor.items():
            self.store.ledger.request(subjects, actor)
        return list(dict.fromkeys(subject for subjects in by_actor.values() for subject in subjects))

    def work_off(self, subjects: Sequence[SubjectId]) -> bool:
        """Retire who was requested; False where a retirement stays open."""
        return log_outcomes(work_off(self.store, self.store.ledger.find(subjects)))

    def sweep(self) -> bool:
        """Work off whatever is open, empty what has come while PII is off, and carry out retentions that are due.

        Returns:
            False where a retirement stays open.
        """
        done = log_outcomes(sweep(self.store))
        if not self.enabled:
            empty_arrivals(self.store)
        expire_if_due(self.store)
        return done

    def reassign(self, deliveries: Iterable[Delivery]) -> None:
        """Hand over what leaving users owned, in the order of the messages."""
        heirs = sorted({delivery.work.heir for delivery in deliveries if isinstance(delivery.work.heir, int)})
        if heirs and self.enabled and self._lms is not None and "event_sink.user_profile" in self.store.pii_map.targets:
            # Rows carry the heir's name, and the event that announces the heir may come later.
            sync(self.store, self._lms, enabled=True, objects=("user_profile",), user_ids=heirs)
        for work in (delivery.work for delivery in deliveries):
            assert work.heir is not None
            reassign(self.store, work.subjects[0], work.heir, assets=work.assets, actor=work.actor)
