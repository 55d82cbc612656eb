"""Private files: new, whole, and for the eyes of one user."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sink import private_files
from sink.private_files import make_folder, replace_private, write_all_new, write_new, writing_new


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """From one that takes nothing away to one that takes away too much."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_new_file_is_for_its_owner_whatever_the_umask(tmp_path: Path) -> None:
    write_new(tmp_path / "file", b"text")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert (tmp_path / "file").read_bytes() == b"text"


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("before", [None, 0o644])
def test_a_replaced_file_is_for_its_owner_whatever_the_umask(before: int | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(b"old")
        path.chmod(before)
    replace_private(path, [b"a", b"b"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"ab"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> Iterator[bytes]:
        yield b"a"
        raise ValueError("the source has failed")

    with pytest.raises(ValueError, match="the source has failed"):
        replace_private(path, fail())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["a link", "a link to nothing", "a folder", "a pipe", "a device", "a socket"])
def test_nothing_but_a_file_is_replaced(kind: str, tmp_path: Path) -> None:
    path, target = tmp_path / "name", tmp_path / "target"
    listener = socket.socket(socket.AF_UNIX)
    if kind == "a link":
        target.write_bytes(b"old")
    if kind.startswith("a link"):
        path.symlink_to(target)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        listener.bind(str(path))
    else:
        path = Path(os.devnull)
    found = path.lstat()
    with listener, pytest.raises(FileExistsError, match=kind.removesuffix(" to nothing")):
        replace_private(path, [b"new"])
    assert os.path.samestat(path.lstat(), found)
    assert not target.exists() or target.read_bytes() == b"old"
    assert set(tmp_path.iterdir()) <= {path, target}


@pytest.mark.usefixtures("umask")
def test_a_new_folder_is_for_its_owner_whatever_the_umask(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o750)
    make_folder(tmp_path / "folder")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"first")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "file", b"text")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_could_not_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        write_new(tmp_path / "file", b"text")
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_nameless_files_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_files, "_open_nameless", lambda folder: None)
    with writing_new(tmp_path / "file") as file:
        file.write(b"text")
        (partial,) = tmp_path.iterdir()
        assert partial.name.startswith(".file.")
        assert partial.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ZeroDivisionError):
        write_and_fail(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_has_no_name_until_it_is_whole(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with writing_new(tmp_path / "file") as file:
            file.write(b"text")
            assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600
            assert list(tmp_path.iterdir()) == []
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"text"


def test_what_came_to_have_the_name_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        write_beside(tmp_path / "file")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"theirs"]


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_files, "_open_nameless", lambda folder: None)
    monkeypatch.setattr(os, "link", fail_with(errno.EPERM))
    write_new(tmp_path / "file", b"first")
    assert (tmp_path / "file").read_bytes() == b"first"
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "file", b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


MANY = [(f"file {number}", b"%d" % number) for number in range(230)]


@pytest.mark.usefixtures("umask")
def test_many_files_are_each_as_one_is(tmp_path: Path) -> None:
    write_all_new(tmp_path, iter(MANY))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict(MANY)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_none_of_many_files_has_its_name_before_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync, link = os.fsync, os.link

    def note(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    def check(source: str, *arguments: object, **options: object) -> None:
        assert Path(source).stat().st_ino in synced
        link(source, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "link", check)
    write_all_new(tmp_path, MANY)
    assert set(synced) == {path.stat().st_ino for path in [tmp_path, *tmp_path.iterdir()]}
    assert synced[-1] == tmp_path.stat().st_ino


def test_one_of_many_files_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file 100").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        write_all_new(tmp_path, MANY)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left.pop("file 100") == b"theirs"
    assert left.items() < dict(MANY).items()


def test_many_files_that_could_not_be_written_whole_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        write_all_new(tmp_path, MANY)
    assert list(tmp_path.iterdir()) == []


def write_and_fail(path: Path) -> None:
    with writing_new(path) as file:
        file.write(b"text")
        raise ZeroDivisionError


def write_beside(path: Path) -> None:
    with writing_new(path) as file:
        file.write(b"ours")
        path.write_bytes(b"theirs")


def fail_with(number: int) -> object:
    """A call to the system that fails."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail
