"""What a build costs where nothing has changed since the last one, beside one that builds and tests everything."""

from __future__ import annotations

from benchmarks.pairs import Ratio, compare
from benchmarks.stores import new_store
from sink.datasets.build import build


def measure(users: int) -> list[Ratio]:
    """Builds over `users` profiles and twice as many statements."""
    with new_store() as store:
        store.client.execute(
            "INSERT INTO $event_sink.user_profile (id, user_id, name, username, email) SELECT number, number, 'A Name', "
            f"concat('user', toString(number)), concat('u', toString(number), '@example.com') FROM numbers({users})"
        )
        store.client.execute(
            "INSERT INTO $xapi.xapi_events_all (event_id, emission_time, event) SELECT generateUUIDv4(), "
            "toDateTime64('2026-01-01 00:00:00', 6) + toIntervalSecond(number), concat("
            '\'{"actor": {"mbox": "mailto:u\', toString(number % ' + str(users) + "), '@example.com\"}, "
            '"verb": {"id": "http://adlnet.gov/expapi/verbs/registered"}, '
            '"object": {"id": "http://lms.example.com/course/course-v1:Org+A+2026"}}\') '
            f"FROM numbers({users * 2})"
        )
        address = store.client.address
        build(address, enable_pii=True)
        return [
            compare(
                f"build, nothing changed / everything, {users:,} profiles",
                lambda run: build(address, enable_pii=True),
                lambda run: build(address, enable_pii=True, force=True),
                aim="10 s at most",
            )
        ]
