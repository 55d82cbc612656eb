"""A receipt as one page in plain words, for the person it is about and for an authority.

.. no_pii: what receipts say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sink.retirement.pages import Page, Section
from sink.retirement.receipt import Receipt, TargetLine
from sink.retirement.receipt_files import ReceiptFile
from sink.retirement.signatures import list_signatures
from sink.wording import counted

_KINDS = {
    "id": "identifier",
    "name": "name",
    "username": "user name",
    "location": "place",
    "phone_number": "telephone number",
    "email_address": "e-mail address",
    "birth_date": "date or year of birth",
    "ip": "IP address",
    "external_service": "account elsewhere",
    "other": "other personal data",
}
_ACTIONS = {
    "delete": "rows deleted",
    "redact": "values erased, rows kept",
    "redact, delete": "values erased, or rows deleted",
}


@dataclass(frozen=True)
class Responsible:
    """Who answers for the data where a receipt does not say it."""

    institution: str | None = None
    contact: str | None = None


def compose_page(file: ReceiptFile, responsible: Responsible, notes: Sequence[str] = ()) -> Page:
    """The page of a receipt.

    Args:
        file: the receipt.
        responsible: whom to name where the receipt names nobody.
        notes: what to say first, such as that the file is gone.
    """
    return Page(_compose_title(file.receipt), notes, list(_compose(file, responsible)))


def _compose_title(receipt: Receipt) -> str:
    if receipt.nothing_was_stored:
        return f"Receipt: no personal data of user {receipt.subject} was stored"
    return f"Receipt: personal data of user {receipt.subject} was erased"


def _compose(file: ReceiptFile, responsible: Responsible) -> Iterable[Section]:
    receipt = file.receipt
    yield _say_what(receipt)
    yield Section(
        "When",
        items=[
            f"{_date(receipt.requested_at)}: the erasure was requested"
            + (f" by {receipt.actor}." if receipt.actor else ". The receipt does not say by whom."),
            f"{_date(receipt.hidden_at)}: from here no query showed data of the user.",
            f"{_date(receipt.erased_at)}: the files were checked too. None held data of the user.",
        ],
    )
    yield Section("Where", [_say_where(receipt)])
    yield _say_how_checked(receipt)
    yield Section(
        "What stays, and why",
        () if receipt.stays else ["Nothing that the list of personal data names."],
        _list_stays(receipt),
    )
    yield Section(
        "What this receipt does not cover",
        ["No statement of the software reaches the following. Whoever is responsible has to see to it."],
        receipt.not_covered,
    )
    yield Section("Who is responsible", _say_who(receipt, responsible))
    yield _say_how_genuine(file)


def _say_what(receipt: Receipt) -> Section:
    found = [line for line in receipt.targets if line.rows_before]
    empty = [line.target for line in receipt.targets if not line.rows_before and not line.absent]
    absent = [line.target for line in receipt.targets if line.absent]
    notes = []
    if empty:
        notes.append(f"Looked for, and nothing found: {_enumerate(empty)}.")
    if absent:
        notes.append(f"Not there in this store: {_enumerate(absent)}.")
    if not found:
        return Section("What was erased", ["Nothing, as nothing of this user was found."], notes=notes)
    rows = sum(line.rows_before for line in found)
    return Section(
        "What was erased",
        [f"{counted(rows, 'row')} with personal data of user {receipt.subject}. Afterwards none was found."],
        head=("Table", "What was done", "Kinds of personal data", "Rows"),
        rows=[
            (line.target, _ACTIONS.get(line.action, line.action), _name_data(line), f"{line.rows_before:,}")
            for line in found
        ],
        notes=notes,
    )


def _name_data(line: TargetLine) -> str:
    # Receipts of version 1 name the columns of what was redacted, and nothing of what was deleted.
    kinds = [_KINDS.get(kind, kind.replace("_", " ")) for kind in line.pii.values()] or line.columns
    return _enumerate(dict.fromkeys(kinds)) or "all of the row"


def _say_where(receipt: Receipt) -> str:
    if not receipt.store:
        return f"This receipt is of an older version and does not name the store. Written by {receipt.software}."
    return (
        f"In the ClickHouse store {receipt.store}. This receipt is about no other place. Written by {receipt.software}."
    )


def _say_how_checked(receipt: Receipt) -> Section:
    count = len(receipt.verified)
    notes = []
    if receipt.reloaded:
        notes.append(f"Read again afterwards, so that they forgot the user: {_enumerate(receipt.reloaded)}.")
    notes += [
        f"{c.cache.capitalize()} on {c.url} was told to forget its results, {_date(c.told_at)}." for c in receipt.caches
    ]
    if receipt.map_checked_at:
        notes.append(f"The list of personal data was compared with the store last on {_date(receipt.map_checked_at)}.")
    else:
        notes.append("The list of personal data was never compared with the store.")
    if receipt.suspects:
        notes.append(f"Columns that are not on the list and may hold personal data: {_enumerate(receipt.suspects)}.")
    return Section(
        "How it was checked",
        [
            f"After the erasure {counted(count, 'place was', 'places were')} asked for the user, by query, "
            "and had nothing" + (f": {_enumerate(receipt.verified)}." if count else "."),
            "The files of these tables were checked as well: none holds replaced or deleted rows of the user.",
        ],
        notes=notes,
    )


def _list_stays(receipt: Receipt) -> list[str]:
    return [
        f"{line.target}, {_enumerate(line.columns)}: {line.reason}." + (f" Rows: {line.rows:,}." if line.rows else "")
        for line in receipt.stays
    ]


def _say_who(receipt: Receipt, responsible: Responsible) -> list[str]:
    if receipt.institution or receipt.contact:
        return [text for text in (receipt.institution, receipt.contact) if text]
    said = [text for text in (responsible.institution, responsible.contact) if text]
    if said:
        return [*said, "The receipt itself names nobody; this is by the settings of whoever made this page."]
    return ["The receipt names nobody."]


def _say_how_genuine(file: ReceiptFile) -> Section:
    receipt = file.receipt
    items = [f"Number of the retirement: {receipt.request}", f"File: {file.path.name}"]
    if file.digest:
        items.append(f"SHA-256 of the file: {file.digest}")
    signatures = list_signatures(file.document)
    how = (
        "`aspects-pii receipt verify FILE --public-key KEY` checks its signature."
        if signatures
        else "`aspects-pii receipt verify FILE` compares it with the ledger."
    )
    for signature in signatures:
        key = f", by the key {signature['key']}" if signature.get("key") else ""
        items.append(f"Signed: {signature.get('algorithm')}{key}")
    if not signatures:
        items.append("Not signed.")
    if receipt.supersedes is not None:
        items.append(f"In the place of {receipt.supersedes.file}, SHA-256 {receipt.supersedes.sha256 or 'unknown'}")
    return Section(
        "Is this receipt genuine?",
        ["This page is for reading. The receipt is the JSON file that it names. " + how],
        items,
    )


def _date(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.day} {moment:%B %Y, %H:%M:%S} {moment.tzname() or ''}".rstrip()


def _enumerate(names: Iterable[str]) -> str:
    return ", ".join(names)
