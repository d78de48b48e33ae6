"""Opaque tokens at a resource: the issuer is asked what they mean, once a second."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.oauth import (
    API,
    ISSUER,
    ME,
    FakeAuthorizationServer,
    FakeCredential,
    make_answer,
)
from troth.core.errors import Unavailable
from troth.core.tier import Tier
from troth.issuance.opaque import find_span, seal_token
from troth.live.revocations import Revocations
from troth.sdk.client import OAuthClient
from troth.sdk.errors import InvalidToken
from troth.sdk.exchange import Answer
from troth.sdk.guard import PeerGuard
from troth.sdk.validator import Sight, TokenValidator
from troth.wire.api.revocations import RevocationHeartbeat, RevocationSnapshot

SERVER = "spiffe://example.org/vault"


class Stage:
    """A resource that takes opaque tokens, and what its issuer says of them."""

    def __init__(self) -> None:
        self.server = FakeAuthorizationServer()
        self.clock = self.server.clock
        self.guard = PeerGuard([ISSUER], "unix:///agent.sock", clock=self.clock)
        self.known: Revocations = self.guard._known
        self.issuer = self.server.connect()
        client = OAuthClient(self.issuer, FakeCredential(), clock=self.clock)
        self.validator = TokenValidator(
            self.issuer, [API], self.guard, clock=self.clock, client=client
        )
        self.hear()

    def hear(self, **known: Any) -> None:
        values: dict[str, Any] = {"cut_off": {}, "revoked": {}, "distrusted": {}, **known}
        message = RevocationSnapshot(
            epoch=1, mark="m", as_of=0, lease=15, trust_domain="example.org", **values
        )
        self.known.take(message, self.clock.monotonic())

    def advance(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))
        message = RevocationHeartbeat(epoch=self.known.epoch, mark="", as_of=0)
        self.known.take(message, self.clock.monotonic())

    def make(self, nonce: bytes = b"n" * 12) -> str:
        return seal_token("e.e.e", bytes(32), find_span(self.clock.now()), nonce)

    def describe(self, **changes: Any) -> dict[str, Any]:
        now = int(self.clock.now().timestamp())
        said = {
            "active": True,
            "scope": "open close",
            "permitted_actions": ["open"],
            "client_id": ME,
            "sub": ME,
            "aud": API,
            "iss": ISSUER,
            "iat": now,
            "exp": now + 60,
            "jti": "tok_1",
            "trust_tier": "high",
            "cache_until": now + 1,
            **changes,
        }
        return {name: value for name, value in said.items() if value is not None}

    def say(self, *answers: dict[str, Any] | Exception) -> None:
        self.server.answers = [
            one if isinstance(one, Exception) else make_answer(200, one) for one in answers
        ]

    def check(self, token: str, **sight: Any) -> Any:
        return self.validator.check(Sight("bearer", token, **sight))

    @property
    def asked(self) -> int:
        return self.server.count_paths("/oauth/introspect")


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_the_issuer_says_what_it_permits_now(stage: Stage) -> None:
    stage.say(stage.describe())
    token = stage.make()
    found = stage.check(token)
    assert (found.subject, found.scopes, found.tier) == (ME, frozenset({"open"}), Tier.HIGH)
    assert stage.check(token) == found
    assert stage.asked == 1


def test_an_event_loop_asks_too(stage: Stage) -> None:
    stage.say(stage.describe())
    sight = Sight("bearer", stage.make())
    assert asyncio.run(stage.validator.check_async(sight)).subject == ME


def test_after_a_second_it_is_asked_again(stage: Stage) -> None:
    token = stage.make()
    stage.say(stage.describe(), stage.describe(permitted_actions=[]))
    assert stage.check(token).scopes == {"open"}
    stage.advance(0.9)
    assert stage.check(token).scopes == {"open"}
    stage.advance(0.2)
    assert stage.check(token).scopes == frozenset()
    assert stage.asked == 2


def test_what_has_ended_is_told_at_once_by_the_stream(stage: Stage) -> None:
    token = stage.make()
    stage.say(stage.describe())
    stage.check(token)
    stage.hear(cut_off={ME: "quarantined"})
    with pytest.raises(InvalidToken, match="quarantined"):
        stage.check(token)
    assert stage.asked == 1


def test_an_inactive_one_is_remembered_for_a_moment(stage: Stage) -> None:
    token = stage.make()
    stage.say({"active": False})
    for _ in range(3):
        with pytest.raises(InvalidToken, match="not active"):
            stage.check(token)
    assert stage.asked == 1
    stage.advance(1.1)
    stage.say({"active": False})
    with pytest.raises(InvalidToken, match="not active"):
        stage.check(token)
    assert stage.asked == 2


def test_it_is_not_good_beyond_its_end(stage: Stage) -> None:
    now = int(stage.clock.now().timestamp())
    stage.say(stage.describe(exp=now - 31))
    with pytest.raises(InvalidToken, match="expired"):
        stage.check(stage.make())


@pytest.mark.parametrize(
    "changes",
    [{"sub": None}, {"client_id": 3}, {"jti": None}, {"exp": "soon"}, {"iat": None}, {"iss": "x"}],
)
def test_an_answer_that_lacks_something_opens_nothing(
    stage: Stage, changes: dict[str, Any]
) -> None:
    stage.say(stage.describe(**changes))
    with pytest.raises(Unavailable):
        stage.check(stage.make())


def test_a_token_for_another_resource_is_refused(stage: Stage) -> None:
    stage.say(stage.describe(aud="https://other.example.org"))
    with pytest.raises(InvalidToken, match="another resource"):
        stage.check(stage.make())


def test_one_that_is_bound_needs_its_certificate(stage: Stage) -> None:
    stage.say(stage.describe(cnf={"x5t#S256": "abc"}))
    with pytest.raises(InvalidToken, match="bound to another certificate"):
        stage.check(stage.make())


def test_without_an_answer_nobody_can_say(stage: Stage) -> None:
    refused = make_answer(400, {"error": "invalid_client"})
    stage.server.answers = [Answer(503, {}, b""), refused, make_answer(200, {"active": "yes"})]
    for _ in range(3):
        with pytest.raises(Unavailable):
            stage.check(stage.make())
    assert stage.asked == 3


@pytest.mark.parametrize("text", ["troth_", "troth_AAAA", "troth_!!!!"])
def test_nobody_is_asked_about_what_is_plainly_none(stage: Stage, text: str) -> None:
    with pytest.raises(InvalidToken):
        stage.check(text)
    old = seal_token("e.e.e", bytes(32), find_span(stage.clock.now()) - 9, b"n" * 12)
    with pytest.raises(InvalidToken, match="expired"):
        stage.check(old)
    assert stage.asked == 0


def test_a_resource_that_asks_nobody_takes_none(stage: Stage) -> None:
    validator = TokenValidator(stage.issuer, [API], stage.guard, clock=stage.clock)
    with pytest.raises(InvalidToken, match="takes JWTs alone"):
        validator.check(Sight("bearer", stage.make()))
