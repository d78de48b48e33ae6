"""An outlet: one sink with its receiver's moods. It waits longer and longer for one that is away,
gives one that is too slow less at once, cuts batches in which something is refused, and takes a
receiver that refuses everything for one that is configured wrongly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from troth.core.clock import Clock
from troth.core.entropy import Entropy, fraction
from troth.core.errors import TrothError
from troth.drivers.sinks import (
    Away,
    Message,
    OpenSink,
    Rejected,
    Sink,
    Slow,
    Target,
    load_driver,
)

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 30.0
"""How long one delivery may take in all."""
SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
MOST_REFUSED = 100
"""So many messages in a row may be refused; then it is the sink that is wrong, and not they."""
LARGEST_PART = 1 << 16
"""Messages that are handed over at once, at most, while all goes well."""
LONGEST_TROUBLE = 500
"""Characters of what is told about a receiver."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: its first `done` messages needn't be sent again.

    Of these, `refused` maps places to the receiver's reasons, and all others are delivered.
    `trouble` says why the rest must wait, if any is left.
    """

    done: int
    refused: Mapping[int, str] = field(default_factory=dict)
    trouble: str = ""


class Outlet:
    """Delivers to one target. Belongs to one event loop; several tasks may use it, one at a time.

    `secret` finds what goes with the target, in a thread, whenever a connection is opened: so it
    may be changed while the server runs.
    """

    def __init__(
        self,
        target: Target,
        driver: str,
        clock: Clock,
        entropy: Entropy,
        secret: Callable[[], str] = str,
        *,
        open_sink: OpenSink | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.target = target
        self.driver = driver
        self.trouble = ""
        """Why the last attempt failed; "" if it didn't."""
        self._clock = clock
        self._entropy = entropy
        self._secret = secret
        self._open = open_sink
        self._patience = patience
        self._sink: Sink | None = None
        self._lock = asyncio.Lock()
        self._failures = 0
        self._streak = 0
        self._most = LARGEST_PART
        self._due = clock.monotonic()

    @property
    def name(self) -> str:
        """The sink's name."""
        return self.target.name

    @property
    def is_due(self) -> bool:
        """Whether it is time to try."""
        return self._clock.monotonic() >= self._due

    async def send(self, batch: Sequence[Message]) -> Outcome:
        """Deliver as much of the batch, from its beginning, as the receiver takes now."""
        async with self._lock:
            if not self.is_due:
                return Outcome(0, {}, self.trouble)
            refused: dict[int, str] = {}
            done = size = 0
            parts = [(0, len(batch))]
            try:
                while parts:
                    start, end = parts.pop()
                    if end - start > self._most:
                        parts.append((start + self._most, end))
                        end = start + self._most
                    size = end - start
                    try:
                        await self._deliver(batch[start:end])
                        self._streak = 0
                    except Rejected as error:
                        if error.messages is None and end - start > 1:
                            middle = (start + end) // 2
                            parts += [(middle, end), (start, middle)]
                            continue
                        self._count(error, end - start)
                        found = {0: error.detail} if error.messages is None else error.messages
                        refused |= {start + place: why for place, why in found.items()}
                    done = end
            except Away as error:
                if isinstance(error, Slow):
                    # It would get the same ones again for ever.
                    self._most = max(1, size // 2)
                self._back_off(error)
                return Outcome(done, _cut(refused, done), self.trouble)
            self._recover()
            return Outcome(done, refused)

    async def send_again(self, message: Message) -> None:
        """Deliver one message, whatever was before; raises `Away` or `Rejected`."""
        async with self._lock:
            await self._deliver([message])

    async def close(self) -> None:
        """Close the connection; the next delivery opens another."""
        sink, self._sink = self._sink, None
        if sink is not None:
            await sink.close()

    async def _deliver(self, batch: Sequence[Message]) -> None:
        try:
            async with asyncio.timeout(self._patience):
                if self._sink is None:
                    self._sink = await self._connect()
                await self._sink.deliver(batch)
        except Rejected:
            raise
        except TimeoutError:
            await self.close()
            raise Slow(
                f"It took longer than {self._patience:g} seconds to take {len(batch)} messages."
            ) from None
        except TrothError as error:  # a secret that can't be read, a URL that is none
            await self.close()
            raise error if isinstance(error, Away) else Away(error.detail) from error
        except Exception as error:
            # A bug of the driver, or of what it rests on: the receiver may be well all the same.
            log.exception("sink.broke", sink=self.name)
            await self.close()
            raise Away(
                f"The driver failed: {type(error).__name__}. See the server's log."
            ) from error
        except BaseException:
            await self.close()
            raise

    async def _connect(self) -> Sink:
        make = self._open or load_driver(self.driver)
        secret = await asyncio.to_thread(self._secret)
        return make(self.target, secret, self._clock)

    def _count(self, error: Rejected, size: int) -> None:
        """Raise `Away` if nothing at all is taken any more."""
        found = 1 if error.messages is None else len(error.messages)
        self._streak = self._streak + found if found == size else 0
        if self._streak > MOST_REFUSED:
            raise Away(
                f"It refused more than {MOST_REFUSED} messages in a row, so it is taken for "
                f"configured wrongly, here or there. Its last reason: {error.detail}"
            )

    def _back_off(self, error: Away) -> None:
        pause = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(self._failures, 10))
        if error.retry_after is not None:
            pause = min(LONGEST_PAUSE, max(pause, error.retry_after))
        self._failures += 1
        # Between half of it and all: servers that lost the same receiver don't return at once.
        self._due = self._clock.monotonic() + pause * (0.5 + fraction(self._entropy) / 2)
        trouble = error.detail[:LONGEST_TROUBLE]
        if not self.trouble:
            log.warning("sink.away", sink=self.name, reason=trouble)
        self.trouble = trouble

    def _recover(self) -> None:
        if self.trouble:
            log.info("sink.back", sink=self.name, failures=self._failures)
        self._failures, self.trouble = 0, ""
        self._most = min(self._most + self._most // 4 + 1, LARGEST_PART)


def _cut(refused: Mapping[int, str], done: int) -> dict[int, str]:
    return {place: why for place, why in refused.items() if place < done}
