"""A sync that is killed half-way, at several moments, and started again ends as an undisturbed one does."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sink.demo_data.lms import create_lms
from sink.demo_data.lms_description import DemoLms
from tests.support.installation import Installation
from tests.support.lms_writer import LmsWriter

CANARY = "Quetzal5d1f0a"
TABLES = ("user_profile", "external_id", "course_access")
USERS = 200


def read_state(installation: Installation) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the PII tables, those included that are hidden, without the bookkeeping."""
    with installation.clickhouse() as client:
        return {
            table: client.rows(
                f"SELECT * EXCEPT (dump_id, time_last_dumped) FROM $event_sink.{table} ORDER BY ALL",
                {"apply_deleted_mask": 0},
            )
            for table in TABLES
        }


def change_lms(url: str, lms: DemoLms) -> None:
    """Some change, some leave, some lose a role, and some get one."""
    writer = LmsWriter(url)
    for user_id in range(1, USERS, 9):
        writer.change_profile(user_id, name=f"{CANARY} again {user_id}")
    for user_id in (5, 100):
        writer.delete_user(user_id)
    writer.grant_role(7, "DemoX", lms.courses[0].key, "staff")
    writer.delete_user(next(iter(lms.staff.values())))
    writer.close()


def kill_after(installation: Installation, insertions: int) -> None:
    """Start a sync in small batches and kill it as soon as it has made so many insertions."""
    with installation.clickhouse() as client:
        # Whoever was killed before holds the lease for some seconds more; the last one is waited for.
        client.execute("TRUNCATE TABLE $pii_ledger.leases")
        tables = client.column("SELECT toString(uuid) FROM system.tables WHERE database = 'event_sink'")
    assert len(tables) >= len(TABLES)
    before = count_insertions(installation.data, tables)
    process = installation.start("sync", "--batch-size", 10)
    try:
        while count_insertions(installation.data, tables) - before < insertions:
            assert process.poll() is None, installation.last_said()
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def count_insertions(data: Path, tables: Sequence[str]) -> int:
    """How many blocks were written to `tables`.

    A part is named after its first and last block, and a merged one after those of its own parts: the last block stays
    known, however soon parts are merged and removed.
    """
    return sum(
        max((int(part.name.split("_")[2]) for part in (data / "store").glob(f"*/{table}/all_*")), default=0)
        for table in tables
    )


def test_killed_at_several_moments(make_installation: Callable[[str], Any], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lms.sqlite3"
    lms = create_lms(url, USERS, 3)
    writer = LmsWriter(url)
    for user_id in range(1, USERS + 1):
        writer.change_profile(user_id, name=f"{CANARY} {user_id}")
    writer.close()
    undisturbed, killed = make_installation("undisturbed"), make_installation("killed")
    for installation in (undisturbed, killed):
        installation.run("init")

    undisturbed.run("sync")
    for insertions in (1, 9, 22):
        kill_after(killed, insertions)
    part_of_it = read_state(killed)
    assert 0 < len(part_of_it["user_profile"]) <= USERS
    killed.run("sync")
    assert read_state(killed) == read_state(undisturbed)
    assert len(read_state(killed)["user_profile"]) == USERS

    change_lms(url, lms)
    undisturbed.run("sync")
    for insertions in (1, 4):
        kill_after(killed, insertions)
    killed.run("sync")
    assert read_state(killed) == read_state(undisturbed)
    assert len(read_state(killed)["user_profile"]) == USERS - 3

    # In the targets of the map, and nowhere else: no temporary file, no other table.
    assert killed.find_in_tables(CANARY) == {"event_sink.user_profile"}
    assert killed.find_in_files(CANARY, below=killed.left_behind) == set()
    assert list((killed.left_behind / "temporary").iterdir()) == []
