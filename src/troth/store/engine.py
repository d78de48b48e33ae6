"""The store as the rest of the house sees it: `transact`, `read`, and word of new events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from troth.core.clock import Clock
from troth.core.entropy import Entropy, SystemEntropy
from troth.core.errors import Unavailable
from troth.store.database import Database
from troth.store.readers import Readers
from troth.store.schema import prepare_schema
from troth.store.session import News, name_holder
from troth.store.shelf import KeyShelf
from troth.store.sqlite import SqliteFile, parse_url
from troth.store.timing import Stopwatch
from troth.store.transaction import Transaction
from troth.store.writer import Function, Writer

if TYPE_CHECKING:
    from troth.store.courier import Courier
    from troth.store.postgres import PostgresServer

__all__ = ["Store", "Transaction", "open_store"]

FILE_HOLDER = "server"
"""A database file has one server: a lease that a crashed one held is its successor's at once.
Otherwise a quarantine right after a crash would wait for the sealer's lease to end."""

PATIENCE_SECONDS = 20.0
"""How long a caller waits for a database elsewhere: longer than its own limits on locks and on
collisions, shorter than clients wait for us."""

LATE_SECONDS = 0.05
"""How long events on which nothing live depends wait for others to be sealed with: each time costs
as much as a transaction of its own."""

T = TypeVar("T")


class _Writers(Protocol):
    @property
    def threads(self) -> int: ...

    def submit(self, function: Function, *, locked: bool = False) -> asyncio.Future[Any]: ...

    def close(self) -> None: ...


