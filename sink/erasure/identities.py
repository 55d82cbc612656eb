"""The other names of subjects: in memory only, and never shown.

.. pii: Holds user names, e-mail addresses and anonymous ids of the users being retired, in memory only.
.. pii_types: id, username, email_address
.. pii_retirement: consumer_api
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sink.erasure.keys import is_bytes
from sink.pii_map import SHA1, SUBJECT_ID, Rule, SubjectId

Names = Mapping[str, Mapping[str, frozenset[str]]]
"""Subject -> identifier -> values."""


@dataclass(frozen=True)
class Identities:
    """What subjects are called; `repr` shows none of it."""

    values: Names = field(default_factory=dict, repr=False)
    answered: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Subject -> identifiers about which a source has answered, be it that the subject has none."""
    remembered: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Subject -> labels of rules (`Rule.label`) whose rows are recognised by keyed hashes."""
    recognised: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    """Template -> whole key that was recognised by its keyed hash -> subject."""
    contested: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)
    """Identifier -> values that somebody has, or had, who is not being retired. No row is a subject's by such a name."""

    contested_keys: frozenset[str] = field(default=frozenset(), repr=False)
    """Recognised keys that are somebody's who is not being retired."""
    leaves_contested: bool = False
    """True where whoever asks has decided that rows under contested names are the other person's."""
    ignores_proofs: bool = False
    """True where a restore may have brought back what a proof found gone."""

    def of(self, subject: SubjectId, identifier: str) -> frozenset[str]:
        """The values of one identifier; none where they are not known."""
        if identifier == SUBJECT_ID:
            return frozenset([str(subject)])
        return self.values.get(str(subject), {}).get(identifier, frozenset())

    def own(self, subject: SubjectId, identifier: str) -> frozenset[str]:
        """The values of one identifier that nobody has who is not being retired."""
        return self.of(subject, identifier) - self.contested.get(identifier, frozenset())

    def can_find(self, subject: SubjectId, rule: Rule) -> bool:
        """True where rows of the subject are found by the rule, or it is known that there are none for want of a name."""
        answered = self.answered.get(str(subject), ())
        is_known = all(self.of(subject, source) or source in answered for source in rule.sources)
        if rule.affixes != ("", "") and any(map(is_bytes, self._list(subject, rule))):
            # Of a name that is no text it is not known how it stands among other letters.
            return False
        return is_known or rule.label in self.remembered.get(str(subject), ())

    def _list(self, subject: SubjectId, rule: Rule) -> list[str]:
        return [name for source in rule.sources for name in self.of(subject, source)]

    def find_contested(self, subjects: Iterable[SubjectId]) -> list[SubjectId]:
        """Those of `subjects` one of whose names is somebody else's too."""
        of_keys = {
            subject for keys in self.recognised.values() for key, subject in keys.items() if key in self.contested_keys
        }
        return [
            subject
            for subject in subjects
            if str(subject) in of_keys
            or any(self.of(subject, name) & values for name, values in self.contested.items())
        ]

    def with_contested(self) -> Identities:
        """The same, as if every name were its subject's alone: for counting, never for erasing."""
        return replace(self, contested={}, contested_keys=frozenset())

    def without(self, placeholders: Collection[str]) -> Identities:
        """The same without what stands in the place of names."""
        values = {
            subject: {
                name: frozenset(v for v in found if v.lower() not in placeholders) for name, found in names.items()
            }
            for subject, names in self.values.items()
        }
        return replace(self, values=values)

    def merge(self, other: Identities) -> Identities:
        """What either of two knows."""
        merged: dict[str, dict[str, frozenset[str]]] = {}
        for source in (self.values, other.values):
            for subject, names in source.items():
                known = merged.setdefault(subject, {})
                for identifier, values in names.items():
                    known[identifier] = known.get(identifier, frozenset()) | values
        return Identities(
            merged,
            _unite(self.answered, other.answered),
            _unite(self.remembered, other.remembered),
            {
                template: {**self.recognised.get(template, {}), **other.recognised.get(template, {})}
                for template in {**self.recognised, **other.recognised}
            },
            _unite(self.contested, other.contested),
            self.contested_keys | other.contested_keys,
            self.leaves_contested or other.leaves_contested,
            self.ignores_proofs or other.ignores_proofs,
        )


def list_keys(rule: Rule, subjects: Iterable[SubjectId], identities: Identities) -> dict[str, str]:
    """What the rule's key holds for `subjects`, as value -> subject; nothing for whom the identifiers are unknown.

    Names that somebody has who is not being retired are left out. Where two of `subjects` have a name in different case,
    each has theirs as it is spelt; where it is the same to the letter, it is the first one's.

    A template that begins with `sha1:` means the SHA-1 of the rest, in hexadecimal: xAPI's `mbox_sha1sum`.
    """
    wanted = list(map(str, subjects))
    template = rule.template.removeprefix(SHA1)
    keys: dict[str, str] = {}
    in_lower_case: dict[str, str] = {}
    for subject in wanted:
        for text in _fill(template, rule.sources, subject, identities):
            keys.setdefault(_hash(text) if rule.is_hashed else text, subject)
            # An address is written as its owner typed it, or in lower case: software does either.
            if rule.is_hashed:
                in_lower_case.setdefault(_hash(text.lower()), subject)
    return {**_list_recognised(rule, wanted, identities), **in_lower_case, **keys}


def _list_recognised(rule: Rule, subjects: Collection[str], identities: Identities) -> dict[str, str]:
    recognised = identities.recognised.get(rule.template, {})
    wanted = set(subjects) if recognised else set()
    return {
        key: subject
        for key, subject in recognised.items()
        if subject in wanted and key not in identities.contested_keys
    }


def _hash(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _fill(template: str, sources: set[str], subject: SubjectId, identities: Identities) -> list[str]:
    texts = [template]
    for source in sorted(sources):
        values = identities.own(subject, source)
        texts = [text.replace(f"{{{source}}}", value) for text in texts for value in sorted(values)]
    return texts


def _unite(one: Mapping[str, frozenset[str]], other: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    return {name: one.get(name, frozenset()) | other.get(name, frozenset()) for name in {**one, **other}}
