"""What OpenSSL, unmodified, makes of our certificates, lists and keys, and we of its requests."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.fakes.issuer import NOW, FakeIssuer
from troth.core.errors import Invalid
from troth.issuance.crl import RevocationReason, RevokedCertificate
from troth.issuance.csr import parse_csr
from troth.issuance.profiles import CRL_LIFETIME, CRL_PERIOD, OUTAGE, X509_TTL_CEILING
from troth.issuance.x509svid import CertificatePlan
from troth.wire.pem import render_pem_certificates, render_pem_crls

OPENSSL = shutil.which("openssl")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed"),
]


def run_openssl(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """OpenSSL's answer, with standard error beside standard output."""
    command = [str(OPENSSL), *map(str, arguments)]
    return subprocess.run(
        command,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=30,
        env={"LC_ALL": "C", "OPENSSL_CONF": "/dev/null"},
    )


def ask_openssl(*arguments: str | Path, stdin: bytes = b"") -> str:
    """What it printed; the test fails when it failed."""
    done = run_openssl(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


class Files:
    """A trust domain's files as a verifier has them."""

    def __init__(self, folder: Path, issuer: FakeIssuer) -> None:
        self.folder, self.issuer = folder, issuer
        self.roots = self.write("ca.pem", render_pem_certificates([issuer.x509.certificate]))

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def write_crl(self, *revoked: RevokedCertificate, number: int = 1) -> Path:
        return self.write("crl.pem", render_pem_crls([self.issuer.issue_crl(revoked, number)]))

    def issue(self, plan: CertificatePlan) -> Path:
        return self.write("leaf.pem", render_pem_certificates([self.issuer.issue(plan)]))

    def verify(self, leaf: Path, *options: str | Path, after: timedelta = timedelta()) -> str:
        done = run_openssl(
            "verify", "-x509_strict", "-CAfile", self.roots,
            "-attime", str(int((NOW + after).timestamp())), *options, leaf,
        )  # fmt: skip
        return done.stdout.decode()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, FakeIssuer())


@pytest.mark.parametrize("purpose", ["sslclient", "sslserver"])
def test_a_leaf_verifies_strictly_as_client_and_as_server(files: Files, purpose: str) -> None:
    leaf = files.issue(files.issuer.plan(dns_names=["api.example.org"]))
    said = files.verify(leaf, "-crl_check", "-CRLfile", files.write_crl(), "-purpose", purpose)
    assert said.endswith("leaf.pem: OK\n")


def test_names_and_addresses_are_matched(files: Files) -> None:
    plan = files.issuer.plan(dns_names=["api.example.org"], ip_addresses=["10.0.0.1", "fd00::1"])
    leaf = files.issue(plan)
    for option, right, wrong in (
        ("-verify_hostname", "api.example.org", "b.example.org"),
        ("-verify_ip", "10.0.0.1", "10.0.0.2"),
        ("-verify_ip", "fd00::1", "fd00::2"),
    ):
        assert "OK" in files.verify(leaf, option, right)
        assert "mismatch" in files.verify(leaf, option, wrong)


def test_a_revoked_leaf_is_refused_and_its_neighbour_is_not(files: Files) -> None:
    bad, good = files.issuer.plan("/bad"), files.issuer.plan("/good")
    crl = files.write_crl(RevokedCertificate(bad.serial, NOW, RevocationReason.KEY_COMPROMISE))
    assert "OK" in files.verify(files.issue(bad)), "without the list nobody knows"
    assert "certificate revoked" in files.verify(files.issue(bad), "-crl_check", "-CRLfile", crl)
    assert "OK" in files.verify(files.issue(good), "-crl_check", "-CRLfile", crl)


def test_without_a_list_or_with_an_old_one_a_checking_verifier_refuses(files: Files) -> None:
    leaf = files.issue(files.issuer.plan(ttl=X509_TTL_CEILING))
    assert "unable to get certificate CRL" in files.verify(leaf, "-crl_check")
    checking = ("-crl_check", "-CRLfile", files.write_crl())
    late = files.verify(leaf, *checking, after=CRL_LIFETIME + timedelta(seconds=1))
    assert "CRL has expired" in late


