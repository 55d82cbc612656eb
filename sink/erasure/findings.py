"""What a verification found, and how it is said.

.. no_pii: opaque user ids, counts, and names of tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from sink.erasure.named_rows import LEFT, NOT_ASKED
from sink.pii_map import SubjectId
from sink.wording import choose, counted


class Kind(StrEnum):
    """What a finding is about."""

    ROWS = "rows"
    HIDDEN_ROWS = "hidden rows"
    """Rows that no reader sees and that are in the files still."""
    DICTIONARY = "dictionary"
    VIEW = "view"
    OLD_PARTS = "old parts"
    DETACHED_PARTS = "detached parts"
    QUEUED = "files of waiting rows"
    """Rows of anybody that a Distributed table has not written yet."""
    INTERRUPTED = "interrupted changes"
    """Helper tables of a change that did not come to its end."""
    TEXTS = "texts"
    WORDS = "words"
    """Texts with a word that somebody is called and that may mean something, or somebody, else."""
    RETAINED = "retained"
    """Texts in a column whose rows the map keeps."""
    CONTESTED = "contested rows"
    """Rows under a name that somebody else has too, so that they are nobody's to erase."""
    UNCHECKED = "unchecked"
    """A question that got no answer."""


OF_A_TABLE = (Kind.OLD_PARTS, Kind.DETACHED_PARTS, Kind.QUEUED, Kind.INTERRUPTED)
"""Kinds of findings that are about whoever a table held, and nobody in particular."""
# What is said of one of them; of several it is the kind itself.
_ONE = {
    Kind.ROWS: "row",
    Kind.HIDDEN_ROWS: "hidden row",
    Kind.OLD_PARTS: "old part",
    Kind.DETACHED_PARTS: "detached part",
    Kind.QUEUED: "file of waiting rows",
    Kind.INTERRUPTED: "interrupted change",
    Kind.TEXTS: "text",
}
_FIXES = {
    Kind.DETACHED_PARTS: "ClickHouse set them aside, mostly as broken, and no statement reaches them. Look at "
    "system.detached_parts, then restore them or remove them with ALTER TABLE … DROP DETACHED PART",
    Kind.INTERRUPTED: "`aspects-pii sweep` finishes them",
}


@dataclass(frozen=True)
class Finding:
    """Something that is there and should not be, or a question that got no answer."""

    place: str
    kind: Kind
    subject: str | None = None
    count: int = 0
    reason: str = ""
    """Why there was no answer, or why it is there and what to do."""

    def __str__(self) -> str:
        if self.kind is Kind.UNCHECKED:
            return f"{self.place}: {self.reason}"
        if self.kind is Kind.WORDS:
            texts = counted(self.count, "text")
            return f"{self.place}: {texts} with a word that {self.subject} is called and that may mean another"
        if self.kind is Kind.RETAINED:
            stay = choose(self.count, "stays", "stay")
            return f"{self.place}: {counted(self.count, 'text')} of {self.subject} {stay}: {self.reason}"
        if self.kind is Kind.CONTESTED:
            return (
                f"{self.place}: {counted(self.count, 'row is', 'rows are')} under a name of {self.subject} that somebody has, or "
                f"had, who is not retired. Find out whose they are, delete those of {self.subject} by hand, and leave the "
                "others with `aspects-pii retire --leave-contested`"
            )
        explanation = self.reason or _FIXES.get(self.kind, "")
        explained = f" ({explanation})" if explanation else ""
        found = counted(self.count, _ONE.get(self.kind, self.kind), self.kind)
        return f"{self.place}: {found}{f' of {self.subject}' if self.subject else ''}{explained}"


@dataclass(frozen=True)
class Report:
    """What a verification asked and found."""

    subjects: int
    checked: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    not_asked: dict[str, list[str]] = field(default_factory=dict)
    """Where nobody could be looked for whose other names are not known, as place -> subjects."""
    not_asked_again: dict[str, list[str]] = field(default_factory=dict)
    """The same of those who could be looked for when their erasure was proved, and whose names nobody has kept."""
    left: list[Finding] = field(default_factory=list)
    """Contested rows that whoever asked has decided to leave to the other person."""
    passing: list[str] = field(default_factory=list)
    """Files of which nothing can be asked, and when ClickHouse removes those that go by themselves, as a receipt says it."""
    scanned: bool = False
    """True where every text was searched too."""
    listed: list[Finding] = field(default_factory=list)
    """What the search of texts found that need not go: words that may mean something else, and what is retained."""
    not_retired: list[str] = field(default_factory=list)
    """Who was looked for and was never retired: what is found of them is held, and no residue."""

    @property
    def residue(self) -> list[Finding]:
        """The findings, but for those about somebody who was never retired."""
        return [finding for finding in self.findings if finding.subject not in self.not_retired]

    @property
    def with_residue(self) -> int:
        """Retired subjects of whom something was found; all of them where a finding is about no one in particular."""
        found = {finding.subject for finding in self.residue}
        return self.subjects - len(self.not_retired) if None in found else len(found)

    def describe_not_retired(self) -> list[str]:
        """What is held of whom nobody has retired, as sentences."""
        lines = []
        for subject in self.not_retired:
            rows = sum(finding.count for finding in self.findings if finding.subject == subject)
            held = f"{counted(rows, 'row is', 'rows are')} held, and no residue" if rows else "nothing is held"
            lines.append(f"{subject} was never retired: {held}.")
        return lines

    @property
    def is_clean(self) -> bool:
        """True where every question that could be asked was answered with nothing."""
        return not self.findings

    @property
    def is_proved(self) -> bool:
        """True where, beyond that, everybody could be looked for everywhere, now or when the erasure was proved."""
        return self.is_clean and not self.not_asked

    @property
    def gaps(self) -> list[str]:
        """Where how many could not be looked for, as sentences."""
        never = [
            f"{place}: {len(subjects)} could not be looked for, since rows are found by name there and none is known."
            for place, subjects in self.not_asked.items()
        ]
        again = [
            f"{place}: {len(subjects)} could not be looked for again; nothing was left of them when the erasure was proved."
            for place, subjects in self.not_asked_again.items()
        ]
        return [*never, *again]

    @property
    def with_gaps(self) -> int:
        """Subjects who never could be looked for everywhere."""
        return len({subject for subjects in self.not_asked.values() for subject in subjects})

    def places_not_asked(self, subject: SubjectId) -> list[str]:
        """Where this subject could not be looked for."""
        return [place for place, subjects in self._unknown_subjects.items() if str(subject) in subjects]

    def not_asked_of(self, subject: SubjectId) -> list[str]:
        """What a receipt says about rows by name that were not looked for, or left, of this subject."""
        left = [finding for finding in self.left if finding.subject == str(subject)]
        return [
            *(f"{place}: {NOT_ASKED}" for place in self.places_not_asked(subject)),
            *(f"{finding.place}: {counted(finding.count, 'row')} {LEFT}" for finding in left),
        ]

    @cached_property
    def _unknown_subjects(self) -> dict[str, set[str]]:
        return {place: set(subjects) for place, subjects in self.not_asked.items()}
