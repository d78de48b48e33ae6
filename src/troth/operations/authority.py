"""Signing authorities: one active for each use, the next one published before it signs.

At half of an authority's life its successor is prepared: published in the bundle, not signing. At a
sixth left the successor becomes active and the old one retires: still published, until nothing that
it signed lives. So every verifier knows a root before it meets a leaf of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Refused
from troth.core.ids import TrustDomain
from troth.drivers.keystores import Keystore
from troth.issuance.authorities import (
    REQUIRED_USES,
    Authority,
    Step,
    Use,
    find_token_use,
    plan_step,
)
from troth.operations.recording import BACKGROUND
from troth.operations.succession import (
    AuthorityMaker,
    activate,
    add_active,
    add_prepared,
    end_dead,
    hold_lease,
)
from troth.policy.resource import Resource
from troth.store.engine import Store
from troth.store.transaction import Transaction

TRUST_DOMAIN = "trust_domain"


@dataclass(frozen=True, slots=True)
class PrepareAuthorities:
    """Background: for each use an active authority, and its successor in time. Idempotent.

    `holder` names this node; a lease keeps two nodes from making the same authority twice.
    """

    store: Store
    clock: Clock
    entropy: Entropy
    keystore: Keystore
    trust_domain: TrustDomain
    holder: str

    async def __call__(self) -> None:
        """Take the next step for each use that is needed, if one is due.

        One that fails holds up no other; its error is raised at the end.
        """
        failed: Exception | None = None
        for use in await self.store.read(list_uses):
            try:
                async with hold_lease(self.store, self.clock, use, self.holder) as held:
                    if held:
                        await self._advance(use)
            except Exception as error:  # noqa: BLE001  # raised below, after the others
                failed = failed or error
        if failed is not None:
            raise failed

    async def _advance(self, use: Use) -> None:
        step, _ = await self.store.read(lambda tx: self._plan(tx, use))
        made = None
        if step in (Step.PREPARE, Step.MAKE):
            maker = AuthorityMaker(
                self.store, self.clock, self.entropy, self.keystore, self.trust_domain
            )
            made = await maker.make(BACKGROUND, use)
        await self.store.transact(lambda tx: self._take_step(tx, use, made))

    def _plan(self, tx: Transaction, use: Use) -> tuple[Step, Authority | None]:
        return plan_step(tx.authorities.list(use), self.clock.now())

    def _take_step(self, tx: Transaction, use: Use, made: Authority | None) -> None:
        """What is due now: an administrator may have rotated while a key was made, and then that
        key stays unused."""
        now = self.clock.now()
        step, prepared = self._plan(tx, use)
        if step is Step.ACTIVATE and prepared is not None:
            activate(tx, BACKGROUND, prepared, now)
        elif step is Step.PREPARE and made is not None:
            add_prepared(tx, BACKGROUND, made, now)
        elif step is Step.MAKE and made is not None:
            add_active(tx, BACKGROUND, made, now)
        end_dead(tx, BACKGROUND, use, now)


def list_uses(tx: Transaction) -> list[Use]:
    """The uses that every server has, and those whose tokens some resource wants or wanted.

    One that no resource wants any more is kept on: another key is made in a moment, but who
    verifies with this one might be cut off.
    """
    wanted = {
        find_token_use(one.value.token.algorithm)
        for one in tx.declarations.list()
        if isinstance(one.value, Resource)
    }
    there = {one.use for one in tx.authorities.list() if one.published}
    return [use for use in Use if use in REQUIRED_USES or use in wanted or use in there]


def claim_trust_domain(tx: Transaction, trust_domain: TrustDomain) -> None:
    """Note the trust domain on the first start; `Refused` if it is another one later.

    Everything ever issued here names it, so it can't change under one database.
    """
    known = tx.settings.get(TRUST_DOMAIN)
    if known is None:
        tx.settings.set(TRUST_DOMAIN, str(trust_domain))
    elif known != str(trust_domain):
        raise Refused(
            f"This database belongs to the trust domain {known}, not {trust_domain}: set "
            f"trust_domain = {known!r}, or start with another data directory."
        )
