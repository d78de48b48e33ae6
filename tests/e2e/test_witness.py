"""Witnesses as processes: killed at any moment they never contradict themselves; logs find them."""

from __future__ import annotations

import json
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import aics_tlog
import httpx
import pytest

from tests.e2e.processes import TROTH, Daemon, Server, open_folder, run_troth, wait_for
from tests.fakes.jwksserver import make_certificate
from tests.fakes.witnesses import OtherLog
from troth.audit.checkpoint import open_checkpoint, parse_checkpoint
from troth.audit.note import VerifierKey, parse_note, parse_signatures, parse_vkey
from troth.audit.witness import Cosigned, Declined, Reason, parse_answer, select_cosignatures
from troth.core.errors import Invalid


@dataclass
class WitnessProcess:
    """`troth witness` on a folder of its own; it keeps its port when it is started again."""

    folder: Path
    name: str
    logs: tuple[str, ...]
    port: int = 0
    runs: int = 0
    daemon: Daemon | None = None
    keys: tuple[VerifierKey, ...] = ()

    def __post_init__(self) -> None:
        self.folder.mkdir()
        _, pem = make_certificate(self.folder)
        self.ca = self.folder / "ca.pem"
        self.ca.write_text(pem)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def command(self) -> list[str]:
        pair = str(self.folder / "localhost.pem")
        return [
            *("witness", "--data", str(self.folder / "data"), "--name", self.name),
            *("--listen", f"localhost:{self.port}", "--tls-cert", pair, "--tls-key", pair),
            *(part for log in self.logs for part in ("--log", log)),
        ]

    def start(self) -> WitnessProcess:
        self.runs += 1
        command = [str(TROTH), *self.command(), "--json"]
        daemon = self.daemon = Daemon(self.folder, f"run{self.runs}", command)

        def look() -> dict[str, Any] | None:
            assert daemon.process.poll() is None, daemon.log
            try:
                found: dict[str, Any] = json.loads(daemon.output)
            except ValueError:
                return None
            return found

        ready = wait_for(look, "a witness that is ready", 30)
        self.port = int(ready["url"].rpartition(":")[2])
        self.keys = tuple(map(parse_vkey, ready["vkeys"]))
        return self

    def post(self, body: bytes) -> Cosigned | Declined:
        with httpx.Client(verify=ssl.create_default_context(cafile=self.ca)) as client:
            found = client.post(f"{self.url}/add-checkpoint", content=body, timeout=20)
        return parse_answer(found.status_code, found.headers["content-type"], found.content)

    def get(self, path: str) -> bytes:
        with httpx.Client(verify=ssl.create_default_context(cafile=self.ca)) as client:
            return client.get(self.url + path, timeout=20).raise_for_status().content

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.stop()
            print(self.daemon.log[-10_000:])


Make = Callable[..., WitnessProcess]


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())

        def build(*logs: str, name: str = "witness.example/w1") -> WitnessProcess:
            number = len(list(folder.iterdir()))
            made = WitnessProcess(folder / f"w{number}", name, logs)
            stack.callback(made.stop)
            return made

        yield build


@pytest.fixture
def log() -> OtherLog:
    found = OtherLog()
    found.grow(300)
    return found


def test_another_programs_log_is_cosigned_for_other_programs(make: Make, log: OtherLog) -> None:
    witness = make(log.key.render()).start()
    found = Cosigned(())
    for old, new in ((0, 1), (1, 256), (256, 300)):
        answer = witness.post(log.submit(old, new))
        assert isinstance(answer, Cosigned)
        found = answer
        text = log.sign(new).text
        assert select_cosignatures(text, found.signatures, witness.keys) == found.signatures
        tree = parse_checkpoint(text)
        for key, signature in zip(witness.keys, found.signatures, strict=True):
            assert (signature.name, signature.key_id) == (key.name, key.key_id)
        classic = witness.keys[0]
        assert aics_tlog.verify_cosignature(
            *(found.signatures[0].value, classic.name, classic.public),
            *(tree.origin, tree.size, tree.root),
            max_age_seconds=60,
        )
    assert witness.post(log.submit(1, 300)) == Declined(Reason.STALE, 300)
    shown = witness.get("/vkey").decode().splitlines()
    assert tuple(map(parse_vkey, shown)) == witness.keys
    kept = witness.get(f"/{sha256(log.origin.encode()).hexdigest()}/checkpoint")
    assert parse_signatures(kept.rpartition(b"\n\n")[2])[1:] == found.signatures


