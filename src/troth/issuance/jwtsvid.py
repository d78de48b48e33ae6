"""JWT-SVIDs: plan → render → sign (elsewhere) → finish → check, and validation.

Sources: JWT-SVID.md of SPIFFE (sections in brackets); RFC 7515 (JWS), 7518 (algorithms), 7519
(claims), 7638 (thumbprint). We sign with ES256 alone; what others signed may use any algorithm the
standard lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from troth.core.errors import Internal, Invalid
from troth.core.ids import SpiffeId
from troth.core.jose.claims import check_times, list_audiences
from troth.core.jose.jwk import derive_key_id, encode_base64url, load_jwk
from troth.core.jose.jws import Token, parse_token, verify_token
from troth.issuance.authorities import Authority, Use, require_signing
from troth.issuance.der import verify_signature
from troth.issuance.instance import INSTANCE
from troth.issuance.profiles import JWT_TTL_CEILING, check_ttl, trim_seconds

MAX_AUDIENCES = 16
MAX_AUDIENCE_LENGTH = 2048
MAX_AUDIENCES_LENGTH = 4096
"""All together, so that a token stays far below what verifiers accept."""
LEEWAY = timedelta(seconds=10)
"""How far a verifier's clock may differ from the issuer's ("a small amount", appendix A)."""

ALGORITHMS = tuple(f"{family}{bits}" for family in ("ES", "RS", "PS") for bits in (256, 384, 512))
"""The `alg` values of section 2.1; "none" and the HMAC ones are not among them."""

_HEADERS = frozenset({"alg", "kid", "typ"})
_KEY_USES = ("jwt-svid", "sig")
"""`use` in a SPIFFE bundle and in an OpenID key set; a key for certificates never serves."""


@dataclass(frozen=True, slots=True)
class JwtPlan:
    """Everything a token will say. `issuer_url` is the OpenID issuer, when one is published;
    `instance` the running copy that it is issued to, "" if it shall not say."""

    spiffe_id: SpiffeId
    audiences: tuple[str, ...]
    issuer_url: str | None
    jti: str
    kid: str
    issued_at: datetime
    expires_at: datetime
    instance: str = ""


def plan_jwt_svid(
    *,
    spiffe_id: SpiffeId,
    audiences: Sequence[str],
    ttl: timedelta,
    issuer: Authority,
    jti: str,
    now: datetime,
    issuer_url: str | None = None,
    kid: str | None = None,
    instance: str = "",
) -> JwtPlan:
    """Decide what to state; raises `Invalid` or `Refused` with the reason.

    `jti` is a fresh unique id. The token ends with its authority at the latest. `kid` saves
    deriving it again: it must be what `derive_key_id` gives for the issuer's key.
    """
    require_signing(issuer, Use.JWT, now)
    ttl = check_ttl(ttl, JWT_TTL_CEILING)
    if not spiffe_id.path:
        raise Invalid("A JWT-SVID needs a SPIFFE ID with a path: a workload's, not a domain's.")
    if not jti:
        raise ValueError("a token needs an id")
    issued_at = trim_seconds(now)
    return JwtPlan(
        spiffe_id=spiffe_id,
        audiences=check_audiences(audiences),
        issuer_url=issuer_url,
        jti=jti,
        kid=kid or derive_key_id(issuer.public_key),
        issued_at=issued_at,
        expires_at=min(issued_at + ttl, trim_seconds(issuer.not_after)),
        instance=instance,
    )


def render_header(kid: str) -> bytes:
    """The header of all tokens signed with one key, in base64url (RFC 7515, section 5.1)."""
    return _encode(_dump({"alg": "ES256", "kid": kid, "typ": "JWT"}))


def render_signing_input(plan: JwtPlan, header: bytes | None = None) -> bytes:
    """The bytes to sign: header and claims in base64url (RFC 7515, section 5.1).

    `header` saves rendering it again: it must be what `render_header` gives for the plan's key.
    """
    claims: dict[str, object] = {
        "sub": str(plan.spiffe_id),
        # One audience is an array too: some verifiers know no other form, all know this one.
        "aud": plan.audiences,
        "exp": int(plan.expires_at.timestamp()),
        "iat": int(plan.issued_at.timestamp()),
        "jti": plan.jti,
    }
    if plan.issuer_url is not None:
        claims["iss"] = plan.issuer_url
    if plan.instance:
        claims[INSTANCE] = plan.instance
    return b".".join((header or render_header(plan.kid), _encode(_dump(claims))))


def finish_jwt(signing_input: bytes, der_signature: bytes) -> str:
    """The compact token: the keystore's DER signature becomes r || s (RFC 7518, section 3.4)."""
    return b".".join((signing_input, _encode(_flatten(der_signature)))).decode("ascii")


