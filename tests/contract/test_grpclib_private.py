"""What the agent's socket takes from inside grpclib and h2: an update must not break it quietly.

grpclib is pinned for these; a new version needs a look at each.
"""

from __future__ import annotations

import asyncio
import inspect
from importlib.metadata import version

import pytest
from grpclib import protocol
from grpclib.metadata import decode_timeout, encode_grpc_message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import UnknownFrameReceived

from tests.fakes.source import in_loop


def test_the_pinned_version_is_the_one_that_was_looked_at():
    assert version("grpclib") == "0.4.9"


def test_the_protocol_class_has_the_seams_that_are_overridden():
    assert list(inspect.signature(protocol.H2Protocol.__init__).parameters) == [
        "self",
        "handler",
        "config",
        "h2_config",
    ]
    for name in (
        "connection_made",
        "data_received",
        "pause_writing",
        "resume_writing",
        "connection_lost",
    ):
        assert inspect.isfunction(getattr(protocol.H2Protocol, name)), name
    assert protocol.AbstractHandler.__abstractmethods__ == {"accept", "cancel", "close"}


@in_loop
async def test_a_connection_is_made_of_these_parts():
    class Transport(asyncio.Transport):
        def write(self, data):
            pass

        def close(self):
            pass

        def is_closing(self):
            return False

    h2 = H2Connection(H2Configuration(client_side=False))
    connection = protocol.Connection(h2, Transport(), config=None)  # type: ignore[arg-type]  # unused
    assert connection.write_ready.is_set()
    processor = protocol.EventsProcessor(None, connection)  # type: ignore[arg-type]  # not called
    assert UnknownFrameReceived not in processor.processors
    stream = connection.create_stream(stream_id=1)
    for name in ("recv_data", "send_headers", "send_data", "reset_nowait", "closable", "id"):
        assert hasattr(stream, name), name
    connection.close()
    assert connection.is_closing()


@in_loop
async def test_a_stream_that_ends_in_the_middle_is_told_by_an_assertion():
    buffer = protocol.Buffer(lambda size: None)
    buffer.add(b"abc", 3)
    buffer.eof()
    with pytest.raises(AssertionError, match="less data"):
        await buffer.read(5)


@in_loop
async def test_a_stream_that_ends_between_messages_reads_as_nothing():
    buffer = protocol.Buffer(lambda size: None)
    buffer.eof()
    assert await buffer.read(5) == b""


def test_what_h2_waits_for_can_be_seen():
    """`troth.agent.switchboard` hangs up on frames that h2 would collect and then refuse."""
    h2 = H2Connection(H2Configuration(client_side=False))
    h2.initiate_connection()
    h2.receive_data(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 9)
    assert bytes(h2.incoming_buffer._data) == b"\xff" * 9
    assert h2.incoming_buffer._headers_buffer == []
    assert h2.max_inbound_frame_size == 16_384


def test_header_encodings():
    assert encode_grpc_message("50% à la\nmode") == "50%25 %C3%A0 la%0Amode"
    assert decode_timeout("5m") == 0.005
    for wrong in ("", "5", "-5S", "5.0S", "9" * 5000 + "S"):
        with pytest.raises(ValueError, match=r"."):
            decode_timeout(wrong)
