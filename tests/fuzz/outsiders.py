"""Outside issuers: their manifests, their documents, the headers of their answers."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.harness import answer, fuzz
from tests.fuzz.manifests import LIMITS, NOW
from tests.fuzz.mutations import JSON, json_documents, mutated_json, mutated_text
from troth.core.jose.jws import ALGORITHMS
from troth.core.manifest.problem import PlainDocument
from troth.drivers.issuers.https import may_ask, may_ask_private, read_max_age
from troth.identity.issuer import find_meant, fits_text
from troth.manifests.reading import parse_manifests
from troth.wire.oauth.jwks import choose_key, parse_discovery, parse_key_set

URL = "https://id.example.net"
CLAIMS: dict[str, Any] = {
    "sub": "repo:acme@1/shop@2:ref:refs/heads/main",
    "project_id": 22,
    "kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": "shop"}},
    "groups": ["a", "b"],
}
ISSUER: dict[str, Any] = {
    "apiVersion": "troth/v1",
    "kind": "Issuer",
    "metadata": {"name": "outside"},
    "spec": {
        "owner": "platform@example.org",
        "purpose": "Pipelines.",
        "url": URL,
        "jwksUri": f"{URL}/keys",
        "ca": "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        "privateNetwork": True,
        "audience": "troth",
        "algorithms": ["ES256", "RS256"],
        "maxLife": "10m",
        "identities": [
            {"identity": "shop", "claims": CLAIMS},
            {"identity": "till", "claims": {"sub": ["a/b-*", "c"], "x": True}},
        ],
    },
}
PLAIN = {**ISSUER, "spec": {name: one for name, one in ISSUER["spec"].items() if name != "ca"}}
KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY",
    "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
    "kid": "k1",
    "use": "sig",
    "alg": "ES256",
    "key_ops": ["verify"],
}
"""The base point of the curve."""


@fuzz(st.tuples(mutated_json(ISSUER, PLAIN), mutated_json(CLAIMS) | JSON))
def fuzz_issuer_manifest(given: tuple[Any, Any]) -> None:
    value, claims = given
    found = parse_manifests([PlainDocument(value, "m.yaml")], LIMITS, NOW)
    for problem in found.problems:
        assert "\n" not in str(problem)
    for issuer in found.issuers:
        assert issuer.url.startswith("https://")
        assert set(issuer.algorithms) <= set(ALGORITHMS)
        assert all(rule.conditions for rule in issuer.identities)
        assert find_meant(issuer, {}) is None
        if isinstance(claims, dict):
            find_meant(issuer, claims)


@fuzz(
    st.tuples(mutated_text("repo:acme/*:ref", "a*b/c"), mutated_text("repo:acme/shop:ref", "axb/c"))
)
def fuzz_condition(given: tuple[str, str]) -> None:
    pattern, text = given
    assert not (fits_text(pattern, text) and "*" not in pattern and pattern != text)


@fuzz(json_documents({"issuer": URL, "jwks_uri": f"{URL}/keys"}))
def fuzz_discovery(body: bytes) -> None:
    uri = answer(parse_discovery, body, URL)
    if uri is not None:
        assert uri.startswith("https://")
        assert json.loads(body)["issuer"] == URL


@fuzz(json_documents({"keys": [KEY, {**KEY, "kid": "k2", "use": "enc"}]}))
def fuzz_key_set(body: bytes) -> None:
    keys = answer(parse_key_set, body) or ()
    for key in keys:
        assert key.algorithm in ("", *ALGORITHMS)
        found = choose_key(keys, key.kid, "ES256")
        assert found is None or found.kid == key.kid


@fuzz(
    st.tuples(
        mutated_text("public, max-age=600", "no-store"),
        mutated_text("10.0.0.1", "::ffff:10.0.0.1", "8.8.8.8", "64:ff9b::a00:1"),
    )
)
def fuzz_issuer_answer(given: tuple[str, str]) -> None:
    control, address = given
    age = read_max_age(control)
    assert age is None or timedelta(0) <= age
    assert may_ask_private(address) or not may_ask(address)
