"""Manifests: YAML as bytes, and values as YAML, the API and the store hand them on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import JSON, mutated, mutated_json
from troth.core.ids import SpiffeId, TrustDomain
from troth.core.manifest.problem import Limits, PlainDocument
from troth.manifests.reading import parse_manifests
from troth.wire.yaml import load_documents

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOMAIN = TrustDomain("example.org")
LIMITS = Limits(trust_domain=DOMAIN, reserved_dns_names=frozenset({"troth.example.org"}))

MANIFEST: dict[str, Any] = {
    "apiVersion": "troth/v1",
    "kind": "Identity",
    "metadata": {"name": "payments-api", "labels": {"env": "prod", "example.org/team": "a"}},
    "spec": {
        "kind": "service",
        "owner": "payments@example.org",
        "purpose": "Takes payments.",
        "environment": "prod",
        "path": "/payments/api",
        "expires": "2026-06-30T00:00:00Z",
        "nodes": ["n1", "*"],
        "selectors": ["unix:uid:1001", "unix:path:/usr/bin/payments"],
        "dnsNames": ["payments.example.org"],
        "ttl": {"x509": "1h", "jwt": "5m"},
        "hint": "internal",
    },
}
TWIN = {**MANIFEST, "metadata": {"name": "other"}, "spec": {**MANIFEST["spec"], "expires": "90d"}}
TEMPLATE: dict[str, Any] = {
    "apiVersion": "troth/v1",
    "kind": "Template",
    "metadata": {"name": "batch", "labels": {"env": "prod"}},
    "spec": {
        "match": ["unix:uid:1000-1999", "systemd:unit:batch-*.service", "unix:path:/opt/**"],
        "nodes": ["n1", "*"],
        "prefix": "/batch",
        "naming": "{node}/{uid}-{unit}/{path}",
        "kind": "job",
        "owner": "batch@example.org",
        "purpose": "Nightly jobs.",
        "environment": "prod",
        "ttl": {"x509": "10m", "jwt": "5m"},
        "hint": "night",
        "unattendedAfter": "7d",
        "retireAfter": "1h",
        "expires": "90d",
        "max": 10,
        "start": "proposed",
    },
}
RIVAL = {**TEMPLATE, "metadata": {"name": "other"}, "spec": {**TEMPLATE["spec"], "prefix": "/o"}}
YAML = b"""\
# a comment
apiVersion: troth/v1
kind: Identity
metadata: {name: payments-api, labels: {env: prod}}
spec:
  kind: service
  owner: "payments@example.org"
  purpose: >-
    Takes
    payments.
  nodes: [n1, '*']
  selectors:
    - unix:uid:1001
  ttl: {x509: 1h, jwt: 5m}
---
? a
: |2
    b
...
"""


@fuzz(
    mutated(YAML, YAML * 2, json.dumps(MANIFEST).encode(), b"a: 1\n", b"%YAML 1.2\n---\na: [b]\n")
)
def fuzz_yaml(data: bytes) -> None:
    documents = answer(load_documents, data, "m.yaml")
    for document in documents or ():
        # JSON is YAML: the same values come back from their JSON text.
        text = json.dumps(document.value, ensure_ascii=False).encode()
        (again,) = load_documents(text, "m.json") or [document]
        assert again.value == document.value
        assert document.positions[()] >= (1, 1)
    if documents is not None:
        parse_manifests(documents, LIMITS, NOW)


@fuzz(st.lists(mutated_json(MANIFEST, TWIN, TEMPLATE, RIVAL) | JSON, max_size=4))
def fuzz_manifest(values: list[Any]) -> None:
    documents = [PlainDocument(value, "m.yaml", number) for number, value in enumerate(values)]
    found = parse_manifests(documents, LIMITS, NOW)
    for problem in found.problems:
        assert "\n" not in str(problem)
        json.dumps(str(problem)).encode()
    assert len(found.specs) <= len(values)
    assert found.errors or len(found.specs) == len(values)
    for spec in found.specs:
        SpiffeId.of(DOMAIN, spec.path)
        assert not spec.path.startswith("/troth/")
        assert LIMITS.ttl_floor <= spec.x509_ttl <= LIMITS.x509_ceiling
        assert LIMITS.ttl_floor <= spec.jwt_ttl <= LIMITS.jwt_ceiling
        assert spec.expires_at is None or spec.expires_at > NOW
        assert spec.nodes
        assert not any(name.endswith("localhost") for name in spec.dns_names)
