"""Other people's clients on a whole installation: PyPI's spiffe and spiffe-tls, openssl, curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.processes import Server, find_authority, wait_for
from troth.wire.api.identities import NameIdentity

pytest.importorskip("spiffetls", reason="the PyPI package 'spiffe-tls' isn't installed")
pytestmark = [pytest.mark.e2e, pytest.mark.interop]

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed"
)
LISTS = "http://lists.example.org/troth"
OPERATOR = "spiffe://troth.local/operator"


@pytest.fixture(scope="module")
def settings() -> str:
    return f'[roles.spiffe_ids]\n"{OPERATOR}" = "operator"\n\n[crl]\nurl = "{LISTS}"\n'


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=20,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
    )


def test_mutual_tls_between_two_services(troth, programs, run_program):
    ids = {}
    for name in ("orders", "billing", "stranger"):
        ids[name] = troth.register(name, *programs.selectors(name)).spiffe_id
    orders, billing, stranger = (
        run_program(name, troth.endpoint, script="peer.py") for name in ids
    )
    assert orders.ask("who")["spiffe_id"] == ids["orders"]
    port = orders.ask("serve", allowed=ids["billing"])["port"]

    answer = billing.ask("dial", port=port, expected=ids["orders"])
    assert answer["peer"] == ids["orders"], answer
    assert answer["line"] == f"hello {ids['billing']}"
    served = orders.expect(lambda told: told["event"] == "served", "a connection")
    assert served["peer"] == ids["billing"]

    # The library's own checks find what they look for: wrong server, wrong client.
    assert "failure" in billing.ask("dial", port=port, expected=ids["stranger"])
    orders.expect(lambda told: told["event"] == "turned away", "the client that left")
    answer = stranger.ask("dial", port=port, expected=ids["orders"])
    assert answer.get("line", "") == ""
    orders.expect(lambda told: told["event"] == "turned away", "the wrong client")

    # A new certificate arrives on the open stream, and connections go on with it.
    before = orders.ask("who")["serial"]
    troth.move("orders", "suspend")
    troth.move("orders", "resume")
    news = orders.expect(
        lambda told: told["event"] == "update" and told["serial"] != before, "the new certificate"
    )
    assert orders.ask("who")["serial"] == news["serial"]
    answer = billing.ask("dial", port=port, expected=ids["orders"])
    assert answer.get("peer") == ids["orders"], answer


def test_a_library_that_looks_at_no_list_accepts_until_the_end(troth, programs, run_program):
    """What revocation can't reach (revocation-reach.md), so that nobody counts on it."""
    ids = {}
    for name in ("lists-none", "cut-off"):
        ids[name] = troth.register(name, *programs.selectors(name)).spiffe_id
    server, client = (run_program(name, troth.endpoint, script="peer.py") for name in ids)
    port = server.ask("serve", allowed=ids["cut-off"])["port"]
    kept = client.ask("who")["serial"]
    troth.move("cut-off", "quarantine")
    revoked = troth.wait_for_journal("certificate.revoked", ids["cut-off"])
    wait_for(
        lambda: [e for e in troth.read_journal("crl.published") if e.position > revoked.position],
        "a list that holds it",
    )
    answer = client.ask("dial", port=port, expected=ids["lists-none"])
    assert client.ask("who")["serial"] == kept
    assert answer.get("line") == f"hello {ids['cut-off']}", answer


@pytest.fixture
def write_svid(troth, programs, run_program, folder):
    """Registers an identity and writes its SVID as files, as `svid fetch --write` would."""

    def write(name: str) -> tuple[Path, Path]:
        troth.register(name, *programs.selectors(name))
        place = folder / name
        place.mkdir()
        workload = run_program(name, troth.endpoint)
        assert "svids" in workload.ask("write", folder=str(place))
        return place / "svid.pem", place / "svid.key"

    return write


