"""What a copy of the LMS costs, beside what the engine needs to read the same database and write the same rows."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from dataclasses import replace
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

        def copy(place: str, *, anew: bool, reader: str = "python") -> None:
            if anew:
                empty(store, place)
            policy = replace(store.policy, lms_reader=reader)
            sync(replace(store, policy=policy), lms, enabled=True, objects=(place.rpartition(".")[2],))

        def copy_changed(reader: str) -> None:
            _change(file, users // 1000)
            copy(_PROFILE, anew=False, reader=reader)

        return [
            compare(
                f"first copy of {users:,} profiles / the engine alone",
                lambda run: copy(_PROFILE, anew=True),
                lambda run: _read_alone(store, file),
            ),
            compare(
                "the same, read by ClickHouse / the engine alone",
                lambda run: copy(_PROFILE, anew=True, reader="clickhouse"),
                lambda run: _read_alone(store, file),
                aim="1.5 at most",
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
            compare(
                "the same, read by ClickHouse / first copy",
                lambda run: copy(_PROFILE, anew=False, reader="clickhouse"),
                lambda run: copy(_PROFILE, anew=True, reader="clickhouse"),
                aim="below 0.5",
            ),
            compare(
                "second copy, 0.1 % changed / nothing changed",
                lambda run: copy_changed("python"),
                lambda run: copy(_PROFILE, anew=False),
            ),
            compare(
                "the same, read by ClickHouse / nothing changed",
                lambda run: copy_changed("clickhouse"),
                lambda run: copy(_PROFILE, anew=False, reader="clickhouse"),
            ),
        ]


def _change(file: Path, people: int) -> None:
    """New texts for people all over the table."""
    with closing(sqlite3.connect(file)) as connection, connection:
        count = connection.execute(f"SELECT count(*) FROM {PROFILES.name}").fetchone()[0]
        step = max(1, count // max(1, people))
        connection.execute(
            f"UPDATE {PROFILES.name} SET bio = coalesce(bio, '') || 'x' WHERE id % ? = 0",
            (step,),
        )


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
