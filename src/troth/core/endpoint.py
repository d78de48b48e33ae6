"""TCP addresses to listen on, as people write them: ``localhost:8443``, ``[::1]:8443``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from troth.core.errors import Invalid

_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,253}", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_LARGEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address to listen on; port 0 lets the system pick one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """The address in `text`, an IPv6 address in brackets; `Invalid` if there is none."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise Invalid(f"{text[:300]!r}: put the IPv6 address in brackets: [::1]:8443.")
    if not colon or not host or not _PORT.fullmatch(port):
        raise Invalid(f"{text[:300]!r} is not host:port, such as localhost:8443.")
    if not _HOST.fullmatch(host) or int(port) > _LARGEST_PORT:
        raise Invalid(f"{text[:300]!r} is not host:port with a port up to {_LARGEST_PORT}.")
    return Endpoint(host, int(port))
