"""Outside OpenID issuers: their keys, their tokens, and who fetches the keys."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from troth.core.errors import TrothError, Unavailable
from troth.core.jose.jwk import encode_base64url, render_key
from troth.drivers.issuers import KeySet, Whereabouts
from troth.wire.oauth.jwks import parse_key_set

GITHUB = "https://token.actions.githubusercontent.com"
MAIN = "repo:acme@123/shop@456:ref:refs/heads/main"
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass
class Outsider:
    """An issuer with one key, ES256 unless told otherwise."""

    url: str = GITHUB
    kid: str = "k1"
    algorithm: str = "ES256"
    key: PrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def jwk(self) -> dict[str, Any]:
        """Its public key."""
        return {**render_key(self.key.public_key()), "kid": self.kid, "use": "sig"}

    def assert_workload(
        self, now: datetime, header: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token about a workload, for ten minutes; None leaves a claim out."""
        values: dict[str, Any] = {
            "iss": self.url,
            "sub": MAIN,
            "aud": "https://localhost:8443",
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=10)).timestamp()),
            **claims,
        }
        values = {name: value for name, value in values.items() if value is not None}
        protected = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT", **(header or {})}
        kept = {name: value for name, value in protected.items() if value is not None}
        parts = [encode_base64url(json.dumps(one).encode()) for one in (kept, values)]
        content = ".".join(parts).encode()
        return ".".join((*parts, encode_base64url(self._sign(content))))

    def _sign(self, content: bytes) -> bytes:
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            made = self.key.sign(content, ec.ECDSA(hashes.SHA256()))
            return b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(made))
        if isinstance(self.key, rsa.RSAPrivateKey):
            scheme: Any = padding.PKCS1v15()
            if self.algorithm == "PS256":
                scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
            return self.key.sign(content, scheme, hashes.SHA256())
        return self.key.sign(content)


@dataclass
class FakeKeySource:
    """Answers with what it is told to, and counts how often it is asked."""

    keys: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    max_age: timedelta | None = None
    error: TrothError | None = None
    gate: asyncio.Event | None = None
    asked: list[Whereabouts] = field(default_factory=list)

    def publish(self, *outsiders: Outsider) -> None:
        """Have these keys, and no others of their issuers."""
        for one in outsiders:
            self.keys[one.url] = []
        for one in outsiders:
            self.keys[one.url].append(one.jwk)

    async def fetch(self, where: Whereabouts) -> KeySet:
        self.asked.append(where)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        if where.url not in self.keys:
            raise Unavailable(f"{where.url} isn't there.")
        body = json.dumps({"keys": self.keys[where.url]}).encode()
        return KeySet(parse_key_set(body), self.max_age)
