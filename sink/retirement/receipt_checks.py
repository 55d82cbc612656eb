"""Which receipt is the last one, and whether one is genuine: its signatures, and the ledger's word for it.

.. no_pii: opaque user ids, digests, and names of files.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sink.errors import UsageError
from sink.ledger.entries import Action
from sink.pii_map import SubjectId
from sink.retirement.receipt_files import ReceiptFile, find_recorded, is_recorded, read_receipt
from sink.retirement.signatures import ED25519, Checked, Keys, check_signatures, read_private_key
from sink.store import Policy, Store

# More entries than any one subject has.
_MANY = 1_000_000


@dataclass
class Verdict:
    """What a check of one receipt came to."""

    file: ReceiptFile
    holds: list[str] = field(default_factory=list)
    """What was checked and is right, and what was not checked."""
    wrong: list[str] = field(default_factory=list)
    signed_by: list[str] = field(default_factory=list)
    """Algorithms of the signatures that are genuine."""
    ledger: bool | None = None
    """Whether the ledger has this receipt; None where it was not asked."""

    @property
    def is_genuine(self) -> bool:
        """True where nothing is wrong."""
        return not self.wrong


def find_keys(policy: Policy) -> Keys:
    """The keys of this installation.

    Raises:
        SettingsError: the file of the private key cannot be used.
    """
    private = policy.receipt_signing_key
    return Keys(policy.receipt_key, [] if private is None else [read_private_key(private).public_key()])


def find_last_receipt(store: Store, subject: SubjectId) -> tuple[ReceiptFile, list[str]]:
    """The last receipt of a subject, and what has to be said about it.

    Raises:
        UsageError: there is none; says why.
        DatabaseError: the ledger cannot be asked.
    """
    place, folder = store.name, store.policy.receipts_dir
    retirement = next(iter(store.ledger.find([subject])), None)
    if retirement is None:
        raise UsageError(f"There is no receipt: {subject} was never retired on {place}.")
    details = store.ledger.find_erasures([retirement]).get(retirement.subject)
    if not details:
        raise UsageError(f"There is no receipt: {subject} is {retirement.state}, and not erased, on {place}.")
    # The last that is one: an entry may have been forged, or written by a version that we do not know.
    found = [find_recorded(detail, folder, str(retirement.request)) for detail in details]
    recorded = next((file for file in reversed(found) if file is not None), None)
    if recorded is None:
        raise UsageError(f"The ledger on {place} says that {subject} was erased, and has no receipt.")
    notes = []
    if found[-1] is None:
        notes.append(f"The ledger on {place} has a later entry without a receipt that can be read.")
    if retirement.is_open:
        notes.append("The retirement is open again: something was found after this receipt.")
    try:
        file = read_receipt(recorded.path)
    except UsageError as error:
        return recorded, [*notes, f"{error} This is what the ledger has of the receipt."]
    if file.document != recorded.document:
        return recorded, [*notes, f"{recorded.path} was changed. This is what the ledger has of the receipt."]
    return file, notes


def check_receipt(file: ReceiptFile, keys: Keys, store: Store | None = None) -> Verdict:
    """Check the signatures of a receipt, and ask the ledger for it where there is a store.

    Args:
        file: the receipt.
        keys: what signatures are checked with.
        store: whose ledger to ask; without one the signatures alone decide.

    Raises:
        DatabaseError: the ledger cannot be asked.
    """
    verdict = Verdict(file)
    checked = list(check_signatures(file.document, keys))
    for signature in checked:
        _judge_signature(verdict, signature, keys)
    if not checked:
        verdict.holds.append("It is not signed.")
    if store is not None:
        _ask_ledger(verdict, store)
        return verdict
    verdict.holds.append("The ledger was not asked.")
    if not verdict.signed_by and not verdict.wrong:
        verdict.wrong.append("Nothing shows that it is genuine: no signature of it could be checked.")
    return verdict


def _judge_signature(verdict: Verdict, signature: Checked, keys: Keys) -> None:
    if signature.problem:
        verdict.wrong.append(signature.problem)
        return
    name = f"{signature.algorithm} signature" + (f" by the key {signature.key}" if signature.key else "")
    if signature.is_genuine:
        verdict.signed_by.append(signature.algorithm)
        verdict.holds.append(f"The {name} is genuine.")
    elif signature.is_genuine is False:
        verdict.wrong.append(f"The {name} does not fit: the receipt was changed, or another key has signed it.")
    elif keys.is_given and signature.algorithm == ED25519:
        verdict.wrong.append(f"The {name} is not by the key that was given.")
    else:
        verdict.holds.append(f"The {name} was not checked: the key is not there.")


def _ask_ledger(verdict: Verdict, store: Store) -> None:
    receipt, place = verdict.file.receipt, store.client.address.described
    request = uuid.UUID(receipt.request)
    # What ends a retirement, or opens it again; the receipt is one of its erasures.
    moves = [
        entry
        for entry in store.ledger.show(subject=receipt.subject, limit=_MANY, with_voided=False)
        if entry.request == request and entry.action in (Action.ERASED, Action.REOPENED, Action.FAILED)
    ]
    erasures = [entry.detail for entry in moves if entry.action == Action.ERASED]
    verdict.ledger = any(is_recorded(verdict.file, detail) for detail in erasures)
    if not verdict.ledger:
        verdict.wrong.append(
            f"The ledger on {place} has no receipt with the SHA-256 digest {verdict.file.digest}: the file was changed, "
            "or is about another store."
        )
        return
    verdict.holds.append(f"Its digest stands in the ledger on {place}.")
    last = erasures[-1]
    if not is_recorded(verdict.file, last):
        verdict.wrong.append(f"{_name(last, verdict.file)} supersedes it.")
    elif moves[-1].action != Action.ERASED:
        verdict.wrong.append("The retirement is open again: something was found after this receipt.")


def _name(detail: Mapping[str, Any], file: ReceiptFile) -> str:
    newer = find_recorded(detail, file.path.parent, file.receipt.request)
    return newer.path.name if newer else "A later one"
