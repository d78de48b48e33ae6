"""The token source: one flight, renewal before the end, patience, and certificates that change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.fakes.oauth import API, ISSUER, FakeAuthorizationServer, FakeCredential, make_answer
from troth.core.entropy import SeededEntropy
from troth.core.errors import Internal, Unavailable
from troth.sdk.client import OAuthClient
from troth.sdk.errors import OAuthError, OAuthUnavailable
from troth.sdk.tokens import TokenSource
from troth.wire.api.problems import Unreachable


class Stage:
    """A source, its server, and its threads: those run when a test says so, or at once."""

    def __init__(self) -> None:
        self.server = FakeAuthorizationServer()
        self.clock = self.server.clock
        self.credential = FakeCredential()
        self.waited: list[float] = []
        self.later: list[Callable[[], None]] | None = None
        client = OAuthClient(self.server.connect(), self.credential, clock=self.clock)
        self.source = TokenSource(
            client,
            clock=self.clock,
            entropy=SeededEntropy(1),
            spawn=self.spawn,
            wait=self.wait,
        )

    def spawn(self, work: Callable[[], None]) -> None:
        if self.later is None:
            work()
        else:
            self.later.append(work)

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @property
    def asked(self) -> int:
        return len(self.server.forms)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_token_is_asked_for_once_for_each_resource_and_scope(stage: Stage) -> None:
    first = stage.source.fetch(API, {"read"})
    assert stage.source.fetch(API, ["read"]) is first
    assert stage.source.fetch(API, "read") is first
    assert first.scopes == {"read"}
    assert first.header == f"Bearer {first.text}"
    assert stage.source.fetch(API).scopes == {"read", "write"}
    assert [form.get("scope") for form in stage.server.forms] == ["read", None]
    assert stage.server.forms[0] == {
        "grant_type": "client_credentials",
        "resource": API,
        "scope": "read",
        "client_assertion": "me",
    }
    assert stage.credential.audiences == [ISSUER, ISSUER]


def test_it_is_renewed_at_three_quarters_of_its_life_and_nobody_waits(stage: Stage) -> None:
    first = stage.source.fetch(API)
    stage.advance(0.64 * 600)
    assert stage.source.fetch(API) is first
    assert stage.asked == 1
    stage.advance(0.11 * 600)
    stage.later = []
    assert stage.source.fetch(API) is first
    assert stage.source.fetch(API) is first
    assert len(stage.later) == 1
    stage.later.pop()()
    second = stage.source.fetch(API)
    assert second is not first
    assert stage.asked == 2


def test_no_token_is_given_out_that_is_about_to_end(stage: Stage) -> None:
    first = stage.source.fetch(API)
    stage.advance(591)
    assert stage.source.fetch(API) is not first


def test_while_the_server_is_away_a_token_is_used_to_its_end(stage: Stage) -> None:
    first = stage.source.fetch(API)
    stage.advance(0.8 * 600)
    stage.server.down = Unreachable("Nobody is there.")
    assert stage.source.fetch(API) is first
    assert stage.asked == 1
    stage.advance(0.2 * 600)
    with pytest.raises(Unreachable):
        stage.source.fetch(API)
    stage.server.down = None
    stage.advance(2)
    assert stage.source.fetch(API) is not first


def test_what_may_pass_is_tried_again_with_longer_and_longer_waits(stage: Stage) -> None:
    busy = make_answer(503, {"error": "temporarily_unavailable"})
    stage.server.answers = [busy, Unreachable("Gone."), make_answer(500, {})]
    assert stage.source.fetch(API).text
    assert stage.asked == 4
    first, second, third = stage.waited
    assert 0.125 <= first <= 0.25
    assert 0.25 <= second <= 0.5
    assert 0.5 <= third <= 1.0


def test_it_gives_up_in_the_end_and_says_what_the_server_said(stage: Stage) -> None:
    busy = make_answer(503, {"error": "temporarily_unavailable", "error_description": "Later."})
    stage.server.answers = [busy] * 4
    with pytest.raises(OAuthUnavailable, match="answered 503: Later") as caught:
        stage.source.fetch(API)
    assert caught.value.error == "temporarily_unavailable"
    assert stage.asked == 4


def test_retry_after_is_honoured(stage: Stage) -> None:
    stage.server.answers = [make_answer(429, {"error": "temporarily_unavailable"}, retry_after="7")]
    stage.source.fetch(API)
    (waited,) = stage.waited
    assert 7 < waited <= 7.25


def test_one_who_is_told_to_come_back_much_later_is_not_kept_waiting(stage: Stage) -> None:
    stage.server.answers = [make_answer(503, {}, retry_after="120")]
    with pytest.raises(OAuthUnavailable):
        stage.source.fetch(API)
    stage.advance(119)
    with pytest.raises(OAuthUnavailable):
        stage.source.fetch(API)
    assert stage.asked == 1
    stage.advance(2)
    assert stage.source.fetch(API).text
    assert stage.waited == []


def test_retry_after_may_be_a_date(stage: Stage) -> None:
    date = "Thu, 01 Jan 2026 12:00:05 GMT"
    stage.server.answers = [make_answer(503, {}, retry_after=date)]
    stage.source.fetch(API)
    assert 5 < stage.waited[0] <= 5.25


def test_a_refusal_is_told_in_the_standard_s_words_and_not_asked_for_again_at_once(
    stage: Stage,
) -> None:
    refusal = {"error": "invalid_target", "error_description": "Unknown."}
    stage.server.answers = [make_answer(400, refusal)]
    with pytest.raises(OAuthError) as caught:
        stage.source.fetch(API)
    error = caught.value
    assert (error.error, error.description, error.status) == ("invalid_target", "Unknown.", 400)
    assert error.detail == "invalid_target: Unknown."
    with pytest.raises(OAuthError):
        stage.source.fetch(API)
    assert stage.asked == 1
    stage.advance(1.1)
    assert stage.source.fetch(API).text


def test_a_bound_token_ends_with_its_certificate_and_goes_when_another_comes(stage: Stage) -> None:
    stage.credential.tag = "old"
    stage.credential.ends = stage.clock.now() + timedelta(seconds=100)
    first = stage.source.fetch(API)
    assert (first.tag, first.ends - first.asked) == ("old", 100)
    assert stage.source.fetch(API) is first
    stage.credential.tag, stage.credential.ends = "new", None
    second = stage.source.fetch(API)
    assert second.tag == "new"
    assert second.ends - second.asked == 600


def test_a_certificate_that_changes_on_the_way_is_noticed(stage: Stage) -> None:
    stage.credential.tag = "old"
    show = stage.credential.show

    def rotate(audience: str):
        shown = show(audience)
        stage.credential.tag = "new"
        return shown

    stage.credential.show = rotate  # type: ignore[method-assign]
    assert stage.source.fetch(API).tag == "new"
    assert stage.asked == 2


def test_a_token_that_a_resource_refused_is_not_given_out_again(stage: Stage) -> None:
    first = stage.source.fetch(API)
    stage.source.drop(first)
    assert stage.source.fetch(API) is not first


def test_threads_and_tasks_share_one_flight(stage: Stage) -> None:
    stage.later = []
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(stage.source.fetch(API))) for _ in range(5)
    ]

    async def ask() -> None:
        tasks = [asyncio.create_task(stage.source.fetch_async(API)) for _ in range(5)]
        lost = asyncio.create_task(stage.source.fetch_async(API))
        await asyncio.sleep(0)
        lost.cancel()
        for thread in threads:
            thread.start()
        assert stage.later is not None
        (work,) = stage.later
        work()
        got.extend(await asyncio.gather(*tasks))

    asyncio.run(ask())
    for thread in threads:
        thread.join(10)
    assert len(got) == 10
    assert len({token.text for token in got}) == 1
    assert stage.asked == 1


def test_a_failure_reaches_everybody_who_waits(stage: Stage) -> None:
    stage.server.answers = [make_answer(401, {"error": "invalid_client"})]

    async def ask() -> list[object]:
        fetches = [stage.source.fetch_async(API) for _ in range(2)]
        return list(await asyncio.gather(*fetches, return_exceptions=True))

    assert [type(one) for one in asyncio.run(ask())] == [OAuthError, OAuthError]


def test_whatever_breaks_leaves_nobody_waiting(stage: Stage) -> None:
    def break_down(audience: str):
        raise ZeroDivisionError

    stage.credential.show = break_down  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        stage.source.fetch(API)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"access_token": "a b", "token_type": "Bearer"},
        {"access_token": "a\r\nx: y", "token_type": "Bearer"},
        {"access_token": "a"},
        {"access_token": "a", "token_type": "Bearer", "expires_in": "600"},
        {"access_token": "a", "token_type": "Bearer", "expires_in": True},
        {"access_token": "a", "token_type": "Bearer", "expires_in": -1},
    ],
)
def test_an_answer_that_is_none_is_refused(stage: Stage, answer: dict) -> None:
    stage.server.answers = [make_answer(200, answer)]
    with pytest.raises(Internal):
        stage.source.fetch(API)


def test_a_token_without_an_end_is_good_for_a_minute(stage: Stage) -> None:
    stage.server.answers = [make_answer(200, {"access_token": "a", "token_type": "bearer"})]
    token = stage.source.fetch(API, {"read"})
    assert token.ends - token.asked == 60
    assert token.scopes == {"read"}
    assert token.header == "Bearer a"
    assert "text" not in repr(token)
