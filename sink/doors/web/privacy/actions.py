"""What the page does for the data protection officer, by the services that the command line uses.

.. pii: What a search finds and what a package holds pass through, in memory and in a file without a name.
.. pii_types: id, name, username, email_address, location, phone_number, birth_date, gender, biography, image, other
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sink.doors.web.service import Connection
from sink.errors import BusyError, UsageError
from sink.installation import find_lms, open_store
from sink.ledger.entries import Action, Entry, Retirement, State
from sink.pii_map import PiiMap, SubjectId
from sink.resources import find_resource
from sink.retirement.pages import Page
from sink.retirement.plan import Planned, plan_retirement, require_small_share
from sink.retirement.receipt import serialize
from sink.retirement.receipt_checks import Verdict, check_receipt, find_keys, find_last_receipt
from sink.retirement.receipt_files import ReceiptFile, parse_receipt
from sink.retirement.receipt_pages import Responsible, compose_page
from sink.retirement.unknown import find_strangers, find_without_trace
from sink.rights.export import Wanted, export
from sink.rights.find import Found, Text, find
from sink.rights.record import Activity, compose_record
from sink.settings import Settings
from sink.store import Store

READ_TIMEOUT_SECONDS = 30
"""How long ClickHouse may take for a page that only shows what the ledger has."""
SHOWN = 50
"""Lines of a list on one page."""
_SHOWN_OPEN = 200


@dataclass(frozen=True)
class Overview:
    """What is asked for and what was done."""

    opened: list[Retirement]
    """The oldest first; not more than fit on a page."""
    number_open: int
    closed: list[Retirement]
    """The latest first."""
    packages: list[Entry]
    """Packages that were made, the latest first."""


@dataclass(frozen=True)
class Course:
    """One retirement, and what the ledger has of it."""

    retirement: Retirement
    entries: list[Entry]


@dataclass(frozen=True)
class ShownReceipt:
    """A receipt as a page, and what came of a check."""

    file: ReceiptFile
    page: Page
    verdict: Verdict


@dataclass(frozen=True)
class Preview:
    """What retiring somebody would do; nothing was done yet."""

    subject: SubjectId
    place: str
    lines: list[tuple[str, str, int]]
    """Table, what is done to its rows, and how many."""
    is_contested: bool


@dataclass(frozen=True)
class PackageFile:
    """A package on its way to a browser: an open file that has no name any more."""

    name: str
    size: int
    file: IO[bytes] = field(repr=False)


class OfficerActions:
    """The page's way to the store. Connections are made when they are needed."""

    def __init__(self, settings: Settings, pii_map: PiiMap, wake: Callable[[], None]) -> None:
        """Take what it works with.

        Args:
            settings: the settings.
            pii_map: the map.
            wake: tells whoever erases in this process that there is something to do.
        """
        self._settings, self._map, self._wake = settings, pii_map, wake
        self._reading = Connection(settings, pii_map, timeout=READ_TIMEOUT_SECONDS, connect_timeout=5, retries=1)
        # A search and a plan read whole tables.
        self._working = Connection(settings, pii_map)
        self._exporting = threading.Lock()

    def close(self) -> None:
        """Give up the connections."""
        self._reading.close()
        self._working.close()

    def parse(self, text: str) -> SubjectId:
        """Read one id.

        Raises:
            ValueError: it is none.
        """
        return self._map.subject.parse(text)

    def read_overview(self) -> Overview:
        """What is open, and what was done last."""
        with self._reading.use() as store:
            opened = store.ledger.find_open()
            packages = store.ledger.show(action=Action.EXPORTED, limit=SHOWN, with_voided=False)
            return Overview(
                opened[:_SHOWN_OPEN], len(opened), store.ledger.find_closed(limit=SHOWN), list(reversed(packages))
            )

    def look_up(self, subject: SubjectId) -> uuid.UUID | None:
        """The request that is about a subject."""
        with self._reading.use() as store:
            return next((retirement.request for retirement in store.ledger.find([subject])), None)

    def read_course(self, request: uuid.UUID) -> Course | None:
        """Where a request stands, and how it came there."""
        with self._reading.use() as store:
            retirement = store.ledger.find_by_request(request)
            if retirement is None:
                return None
            entries = store.ledger.show(subject=retirement.subject, with_voided=False)
            return Course(retirement, [entry for entry in entries if entry.request == request])

    def list_erased(self, number: int) -> tuple[list[Retirement], bool]:
        """A page of those who are erased, the latest first, and whether there is another one after it."""
        with self._reading.use() as store:
            found = store.ledger.find_closed(erased_only=True, limit=SHOWN + 1, offset=(number - 1) * SHOWN)
            return found[:SHOWN], len(found) > SHOWN

    def read_receipt(self, request: uuid.UUID) -> ShownReceipt | None:
        """The last receipt of a request.

        Raises:
            UsageError: there is none.
        """
        with self._reading.use() as store:
            retirement = store.ledger.find_by_request(request)
            if retirement is None:
                return None
            file, notes = find_last_receipt(store, retirement.subject)
            responsible = Responsible(store.policy.institution, store.policy.contact)
            verdict = check_receipt(file, find_keys(store.policy), store)
            return ShownReceipt(file, compose_page(file, responsible, notes), verdict)

    def check_receipt(self, text: str) -> Verdict:
        """Whether a receipt that somebody has brought is genuine.

        Raises:
            UsageError: it is no receipt.
        """
        file = parse_receipt(text)
        with self._reading.use() as store:
            return check_receipt(file, find_keys(store.policy), store)

    def find(self, texts: Sequence[Text], *, prefix: bool, lms: bool, show: bool, actor: str) -> Found:
        """Whom texts mean; it is on record when this returns.

        Raises:
            UsageError: a text says too little.
        """
        database = find_lms(self._settings) if lms else None
        with self._working.use() as store:
            return find(store, texts, prefix=prefix, lms=database, show=show, actor=actor)

    @property
    def knows_lms(self) -> bool:
        """Whether there is an LMS to search."""
        return self._settings.lms_database_url is not None

    def export(self, subject: SubjectId, wanted: Wanted, actor: str) -> PackageFile:
        """Make a package. Nothing of it stays on a disk once its file is closed.

        Raises:
            UsageError: the subject is retired, or nothing is held of them.
            BusyError: another one is being made, or rows changed meanwhile.
        """
        if not self._exporting.acquire(blocking=False):
            raise BusyError("Another package is being made. Try again when it is done.")
        try:
            # It may take long, and keeps nobody else waiting.
            with open_store(self._settings, self._map) as store, tempfile.TemporaryDirectory() as folder:
                ending = ".zip.age" if wanted.recipients else ".zip"
                path = Path(folder, f"package{ending}")
                export(store, subject, path, wanted, actor=actor)
                # The folder goes with its name; what is open stays readable.
                return PackageFile(f"subject-{subject}{ending}", path.stat().st_size, path.open("rb"))
        finally:
            self._exporting.release()

    def preview(self, subject: SubjectId) -> Preview | Retirement:
        """What retiring somebody would do, or their retirement where there is one already.

        Raises:
            UsageError: nobody has this id.
            RefusedError: it would touch more of a table than is allowed.
            LmsError: whether somebody has it cannot be asked.
        """
        with self._working.use() as store:
            return self._preview(store, subject)

    def _preview(self, store: Store, subject: SubjectId) -> Preview | Retirement:
        known = next(iter(store.ledger.find([subject])), None)
        if known is not None and known.state is not State.WITHDRAWN:
            return known
        planned = plan_retirement(store, [subject])
        self._require_known(store, subject, planned)
        require_small_share(store, planned, force=False)
        lines = [(str(c.step.table.name), c.step.action, sum(c.rows.values())) for c in planned.counts]
        return Preview(subject, store.name, [line for line in lines if line[2]], bool(planned.contested))

    def _require_known(self, store: Store, subject: SubjectId, planned: Planned) -> None:
        """Make sure that the id is somebody's, since a tombstone bars whoever has it for ever."""
        strangers = find_without_trace(store, [subject], planned)
        lms = find_lms(self._settings) if strangers else None
        if lms is not None:
            strangers = find_strangers(lms, strangers)
        if strangers:
            raise UsageError(
                f"Nothing was recorded: {store.name} holds nothing of {subject}"
                + (", and the LMS does not know the id" if lms is not None else "")
                + ". Whoever gets such an id later would never be copied. Is the id right?"
            )

    def retire(self, subject: SubjectId, actor: str) -> uuid.UUID:
        """Put a retirement into the ledger, as the hook does, and have it worked off; the request.

        Raises:
            as `preview`; nothing was recorded then.
        """
        with self._working.use() as store:
            found = self._preview(store, subject)
            if isinstance(found, Retirement):
                return found.request
            (retirement,) = store.ledger.request([subject], actor)
        self._wake()
        return retirement.request

    def read_record(self) -> list[Activity]:
        """The record of processing."""
        return compose_record(self._map, find_resource("dbt_project"))


def serialize_receipt(file: ReceiptFile) -> bytes:
    """A receipt as its file has it."""
    return serialize(file.document)
