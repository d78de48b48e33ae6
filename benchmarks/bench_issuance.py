"""X.509-SVIDs a second, from a CSR on the wire to a stored result, by one server on one core.

A node's agent asks for batches of 256 over mutual TLS, on a few connections at once; the answer to
a batch is given when its certificates and their journal entries are on disk. The reference, on the
same core and before and after, is what the `cryptography` library alone needs for each: parse the
CSR, verify it, build the same certificate, sign it. Troth does each of these too, and beside them
signs a draft that it lints, verifies what it signed, checks who asks twice, and records it twice.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from benchmarks.installation import (
    SELECTOR,
    SERVER_CORES,
    leave_server_cores,
    make_csr,
    run_server,
    run_together,
)
from benchmarks.report import print_rates, say
from tests.fakes.postgres import start_cluster
from troth.wire.api.certificates import (
    CertificateRequest,
    InstanceClaim,
    IssueCertificates,
    IssuedCertificates,
)

BATCH = 256
IDENTITIES = 8
CONNECTIONS = 3
BATCHES = 4
RUNS = 5
RATIO = 0.30
ROUTE = "/v1/certificates/issue"


@dataclass(frozen=True, slots=True)
class Measured:
    """Runs on one database: certificates a second, the library alone beside each, and the
    server's share of its core and microseconds for each certificate."""

    rates: list[float]
    references: list[float]
    shares: list[float]
    costs: list[float]


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    csrs = [make_csr() for _ in range(BATCH)]
    measured = measure(csrs, "")
    print_rates(
        "issuance",
        measured.rates,
        measured.references,
        least=RATIO,
        reference_is="cryptography alone on one core: CSR parse, verify, build, sign",
        database="SQLite, one fsync a commit at least, before the answer",
        batch=BATCH,
        connections=CONNECTIONS,
        identities=IDENTITIES,
        server_cpu_us_each=round(statistics.median(measured.costs), 1),
        server_core_share=round(statistics.median(measured.shares), 2),
        postgresql=measure_postgresql(csrs),
    )


def measure_postgresql(csrs: list[bytes]) -> dict[str, Any] | None:
    """The same on a PostgreSQL server on the other cores; None where it isn't installed."""
    cluster = start_cluster()
    if cluster is None:
        return None
    try:
        measured = measure(csrs, cluster.create_database())
    finally:
        cluster.remove()
    value = statistics.median(measured.rates)
    return {
        "value": round(value, 1),
        "ratio": round(value / statistics.median(measured.references), 4),
        "runs": [round(rate, 1) for rate in measured.rates],
        "server_cpu_us_each": round(statistics.median(measured.costs), 1),
        "server_core_share": round(statistics.median(measured.shares), 2),
    }


def measure(csrs: list[bytes], database: str) -> Measured:
    """Issue on a server of its own, on the database at that URL or on SQLite."""
    rates: list[float] = []
    shares: list[float] = []
    costs: list[float] = []
    references = [measure_reference(csrs)]
    with run_server(database=database) as server:
        leave_server_cores()
        ids = [server.register(f"bench-{number}").id for number in range(IDENTITIES)]
        bodies = [make_body(csrs, ids, number) for number in range(CONNECTIONS)]
        with server.join() as client:  # its pool opens a connection for each thread
            run_together(CONNECTIONS, lambda n: issue(client, bodies[n], 1))
            for number in range(RUNS):
                before = server.measure_cpu()
                seconds = run_together(CONNECTIONS, lambda n: issue(client, bodies[n], BATCHES))
                rates.append(CONNECTIONS * BATCHES * BATCH / seconds)
                used = server.measure_cpu() - before
                shares.append(used / seconds)
                costs.append(used * 1e6 / (CONNECTIONS * BATCHES * BATCH))
                references.append(measure_reference(csrs))
                say(f"run {number + 1}: {rates[-1]:.0f} a second, reference {references[-1]:.0f}")
    return Measured(rates, references, shares, costs)


def make_body(csrs: list[bytes], ids: list[str], number: int) -> bytes:
    """A request for every CSR, each from a running copy of its own, as JSON."""
    requests = [
        CertificateRequest(
            identity_id=ids[index % len(ids)],
            csr=csr,
            instance=InstanceClaim(
                key=f"{number:016x}{index:016x}", pid=1000 + index, selectors=[SELECTOR]
            ),
        )
        for index, csr in enumerate(csrs)
    ]
    return msgspec.json.encode(IssueCertificates(requests=requests))


def issue(client: httpx.Client, body: bytes, times: int) -> None:
    """Send a batch again and again; every answer must be a certificate."""
    for _ in range(times):
        answer = client.post(ROUTE, content=body)
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {answer.text[:500]}")
        results = msgspec.json.decode(answer.content, type=IssuedCertificates).results
        refused = [result.error.detail for result in results if result.error]
        if refused or len(results) != BATCH:
            raise RuntimeError(f"{len(refused)} of {len(results)} refused: {refused[:1]}")


def measure_reference(csrs: list[bytes]) -> float:
    """Certificates a second by the library alone, on the server's core."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "reference")])
    now = datetime.now(UTC)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, SERVER_CORES)
    try:
        began = time.perf_counter()
        for csr in csrs * 2:
            make_certificate(csr, key, name, now)
        return 2 * len(csrs) / (time.perf_counter() - began)
    finally:
        os.sched_setaffinity(0, cores)


def make_certificate(
    csr: bytes, key: ec.EllipticCurvePrivateKey, name: x509.Name, now: datetime
) -> bytes:
    """A certificate with what an X.509-SVID of troth has in it."""
    request = x509.load_der_x509_csr(csr)
    if not request.is_signature_valid:
        raise RuntimeError("the CSR isn't valid")
    public_key = request.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    uri = x509.UniformResourceIdentifier("spiffe://example.org/bench")
    crl = x509.UniformResourceIdentifier("http://localhost:8443/crl/aut_0123456789.crl")
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage, True),
        (x509.ExtendedKeyUsage(purposes), False),
        (x509.SubjectAlternativeName([uri]), True),
        (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
        (x509.AuthorityKeyIdentifier(bytes(20), None, None), False),
        (
            x509.CRLDistributionPoints([x509.DistributionPoint([crl], None, None, None)]),
            False,
        ),
    ]
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=x509.Name([]),
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        not_valid_before=(now - timedelta(seconds=10)).replace(tzinfo=None),
        not_valid_after=(now + timedelta(hours=1)).replace(tzinfo=None),
        # In one piece, as troth does it: the builder's own method copies itself each time.
        extensions=[x509.Extension(value.oid, critical, value) for value, critical in extensions],
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


if __name__ == "__main__":
    main()
