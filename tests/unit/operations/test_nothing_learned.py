"""What outsiders learn of who is registered: nothing, neither from the answer nor from the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.clients import LEDGER, ORIGIN, apply, render_identity, render_manifest
from tests.fakes.forgers import sign, sign_bytes
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from tests.fakes.outsiders import GITHUB, Outsider
from tests.unit.operations.test_outside_issuers import RULE, source_of
from tests.unit.server.http.test_token_endpoints import FORM, Answer, Desk
from troth.core.errors import Invalid
from troth.core.jose import jws
from troth.core.jose.jwk import encode_base64url, render_key
from troth.core.jose.jws import parse_token
from troth.core.jose.nobody import verify_for_nobody
from troth.operations.client import JWT_BEARER_ASSERTION
from troth.operations.exchange import ACCESS_TOKEN
from troth.store.engine import Store
from troth.wire.api.identities import MoveIdentity
from troth.wire.oauth.metadata import ASSERTION_ALGORITHMS, JWT_BEARER, TOKEN_EXCHANGE

KEY = make_private_key(41)
RSA = rsa.generate_private_key(65537, 2048)
EDWARDS = ed25519.Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
KEYS: dict[str, Any] = {"ES256": KEY, "RS256": RSA, "EdDSA": EDWARDS}
STATES = ("suspend", "quarantine", "retire")


@dataclass
class Work:
    """What an answer took: the signatures that were verified, and how often the store was read."""

    verified: list[str] = field(default_factory=list)
    reads: int = 0


@contextmanager
def watch() -> Iterator[Work]:
    """Count, whoever verifies and reads."""
    work = Work()
    read, known = Store.read, dict(jws._ALGORITHMS)

    async def count(store: Store, function: Any) -> Any:
        work.reads += 1
        return await read(store, function)

    def note(algorithm: str, verify: Any) -> Any:
        def run(*arguments: Any) -> None:
            work.verified.append(algorithm)
            verify(*arguments)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "read", count)
        for name, (kind, curve, verify) in known.items():
            patch.setitem(jws._ALGORITHMS, name, (kind, curve, note(name, verify)))
        yield work


def sign_with(algorithm: str, header: dict[str, Any], claims: dict[str, Any], key: Any) -> str:
    """As `sign`, in any of the algorithms of `KEYS`."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return sign(header, claims, key)
    unsigned = sign(header, claims, KEY).rpartition(".")[0]
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(unsigned.encode(), padding.PKCS1v15(), hashes.SHA256())
    else:
        signature = key.sign(unsigned.encode())
    return f"{unsigned}.{encode_base64url(signature)}"


def make_another(algorithm: str) -> Any:
    """A key of the same kind that nobody registered."""
    if algorithm == "ES256":
        return make_private_key(9)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
    return rsa.generate_private_key(65537, 2048)


@dataclass
class Visitor:
    """Somebody who asks at the door, under any name and with any key."""

    desk: Desk
    count: int = 0

    def assert_name(self, name: str, algorithm: str, key: Any) -> str:
        self.count += 1
        now = int(self.desk.house.clock.now().timestamp())
        spiffe_id = f"spiffe://example.org/{name}"
        claims = {
            "iss": spiffe_id,
            "sub": spiffe_id,
            "aud": ORIGIN,
            "iat": now,
            "exp": now + 60,
            "jti": f"j{self.count}",
        }
        return sign_with(algorithm, {"alg": algorithm}, claims, key)

    async def ask(self, place: str, text: str) -> tuple[Answer, Work]:
        proof = {"client_assertion_type": JWT_BEARER_ASSERTION, "client_assertion": text}
        fields = {
            "token": {"grant_type": "client_credentials", "resource": LEDGER, **proof},
            "bearer": {"grant_type": JWT_BEARER, "resource": LEDGER, "assertion": text},
            "exchange": {
                "grant_type": TOKEN_EXCHANGE,
                "subject_token": "a.b.c",
                "subject_token_type": ACCESS_TOKEN,
                **proof,
            },
            "introspect": {"token": "a.b.c", **proof},
            "revoke": {"token": "a.b.c", **proof},
        }[place]
        path = "/oauth/" + (place if place in ("introspect", "revoke") else "token")
        with watch() as work:
            answer = await self.desk.post(path, urlencode(fields).encode(), FORM)
        return answer, work


