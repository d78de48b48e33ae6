"""Microseconds to check an access token in a service, offline, with its revocation check.

First sights of distinct tokens, and sights of tokens seen before, by `TokenValidator` with a guard
that knows 10,000 identities to refuse. The reference, interleaved with them in the same run, is one
P-256 verification by the library, bare. A token bound to a certificate stands in the detail.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import statistics
import time
from collections.abc import Callable, Sequence

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from benchmarks.report import print_result, say
from troth.core.clock import SystemClock
from troth.core.jose.jwk import encode_base64url, render_key
from troth.sdk.exchange import Answer, Request
from troth.sdk.guard import PeerGuard
from troth.sdk.issuer import Issuer
from troth.sdk.keys import KeySet
from troth.sdk.validator import Sight, TokenValidator
from troth.wire.api.revocations import RevocationSnapshot

ISSUER = "https://troth.example.org:8443"
API = "https://ledger.example.org"
TOKENS = 1000
CUT_OFF = 10_000
RUNS = 9
FIRST, BEFORE = 1.5, 0.10
CERTIFICATE = bytes(700)


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    key = ec.generate_private_key(ec.SECP256R1())
    thumbprint = encode_base64url(hashlib.sha256(CERTIFICATE).digest())
    plain = [Sight("bearer", issue(key, number)) for number in range(TOKENS)]
    bound = [
        Sight("bearer", issue(key, number, cnf={"x5t#S256": thumbprint}), CERTIFICATE)
        for number in range(TOKENS)
    ]
    firsts, befores, binds, references = [], [], [], []
    for number in range(RUNS):
        references.append(measure_reference(key))
        validator = make_validator(key)
        firsts.append(measure(validator, plain))
        befores.append(measure(validator, plain))
        measure(validator, bound)
        binds.append(measure(validator, bound))
        say(f"run {number + 1}: {firsts[-1]:.1f} µs, {befores[-1]:.2f} µs, {references[-1]:.1f} µs")
    reference = statistics.median(references)
    first, before = statistics.median(firsts), statistics.median(befores)
    print_result(
        "sdk-validate",
        value=first,
        unit="µs",
        reference=reference,
        targets={"ratio": FIRST, "seen_before_ratio": BEFORE},
        met=first / reference <= FIRST and before / reference <= BEFORE,
        reference_is="one bare P-256 verification by the library",
        seen_before_us=round(before, 2),
        seen_before_ratio=round(before / reference, 4),
        seen_before_bound_us=round(statistics.median(binds), 2),
        tokens=TOKENS,
        cut_off_identities=CUT_OFF,
    )


def measure(validator: TokenValidator, sights: Sequence[Sight]) -> float:
    """Microseconds for each."""
    check: Callable[[Sight], object] = validator.check
    start = time.process_time()
    for sight in sights:
        check(sight)
    return (time.process_time() - start) / len(sights) * 1e6


def measure_reference(key: ec.EllipticCurvePrivateKey) -> float:
    """Microseconds of a bare verification, of as many bytes as a token has."""
    content, algorithm = os.urandom(500), ec.ECDSA(hashes.SHA256())
    signature, public = key.sign(content, algorithm), key.public_key()
    start = time.process_time()
    for _ in range(TOKENS):
        public.verify(signature, content, algorithm)
    return (time.process_time() - start) / TOKENS * 1e6


def make_validator(key: ec.EllipticCurvePrivateKey) -> TokenValidator:
    """A validator that knows the issuer's keys, and whom to refuse."""
    clock = SystemClock()
    documents = {
        f"{ISSUER}/.well-known/oauth-authorization-server": {
            "issuer": ISSUER,
            "jwks_uri": f"{ISSUER}/oauth/jwks",
        },
        f"{ISSUER}/oauth/jwks": {
            "keys": [{**render_key(key.public_key()), "kid": "k", "use": "sig", "alg": "ES256"}]
        },
    }

    def send(request: Request, context: ssl.SSLContext) -> Answer:
        return Answer(200, {}, json.dumps(documents[request.url]).encode())

    issuer = Issuer(ISSUER, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), send=send)
    guard = PeerGuard([ISSUER], "unix:///agent.sock", lease=3600)
    known = RevocationSnapshot(
        epoch=1,
        mark="m",
        as_of=0,
        lease=3600,
        trust_domain="example.org",
        cut_off={f"spiffe://example.org/bad-{n}": "quarantined" for n in range(CUT_OFF)},
        revoked={},
        distrusted={},
    )
    guard._known.take(known, clock.monotonic())
    keys = KeySet(issuer, clock)
    keys.refresh()
    return TokenValidator(issuer, [API], guard, keys=keys)


def issue(key: ec.EllipticCurvePrivateKey, number: int, **claims: object) -> str:
    """A token as the server makes it."""
    now = int(time.time())
    subject = f"spiffe://example.org/billing-{number}"
    header = {"alg": "ES256", "kid": "k", "typ": "at+jwt"}
    body = {
        "iss": ISSUER,
        "sub": subject,
        "aud": API,
        "client_id": subject,
        "exp": now + 3000,
        "iat": now,
        "jti": f"tok_{number:030}",
        "scope": "read write",
        **claims,
    }
    content = ".".join(encode_base64url(msgspec.json.encode(part)) for part in (header, body))
    r, s = decode_dss_signature(key.sign(content.encode(), ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{content}.{encode_base64url(signature)}"


if __name__ == "__main__":
    main()
