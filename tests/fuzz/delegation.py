"""What is asked for in detail, and what a token that is to be exchanged says of itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import json_documents, mutated, mutated_json, mutated_text
from troth.core.jose.jwk import decode_base64url, encode_base64url
from troth.core.jose.jws import STRICT_JSON
from troth.core.tier import Tier, read_tier
from troth.issuance.opaque import PREFIX, find_span, open_token, read_span, seal_token
from troth.issuance.txntoken import TXN
from troth.live.bundle import make_bundle
from troth.operations.exchange import read_claims
from troth.operations.txntoken import read_claims as read_claims_of_transaction
from troth.operations.txntoken import read_transaction
from troth.operations.wish import read_wanted
from troth.policy.resource import Binding, Resource, TokenFormat, TokenTerms
from troth.policy.transaction import extend_context
from troth.sdk.txntoken import _read
from troth.sdk.validator import ValidToken
from troth.wire.oauth.details import MAX_DETAILS, parse_details, read_details, render_details
from troth.wire.oauth.form import Form
from troth.wire.oauth.transaction import MAX_CONTEXT, encode_member, parse_context

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
    "troth_tier": "medium",
}
_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
_KEY = bytes(32)
_OPAQUE = seal_token("a.b.c", _KEY, find_span(_MOMENT), b"n" * 12)
_RAW = decode_base64url(_OPAQUE.removeprefix(PREFIX))


@fuzz(
    mutated_text(_OPAQUE) | mutated(_RAW).map(lambda raw: PREFIX + encode_base64url(raw)),
    examples=200,
)
def fuzz_opaque_token(text: str) -> None:
    """Only what was sealed opens, as it was; what names no span that is near asks for no key."""
    span = answer(read_span, text, _MOMENT)
    found = answer(open_token, text, _KEY)
    assert found in (None, "a.b.c")
    assert found is None or (text == _OPAQUE and span == find_span(_MOMENT))


@fuzz(mutated_json(_CLAIMS).filter(lambda found: isinstance(found, dict)), examples=150)
def fuzz_exchanged_claims(claims: dict[str, Any]) -> None:
    """Claims of a token that we signed, perhaps in another version of ours."""
    claims = claims | {"aud": _LEDGER} if claims.get("aud") != _LEDGER else claims
    token = answer(read_claims, claims, _BUNDLE)
    assert read_tier(claims.get("troth_tier")) in Tier
    if token is not None:
        assert all(isinstance(actor, str) for actor in token.actors)
        assert token.resource is _BUNDLE.resources["ledger"]


_CONTEXT = {"action": "BUY", "quantity": 100, "who": {"geo": ["US", None, True, 1.5]}}
_CONTEXTS = json_documents(_CONTEXT, [_CONTEXT], {"a": {"b": {"c": {}}}}).map(
    lambda raw: raw.decode(errors="surrogateescape")
) | mutated_text(json.dumps(_CONTEXT))


@fuzz(_CONTEXTS, examples=200)
def fuzz_transaction_context(text: str) -> None:
    """What is taken into a token is read out of it as it was, and never changes afterwards."""
    form = Form(
        {
            "audience": ("example.org",),
            "scope": ("read",),
            "subject_token": ("a.b.c",),
            "request_context": (text,),
            "request_details": (text,),
        }
    )
    wanted = answer(read_transaction, form, "example.org")
    found = answer(parse_context, "request_details", text)
    if found is None:
        assert wanted is None
        return
    written = encode_member(found)
    assert len(written) <= MAX_CONTEXT
    assert STRICT_JSON.decode(written.decode()) == found
    assert extend_context("tctx", found, found, encode_member) == found


_TXN_CLAIMS = {
    "aud": "example.org",
    "sub": "spiffe://example.org/a",
    "txn": "txn_1",
    "jti": "tok_1",
    "scope": "read write",
    "req_wl": "spiffe://example.org/a,spiffe://example.org/b",
    "troth_resource": _LEDGER,
    "act": {"sub": "spiffe://example.org/b"},
    "rctx": _CONTEXT,
    "tctx": _CONTEXT,
}


@fuzz(mutated_json(_TXN_CLAIMS).filter(lambda found: isinstance(found, dict)), examples=150)
def fuzz_transaction_claims(claims: dict[str, Any]) -> None:
    """Claims of a transaction token that we signed, perhaps in another version of ours."""
    # What its kind requires was looked at when it was verified.
    if not all(isinstance(claims.get(name), str) for name in TXN.required):
        return
    found = answer(read_claims_of_transaction, claims, "example.org", _BUNDLE)
    if found is not None:
        assert found.resource is _BUNDLE.resources["ledger"]
        assert all(isinstance(one, str) for one in (*found.workloads, *found.actors))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    token = ValidToken("s", "c", (), frozenset(), moment, "j", claims)
    answer(_read, "a.b.c", token)
