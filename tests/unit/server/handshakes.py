"""Handshakes in memory, at the mutual-TLS context of a server."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tests.fakes.certificates import Made
from tests.unit.server.http.stage import Authority
from troth.server.tls import ServerTls


@cache
def share_authority() -> Authority:
    """The authority of the trust domain, in these tests."""
    return Authority()


def open_tls(clients: Iterable[Made] = ()) -> ServerTls:
    """Contexts with one root, and registered certificates beside it."""
    authority = share_authority()
    pair = authority.issue()
    tls = ServerTls(pair.chain, pair.key, [authority.der])
    tls.trust_clients([made.der for made in clients])
    return tls


def let_in(shown: Made, clients: Iterable[Made], folder: Path, *chain: Made) -> bool:
    """Whether a server with `clients` registered lets in who shows this certificate."""
    return shake(open_tls(clients), shown.write(folder, *chain))


def shake(tls: ServerTls, pair: tuple[str, str]) -> bool:
    """Whether the mutual-TLS context lets in who has these files."""
    context = ssl.create_default_context(cadata=share_authority().pem.decode())
    try:
        context.load_cert_chain(*pair)
    except ssl.SSLError:
        return False  # OpenSSL won't even show it
    client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_in, server_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(client_in, client_out, server_hostname="localhost")
    server = tls.mutual.wrap_bio(server_in, server_out, server_side=True)
    for _ in range(4):
        for end, out, into in ((client, client_out, server_in), (server, server_out, client_in)):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
            into.write(out.read())
    return server.getpeercert(True) is not None
