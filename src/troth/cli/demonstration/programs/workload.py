"""A workload that speaks SPIFFE itself, with PyPI's unmodified `spiffe` and `spiffe-tls`.

The reporter, its second copy and the impostor are all this program.
"""

from __future__ import annotations

import encodings.idna
import http.client
import json
import logging
from datetime import timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import grpc._channel
import grpc._interceptor
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import SpiffeId, WorkloadApiClient, X509Source
from spiffetls import ClientTlsMode, dial
from spiffetls.tlsconfig.authorize import authorize_id

from troth.cli.demonstration.programs.life import Voice, become, hear, make_parser

_LOADED_EARLY = (encodings.idna, timezone, grpc._channel, grpc._interceptor)
"""What libraries import late, when this user may not be able to read it."""

SECONDS = 5.0


class Workload:
    """Fetches SVIDs and calls a service with them; everything is told as facts."""

    def __init__(self, agent: str, peer: str, address: str, folder: Path) -> None:
        self._agent = agent
        self._peer = peer
        self._address = address
        self._folder = folder
        self._source: X509Source | None = None

    def fetch(self) -> dict[str, Any]:
        """An X509-SVID and a JWT-SVID for the peer, over a new connection to the agent."""
        client = WorkloadApiClient(self._agent, default_timeout=SECONDS)
        try:
            context = client.fetch_x509_context()
            token = client.fetch_jwt_svid({self._peer})
        finally:
            client.close()
        svid = context.default_svid
        return {
            "spiffe_id": str(svid.spiffe_id),
            "serial": f"{svid.leaf.serial_number:x}",
            "seconds": (svid.leaf.not_valid_after_utc - svid.leaf.not_valid_before_utc).seconds,
            "audience": sorted(token.audience),
            "jwt_subject": str(token.spiffe_id),
        }

    def hold(self) -> dict[str, Any]:
        """The X509-SVID alone, over a new connection to the agent."""
        client = WorkloadApiClient(self._agent, default_timeout=SECONDS)
        try:
            svid = client.fetch_x509_svid()
        finally:
            client.close()
        return {"spiffe_id": str(svid.spiffe_id), "serial": f"{svid.leaf.serial_number:x}"}

    def write(self) -> dict[str, Any]:
        """The X509-SVID and the roots as files in this program's own folder."""
        client = WorkloadApiClient(self._agent, default_timeout=SECONDS)
        try:
            context = client.fetch_x509_context()
        finally:
            client.close()
        svid = context.default_svid
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        if bundle is None:
            raise ValueError("the Workload API gave no bundle")
        svid.save(self._folder / "svid.pem", self._folder / "svid.key", Encoding.PEM)
        bundle.save(self._folder / "bundle.pem", Encoding.PEM)
        return {"serial": f"{svid.leaf.serial_number:x}", "folder": str(self._folder)}

    def call(self) -> dict[str, Any]:
        """One request to the peer over mutual TLS, which checks the peer's SPIFFE ID as well."""
        if self._source is None:
            self._source = X509Source(socket_path=self._agent, timeout_in_seconds=SECONDS)
        connection = dial(
            self._address, self._source, ClientTlsMode.TLS, authorize_id(SpiffeId(self._peer))
        )
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n")
            received = b""
            while b"}" not in received:
                received += connection.recv(4096)
        finally:
            connection.close()
        return {"answer": _parse_answer(received)}


def _parse_answer(received: bytes) -> Any:
    class Pipe:
        def makefile(self, *_: Any) -> BytesIO:
            return BytesIO(received)

    answer = http.client.HTTPResponse(Pipe())  # type: ignore[arg-type]
    answer.begin()
    return json.loads(answer.read())


def describe_failure(error: BaseException) -> dict[str, Any]:
    """What the library raised, and the gRPC status below it if there is one."""
    facts: dict[str, Any] = {"error": type(error).__name__, "reason": str(error)}
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, grpc.RpcError) and isinstance(cause, grpc.Call):
            facts.update(code=cause.code().name, reason=cause.details())
        cause = cause.__cause__
    return facts


def main() -> None:
    """Commands: `fetch`, `hold` and `write` get SVIDs, `call` calls the peer."""
    parser = make_parser(__doc__)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--folder", required=True, type=Path)
    options = parser.parse_args()
    become(options.uid)
    logging.disable()  # what goes wrong is told as an event
    voice = Voice()
    workload = Workload(options.agent, options.peer, options.address, options.folder)
    actions = {
        "fetch": workload.fetch,
        "hold": workload.hold,
        "write": workload.write,
        "call": workload.call,
    }
    voice.tell("ready")
    for word in hear():
        try:
            voice.tell(word, ok=True, **actions[word]())
        except Exception as error:  # noqa: BLE001  (whatever the libraries raise is the answer)
            voice.tell(word, ok=False, **describe_failure(error))


if __name__ == "__main__":
    main()