def _flatten(der_signature: bytes) -> bytes:
    try:
        r, s = decode_dss_signature(der_signature)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    except (ValueError, OverflowError) as error:
        raise Internal("The keystore's signature is not a P-256 signature in DER.") from error


def check_jwt(
    token: str,
    signing_input: bytes,
    der_signature: bytes,
    issuer_public_key: bytes | ec.EllipticCurvePublicKey,
) -> None:
    """Raise `Internal` unless `token` is the recorded input and its signature verifies.

    `issuer_public_key` is DER SubjectPublicKeyInfo, or what `load_verifier` made of it.
    """
    head, _, tail = token.rpartition(".")
    if head.encode() != signing_input or tail.encode() != _encode(_flatten(der_signature)):
        raise Internal("The token differs from what was recorded; it was not given out.")
    verify_signature(issuer_public_key, der_signature, signing_input)


def validate_jwt_svid(
    token: str,
    audience: str,
    jwks: Mapping[str, Sequence[Mapping[str, Any]]],
    now: datetime,
) -> dict[str, Any]:
    """The claims of a sound token meant for `audience`; raises `Invalid` that names the fault.

    `jwks` gives the JWT authorities (JWKs with `kid`) of each trust domain, by its name. The trust
    domain in `sub` chooses the keys, so one domain can't vouch for another's workloads. We demand a
    `kid` although the standard leaves it optional: a bundle's keys always have one.
    """
    if not audience:
        raise Invalid("Name the audience that the token must be meant for.")
    parsed = _parse_token(token)
    claims = dict(parsed.claims)
    subject = _read_subject(claims)
    keys = jwks.get(subject.trust_domain.name)
    if keys is None:
        raise Invalid(f"No bundle of the trust domain {subject.trust_domain.name!r} is known here.")
    _verify(parsed, keys)
    check_times(claims, now, LEEWAY)
    if audience not in list_audiences(claims):
        raise Invalid("The token is meant for another audience; ask for one with yours in it.")
    return claims


def check_audiences(audiences: Sequence[str]) -> tuple[str, ...]:
    """The audiences, each once; raises `Invalid` unless a token may be meant for them."""
    if isinstance(audiences, str):
        raise TypeError("audiences is a sequence of strings")
    chosen = tuple(dict.fromkeys(audiences))
    if not 1 <= len(chosen) <= MAX_AUDIENCES:
        raise Invalid(f"Ask for 1 to {MAX_AUDIENCES} audiences; one is best (JWT-SVID, 6.2).")
    for audience in chosen:
        if not audience or len(audience) > MAX_AUDIENCE_LENGTH or not audience.isprintable():
            raise Invalid(
                f"Each audience must have 1 to {MAX_AUDIENCE_LENGTH} printable characters."
            )
    if sum(map(len, chosen)) > MAX_AUDIENCES_LENGTH:
        raise Invalid(f"All audiences together have {MAX_AUDIENCES_LENGTH} characters at most.")
    return chosen


def _parse_token(text: str) -> Token:
    token = parse_token(text)
    header = token.header
    if not header.keys() <= _HEADERS:
        raise Invalid("The token's header may have alg, kid and typ only (JWT-SVID, 2).")
    if header.get("alg") not in ALGORITHMS:
        raise Invalid(f"The token's alg must be one of {', '.join(ALGORITHMS)} (JWT-SVID, 2.1).")
    if header.get("typ", "JWT") not in ("JWT", "JOSE"):
        raise Invalid("The token's typ must be JWT or JOSE, or absent (JWT-SVID, 2.3).")
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise Invalid("The token's header has no kid to choose the key by.")
    return token


def _read_subject(claims: Mapping[str, Any]) -> SpiffeId:
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise Invalid("The token has no sub; it must be a SPIFFE ID (JWT-SVID, 3.1).")
    parsed = SpiffeId.parse(subject)
    if not parsed.path:
        raise Invalid("The token's sub names a trust domain and no workload.")
    return parsed


def _verify(token: Token, keys: Sequence[Mapping[str, Any]]) -> None:
    algorithm = token.header["alg"]
    usable = [key for key in keys if key.get("use", "jwt-svid") in _KEY_USES]
    chosen = [key for key in usable if key.get("kid") == token.header["kid"]]
    if not chosen:
        raise Invalid("The trust domain's bundle has no key with the token's kid.")
    if len(chosen) > 1:
        raise Invalid("The trust domain's bundle has several keys with the token's kid.")
    if chosen[0].get("alg", algorithm) != algorithm:
        raise Invalid("The key with the token's kid is for another alg.")
    verify_token(token, load_jwk(chosen[0]), [algorithm])


def _dump(value: object) -> bytes:
    return msgspec.json.encode(value)


def _encode(raw: bytes) -> bytes:
    return encode_base64url(raw).encode("ascii")
