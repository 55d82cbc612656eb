"""Workers that are killed while they erase, and a ClickHouse that refuses, breaks off and is killed."""

from __future__ import annotations

import pytest

from tests.support.faults import TOXICS, Mode
from tests.support.processes import PATIENCE, Process, wait_until
from tests.support.redis_server import name_database
from tests.support.site import Site

pytestmark = pytest.mark.redis

BROKER = name_database(13)


@pytest.mark.parametrize(
    "statement",
    [
        # In the order in which a retirement comes to them.
        pytest.param(b"joinGet", id="rows are changed in place"),
        pytest.param(b"DELETE FROM", id="rows are hidden"),
        pytest.param(b"APPLY DELETED MASK", id="rows are taken off the disk"),
    ],
)
def test_a_worker_killed_in_mid_erasure(site: Site, statement: bytes) -> None:
    """Killed while it waits for the answer to a statement, which ClickHouse carries out all the same."""
    with site.working() as worker:
        reached = site.proxy.hold_at(statement)
        site.send("retire_users", [3, 4])
        assert reached.wait(PATIENCE), worker.read_log()
        worker.kill()
        assert set(site.states()) == {3, 4}
        assert "erased" not in site.states().values()
        site.proxy.set("pass")
        worker.start()
        site.wait_for_erased([3, 4])
    site.check({3, 4})


@pytest.mark.parametrize("toxic", TOXICS)
def test_a_clickhouse_that_spoils_connections_and_comes_back(site: Site, toxic: Mode) -> None:
    with site.working(ASPECTS_CLICKHOUSE_TIMEOUT="5" if toxic == "hang" else "120") as worker:
        site.send("retire_user", 3)
        site.wait_for_erased([3])
        site.proxy.set(toxic)
        site.send("retire_user", 4)
        site.send("sync_user", 5)
        failures = worker.read_log().count("Retry in")
        wait_until(lambda: worker.read_log().count("Retry in") > failures, worker.read_log)
        if toxic != "refuse":
            assert site.proxy.hits[toxic] >= 1
        # An answer that breaks off says nothing about the statement; all else was never carried out.
        assert toxic == "cut" or set(site.states()) == {3}
        assert site.states().get(4) != "erased"
        site.proxy.set("pass")
        site.wait_for_erased([3, 4])
    site.check({3, 4})


def test_a_clickhouse_that_spoils_one_connection_after_another(site: Site) -> None:
    """In the middle of the work, not only at its beginning."""
    with site.working(ASPECTS_CLICKHOUSE_TIMEOUT="5"):
        for user, toxic in enumerate(TOXICS, 1):
            site.writer.change_profile(user, name="Canary-Ibex again")
            reached = site.proxy.hold_at(b"DELETE FROM")
            site.send("retire_user", user)
            assert reached.wait(PATIENCE), site.read_logs()
            site.proxy.set(toxic)
            site.send("sync_users", [user, 11])
            assert site.states().get(user) != "erased"
            site.proxy.set("pass")
        site.wait_for_erased(range(1, 6))
    site.check(set(range(1, 6)))


def test_a_clickhouse_that_is_killed_and_started_again(site: Site, endpoint: Process) -> None:
    with site.working() as worker:
        reached = site.proxy.hold_at(b"DELETE FROM")
        site.send("retire_users", [3, 4])
        assert reached.wait(PATIENCE), worker.read_log()
        endpoint.kill()
        site.proxy.set("pass")
        site.send("retire_user", 5)
        failures = worker.read_log().count("cannot be reached")
        wait_until(lambda: worker.read_log().count("cannot be reached") > failures, worker.read_log)
        endpoint.start()
        site.wait_for_erased([3, 4, 5])
    site.check({3, 4, 5})
