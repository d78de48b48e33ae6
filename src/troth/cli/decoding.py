"""What a JWT says, and whether given keys have signed it; nobody is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from troth.core.errors import Invalid, TooLarge, TrothError
from troth.core.jose.claims import check_times
from troth.core.jose.jwk import PublicKey, load_jwk
from troth.core.jose.jws import ALGORITHMS, Token, fits_algorithm, parse_token, verify_token
from troth.core.manifest.problem import show_value
from troth.issuance.accesstoken import LEEWAY
from troth.issuance.opaque import PREFIX

MAX_KEYS_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, with its `kid` and `alg` where it has them."""

    key: PublicKey
    kid: str | None
    algorithm: str | None


@dataclass(frozen=True, slots=True)
class Decoded:
    """A token's parts; whether one of the given keys signed it; what is wrong with it, or ""."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    verified: bool
    problem: str


def decode_token(text: str, keys: list[Key] | None, now: datetime) -> Decoded:
    """Take a token apart, and verify it if there are `keys`; raises `Invalid` for what is none."""
    if text.count(".") == 4:
        raise Invalid("This is an encrypted token (JWE): only whom it is for can read it.")
    if text.startswith(PREFIX) and "." not in text:
        raise Invalid(
            "This is an opaque token: nothing can be read from it. Whom it is for asks the server "
            "with `troth token introspect FILE`."
        )
    if text.count(".") != 2:
        raise Invalid(
            "This is not a signed JWT in compact form: three parts with two dots between them. "
            "Give the token alone, without 'Bearer' and without the JSON around it."
        )
    token = parse_token(text)
    if keys is None:
        return Decoded(token.header, token.claims, verified=False, problem="")
    verified, problem = True, ""
    try:
        _verify(token, keys)
    except TrothError as error:
        verified, problem = False, error.detail
    else:
        try:
            check_times(token.claims, now, LEEWAY)
        except TrothError as error:
            problem = error.detail
    return Decoded(token.header, token.claims, verified, problem)


def read_keys(path: Path) -> list[Key]:
    """The keys of a file with a JWK set or one JWK; raises `Invalid` if none can be used."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEYS_FILE + 1)
    except FileNotFoundError as error:
        raise Invalid(
            f"There is no file {path}: save in one what the issuer's jwks_uri answers; a troth "
            "server's is https://HOST/oauth/jwks."
        ) from error
    if len(data) > MAX_KEYS_FILE:
        raise TooLarge(f"{path} has more than {MAX_KEYS_FILE:,} bytes; is it a JWK set?")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{path} is not JSON.") from error
    members = document.get("keys", [document]) if isinstance(document, dict) else document
    if not isinstance(members, list):
        raise Invalid(f"{path} is no JWK set.")
    found = []
    for jwk in members:
        if isinstance(jwk, dict):
            kid, algorithm = jwk.get("kid"), jwk.get("alg")
            try:
                key = load_jwk(jwk)
            except Invalid:
                if len(members) == 1:
                    raise
                continue  # a set may hold keys of kinds that we don't know (RFC 7517, section 5)
            found.append(
                Key(
                    key,
                    kid if isinstance(kid, str) else None,
                    algorithm if isinstance(algorithm, str) else None,
                )
            )
    if not found:
        raise Invalid(f"{path} holds no public key that can be used.")
    return found


def _verify(token: Token, keys: list[Key]) -> None:
    """Raise `Invalid` unless one of the keys made the signature; the key says the algorithm."""
    kid, algorithm = token.header.get("kid"), token.header.get("alg")
    if algorithm not in ALGORITHMS:
        raise Invalid(f"The token's alg must be one of {', '.join(ALGORITHMS)}.")
    named = [one for one in keys if kid is None or one.kid in (None, kid)]
    fitting = [
        one
        for one in named
        if one.algorithm in (None, algorithm) and fits_algorithm(str(algorithm), one.key)
    ]
    if not fitting:
        raise Invalid(
            f"None of the keys is the one that the token names, kid {show_value(kid)} with alg "
            f"{algorithm}: fetch the keys again from the jwks_uri of its issuer, "
            f"{show_value(token.claims.get('iss'))}, if you trust it."
        )
    for one in fitting[:-1]:
        try:
            verify_token(token, one.key, (str(algorithm),))
        except Invalid:
            continue
        return
    verify_token(token, fitting[-1].key, (str(algorithm),))
