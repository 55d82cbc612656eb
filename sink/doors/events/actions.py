"""What messages lead to: copies, requests, retirements and hand-overs, in one store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sink.copying.copies import WITHOUT_PII
from sink.copying.sync import sync
from sink.doors.events.work import Message, Work
from sink.doors.outcomes import log_outcomes
from sink.erasure.arrivals import empty_arrivals
from sink.erasure.reassign import reassign
from sink.errors import UsageError
from sink.installation import find_lms, open_store
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

    def can_copy(self, work: Work) -> bool:
        """Whether a message leads to a copy: while PII is off only of course roles, where there is an LMS to ask."""
        return self.enabled or (self._lms is not None and not {*WITHOUT_PII}.isdisjoint(work.objects or WITHOUT_PII))

    def sync(self, deliveries: Iterable[Delivery]) -> None:
        """Copy the users whom messages name, each once."""
        assert self._lms is not None
        by_user: dict[int, set[str]] = {}
        whole: set[int] = set()
        for delivery in deliveries:
            for subject in delivery.work.subjects:
                by_user.setdefault(int(subject), set()).update(delivery.work.objects)
                if not delivery.work.objects:
                    whole.add(int(subject))
        groups: dict[tuple[str, ...], list[int]] = {}
        for user_id, objects in by_user.items():
            chosen = () if user_id in whole else tuple(sorted(objects))
            groups.setdefault(chosen if self.enabled else WITHOUT_PII, []).append(user_id)
        for chosen, user_ids in groups.items():
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
        """Work off whatever is open, and empty what has come while PII is off; False where a retirement stays open."""
        done = log_outcomes(sweep(self.store))
        if not self.enabled:
            empty_arrivals(self.store)
        return done

    def reassign(self, deliveries: Iterable[Delivery]) -> None:
        """Hand over what leaving users owned, in the order of the messages."""
        heirs = sorted({delivery.work.heir for delivery in deliveries if isinstance(delivery.work.heir, int)})
        if heirs and self.enabled and self._lms is not None:
            # Rows carry the heir's name, and the event that announces the heir may come later.
            sync(self.store, self._lms, enabled=True, objects=("user_profile",), user_ids=heirs)
        for work in (delivery.work for delivery in deliveries):
            assert work.heir is not None
            reassign(self.store, work.subjects[0], work.heir, assets=work.assets, actor=work.actor)