def test_a_witness_that_is_killed_never_contradicts_itself(make: Make, log: OtherLog) -> None:
    """Two histories of one log are pressed upon it from all sides, and it is killed in between."""
    fork = OtherLog(history="false")
    fork.grow(300)
    witness, kept = make(log.key.render()).start(), parse_checkpoint(log.sign(0).text)
    path = f"/{sha256(log.origin.encode()).hexdigest()}/checkpoint"
    cosigned: list[tuple[OtherLog, int]] = []
    size = 0

    def press(shown: OtherLog, step: int, stop: threading.Event) -> None:
        old = size
        while not stop.is_set():
            new = min(300, old + step)
            try:
                found = witness.post(shown.submit(old, new))
            except httpx.HTTPError:
                return  # it was killed
            if isinstance(found, Cosigned):
                cosigned.append((shown, new))
                old = new
            elif found.reason is Reason.STALE:
                old = min(found.size, 300)
            if old >= 300:
                return

    def count(enough: int) -> bool:
        return len(cosigned) > enough

    for _ in range(5):
        stop = threading.Event()
        threads = [
            threading.Thread(target=press, args=(shown, step, stop))
            for shown, step in ((log, 1), (fork, 2), (log, 3), (fork, 1))
        ]
        for thread in threads:
            thread.start()
        enough = len(cosigned) + 3
        wait_for(partial(count, enough), "cosignatures")
        witness.kill()
        stop.set()
        for thread in threads:
            thread.join(30)
        witness.start()
        kept = parse_checkpoint(parse_note(witness.get(path)).text)
        assert kept.size >= max(found for _, found in cosigned)
        size = kept.size
    # One history alone, whichever came first.
    (winner,) = {shown.history: shown for shown, _ in cosigned}.values()
    assert kept.root == winner.tree.root(kept.size)
    loser = fork if winner is log else log
    assert isinstance(witness.post(loser.submit(kept.size, 300)), Declined)
    assert isinstance(witness.post(winner.submit(kept.size, 300)), Cosigned)


def test_a_fork_is_alarmed_and_kept(make: Make, log: OtherLog) -> None:
    fork = OtherLog(history="false")
    fork.grow(300)
    witness = make(log.key.render()).start()
    witness.post(log.submit(0, 100))
    assert witness.post(fork.submit(100, 100)) == Declined(Reason.FORKED)
    assert witness.daemon is not None
    alarm = witness.daemon.wait_for_event("witness.disputed")
    assert (alarm["level"], alarm["why"]) == ("error", "forked")
    found = json.loads(Path(alarm["kept"]).read_bytes())
    assert found["origin"] == log.origin


def test_one_damaged_record_stops_one_log_alone(make: Make, log: OtherLog) -> None:
    other = OtherLog("log.example/two")
    other.grow(5)
    witness = make(log.key.render(), other.key.render()).start()
    assert isinstance(witness.post(log.submit(0, 100)), Cosigned)
    witness.kill()
    record = f"logs/{sha256(log.origin.encode()).hexdigest()}"
    (witness.folder / "data" / "witness" / record).write_bytes(b"junk")
    witness.start()
    assert witness.daemon is not None
    assert witness.daemon.wait_for_event("witness.damaged")["origin"] == log.origin
    assert isinstance(witness.post(other.submit(0)), Cosigned)
    with pytest.raises(Invalid, match="503"):
        witness.post(log.submit(100, 150))


def test_one_folder_has_one_witness(make: Make, log: OtherLog) -> None:
    witness = make(log.key.render()).start()
    ended = run_troth(*witness.command())
    assert ended.returncode == 1
    assert "Another" in ended.stderr
    assert isinstance(witness.post(log.submit(0, 100)), Cosigned)


