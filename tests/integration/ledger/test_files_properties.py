"""Whatever is done to an exported ledger: refused by line with nothing written, or taken and everything goes on."""

from __future__ import annotations

import json
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sink.clickhouse import migrations
from sink.erasure.verify import verify_subjects
from sink.errors import UsageError
from sink.installation import open_store
from sink.ledger.chain import Trust, compose_lines
from sink.ledger.checking import check_ledger
from sink.ledger.entries import Action
from sink.ledger.files import export_ledger, import_ledger
from sink.ledger.installation_id import read_installation
from sink.retirement.retire import sweep
from sink.retirement.status import read_status
from sink.settings import load_settings
from sink.store import Store

FIELDS = ("subject", "at", "action", "request", "actor", "detail")
REQUESTS = [str(uuid.UUID(int=number)) for number in (1, 2)]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# What nearly is right is what goes furthest.
FIELDS_THAT_MAY_BE: dict[str, st.SearchStrategy[Any]] = {
    "subject": st.sampled_from(["3", "4", "", "042", "../../x", "jane@example.com", "\ud800", "9" * 300]),
    "at": st.sampled_from(
        [
            "2026-01-01 00:00:00.000000",
            "9999-12-31 23:59:59.999999",
            "1970-01-01 00:00:00.000000",
            "2026-02-30 00:00:00.000000",
        ]
    ),
    "action": st.sampled_from([*map(str, Action), "forgiven"]),
    "request": st.sampled_from([*REQUESTS, "x"]),
    "actor": st.sampled_from([None, "officer-1", "jane@example.com"]),
    "detail": st.sampled_from(
        [{}, {"rows": {"a.b": 1}}, {"rows": 1}, {"receipt": {}}, {"reason": "x"}, {"entry": "0" * 16, "reason": "x"}]
    ),
}
entries = st.fixed_dictionaries(FIELDS_THAT_MAY_BE) | st.fixed_dictionaries(
    {name: nearly | values for name, nearly in FIELDS_THAT_MAY_BE.items()}
)
mutations = st.lists(
    st.one_of(
        st.tuples(st.just("drop"), st.integers(0, 20), st.none()),
        st.tuples(st.just("swap"), st.integers(0, 20), st.integers(0, 20)),
        st.tuples(st.just("repeat"), st.integers(0, 20), st.integers(0, 20)),
        st.tuples(st.just("cut"), st.integers(0, 5000), st.none()),
        st.tuples(st.just("junk"), st.integers(0, 20), st.binary(max_size=30)),
        st.tuples(
            st.just("field"),
            st.integers(0, 20),
            st.tuples(st.sampled_from([*FIELDS, "hash", "version", "key"]), values),
        ),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("ledgers")
    configured = load_settings(
        clickhouse_url=f"chdb://{folder}/clickhouse", receipts_dir=folder / "receipts", receipt_key="a key of the tests"
    )
    with open_store(configured, creates=True) as store:
        migrations.migrate(store.client)
        yield store


@pytest.fixture(scope="module")
def exported(held: Store, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sound file; the ledger is empty."""
    path = tmp_path_factory.mktemp("exports") / "ledger.jsonl"
    held.ledger.request([3, 4, 5])
    (three, four, _) = held.ledger.find([3, 4, 5])
    held.ledger.record(Action.FOUND, [(3, three.request, {"rows": {"event_sink.user_profile": 1}})])
    held.ledger.record(Action.HIDDEN, [(3, three.request, {})])
    held.ledger.record(Action.ERASED, [(3, three.request, {"receipt": {"subject": "3"}, "scrubbed_at": 1_700_000_000})])
    held.ledger.record(Action.WITHDRAWN, [(4, four.request, {})])
    held.ledger.record_event(Action.PURGED, {"rows": {"a.b": 1}})
    export_ledger(held.client, read_installation(held.client, held.policy.receipt_key), path)
    return path.read_bytes()


def mutate(content: bytes, steps: list[tuple[str, int, Any]]) -> bytes:
    for kind, position, other in steps:
        lines = content.split(b"\n")
        index = position % len(lines)
        if kind == "drop":
            lines.pop(index)
        elif kind == "swap":
            second = other % len(lines)
            lines[index], lines[second] = lines[second], lines[index]
        elif kind == "repeat":
            lines.insert(other % len(lines), lines[index])
        elif kind == "junk":
            lines[index] = other
        elif kind == "field":
            lines[index] = change_field(lines[index], *other)
        content = b"\n".join(lines)
        if kind == "cut":
            content = content[: position % (len(content) + 1)]
    return content


def change_field(line: bytes, name: str, value: Any) -> bytes:
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    return json.dumps({**fields, name: value}).encode() if isinstance(fields, dict) else line


def take(store: Store, content: bytes, trust: Trust | None) -> bool:
    """Whether the file was taken; refused it names a line, and nothing is written."""
    installation = read_installation(store.client, store.policy.receipt_key)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger.jsonl")
        path.write_bytes(content)
        before = store.client.rows("SELECT count() FROM $pii_ledger.entries")
        refusal = None
        try:
            import_ledger(store.client, store.pii_map.subject, installation, path, trust=trust)
        except UsageError as error:
            refusal = str(error)
    if refusal is None:
        return True
    assert re.search(r", line \d+: ", refusal), refusal
    assert "jane" not in refusal
    assert store.client.rows("SELECT count() FROM $pii_ledger.entries") == before
    return False


def require_that_everything_goes_on(store: Store) -> None:
    assert check_ledger(store.client, store.pii_map.subject) == []
    assert all(outcome.is_done for outcome in sweep(store))
    assert read_status(store, enabled=True).open == 0
    assert verify_subjects(store).is_clean
    assert all(entry.subject.isdigit() or entry.subject == "" for entry in store.ledger.show())


def over(examples: int) -> Callable[..., Any]:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@over(80)
@given(steps=mutations)
def test_a_file_that_was_tampered_with_is_refused_whatever_was_done_to_it(
    held: Store, exported: bytes, steps: list[tuple[str, int, Any]]
) -> None:
    held.client.execute("TRUNCATE TABLE $pii_ledger.entries")
    content = mutate(exported, steps)
    if take(held, content, None):
        # White space, and the order of fields, are none of a line's content.
        assert list(map(json.loads, content.splitlines())) == list(map(json.loads, exported.splitlines()))
        assert set(held.ledger.tombstones()) == {"3", "5"}


@over(40)
@given(steps=mutations)
def test_what_is_taken_on_the_word_of_the_operator_breaks_nothing(
    held: Store, exported: bytes, steps: list[tuple[str, int, Any]]
) -> None:
    held.client.execute("TRUNCATE TABLE $pii_ledger.entries")
    old = b"".join(as_old(line) + b"\n" for line in exported.splitlines()[1:-1])
    if take(held, mutate(old, steps), Trust(unsigned=True)):
        require_that_everything_goes_on(held)


def as_old(line: bytes) -> bytes:
    fields = json.loads(line)
    return json.dumps({name: fields[name] for name in FIELDS} | {"detail": json.dumps(fields["detail"])}).encode()


@over(30)
@given(forged=st.lists(entries, min_size=1, max_size=3), is_signed=st.booleans())
def test_entries_of_a_forger_are_refused_or_break_nothing(
    held: Store, exported: bytes, forged: list[dict[str, Any]], is_signed: bool
) -> None:
    """Also where the forger has the key."""
    held.client.execute("TRUNCATE TABLE $pii_ledger.entries")
    assert take(held, exported, None)
    installation = read_installation(held.client, held.policy.receipt_key)
    if is_signed:
        lines = list(compose_lines(installation, "2026-01-01 00:00:00.000000", forged))
    else:
        lines = [json.dumps({**one, "detail": json.dumps(one["detail"])}) for one in forged]
    take(held, "\n".join(lines).encode(), Trust(unsigned=not is_signed))
    require_that_everything_goes_on(held)
    assert {"3", "5"} <= set(held.ledger.tombstones())
