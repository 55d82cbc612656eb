"""Keeps the process that serves the engine from files beside the data folder, from programs, and from other hosts.

The engine in process has too many ways out for a list of them: functions by name, SQL in settings, dictionaries and inserted
values. So the kernel decides, by Landlock (https://docs.kernel.org/userspace-api/landlock.html): Linux 5.13 for files and
programs, 6.7 for TCP. It holds for the thread that asks for it and for those that it starts, and cannot be taken back.

.. no_pii: paths.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import sink
from sink.resources import find_resource

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_PATH_BENEATH = 1
_SET_NO_NEW_PRIVS = 38

# Rights by their bits: execute, write, read, list, remove folders and files, make seven kinds of them, move, truncate, ioctl.
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_WRITE_FILE = 1 << 1
_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 5: 16}
_EXECUTE = 1 << 0
_MAKE_DEVICES = 1 << 6 | 1 << 11
_NETWORK_SINCE, _BIND_AND_CONNECT = 4, 0b11
_SCOPES_SINCE, _SIGNALS_AND_SOCKETS = 6, 0b11

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
    """Confine this thread, and all that it starts, to a folder.

    Args:
        folder: what may be read and written; made where it is not there.
        read: files and folders that may be read beside it.

    Returns:
        What the kernel of this host cannot keep the process from; nothing where it keeps it from everything named above.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, _GET_VERSION) if sys.platform == "linux" else -1
    if version < 1:
        return ["files of this host", "programs", "other hosts"]
    rights = (1 << _RIGHTS_BY_VERSION[max(known for known in _RIGHTS_BY_VERSION if known <= version)]) - 1
    network = _BIND_AND_CONNECT if version >= _NETWORK_SINCE else 0
    scopes = _SIGNALS_AND_SOCKETS if version >= _SCOPES_SINCE else 0
    attributes = struct.pack("QQQ", rights, network, scopes)
    length = 8 * (1 + (version >= _NETWORK_SINCE) + (version >= _SCOPES_SINCE))
    ruleset = _check(libc.syscall(_CREATE_RULESET, attributes, length, 0))
    try:
        temporary = folder / "tmp"
        temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The engine makes a folder there when it starts.
        os.environ["TMPDIR"] = str(temporary)
        _allow(libc, ruleset, folder, rights & ~_EXECUTE & ~_MAKE_DEVICES)
        for path in (*map(Path, _SYSTEM), *_list_installed(), *read):
            _allow(libc, ruleset, path, (_READ_FILE | _READ_FOLDER) & rights)
        _allow(libc, ruleset, Path(os.devnull), _READ_FILE | _WRITE_FILE)
        _check(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _check(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return [] if network else ["other hosts"]


def _list_installed() -> list[Path]:
    """Python, its packages, this one, and what travels with it."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*(sysconfig.get_path(name) for name in names), f"{sys.base_prefix}/lib", sys.executable]
    return [*map(Path, folders), Path(sink.__file__).parent, find_resource("config")]


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
