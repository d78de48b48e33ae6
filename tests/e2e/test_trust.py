"""Evidence at a real server: how soon introspection and new tokens say that somebody fell."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.e2e.processes import Server, run_troth
from tests.fakes.clients import LEDGER_MANIFESTS, FakeClient, render_identity
from tests.fakes.issuer import make_private_key
from troth.core.jose.jws import parse_token
from troth.wire.api import trust as wire
from troth.wire.api.manifests import ManifestDocument, SubmitManifests

pytestmark = pytest.mark.e2e

BOUND_MS = 250.0
ROUNDS = 5
GIVE_UP_SECONDS = 10.0


class Company:
    """A client with a token, and the API that asks what it means."""

    def __init__(self, troth: Server) -> None:
        keys = {name: make_private_key(n) for n, name in enumerate(("billing", "ledger-api"), 41)}
        documents = [
            *LEDGER_MANIFESTS,
            *(render_identity(name, key, roles=["clerk"]) for name, key in keys.items()),
        ]
        troth.call(
            "manifest.apply",
            SubmitManifests(documents=[ManifestDocument(value=one) for one in documents]),
        )
        self.troth = troth
        self.clients = {
            name: FakeClient(f"spiffe://troth.local/{name}", key, lambda: datetime.now(UTC))
            for name, key in keys.items()
        }
        trusted = ssl.create_default_context(cafile=str(troth.data / "ca.pem"))
        self.http = httpx.Client(verify=trusted, trust_env=False, base_url=troth.url)

    def post(self, path: str, who: str, **fields: str | None) -> dict[str, Any]:
        """What the server answers to a form of that client."""
        client = self.clients[who]
        form = client.ask(client.assert_identity(aud=self.troth.url), **fields).form
        answer = self.http.post(path, data={n: list(v) for n, v in form.fields.items()})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def request(self) -> str:
        """A new token of billing's own."""
        token: str = self.post("/oauth/token", "billing")["access_token"]
        return token

    def introspect(self, token: str) -> str:
        """Its tier as the API learns it."""
        answer = self.post(
            "/oauth/introspect", "ledger-api", token=token, grant_type=None, resource=None
        )
        assert answer["active"], answer
        tier: str = answer["trust_tier"]
        return tier

    def await_tier(self, token: str, tier: str) -> float:
        """Milliseconds until introspection says that tier."""
        began = time.monotonic()
        while self.introspect(token) != tier:
            assert time.monotonic() - began < GIVE_UP_SECONDS, f"never {tier}"
        return (time.monotonic() - began) * 1000


@pytest.fixture(scope="module")
def company(troth: Server) -> Iterator[Company]:
    made = Company(troth)
    with made.http:
        yield made


def read_tier(token: str) -> str:
    found: str = parse_token(token).claims["troth_tier"]
    return found


def test_evidence_shows_within_250_ms(company: Company) -> None:
    token = company.request()
    assert (company.introspect(token), read_tier(token)) == ("medium", "medium")
    took: list[float] = []
    for _ in range(ROUNDS):  # another test may keep the cores busy: once within the bound will do
        body = wire.AddEvidence(name="billing", weight=-80, reason="it scanned the subnet")
        added = company.troth.call("trust.add", body)
        assert (added.trust.tier, added.trust.score) == ("low", 0)
        took.append(company.await_tier(token, "low"))
        assert read_tier(company.request()) == "low"
        company.troth.call("trust.withdraw", wire.WithdrawEvidence(id=added.id, reason="a test"))
        took[-1] = max(took[-1], company.await_tier(token, "medium"))
        assert read_tier(company.request()) == "medium"
        if took[-1] < BOUND_MS:
            return
    raise AssertionError(f"never within {BOUND_MS} ms: {took}")


def test_the_command_line_does_the_same(company: Company) -> None:
    def run(*words: str) -> dict[str, Any]:
        done = run_troth("--data", company.troth.data, "trust", *words, "--json")
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    token = company.request()
    added = run("add", "billing", "--weight", "-80", "--half-life", "12h", "--reason", "a scan")
    assert company.await_tier(token, "low") < BOUND_MS * ROUNDS
    shown = run("show", "billing")
    assert shown == added["trust"] | {"valid_until": shown["valid_until"]}
    assert run("ls")["items"][0]["name"] == "billing"
    withdrawn = run("withdraw", added["id"], "--reason", "the scan was ours")
    assert (withdrawn["tier"], withdrawn["evidence"]) == ("medium", [])
    events = [one.type for one in company.troth.read_journal("evidence.")]
    assert events[-2:] == ["evidence.added", "evidence.withdrawn"]
