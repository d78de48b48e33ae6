"""A stubborn copy of a service: it keeps its last certificate and never lets go of a connection.

It does what an attacker inside a quarantined workload would: with the certificate and key that it
fetched while all was well, it opens new connections all the time and goes on with the old ones.
"""

from __future__ import annotations

import encodings.idna
import http.client
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import grpc._channel
import grpc._interceptor
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import WorkloadApiClient

from troth.cli.demonstration.programs.life import Voice, become, hear, make_parser

_LOADED_EARLY = (encodings.idna, grpc._channel, grpc._interceptor)
PAUSE = 0.02
SECONDS = 5.0


class Holder:
    """One certificate in memory, and two ways to use it without end."""

    def __init__(self, agent: str, host: str, port: int, folder: Path, voice: Voice) -> None:
        self._agent = agent
        self._address = (host, port)
        self._folder = folder
        self._voice = voice
        self._lock = threading.Lock()
        self._facts: dict[str, dict[str, Any]] = {
            "fresh": _no_result(),
            "kept": _no_result(),
        }

    def arm(self) -> str:
        """Fetch a certificate, start to use it, and return its serial in hexadecimal."""
        client = WorkloadApiClient(self._agent, default_timeout=SECONDS)
        try:
            svid = client.fetch_x509_svid()
            bundles = client.fetch_x509_bundles()
        finally:
            client.close()
        bundle = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        if bundle is None:
            raise ValueError("the Workload API gave no bundle")
        chain, key, roots = (self._folder / name for name in ("chain.pem", "key.pem", "roots.pem"))
        svid.save(chain, key, Encoding.PEM)
        bundle.save(roots, Encoding.PEM)
        context = self._make_context(chain, key, roots)
        key.unlink()  # from here on it is in memory alone
        for use in (self._use_fresh, self._use_kept):
            threading.Thread(target=use, args=(context,), daemon=True).start()
        return f"{svid.leaf.serial_number:x}"

    def report(self) -> dict[str, Any]:
        """What became of both ways so far."""
        with self._lock:
            return {way: dict(facts) for way, facts in self._facts.items()}

    def _make_context(self, chain: Path, key: Path, roots: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the peer's name is a SPIFFE ID; the roots are checked
        context.load_verify_locations(roots)
        context.load_cert_chain(chain, key)
        return context

    def _use_fresh(self, context: ssl.SSLContext) -> None:
        while True:
            connection = self._open(context)
            self._try("fresh", connection)
            connection.close()
            time.sleep(PAUSE)

    def _use_kept(self, context: ssl.SSLContext) -> None:
        while True:
            connection = self._open(context)
            while self._try("kept", connection):
                time.sleep(PAUSE)
            connection.close()
            time.sleep(PAUSE)

    def _open(self, context: ssl.SSLContext) -> http.client.HTTPSConnection:
        host, port = self._address
        return http.client.HTTPSConnection(host, port, context=context, timeout=SECONDS)

    def _try(self, way: str, connection: http.client.HTTPSConnection) -> bool:
        """One request; whether the connection can carry another."""
        began = self._voice.now()
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._note(way, "refused", began, str(error) or type(error).__name__)
            return False
        self._note(way, "accepted" if answer.status == 200 else "refused", began, "")
        return not answer.will_close

    def _note(self, way: str, outcome: str, began: float, reason: str) -> None:
        with self._lock:
            facts = self._facts[way]
            facts[outcome] += 1
            facts[f"last_{outcome}"] = began
            # The alert that says why may be lost when the peer closes at once: keep it if it came.
            if "alert" in reason or "alert" not in facts["reason"]:
                facts["reason"] = reason or facts["reason"]


def _no_result() -> dict[str, Any]:
    return {
        "accepted": 0,
        "refused": 0,
        "last_accepted": 0.0,
        "last_refused": 0.0,
        "reason": "",
    }


def main() -> None:
    """Commands: `arm` fetches a certificate and begins, `report` tells what became of it."""
    parser = make_parser(__doc__)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--folder", required=True, type=Path)
    options = parser.parse_args()
    become(options.uid)
    voice = Voice()
    holder = Holder(options.agent, options.host, options.port, options.folder, voice)
    voice.tell("ready")
    for word in hear():
        if word == "arm":
            try:
                voice.tell("arm", ok=True, serial=holder.arm())
            except Exception as error:  # noqa: BLE001  (whatever the library raises is the answer)
                voice.tell("arm", ok=False, reason=str(error))
        elif word == "report":
            voice.tell("report", **holder.report())


if __name__ == "__main__":
    main()
