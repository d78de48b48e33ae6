"""What the guard's thread does: follows the agent for a certificate, a server for whom to refuse.

Whatever breaks is tried again, at first at once, then every few seconds, with the next server.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from troth.core.clock import Clock
from troth.core.entropy import Entropy, fraction
from troth.core.errors import Denied, Internal, TrothError
from troth.core.ids import SpiffeId
from troth.live.logwatch import PERIOD, LogWatch
from troth.live.revocations import Revocations
from troth.sdk.stream import ApiLine, follow
from troth.sdk.tls import Contexts, Pair, make_api_context
from troth.sdk.workload import FetchedSvid, WorkloadApi, X509Update
from troth.wire.api.revocations import FollowRevocations

log = logging.getLogger("troth.sdk")

FIRST_WAIT = 0.1
LONGEST_WAIT = 5.0
"""Seconds between two tries: they double from the first to the longest, with jitter."""

SERVER_PATH = "/troth/server"


class Following:
    """Feeds `known` and `contexts` for as long as `run` runs.

    `ready` is set once both have something; `problem` is what went wrong last, in a sentence;
    `listeners` are called after each word from a server.
    """

    def __init__(
        self,
        servers: Sequence[str],
        api: WorkloadApi,
        wanted: str,
        known: Revocations,
        contexts: Contexts,
        clock: Clock,
        entropy: Entropy,
        log_watch: LogWatch,
    ) -> None:
        self.servers = tuple(servers)
        self._api = api
        self._wanted = wanted
        self._known = known
        self._contexts = contexts
        self._clock = clock
        self._entropy = entropy
        self.log_watch = log_watch
        self._turn = 0
        self._words = 0
        self._pair: Pair | None = None
        self._renewed = asyncio.Event()
        self.ready = threading.Event()
        self.listeners: list[Callable[[], None]] = []
        self.spiffe_id = ""
        self.problem = "Nothing went wrong yet; give it more time."

    @property
    def pair(self) -> Pair | None:
        """The newest certificate with its key and roots."""
        return self._pair

    async def run(self) -> None:
        """Follow for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(self._follow_agent))
            group.create_task(self._keep(self._follow_server))
            group.create_task(self._watch_log())

    async def _keep(self, follow_once: Callable[[], Awaitable[None]]) -> None:
        tries, told = 0, ""
        while True:
            before = self._words
            try:
                await follow_once()
            except TrothError as error:
                log.log(
                    logging.DEBUG if told == error.detail else logging.WARNING, "%s", error.detail
                )
                told = self.problem = error.detail
            except Exception as error:
                # Whatever it is, the lease must be the only thing that ends what a service may do.
                self.problem = f"Something unexpected: {type(error).__name__}."
                log.exception("following broke")
            else:
                continue
            # A stream that only ever brings one word isn't healthy.
            tries = 0 if self._words > before + 1 else min(tries + 1, 10)
            delay = min(LONGEST_WAIT, FIRST_WAIT * 2**tries)
            await asyncio.sleep(delay * (0.5 + fraction(self._entropy) / 2))

    async def _follow_agent(self) -> None:
        async with aclosing(self._api.follow_x509()) as updates:
            async for update in updates:
                self._take_svid(self._choose(update))
                self._words += 1

    def _choose(self, update: X509Update) -> FetchedSvid:
        for svid in update.svids:
            if self._wanted in ("", svid.spiffe_id):
                return svid
        raise Denied(f"The agent gives this process no certificate for {self._wanted or 'anyone'}.")

    def _take_svid(self, svid: FetchedSvid) -> None:
        pair = Pair(svid.key, svid.chain, svid.bundle)
        if pair == self._pair:
            return
        self._contexts.install(pair)
        # Who has the one may ask for the other.
        self.spiffe_id = svid.spiffe_id
        self._pair = pair
        self._renewed.set()

    async def _follow_server(self) -> None:
        await self._renewed.wait()
        pair = self._pair
        if pair is None:
            raise Internal("The agent's certificate was lost.")
        url = self.servers[self._turn % len(self.servers)]
        domain = SpiffeId.parse(self.spiffe_id).trust_domain
        context = make_api_context(pair, str(SpiffeId.of(domain, SERVER_PATH)))
        request = FollowRevocations(after=self._known.epoch, mark=self._known.mark)
        # Earlier than the request: what it takes to connect shortens the lease, never lengthens it.
        asked = self._clock.monotonic()
        try:
            async with aclosing(follow(url, context, "revocation.follow", request)) as values:
                async for value in values:
                    self._known.take(value, asked)
                    self._note_word()
                    if self._pair is not pair:
                        return  # once more, with the new certificate
        except Internal:
            self._known.forget_place()
            raise
        except TrothError:
            self._turn += 1
            raise

    async def _watch_log(self) -> None:
        """Look at the servers' log for ever; what fails is made up for by the next look."""
        await self._renewed.wait()
        while True:
            url, pair = self.servers[self._turn % len(self.servers)], self._pair
            if pair is not None:
                domain = SpiffeId.parse(self.spiffe_id).trust_domain
                context = make_api_context(pair, str(SpiffeId.of(domain, SERVER_PATH)))
                line = ApiLine(url, context)
                try:
                    await self.log_watch.look(line.call)
                except (TrothError, OSError) as error:
                    log.debug("The log wasn't seen: %s", error)
                finally:
                    line.close()
            await asyncio.sleep(PERIOD)

    def _note_word(self) -> None:
        self._words += 1
        self.ready.set()
        for listener in self.listeners:
            listener()
