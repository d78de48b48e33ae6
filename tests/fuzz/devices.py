"""Devices: what they send to the server, and what servers answer to their client."""

from __future__ import annotations

import json
from base64 import b64encode

from tests.fakes.issuer import FakeIssuer, encode_spki, make_private_key
from tests.fuzz.harness import answer, check_refusal, fuzz
from tests.fuzz.mutations import json_documents, mutated_text
from troth.core.errors import TrothError
from troth.core.ids import SpiffeId
from troth.enroll.server import read_bundle, read_credential, read_problem
from troth.operations.enrolment import hash_code, parse_code, render_code
from troth.wire.bundle import render_bundle

CODE = render_code(bytes(range(16)))
ISSUER = FakeIssuer()
KEY = encode_spki(make_private_key())
PLAN = ISSUER.plan(spiffe_id=SpiffeId.of(ISSUER.trust_domain, "/sensor-1"), public_key=KEY)
ROOT = ISSUER.x509.certificate
CREDENTIAL = {
    "identity": "sensor-1",
    "instance_id": "ins_1",
    "spiffe_id": "spiffe://example.org/sensor-1",
    "chain": [b64encode(ISSUER.issue(PLAN)).decode()],
    "x509_authorities": [b64encode(ROOT).decode()],
    "not_after": PLAN.not_after.isoformat(),
    "renew_after": PLAN.not_before.isoformat(),
}
BUNDLE = json.loads(render_bundle([ROOT], [], 1, 300))
PROBLEM = {"code": "conflict", "detail": "Taken."}


@fuzz(mutated_text(CODE, CODE.lower().replace("-", " "), "0" * 28, "-" * 64))
def fuzz_enrolment_code(text: str) -> None:
    secret = answer(parse_code, text)
    if secret is not None:
        assert parse_code(render_code(secret)) == secret
        assert len(hash_code(secret)[0]) == 28


@fuzz(json_documents(CREDENTIAL))
def fuzz_device_credential(body: bytes) -> None:
    found = answer(read_credential, body, KEY, internal=True)
    if found is not None:
        assert found.spiffe_id == CREDENTIAL["spiffe_id"]
        assert found.renew_after <= found.not_after


@fuzz(json_documents(BUNDLE))
def fuzz_device_bundle(body: bytes) -> None:
    roots = answer(read_bundle, "https://localhost", body, internal=True)
    assert roots is None or roots


@fuzz(json_documents(PROBLEM))
def fuzz_device_problem(body: bytes) -> None:
    error = read_problem("https://localhost", 500, body)
    assert isinstance(error, TrothError)
    check_refusal(error, internal=True)
