"""What is asked for in detail, and what a token that is to be exchanged says of itself."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import json_documents, mutated_json, mutated_text
from troth.live.bundle import make_bundle
from troth.operations.exchange import read_claims
from troth.operations.wish import read_wanted
from troth.policy.resource import Binding, Resource, TokenFormat, TokenTerms
from troth.wire.oauth.details import MAX_DETAILS, parse_details, read_details, render_details
from troth.wire.oauth.form import Form

_LEDGER = "https://ledger.example.org"
_DETAIL = {
    "type": "troth_action",
    "actions": ["read", "write"],
    "locations": [_LEDGER],
    "identifier": "invoice 7",
}
_TEXTS = json_documents([_DETAIL], [_DETAIL, _DETAIL], [{"type": "x"}]).map(
    lambda raw: raw.decode(errors="surrogateescape")
) | mutated_text(json.dumps([_DETAIL]))


@fuzz(_TEXTS, examples=200)
def fuzz_authorization_details(text: str) -> None:
    """What is granted is written again from what was understood, and reads the same."""
    found = answer(parse_details, text)
    wanted = answer(read_wanted, Form({"authorization_details": (text,)}))
    assert wanted is None or list(wanted.details) == found
    if found is None:
        return
    assert 1 <= len(found) <= MAX_DETAILS
    written = json.loads(json.dumps(render_details(found)))
    assert read_details(written) == found


_BUNDLE = make_bundle(
    1,
    [],
    [
        Resource(
            "ledger",
            {},
            "o",
            "p",
            (_LEDGER,),
            (),
            {"read": "See it"},
            (),
            TokenTerms(TokenFormat.JWT, "ES256", timedelta(minutes=5), Binding.NONE),
        )
    ],
    [],
)
_CLAIMS = {
    "iss": "https://localhost:8443",
    "sub": "spiffe://example.org/a",
    "aud": _LEDGER,
    "client_id": "spiffe://example.org/a",
    "scope": "read write",
    "act": {"sub": "spiffe://example.org/b", "act": {"sub": "spiffe://example.org/c"}},
    "cnf": {"x5t#S256": "x"},
    "may_act": {"sub": "spiffe://example.org/d"},
    "troth_passed": ["https://archive.example.org"],
    "authorization_details": [_DETAIL],
}


@fuzz(mutated_json(_CLAIMS).filter(lambda found: isinstance(found, dict)), examples=150)
def fuzz_exchanged_claims(claims: dict[str, Any]) -> None:
    """Claims of a token that we signed, perhaps in another version of ours."""
    claims = claims | {"aud": _LEDGER} if claims.get("aud") != _LEDGER else claims
    token = answer(read_claims, claims, _BUNDLE)
    if token is not None:
        assert all(isinstance(actor, str) for actor in token.actors)
        assert token.resource is _BUNDLE.resources["ledger"]
