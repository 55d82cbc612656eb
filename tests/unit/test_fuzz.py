"""Maps and events made by a fuzzer: each is read, or refused with the error that says what is wrong with it."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sink.doors.events.avro_events import EVENTS, decode_framed_event, decode_open_edx_event
from sink.doors.events.json_events import load_event_map, make_json_decoder
from sink.doors.events.work import VALUE, Message, Work
from sink.errors import InvalidMessageError, MapError
from sink.pii_map import Subject, load_map
from sink.resources import find_resource

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
fuzzed = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["id", "person", "delete", "{id}", "{", "a.b", "a.b.c", "{expression: x}", "empty", "9" * 5000]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars.map(str), inner, max_size=3),
    max_leaves=8,
)
lines = st.sampled_from(
    [
        "version: 2026-13-45", "version: 0x", "a: &a [*a]", "? [a]\n: b", "<<: 1", "<<: [1]", "version: " + "9" * 5000,
        "a: !!python/object:os.system x", "a: !!binary x", "- a", "a: b: c", "%YAML 9.9", "a: 1:99:99", "\t", "'", "!!set {a}",
        "subject: {type: text}", "targets: []", "targets: {a.b: 1}", "derived: 5", "exempt_databases: {a: }", "version: .inf",
        "a: !!int x", "a: !!float x", "a: !!timestamp x", "[" * 100, "a: " + "{a: " * 100,
    ]
)  # fmt: skip


def spoil(document: Any, path: list[int], value: Any) -> Any:
    """A copy of a document with `value` at the place that the numbers lead to."""
    document = copy.deepcopy(document)
    place = document
    for number in path:
        keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
        if not keys:
            break
        key = keys[number % len(keys)]
        if not isinstance(place[key], dict | list) or number % 5 == 0:
            place[key] = value
            return document
        place = place[key]
    if isinstance(place, dict):
        place[str(value)] = value
    return document


@pytest.mark.parametrize(("name", "load"), [("config/pii.yaml", load_map), ("config/events.yaml", load_event_map)])
def test_map_is_read_or_refused_whatever_is_in_it(
    name: str, load: Callable[[Path], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = find_resource(name).read_text()
    sound = yaml.safe_load(text)
    rows = text.splitlines()
    path = tmp_path / "map.yaml"
    seen: Counter[str] = Counter()

    def load_bytes(content: bytes) -> None:
        path.write_bytes(content)
        try:
            load(path)
        except MapError as error:
            seen["refused" if str(path) in str(error) else "refused without a name"] += 1
        else:
            seen["read"] += 1

    @fuzzed
    @given(st.lists(st.integers(0, 50), min_size=1, max_size=8), values)
    def change_the_document(place: list[int], value: Any) -> None:
        load_bytes(yaml.safe_dump(spoil(sound, place, value)).encode(errors="surrogatepass"))

    @fuzzed
    @given(st.integers(0, len(rows)), st.one_of(lines.map(str.encode), st.binary(max_size=20)), st.booleans())
    def change_the_text(number: int, line: bytes, replaces: bool) -> None:
        encoded = [row.encode() for row in rows]
        load_bytes(b"\n".join([*encoded[:number], line, *encoded[number + replaces :]]))

    load_bytes(text.encode())
    assert seen == {"read": 1}
    change_the_document()
    change_the_text()
    assert seen["refused"] > EXAMPLES // 10
    assert "refused without a name" not in seen
    with capsys.disabled():
        print(f"\n{name}: {seen.total()} inputs, {dict(seen)}, tracebacks 0")  # noqa: T201


def test_event_is_read_or_refused_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    rules = load_event_map(find_resource("config/events.yaml"))
    decoders = [
        make_json_decoder(rules, Subject.model_validate({"type": kind}), "event") for kind in ("integer", "text")
    ]
    sound: list[dict[str, Any]] = []
    for rule in rules.events.values():
        event: dict[str, Any] = {}
        for place, value in {**rule.when, **rule.require, **dict.fromkeys([rule.subject, *rule.also], "5")}.items():
            *outer, last = place.split(".")
            inner = event
            for key in outer:
                inner = inner.setdefault(key, {})
            inner[last] = value
        sound.append(event)
    seen: Counter[str] = Counter()

    def decode(decoder: Callable[[Message], Work | None], fields: dict[bytes, bytes]) -> None:
        try:
            work = decoder(Message("stream", "1-0", fields))
        except InvalidMessageError:
            seen["refused"] += 1
        else:
            seen["read" if work else "passed over"] += 1

    @fuzzed
    @given(
        st.sampled_from(sound), st.lists(st.integers(0, 20), min_size=1, max_size=5), values, st.sampled_from(decoders)
    )
    def change_json(event: Any, place: list[int], value: Any, decoder: Callable[[Message], Work | None]) -> None:
        decode(decoder, {b"event": json.dumps(spoil(event, place, value)).encode()})

    @fuzzed
    @given(st.one_of(st.binary(max_size=60), lines.map(str.encode), st.just(b"[" * 100_000)), st.sampled_from(decoders))
    def take_anything_for_json(body: bytes, decoder: Callable[[Message], Work | None]) -> None:
        decode(decoder, {b"event": body})

    @fuzzed
    @given(st.binary(max_size=80), st.sampled_from([*EVENTS, "org.openedx.other.v1", ""]), st.booleans())
    def take_anything_for_avro(body: bytes, kind: str, is_framed: bool) -> None:
        decoder = decode_framed_event if is_framed else decode_open_edx_event
        field = VALUE.encode() if is_framed else b"event_data"
        decode(decoder, {b"type": kind.encode(), field: (b"\0\0\0\0\1" if is_framed else b"") + body})

    change_json()
    take_anything_for_json()
    take_anything_for_avro()
    assert seen["refused"] > EXAMPLES // 2
    assert seen["read"] > 0
    with capsys.disabled():
        print(f"\nevents: {seen.total()} inputs, {dict(seen)}, tracebacks 0")  # noqa: T201
