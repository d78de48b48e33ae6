"""Access tokens as JWTs: plan → render → sign (elsewhere) → finish → check, and validation.

Sources: RFC 9068 (sections in brackets), RFC 7519, RFC 8693 section 4 (`act`, `may_act`), RFC 7800
(`cnf`), RFC 8705 section 3.1 (`x5t#S256`), RFC 9449 section 6 (`jkt`), RFC 9396 section 9.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from troth.core.errors import Internal, Invalid
from troth.core.ids import SpiffeId
from troth.core.jose.claims import check_times, list_audiences
from troth.core.jose.jwk import PublicKey, encode_base64url, load_key
from troth.core.jose.jws import Token, parse_token, verify_signature, verify_token
from troth.issuance.authorities import TOKEN_ALGORITHMS, Authority, Use, require_token_signing
from troth.issuance.der import load_verifier
from troth.issuance.jwtsvid import check_jwt, finish_jwt
from troth.issuance.profiles import ACCESS_TTL_CEILING, check_ttl, trim_seconds

TYP = "at+jwt"
"""What tells an access token from every other JWT [2.1]."""

TIER = "troth_tier"
"""A private claim (RFC 7519, section 4.3): the trust tier that the proof earned for which the token
was given."""

LEEWAY = timedelta(seconds=30)
"""How far a verifier's clock may differ from the issuer's."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What tells one kind of token from every other that the same keys sign.

    `typ` stands in the header (RFC 8725, section 3.11); without the claims that are `required`,
    each a text, it is none. `list_parties` names who stands in it: its subject, who asked for it,
    and any others.
    """

    name: str
    typ: str
    source: str
    required: tuple[str, ...]
    leeway: timedelta
    list_parties: Callable[[Mapping[str, Any]], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """Everything a token will say.

    `subject` is whom it speaks for, `client_id` who asked for it, `actor` the chain of those who
    act (RFC 8693, section 4.1), outermost first; `confirmation` binds it to a key; `extra` are
    claims besides those of RFC 9068.
    """

    issuer_url: str
    subject: SpiffeId
    client_id: str
    audiences: tuple[str, ...]
    scopes: tuple[str, ...]
    jti: str
    kid: str
    issued_at: datetime
    expires_at: datetime
    actors: tuple[str, ...] = ()
    confirmation: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


def plan_access_token(
    *,
    issuer: Authority,
    kid: str,
    issuer_url: str,
    subject: SpiffeId,
    client_id: str,
    audiences: Sequence[str],
    scopes: Collection[str],
    ttl: timedelta,
    ends: Collection[datetime],
    jti: str,
    now: datetime,
    actors: tuple[str, ...] = (),
    confirmation: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> AccessToken:
    """Decide what to state; raises `Invalid` or `Refused` with the reason.

    It lives for `ttl`, and no longer than its authority or any of `ends`: the client's
    registration, the certificate that it is bound to, the token that it was exchanged for.
    """
    require_token_signing(issuer, now)
    issued_at = trim_seconds(now)
    end = issued_at + check_ttl(ttl, ACCESS_TTL_CEILING)
    return AccessToken(
        issuer_url=issuer_url,
        subject=subject,
        client_id=client_id,
        audiences=tuple(audiences),
        scopes=tuple(sorted(scopes)),
        jti=jti,
        kid=kid,
        issued_at=issued_at,
        expires_at=min(end, trim_seconds(issuer.not_after), *map(trim_seconds, ends)),
        actors=actors,
        confirmation=confirmation or {},
        extra=extra or {},
    )


def render_header(kid: str, algorithm: str = "ES256", typ: str = TYP) -> bytes:
    """The header of all tokens of a kind signed with one key, in base64url."""
    return _encode(_describe_header(kid, algorithm, typ))


def index_headers(keys: Mapping[str, tuple[PublicKey, str]]) -> dict[str, Mapping[str, Any]]:
    """The headers of all access tokens signed with these keys, by their encoded form: who verifies
    many needs to take none of them apart."""
    return {
        render_header(kid, algorithm).decode("ascii"): _describe_header(kid, algorithm, TYP)
        for kid, (_, algorithm) in keys.items()
    }


def _describe_header(kid: str, algorithm: str, typ: str) -> dict[str, Any]:
    return {"alg": algorithm, "kid": kid, "typ": typ}


def render_claims(token: AccessToken) -> dict[str, Any]:
    """The claims of a token [2.2]."""
    audiences = token.audiences
    claims: dict[str, Any] = {
        "iss": token.issuer_url,
        "sub": str(token.subject),
        "aud": audiences[0] if len(audiences) == 1 else audiences,
        "client_id": token.client_id,
        "exp": int(token.expires_at.timestamp()),
        "iat": int(token.issued_at.timestamp()),
        "jti": token.jti,
    }
    if token.scopes:
        claims["scope"] = " ".join(token.scopes)
    if token.actors:
        claims["act"] = nest_actors(token.actors)
    if token.confirmation:
        claims["cnf"] = dict(token.confirmation)
    return {**claims, **token.extra}


def render_signing_input(token: AccessToken, header: bytes) -> bytes:
    """The bytes to sign; `header` is what `render_header` gives for the token's key."""
    return encode_signing_input(header, render_claims(token))


