"""The load: a thread each, that calls, notes what it was promised, and comes back after a crash."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.installation import make_csr
from tests.soak.ledger import Ledger, Move
from troth.core.errors import TrothError, error_of
from troth.wire.api.authorities import ForceAuthority, ListAuthorities, PrepareAuthority
from troth.wire.api.certificates import (
    CertificateRequest,
    InstanceClaim,
    IssueCertificates,
    IssuedCertificate,
    RevokeCertificate,
)
from troth.wire.api.client import ApiClient
from troth.wire.api.identities import MoveIdentity, RegisterIdentity
from troth.wire.api.jwt_svids import IssueJwtSvids, JwtSvidRequest
from troth.wire.api.nodes import AttestNode, CreateJoinToken, NodeCredential, RenewNode

SELECTOR = "unix:uid:1001"
PAUSE = 0.1
GENERATIONS_KEPT = 2


class Door(Protocol):
    """What a client sees of a server, or of several behind a balancer."""

    @property
    def public(self) -> str:
        """The URL of the public listener."""
        ...

    @property
    def mutual(self) -> str:
        """The URL of the mutual-TLS listener."""
        ...

    @property
    def ca(self) -> str:
        """The file with the roots that vouch for both."""
        ...

    def open_admin(self) -> ApiClient:
        """The API for an administrator; close it."""
        ...


class Client(threading.Thread):
    """Works in rounds until it is told to stop; a round that fails is given up, not the client."""

    def __init__(
        self, name: str, servers: Sequence[Door], ledger: Ledger, seed: int, folder: Path
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.ledger = ledger
        self.random = random.Random(seed)
        self.failure: BaseException | None = None
        self._servers = servers
        self._folder = folder
        self._over = threading.Event()
        self._admin: ApiClient | None = None
        self._mutual: ApiClient | None = None
        self._server = servers[0]
        self.own: list[str] = []
        self.pem = folder / f"{name}.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.csr = make_csr(self._key)
        self._rounds = 0
        self.pace = 1.0
        """How many times longer than usual it pauses."""

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._try_round()
        except BaseException as error:  # raised by the campaign
            self.failure = error
        finally:
            self.hang_up()

    def stop(self) -> None:
        """No more rounds; the one under way comes to its end."""
        self._over.set()

    def pause(self, seconds: float) -> None:
        self._over.wait(seconds * self.pace)

    def round(self) -> None:
        """One piece of work; may raise `TrothError` anywhere."""
        raise NotImplementedError

    @property
    def admin(self) -> ApiClient:
        if self._admin is None:
            self._admin = self._server.open_admin()
        return self._admin

    @property
    def mutual(self) -> ApiClient:
        if self._mutual is None:
            if not self.pem.exists():
                self.join_node()
            self._mutual = self.open_mutual(self._server)
        return self._mutual

    def open_mutual(self, server: Door) -> ApiClient:
        """The API of `server` with this node's certificate; close it."""
        pem = str(self.pem)
        return ApiClient.over_https(server.mutual, server.ca, (pem, pem))

    def join_node(self) -> None:
        """Become a node, by a fresh token."""
        made = self.admin.call("token.join", CreateJoinToken(node=self.name))
        self.ledger.note_invitation(made.token.split(".")[1])
        request = AttestNode(method="join_token", evidence=made.token, csr=self.csr)
        self.keep(self.admin.call("node.attest", request))

    def renew_node(self) -> None:
        """The node's next certificate, from whichever authority signs now."""
        self.keep(self.mutual.call("node.renew", RenewNode(csr=self.csr)))
        self.hang_up()

    def keep(self, credential: NodeCredential) -> None:
        """Note the node's certificate, and show it from now on."""
        leaf = x509.load_der_x509_certificate(credential.chain[0])
        self.note(f"{leaf.serial_number:040x}", credential.chain[0])
        key = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.pem.write_bytes(key + leaf.public_bytes(Encoding.PEM))

    def note(self, serial: str, der: bytes) -> None:
        """A certificate that was answered; its bytes must say the same serial."""
        found = x509.load_der_x509_certificate(der).serial_number
        if found != int(serial, 16):
            self.ledger.complain(f"answered serial {serial} with a certificate of {found:x}")
        self.ledger.note_certificate(serial, hashlib.sha256(der).hexdigest())

    def hang_up(self) -> None:
        """Close all connections; the next call opens them anew, perhaps elsewhere."""
        for client in (self._admin, self._mutual):
            if client is not None:
                client.close()
        self._admin = self._mutual = None

    def register(self, name: str, **fields: Any) -> str:
        """A new active identity for every client's node; its id."""
        values = {"kind": "service", "selectors": [SELECTOR], "nodes": ["*"]} | fields
        request = RegisterIdentity(
            name=name,
            owner="soak@example.org",
            purpose="Is asked for while servers die",
            activate=True,
            **values,
        )
        view = self.admin.call("identity.register", request)
        self.ledger.note_identity(view.id, name)
        return str(view.id)

    def issue(
        self, identity_ids: Sequence[str], selector: str = SELECTOR
    ) -> list[IssuedCertificate]:
        """A certificate for each, as far as it is granted."""
        return self.issue_over(self.mutual, identity_ids, selector)

    def issue_over(
        self, api: ApiClient, identity_ids: Sequence[str] = (), selector: str = SELECTOR
    ) -> list[IssuedCertificate]:
        """The same over a given connection; for identities of this client's own choice if none."""
        requests = [
            CertificateRequest(identity_id=found, csr=self.csr, instance=self.claim(selector))
            for found in identity_ids or self.own
        ]
        answers = api.call("certificate.issue", IssueCertificates(requests=requests))
        for answer in answers.results:
            if answer.error is None:
                self.note(answer.serial, answer.chain[0])
        found: list[IssuedCertificate] = answers.results
        return found

    def claim(self, selector: str = SELECTOR) -> InstanceClaim:
        """One of a few running copies."""
        key = hashlib.sha256(f"{self.name}{self.random.randrange(20)}".encode()).hexdigest()[:32]
        return InstanceClaim(key=key, pid=self.random.randrange(1, 30_000), selectors=[selector])

    def _try_round(self) -> None:
        self._rounds += 1
        try:
            self.round()
        except TrothError as error:
            self.ledger.count_refusal(error.code)
            self.hang_up()
            self._server = self.random.choice(self._servers)
            # Its root may have been replaced, or its node certificate taken: begin from nothing.
            if error.code in ("permission_denied", "unauthenticated", "not_found"):
                self.pem.unlink(missing_ok=True)
            self.pause(PAUSE)