class Store:
    """All control state, in one database."""

    def __init__(
        self, database: Database, clock: Clock, holder: str, stopwatch: Stopwatch | None = None
    ) -> None:
        self.clock = clock
        self.stopwatch = stopwatch or Stopwatch(clock)
        self.holder = holder
        """Who takes leases in the name of this process."""
        self.shelf = KeyShelf(database)
        """Where the database keystore lays sealed keys."""
        self._database = database
        self._commit_listeners: list[Callable[[], None]] = []
        self._news_listeners: list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = []
        self._readers = Readers(database)
        self._writer: _Writers
        self._courier: Courier | None = None
        self._sealer: str | None = None
        self._late: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    @property
    def shared(self) -> bool:
        """Whether other servers may work on this database; a file has one."""
        return self.holder != FILE_HOLDER

    @property
    def writers(self) -> int:
        """How many transactions can be under way at once."""
        return self._writer.threads

    async def transact(self, function: Callable[[Transaction], T]) -> T:
        """Run `function` in a transaction; returns only once it is durable.

        What `function` raises takes back what it did, and nothing else, and is raised here.
        `Unavailable` means that the database couldn't commit; nothing is recorded, unless power
        or the connection fails at that very moment, so look before you repeat. A caller that is
        cancelled before its turn leaves no trace; later, the work is done all the same.

        `function` runs in a writer's thread as if it were alone, again if the database asks: no
        I/O, no waiting, no effect but the one on the database.
        """
        return await self._await(self.stopwatch.run("transact", function, self._writer.submit))

    async def transact_locked(self, function: Callable[[Transaction], T]) -> T:
        """As `transact`, for a function that begins by locking a row that all of its kind lock:
        the sealer's. What others change is seen from one statement to the next."""
        submit = partial(self._writer.submit, locked=True)
        return await self._await(self.stopwatch.run("seal", function, submit))

    async def read(self, function: Callable[[Transaction], T]) -> T:
        """Run `function` on one consistent snapshot; it waits for no writer and can't change
        anything. `Unavailable` when the database is away."""
        return await self._await(self.stopwatch.run("read", function, self._readers.submit))

    async def _await(self, outcome: Awaitable[T]) -> T:
        """What becomes of `outcome`, but not for ever: a server elsewhere may be reachable and
        stand still, and no timeout of the network or its own notices that."""
        if not self.shared:
            return await outcome
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await outcome
        except TimeoutError:
            # What has not begun yet is cancelled and leaves no trace.
            raise Unavailable(
                "The database doesn't answer. A change may be recorded or not: look before you "
                "repeat it."
            ) from None

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after every commit that holds new journal rows.

        It is called in the event loop of the transactions' callers, once a group, after they got
        their results, or soon after if nothing live depends on those rows. It says "look", not
        what: a lost call costs a period, never a result.
        """
        self._commit_listeners.append(callback)

    def on_news(self, callback: Callable[[], None]) -> None:
        """Have `callback` called in the running loop when another server on this database has
        sealed events, or left some for this one to seal. It says "look", not what."""
        self._news_listeners.append((asyncio.get_running_loop(), callback))

    def name_sealer(self, holder: str | None) -> None:
        """Who seals on this database, or None for this very server: another one is told now, and
        after every commit here, that something waits. Never blocks."""
        self._sealer = holder
        self._ask_sealer()

    def close(self) -> None:
        """Write and read what is queued, then close; blocks until done. Again is no error."""
        self._writer.close()
        self._readers.close()
        if self._courier is not None:
            self._courier.close()
        self._database.dispose()

    def use_file(self, file: SqliteFile) -> None:
        """Write through one thread, the only one that a database file lets write."""
        self._writer = Writer(file, self._announce)

    def use_server(self, server: PostgresServer, entropy: Entropy, presence: int) -> None:
        """Write through several threads, and exchange word with other servers."""
        from troth.store.courier import Courier
        from troth.store.crew import Crew

        self._writer = Crew(server, entropy, self._announce)
        self._courier = Courier(server, self.holder, presence, self._ring)
        self._courier.wait_shown()

    def _ask_sealer(self) -> None:
        if self._sealer is not None and self._courier is not None:
            self._courier.ask(self._sealer)

    def _announce(self, news: News) -> None:
        loop = asyncio.get_running_loop()
        late, self._late = self._late, None
        if news is News.PATIENT:
            if late is None or late[0] is not loop:
                late = loop, loop.call_later(LATE_SECONDS, self._announce, News.URGENT)
            self._late = late
            return
        if late is not None:
            late[1].cancel()
        self._ask_sealer()
        for callback in self._commit_listeners:
            loop.call_soon(callback)  # each by itself: one that fails spoils nothing else

    def _ring(self) -> None:
        for loop, callback in self._news_listeners:
            try:
                loop.call_soon_threadsafe(callback)
            except RuntimeError:
                pass  # the loop is closed: nobody waits there any more


def open_store(
    url: str,
    *,
    clock: Clock,
    entropy: Entropy | None = None,
    stopwatch: Stopwatch | None = None,
) -> Store:
    """Open the database at `url` and migrate it if needed.

    ``sqlite:///path/troth.db`` is created if it is missing; ``postgresql://user@host:port/name``
    must be there. Blocks: call it before the event loop runs, or in a thread. Raises `Invalid`
    for a URL or database that isn't ours, `Refused` for a newer troth's or a server too old,
    `Unavailable` if it can't be opened.
    """
    database = open_database(url)
    _prepare(database)
    if isinstance(database, SqliteFile):
        store = Store(database, clock, FILE_HOLDER, stopwatch)
        store.use_file(database)
        return store
    entropy = entropy or SystemEntropy()
    presence = int.from_bytes(entropy.token(8), "big") >> 4
    store = Store(database, clock, name_holder(presence), stopwatch)
    store.use_server(database, entropy, presence)
    return store


def open_database(url: str) -> SqliteFile | PostgresServer:
    """The database at `url`, not looked at yet; `Invalid` for a URL that isn't one."""
    if url.partition("://")[0] not in ("postgresql", "postgres"):
        return SqliteFile(parse_url(url))
    from troth.store import postgres  # the driver is loaded only by those who use it

    return postgres.PostgresServer(postgres.parse_url(url))


def _prepare(database: Database) -> None:
    database.create()
    try:
        prepare_schema(database)
    except Exception as error:
        known = database.explain_error(error)
        if known is None:
            raise
        raise known from error
