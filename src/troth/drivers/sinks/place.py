"""Where receivers are: what each driver's URLs look like, checked before any driver is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote

from troth.core.errors import Invalid

LONGEST = 2048
MOST_HOSTS = 16
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_URL = re.compile(r"(?P<scheme>[a-z+]+)://(?P<hosts>[^/?#]*)(?P<path>(?:/[^?#]*)?)", re.ASCII)
_HOST = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]+))?"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What the URLs of a driver are: `secure` and `plain` schemes ("" for none), the usual `port`,
    whether there may be several hosts, and how the path must look."""

    secure: str
    plain: str
    port: int
    example: str
    several: bool = False
    path: str = r""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "elastic": Kind(
            "https",
            "http",
            9200,
            "https://es.example.org:9200/troth",
            path=r"/[a-z0-9][a-z0-9._-]*",
        ),
        "kafka": Kind(
            "kafka+tls",
            "kafka",
            9092,
            "kafka+tls://a.example.org:9093,b.example.org:9093/troth",
            several=True,
            path=r"/[A-Za-z0-9._-]{1,249}",
        ),
        "nats": Kind(
            "tls",
            "nats",
            4222,
            "tls://nats.example.org:4222/troth.events",
            several=True,
            path=r"/[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*",
        ),
        "otlp": Kind("https", "http", 4318, "https://otel.example.org:4318", path=r"(/[\w./-]*)?"),
        "splunk": Kind(
            "https", "http", 8088, "https://splunk.example.org:8088", path=r"(/[\w./-]*)?"
        ),
        "syslog": Kind("tls", "", 6514, "tls://syslog.example.org:6514"),
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """Hosts with their ports, the path without its first slash, and whether TLS is spoken."""

    hosts: tuple[tuple[str, int], ...]
    path: str
    secure: bool

    @property
    def is_local(self) -> bool:
        """Whether all of it is this machine."""
        return all(host in _LOOPBACK for host, _ in self.hosts)

    def render_hosts(self) -> list[str]:
        """``host:port`` each, with brackets around IPv6."""
        return [f"[{h}]:{port}" if ":" in h else f"{h}:{port}" for h, port in self.hosts]


def parse_place(driver: str, url: str) -> Place:
    """The place that a URL of the driver names, which isn't ``file``; `Invalid` for any other URL.

    The URL isn't repeated in the error: somebody may have put a password into it.
    """
    kind = KINDS[driver]
    problem = Invalid(f"it must be a URL such as {kind.example}, without user, query or fragment.")
    if len(url) > LONGEST or not url.isascii() or not url.isprintable():
        raise problem
    # Not `urlsplit`: newer Pythons refuse several hosts of which one is an IPv6 address.
    parts = _URL.fullmatch(url)
    if parts is None or parts["scheme"] not in filter(None, (kind.secure, kind.plain)):
        raise problem
    names = parts["hosts"].split(",")
    if len(names) > (MOST_HOSTS if kind.several else 1):
        raise problem
    hosts = tuple(_parse_host(name, kind.port) for name in names)
    path = unquote(parts["path"]).rstrip("/")
    if not all(hosts) or not re.fullmatch(kind.path, path, re.ASCII):
        raise problem
    found = [host for host in hosts if host is not None]
    return Place(tuple(found), path.removeprefix("/"), parts["scheme"] == kind.secure)


def _parse_host(text: str, usual: int) -> tuple[str, int] | None:
    match = _HOST.fullmatch(text)
    if match is None or len(text) > 300:
        return None
    port = int(match["port"]) if match["port"] and len(match["port"]) <= 5 else usual
    if match["port"] and not 0 < int(match["port"][:6]) < 65_536:
        return None
    return (match["six"] or match["host"], port)
