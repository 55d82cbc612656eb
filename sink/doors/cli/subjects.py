"""Ids of subjects from the command line, from files and from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sink.errors import UsageError
from sink.pii_map import Subject, SubjectId


def read_subjects(subject: Subject, arguments: Sequence[str], file: Path | None = None) -> list[SubjectId]:
    """The ids that arguments and a file name; - stands for standard input, blank lines and lines with # are passed over.

    Raises:
        UsageError: the file cannot be read, or names what is no id.
    """
    subjects = []
    for where, text in list_texts(arguments, file):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        try:
            subjects.append(subject.parse(text))
        except ValueError as error:
            # Not the text itself: somebody may have given a name instead of an id.
            raise UsageError(f"{where}: this is not an id: {error}.") from None
    return subjects


def list_texts(arguments: Sequence[str], file: Path | None = None) -> Iterator[tuple[str, str]]:
    """Where a text stands, and the text: arguments, and the lines of a file; - stands for standard input.

    Raises:
        UsageError: the file cannot be read.
    """
    for number, argument in enumerate(arguments, 1):
        if argument == "-":
            yield from _list_input()
        else:
            yield f"argument {number}", argument
    if file is None:
        return
    if str(file) == "-":
        yield from _list_input()
        return
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--file {file}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from None
    yield from _list_lines(str(file), content)


def _list_input() -> Iterator[tuple[str, str]]:
    try:
        content = sys.stdin.read()
    except UnicodeDecodeError:
        raise UsageError("standard input: it is not UTF-8 text") from None
    yield from _list_lines("standard input", content.removeprefix("\ufeff"))


def _list_lines(source: str, content: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(content.splitlines(), 1):
        yield f"{source}, line {number}", line