def test_a_list_outlives_the_longest_leaf_and_the_longest_outage(files: Files) -> None:
    leaf = files.issue(files.issuer.plan(ttl=X509_TTL_CEILING))
    checking = ("-crl_check", "-CRLfile", files.write_crl())
    assert "OK" in files.verify(leaf, *checking, after=X509_TTL_CEILING - timedelta(seconds=1))
    late = files.verify(leaf, *checking, after=OUTAGE + CRL_PERIOD)
    assert "certificate has expired" in late
    assert "CRL" not in late


def test_a_leaf_is_refused_outside_its_time(files: Files) -> None:
    leaf = files.issue(files.issuer.plan(ttl=timedelta(minutes=5)))
    assert "OK" in files.verify(leaf, after=-timedelta(seconds=9))
    assert "not yet valid" in files.verify(leaf, after=-timedelta(seconds=12))
    assert "OK" in files.verify(leaf, after=timedelta(minutes=4, seconds=59))
    assert "has expired" in files.verify(leaf, after=timedelta(minutes=5, seconds=2))


def test_another_root_of_the_same_trust_domain_does_not_vouch(files: Files) -> None:
    leaf = files.issue(files.issuer.plan())
    other = render_pem_certificates([FakeIssuer(seed=99).x509.certificate])
    files.roots = files.write("other.pem", other)
    assert "unable to get local issuer certificate" in files.verify(leaf)


def test_during_a_rotation_each_leaf_finds_its_root_and_its_list(files: Files) -> None:
    """Two roots of one trust domain in one file, and both their lists in another."""
    old, new = files.issuer, FakeIssuer(seed=99)
    plans = old.plan("/old"), new.plan("/new")
    revoked = new.plan("/bad")
    roots = [old.x509.certificate, new.x509.certificate]
    files.roots = files.write("ca.pem", render_pem_certificates(roots))
    lists = [old.issue_crl(), new.issue_crl([RevokedCertificate(revoked.serial, NOW)])]
    checking = ("-crl_check", "-CRLfile", files.write("crl.pem", render_pem_crls(lists)))
    for issuer, plan, said in (
        (old, plans[0], "OK"),
        (new, plans[1], "OK"),
        (new, revoked, "certificate revoked"),
    ):
        leaf = files.write("leaf.pem", render_pem_certificates([issuer.issue(plan)]))
        assert said in files.verify(leaf, *checking)


def test_a_leaf_cannot_sign_another(files: Files) -> None:
    first = files.issue(files.issuer.plan())
    said = run_openssl("verify", "-partial_chain", "-purpose", "crlsign", "-trusted", first, first)
    assert said.returncode != 0


def test_the_text_of_a_leaf_says_what_we_mean(files: Files) -> None:
    plan = files.issuer.plan(dns_names=["api.example.org"], crl_url="http://troth.example/crl/1")
    text = ask_openssl("x509", "-in", files.issue(plan), "-noout", "-text")
    flat = re.sub(r"\s+", " ", text)
    for wanted in (
        "Version: 3 (0x2)",
        "Signature Algorithm: ecdsa-with-SHA256",
        "Not Before: Jan 1 11:59:50 2026 GMT",
        "Not After : Jan 1 13:00:00 2026 GMT",
        "ASN1 OID: prime256v1",
        "X509v3 Basic Constraints: critical CA:FALSE",
        "X509v3 Key Usage: critical Digital Signature X509v3",
        "TLS Web Server Authentication, TLS Web Client Authentication X509v3",
        "X509v3 Subject Alternative Name: critical "
        "URI:spiffe://example.org/payments, DNS:api.example.org X509v3",
        "URI:http://troth.example/crl/1",
    ):
        assert wanted in flat, text
    assert re.search(r"Subject: ?\n", text), "the subject is empty"


def test_the_text_of_a_root_says_what_we_mean(files: Files) -> None:
    flat = re.sub(r"\s+", " ", ask_openssl("x509", "-in", files.roots, "-noout", "-text"))
    for wanted in (
        "X509v3 Basic Constraints: critical CA:TRUE, pathlen:0",
        "X509v3 Key Usage: critical Certificate Sign, CRL Sign",
        "URI:spiffe://example.org X509v3",
        "O = troth, CN = example.org, serialNumber =",
    ):
        assert wanted in flat
    assert "OK" in files.verify(files.roots, "-check_ss_sig")