def test_the_keys_come_again_and_have_one_name(make: Make, log: OtherLog, tmp_path: Path) -> None:
    file = tmp_path / "log.vkey"
    file.write_text(f"# a log\n{log.key.render()}\n\n")
    witness = make(f"@{file}").start()
    keys = witness.keys
    witness.stop()
    assert witness.start().keys == keys
    witness.stop()
    witness.name = "witness.example/other"
    ended = run_troth(*witness.command())
    assert ended.returncode == 1
    assert "is called 'witness.example/w1'" in ended.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--log", "junk"),
        ("--log", "@/no/such/file"),
        ("--listen", "9"),
        ("--listen", "::1:9"),
        ("--tls-key", "k.pem"),
    ],
)
def test_wrong_usage_is_told(option: str, value: str, tmp_path: Path) -> None:
    ended = run_troth(
        *("witness", "--data", tmp_path, "--name", "w", "--log", OtherLog().key.render()),
        *(option, value),
    )
    assert ended.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_renewed_certificate_is_read_when_told(make: Make, log: OtherLog) -> None:
    import signal

    witness = make(log.key.render()).start()
    assert witness.daemon is not None
    (witness.folder / "localhost.pem").write_text("junk")
    witness.daemon.process.send_signal(signal.SIGHUP)
    witness.daemon.wait_for_event("witness.certificate_kept")
    witness.get("/vkey")
    _, pem = make_certificate(witness.folder)
    witness.daemon.process.send_signal(signal.SIGHUP)
    witness.daemon.wait_for_event("witness.certificate_loaded")
    with pytest.raises(httpx.ConnectError):
        witness.get("/vkey")
    witness.ca.write_text(pem)
    witness.get("/vkey")


# troth's own log, with witnesses


def configure(server: Server, quorum: int, *witnesses: WitnessProcess) -> None:
    tables = [
        "[[witness.witnesses]]\n"
        f'url = "{one.url}"\nvkey = "{one.keys[0].render()} {one.keys[1].render()}"\n'
        f'ca = "{one.ca}"\n'
        for one in witnesses
    ]
    anchor = f'[[anchors]]\ndriver = "file"\npath = "{server.folder}/anchored.txt"\nevery = 1\n'
    server.write_settings(f"[witness]\nquorum = {quorum}\ntimeout = 2\n" + "".join(tables) + anchor)


def read_keys(server: Server) -> list[VerifierKey]:
    path = server.data / "log" / "vkey"
    wait_for(path.exists, "the log's keys")
    return [parse_vkey(line) for line in path.read_text().splitlines()]


def fetch_checkpoint(server: Server) -> bytes | None:
    with httpx.Client(verify=ssl.create_default_context(cafile=server.data / "ca.pem")) as client:
        found = client.get(f"{server.url}/log/checkpoint")
    return found.content if found.status_code == 200 else None


def test_two_of_three_publish_and_a_restored_backup_is_found_out(
    lone_troth: Server, make: Make
) -> None:
    server = lone_troth.start("--no-agent")
    log_keys = read_keys(server)
    logs = tuple(key.render() for key in log_keys)
    names = [f"witness.example/w{number}" for number in (1, 2, 3)]
    first, second, third = (make(*logs, name=name).start() for name in names)
    server.daemon.stop()
    configure(server, 2, first, second, third)
    third.stop()
    server.start("--no-agent")

    # Two of three, one down.
    server.register("payments", "unix:uid:1001")
    registered = server.wait_for_journal("identity.registered").position

    def find(least: int) -> tuple[int, set[str]] | None:
        data = fetch_checkpoint(server)
        if data is None:
            return None
        keys = [key for one in (first, second, third) for key in one.keys]
        checkpoint, _, signers = open_checkpoint(data, [*log_keys, *keys])
        assert set(log_keys) <= set(signers)
        cosigners = {key.name for key in signers} - {log_keys[0].name}
        return (checkpoint.size, cosigners) if checkpoint.size >= least else None

    size, cosigners = wait_for(lambda: find(registered), "a published checkpoint", 30)
    assert cosigners == {first.name, second.name}
    anchored = server.folder / "anchored.txt"
    wait_for(lambda: anchored.exists() and f"\n{size}\n" in anchored.read_text(), "an anchor", 30)

    # The third comes back, and catches up from where it was.
    third.start()
    server.register("billing", "unix:uid:1002")
    wait_for(lambda: (found := find(size + 1)) and third.name in found[1], "the third witness", 40)

    # The whole data directory is set back, as a restored backup would.
    server.daemon.stop()
    backup = server.folder / "backup"
    shutil.copytree(server.data, backup, ignore=lambda _, names: [n for n in names if "sock" in n])
    server.start("--no-agent")
    server.register("shipping", "unix:uid:1003")
    later = server.wait_for_journal("identity.registered").position
    last, _ = wait_for(lambda: find(later + 3), "a checkpoint after the backup", 30)
    server.daemon.stop()
    shutil.rmtree(server.data)
    backup.rename(server.data)
    server.start("--no-agent")
    told = server.daemon.wait_for_event("log.disputed")
    assert told["level"] == "error"
    entry = server.wait_for_journal("log.disputed")
    assert entry.subject in names
    assert entry.body["size"] >= last - 1
