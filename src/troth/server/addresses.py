"""The names and addresses under which this machine can be reached, for the server's certificate."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from troth.issuance.profiles import MAX_IP_ADDRESSES

ALWAYS = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104 - recognised, never chosen
_LOCAL = "/32 host LOCAL"


def list_names(hosts: tuple[str, ...], proc: Path = Path("/proc")) -> tuple[str, ...]:
    """localhost, the configured `hosts`, the host's name, and every address of its interfaces.

    Link-local addresses are left out: they mean nothing without an interface.
    """
    named = [host for host in hosts if host not in WILDCARDS]
    addresses = [*_read_ipv4(proc / "net/fib_trie"), *_read_ipv6(proc / "net/if_inet6")]
    useful = [a for a in addresses if not ipaddress.ip_address(a).is_link_local]
    names = dict.fromkeys([*ALWAYS, *named, socket.gethostname(), *useful[: MAX_IP_ADDRESSES - 8]])
    return tuple(names)


def _read_ipv4(path: Path) -> list[str]:
    """Addresses in the kernel's routing trie: a leaf `|-- A` followed by ``/32 host LOCAL``."""
    found: dict[str, None] = {}
    leaf = ""
    for line in _read_lines(path):
        text = line.strip()
        if text.startswith(("|--", "+--")):
            leaf = text[3:].strip()
        elif text == _LOCAL and leaf:
            found[leaf] = None
    return list(found)


def _read_ipv6(path: Path) -> list[str]:
    """Addresses in ``if_inet6``: 32 hexadecimal digits first in each line."""
    return [
        str(ipaddress.IPv6Address(int(line.split()[0], 16)))
        for line in _read_lines(path)
        if line.strip()
    ]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
