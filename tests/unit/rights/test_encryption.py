"""Encrypting a stream: whole, or with the reason why not."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pyrage
import pytest

from sink.rights.encryption import encrypting, read_recipients

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENTS = read_recipients([f" {IDENTITY.to_public()}\n"])


def test_a_stream_comes_back_as_it_was() -> None:
    pieces = [os.urandom(1 << 16) for _ in range(100)]
    target = io.BytesIO()
    with encrypting(target, RECIPIENTS) as file:
        file.writelines(pieces)
    assert pieces[0] not in target.getvalue()
    assert pyrage.decrypt(target.getvalue(), [IDENTITY]) == b"".join(pieces)


def test_without_recipients_it_is_the_file_itself() -> None:
    target = io.BytesIO()
    with encrypting(target, []) as file:
        assert file is target


def write_much(target: Path) -> None:
    with target.open("wb", buffering=0) as file, encrypting(file, RECIPIENTS) as plain:
        for _ in range(100):
            plain.write(os.urandom(1 << 16))


def test_a_disk_that_is_full_is_told() -> None:
    with pytest.raises(OSError, match="No space left") as full:
        write_much(Path("/dev/full"))
    assert full.value.errno == errno.ENOSPC


def give_up(target: io.BytesIO) -> None:
    with encrypting(target, RECIPIENTS) as file:
        file.write(b"x" * 100_000)
        raise KeyboardInterrupt


def test_what_stops_the_writer_stops_the_encryption() -> None:
    with pytest.raises(KeyboardInterrupt):
        give_up(io.BytesIO())
