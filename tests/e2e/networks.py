"""Machines as far as a network can tell: namespaces with an address each, that can be cut off."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

CLONE_NEWNET = 0x4000_0000
T = TypeVar("T")


def find_obstacle() -> str | None:
    """Why there can be no network namespaces here; None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "Debian's package iproute2 isn't installed"
    name = f"troth-probe-{os.getpid()}"
    probe = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if probe.returncode:
        return f"no network namespaces here: {probe.stderr.strip()}"
    _ip("netns", "del", name)
    return None


class Machine:
    """A network namespace, joined to ours by a cable of its own."""

    def __init__(self, number: int) -> None:
        # 198.18.0.0/15 is for tests of networks (RFC 2544); four addresses a cable.
        network = f"198.18.{os.getpid() % 250}"
        self.name = f"troth-{os.getpid()}-{number}"
        self.near = f"{network}.{4 * number + 1}"
        self.address = f"{network}.{4 * number + 2}"
        self._plug = f"tr{os.getpid() % 100_000}n{number}"
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._plug, "type", "veth", "peer", "eth0", "netns", self.name)
            _ip("address", "add", f"{self.near}/30", "dev", self._plug)
            _ip("link", "set", self._plug, "up")
            for words in (
                ("address", "add", f"{self.address}/30", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", self.name, *words)
        except BaseException:
            self.remove()
            raise

    @property
    def prefix(self) -> list[str]:
        """What to put before a command, so that it runs there."""
        return ["ip", "netns", "exec", self.name]

    def cut(self) -> None:
        """Pull the cable: what either side sends is lost, and nobody says so."""
        # Our side keeps its address and route: packets go out, and are dropped where they arrive.
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Put it back."""
        _ip("-n", self.name, "link", "set", "eth0", "up")

    def ask(self, function: Callable[[], T]) -> T:
        """Call `function` in a thread that is on that machine, as far as its sockets go."""
        with ThreadPoolExecutor(1, initializer=self._enter) as pool:
            return pool.submit(function).result()

    def remove(self) -> None:
        """Take the namespace away; the cable goes with it."""
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
        subprocess.run(["ip", "link", "del", self._plug], capture_output=True)

    def _enter(self) -> None:
        assert threading.current_thread() is not threading.main_thread()
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self.name}") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stderr)
