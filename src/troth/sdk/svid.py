"""This process's X.509-SVID, kept up to date by a thread that follows the agent.

For programs that only ask for tokens; a service that has a `PeerGuard` needs none of this.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import aclosing

from troth.core.entropy import Entropy, SystemEntropy, fraction
from troth.core.errors import Denied, TrothError, Unavailable
from troth.sdk.background import Background
from troth.sdk.following import FIRST_WAIT, LONGEST_WAIT
from troth.sdk.tls import Pair
from troth.sdk.workload import FetchedSvid, WorkloadApi, X509Update, find_socket

log = logging.getLogger("troth.sdk")

Listener = Callable[[X509Update | TrothError], None]


class SvidFollower(Background):
    """Holds the newest X.509-SVID of this process.

    `endpoint` is the Workload API's address, what ``SPIFFE_ENDPOINT_SOCKET`` says; `spiffe_id`
    chooses among several identities, else the first is taken. Use it in ``with``, or call `start`
    and `close`.
    """

    def __init__(
        self, endpoint: str, *, spiffe_id: str = "", entropy: Entropy | None = None
    ) -> None:
        find_socket(endpoint)
        super().__init__("troth-svid")
        self._api = WorkloadApi(endpoint)
        self._wanted = spiffe_id
        self._entropy = entropy or SystemEntropy()
        self._held: tuple[str, Pair] | None = None
        self._ready = threading.Event()
        self._problem: TrothError = Unavailable("The agent said nothing yet; give it more time.")
        self._listeners: list[Listener] = []

    @property
    def spiffe_id(self) -> str:
        """Whose it is; "" before there is one."""
        return "" if self._held is None else self._held[0]

    @property
    def pair(self) -> Pair | None:
        """Certificate, key and roots as they are now."""
        return None if self._held is None else self._held[1]

    def on_change(self, listener: Listener) -> None:
        """Call `listener`, in the follower's thread, with each update that holds this identity and
        each failure of the stream."""
        self._listeners.append(listener)

    def choose(self, update: X509Update) -> FetchedSvid:
        """The identity among those of an update; raises `Denied` if it isn't there."""
        for svid in update.svids:
            if self._wanted in ("", svid.spiffe_id):
                return svid
        raise Denied(f"The agent gives this process no certificate for {self._wanted or 'anyone'}.")

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait for the first certificate; raises what the agent said last if none comes."""
        if not self._ready.wait(seconds):
            raise self._problem

    async def _follow(self) -> None:
        tries = 0
        while not self._closing:
            updates = 0
            try:
                async with aclosing(self._api.follow_x509()) as values:
                    async for update in values:
                        self._take(update)
                        updates += 1
            except TrothError as error:
                self._problem = error
                log.log(logging.WARNING if tries == 0 else logging.DEBUG, "%s", error.detail)
                self._tell(error)
            # A stream that only ever brings one word isn't healthy.
            tries = 0 if updates > 1 else min(tries + 1, 10)
            delay = min(LONGEST_WAIT, FIRST_WAIT * 2**tries)
            await asyncio.sleep(delay * (0.5 + fraction(self._entropy) / 2))

    def _take(self, update: X509Update) -> None:
        svid = self.choose(update)
        pair = Pair(svid.key, svid.chain, svid.bundle)
        if self._held is None or self._held[1] != pair:
            self._held = (svid.spiffe_id, pair)
        self._tell(update)
        self._ready.set()  # who waited for it finds that everybody has heard of it

    def _tell(self, news: X509Update | TrothError) -> None:
        for listener in self._listeners:
            try:
                listener(news)
            except Exception:  # it must not end what everybody else relies on
                log.exception("a listener broke")
