"""Assertions of outside issuers: whom a token of GitHub, a cluster or a cloud means here.

Sources: RFC 7521 and RFC 7523 section 3, OpenID Connect Core 1.0 section 3.1.3.7, RFC 8725
section 3.11. Unlike RFC 7523 section 3 has it for clients, `sub` is the issuer's own name for the
workload; which of our identities that is, the manifest of the issuer says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from troth.core.errors import Invalid
from troth.core.jose.claims import check_times, list_audiences
from troth.core.jose.jws import Token, verify_token
from troth.core.jose.nobody import verify_for_nobody
from troth.identity.issuer import Issuer, find_meant
from troth.live.bundle import Bundle
from troth.operations.issuerkeys import IssuerKeys

LEEWAY = timedelta(seconds=30)
MAX_JTI = 256
TYPES = ("", "jwt", "jose", "client-authentication+jwt")
"""What `typ` may say: an access token, a DPoP proof or a security event is no assertion."""


class Unproven(Invalid):
    """Nothing is proved; why is not for outsiders to know."""


@dataclass(frozen=True, slots=True)
class Vouched:
    """Whom an outside issuer vouches for: one of our identities, by name.

    `issuer` and `subject` are who says so and of whom; `ends` is when its token ends; `proofs` are
    digests of what may be used once, with the time after which it is refused for its age.
    """

    identity: str
    issuer: str
    subject: str
    ends: datetime
    proofs: Mapping[str, datetime] = field(default_factory=dict)


class OutsideIssuers:
    """Reads assertions of the issuers that manifests name."""

    def __init__(self, keys: IssuerKeys) -> None:
        self._keys = keys

    async def read(
        self, token: Token, bundle: Bundle, audiences: Collection[str], now: datetime
    ) -> Vouched:
        """Whom the token means; a token for one of `audiences` where its issuer's manifest names
        none.

        `Unproven` for all that depends on what is registered, `Invalid` with the reason for whoever
        holds a token that its issuer signed, `Unavailable` if its keys can't be had.
        """
        check_times(token.claims, now, LEEWAY)
        issuer = bundle.issuers.get(str(token.claims.get("iss")))
        await self._verify(token, issuer)
        if issuer is None:
            raise Unproven("No manifest names the issuer of this token.")
        end = _check_terms(token, issuer, audiences)
        subject, jti = token.claims.get("sub"), token.claims.get("jti")
        name = find_meant(issuer, token.claims)
        if name is None or not isinstance(subject, str):
            raise Unproven("The claims of this token mean no identity, or several.")
        proofs = {}
        if jti is not None:
            # Without one it may be shown again until its end, which `maxLife` bounds.
            proofs[digest_proof("assertion", issuer.url, _check_jti(jti))] = end + LEEWAY
        return Vouched(name, issuer.name, subject, end, proofs)

    async def _verify(self, token: Token, issuer: Issuer | None) -> None:
        """Raise `Unproven` unless `issuer` signed the token."""
        algorithm, kid = str(token.header.get("alg")), token.header.get("kid")
        found = None
        if issuer is not None and algorithm in issuer.algorithms:
            said = kid if isinstance(kid, str) else None
            found = await self._keys.find(issuer, said, algorithm)
        try:
            if found is not None:
                verify_token(token, found.key, (algorithm,))
                return
            verify_for_nobody(token)
        except Invalid:
            pass
        raise Unproven("No key of the issuer made the signature.")


def digest_proof(kind: str, issuer: str, jti: str) -> str:
    """What stands for a proof that may be used once: `jti` is unique with its issuer alone."""
    return hashlib.sha256(f"{kind}\0{issuer}\0{jti}".encode()).hexdigest()


def check_type(token: Token) -> None:
    """Raise `Invalid` for a token whose `typ` says that it is no assertion."""
    kind = str(token.header.get("typ", "")).lower().removeprefix("application/")
    if kind not in TYPES:
        raise Invalid("The token is no assertion: its typ is for something else (RFC 8725, 3.11).")


def _check_terms(token: Token, issuer: Issuer, audiences: Collection[str]) -> datetime:
    """When the token ends, if it is an assertion for this server that doesn't live too long."""
    claims = token.claims
    check_type(token)
    meant = {issuer.audience} if issuer.audience else set(audiences)
    if not meant.issuperset(list_audiences(claims)):
        raise Invalid(
            "The token must be meant for this server alone: ask its issuer for another aud."
        )
    if "iat" not in claims:
        raise Invalid("The token has no iat, so how long it lives can't be told.")
    if claims["exp"] - claims["iat"] > (issuer.max_life + LEEWAY).total_seconds():
        raise Invalid("The token lives longer than tokens of its issuer may here (maxLife).")
    return datetime.fromtimestamp(claims["exp"], UTC)


def _check_jti(jti: object) -> str:
    if not isinstance(jti, str) or not 1 <= len(jti) <= MAX_JTI:
        raise Invalid(f"The token's jti must be a text of 1 to {MAX_JTI} characters.")
    return jti
