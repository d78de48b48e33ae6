"""Who gives the packing process its jobs, and takes its answers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from troth.archive.jobsheet import AnyStep, Done, RedactEvents, Sheet
from troth.core.errors import Unavailable

log = structlog.get_logger(__name__)

PROGRAM = (sys.executable, "-m", "troth.archive.worker")
REDACTION_SECONDS = 600
LONGEST_ANSWER = 16 << 20
"""Bytes of a line of an answer."""
SHOWN = 2_000
"""Characters of its last words, for the log."""


@dataclass(frozen=True, slots=True)
class Foreman:
    """Jobs in one archive: where it is, the folder to work in, and bytes of memory."""

    where: str
    work: str
    memory: int

    async def do(self, steps: Sequence[AnyStep]) -> AsyncGenerator[Done, None]:
        """The answer to each step as it comes; the process ends with the last, or with the caller.

        `Unavailable` if it ends before: it is tried again with the next job.
        """
        process = await asyncio.create_subprocess_exec(
            *PROGRAM,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=LONGEST_ANSWER,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        complaints = asyncio.create_task(process.stderr.read())
        ended = False
        try:
            process.stdin.write(self._write(steps))
            try:
                await process.stdin.drain()
                process.stdin.close()
            except (BrokenPipeError, ConnectionResetError):
                pass  # told below
            for _ in steps:
                line = await process.stdout.readline()
                if not line:
                    code = await process.wait()
                    told = (await complaints)[-SHOWN:].decode(errors="replace")
                    log.error("archive.worker_ended", code=code, told=told)
                    raise _tell_end(code)
                yield msgspec.json.decode(line, type=Done)
            ended = True
        finally:
            if not ended and process.returncode is None:
                process.kill()
            complaints.cancel()
            await process.wait()

    def redact_event(self, position: int) -> bool:
        """Take an event out of the archive; blocks. False if it isn't there."""
        try:
            ended = subprocess.run(
                PROGRAM,
                input=self._write([RedactEvents([position])]),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=REDACTION_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable("The archive's files are in use; it is tried again.") from error
        if not ended.stdout:
            raise _tell_end(ended.returncode)
        return bool(msgspec.json.decode(ended.stdout, type=Done).check().count)

    def _write(self, steps: Sequence[AnyStep]) -> bytes:
        return msgspec.msgpack.encode(Sheet(self.where, self.work, self.memory, list(steps)))


def _tell_end(code: int | None) -> Unavailable:
    return Unavailable(
        f"The packing process ended with {code}: there may be too little memory for it, or it was "
        "killed. It is started again."
    )
