"""Random tables, rules, operations and kills, held row by row against a model in Python.

`MODEL_CASES=2000 MODEL_FIRST=100 make test ARGS="tests/integration/erasure/test_model.py -s"` tries as many as one likes and
says how many were tried, killed, refused, damaged and left.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from sink.erasure.plan import read_plan
from sink.erasure.purge import plan_purge, purge
from sink.erasure.work import find_works
from sink.errors import AspectsPiiError
from sink.retirement.retire import retire, sweep
from sink.store import Store
from tests.support.coverage_page import covers
from tests.support.erasure_model import (
    Case,
    Killed,
    Killer,
    apply,
    apply_to_all,
    fill,
    make_case,
    make_rows,
    normalise,
    read,
    with_map,
)

CASES = int(os.environ.get("MODEL_CASES", "24"))
FIRST = int(os.environ.get("MODEL_FIRST", "0"))


@covers(
    "engine",
    "MergeTree; Replacing-, Summing-, Collapsing-, VersionedCollapsingMergeTree, at random",
    "erased",
)
@covers("key", "id, user name, address, path into JSON, at random", "erased")
@covers("type", "String, Nullable, LowCardinality, FixedString, at random", "erased")
@covers("moment", "a kill before any statement, at random", "erased")
def test_random_tables_come_out_of_retirements_kills_and_purges_as_the_model_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = Killer(store, monkeypatch.setattr)
    told: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(FIRST, FIRST + CASES):
        secret = store.policy.pseudonym_secret
        assert secret is not None
        case = make_case(number, secret)
        try:
            told += try_case(store, case, killer)
        except (AssertionError, AspectsPiiError) as error:
            wrong.append(f"{case}: {type(error).__name__} {str(error)[:2000]}")
            print(wrong[-1], flush=True)  # noqa: T201 - whoever tries many cases does not wait for the last
        store.client.execute(f"DROP TABLE IF EXISTS {store.client.table(case.target).sql} SYNC")
    print(  # noqa: T201 - what whoever tries many cases wants to know
        f"cases {CASES}, kills {told['kills']}, refused {told['refused']}, wrong {len(wrong)}"
    )
    assert wrong == []
    assert told["retired"] > CASES / 2
    assert told["kills"] > CASES / 2


def try_case(plain: Store, case: Case, killer: Killer) -> Counter[str]:
    """One case from its table to its purge.

    Raises:
        AssertionError: a row is not as the model says.
    """
    store, rows = with_map(plain, case), make_rows(case)
    fill(store, case, rows)
    if read_plan(store).problems:
        return Counter(refused=1)
    chance = random.Random(case.number + 1)
    first, second = case.people[:2]
    told = Counter(retired=2)

    # One from beginning to end, one killed somewhere on the way.
    killer.arm(1_000_000)
    (outcome,) = retire(store, [first])
    assert outcome.state == "erased", outcome.reason
    statements = killer.count
    rows = apply(case, rows, first)
    assert_same(store, case, rows, "after a retirement")
    told["kills"] += kill(store, case, killer, second, chance.randrange(2, statements))
    others = [row for row in rows if not case.is_about(row, second)]
    assert normalise(case, others) <= normalise(case, read(store, case)), "rows of others are missing after a kill"
    if chance.random() < 0.5:
        store.client.execute(f"OPTIMIZE TABLE {store.client.table(case.target).sql} FINAL")
    assert all(outcome.is_done for outcome in sweep(store)), "not swept"
    rows = apply(case, rows, second)
    assert_same(store, case, rows, "after a kill and a sweep")
    assert find_works(store.client) == [], "helper tables are left"
    killer.arm(1_000_000)
    purge(store, plan_purge(store, []), enabled=False)
    assert_same(store, case, apply_to_all(case, rows), "after the purge", hide_pseudonyms=True)
    return told


def kill(store: Store, case: Case, killer: Killer, person: int, at: int) -> int:
    """Retire somebody in a process that dies before statement `at`; the lease is left, and runs out."""
    killer.arm(at)
    try:
        retire(store, [person])
    except Killed:
        killed = 1
    else:
        killed = 0
    killer.restart()
    store.client.execute("TRUNCATE TABLE $pii_ledger.leases")
    return killed


def assert_same(
    store: Store, case: Case, rows: list[dict[str, object]], when: str, *, hide_pseudonyms: bool = False
) -> None:
    wanted = normalise(case, rows, hide_pseudonyms=hide_pseudonyms)
    found = normalise(case, read(store, case), hide_pseudonyms=hide_pseudonyms)
    assert found == wanted, (
        f"{when}: missing {list((wanted - found).items())[:2]}, too many {list((found - wanted).items())[:2]}"
    )
