"""The witness as a process: takes its folder, opens its door, runs until told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop

from troth.audit.note import VerifierKey, check_name
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy
from troth.core.errors import Invalid
from troth.core.heap import settle_heap
from troth.server.http.listeners import Listener, TcpBinding
from troth.server.installation import claim_directory
from troth.server.settings import Limits
from troth.server.tls import make_context
from troth.server.witness.app import WitnessApp
from troth.server.witness.desk import WitnessDesk
from troth.server.witness.records import Records
from troth.server.witness.signer import WitnessSigner, open_signer

LIMITS = Limits(connections=1024, connections_per_address=256, header_bytes=16 * 1024)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WitnessPlan:
    """How a witness is to run: `logs` are the keys of the logs that it cosigns, `tls` the files of
    its certificate chain and key, `key_source` where the key-encryption key comes from ("" for its
    own folder)."""

    folder: Path
    name: str
    host: str
    port: int
    logs: Sequence[VerifierKey]
    tls: tuple[Path, Path] | None = None
    key_source: str = ""


def run_witness(plan: WitnessPlan, announce: Callable[[WitnessSigner, str], None]) -> int:
    """Serve until SIGTERM or SIGINT; `announce` is called once, with the keys and the address, when
    ready. Returns 0.

    Raises `TrothError` if it can't start so.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(plan, announce))


async def _serve(plan: WitnessPlan, announce: Callable[[WitnessSigner, str], None]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    check_name(plan.name)
    tls = _load_context(plan.tls) if plan.tls else None
    if tls is not None and plan.tls is not None:
        loop.add_signal_handler(signal.SIGHUP, _reload, tls, plan.tls)
    plan.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        stack.callback(os.close, claim_directory(plan.folder))
        clock = SystemClock()
        signer = open_signer(plan.folder, plan.name, plan.key_source, SystemEntropy())
        desk = WitnessDesk(Records(plan.folder, signer.public), signer, plan.logs, clock)
        desk.tell_damage()
        listener = Listener(
            WitnessApp(desk),
            name="witness",
            binding=TcpBinding(plan.host, plan.port, tls),
            clock=clock,
            limits=LIMITS,
        )
        await listener.start()
        stack.push_async_callback(listener.stop)
        announce(signer, f"{'https' if tls else 'http'}://{listener.where}")
        settle_heap()
        await stop.wait()
        log.info("witness.stopping")
    return 0


def _load_context(pair: tuple[Path, Path]) -> ssl.SSLContext:
    context = make_context()
    try:
        # Without a password's function OpenSSL would ask at the terminal.
        context.load_cert_chain(*pair, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise Invalid(
            f"{pair[0]} and {pair[1]} must be a certificate chain, leaf first, and its key without "
            f"a password, both PEM: {error.strerror if isinstance(error, OSError) else error}."
        ) from error
    return context


def _reload(context: ssl.SSLContext, pair: tuple[Path, Path]) -> None:
    """Serve the files' certificate as it is now; one that can't be used changes nothing."""
    try:
        _load_context(pair)  # a failed load would spoil the one that is served
        context.load_cert_chain(*pair, password=lambda: b"")
        log.info("witness.certificate_loaded")
    except (Invalid, ssl.SSLError, OSError) as error:
        log.error("witness.certificate_kept", reason=str(error))
