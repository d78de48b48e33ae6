"""One end of a mutual TLS connection: PyPI's `spiffe` and `spiffe-tls` as their users take them.

`serve` answers connections of one SPIFFE ID with a line; `dial` asks for the line of one. Both
tell what came of each connection.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from spiffe import SpiffeId, X509Source
from spiffetls import ClientTlsMode, ListenOptions, ServerTlsMode, dial, listen
from spiffetls.tlsconfig.authorize import authorize_id


def tell(event: str, **facts: Any) -> None:
    """One line in one write."""
    os.write(1, json.dumps({"event": event, "at": time.monotonic(), **facts}).encode() + b"\n")


def name_peer(connection: SSL.Connection) -> str:
    """The SPIFFE ID in the certificate that the other end showed."""
    certificate = connection.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


class Peer:
    """Keeps one source open, as a long-running service does."""

    def __init__(self, endpoint: str) -> None:
        self._source = X509Source(socket_path=endpoint, timeout_in_seconds=15)
        self._source.subscribe_for_updates(self._tell_update)

    def _tell_update(self) -> None:
        tell("update", serial=self._serial())

    def _serial(self) -> str:
        return f"{self._source.svid.leaf.serial_number:040x}"

    def who(self) -> dict[str, Any]:
        """What the source holds."""
        return {"spiffe_id": str(self._source.svid.spiffe_id), "serial": self._serial()}

    def serve(self, allowed: str) -> dict[str, Any]:
        """Listen for ever in a thread; returns the port that the system picked."""
        options = ListenOptions(ServerTlsMode.MTLS, authorize_id(SpiffeId(allowed)))
        listener = listen("127.0.0.1:0", self._source, options)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return {"port": listener.getsockname()[1]}

    def _accept(self, listener: SSL.Connection) -> None:
        while True:
            connection, _ = listener.accept()
            try:
                connection.do_handshake()
                peer = name_peer(connection)
                connection.sendall(b"hello " + peer.encode())
                tell("served", peer=peer)
            except SSL.Error as error:
                tell("turned away", reason=str(error))
            finally:
                connection.close()

    def dial(self, port: int, expected: str) -> dict[str, Any]:
        """One connection, and what was answered."""
        authorize = authorize_id(SpiffeId(expected))
        try:
            address = f"127.0.0.1:{port}"
            connection = dial(address, self._source, ClientTlsMode.TLS, authorize)
            with_peer = name_peer(connection)
            line = connection.recv(1000).decode()
            connection.close()
        except Exception as error:  # whatever the library raises is the answer
            return {"failure": f"{type(error).__name__}: {error}"}
        return {"peer": with_peer, "line": line}


def main() -> None:
    """Do what the commands say until there are no more."""
    peer = Peer(sys.argv[1])
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        tell(do, **getattr(peer, do)(**command))


if __name__ == "__main__":
    main()