def fetch_crl(troth: Server, folder: Path) -> Path:
    """The published list as PEM, by curl."""
    raw, pem = folder / "list.der", folder / "list.pem"
    address = f"{troth.url}/crl/{find_authority(troth)}.crl"
    done = run("curl", "--fail", "--cacert", troth.data / "ca.pem", "-sS", "-o", raw, address)
    assert done.returncode == 0, done.stderr
    done = run("openssl", "crl", "-inform", "DER", "-in", raw, "-out", pem)
    assert done.returncode == 0, done.stderr
    return pem


@needs_curl
@needs_openssl
def test_openssl_and_curl_agree_on_who_is_revoked(troth, write_svid, folder):
    certificate, _ = write_svid("checked")
    ca = troth.data / "ca.pem"

    def verify() -> subprocess.CompletedProcess[str]:
        crl = fetch_crl(troth, folder)
        checking = ("-crl_check", "-x509_strict", "-CAfile", ca, "-CRLfile", crl)
        return run("openssl", "verify", *checking, certificate)

    done = verify()
    assert done.returncode == 0, done.stderr
    # The certificate says where others find the list, as the configuration has it.
    text = run("openssl", "x509", "-in", certificate, "-noout", "-text").stdout
    assert f"URI:{LISTS}/{find_authority(troth)}.crl" in text
    troth.move("checked", "quarantine")
    refused = wait_for(
        lambda: done if (done := verify()).returncode else None, "the refusal by openssl"
    )
    assert "certificate revoked" in refused.stderr


def call(troth: Server, path: str, *options: str | Path, body: dict | None = None):
    """Curl's exit code, the HTTP status and the document, from the mutual-TLS listener."""
    sending = () if body is None else ("--json", json.dumps(body))
    done = run(
        *("curl", "-sS", "--cacert", troth.data / "ca.pem", *options, *sending),
        *("-w", "\n%{http_code} %{content_type}", troth.mutual + path),
    )
    document, _, last = done.stdout.rpartition("\n")
    status, _, kind = last.partition(" ")
    if "json" in kind:
        return done.returncode, int(status), kind, json.loads(document)
    return done.returncode, int(status), kind, done.stderr


@needs_curl
def test_curl_with_a_certificate_may_do_what_its_role_says(troth, write_svid):
    troth.register("victim", "unix:uid:4242")
    reason = {"reason": "it talks to strangers"}
    quarantine = "/v1/identities/victim/quarantine"

    def state():
        return troth.call("identity.show", NameIdentity(name="victim")).state

    # Without a certificate there is no connection, whatever is asked.
    code, status, *_ = call(troth, "/v1/status")
    assert code != 0
    assert status == 0

    certificate, key = write_svid("roleless")
    roleless = ("--cert", certificate, "--key", key)
    code, status, kind, document = call(troth, quarantine, *roleless, body=reason)
    assert (code, status, kind) == (0, 403, "application/problem+json")
    assert document["code"] == "permission_denied"
    assert "identity.quarantine" in document["detail"]
    assert state() == "active"

    certificate, key = write_svid("operator")
    operator = ("--cert", certificate, "--key", key)
    code, status, kind, document = call(troth, quarantine, *operator, body=reason)
    assert (code, status, kind) == (0, 200, "application/json")
    assert document["state"] == "quarantined"
    assert state() == "quarantined"
    entry = troth.wait_for_journal("identity.quarantined", document["spiffe_id"])
    assert entry.actor == OPERATOR
    # An operator isn't an administrator.
    code, status, *_ = call(troth, "/v1/join-tokens", *operator, body={"node": "mine"})
    assert (code, status) == (0, 403)

    # The operator is cut off in its turn: the certificate that worked a moment ago is refused.
    troth.move("operator", "quarantine")
    code, status, kind, document = call(troth, "/v1/identities", *operator)
    assert status in (401, 403)
    assert document["code"] in ("unauthenticated", "permission_denied")
    assert call(troth, "/v1/identities/victim/release", *operator, body=reason)[1] in (401, 403)
    assert state() == "quarantined"
