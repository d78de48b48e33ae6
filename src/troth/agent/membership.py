"""Being a node of the trust domain: joining, coming back, staying.

A node joins once, with a one-time token or by the certificate that its machine was made with.
After that it proves itself with the key and certificate in its data directory, which it renews at
half their life for as long as the server lets it. With a machine's certificate it can join again
whenever that is needed, without anybody's help.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog

from troth.agent.connection import Api, Untrusted
from troth.agent.credential import (
    Credential,
    CredentialFile,
    compose_credential,
    generate_key,
    make_csr,
)
from troth.agent.machine import Machine
from troth.agent.timing import Backoff, Broadcast, Sleep, place_renewal, sleep_until
from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import (
    Denied,
    Internal,
    Invalid,
    Limited,
    Refused,
    TrothError,
    Unauthenticated,
    Unavailable,
)
from troth.identity.x509pop import find_trust_domain
from troth.wire.api.nodes import AttestNode, NodeCredential, RenewNode

log = structlog.get_logger(__name__)

_PASSING = (Unavailable, Limited, Internal)
"""Failures that may be over at the next try; all others are the server's considered answer."""


class NotJoined(Refused):
    """The agent can't be a node now; the detail says how to join, or to join anew."""


class Closable(Api, Protocol):
    """An API connection that is made for a few calls and closed again."""

    async def close(self) -> None:
        """End everything under way."""
        ...


@dataclass(frozen=True, slots=True)
class Dialler:
    """Opens connections: without a credential to the public listener, with one to mutual TLS."""

    public: Callable[[tuple[bytes, ...]], Closable]
    mutual: Callable[[Credential], Closable]