def encode_signing_input(header: bytes, claims: Mapping[str, Any]) -> bytes:
    """The bytes to sign for any claims (RFC 7515, section 5.1)."""
    return b".".join((header, _encode(claims)))


def load_token_key(issuer: Authority) -> PublicKey:
    """The key that verifies what `issuer` signs; `Internal` if it doesn't fit its use."""
    if issuer.use is Use.TOKEN:
        return load_verifier(issuer.public_key)
    return load_key(issuer.public_key)


def finish_token(issuer: Authority, content: bytes, signature: bytes) -> str:
    """The compact token from the signing input and the keystore's signature."""
    if TOKEN_ALGORITHMS[issuer.use] == "ES256":
        return finish_jwt(content, signature)
    return b".".join((content, encode_base64url(signature).encode("ascii"))).decode("ascii")


def check_finished(issuer: Authority, text: str, content: bytes, signature: bytes) -> None:
    """Raise `Internal` unless the recorded key of `issuer` verifies the token."""
    algorithm, key = TOKEN_ALGORITHMS[issuer.use], load_token_key(issuer)
    if isinstance(key, ec.EllipticCurvePublicKey) and algorithm == "ES256":
        check_jwt(text, content, signature, key)
        return
    try:
        verify_signature(algorithm, key, content, signature)
    except Invalid as error:
        raise Internal("The keystore's signature doesn't verify; it was not given out.") from error


def nest_actors(actors: Sequence[str]) -> dict[str, Any]:
    """The `act` claim of a chain of actors, the current one outermost (RFC 8693, section 4.1)."""
    act: dict[str, Any] = {}
    for actor in reversed(actors):
        act = {"sub": actor, "act": act} if act else {"sub": actor}
    return act


def list_actors(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """The chain of actors of a token, the current one first; `Invalid` if it is malformed."""
    actors: list[str] = []
    act = claims.get("act")
    while act is not None:
        subject = act.get("sub") if isinstance(act, Mapping) else None
        if not isinstance(subject, str):
            raise Invalid("The token's act must be an object with a sub (RFC 8693, 4.1).")
        actors.append(subject)
        act = act.get("act")
    return tuple(actors)


def _list_parties(claims: Mapping[str, Any]) -> tuple[str, ...]:
    return (claims["sub"], claims["client_id"], *list_actors(claims))


ACCESS = Kind(
    name="access token",
    typ=TYP,
    source="RFC 9068, 4",
    required=("sub", "client_id", "jti"),
    leeway=LEEWAY,
    list_parties=_list_parties,
)


def validate_access_token(
    text: str,
    *,
    issuer_url: str,
    audiences: Collection[str],
    keys: Mapping[str, tuple[PublicKey, str]],
    now: datetime,
) -> Mapping[str, Any]:
    """The claims of a sound token of `issuer_url` for one of `audiences`; else `Invalid` [4].

    `keys` are the issuer's, each with its algorithm, by `kid`. Whether the token was revoked, and
    whether its bearer holds the key that it is bound to, is for the caller to see.
    """
    return validate_parsed_token(
        parse_token(text), issuer_url=issuer_url, audiences=audiences, keys=keys, now=now
    )


def validate_parsed_token(
    token: Token,
    *,
    issuer_url: str,
    audiences: Collection[str],
    keys: Mapping[str, tuple[PublicKey, str]],
    now: datetime,
    kind: Kind = ACCESS,
) -> Mapping[str, Any]:
    """As `validate_access_token`, for a token that was taken apart already, of that `kind`."""
    _verify(token, issuer_url, keys, now, kind)
    if not set(list_audiences(token.claims)).intersection(audiences):
        raise Invalid("The token is meant for another resource.")
    return token.claims


def verify_access_token(
    text: str,
    *,
    issuer_url: str,
    keys: Mapping[str, tuple[PublicKey, str]],
    now: datetime,
    kind: Kind = ACCESS,
    headers: Mapping[str, Mapping[str, Any]] | None = None,
) -> Token:
    """As `validate_access_token`, whomever it is meant for, of that `kind`; `headers` as
    `parse_token` has them."""
    token = parse_token(text, headers)
    _verify(token, issuer_url, keys, now, kind)
    return token


def _verify(
    token: Token,
    issuer_url: str,
    keys: Mapping[str, tuple[PublicKey, str]],
    now: datetime,
    kind: Kind,
) -> None:
    header, claims = token.header, token.claims
    if str(header.get("typ", "")).lower().removeprefix("application/") != kind.typ:
        raise Invalid(f"The token is no {kind.name}: its typ must be {kind.typ} ({kind.source}).")
    for name in ("jwk", "jku", "x5u", "x5c"):
        if name in header:
            raise Invalid(f"The token's header must not bring a key of its own ({name}).")
    known = keys.get(str(header.get("kid")))
    if known is None:
        raise Invalid("The issuer has no key with the token's kid.")
    key, algorithm = known
    verify_token(token, key, (algorithm,))
    if claims.get("iss") != issuer_url:
        raise Invalid("The token is of another issuer.")
    check_times(claims, now, kind.leeway)
    for name in kind.required:
        if not isinstance(claims.get(name), str):
            raise Invalid(f"The token has no {name}, as every {kind.name} has ({kind.source}).")


def _encode(value: object) -> bytes:
    return encode_base64url(msgspec.json.encode(value)).encode("ascii")
