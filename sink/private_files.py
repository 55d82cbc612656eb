"""Files for the eyes of one user: new, whole, on the disk, and never through a link that somebody has put in the way.

.. no_pii: writes what it is given, and looks at none of it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

FILE_MODE = 0o600
FOLDER_MODE = 0o700

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# How file systems say that they have no hard links, and no files without a name.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NO_NAMELESS = (errno.EISDIR, errno.ENOENT, errno.EINVAL, *_NO_LINKS)

# Where the descriptors of this process have names.
_DESCRIPTORS = "/proc/self/fd"
# Of many files so many are written at once, each time that many in turn: a process may have some 1,000 files open.
_AT_ONCE = 8
_OPEN_AT_ONCE = 50

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not be there yet, as `writing_new` does."""
    with writing_new(path) as file:
        file.write(data)


def write_all_new(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write many files, each by its name in a folder, as `writing_new` does; at the end all of them stay.

    Raises:
        FileExistsError: something has one of the names already; files before it may be there.
        OSError: not all of them could be written.
    """
    # A file is waited for until it is on the disk, and a disk takes many at once.
    with _opening(folder) as opened, ThreadPoolExecutor(_AT_ONCE) as pool:
        deque(pool.map(partial(_write_some, folder, opened), _split(files)), maxlen=0)
        os.fsync(opened)


def _split(files: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    remaining = iter(files)
    while some := list(islice(remaining, _OPEN_AT_ONCE)):
        yield some


def _write_some(path: Path, folder: int, files: Sequence[tuple[str, bytes]]) -> None:
    with ExitStack() as stack:
        drafts = []
        for name, data in files:
            file, source = stack.enter_context(_drafting(path, name, folder))
            file.write(data)
            drafts.append((file, source, name))
        for file, _, _ in drafts:
            _sync(file)
        for _, source, name in drafts:
            _put_in_place(source, name, folder)


def open_new(path: str | Path, _flags: int = 0) -> int:
    """An opener for `open`: of a file that must not be there yet, with mode 0600, for what need not stay for good."""
    return os.open(path, _CREATE, FILE_MODE)


@contextmanager
def writing_new(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that must not be there yet, with mode 0600 from its first byte on, whatever the umask is.

    At the end it is there whole, and stays after a loss of power. Where what is done inside raises, or the process is
    killed, nothing is there: until the end the file has no name. Where a file system has no such files it has another
    name, which begins with a dot and which only a kill can leave behind.

    Args:
        path: the file; its folder has to exist.

    Raises:
        FileExistsError: something has this name already, were it a link to nothing.
        OSError: it could not be written.
    """
    with _opening(path.parent) as folder:
        with _drafting(path.parent, path.name, folder) as (file, source):
            yield file
            _sync(file)
            _put_in_place(source, path.name, folder)
        os.fsync(folder)


@contextmanager
def _opening(path: Path) -> Iterator[int]:
    """A folder, by whose descriptor names in it are made and synced."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _drafting(path: Path, name: str, folder: int) -> Iterator[tuple[IO[bytes], str]]:
    """A file without a name, or without the one that it is to have, and what `_put_in_place` takes it from."""
    partial = None
    descriptor = _open_nameless(folder)
    if descriptor is None:
        partial = _name_partial(path / name)
        descriptor = os.open(partial, _CREATE, FILE_MODE)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            # A umask may have taken away what the mode says.
            os.fchmod(descriptor, FILE_MODE)
            yield file, str(partial or f"{_DESCRIPTORS}/{descriptor}")
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _open_nameless(folder: int) -> int | None:
    """A file in a folder that has no name there; None where there are no such files, or none could get a name."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not Path(_DESCRIPTORS).is_dir():  # pragma: no cover
        return None
    try:
        return os.open(".", os.O_RDWR | flag | os.O_CLOEXEC, FILE_MODE, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_NAMELESS:
            raise
        return None


def _put_in_place(source: str, name: str, folder: int) -> None:
    """Give a file its name in a folder, if nothing has that yet.

    Raises:
        FileExistsError: something has it.
        OSError: it could not be done.
    """
    try:
        # Unlike a rename, a link fails where the name is taken.
        os.link(source, name, dst_dir_fd=folder, follow_symlinks=True)
    except OSError as error:
        if error.errno not in _NO_LINKS or source.startswith(_DESCRIPTORS):
            raise
        # The name is taken by a file of ours, which is then replaced.
        os.close(os.open(name, _CREATE, FILE_MODE, dir_fd=folder))
        os.replace(source, name, dst_dir_fd=folder)


def replace_private(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file, with mode 0600 whatever the umask is, in the place of the one that has its name, if there is one.

    It is there whole, and stays after a loss of power, or everything is as it was.

    Args:
        path: the file; its folder has to exist.
        pieces: what it is to hold; what raises while they are made is raised.

    Raises:
        FileExistsError: what has this name is no file but a link, a folder, a device or a pipe; says which.
        OSError: it could not be written.
    """
    _require_file_or_nothing(path)
    partial = _name_partial(path)
    _write_through(partial, pieces)
    try:
        _require_file_or_nothing(path)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder with mode 0700 where there is none; one that is there stays as it is.

    Raises:
        OSError: it could not be made.
    """
    if not path.is_dir():
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        path.chmod(FOLDER_MODE)


def is_foreign(found: os.stat_result) -> bool:
    """True where a file belongs to neither this user nor root, who could read and write everything anyway."""
    return found.st_uid not in (os.geteuid(), 0)


def may_be_written(found: os.stat_result) -> bool:
    """True where the mode of a file lets others than its owner write to it."""
    return bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def sync_folder(path: Path) -> None:
    """Have the names in a folder survive a loss of power."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _name_partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")


def _require_file_or_nothing(path: Path) -> None:
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if kind != stat.S_IFREG:
        raise FileExistsError(
            errno.EEXIST, f"it is {_KINDS.get(kind, 'no file')}, and only a file is replaced", str(path)
        )


def _write_through(path: Path, pieces: Iterable[bytes]) -> None:
    descriptor = os.open(path, _CREATE, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # A umask may have taken away what the mode says.
            os.fchmod(descriptor, FILE_MODE)
            file.writelines(pieces)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