async def register_all(house: FakeHouse) -> Visitor:
    """One identity for each state, with a key of each kind; one of them had its day."""
    named = {algorithm: render_key(key.public_key()) for algorithm, key in KEYS.items()}
    documents = [
        render_identity(f"{state}-{algorithm}".lower(), KEY, client={"keys": [jwk]}, **more)
        for algorithm, jwk in named.items()
        for state, more in (
            *((verb, {}) for verb in STATES),
            ("active", {}),
            ("over", {"expires": "1d"}),
        )
    ]
    await apply(house, *documents)
    for algorithm in KEYS:
        for verb in STATES:
            move = MoveIdentity(name=f"{verb}-{algorithm}".lower(), reason="a test")
            await house.call(f"identity.{verb}", move, ADMIN)
    house.clock.advance(timedelta(days=1, seconds=1))
    await house.settle()
    house.parts.snapshot.hear()
    client: Any = None
    return Visitor(Desk(house, client, client, ""))


@pytest.mark.parametrize("place", ["token", "bearer", "exchange", "introspect", "revoke"])
def test_whoever_is_not_let_in_gets_one_answer_for_as_much_work(place: str, tmp_path: Any) -> None:
    """Unknown, known with another key or kind of key, suspended, quarantined, retired, expired:
    each twice, so that what is remembered of them shows neither."""

    async def run(house: FakeHouse) -> None:
        visitor = await register_all(house)
        answers, reasons = set(), set()
        for algorithm, key in KEYS.items():
            lower = algorithm.lower()
            other = make_another(algorithm)
            names = {
                "unknown": ("nobody", other),
                "another key": (f"active-{lower}", other),
                "another kind of key": (
                    f"active-{'rs256' if algorithm != 'RS256' else 'es256'}",
                    other,
                ),
                "expired": (f"over-{lower}", key),
                **{verb: (f"{verb}-{lower}", key) for verb in STATES},
            }
            for who, (name, used) in [*names.items()] * 2:
                text = visitor.assert_name(name, algorithm, used)
                answer, work = await visitor.ask(place, text)
                answers.add((answer.status, tuple(sorted(answer.headers.items())), answer.body))
                assert (work.verified, work.reads) == ([algorithm], 1), (who, algorithm)
                house.clock.advance(timedelta(seconds=10))
                house.parts.snapshot.hear()
        assert len(answers) == 1
        ((status, _, body),) = answers
        assert status == (400 if place == "bearer" else 401)
        assert b"unknown here" in body
        told = await house.events("token.refused")
        assert len(told) == 3 * 7 * 2
        reasons = {one.body["reason"] for one in told}
        assert len(reasons) == 1

    in_house(run)(tmp_path)


def test_an_issuer_that_nobody_named_takes_as_much_work_as_one_whose_key_is_another(
    tmp_path: Any,
) -> None:
    async def run(house: FakeHouse) -> None:
        outsider = Outsider()
        source_of(house).publish(outsider)
        await apply(
            house,
            render_identity("shop-deploy", make_private_key(50)),
            render_manifest("Issuer", "github", url=GITHUB, identities=[RULE]),
        )
        client: Any = None
        visitor = Visitor(Desk(house, client, client, ""))
        now = int(house.clock.now().timestamp())
        seen = set()
        for issuer in (GITHUB, "https://elsewhere.example"):
            for algorithm in ("RS256", "ES256"):
                claims = {"iss": issuer, "sub": "x", "aud": ORIGIN, "iat": now, "exp": now + 60}
                text = sign_with(algorithm, {"alg": algorithm}, claims, make_another(algorithm))
                answer, work = await visitor.ask("token", text)
                assert work.verified == [algorithm], (issuer, algorithm)
                seen.add((answer.status, answer.body))
        assert len(seen) == 1

    in_house(run)(tmp_path)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.sampled_from(ASSERTION_ALGORITHMS), st.binary(min_size=1, max_size=600))
def test_nobody_ever_signed_anything(algorithm: str, signature: bytes) -> None:
    """Nor does it break, whatever the signature is."""
    header = f'{{"alg":"{algorithm}"}}'.encode()
    text = sign_bytes(header, b"{}", KEY).rpartition(".")[0]
    token = parse_token(f"{text}.{encode_base64url(signature)}")
    with watch() as work, pytest.raises(Invalid):
        verify_for_nobody(token)
    assert work.verified == [algorithm]


def test_not_even_who_guesses_the_key_of_nobody() -> None:
    """It is a well-known one: what it signed proves nothing either."""
    key = ec.derive_private_key(1, ec.SECP256R1())
    assert key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(Invalid, match="No key is known"):
        verify_for_nobody(parse_token(sign({"alg": "ES256"}, {}, key)))