class Issuer(Client):
    """Batches of certificates."""

    def round(self) -> None:
        if len(self.own) < 4:
            self.own.append(self.register(f"{self.name}-{self._rounds}"))
        count = self.random.choice((1, 4, 16))
        self.issue([self.random.choice(self.own) for _ in range(count)])
        self.pause(self.random.random() * 0.08)


class TokenIssuer(Client):
    """JWT-SVIDs, one after the other."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._id = ""

    def round(self) -> None:
        self._id = self._id or self.register(f"{self.name}-{self._rounds}")
        request = JwtSvidRequest(identity_id=self._id, instance=self.claim(), audiences=["soak"])
        (answer,) = self.mutual.call("jwtsvid.issue", IssueJwtSvids(requests=[request])).results
        if answer.error is not None:
            raise error_of(answer.error.code, answer.error.detail)
        payload = answer.token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        self.ledger.note_token(claims["jti"])
        self.pause(self.random.random() * 0.05)


class Warden(Client):
    """Registers, quarantines, looks that nothing is issued, releases; revokes one by one."""

    def round(self) -> None:
        name = f"{self.name}-{self._rounds}"
        identity = self.register(name)
        granted = [answer for answer in self.issue([identity] * 2) if answer.error is None]
        for answer in granted[:1]:
            request = RevokeCertificate(serial=answer.serial, reason="the soak says so")
            self.admin.call("certificate.revoke", request)
            self.ledger.note_revocation(answer.serial)
        self.move(name, "quarantine", "quarantined")
        # Answered: from here on nothing may be issued, whatever dies meanwhile.
        self.demand_refusal(identity)
        if self.random.random() < 0.3:
            self.ledger.cut_off(identity)
            return
        self.move(name, "release", "released")
        self.issue([identity])
        self.pause(self.random.random() * 0.1)

    def move(self, name: str, verb: str, verbed: str) -> None:
        """One step, with a reason that finds its event again."""
        reason = f"{name} {verb} {self.random.getrandbits(64):x}"
        self.admin.call(f"identity.{verb}", MoveIdentity(name=name, reason=reason))
        self.ledger.note_move(Move(name, verbed, reason))

    def demand_refusal(self, identity: str) -> None:
        for answer in self.issue([identity]):
            if answer.error is None:
                self.ledger.complain(f"{identity} is quarantined and got {answer.serial}")


class Joiner(Client):
    """Two keys race for a join token, and each asks again later: one may have it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._rivals = {"one": self.csr, "two": make_csr()}

    def round(self) -> None:
        made = self.admin.call("token.join", CreateJoinToken(node=f"{self.name}-{self._rounds}"))
        token_id = made.token.split(".")[1]
        self.ledger.note_invitation(token_id)
        requests = {
            key: AttestNode(method="join_token", evidence=made.token, csr=csr)
            for key, csr in self._rivals.items()
        }
        racers = [
            threading.Thread(target=self._attest, args=(token_id, key, request))
            for key, request in requests.items()
        ]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        for key, request in requests.items():
            self._attest(token_id, key, request)
        self.pause(0.1 + self.random.random() * 0.2)

    def _attest(self, token_id: str, key: str, request: AttestNode) -> None:
        try:
            server = random.choice(self._servers)
            with ApiClient.over_https(server.public, server.ca) as client:
                credential = client.call("node.attest", request)
        except TrothError as error:
            self.ledger.count_refusal(error.code)
            return
        leaf = x509.load_der_x509_certificate(credential.chain[0])
        serial = f"{leaf.serial_number:040x}"
        self.note(serial, credential.chain[0])
        self.ledger.note_join(token_id, key)


