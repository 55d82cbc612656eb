"""What a copy of the LMS costs, beside what the engine needs to read the same database and write the same rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.pairs import Ratio, compare
from benchmarks.stores import empty, new_store
from sink.copying.sync import sync
from sink.demo_data.lms import create_lms
from sink.demo_data.lms_tables import PROFILES, USERS
from sink.lms.database import LmsDatabase
from sink.names import quote_columns
from sink.store import Store

_PROFILE = "event_sink.user_profile"
_IDS = "event_sink.external_id"
_TEXTS = (
    *("name", "meta", "courseware", "language", "location", "gender", "level_of_education", "mailing_address", "city"),
    *("country", "state", "goals", "bio", "phone_number"),
)


def measure(users: int) -> list[Ratio]:
    """Copies of `users` profiles and external ids from SQLite, through the engine in process."""
    with tempfile.TemporaryDirectory(prefix="aspects-pii-bench-") as folder, new_store() as store:
        file = Path(folder, "lms.db")
        create_lms(f"sqlite:///{file}", users)
        lms = LmsDatabase(f"sqlite:///{file}")

        def copy(place: str, *, anew: bool) -> None:
            if anew:
                empty(store, place)
            sync(store, lms, enabled=True, objects=(place.rpartition(".")[2],))

        return [
            compare(
                f"first copy of {users:,} profiles / the engine alone",
                lambda run: copy(_PROFILE, anew=True),
                lambda run: _read_alone(store, file),
            ),
            compare(
                f"first copy of {users:,} external ids / of profiles",
                lambda run: copy(_IDS, anew=True),
                lambda run: copy(_PROFILE, anew=True),
            ),
            compare(
                "second copy of profiles, nothing changed / first copy",
                lambda run: copy(_PROFILE, anew=False),
                lambda run: copy(_PROFILE, anew=True),
                aim="below 0.5",
            ),
        ]


def _read_alone(store: Store, file: Path) -> None:
    """The same rows by one statement, without a comparison, a check or a word about it."""
    empty(store, _PROFILE)
    texts = ", ".join(f"ifNull(profile.{name}, '')" for name in _TEXTS)
    store.client.execute(
        f"INSERT INTO {store.client.table(_PROFILE).sql} (id, user_id, username, email, {quote_columns(_TEXTS)}) "
        f"SELECT profile.id, user.id, user.username, user.email, {texts} "
        f"FROM sqlite('{file}', '{USERS.name}') AS user "
        f"INNER JOIN sqlite('{file}', '{PROFILES.name}') AS profile ON profile.user_id = user.id"
    )
