"""Generated people: the same seed makes the same ones.

.. pii: Generated names, e-mail addresses and places; of nobody.
.. pii_types: id, name, username, email_address, location
.. pii_retirement: local_api
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

LOCALES = ("en_US", "es_ES", "de_DE", "fr_FR", "pt_BR", "pl_PL", "ja_JP", "uk_UA")
_COUNTRIES = ("US", "ES", "DE", "FR", "BR", "PL", "JP", "UA", "IN", "NG", "MX", "CO")


def make_external_id(seed: int, user_id: int, kind: str = "xapi") -> uuid.UUID:
    """The anonymous id of a user."""
    digest = hashlib.blake2b(f"{seed}:{user_id}:{kind}".encode(), digest_size=16).digest()
    return uuid.UUID(bytes=digest, version=4)


def make_username(seed: int, user_id: int) -> str:
    """The username of a user."""
    return make_person(seed, user_id).username


@dataclass(frozen=True)
class _Person:
    first_name: str = field(repr=False)
    last_name: str = field(repr=False)
    username: str = field(repr=False)
    email: str = field(repr=False)
    country: str = field(repr=False)
    place: int = field(repr=False)


@dataclass(frozen=True)
class _Pool:
    """Names of one language, drawn once and used again and again: Faker is slow."""

    first_names: tuple[str, ...] = field(repr=False)
    last_names: tuple[str, ...] = field(repr=False)
    places: tuple[tuple[str, str], ...] = field(repr=False)
    """City and street."""
    texts: tuple[str, ...] = field(repr=False)


@lru_cache(maxsize=4)
def make_pools(seed: int) -> tuple[_Pool, ...]:
    from faker import Faker

    pools = []
    for locale in LOCALES:
        fake = Faker(locale)
        fake.seed_instance(seed)
        pools.append(
            _Pool(
                tuple(fake.first_name() for _ in range(80)),
                tuple(fake.last_name() for _ in range(120)),
                tuple((fake.city(), fake.street_address()) for _ in range(40)),
                tuple(fake.sentence(12) for _ in range(40)),
            )
        )
    return tuple(pools)


def make_random(lms_seed: int, purpose: str, number: int) -> Random:
    return Random(f"{lms_seed}:{purpose}:{number}")  # noqa: S311 - made-up data


def make_person(seed: int, user_id: int) -> _Person:
    random = make_random(seed, "person", user_id)
    language = random.randrange(len(LOCALES))
    pool = make_pools(seed)[language]
    username = f"{random.choice(('learner', 'student', 'user', 'reader'))}_{random.randrange(16**4):04x}_{user_id}"
    return _Person(
        random.choice(pool.first_names),
        random.choice(pool.last_names),
        username,
        f"{username}@{random.choice(('example.org', 'example.com', 'mail.example.net'))}",
        _COUNTRIES[language] if random.random() < 0.7 else random.choice(_COUNTRIES),
        language,
    )
