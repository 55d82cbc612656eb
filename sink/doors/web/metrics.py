"""What /metrics reads from the store and from the event bus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sink.doors.events.redis_streams import RedisStreams
from sink.errors import SettingsError, StreamsUnreachableError
from sink.ledger.entries import Action
from sink.store import Store


def make_gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def read_metrics(store: Store) -> Iterator[Metric]:
    states = GaugeMetricFamily("aspects_pii_retirements", "Retirements by their state.", labels=["state"])
    for state, count in store.ledger.count_states().items():
        states.add_metric([state], count)
    yield states
    open_retirements = store.ledger.find_open()
    now = store.client.now()
    oldest = (now - open_retirements[0].requested_at).total_seconds() if open_retirements else 0.0
    yield make_gauge("aspects_pii_retirements_open", "Retirements that are not proved.", len(open_retirements))
    yield make_gauge("aspects_pii_retirements_oldest_open_seconds", "Age of the oldest of them.", max(0.0, oldest))
    actions = CounterMetricFamily(
        "aspects_pii_ledger_entries",
        "Entries of the ledger by action; `reopened` is residue that was found after an erasure.",
        labels=["action"],
    )
    for action, count in store.client.rows(
        "SELECT toString(action), uniqExact(subject, at, request) FROM $pii_ledger.marked_entries "
        "WHERE action IN {known:Array(String)} AND NOT is_voided GROUP BY 1 ORDER BY 1",
        known=list(Action),
    ):
        actions.add_metric([action], count)
    yield actions
    yield from _read_last_checks(store)


def _read_last_checks(store: Store) -> Iterator[Metric]:
    """What the last search for residue of everybody has found, and how old it and the last full copy are."""
    rows = store.client.rows(
        "SELECT toString(action), dateDiff('millisecond', max(at), now64(6, 'UTC')) / 1000, "
        "argMax(JSONExtractUInt(detail, 'findings'), at) FROM $pii_ledger.marked_entries "
        "WHERE subject = '' AND NOT is_voided AND NOT is_ahead "
        "AND (action = 'synced' OR (action = 'verified' AND JSONExtractBool(detail, 'everybody'))) "
        "GROUP BY action"
    )
    for action, age, findings in rows:
        if action == "synced":
            yield make_gauge("aspects_pii_full_copy_age_seconds", "Age of the last full copy.", max(0.0, age))
        else:
            yield make_gauge("aspects_pii_residue_findings", "What the last `verify` of all has found.", findings)
            yield make_gauge("aspects_pii_residue_age_seconds", "Age of that `verify`.", max(0.0, age))


def read_lag(streams: RedisStreams) -> Iterator[Metric]:
    """How far the consumers are behind."""
    try:
        lags = streams.read_lag()
    except (StreamsUnreachableError, SettingsError):
        yield make_gauge("aspects_pii_event_bus_up", "Whether Redis answers.", 0.0)
        return
    yield make_gauge("aspects_pii_event_bus_up", "Whether Redis answers.", 1.0)
    waiting = GaugeMetricFamily("aspects_pii_events_waiting", "Events nobody has read yet.", labels=["stream"])
    unfinished = GaugeMetricFamily(
        "aspects_pii_events_unfinished", "Events that were read and are not done.", labels=["stream"]
    )
    age = GaugeMetricFamily(
        "aspects_pii_sync_lag_seconds", "Age of the oldest event that is not done.", labels=["stream"]
    )
    for lag in lags:
        if lag.waiting is not None:
            waiting.add_metric([lag.stream], lag.waiting)
        unfinished.add_metric([lag.stream], lag.unfinished)
        age.add_metric([lag.stream], lag.oldest_seconds)
    yield from (waiting, unfinished, age)
