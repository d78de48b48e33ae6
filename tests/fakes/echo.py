"""A service without meaning, for tests of framing and flow."""

from __future__ import annotations

import asyncio


class Echo:
    """A service for tests of framing: repeats, or does what its name says."""

    def __init__(self):
        self.started = 0
        self.ended = 0

    def methods(self):
        return {"/Echo/Repeat": self.repeat, "/Echo/Wait": self.wait, "/Echo/Flood": self.flood}

    async def repeat(self, call):
        while (message := await call.receive()) is not None:
            await call.send(message)

    async def wait(self, call):
        self.started += 1
        try:
            await call.receive_first()
            await asyncio.Event().wait()
        finally:
            self.ended += 1

    async def flood(self, call):
        self.started += 1
        try:
            while True:
                await call.send(b"x" * 60_000)
        finally:
            self.ended += 1
