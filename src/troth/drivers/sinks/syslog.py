"""A sink that is a syslog receiver: RFC 5424 over TLS (RFC 5425).

Syslog has no acknowledgement, and what TCP acknowledges has only come into a buffer of the
receiver's system. So each batch has a connection of its own, which is closed from our side first:
the alert ``close_notify`` follows the last message. A receiver answers it, or closes too, once it
has read it, and so everything before (RFC 5425, section 4.4). If it dies before that, its system
resets the connection, since something was left unread; then the batch is sent again. What the
receiver does with what it has read is its own affair.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from troth.core.clock import Clock
from troth.drivers.sinks import Away, Message, Slow, Target
from troth.drivers.sinks.place import Place, parse_place
from troth.drivers.sinks.tls import make_context
from troth.wire.syslog import SyslogMessage, frame_message, render_message

APP = "troth"
_ESTABLISHED = 1  # TCP_ESTABLISHED in the first byte of struct tcp_info (linux/tcp.h)


def open_sink(target: Target, secret: str, clock: Clock) -> SyslogSink:
    """A sink for the receiver at ``tls://HOST:PORT``."""
    return SyslogSink(target)


class SyslogSink:
    """Implements `Sink`. A connection lasts for a batch, in a thread."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._place = parse_place("syslog", target.url)
        self._exchange: _Exchange | None = None

    async def deliver(self, batch: Sequence[Message]) -> None:
        """Send all of it, and wait until the receiver has read to the end."""
        data = b"".join(map(self._render, batch))
        exchange = self._exchange = _Exchange(self._target, self._place)
        try:
            await asyncio.to_thread(exchange.run, data)
        except BaseException:
            exchange.abort()  # the thread, if it still runs, ends at once
            raise
        finally:
            self._exchange = None

    async def close(self) -> None:
        """Give up what is under way."""
        if self._exchange is not None:
            self._exchange.abort()

    def _render(self, message: Message) -> bytes:
        rendered = SyslogMessage(
            at=message.at,
            severity=message.severity,
            host=self._target.host,
            app=APP,
            kind=message.type,
            content=message.content,
            # RFC 5424, section 7.2
            data={"origin": {"software": APP, "swVersion": self._target.version[:32]}},
        )
        return frame_message(render_message(rendered))


CHUNK = 4096


@dataclass
class _Exchange:
    """One connection, from its beginning to its end. `abort` may be called from another thread."""

    target: Target
    place: Place
    _socket: socket.socket | None = field(default=None, repr=False)
    _aborted: bool = False

    def run(self, data: bytes) -> None:
        """Return once the receiver has read all of `data`; raises `Away` if it may not have."""
        host, port = self.place.hosts[0]
        where = self.place.render_hosts()[0]
        context = make_context(self.target)
        try:
            with socket.create_connection((host, port), self.target.timeout) as plain:
                self._socket = plain
                self._check_wanted()
                with context.wrap_socket(plain, server_hostname=host) as secure:
                    self._socket = secure
                    secure.sendall(data)
                    self._await_end(secure, where)
            # Cut off from our side, a connection ends as if the receiver had closed it.
            self._check_wanted()
        except ssl.SSLCertVerificationError as error:
            raise Away(f"{where} isn't who it should be: {error.verify_message}.") from error
        except TimeoutError as error:
            waited = self.target.timeout
            kind = Away if self._socket is None else Slow
            raise kind(f"{where} stood still for {waited:g} seconds.") from error
        except OSError as error:  # ssl.SSLError is one
            reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
            raise Away(f"{where} can't be reached, or went away: {reason}.") from error

    def abort(self) -> None:
        """End it, wherever it is."""
        self._aborted = True
        found = self._socket
        if found is not None:
            with suppress(OSError):
                socket.socket.shutdown(found, socket.SHUT_RDWR)

    def _check_wanted(self) -> None:
        if self._aborted:
            raise Away("It was given up before the receiver had everything.")

    def _await_end(self, secure: ssl.SSLSocket, where: str) -> None:
        if _read_state(secure) != _ESTABLISHED or _is_over(secure):
            raise Away(f"{where} closed the connection before it had everything.")
        try:
            with secure.unwrap() as plain:
                # Who answers our farewell has read it, so nothing is on its way any more. One of
                # its own, that it said before ours came, is no answer: it may have read nothing.
                _check_arrived(plain, where)
                # A receiver that refused us (in TLS 1.3 it looks at our certificate after we are
                # done with the handshake) resets the connection with our data unread.
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(CHUNK):
                    pass
        except ssl.SSLEOFError:
            # It closed without a farewell of its own, as many do. Sure that it read ours is only
            # who sees that everything has arrived, and that nothing was sent back for it.
            _check_arrived(secure, where)


def _check_arrived(connection: socket.socket, where: str) -> None:
    """Raise `Away` unless the other side's kernel has all and has reset nothing. To be asked before
    our half is closed: its end would count as a byte that is on its way."""
    if _count_unsent(connection) or connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise Away(f"{where} went away before it had everything.")


def _is_over(secure: ssl.SSLSocket) -> bool:
    """Whether the receiver's farewell is there already, or an alert, which is raised. What else it
    says doesn't matter."""
    waited = secure.gettimeout()
    secure.settimeout(0)
    try:
        while secure.recv(CHUNK):
            pass
        return True
    except ssl.SSLWantReadError:
        return False
    finally:
        secure.settimeout(waited)


def _read_state(connection: socket.socket) -> int:
    """The state of a TCP connection, as the kernel numbers them."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def _count_unsent(connection: socket.socket) -> int:
    """Bytes that the other side's kernel hasn't acknowledged (SIOCOUTQ, tcp(7))."""
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    (count,) = struct.unpack("i", answer)
    return int(count)
