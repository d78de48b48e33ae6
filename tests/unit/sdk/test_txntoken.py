"""Transaction tokens as a called workload sees them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.issuer import make_private_key
from tests.fakes.oauth import API, ME
from tests.unit.sdk.test_validator import Stage
from troth.core.errors import Unavailable
from troth.core.tier import Tier
from troth.policy.resource import Binding
from troth.sdk.errors import InvalidRequest, InvalidToken, MissingToken
from troth.sdk.txntoken import HEADER, TxnTokenValidator, find_token

GATEWAY = "spiffe://example.org/gateway"
RISK = "spiffe://example.org/risk"
AGENT = "spiffe://example.org/agent"


class TxnStage(Stage):
    """The stage of access tokens, with a validator of the other kind beside."""

    def __init__(self) -> None:
        super().__init__(Binding.NONE)
        self.transactions = TxnTokenValidator(
            self.server.connect(), "example.org", self.guard, keys=self.keys, clock=self.clock
        )

    def issue(self, *, typ: str | None = "txntoken+jwt", **claims: Any) -> str:
        now = int(self.clock.now().timestamp())
        values: dict[str, Any] = {
            "aud": "example.org",
            "client_id": None,
            "exp": now + 60,
            "txn": "txn_1",
            "scope": "read",
            "req_wl": f"{GATEWAY},{RISK}",
            "act": {"sub": AGENT},
            "troth_resource": API,
            "rctx": {"req_ip": "69.151.72.123"},
            "tctx": {"action": "BUY"},
        }
        return self.server.issue(header={"typ": typ}, **(values | claims))


@pytest.fixture
def stage() -> TxnStage:
    return TxnStage()


def test_a_good_one_says_what_the_call_is_for(stage: TxnStage) -> None:
    text = stage.issue()
    found = stage.transactions.check(text)
    assert (found.id, found.subject, found.resource) == ("txn_1", ME, API)
    assert found.scopes == {"read"}
    assert (found.workloads, found.actors) == ((GATEWAY, RISK), (AGENT,))
    assert (found.rctx, found.tctx) == ({"req_ip": "69.151.72.123"}, {"action": "BUY"})
    assert (found.expires_at - stage.clock.now()).total_seconds() == 60
    assert found.tier is Tier.LOW  # it doesn't say
    assert stage.transactions.check(stage.issue(troth_tier="high")).tier is Tier.HIGH
    assert text not in repr(found)
    assert asyncio.run(stage.transactions.check_async(text)) == found
    bare = stage.transactions.check(stage.issue(rctx=None, tctx=None, act=None))
    assert (bare.rctx, bare.tctx, bare.actors) == ({}, {}, ())


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("who", [ME, GATEWAY, RISK, AGENT])
def test_who_is_cut_off_takes_it_with_it(stage: TxnStage, who: str, seen: bool) -> None:
    """The subject, every workload that asked, and whoever acts."""
    text = stage.issue()
    if seen:
        stage.transactions.check(text)
    stage.hear(cut_off={who: "quarantined"})
    with pytest.raises(InvalidToken, match=f"{who} is quarantined"):
        stage.transactions.check(text)


def test_without_word_from_the_server_none_is_good(stage: TxnStage) -> None:
    text = stage.issue(exp=int(stage.clock.now().timestamp()) + 3600)
    stage.transactions.check(text)
    stage.advance(16, connected=False)
    with pytest.raises(Unavailable):
        stage.transactions.check(text)


def test_it_ends_with_little_leeway(stage: TxnStage) -> None:
    text = stage.issue()
    stage.transactions.check(text)
    stage.advance(69)
    stage.transactions.check(text)
    stage.advance(1)
    for _ in range(2):
        with pytest.raises(InvalidToken, match="expired"):
            stage.transactions.check(text)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "other.org"},
        {"aud": API},
        {"aud": None},
        {"iss": "https://other.example"},
        {"sub": None},
        {"txn": None},
        {"jti": 7},
        {"req_wl": None},
        {"req_wl": [GATEWAY]},
        {"troth_resource": None},
        {"exp": None},
        {"rctx": "x"},
        {"tctx": []},
        {"act": "x"},
    ],
)
def test_what_is_not_as_it_must_be_is_refused(stage: TxnStage, claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        stage.transactions.check(stage.issue(**claims))


def test_another_key_is_nobody(stage: TxnStage) -> None:
    for header in ({"kid": "x"}, {}):
        text = stage.server.issue(key=make_private_key(5), header={"typ": "txntoken+jwt", **header})
        with pytest.raises(InvalidToken):
            stage.transactions.check(text)


def test_neither_kind_passes_for_the_other(stage: TxnStage) -> None:
    with pytest.raises(InvalidToken, match=r"no access token: its typ must be at\+jwt"):
        stage.check(stage.issue(aud=API, client_id=ME))
    for typ in ("at+jwt", "JWT", None, "txn_token", "dpop+jwt"):
        with pytest.raises(InvalidToken, match="no transaction token"):
            stage.transactions.check(stage.issue(typ=typ))
    assert stage.transactions.check(stage.issue(typ="application/txntoken+jwt")).id == "txn_1"


def test_the_header_holds_exactly_one() -> None:
    assert HEADER == "Txn-Token"
    assert find_token([" a.b.c\t"]) == "a.b.c"
    with pytest.raises(MissingToken, match=HEADER):
        find_token([])
    for values in (["a.b.c", "a.b.c"], ["a.b.c, d.e.f"], ["Bearer a.b.c"], [""], ["é"]):
        with pytest.raises(InvalidRequest, match="exactly one"):
            find_token(values)
