"""Access tokens that somebody shows, and how who asks about them wants to be answered."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import strategies as st

from tests.fakes.issuer import NOW, make_private_key
from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import json_documents, mutated_text
from troth.core.jose.jwk import encode_base64url
from troth.issuance.accesstoken import LEEWAY, TYP, list_actors, verify_access_token
from troth.issuance.instance import list_instances
from troth.issuance.introspection import MEDIA_TYPE
from troth.issuance.jwtsvid import finish_jwt
from troth.operations.introspection import accepts

ISSUER = "https://localhost:8443"
KEY = make_private_key(3)
KEYS: Any = {"k": (KEY.public_key(), "ES256")}
_HEADER = {"alg": "ES256", "kid": "k", "typ": TYP}
_SECOND = int(NOW.timestamp())
_CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "spiffe://example.org/a",
    "aud": ["https://ledger.example.org"],
    "client_id": "spiffe://example.org/b",
    "iat": _SECOND,
    "exp": _SECOND + 60,
    "jti": "tok_1",
    "scope": "read",
    "act": {"sub": "spiffe://example.org/c", "act": {"sub": "spiffe://example.org/d"}},
    "troth_instances": ["ins_1", "ins_2"],
}


def _sign(header: bytes, claims: bytes) -> str:
    content = f"{encode_base64url(header)}.{encode_base64url(claims)}".encode()
    return finish_jwt(content, KEY.sign(content, ec.ECDSA(hashes.SHA256())))


_SOUND = _sign(json.dumps(_HEADER).encode(), json.dumps(_CLAIMS).encode())
_ODD = [{**_CLAIMS, "exp": 1e300}, {**_CLAIMS, "act": []}, {**_CLAIMS, "iat": True}]
_TOKENS = (
    mutated_text(_SOUND)
    | st.builds(_sign, st.just(json.dumps(_HEADER).encode()), json_documents(_CLAIMS, *_ODD))
    | st.builds(
        _sign,
        json_documents(_HEADER, {**_HEADER, "jwk": {}}, {**_HEADER, "crit": ["exp"]}),
        st.just(json.dumps(_CLAIMS).encode()),
    )
)


@fuzz(_TOKENS, examples=200)
def fuzz_access_token(text: str) -> None:
    """Signed by our own key, so that claims are reached; only sound ones pass."""
    now = NOW + timedelta(seconds=1)
    verify = partial(verify_access_token, issuer_url=ISSUER, keys=KEYS, now=now)
    token = answer(verify, text)
    if token is None:
        return
    assert str(token.header["typ"]).lower().removeprefix("application/") == TYP
    assert token.claims["iss"] == ISSUER
    assert token.claims["exp"] > (now - LEEWAY).timestamp()
    assert all(isinstance(token.claims[name], str) for name in ("sub", "client_id", "jti"))
    actors = answer(list_actors, token.claims)
    assert actors is None or all(isinstance(actor, str) for actor in actors)
    instances = answer(list_instances, token.claims)
    assert instances is None or all(isinstance(one, str) for one in instances)


@fuzz(mutated_text(f"application/json, {MEDIA_TYPE};q=0.5"))
def fuzz_accept(header: str) -> None:
    """Whatever is sent, it asks for the signed form only if it names it."""
    assert not accepts(header, MEDIA_TYPE) or MEDIA_TYPE in header.lower()
