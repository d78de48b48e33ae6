"""Names and addresses for the server's certificate, from the kernel's own lists."""

from __future__ import annotations

import socket
from pathlib import Path

from troth.server.addresses import list_names

TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.1.0.0/16 2 0 2
        |-- 10.1.0.0
           /16 link UNICAST
        |-- 10.1.2.3
           /32 host LOCAL
        |-- 10.1.255.255
           /32 link BROADCAST
     |-- 169.254.7.7
        /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
"""
INET6 = """00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000020000fffe000001 02 40 20 80     eth0
20010db8000000000000000000000042 02 40 00 80     eth0
"""


def test_interfaces_hosts_and_localhost_each_once(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/fib_trie").write_text(TRIE)
    (tmp_path / "net/if_inet6").write_text(INET6)
    names = list_names(("localhost", "0.0.0.0", "troth.example.org"), tmp_path)
    assert names == (
        "localhost",
        "127.0.0.1",
        "::1",
        "troth.example.org",
        socket.gethostname(),
        "10.1.2.3",
        "2001:db8::42",
    )


def test_without_proc_there_is_localhost(tmp_path: Path) -> None:
    assert list_names((), tmp_path)[:3] == ("localhost", "127.0.0.1", "::1")


def test_the_real_kernel_names_the_loopback() -> None:
    assert "127.0.0.1" in list_names(())
