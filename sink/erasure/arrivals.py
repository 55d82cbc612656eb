"""What other software stores of people while storing PII is off: no setting of ours keeps it out, so every sweep empties it.

The map says of which tables that is known (`empty_while_off`). In those that we have made a TTL empties it within seconds
(migration 0016); those that others have made are theirs to define.

.. no_pii: names of tables, and counts.
"""

from __future__ import annotations

from sink.clickhouse.catalog import read_tables
from sink.clickhouse.parts import require_scrubbed, scrub
from sink.clickhouse.row_policies import require_no_row_policy
from sink.erasure.interrupted import require_finished
from sink.erasure.plan import plan_steps
from sink.erasure.steps import Step
from sink.errors import ErasureError
from sink.ledger.entries import Action
from sink.ledger.leases import hold
from sink.store import Store

_WAIT_FOR_OTHERS_SECONDS = 30.0


def count_arrivals(store: Store) -> dict[str, int]:
    """Rows that have come with PII, by table; for an installation in which storing PII is off.

    Raises:
        DatabaseError: they could not be counted.
    """
    counts: dict[str, int] = {}
    for step in _list_steps(store):
        if rows := step.count_everybody(store.client):
            counts[str(step.table.name)] = counts.get(str(step.table.name), 0) + rows
    return counts


def empty_arrivals(store: Store) -> dict[str, int]:
    """Carry out the rules of these tables for everybody, put on record how many rows that were, and return it.

    Raises:
        ErasureError: something is left.
        BusyError: somebody else is erasing.
        DatabaseError: the engine refused.
    """
    found = count_arrivals(store)
    if not found:
        return {}
    with hold(store.client, "erasing", wait=_WAIT_FOR_OTHERS_SECONDS):
        require_finished(store.client)
        steps = [step for step in _list_steps(store) if str(step.table.name) in found]
        tables = list(dict.fromkeys(step.table.name for step in steps))
        require_no_row_policy(store.client, tables)
        refused = [reason for step in steps for reason in step.hide_everybody(store.client).values()]
        require_scrubbed(store.client, tables, scrub(store.client, tables, store.policy.scrub_within))
    if refused:
        raise ErasureError("; ".join(sorted(set(refused))))
    store.ledger.record_event(Action.EMPTIED, {"rows": found})
    return found


def _list_steps(store: Store) -> list[Step]:
    """The rules of these tables alone: reading a whole plan writes down how far statements were looked at."""
    wanted = [store.client.table(name) for name, target in store.pii_map.targets.items() if target.empty_while_off]
    tables = read_tables(store.client, wanted)
    names = {name: store.client.table(name) for name in store.pii_map.targets}
    return plan_steps(store.pii_map, names, tables, redact_history=True, client=store.client).steps
