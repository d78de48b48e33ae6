"""Access tokens for the APIs that a workload calls: fetched, kept, and renewed before they end.

One flight for each resource and scope, whoever waits for it, thread or task. While a token is
good, a renewal keeps nobody waiting. A token that is bound to a certificate is not used once the
agent has given another one: a peer that sees the new certificate would refuse it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass

from troth.core.clock import Clock, SystemClock
from troth.core.entropy import Entropy, SystemEntropy, fraction
from troth.core.errors import Passing, TrothError, Unavailable
from troth.sdk.client import AccessToken, OAuthClient

log = logging.getLogger("troth.sdk")

RENEW_AT = 0.75
"""The share of a token's life after which it is renewed; with jitter up to a tenth earlier, so that
those that were asked for together don't come back together."""
JITTER = 0.1
MARGIN = 0.05
"""The last share of its life in which it isn't used: requests take time, and clocks differ."""
LONGEST_MARGIN = 10.0
TRIES = 4
FIRST_WAIT = 0.25
LONGEST_WAIT = 4.0
PATIENCE = 20.0
"""Seconds: whoever is told to come back later than this gets the error instead."""
PAUSE = 1.0
"""Seconds that a refusal holds without asking again."""

Key = tuple[str, frozenset[str]]
Spawn = Callable[[Callable[[], None]], None]
Wait = Callable[[float], None]


@dataclass(slots=True)
class _Place:
    """What is known for one resource and scope."""

    token: AccessToken | None = None
    renew_at: float = 0.0
    flight: Future[AccessToken] | None = None
    failure: TrothError | None = None
    rest_until: float = 0.0


def spawn_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread of its own, which doesn't keep the process alive."""
    threading.Thread(target=work, name="troth-token", daemon=True).start()


def wait(seconds: float) -> None:
    """Let time pass in this thread."""
    threading.Event().wait(seconds)


class TokenSource:
    """Gives access tokens, a good one each time. Any thread and any event loop may ask."""

    def __init__(
        self,
        client: OAuthClient,
        *,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        spawn: Spawn = spawn_thread,
        wait: Wait = wait,
    ) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()
        self._spawn = spawn
        self._wait = wait
        self._lock = threading.Lock()
        self._places: dict[Key, _Place] = {}

    def fetch(self, resource: str, scopes: Collection[str] = ()) -> AccessToken:
        """A token for `resource` with `scopes` (none: all that is permitted); blocks if it must.

        Raises `OAuthError` if it is refused, `Unavailable` and its kinds if nobody answers.
        """
        key = _make_key(resource, scopes)
        found = self._find(key)
        token = found if isinstance(found, AccessToken) else found.result()
        if self._is_current(token):
            return token
        found = self._find(key)  # the certificate changed on the way
        return found if isinstance(found, AccessToken) else found.result()

    async def fetch_async(self, resource: str, scopes: Collection[str] = ()) -> AccessToken:
        """As `fetch`, without blocking the event loop."""
        key = _make_key(resource, scopes)
        token = await _await(self._find(key))
        return token if self._is_current(token) else await _await(self._find(key))

    def drop(self, token: AccessToken) -> None:
        """Don't give out `token` again: a resource said that it is good no more."""
        with self._lock:
            for place in self._places.values():
                if place.token is token:
                    place.token = None

    def _is_current(self, token: AccessToken) -> bool:
        return token.tag == self._client.credential.tag

    def _find(self, key: Key) -> AccessToken | Future[AccessToken]:
        now = self._clock.monotonic()
        tag = self._client.credential.tag
        with self._lock:
            place = self._places.setdefault(key, _Place())
            token = place.token
            good = token is not None and token.tag == tag and now < _end_use(token)
            resting = now < place.rest_until
            if token is not None and good and (now < place.renew_at or resting):
                return token
            if resting and place.failure is not None and place.flight is None:
                raise place.failure.with_traceback(None)  # else it grew with every raise
            flight = place.flight
            if flight is None:
                flight = place.flight = Future()
                start = True
            else:
                start = False
        if start:
            self._spawn(lambda: self._fly(key, place, flight))
        if token is not None and good:
            return token
        return flight

    def _fly(self, key: Key, place: _Place, flight: Future[AccessToken]) -> None:
        """Fetch, and tell everybody who waits. Never raises."""
        try:
            token = self._fetch(key)
        except TrothError as error:
            self._settle(place, flight, error)
        except Exception as error:  # a fault of ours must not leave anybody waiting for ever
            log.exception("fetching a token broke")
            failure = Unavailable(f"Something unexpected: {type(error).__name__}.")
            self._settle(place, flight, failure)
        else:
            with self._lock:
                life = token.ends - token.asked
                share = RENEW_AT - JITTER * fraction(self._entropy)
                place.token, place.renew_at = token, token.asked + share * life
                place.failure, place.rest_until = None, 0.0
                place.flight = None
            flight.set_result(token)

    def _settle(self, place: _Place, flight: Future[AccessToken], error: TrothError) -> None:
        pause = PAUSE
        if isinstance(error, Passing) and error.retry_after is not None:
            pause = max(pause, error.retry_after)
        with self._lock:
            place.failure, place.rest_until = error, self._clock.monotonic() + pause
            place.flight = None
        log.warning("No access token: %s", error.detail)
        flight.set_exception(error)

    def _fetch(self, key: Key) -> AccessToken:
        resource, scopes = key
        started = self._clock.monotonic()
        for number in range(TRIES):
            try:
                return self._client.request(resource, scopes)
            except Passing as error:
                delay = self._choose_delay(number, error)
                late = self._clock.monotonic() - started + delay > PATIENCE
                if number == TRIES - 1 or late:
                    raise
            self._wait(delay)
        raise AssertionError("the last try returns or raises")

    def _choose_delay(self, number: int, error: Passing) -> float:
        """Exponential, with jitter; and never earlier than the server asked for."""
        delay = min(LONGEST_WAIT, FIRST_WAIT * 2.0**number)
        spread = delay * (0.5 + fraction(self._entropy) / 2)
        return spread if error.retry_after is None else error.retry_after + spread


async def _await(found: AccessToken | Future[AccessToken]) -> AccessToken:
    if isinstance(found, AccessToken):
        return found
    # Whoever stops waiting must not take the flight from the others.
    return await asyncio.shield(asyncio.wrap_future(found))


def _make_key(resource: str, scopes: Collection[str]) -> Key:
    if isinstance(scopes, str):
        scopes = scopes.split()
    return resource, frozenset(scopes)


def _end_use(token: AccessToken) -> float:
    return token.ends - min(LONGEST_MARGIN, MARGIN * (token.ends - token.asked))
