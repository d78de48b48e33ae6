"""Points that enforce and come with an access token: whose it is, and whether it is for us.

Source: RFC 6750, RFC 9449 section 7, RFC 8705 section 3 (sections of RFC 9449 in brackets).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from troth.core.errors import Invalid, Unauthenticated
from troth.core.jose.claims import list_audiences
from troth.operations.bearer import Bearer, Rejected, TokenJudge
from troth.operations.call import Caller
from troth.operations.callers import split_role
from troth.operations.dpop import DpopVerifier
from troth.store.engine import Store

MAX_TOKEN = 16 * 1024


@dataclass(frozen=True, slots=True)
class Shown:
    """What a request shows: its Authorization header, its DPoP proof, and where it went."""

    authorization: str
    proof: str | None
    method: str
    url: str
    source: str


WORKLOAD = frozenset({"workload"})
"""What every identity may do, also one to which configuration gives a role of a manifest."""


class PointCallers:
    """Turns a token into a caller. `audiences` are the names under which this server is meant."""

    def __init__(
        self,
        store: Store,
        judge: TokenJudge,
        dpop: DpopVerifier,
        roles: Mapping[str, str],
        audiences: Collection[str],
    ) -> None:
        self._store = store
        self._judge = judge
        self._dpop = dpop
        self._roles = roles
        self._audiences = frozenset(audiences)

    async def identify(self, shown: Shown) -> Caller:
        """Whose token it is. `Unauthenticated` for one that doesn't count here, and `UseDpopNonce`
        or `InvalidDpopProof` for a proof that isn't taken."""
        scheme, _, token = shown.authorization.partition(" ")
        token = token.strip()
        if scheme.lower() not in ("bearer", "dpop") or not token or len(token) > MAX_TOKEN:
            raise Unauthenticated(
                "The Authorization header must be 'Bearer' or 'DPoP' and an access token."
            )
        bearer = await self._judge.judge(token, await self._judge.read_bundle())
        if isinstance(bearer, Rejected):
            raise Unauthenticated(
                bearer.reason if bearer.evident else "The access token doesn't count any more."
            )
        self._check_meaning(bearer)
        await self._check_binding(bearer, scheme.lower() == "dpop", token, shown)
        name = bearer.token.subject
        roles, declared = split_role(self._roles.get(name, "workload"))
        return Caller(name, roles or WORKLOAD, source=shown.source, declared=declared)

    def _check_meaning(self, bearer: Bearer) -> None:
        claims = bearer.token.claims
        try:
            audiences = list_audiences(claims)
        except Invalid:
            audiences = []
        if self._audiences.isdisjoint(audiences):
            raise Unauthenticated(
                "The access token is for somebody else: ask for one with this server's URL as the "
                "resource."
            )
        if "act" in claims:
            raise Unauthenticated(
                "The access token is somebody's who acts for another: a point that enforces asks "
                "for itself."
            )

    async def _check_binding(self, bearer: Bearer, dpop: bool, token: str, shown: Shown) -> None:
        """Raise unless whoever shows it has shown what it is bound to."""
        bound = bearer.token.claims.get("cnf")
        if not bound:
            if dpop:
                raise Unauthenticated("The access token is bound to no key: use 'Bearer' for it.")
            return
        if set(bound) != {"jkt"}:
            raise Unauthenticated(
                "The access token is bound to a certificate, which nobody shows here: use the "
                "mutual-TLS listener, where the certificate itself is enough."
            )
        if not dpop or shown.proof is None:
            raise Unauthenticated(
                "The access token is bound to a key: show it with 'DPoP' and a proof (RFC 9449)."
            )
        proved = await self._dpop.verify(shown.proof, shown.method, shown.url, token)
        if proved.confirmation.get("jkt") != bound["jkt"]:
            raise Unauthenticated("The access token is bound to another key than the proof's.")
        if await self._store.transact(lambda tx: tx.used_proofs.take_all(proved.proofs)):
            raise Unauthenticated("The DPoP proof was used before; make a new one each time.")
