"""Transaction tokens as a workload sees them that was called: what the call is for, checked here.

They come in a header of their own beside what authenticates the caller, and authenticate nobody: a
copy of one is as good as the other. A workload hands the same text on with the calls that it makes
itself.

Source: draft-ietf-oauth-transaction-tokens-10, sections "Using Txn-Tokens" and "Txn-Token
Validation". It is a draft, and a server gives such tokens only where its setting
`oauth.draft_transaction_tokens` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from troth.core.clock import Clock
from troth.core.tier import Tier
from troth.issuance.txntoken import RESOURCE, TXN, list_workloads
from troth.sdk.errors import InvalidRequest, InvalidToken, MissingToken
from troth.sdk.issuer import Issuer
from troth.sdk.keys import KeySet
from troth.sdk.validator import CAPACITY, Revoked, Sight, TokenValidator, ValidToken
from troth.wire.oauth.transaction import HEADER

__all__ = ["HEADER", "TxnTokenValidator", "ValidTransaction"]


@dataclass(frozen=True, slots=True)
class ValidTransaction:
    """What a good transaction token says.

    `id` names the transaction. `scopes` are actions of `resource` (its audience), and of no other
    that may have one of the same name. `workloads` asked for the token, the first one first; what
    stands in the request's context `rctx` and the transaction's, `tctx`, is what they said. `tier`
    is how much was relied on all of them when the token was issued.
    """

    id: str
    subject: str
    resource: str
    scopes: frozenset[str]
    workloads: tuple[str, ...]
    actors: tuple[str, ...]
    rctx: Mapping[str, Any]
    tctx: Mapping[str, Any]
    expires_at: datetime
    jti: str
    tier: Tier
    text: str = field(repr=False)


class TxnTokenValidator:
    """Judges the transaction tokens of one issuer in `trust_domain`, which is its name. Any thread
    may use it; the other parameters are those of `TokenValidator`."""

    def __init__(
        self,
        issuer: Issuer,
        trust_domain: str,
        guard: Revoked | None,
        *,
        keys: KeySet | None = None,
        clock: Clock | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        self._tokens = TokenValidator(
            issuer, [trust_domain], guard, keys=keys, clock=clock, capacity=capacity, kind=TXN
        )

    def check(self, text: str) -> ValidTransaction:
        """What the token says; raises `InvalidToken`, or `Unavailable` where nobody can say."""
        return _read(text, self._tokens.check(Sight("bearer", text)))

    async def check_async(self, text: str) -> ValidTransaction:
        """As `check`, without blocking the event loop."""
        return _read(text, await self._tokens.check_async(Sight("bearer", text)))


def find_token(values: Sequence[str]) -> str:
    """The token in the values of a request's ``Txn-Token`` headers.

    Raises `MissingToken`, or `InvalidRequest`: it is there once, and nothing else in it.
    """
    if not values:
        raise MissingToken(f"Show a transaction token in the header {HEADER}.")
    text = values[0].strip(" \t")
    if len(values) > 1 or not text.isascii() or not text or set(text) & set(" ,\t"):
        raise InvalidRequest(f"The header {HEADER} must hold exactly one transaction token.")
    return text


def _read(text: str, token: ValidToken) -> ValidTransaction:
    claims = token.claims
    contexts = [claims.get(name, {}) for name in ("rctx", "tctx")]
    if not all(isinstance(one, Mapping) for one in contexts):
        raise InvalidToken("The token's rctx and tctx must be objects.")
    return ValidTransaction(
        id=claims["txn"],
        subject=token.subject,
        resource=claims[RESOURCE],
        scopes=token.scopes,
        workloads=list_workloads(claims),
        actors=token.actors,
        rctx=contexts[0],
        tctx=contexts[1],
        expires_at=token.expires_at,
        jti=token.jti,
        tier=token.tier,
        text=text,
    )