def test_a_list_reads_as_a_version_2_list_and_verifies(files: Files) -> None:
    revoked = [
        RevokedCertificate(0xBEEF, NOW, RevocationReason.CESSATION_OF_OPERATION),
        RevokedCertificate(0x5, NOW),
    ]
    crl = files.write_crl(*revoked, number=77)
    text = ask_openssl("crl", "-in", crl, "-noout", "-text", "-CAfile", files.roots)
    flat = re.sub(r"\s+", " ", text)
    for wanted in (
        "verify OK",
        "Version 2 (0x1)",
        "X509v3 CRL Number: 77",
        "X509v3 Authority Key Identifier:",
        "Last Update: Jan 1 12:00:00 2026 GMT",
        "Next Update: Jan 4 12:00:00 2026 GMT",
        "X509v3 CRL Reason Code: Cessation Of Operation",
    ):
        assert wanted in flat, text
    assert flat.index("Serial Number: 05") < flat.index("Serial Number: BEEF")


def test_an_empty_list_says_so(files: Files) -> None:
    text = ask_openssl("crl", "-in", files.write_crl(), "-noout", "-text", "-CAfile", files.roots)
    assert "No Revoked Certificates" in text


def test_everything_is_der_to_the_last_byte(files: Files) -> None:
    issuer = files.issuer
    many = [RevokedCertificate(serial, NOW) for serial in range(1, 300)]
    for der in (issuer.x509.certificate, issuer.issue(issuer.plan()), issuer.issue_crl(many)):
        text = ask_openssl("asn1parse", "-inform", "DER", stdin=der)
        offset, header, length = re.findall(
            r"^ *(\d+):d=0 +hl= *(\d+) l= *(\d+)", text, re.MULTILINE
        )[0]
        assert int(offset) + int(header) + int(length) == len(der)
        assert len(re.findall(r"^ *\d+:d=0 ", text, re.MULTILINE)) == 1


def test_a_signature_verifies_with_the_exported_key(files: Files) -> None:
    data = files.write("data", b"to be signed")
    signature = files.issuer.keystore.sign("x509", b"to be signed")
    decode_dss_signature(signature)
    public = files.write("key.der", files.issuer.keystore.public_key("x509"))
    said = ask_openssl(
        "dgst", "-sha256", "-verify", public, "-keyform", "DER",
        "-signature", files.write("signature", signature), data,
    )  # fmt: skip
    assert said == "Verified OK\n"


def _request(tmp_path: Path, *options: str) -> bytes:
    key, csr = tmp_path / "key.pem", tmp_path / "request.der"
    config = tmp_path / "openssl.cnf"
    config.write_text("[req]\ndistinguished_name = name\n[name]\n")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    ask_openssl(
        "req", "-new", "-nodes", "-config", config, "-subj", "/CN=ignored", "-keyout", key,
        "-outform", "DER", "-out", csr, *(options if "-newkey" in options else curve + options),
    )  # fmt: skip
    return csr.read_bytes()


def test_openssls_request_is_accepted_and_its_key_certified(files: Files, tmp_path: Path) -> None:
    public_key = parse_csr(_request(tmp_path))
    leaf = files.issue(files.issuer.plan(public_key=public_key))
    assert "OK" in files.verify(leaf)
    theirs = ask_openssl("pkey", "-in", tmp_path / "key.pem", "-pubout")
    assert ask_openssl("x509", "-in", leaf, "-noout", "-pubkey") == theirs


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-addext", "subjectAltName=URI:spiffe://example.org/admin"], "The server sets the names"),
        (["-addext", "basicConstraints=critical,CA:TRUE"], "CA:true"),
        (["-addext", "keyUsage=keyCertSign"], "keyUsage"),
        (["-newkey", "rsa:2048"], "RSA key of 2048 bits"),
        (["-newkey", "rsa:1024"], "weak RSA key of 1024 bits"),
        (["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"], "curve secp384r1"),
        (["-newkey", "ed25519"], "Ed25519"),
        (["-sha1"], "signature is wrong"),
    ],
    ids=["names", "CA", "usage", "RSA", "weak RSA", "P-384", "Ed25519", "SHA-1"],
)
def test_openssls_request_for_more_is_refused(
    tmp_path: Path, options: list[str], sentence: str
) -> None:
    with pytest.raises(Invalid, match=sentence):
        parse_csr(_request(tmp_path, *options))


def test_a_key_with_explicit_curve_parameters_is_refused(tmp_path: Path) -> None:
    """CVE-2020-0601 ("Curveball") in another library: parameters that the asker chose."""
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    with pytest.raises(Invalid, match="must name the curve P-256"):
        parse_csr(_request(tmp_path, *options, "-pkeyopt", "ec_param_enc:explicit"))
