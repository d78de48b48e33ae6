"""Runs a command behind the system call filter of a systemd unit, without systemd.

    confined.py UNIT COMMAND…

It applies SystemCallFilter=, RestrictAddressFamilies= and MemoryDenyWriteExecute= as
systemd.exec(5) describes them, through the same library as systemd. Users and capabilities are
setpriv's business.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys

ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | errno.EPERM
EQUAL, MASKED = 4, 7
WRITE, EXECUTE, SHM_EXECUTE = 0x2, 0x4, 0o100000
FAMILIES = 46


class Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def read_unit(path: str) -> dict[str, list[str]]:
    """The words of each option of [Service]; an option that comes again is a list of lines."""
    found: dict[str, list[str]] = {}
    section = ""
    with open(path, encoding="utf-8") as file:
        for line in map(str.strip, file):
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line and not line.startswith("#"):
                name, _, value = line.partition("=")
                found.setdefault(name, []).append(value)
    return found


def expand(word: str) -> set[str]:
    """The system calls of a group, groups in groups included."""
    if not word.startswith("@"):
        return {word}
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True
    )
    words = (line.strip() for line in listed.stdout.splitlines() if line.startswith("    "))
    return {call for inner in words if not inner.startswith("#") for call in expand(inner)}


def choose_calls(lines: list[str]) -> set[str]:
    """What is allowed when each line adds, or with a tilde takes away."""
    calls = expand("@default")
    for line in lines:
        named = {call for word in line.removeprefix("~").split() for call in expand(word)}
        calls = calls - named if line.startswith("~") else calls | named
    return calls


class Filter:
    """A seccomp filter; several that are loaded count together."""

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(default))

    def add(self, action: int, call: str, *comparisons: Comparison) -> None:
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return  # not one of this machine's
        array = (Comparison * len(comparisons))(*comparisons)
        code = self._library.seccomp_rule_add_array(
            self._context, action, number, len(comparisons), array
        )
        if code:
            raise OSError(-code, f"seccomp: {call}")

    def load(self) -> None:
        code = self._library.seccomp_load(self._context)
        if code:
            raise OSError(-code, "seccomp_load")


def confine(unit: dict[str, list[str]]) -> None:
    calls = choose_calls(unit["SystemCallFilter"])
    families = Filter(ALLOW)
    allowed = {getattr(socket, name) for name in unit["RestrictAddressFamilies"][0].split()}
    for family in set(range(FAMILIES)) - allowed:
        families.add(REFUSE, "socket", Comparison(0, EQUAL, family, 0))
    memory = Filter(ALLOW)
    if unit["MemoryDenyWriteExecute"] == ["yes"]:
        both = WRITE | EXECUTE
        memory.add(REFUSE, "mmap", Comparison(2, MASKED, both, both))
        for call in ("mprotect", "pkey_mprotect"):
            memory.add(REFUSE, call, Comparison(2, MASKED, EXECUTE, EXECUTE))
        memory.add(REFUSE, "shmat", Comparison(2, MASKED, SHM_EXECUTE, SHM_EXECUTE))
    whole = Filter(REFUSE)
    for call in sorted(calls):
        whole.add(ALLOW, call)
    families.load()
    memory.load()
    # Last, since it forbids nothing that loading takes, and everything else that isn't named.
    whole.load()


if __name__ == "__main__":
    confine(read_unit(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
