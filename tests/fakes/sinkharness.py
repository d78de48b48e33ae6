"""Each sink driver with a receiver of its kind: what the conformance suite asks of all of them."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tests.fakes.authority import Authority
from tests.fakes.httpreceivers import TOKEN, FakeElastic, FakeOtlp, FakeSplunk, HttpReceiver
from tests.fakes.kafkaserver import KafkaServer
from tests.fakes.messages import make_message, read_number
from tests.fakes.natsserver import NatsServer
from tests.fakes.rsyslog import Rsyslog
from troth.core.clock import SystemClock
from troth.drivers.sinks import Message, Sink, Target, load_driver

LARGE = 2_000_000


class Receiver(Protocol):
    """Somebody who can go away and hang."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


class Harness:
    """A driver and its receiver. `refuses` says whether the receiver ever refuses a message."""

    driver = ""
    refuses = True
    secret = ""
    receiver: Any

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = Target("siem", "", timeout=5.0)

    def open(self, timeout: float = 5.0) -> Sink:
        """A fresh sink, as its factory makes it."""
        target = replace(self.target, timeout=timeout)
        return load_driver(self.driver)(target, self.secret, SystemClock())

    def start(self) -> None:
        """The receiver is there."""
        self.receiver.start()

    def stop(self) -> None:
        """It is away."""
        self.receiver.stop()

    def hang(self) -> None:
        """It is there and does nothing."""
        self.receiver.pause()

    def go_on(self) -> None:
        """It works again."""
        self.receiver.go_on()

    def make_refused(self, number: int) -> Message:
        """A message that the receiver will never take."""
        return make_message(number, content=b"{" + b" " * LARGE + b"}")

    def clean(self) -> AbstractContextManager[None]:
        """Around a run of the sink: what its library leaves behind."""
        return nullcontext()

    def list_numbers(self) -> list[int]:
        """What the receiver has, in its order."""
        raise NotImplementedError

    def close(self) -> None:
        """End what was started."""
        with suppress(ProcessLookupError, AssertionError):
            self.go_on()
        self.stop()


class FileHarness(Harness):
    driver = "file"
    refuses = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "out" / "events.jsonl"
        self.target = replace(self.target, url=self.path.as_uri())

    def start(self) -> None:
        self.path.parent.mkdir(exist_ok=True)

    def stop(self) -> None:
        """Nothing can be written there."""
        if self.path.parent.exists():
            self.path.parent.rename(self.folder / "away")
        self.path.parent.symlink_to("/dev/full")

    def start_again(self) -> None:
        self.path.parent.unlink()
        (self.folder / "away").rename(self.path.parent)

    def hang(self) -> None:
        raise AssertionError("a disk that hangs, hangs the kernel")

    def go_on(self) -> None:
        """Nothing hangs."""

    def list_numbers(self) -> list[int]:
        return [read_number(line) for line in self.path.read_bytes().splitlines()]

    def close(self) -> None:
        """Nothing was started."""


class SyslogHarness(Harness):
    driver = "syslog"
    refuses = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        authority = Authority(folder)
        certificate, key = authority.issue("troth")
        self.receiver = Rsyslog(folder / "rsyslog", authority, mutual=True)
        self.target = replace(
            self.target,
            url=self.receiver.url,
            authorities=authority.file,
            certificate=certificate,
            key=key,
        )

    def list_numbers(self) -> list[int]:
        return [read_number(line[line.index(b"{") :]) for line in self.receiver.list_lines()]


class HttpHarness(Harness):
    secret = TOKEN
    receiver: HttpReceiver
    path = ""

    def start(self) -> None:
        self.receiver.start()
        self.target = replace(self.target, url=self.receiver.url + self.path)

    def hang(self) -> None:
        self.receiver.released.clear()
        self.receiver.hanging.set()

    def go_on(self) -> None:
        self.receiver.hanging.clear()
        self.receiver.released.set()

    def make_refused(self, number: int) -> Message:
        self.receiver.refused.add(number)
        return make_message(number)

    def list_numbers(self) -> list[int]:
        return self.receiver.numbers


class SplunkHarness(HttpHarness):
    driver = "splunk"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.receiver = FakeSplunk()


class ElasticHarness(HttpHarness):
    driver = "elastic"
    path = "/troth"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.receiver = FakeElastic()
        self.target = replace(self.target, user="troth")


class OtlpHarness(HttpHarness):
    driver = "otlp"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.receiver = FakeOtlp()


class NatsHarness(Harness):
    driver = "nats"
    secret = TOKEN

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        authority = Authority(folder)
        certificate, key = authority.issue("troth")
        self.receiver = NatsServer(folder / "nats", token=TOKEN, authority=authority)
        self.target = replace(
            self.target,
            url=self.receiver.url,
            authorities=authority.file,
            certificate=certificate,
            key=key,
        )
        self._made = False

    def start(self) -> None:
        super().start()
        if not self._made:
            self.receiver.add_stream()
            self._made = True

    def list_numbers(self) -> list[int]:
        return [read_number(one) for one in self.receiver.list_contents()]


class KafkaHarness(Harness):
    driver = "kafka"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        authority = Authority(folder)
        certificate, key = authority.issue("troth")
        self.receiver = KafkaServer(folder / "kafka", authority)
        self.target = replace(
            self.target,
            url=self.receiver.url,
            authorities=authority.file,
            certificate=certificate,
            key=key,
        )

    @contextmanager
    def clean(self) -> Iterator[None]:
        """Cancelled while it starts, aiokafka leaves a connection to the collector, which closes
        it and warns."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
            gc.collect()

    def list_numbers(self) -> list[int]:
        return [read_number(one) for one in self.receiver.list_contents()]


HARNESSES: tuple[type[Harness], ...] = (
    ElasticHarness,
    FileHarness,
    KafkaHarness,
    NatsHarness,
    OtlpHarness,
    SplunkHarness,
    SyslogHarness,
)
