"""Transaction tokens as JWTs: what a call is made for, carried unchanged through all that it sets
off.

Source: draft-ietf-oauth-transaction-tokens-10, section "Txn-Token Format". They are signed by the
authority of access tokens and told apart by their `typ` alone (RFC 8725, section 3.11).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from troth.core.tier import Tier
from troth.issuance.accesstoken import (
    TIER,
    Kind,
    encode_signing_input,
    list_actors,
    nest_actors,
    render_header,
)
from troth.issuance.authorities import Authority, require_token_signing
from troth.issuance.instance import INSTANCES
from troth.issuance.profiles import trim_seconds

TYP = "txntoken+jwt"
LIFE = timedelta(seconds=60)
"""Nothing binds it to who shows it, so it lives as long as a call does, and no longer."""

LEEWAY = timedelta(seconds=10)
"""How far a verifier's clock may differ: less than for what lives an hour."""

RESOURCE = "troth_resource"
"""A private claim (RFC 7519, section 4.3): the audience of the resource whose actions `scope`
names. `aud` is the whole trust domain, where other resources may give the same name to others."""

SEPARATOR = ","
"""Between the workloads in `req_wl`, a text. Up to its ninth version the draft had replacements
append with this character; the tenth leaves open how. No SPIFFE ID holds one."""


@dataclass(frozen=True, slots=True)
class TxnToken:
    """Everything a transaction token will say.

    `txn` names the transaction, and `jti` this token of it. `workloads` are those that asked for
    it and for what it replaces, the first one first; `actors` act for the subject, the current one
    first. `rctx` and `tctx` are the context of the request and of the transaction; `instances` the
    running copies that obtained it. `tier` is how much is relied on all of them.
    """

    issuer_url: str
    trust_domain: str
    txn: str
    jti: str
    kid: str
    subject: str
    resource: str
    scopes: tuple[str, ...]
    workloads: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    actors: tuple[str, ...] = ()
    rctx: Mapping[str, Any] = field(default_factory=dict)
    tctx: Mapping[str, Any] = field(default_factory=dict)
    instances: tuple[str, ...] = ()
    tier: Tier = Tier.LOW


def limit_life(issuer: Authority, ends: Collection[datetime], now: datetime) -> datetime:
    """When a token ends that `issuer` signs now: not after any of `ends`.

    Raises `Refused` if that authority may sign nothing now.
    """
    require_token_signing(issuer, now)
    return min(trim_seconds(one) for one in (now + LIFE, issuer.not_after, *ends))


def render_claims(token: TxnToken) -> dict[str, Any]:
    """The claims of a token, section "JWT Body Claims". `iss`, `jti` and `act` are there besides:
    by them one token is ended alone, and whoever acts ends it (RFC 8693, section 4.1)."""
    claims: dict[str, Any] = {
        "iss": token.issuer_url,
        "iat": int(token.issued_at.timestamp()),
        "aud": token.trust_domain,
        "exp": int(token.expires_at.timestamp()),
        "txn": token.txn,
        "jti": token.jti,
        "sub": token.subject,
        "scope": " ".join(token.scopes),
        "req_wl": SEPARATOR.join(token.workloads),
        RESOURCE: token.resource,
        TIER: token.tier.value,
    }
    if token.actors:
        claims["act"] = nest_actors(token.actors)
    if token.instances:
        claims[INSTANCES] = list(token.instances)
    if token.rctx:
        claims["rctx"] = dict(token.rctx)
    if token.tctx:
        claims["tctx"] = dict(token.tctx)
    return claims


def render_signing_input(token: TxnToken, algorithm: str) -> bytes:
    """The bytes to sign, section "JWT Header"."""
    return encode_signing_input(render_header(token.kid, algorithm, TYP), render_claims(token))


def list_workloads(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Who asked for a token and for what it replaces, the first one first."""
    return tuple(str(claims["req_wl"]).split(SEPARATOR))


def _list_parties(claims: Mapping[str, Any]) -> tuple[str, ...]:
    workloads = reversed(list_workloads(claims))
    return (claims["sub"], *workloads, *list_actors(claims))


TXN = Kind(
    name="transaction token",
    typ=TYP,
    source="draft-ietf-oauth-transaction-tokens-10",
    required=("sub", "txn", "jti", "scope", "req_wl", RESOURCE),
    leeway=LEEWAY,
    list_parties=_list_parties,
)
"""What a transaction token is recognised by. `iss` and `jti` are required here alone."""
