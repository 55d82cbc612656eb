"""The files of a package: digests, names that are safe everywhere, and lines that are counted as they pass."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sink.rights.package import CountedLines, Package


def test_files_have_their_digests() -> None:
    target = io.BytesIO()
    with Package(target) as package:
        member = package.add("a/b.txt", [b"one", b"", b"two"])
    assert (member.bytes, member.sha256) == (6, hashlib.sha256(b"onetwo").hexdigest())
    with zipfile.ZipFile(target) as archive:
        assert archive.read("a/b.txt") == b"onetwo"


def fail() -> Iterator[bytes]:
    yield b"one"
    raise ZeroDivisionError


def test_what_fails_in_the_middle_leaves_the_archive_alone() -> None:
    target = io.BytesIO()
    package = Package(target)
    with pytest.raises(ZeroDivisionError), package:
        package.add("a.txt", fail())
    target.close()
    # Nothing comes back to the closed file when the archive is collected.
    del package


def test_names_are_safe_and_no_two_are_alike() -> None:
    package = Package(io.BytesIO())
    names = [
        package.name_files("data", "event_sink", "user_profile"),
        package.name_files("data", "event_sink", "User_Profile"),
        package.name_files("data", "event_sink", "user_profile"),
        package.name_files("data", "..", "../../etc/passwd"),
        package.name_files("data", "a.b", "c"),
        package.name_files("data", "a", "b.c"),
        package.name_files("data", "a", "tabla ñ"),
    ]
    assert names == [
        "data/event_sink.user_profile",
        "data/event_sink.User_Profile-2",
        "data/event_sink.user_profile-3",
        "data/%2E%2E.%2E%2E%2F%2E%2E%2Fetc%2Fpasswd",
        "data/a%2Eb.c",
        "data/a.b%2Ec",
        "data/a.tabla%20%C3%B1",
    ]


CELLS = st.lists(st.tuples(st.text(st.sampled_from('a",\n\r'), max_size=5), st.integers()), max_size=20)


@given(rows=CELLS, size=st.integers(1, 7))
def test_rows_of_csv_are_counted_however_it_comes(rows: list[tuple[str, int]], size: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    data = text.getvalue().encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    counted = CountedLines(pieces, quoted=True)
    assert b"".join(counted) == data
    assert counted.lines == len(rows)


@given(
    lines=st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    keep=st.integers(0, 60),
)
def test_the_first_lines_are_kept_whole(lines: list[bytes], keep: int) -> None:
    data = b"".join(line + b"\n" for line in lines)
    counted = CountedLines([data[at : at + 4] for at in range(0, len(data), 4)], keep)
    assert b"".join(counted) == data
    assert counted.lines == len(lines)
    assert data.startswith(counted.first)
    assert counted.first in (b"", *[b"".join(line + b"\n" for line in lines[: n + 1]) for n in range(len(lines))])
    if len(data) <= keep:
        assert counted.first == data
