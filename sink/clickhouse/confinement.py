"""Keeps the engine in process from files beside the data folder, from programs, and from other hosts.

The engine has too many ways out for a list of them: functions by name, SQL in settings, dictionaries and inserted values. And
what somebody has put into the data folder is carried out by whoever opens it next. So the kernel decides: by Landlock
(https://docs.kernel.org/userspace-api/landlock.html) about files, and by a filter of system calls
(https://docs.kernel.org/userspace-api/seccomp_filter.html) about programs and hosts, since Landlock knows TCP alone: a name that
a DNS server is asked for can carry a value out, and so can a socket of this host. Both hold for the thread that asks for them
and for those that it starts, and cannot be taken back.

.. no_pii: paths.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import sink
from sink.resources import find_resource

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_PATH_BENEATH = 1
_SET_NO_NEW_PRIVS = 38
_SET_SECCOMP, _SECCOMP_FILTER = 22, 2

# Rights by their bits: execute, write, read, list, remove folders and files, make seven kinds of them, move, truncate, ioctl.
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_WRITE_FILE = 1 << 1
_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 5: 16}
_EXECUTE = 1 << 0
_MAKE_DEVICES = 1 << 6 | 1 << 11
_NETWORK_SINCE, _BIND_AND_CONNECT = 4, 0b11
_REFUSE, _ALLOW = 0x00050000 | errno.EPERM, 0x7FFF0000
# For the machines that the engine is built for: AUDIT_ARCH_…, then the numbers of socket, execve and execveat.
_CALLS_BY_MACHINE = {"x86_64": (0xC000003E, 41, (59, 322)), "aarch64": (0xC00000B7, 198, (221, 281))}
# It makes sockets too, and no filter sees that. The number is the same everywhere.
_IO_URING_SETUP = 425
# Of another way to call on x86_64, whose numbers are others.
_X32 = 0x40000000
# What the engine asks for this host's own addresses by; it leads to the kernel only.
_NETLINK = 16
_SCOPES_SINCE, _SIGNALS_AND_SOCKETS = 6, 0b11

_EVERYTHING = ["files of this host", "programs", "other hosts"]
_this_thread = threading.local()
_confines_engine_threads = False

# What libraries and the engine read of the host while they run: no secrets, and nothing of this process's environment.
_SYSTEM = (
    # Not /etc/resolv.conf: the names of other hosts are not asked for.
    *("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/hosts", "/etc/nsswitch.conf"),
    *("/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/loadavg", "/proc/sys/vm", "/dev/urandom"),
    # The engine asks for the bounds of its stacks, and for its size.
    *("/proc/self/maps", "/proc/self/auxv", "/proc/self/statm", "/proc/self/status"),
    *("/sys/fs/cgroup", "/sys/devices/system", "/sys/kernel/mm"),
)


def confine(folder: Path, read: Iterable[Path] = ()) -> list[str]:
    """Confine this thread, and all that it starts, to a folder; asked again it stays as it is.

    Args:
        folder: what may be read and written.
        read: files and folders that may be read beside it.

    Returns:
        What the kernel of this host cannot keep it from; nothing where it keeps it from everything named above.
    """
    confined: list[str] | None = getattr(_this_thread, "open_to", None)
    if confined is None:
        confined = _this_thread.open_to = _confine(folder, read) if sys.platform == "linux" else _EVERYTHING
    return confined


def confine_engine_threads(wanted: bool) -> None:
    """Whether this process confines the threads of its engine, and no other of its threads.

    For a process that opens one data folder: threads of the engine stay when it stops, and would not reach the next one.
    """
    global _confines_engine_threads
    _confines_engine_threads = wanted


def confine_engine_thread(folder: Path) -> None:
    """Confine this thread, which is the engine's, where this process does that."""
    if _confines_engine_threads:
        confine(folder)


@contextmanager
def starting_in(folder: Path) -> Iterator[None]:
    """While the engine starts: it makes a folder in the temporary one, which is out of reach then."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(_make_temporary(folder))
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _make_temporary(folder: Path) -> Path:
    """The engine's own folder for such things."""
    temporary = folder / "tmp"
    # Where it cannot be made the engine cannot start, and says so.
    with suppress(OSError):
        temporary.mkdir(mode=0o700, exist_ok=True)
    return temporary


