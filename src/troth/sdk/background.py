"""A coroutine in a thread of its own, for programs that have no event loop, or another one."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from troth.core.errors import Invalid


class Background:
    """Follows something, from `start` until `close` or the end of the process. Use it in ``with``,
    or call both. `name` is the thread's; what is followed, a subclass says in `_follow`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._closing = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; once."""
        if self._thread is not None:
            raise Invalid("This was started before; make another one.")
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, and wait for its end."""
        self._closing = True
        if self._thread is None:
            return
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            try:
                runner.run(self._enter())
            except asyncio.CancelledError:
                return

    async def _follow(self) -> None:
        raise NotImplementedError

    async def _enter(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if not self._closing:
            await self._follow()
