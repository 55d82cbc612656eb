"""Texts that name a subject where no rule of the map reaches, as findings.

.. no_pii: names are read and searched for elsewhere; here are ids, counts and names of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sink.erasure.exemptions import list_retained
from sink.erasure.findings import Finding, Kind
from sink.erasure.identities import Identities
from sink.erasure.scan import Hit
from sink.erasure.scan import scan as search_texts
from sink.erasure.search_terms import can_scan
from sink.errors import DatabaseError
from sink.pii_map import SubjectId
from sink.store import Store

# Why somebody could not be searched for.
NO_NAME = "neither the PII tables nor the LMS know a name to search for"


@dataclass(frozen=True)
class Texts:
    """What a search of all texts came to."""

    findings: list[Finding] = field(default_factory=list)
    """Of nobody in particular where a table could not be searched."""
    listed: list[Finding] = field(default_factory=list)
    """What need not go: see `Report.listed`."""
    unknown: list[str] = field(default_factory=list)
    """Subjects of whom no name is known that could be searched for."""

    def listed_of(self, subject: str) -> list[str]:
        """What a receipt says about the texts that were found and stay."""
        return [str(finding) for finding in self.listed if finding.subject == subject]


def scan_for(store: Store, subjects: Sequence[SubjectId], identities: Identities) -> Texts:
    """Search every text for what `subjects` are called."""
    unknown = [str(subject) for subject in subjects if not can_scan(store.pii_map, subject, identities)]
    try:
        search = search_texts(store, subjects, identities)
    except DatabaseError as error:
        return Texts([Finding("scan", Kind.UNCHECKED, reason=str(error))], unknown=unknown)
    retained = list_retained(store.client, store.pii_map, redact_history=store.policy.redact_history)
    found = [_describe_hit(hit, retained.get((hit.table, hit.column))) for hit in search.hits]
    unsearched = [
        Finding(place.place, Kind.UNCHECKED, reason=f"texts could not be searched: {place.reason}")
        for place in search.unsearched
    ]
    return Texts(
        [*(finding for finding in found if finding.kind is Kind.TEXTS), *unsearched],
        [finding for finding in found if finding.kind is not Kind.TEXTS],
        unknown,
    )


def _describe_hit(hit: Hit, retained: str | None) -> Finding:
    kind = Kind.WORDS
    if hit.is_sure:
        kind = Kind.TEXTS if retained is None else Kind.RETAINED
    return Finding(hit.place, kind, hit.subject, hit.rows, reason=retained or "" if hit.is_sure else "")
