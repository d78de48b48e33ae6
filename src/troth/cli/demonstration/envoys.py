"""Reading a running Envoy through its admin socket: readiness, port, certificate, counters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from troth.core.errors import Unavailable

_SECONDS = 5.0


class EnvoyAdmin:
    """One Envoy's admin interface (www.envoyproxy.io, "Administration interface")."""

    def __init__(self, name: str, socket: Path) -> None:
        self.name = name
        self._http = httpx.Client(
            base_url="http://envoy",
            transport=httpx.HTTPTransport(uds=str(socket)),
            trust_env=False,
            timeout=_SECONDS,
        )

    def is_live(self) -> bool:
        """Whether it has its certificates and serves; false while it starts."""
        try:
            return self._http.get("/ready").text.strip() == "LIVE"
        except httpx.TransportError:
            return False

    def read_port(self) -> int:
        """The port that the system picked for its mutual-TLS listener."""
        for listener in self._read("/listeners?format=json")["listener_statuses"]:
            if listener["name"] == "ingress":
                return int(listener["local_address"]["socket_address"]["port_value"])
        raise Unavailable(f"Envoy {self.name} has no listener for mutual TLS.")

    def read_serial(self) -> str:
        """The serial number of the certificate that it holds now, in hexadecimal."""
        for held in self._read("/certs")["certificates"]:
            for certificate in held["cert_chain"]:
                return str(certificate["serial_number"]).lstrip("0")
        return ""

    def read_expiry(self) -> str:
        """When the certificate that it holds now expires, as RFC 3339 text."""
        for held in self._read("/certs")["certificates"]:
            for certificate in held["cert_chain"]:
                return str(certificate["expiration_time"])
        return ""

    def read_counters(self, *names: str) -> dict[str, int]:
        """Counters by the end of their names, summed over all that match."""
        answer = self._get("/stats?format=json").json()
        found = dict.fromkeys(names, 0)
        for stat in answer["stats"]:
            for name in names:
                if str(stat.get("name", "")).endswith(name):
                    found[name] += int(stat["value"])
        return found

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _read(self, path: str) -> Any:
        return self._get(path).json()

    def _get(self, path: str) -> httpx.Response:
        try:
            return self._http.get(path)
        except httpx.TransportError as error:
            raise Unavailable(f"Envoy {self.name} doesn't answer: {error}.") from error
