"""Two servers on one PostgreSQL that don't agree: the journal stands still for one of them, or its
clock is hours ahead."""

from __future__ import annotations

import os
import signal
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.e2e.processes import ClockedServer, Server, open_folder, wait_for
from tests.fakes.clients import LEDGER_MANIFESTS, ORIGIN, FakeClient, render_identity
from tests.fakes.house import make_csr
from tests.fakes.issuer import make_private_key
from tests.fakes.postgres import start_cluster
from troth.core.errors import TrothError, Unavailable
from troth.store.records import format_serial
from troth.wire.api.client import ApiClient
from troth.wire.api.identities import NameIdentity
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.api.nodes import AttestNode, CreateJoinToken, NodeCredential, RenewNode

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]

LEASE = 5
"""Seconds."""
AHEAD = timedelta(hours=6)
LEAST = 20
"""Certificates that are given out while the other server comes, goes and comes back."""


@pytest.fixture
def url() -> str:
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("Debian's package postgresql is not installed")
    return cluster.create_database(cluster.migrated)


@pytest.fixture
def folders() -> Iterator[tuple[Path, Path]]:
    with open_folder() as one, open_folder() as two:
        yield one, two


@contextmanager
def share(one: Server, two: Server, url: str, **settings: str) -> Iterator[None]:
    """Let them work on one database with one key-encryption key; both are stopped at the end."""
    for server in (one, two):
        server.environ |= {
            "TROTH_DATABASE_URL": url,
            "TROTH_KEYSTORE_KEY_ENCRYPTION_KEY": f"file:{one.folder}/kek",
            **settings,
        }
    try:
        yield
    finally:
        one.stop()
        two.stop()


def ask_join(server: Server, node: str, csr: bytes = b"") -> AttestNode:
    """What a machine asks to become `node`."""
    token = server.call("token.join", CreateJoinToken(node=node)).token
    return AttestNode(method="join_token", evidence=token, csr=csr or make_csr())


def read_status(server: Server, path: str) -> int:
    transport = httpx.HTTPTransport(uds=str(server.data / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=40) as client:
        return client.get(path).status_code


def count_closed(url: str) -> int:
    with psycopg.connect(url) as connection:
        asked = "SELECT count(*) FROM journal WHERE type = 'certificate.abandoned'"
        (count,) = connection.execute(asked).fetchone() or (0,)
        return int(count)


def is_closed_beyond(url: str, known: int) -> bool:
    return count_closed(url) > known


def spell_serial(credential: NodeCredential) -> str:
    return format_serial(x509.load_der_x509_certificate(credential.chain[0]).serial_number)


def test_a_server_whose_journal_stands_still_denies_and_comes_back(url, folders, tmp_path):
    """The database is there and takes what is written; nothing is sealed, so nobody can know what
    has been taken away."""
    one, two = (Server(folder) for folder in folders)
    key = ec.generate_private_key(ec.SECP256R1())
    with share(one, two, url, TROTH_LEASE=str(LEASE)):
        one.start("--no-agent")
        two.start("--no-agent")
        ca = str(two.data / "ca.pem")
        held = two.call("node.attest", ask_join(two, "held", make_csr(key)))
        pem = tmp_path / "held.pem"
        pem.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + x509.load_der_x509_certificate(held.chain[0]).public_bytes(Encoding.PEM)
        )
        late = ask_join(one, "late")
        with (
            ApiClient.over_https(two.url, ca) as stranger,
            ApiClient.over_https(two.mutual, ca, (str(pem), str(pem))) as node,
        ):
            assert node.call("node.renew", RenewNode(csr=make_csr(key))).chain
            joined = len(two.read_journal("node.attested"))
            with psycopg.connect(url) as holding:
                holding.execute("SELECT FROM leases WHERE name = 'sealer' FOR UPDATE")
                one.register("api", "unix:uid:1001")  # it is recorded, and waits to be sealed
                wait_for(lambda: read_status(two, "/readyz") == 503, "the lease's end", 3 * LEASE)
                for client, name, request in (
                    (stranger, "node.attest", late),
                    (node, "node.renew", RenewNode(csr=make_csr(key))),
                ):
                    with pytest.raises(Unavailable, match="silent"):
                        client.call(name, request)
                # It isn't the database that is away.
                assert two.call("identity.show", NameIdentity(name="api")).state == "active"
            wait_for(lambda: read_status(two, "/readyz") == 200, "a journal that goes on", 20)
            assert stranger.call("node.attest", late).chain  # its token wasn't used up
            assert node.call("node.renew", RenewNode(csr=make_csr(key))).chain
        assert len(two.read_journal("node.attested")) == joined + 1
        assert two.read_journal("identity.registered")[-1].subject == "spiffe://troth.local/api"


@contextmanager
def hold_in_the_middle(server: Server, url: str) -> Iterator[None]:
    """Let `server` stand still while it has something intended and not yet given out."""
    asked = "SELECT count(*) FROM certificates WHERE state = 'intended' AND kind = 'node'"
    with psycopg.connect(url, autocommit=True) as connection:

        def stop() -> bool:
            os.kill(server.daemon.pid, signal.SIGSTOP)
            for _ in range(2):
                if connection.execute(asked).fetchone() == (0,):
                    os.kill(server.daemon.pid, signal.SIGCONT)
                    return False
                time.sleep(0.1)  # what was being committed is, by then
            return True

        wait_for(stop, "a certificate that is being made", 60)
    try:
        yield
    finally:
        os.kill(server.daemon.pid, signal.SIGCONT)


