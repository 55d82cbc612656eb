"""One value of a JSON text changes, and every other byte stays, whoever wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sink.erasure.json_text import find_values, replace_values

ODD = {
    "NaN": b'{"x": NaN, "a": {"b": "old"}}',
    "infinity": b'{"x": [Infinity, -Infinity], "a": {"b": "old"}}',
    "a number that is too large": b'{"x": 1e400, "a": {"b": "old"}}',
    "how numbers are written": b'{"x": [1.50, -0.0, 1E+2], "a": {"b": "old"}}',
    "more digits than Python reads": b'{"x": ' + b"7" * 5_000 + b', "a": {"b": "old"}}',
    "a lone surrogate": b'{"x": "\\ud800", "a": {"b": "old"}}',
    "a bad byte": b'{"M\xe9xico": "M\xe9xico", "a": {"b": "old"}}',
    "escapes": b'{"x": "\\u0041\\/\\n", "\\u0061": {"b": "old"}}',
    "no escape": b'{"x": "\\x \\u12 \\q", "a": {"b": "old"}}',
    "a BOM": b'\xef\xbb\xbf{"a": {"b": "old"}}',
    "blanks around": b' \r\n\t{"a" :\n{ "b":"old" } } \n\n',
    "the NULs of a FixedString": b'{"a": {"b": "old"}}\0\0\0',
    "several documents, one a line": b'{"x": 1}\n{"a": {"b": "old"}}\n{"x": 2}\n',
    "depth": b'{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b', "a": {"b": "old"}}',
    "depth on the way": b'{"a": ' + b"[" * 50_000 + b'{"b": "old"}' + b"]" * 50_000 + b"}",
    "repeated keys": b'{"a": {"c": 1}, "a": {"b": "old"}, "a": 2}',
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_the_value_changes_and_every_other_byte_stays(text: bytes) -> None:
    assert replace_values(text, ["a", "b"], lambda value: f"not {value}") == text.replace(b'"old"', b'"not old"')
    assert replace_values(text, ["a", "b"], lambda value: value) == text
    assert replace_values(text, ["a", "c", "d"], lambda _: "never") == text


NO_JSON = [b"", b" ", b"garbage", b"{,}", b"01", b"{'a': 1}", b"\xff", b'{"a" "b"}', b'{"a":}', b"[1 2]", b'{"a": 1}}']
CUT_OFF = [b'{"a": {"b": "old"', b'{"a": {"b": "old"}]', b'{"a": "ol', b'{"a": {"b": "old"}} and more']


@pytest.mark.parametrize("text", NO_JSON + CUT_OFF)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        replace_values(text, ["a", "b"], lambda _: "new")


def test_a_truncated_value_keeps_its_bad_byte() -> None:
    cut = replace_values(b'{"a": "M\xe9xico"}', ["a"], lambda value: value[:4])
    assert cut == b'{"a": "M\xe9xi"}'
    assert replace_values(b'{"a": "\\udce9\\ud800x"}', ["a"], lambda value: value[:2]) == b'{"a": "\\udce9\\ud800"}'


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'"a\\u00e9\\ud83d\\ude00"', "aé😀"),
        (b"1.50", 1.5),
        (b"true", True),
        (b"null", None),
        (b"1e400", float("inf")),
        (b'{"b" : [1]}', '{"b" : [1]}'),
    ],
)
def test_what_a_value_is(raw: bytes, value: Any) -> None:
    text = b'{"a": ' + raw + b"}"
    assert [span.value for span in find_values(text, ["a"])] == [value]


def test_an_array_is_looked_into_as_far_as_is_wanted() -> None:
    text = b'{"a": [{"c": 0}, {"b": 1}, [{"b": 2}], {"b": 3}]}'
    assert [span.value for span in find_values(text, ["a", "b"])] == [1, 2, 3]
    assert [span.value for span in find_values(text, ["a", "b"], "first")] == [1]
    assert [span.value for span in find_values(b'{"a": [[{"b": 1}, {"b": 2}], {"b": 3}]}', ["a", "b"], "first")] == [1]


def test_text_that_is_decoded_already_is_changed_too() -> None:
    text = '{"x": "é\ud800", "a": "old"}'
    assert replace_values(text, ["a"], lambda _: "né") == '{"x": "é\ud800", "a": "né"}'


@settings(max_examples=150)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcé"), inner, max_size=3),
        max_leaves=12,
    ),
    st.lists(st.sampled_from("abcé"), min_size=1, max_size=3),
    st.booleans(),
)
def test_replacing_changes_what_is_at_the_path_and_nothing_else(
    document: object, path: list[str], ascii_only: bool
) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=1).encode("utf-8", "surrogatepass")
    changed = replace_values(text, path, lambda _: "REPLACED")
    spans = find_values(text, path)
    kept = text
    for span in reversed(spans):
        kept = kept[: span.start] + b'"REPLACED"' + kept[span.end :]
    assert changed == kept
    assert len(spans) == len(list(look_up(document, path)))
    assert replace_values(text, path, lambda value: value) == text
    assert [span.value for span in find_values(changed, path)] == ["REPLACED"] * len(spans)


def look_up(value: object, path: list[str]) -> list[object]:
    """What is at a path, by Python's own reading."""
    if not path:
        return [value]
    if isinstance(value, list):
        return [found for element in value for found in look_up(element, path)]
    return look_up(value[path[0]], path[1:]) if isinstance(value, dict) and path[0] in value else []