@dataclass(slots=True)
class Membership:
    """Gets and keeps the node's credential.

    A disk that can't be written to costs nothing while the agent runs: the credential is held in
    memory, and `save_late` writes it as soon as that works.
    """

    file: CredentialFile
    dialler: Dialler
    clock: Clock
    entropy: Entropy
    sleep: Sleep
    machine: Machine | None = None
    _unsaved: Credential | None = field(default=None, init=False, repr=False)
    _failures: Broadcast = field(default_factory=Broadcast, init=False, repr=False)

    async def obtain(self, join_token: str | None, roots: tuple[bytes, ...]) -> Credential:
        """The credential to work with: the kept one if it still holds, else by joining.

        `roots` are those of the CA file and are what joining trusts, with those that the kept
        credential knows of the same trust domain: the file may be older. Waits for the server
        as long as it takes. Raises `NotJoined` if the server won't have this node, `Untrusted`
        if it isn't the server that `roots` vouch for; both say what to do.
        """
        kept = self.file.load()
        can_join = join_token is not None or self.machine is not None
        if kept is None:
            if not can_join:
                raise NotJoined(
                    "This node has not joined yet. Make a token on the server with "
                    "'troth token join --node NODE' and start the agent with --join-token."
                )
            return await self._join(join_token, roots)
        try:
            return await self._come_back(kept)
        except (NotJoined, Untrusted) as error:
            if not can_join:
                raise
            log.warning("node.rejoining", reason=error.detail)
            return await self._join(join_token, _add_known(roots, kept))

    async def _come_back(self, kept: Credential) -> Credential:
        """Renew the kept credential at once, which also tells whether the server still knows it."""
        if kept.not_after <= self.clock.now():
            raise NotJoined(
                f"This node's certificate expired at {kept.not_after:%Y-%m-%d %H:%M:%S} UTC while "
                "the agent was away. Make a token with 'troth token join --node NODE' and start "
                "the agent with --join-token."
            )
        connection = self.dialler.mutual(kept)
        try:
            return await self.renew(kept, connection)
        except Untrusted:
            raise
        except _PASSING as error:
            log.warning("node.server_away", reason=error.detail, using="the kept certificate")
            return kept
        except TrothError as error:
            raise NotJoined(
                f"The server no longer accepts this node: {error.detail} If it shall work again, "
                "make a token with 'troth token join --node NODE' and start the agent with "
                "--join-token."
            ) from error
        finally:
            await connection.close()

    async def _join(self, token: str | None, roots: tuple[bytes, ...]) -> Credential:
        """Join by the machine's certificate if there is one, else with the token."""
        key = generate_key()
        connection = self.dialler.public(roots)
        try:
            answer = await self._ask_until_answered(
                connection, lambda: self._make_request(make_csr(key), token, roots)
            )
        except Untrusted:
            raise
        except TrothError as error:
            raise NotJoined(self._explain_refusal(error)) from error
        finally:
            await connection.close()
        return self._take_up(answer, key)

    def _make_request(self, csr: bytes, token: str | None, roots: tuple[bytes, ...]) -> AttestNode:
        if self.machine is None:
            return AttestNode(method="join_token", evidence=token or "", csr=csr)
        evidence = self.machine.prove(csr, roots, self.clock.now())
        return AttestNode(method="x509pop", evidence=evidence, csr=csr)

    def _explain_refusal(self, error: TrothError) -> str:
        if self.machine is not None:
            return f"This machine can't join by its certificate: {error.detail}"
        return (
            f"The server refused the join token: {error.detail} A token works once and for a "
            "short time; make a new one with 'troth token join --node NODE'."
        )

    def _take_up(self, answer: NodeCredential, key: bytes) -> Credential:
        credential = _read_answer(answer, key)
        self._keep(credential)
        log.info("node.joined", spiffe_id=credential.spiffe_id, until=str(credential.not_after))
        return credential

    async def _ask_until_answered(
        self, api: Api, make_request: Callable[[], AttestNode]
    ) -> NodeCredential:
        backoff = Backoff(self.entropy, first=0.5)
        while True:
            request = make_request()  # anew for each try: a proof is taken once, at its time
            try:
                answer: NodeCredential = await api.call("node.attest", request)
                return answer
            except Untrusted:
                raise
            except _PASSING as error:
                delay = backoff.take(error)
                log.warning("node.join_waits", reason=error.detail, retry_seconds=round(delay, 1))
                await self.sleep(delay)

    async def _rejoin(self, held: Credential) -> Credential:
        """Join anew by the machine's certificate, once; raises what the server answers."""
        key = generate_key()
        request = self._make_request(make_csr(key), None, held.roots)
        connection = self.dialler.public(held.roots)
        try:
            return self._take_up(await connection.call("node.attest", request), key)
        finally:
            await connection.close()

    async def _renew_or_rejoin(self, held: Credential, api: Api) -> Credential:
        """Renew; where that can't work any more and the machine can join by itself, do that."""
        if self.machine is None:
            return await self.renew(held, api)
        if held.not_after > self.clock.now():
            try:
                return await self.renew(held, api)
            except (Denied, Unauthenticated) as error:
                log.warning("node.rejoining", reason=error.detail)
        return await self._rejoin(held)

    async def renew(self, held: Credential, api: Api) -> Credential:
        """A new key and certificate for the same node, kept; raises what the server answers."""
        key = generate_key()
        answer = await api.call("node.renew", RenewNode(csr=make_csr(key)))
        credential = _read_answer(answer, key, held.spiffe_id)
        self._keep(credential)
        log.info("node.renewed", spiffe_id=held.spiffe_id, until=str(credential.not_after))
        return credential

    def adopt_roots(self, held: Credential, roots: tuple[bytes, ...]) -> Credential:
        """The same credential with the trust domain's present roots, kept."""
        credential = held.adopt_roots(roots)
        self._keep(credential)
        log.info("node.roots_changed", roots=len(roots))
        return credential

    def _keep(self, credential: Credential) -> None:
        """Save `credential`, or leave it to `save_late`: what works in memory must not end here."""
        try:
            self.file.save(credential)
        except OSError as error:
            log.error(
                "node.not_saved",
                reason=str(error),
                until=str(credential.not_after),
                mend="make room in the data directory and let the agent write there; it works on, "
                "but a restart would use what was saved before",
            )
            self._unsaved = credential
            self._failures.announce()
            return
        if self._unsaved is not None:
            log.info("node.saved", until=str(credential.not_after))
        self._unsaved = None

    async def save_late(self) -> None:
        """For ever: save what could not be saved, again and again until that works."""
        seen = 0
        while True:
            seen = await self._failures.wait_beyond(seen)
            backoff = Backoff(self.entropy, first=1.0, cap=60.0)
            while self._unsaved is not None:
                await self.sleep(backoff.take())
                if self._unsaved is not None:
                    self._keep(self._unsaved)

    def place_renewal(self, held: Credential) -> datetime:
        """When to renew `held`: at half its life, with jitter."""
        return place_renewal(held.not_before, held.not_after, self.entropy)

    async def wait_for_renewal(self, held: Credential) -> None:
        """Wait for half the life of `held`."""
        await sleep_until(self.place_renewal(held), self.clock, self.sleep)

    async def renew_persistently(self, held: Credential, api: Api) -> Credential:
        """Try to renew `held` until that works, or until the machine has joined anew."""
        backoff = Backoff(self.entropy, first=1.0, cap=60.0)
        while True:
            try:
                return await self._renew_or_rejoin(held, api)
            except TrothError as error:
                self._tell_failure(held, error)
                await self.sleep(backoff.take(error))

    def _tell_failure(self, held: Credential, error: TrothError) -> None:
        rest = held.not_after - self.clock.now()
        if rest > timedelta(0):
            log.warning("node.renewal_failed", reason=error.detail, valid_seconds=rest.seconds)
        else:
            log.error(
                "node.expired",
                reason=error.detail,
                mend="make a token with 'troth token join --node NODE', restart with --join-token"
                if self.machine is None
                else "the machine goes on trying to join by its certificate",
            )


def _add_known(roots: tuple[bytes, ...], kept: Credential) -> tuple[bytes, ...]:
    union = tuple(dict.fromkeys((*roots, *kept.roots)))
    try:
        find_trust_domain(union)
    except Invalid:
        return roots  # the file is another trust domain's: it alone counts
    return union


def _read_answer(answer: Any, key: bytes, spiffe_id: str | None = None) -> Credential:
    if not isinstance(answer, NodeCredential):
        raise Internal("The server answered with something that is no node credential.")
    return compose_credential(
        node_id=answer.node_id,
        spiffe_id=spiffe_id or answer.spiffe_id,
        key=key,
        chain=tuple(answer.chain),
        roots=tuple(answer.x509_authorities),
    )
