"""The guard of a service: its own certificate, and whom it must refuse, kept up to date.

A thread with an event loop of its own follows the agent (certificate, roots) and a troth server
(whom to refuse). Questions are answered from memory, in any thread, with or without asyncio.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from troth.core.clock import Clock, SystemClock
from troth.core.entropy import Entropy, SystemEntropy
from troth.core.errors import Invalid, TrothError, Unauthenticated, Unavailable
from troth.core.ids import SpiffeId, TrustDomain
from troth.issuance.presented import Presented, read_presented
from troth.live.revocations import Revocations
from troth.sdk.background import Background
from troth.sdk.decision import Decision
from troth.sdk.following import Following
from troth.sdk.logwatch import open_watch
from troth.sdk.stream import check_url
from troth.sdk.tls import Contexts, Pair, refuse
from troth.sdk.workload import WorkloadApi, find_socket


class PeerGuard(Background):
    """Says whom a service may talk to, and makes TLS contexts that hold to it.

    `servers` are URLs of the mutual-TLS listeners of troth servers, tried one after another;
    `endpoint` is the Workload API's address, what ``SPIFFE_ENDPOINT_SOCKET`` says; `spiffe_id`
    chooses among several identities of this process (else the first is taken); `lease` in seconds
    overrides the server's; `log_pin` is a file in which to remember the newest checkpoint of the
    servers' log. Nobody is accepted before a server was heard, nor once none was heard
    for longer than the lease.

    Use it in ``with``, or call `start` and `close`; then the lease runs out. Raises `Invalid`
    for what can't work.
    """

    def __init__(
        self,
        servers: Sequence[str],
        endpoint: str,
        *,
        spiffe_id: str = "",
        lease: float | None = None,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        log_pin: Path | None = None,
    ) -> None:
        if not servers:
            raise Invalid("Name at least one troth server, such as https://host:8444.")
        find_socket(endpoint)
        super().__init__("troth-guard")
        self._clock = clock or SystemClock()
        self._known = Revocations(self._clock, lease)
        self._contexts = Contexts()
        self._following = Following(
            [check_url(url) for url in servers],
            WorkloadApi(endpoint),
            spiffe_id,
            self._known,
            self._contexts,
            self._clock,
            entropy or SystemEntropy(),
            open_watch(log_pin),
        )

    # What a service asks

    def check(self, certificate: bytes | None) -> Decision:
        """Whether the peer with this certificate (DER, its chain verified by TLS) is accepted."""
        if certificate is None:
            return Decision(False, ("The peer showed no certificate.",))
        try:
            shown = self._read(certificate)
        except TrothError as error:
            return Decision(False, (error.detail,))
        return self._judge(shown)

    def check_id(self, spiffe_id: str) -> Decision:
        """Whether this identity is accepted: for a JWT-SVID, whose signature you have checked."""
        objections = self._known.find_objections(spiffe_id)
        return Decision(not objections, tuple(objections), spiffe_id)

    def find_token_objections(
        self,
        jti: str,
        parties: Collection[str],
        issued_at: int,
        signer: str,
        certificate: tuple[str, str] | None = None,
    ) -> list[str]:
        """Why an access token must be refused now, as `Revocations.find_token_objections` says.

        `certificate` is serial and signer of the one that it is bound to. Raises `Unavailable`
        where nobody can say: that is no fault of the token's.
        """
        known = self._known
        if known.age > known.lease:
            raise Unavailable(" ".join(known.find_objections("")), 1.0)
        found = known.find_token_objections(jti, parties, issued_at, signer)
        if certificate is not None:
            found += known.find_objections("", *certificate)
        return found

    def server_context(self, accept: Collection[str] | None = None) -> ssl.SSLContext:
        """A context for a listener with mutual TLS; `accept` are the SPIFFE IDs that may connect,
        None everybody of this trust domain who isn't cut off. Who is cut off later loses the
        connections that are open."""
        return self._contexts.make_server(self._admit_from(accept))

    def client_context(self, expect: Collection[str]) -> ssl.SSLContext:
        """A context for connections to services with one of the SPIFFE IDs in `expect`.

        Raises `Invalid` before there is a certificate: call `wait_ready`.
        """
        if not expect or isinstance(expect, str):
            raise Invalid("Say whom you expect to reach, as a collection of SPIFFE IDs.")
        return self._contexts.make_client(self._admit_from(expect))

    @property
    def spiffe_id(self) -> str:
        """Who this service is; "" before the agent has said so."""
        return self._following.spiffe_id

    @property
    def pair(self) -> Pair | None:
        """Its certificate, key and roots as they are now; None before the agent gave them."""
        return self._following.pair

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers that it was told of."""
        return self._following.servers

    @property
    def started(self) -> bool:
        """Whether it was started."""
        return self._thread is not None

    @property
    def age(self) -> float:
        """Seconds since what is known was certainly true; infinite before the first word."""
        return self._known.age

    @property
    def stale(self) -> bool:
        """Whether nothing was heard for longer than the lease, so that nobody is accepted."""
        return self._known.age > self._known.lease

    @property
    def log_problem(self) -> str:
        """How the servers' log differs from what was seen of it, in a sentence; "" if it doesn't.
        Somebody rewrote history then: what the servers say is no longer to be relied on alone."""
        return self._following.log_watch.problem

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each word from a server, in the guard's thread: be quick."""
        self._following.listeners.append(listener)

    # Its life

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait for the certificate and the first word from a server; raises `Unavailable`."""
        if not self._following.ready.wait(seconds):
            raise Unavailable(
                f"The guard isn't ready after {seconds:.0f} s. {self._following.problem}"
            )

    # Deciding

    def _read(self, certificate: bytes) -> Presented:
        domain = self._known.trust_domain
        if not domain:
            raise Unavailable("Nothing was heard from a troth server yet, so nobody is accepted.")
        return read_presented(certificate, TrustDomain.parse(domain), self._clock.now())

    def _judge(self, shown: Presented) -> Decision:
        spiffe_id = str(shown.spiffe_id)
        objections = self._known.find_objections(spiffe_id, shown.serial, shown.signer)
        if shown.not_after <= self._clock.now():
            objections.append("The certificate shown has expired; get a new one.")
        return Decision(not objections, tuple(objections), spiffe_id)

    def _admit_from(
        self, names: Collection[str] | None
    ) -> Callable[[bytes | None], Callable[[], None]]:
        wanted = None if names is None else frozenset(str(SpiffeId.parse(name)) for name in names)

        def admit(certificate: bytes | None) -> Callable[[], None]:
            try:
                if certificate is None:
                    raise Unauthenticated("The peer showed no certificate.")
                shown = self._read(certificate)
            except TrothError as error:
                raise refuse(error.detail) from error
            if wanted is not None and str(shown.spiffe_id) not in wanted:
                raise refuse(f"{shown.spiffe_id} is not whom this connection is for.")

            def review() -> None:
                decision = self._judge(shown)
                if not decision.allowed:
                    raise refuse(" ".join(decision.reasons))

            review()
            return review

        return admit

    async def _follow(self) -> None:
        await self._following.run()
