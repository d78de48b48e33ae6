"""Callers of the agent's socket: a plain gRPC client, and one that speaks HTTP/2 as it likes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
from grpclib.client import Channel
from grpclib.const import Cardinality, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.settings import SettingCodes, Settings

HEADER = {"workload.spiffe.io": "true"}
UNARY = {"FetchJWTSVID", "ValidateJWTSVID", "FetchSecrets"}


class _Bytes(CodecBase):
    """Messages as bytes: each test encodes and decodes with somebody else's classes."""

    __content_subtype__ = "proto"

    def encode(self, message, message_type):
        return message

    def decode(self, data, message_type):
        return data


@asynccontextmanager
async def open_channel(path: Path):
    """A gRPC channel to the socket."""
    channel = Channel(path=str(path), codec=_Bytes())
    try:
        yield channel
    finally:
        channel.close()


def stream_call(channel: Channel, method: str, *, metadata=None, deadline=None):
    """An open call; use it as an async context."""
    return channel.request(
        method, Cardinality.STREAM_STREAM, bytes, bytes, metadata=metadata, timeout=deadline
    )


async def call_once(
    channel: Channel, method: str, request: bytes, *, metadata=HEADER, deadline=None
):
    """One request, the first reply; raises GRPCError."""
    async with stream_call(channel, method, metadata=metadata, deadline=deadline) as stream:
        await stream.send_message(request, end=True)
        reply = await stream.recv_message()
        if reply is None:
            await stream.recv_trailing_metadata()
            raise AssertionError("no message and no error")
        if method.rpartition("/")[2] in UNARY:
            assert await stream.recv_message() is None
            await stream.recv_trailing_metadata()
        else:
            await stream.cancel()
    return reply


async def read_status(stream):
    """Read to the end of an open call: (messages, the error it ended with or None)."""
    messages = []
    try:
        while (message := await stream.recv_message()) is not None:
            messages.append(message)
        await stream.recv_trailing_metadata()
    except GRPCError as error:
        return messages, error
    except StreamTerminatedError:
        # The server asked us to stop sending (RST_STREAM, NO_ERROR) after it had said it all.
        stream._cancel_done = True
        said = dict(stream._stream.trailers or stream._stream.headers)
        return messages, GRPCError(
            Status(int(said["grpc-status"])), unquote(said.get("grpc-message", ""))
        )
    return messages, None


class RawCaller:
    """HTTP/2 with nothing on top: sends what a well-behaved client wouldn't."""

    def __init__(self, reader, writer) -> None:
        self.reader = reader
        self.writer = writer
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True, header_encoding="latin-1", validate_outbound_headers=False
            )
        )
        self.closed = False

    def start(self) -> None:
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def call(self, path: str, *extra, end: bool = False) -> int:
        """Open a stream with a gRPC request's headers."""
        stream_id = self.h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        self.h2.send_headers(stream_id, [*headers, *extra], end_stream=end)
        self.flush()
        return stream_id

    def message(self, stream_id: int, body: bytes, *, flag: int = 0, size=None, end=False) -> None:
        """One gRPC message, with whatever prefix the test wants."""
        length = len(body) if size is None else size
        self.h2.send_data(
            stream_id, bytes([flag]) + length.to_bytes(4, "big") + body, end_stream=end
        )
        self.flush()

    async def events(self):
        """What the server sends next; an empty list when it has closed."""
        try:
            data = await self.reader.read(65_536)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return []
        events = self.h2.receive_data(data)
        self.flush()
        return events

    async def trailers(self, stream_id):
        """The status of the call: its trailers, or its headers if there is nothing else."""
        return (await self.conversation(stream_id))[1]

    async def conversation(self, stream_id) -> tuple[list[bytes], dict[str, str]]:
        """All messages of the call and how it ends."""
        found: dict[str, str] = {}
        data = b""
        while True:
            for event in await self.events():
                if getattr(event, "stream_id", None) != stream_id:
                    continue
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    found.update(dict(event.headers))  # type: ignore[arg-type]  # text
                if isinstance(event, h2.events.DataReceived):
                    data += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
                if isinstance(event, h2.events.StreamEnded):
                    return split_messages(data), found
            if self.closed:
                raise AssertionError(f"closed before the end of the call: {found}")

    async def goodbye(self):
        """Read until the server closes; the GOAWAY it sent, if any."""
        goaway = None
        while not self.closed:
            for event in await self.events():
                if isinstance(event, h2.events.ConnectionTerminated):
                    goaway = event
        return goaway


def split_messages(data: bytes) -> list[bytes]:
    """gRPC messages out of their frames."""
    messages = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        messages.append(data[5 : 5 + size])
        data = data[5 + size :]
    return messages


@asynccontextmanager
async def connect_raw(path: Path, *, start: bool = True):
    """A raw caller on the socket."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    caller = RawCaller(reader, writer)
    if start:
        caller.start()
    try:
        yield caller
    finally:
        writer.close()


@asynccontextmanager
async def connect_deaf(path: Path):
    """A raw caller that lets the server send as much as it likes, and reads nothing of it."""
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1024)
    caller = RawCaller(reader, writer)
    caller.h2.local_settings = Settings(
        initial_values={SettingCodes.INITIAL_WINDOW_SIZE: 2**30, SettingCodes.ENABLE_PUSH: 0}
    )
    caller.h2.initiate_connection()
    caller.h2.increment_flow_control_window(2**30)
    caller.flush()
    try:
        yield caller
    finally:
        writer.transport.abort()