def _confine(folder: Path, read: Iterable[Path]) -> list[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    files, programs, hosts = _EVERYTHING
    by_landlock, by_filter = _confine_files(libc, folder, read), _confine_calls(libc)
    refused = {files: by_landlock, programs: by_landlock or by_filter, hosts: by_filter}
    return [what for what, is_refused in refused.items() if not is_refused]


def _confine_files(libc: ctypes.CDLL, folder: Path, read: Iterable[Path]) -> bool:
    """By Landlock; False where this kernel has none."""
    version = libc.syscall(_CREATE_RULESET, None, 0, _GET_VERSION)
    if version < 1:
        return False
    rights = (1 << _RIGHTS_BY_VERSION[max(known for known in _RIGHTS_BY_VERSION if known <= version)]) - 1
    network = _BIND_AND_CONNECT if version >= _NETWORK_SINCE else 0
    scopes = _SIGNALS_AND_SOCKETS if version >= _SCOPES_SINCE else 0
    attributes = struct.pack("QQQ", rights, network, scopes)
    length = 8 * (1 + (version >= _NETWORK_SINCE) + (version >= _SCOPES_SINCE))
    ruleset = _check(libc.syscall(_CREATE_RULESET, attributes, length, 0))
    try:
        _allow(libc, ruleset, folder, rights & ~_EXECUTE & ~_MAKE_DEVICES)
        for path in (*map(Path, _SYSTEM), *_list_installed(), *read):
            _allow(libc, ruleset, path, (_READ_FILE | _READ_FOLDER) & rights)
        _allow(libc, ruleset, Path(os.devnull), _READ_FILE | _WRITE_FILE)
        _check(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def _confine_calls(libc: ctypes.CDLL) -> bool:
    """No programs, and no new sockets but those to the kernel itself; False where this kernel has no such filters.

    Sockets that are open already go on: whoever listens accepts.
    """
    if platform.machine() not in _CALLS_BY_MACHINE:
        return False
    architecture, socket, programs = _CALLS_BY_MACHINE[platform.machine()]
    load, equals, at_least, end = 0x20, 0x15, 0x35, 0x06
    # One instruction: its code, how many to skip where it holds and where not, and its value.
    checks = [
        (load, 0, 0, 4),
        (equals, 1, 0, architecture),
        (end, 0, 0, _REFUSE),
        (load, 0, 0, 0),
    ]
    for number in (*programs, _IO_URING_SETUP):
        checks += [(equals, 0, 1, number), (end, 0, 0, _REFUSE)]
    checks += [
        (at_least, 0, 1, _X32),
        (end, 0, 0, _REFUSE),
        (equals, 1, 0, socket),
        (end, 0, 0, _ALLOW),
        # The family of the socket.
        (load, 0, 0, 16),
        (equals, 0, 1, _NETLINK),
        (end, 0, 0, _ALLOW),
        (end, 0, 0, _REFUSE),
    ]
    code = b"".join(struct.pack("=HBBI", *check) for check in checks)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(checks), ctypes.addressof(buffer))
    return bool(libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, program, 0, 0) == 0)


def _list_installed() -> list[Path]:
    """Python, its packages, this one, and what travels with it; not all of `sys.path`, where the working directory may stand."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*(sysconfig.get_path(name) for name in names), f"{sys.base_prefix}/lib", sys.executable]
    packages = [path for path in sys.path if path.rstrip("/").endswith(("/site-packages", "/dist-packages"))]
    specs = [find_spec(name) for name in ("chdb", "clickhouse_connect")]
    origins = [Path(spec.origin).parent for spec in specs if spec and spec.origin]
    return [*map(Path, [*folders, *packages]), *origins, Path(sink.__file__).parent, find_resource("config")]


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    with suppress(FileNotFoundError):
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not path.is_dir():
                rights &= _READ_FILE | _WRITE_FILE
            _check(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, file), 0))
        finally:
            os.close(file)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