class Joiner(threading.Thread):
    """Machines that join by `server`, one after the other; what was given out to whom."""

    def __init__(self, server: Server, name: str) -> None:
        super().__init__(name=name)
        self.given: dict[str, str] = {}
        self.refusals: list[TrothError] = []
        self._server = server
        self._over = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            node = f"{self.name}-{number}"
            try:
                credential = self._server.call("node.attest", ask_join(self._server, node))
            except TrothError as error:  # its intent was closed by the one that is ahead, perhaps
                self.refusals.append(error)
                continue
            self.given[spell_serial(credential)] = node

    def stop(self) -> None:
        self._over.set()
        if self.is_alive():
            self.join(60)


def test_a_server_whose_clock_is_hours_ahead_takes_nothing_back(url, folders):
    """To it each lease of the other has run out, and each intent has been there for hours."""
    right, ahead = Server(folders[0]), ClockedServer(folders[1])
    with share(right, ahead, url):
        right.start("--no-agent")
        ahead.set_clock(AHEAD)
        joiners = [Joiner(right, f"right{number}") for number in range(3)]
        for joiner in joiners:
            joiner.start()
        by_ahead, known = {}, 0
        try:
            for name in ("first", "second"):
                with hold_in_the_middle(right, url):
                    ahead.start()  # and reconciles, seals, makes lists at once
                    # What is being made looks to it as if a crash had left it.
                    wait_for(partial(is_closed_beyond, url, known), "an intent is closed")
                    known = count_closed(url)
                ahead.register(name, "unix:uid:1001")
                by_ahead[spell_serial(ahead.call("node.attest", ask_join(ahead, name)))] = name
                ahead.move(name, "quarantine")
                # It has the leases for hours more; that it is gone must show by itself.
                ahead.daemon.kill()
                right.register(f"after-{name}", "unix:uid:1001")
                right.wait_for_journal("identity.registered", f"spiffe://troth.local/after-{name}")
            wait_for(
                lambda: sum(len(joiner.given) for joiner in joiners) >= LEAST, "machines that join"
            )
        finally:
            for joiner in joiners:
                joiner.stop()
        for name in ("first", "second"):
            assert right.call("identity.show", NameIdentity(name=name)).state == "quarantined"
        given = by_ahead.copy()
        for joiner in joiners:
            given |= joiner.given
        assert len(given) == len(by_ahead) + sum(len(joiner.given) for joiner in joiners)
        entries = right.read_journal()
    assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
    told = Counter((entry.type, str(entry.body.get("serial"))) for entry in entries)
    nodes = Counter(
        entry.body["node"]
        for entry in entries
        if entry.type == "certificate.issued" and entry.body["kind"] == "node"
    )
    assert set(nodes.values()) == {1}, "somebody was given two"
    for serial, node in given.items():
        assert told["certificate.issued", serial] == 1, node
        assert told["certificate.abandoned", serial] == 0, node
    with psycopg.connect(url) as connection:
        records = connection.execute("SELECT serial, state, revoked_at, der FROM certificates")
        states = {serial: (state, revoked, bool(der)) for serial, state, revoked, der in records}
    assert {states[serial] for serial in given} == {("issued", None, True)}
    closed = {serial for (kind, serial), _ in told.items() if kind == "certificate.abandoned"}
    assert closed, "nothing was closed while it was being made"
    assert {states[serial][0] for serial in closed} == {"abandoned"}
    assert all(states[serial][1] for serial in closed), "its signature may exist"
    refusals = [refusal.code for joiner in joiners for refusal in joiner.refusals]
    assert "conflict" in refusals


def test_an_assertion_is_taken_once_by_two_processes(url, folders):
    one, two = (Server(folder) for folder in folders)
    with share(one, two, url, TROTH_ORIGIN=ORIGIN):
        servers = (one.start(), two.start())
        key = make_private_key(61)
        documents = [*LEDGER_MANIFESTS, render_identity("billing", key, roles=["clerk"])]
        made = [ManifestDocument(value=document) for document in documents]
        one.call("manifest.apply", SubmitManifests(documents=made))
        client = FakeClient("spiffe://troth.local/billing", key, lambda: datetime.now(UTC))
        context = ssl.create_default_context(cafile=str(one.data / "ca.pem"))
        public = {
            server: told["where"]
            for server in servers
            for told in server.daemon.events("listener.started")
            if told["listener"] == "public"
        }

        def post(server: Server, form: list[tuple[str, str]]) -> int:
            answer = httpx.post(
                f"https://{public[server]}/oauth/token",
                data=dict(form),
                verify=context,
                trust_env=False,
            )
            return answer.status_code

        def ask() -> list[tuple[str, str]]:
            return [(name, values[0]) for name, values in client.ask().form.fields.items()]

        wait_for(lambda: {post(server, ask()) for server in servers} == {200}, "both to know it")
        with ThreadPoolExecutor(4) as pool:
            for _ in range(10):
                form = ask()
                tries = [pool.submit(post, server, form) for server in (*servers, *servers)]
                assert sorted(one.result() for one in tries) == [200, 401, 401, 401]
