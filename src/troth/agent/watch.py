"""Streams of things that happen: a caller's views, and several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from troth.agent.view import Caller, Source, View
from troth.core.errors import Unavailable

T = TypeVar("T")


async def watch_views(source: Source, caller: Caller) -> AsyncGenerator[View, None]:
    """`source`'s views of `caller`. Never ends but by raising: `Unavailable` if the source does."""
    views = source.watch(caller)
    try:
        async for view in views:
            yield view
    finally:
        if isinstance(views, AsyncGenerator):
            await views.aclose()
    raise Unavailable("The agent has lost its source of identities; come back soon.")


async def merge(*streams: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Items of all `streams` as they come. Raises with the first that does, ends with the last."""
    queue: asyncio.Queue[tuple[T] | Exception | None] = asyncio.Queue(1)

    async def pump(stream: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await queue.put((item,))
            await queue.put(None)
        except Exception as error:  # noqa: BLE001  # raised again by whoever reads the merged stream
            await queue.put(error)

    tasks = [asyncio.get_running_loop().create_task(pump(stream)) for stream in streams]
    try:
        open_streams = len(tasks)
        while open_streams:
            news = await queue.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                open_streams -= 1
            else:
                yield news[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