class Rotator(Client):
    """Replaces the signing authorities, now and then; says so first, so that a kill can aim."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.wanted = threading.Event()
        self.at_it = threading.Event()

    def round(self) -> None:
        if not self.wanted.wait(0.1):
            return
        use: Literal["x509-svid", "jwt-svid"] = self.random.choice(("x509-svid", "jwt-svid"))
        known = self.admin.call("authority.ls", ListAuthorities()).items
        mine = [found for found in known if found.use == use]
        waiting = [found.id for found in mine if found.state == "prepared"]
        self.at_it.set()
        if not waiting:
            request = PrepareAuthority(use=use, reason="the soak rotates")
            waiting = [self.admin.call("authority.prepare", request).id]
        self._activate(waiting[0])
        self.wanted.clear()
        old = [found.id for found in mine if found.state in ("retired", "tainted")]
        for found in old[:-GENERATIONS_KEPT]:
            self.admin.call(
                "authority.revoke",
                ForceAuthority(id=found, reason="the soak is over it", force=True),
            )

    def _activate(self, authority: str) -> None:
        """Force it; its revocation list comes a moment after it."""
        request = ForceAuthority(id=authority, reason="the soak rotates", force=True)
        for _ in range(50):
            try:
                self.admin.call("authority.activate", request)
            except TrothError as error:
                if error.code != "unavailable" or "revocation list" not in error.detail:
                    raise
                self.pause(0.02)
            else:
                self.ledger.note_activation(authority)
                return
