"""Access tokens a second by client credentials, each recorded before its answer, on one core.

Distinct identities, each with a key of its own, prove themselves by `private_key_jwt` over TLS on
32 connections; the assertions are made before. The reference, on the same core and in the same run,
is what no such server can do without: one P-256 verification and one P-256 signature, bare.
"""

from __future__ import annotations

import json
import os
import ssl
import statistics
import time
from urllib.parse import urlencode

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from benchmarks.installation import (
    SERVER_CORES,
    Installation,
    leave_server_cores,
    run_server,
    run_together,
)
from benchmarks.report import print_rates, say
from benchmarks.requests import Line, make_post, quantile
from troth.core.jose.jwk import encode_base64url, render_key
from troth.operations.client import JWT_BEARER_ASSERTION
from troth.wire.api.manifests import ManifestDocument, SubmitManifests

IDENTITIES = 1000
CONNECTIONS = 32
RUNS = 5
EACH = 100
SIGNATURES = 3000
RATIO = 0.25
RESOURCE = "https://bench.example.org"


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    rates, shares, costs, references = [], [], [], [measure_reference()]
    times: list[float] = []
    with run_server() as server:
        leave_server_cores()
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(IDENTITIES)]
        register(server, keys)
        context = ssl.create_default_context(cafile=str(server.folder / "ca.pem"))
        lines = [Line(server.public, context) for _ in range(CONNECTIONS)]
        ask(lines, make_batches(server, keys, 10), [])
        for number in range(RUNS):
            batches = make_batches(server, keys, EACH)
            before = server.measure_cpu()
            seconds = ask(lines, batches, times)
            used, count = server.measure_cpu() - before, CONNECTIONS * EACH
            rates.append(count / seconds)
            shares.append(used / seconds)
            costs.append(used * 1e6 / count)
            references.append(measure_reference())
            say(f"run {number + 1}: {rates[-1]:.0f} a second, reference {references[-1]:.0f}")
        for line in lines:
            line.close()
    print_rates(
        "token",
        rates,
        references,
        least=RATIO,
        reference_is="one P-256 verification and one signature by the library, on one core",
        database="SQLite, one fsync a commit at least, before the answer",
        identities=IDENTITIES,
        connections=CONNECTIONS,
        p50_ms=round(quantile(times, 0.5) * 1e3, 2),
        p99_ms=round(quantile(times, 0.99) * 1e3, 2),
        server_cpu_us_each=round(statistics.median(costs), 1),
        server_core_share=round(statistics.median(shares), 2),
    )


def register(server: Installation, keys: list[ec.EllipticCurvePrivateKey]) -> None:
    """The resource, the role, and an identity for each key."""
    common = {"owner": "bench@example.org", "purpose": "Measures"}
    specs = [
        ("Resource", "bench", {"identifiers": [RESOURCE], "actions": {"read": "See it"}}),
        ("Role", "reader", {"permissions": [{"resource": "bench", "actions": ["read"]}]}),
    ]
    for number, key in enumerate(keys):
        jwk = render_key(key.public_key())
        spec = {"kind": "service", "roles": ["reader"], "client": {"keys": [jwk]}}
        specs.append(("Identity", f"client-{number}", spec))
    documents = [
        ManifestDocument(
            value={
                "apiVersion": "troth/v1",
                "kind": kind,
                "metadata": {"name": name},
                "spec": {**common, **spec},
            }
        )
        for kind, name, spec in specs
    ]
    with server.open_admin() as admin:
        admin.call("manifest.apply", SubmitManifests(documents=documents))


def make_batches(
    server: Installation, keys: list[ec.EllipticCurvePrivateKey], each: int
) -> list[list[bytes]]:
    """Requests for each connection, every one with a fresh assertion of another identity."""
    host = server.public.removeprefix("https://")
    return [
        [
            make_request(server.public, host, keys, connection + number * CONNECTIONS)
            for number in range(each)
        ]
        for connection in range(CONNECTIONS)
    ]


def make_request(
    origin: str, host: str, keys: list[ec.EllipticCurvePrivateKey], number: int
) -> bytes:
    """A token request as bytes."""
    which = number % len(keys)
    name = f"spiffe://troth.local/client-{which}"
    now = int(time.time())
    claims = {
        "iss": name,
        "sub": name,
        "aud": origin,
        "iat": now,
        "exp": now + 600,
        "jti": encode_base64url(os.urandom(16)),
    }
    header = encode_base64url(b'{"alg":"ES256","typ":"JWT"}')
    content = f"{header}.{encode_base64url(msgspec.json.encode(claims))}"
    signature = keys[which].sign(content.encode(), ec.ECDSA(hashes.SHA256()))
    r, s = decode_dss_signature(signature)
    assertion = f"{content}.{encode_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
    form = urlencode(
        {
            "grant_type": "client_credentials",
            "client_assertion_type": JWT_BEARER_ASSERTION,
            "client_assertion": assertion,
            "resource": RESOURCE,
        }
    )
    kind = "content-type: application/x-www-form-urlencoded"
    return make_post(host, "/oauth/token", form.encode(), kind)


def ask(lines: list[Line], batches: list[list[bytes]], times: list[float]) -> float:
    """Ask all of it, each connection its own batch; seconds until all is answered."""

    def work(number: int) -> None:
        line = lines[number]
        for request in batches[number]:
            began = time.perf_counter()
            status, body = line.ask(request)
            times.append(time.perf_counter() - began)
            if status != 200 or "access_token" not in json.loads(body):
                raise RuntimeError(f"{status}: {body[:500]!r}")

    return run_together(len(lines), work)


def measure_reference() -> float:
    """Verifications with a signature each, a second, by the library alone, on the server's core."""
    key, data = ec.generate_private_key(ec.SECP256R1()), bytes(400)
    algorithm = ec.ECDSA(hashes.SHA256())
    public, signature = key.public_key(), key.sign(data, algorithm)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, SERVER_CORES)
    try:
        began = time.perf_counter()
        for _ in range(SIGNATURES):
            public.verify(signature, data, algorithm)
            key.sign(data, algorithm)
        return SIGNATURES / (time.perf_counter() - began)
    finally:
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
