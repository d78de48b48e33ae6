"""A Kafka-compatible broker (franz-go's kfake, built from its Go modules), and what it stored.

It speaks TLS and asks for a certificate. Its SASL handshake names no mechanism, which aiokafka
wants to see there.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.fakes.authority import Authority
from tests.fakes.goprograms import build_receiver
from tests.fakes.receiver import Receiver

TOPIC = "troth"


class KafkaServer(Receiver):
    """One broker. It keeps its port and its topic over stops and kills."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._program = build_receiver("kfake")
        super().__init__(folder)
        certificate, key = authority.issue("kafka")
        self._options = (
            f"-certificate={certificate}",
            f"-key={key}",
            f"-authority={authority.file}",
        )
        self._tls = ssl.create_default_context(cafile=str(authority.file))
        self._tls.load_cert_chain(*authority.issue("reader"))

    @property
    def command(self) -> Sequence[str | Path]:
        return [
            self._program,
            f"-port={self.port}",
            f"-folder={self._folder}/store",
            f"-topic={TOPIC}",
            *self._options,
        ]

    @property
    def url(self) -> str:
        return f"kafka+tls://127.0.0.1:{self.port}/{TOPIC}"

    def list_contents(self) -> list[bytes]:
        """All messages, partition by partition, in the order of each."""
        return asyncio.run(self._list_contents())

    async def _list_contents(self) -> list[bytes]:
        reader = AIOKafkaConsumer(
            TOPIC,
            bootstrap_servers=f"127.0.0.1:{self.port}",
            auto_offset_reset="earliest",
            security_protocol="SSL",
            ssl_context=self._tls,
        )
        await reader.start()
        found: dict[TopicPartition, list[bytes]] = {}
        try:
            partitions = sorted(reader.assignment())
            assert partitions
            async with asyncio.timeout(30):
                ends = await reader.end_offsets(partitions)
                while any([await reader.position(one) < ends[one] for one in partitions]):
                    for partition, rows in (await reader.getmany(timeout_ms=1000)).items():
                        found.setdefault(partition, []).extend(row.value for row in rows)
        finally:
            await reader.stop()
        return [value for partition in partitions for value in found.get(partition, ())]
