"""svid: the Workload API's client against the agent's real socket, and certificates in files."""

from __future__ import annotations

import asyncio
import json
import stat
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from tests.fakes.source import Node, serve_node
from tests.fakes.tiny_ca import TinyCa
from tests.unit.cli.conftest import Run
from troth.agent.connection import _explain_failure
from troth.agent.sync import Sync
from troth.cli import svid as module
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy
from troth.core.errors import Denied, Invalid, Unavailable
from troth.sdk.workload import ServerUnreachable, WorkloadApi, _explain_status, find_socket


class ThreadedNode:
    """A node that is served by a loop of its own, so that commands can block."""

    def __init__(self, node: Node, loop: asyncio.AbstractEventLoop) -> None:
        self.node = node
        self._loop = loop

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@contextmanager
def serve_in_thread(folder: Path, *paths: str) -> Iterator[ThreadedNode]:
    started = threading.Event()
    held: dict[str, Any] = {}

    async def serve() -> None:
        held["stop"] = asyncio.Event()
        held["loop"] = asyncio.get_running_loop()
        async with serve_node(folder, *paths) as node:
            held["node"] = node
            started.set()
            await held["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield ThreadedNode(held["node"], held["loop"])
    finally:
        held["loop"].call_soon_threadsafe(held["stop"].set)
        thread.join(10)


@pytest.fixture
def node(data: Path) -> Iterator[ThreadedNode]:
    with serve_in_thread(data, "/payments", "/orders") as served:
        yield served


def test_fetch_shows_the_svids_and_never_a_key(node: ThreadedNode, run: Run) -> None:
    result = run("svid", "fetch")
    assert result.exit_code == 0, result.output
    assert "spiffe://example.org/payments" in result.stdout
    assert "in 59 min" in result.stdout
    value = json.loads(run("svid", "fetch", "--json").stdout)
    assert [svid["spiffe_id"] for svid in value["svids"]] == [
        "spiffe://example.org/payments",
        "spiffe://example.org/orders",
    ]
    assert "PRIVATE" not in json.dumps(value)
    x509.load_pem_x509_certificates(value["svids"][0]["bundle"].encode())


def test_write_makes_private_keys_private(node: ThreadedNode, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "out"
    result = run("svid", "fetch", "--write", str(folder), "--json")
    assert result.exit_code == 0, result.output
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert names == {
        "svid.0.key": 0o600,
        "svid.1.key": 0o600,
        "svid.0.pem": 0o644,
        "svid.1.pem": 0o644,
        "bundle.0.pem": 0o644,
        "bundle.1.pem": 0o644,
        "crl.pem": 0o644,
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    key: Any = load_pem_private_key((folder / "svid.0.key").read_bytes(), None)
    certificate: Any = x509.load_pem_x509_certificate((folder / "svid.0.pem").read_bytes())
    assert key.public_key() == certificate.public_key()
    assert len(json.loads(result.stdout)["files"]) == 7


def test_write_replaces_a_link_and_does_not_follow_it(
    node: ThreadedNode, tmp_path: Path, run: Run
) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "svid.0.key").symlink_to(target)
    assert run("svid", "fetch", "--write", str(folder)).exit_code == 0
    assert target.read_text() == "mine"
    assert not (folder / "svid.0.key").is_symlink()


def test_tokens_are_fetched_and_validated(node: ThreadedNode, run: Run) -> None:
    words = ("svid", "fetch", "--audience", "orders", "--spiffe-id", "spiffe://example.org/orders")
    [token] = run(*words).stdout.split()
    value = json.loads(run(*words, "--json").stdout)
    assert value["svids"][0]["spiffe_id"] == "spiffe://example.org/orders"
    good = run("svid", "validate", "--audience", "orders", "-", input=f"{token}\n")
    assert good.exit_code == 0, good.output
    assert "spiffe://example.org/orders" in good.stdout
    as_json = run("svid", "validate", "--audience", "orders", "-", "--json", input=token)
    assert json.loads(as_json.stdout)["claims"]["aud"] == ["orders"]
    bad = run("svid", "validate", "--audience", "others", "-", input=token)
    assert bad.exit_code == 1
    assert bad.stdout == ""
    assert "meant for somebody else" in bad.stderr
    shown = run("svid", "validate", "--audience", "orders", token)
    assert shown.exit_code == 0
    assert "process list" in shown.stderr


@pytest.mark.parametrize("token", ["", "x" * 100_000])
def test_what_is_no_token_does_not_hold(token: str, node: ThreadedNode, run: Run) -> None:
    assert run("svid", "validate", "--audience", "a", "-", input=token).exit_code == 1


def test_a_process_without_identity_is_sent_to_the_doctor(node: ThreadedNode, run: Run) -> None:
    node.node.source.refusal = Denied("nothing is registered for unix:uid:0")
    for words in (("fetch",), ("watch",), ("fetch", "--audience", "a")):
        result = run("svid", *words)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert "nothing is registered" in result.stderr
        assert "troth doctor --pid" in result.stderr


def test_an_agent_that_is_starting(node: ThreadedNode, run: Run) -> None:
    node.node.source.refusal = Unavailable("The agent has no word from the server yet.")
    result = run("svid", "fetch")
    assert result.exit_code == 1
    assert "no word from the server" in result.stderr


def test_without_an_agent_it_says_how_to_start_one(run: Run) -> None:
    for words in (("fetch",), ("watch",), ("validate", "--audience", "a", "-")):
        result = run("svid", *words, input="token")
        assert result.exit_code == 3
        assert "troth agent" in result.stderr
        assert "No such file" in result.stderr


def test_watch_shows_each_change_and_survives_a_break(
    node: ThreadedNode, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    show = module._show_update
    source = node.node.source

    def show_and_go_on(terminal: Any, update: Any) -> None:
        show(terminal, update)
        seen.append([svid.spiffe_id for svid in update.svids])
        if len(seen) == 1:
            view = type(source.view)((source.ca.issue("/new"),), source.view.bundles)
            node_publish(node, view)
        elif len(seen) == 2:
            node_fail(node, Unavailable("Restarting."))
        else:
            source.failure = Denied("It is quarantined.")
            node_fail(node, source.failure)

    monkeypatch.setattr(module, "_show_update", show_and_go_on)
    monkeypatch.setattr(threading.Event, "wait", _recover(source))
    result = run("svid", "watch", "--json")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [len(line["svids"]) for line in lines[:2]] == [2, 1]
    assert lines[1]["svids"][0]["spiffe_id"] == "spiffe://example.org/new"
    assert lines[-1]["code"] == "permission_denied"
    assert "Connecting again" in result.stderr


def test_show_tells_what_a_chain_says(tmp_path: Path, run: Run) -> None:
    ca = TinyCa()
    svid = ca.issue("/payments", seconds=-5)
    leaf = x509.load_der_x509_certificate(svid.chain[0])
    other = TinyCa("other.example").root
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in (leaf, ca.root, other))
    (tmp_path / "chain.pem").write_bytes(pem)
    (tmp_path / "leaf.der").write_bytes(svid.chain[0] + ca.root.public_bytes(Encoding.DER))
    result = run("svid", "show", str(tmp_path / "chain.pem"), str(tmp_path / "leaf.der"))
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "SPIFFE ID spiffe://example.org/payments" in shown
    assert "EXPIRED" in shown
    assert "signed by the next certificate" in shown
    assert "signed NOT by the next certificate" in shown
    assert "ECDSA secp256r1" in shown
    value = json.loads(run("svid", "show", str(tmp_path / "chain.pem"), "--json").stdout)
    chain = value["files"][0]["certificates"]
    assert [one["signed_by_next"] for one in chain] == [True, False, None]
    assert chain[0]["serial"] == f"{leaf.serial_number:040x}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x30\x82\xff\xff",
        b"\x30\x03\x02\x01\x01",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"x" * (1 << 21),
    ],
)
def test_what_is_no_certificate_is_said_so(content: bytes, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "x.pem"
    path.write_bytes(content)
    result = run("svid", "show", str(path))
    assert result.exit_code == 1
    assert str(path) in result.stderr
    assert result.stdout == ""


def test_a_file_that_is_not_there(tmp_path: Path, run: Run) -> None:
    result = run("svid", "show", str(tmp_path / "gone.pem"))
    assert result.exit_code == 1
    assert "gone.pem: No such file" in result.stderr


@pytest.mark.parametrize(
    ("address", "path"), [("unix:///run/a.sock", "/run/a.sock"), ("unix:/run/a", "/run/a")]
)
def test_addresses(address: str, path: str) -> None:
    assert find_socket(address) == path


@pytest.mark.parametrize("address", ["", "/run/a", "tcp://127.0.0.1:1", "unix://host/a", "unix:a"])
def test_an_address_that_is_not_a_socket_s(address: str) -> None:
    with pytest.raises(Invalid, match="SPIFFE_ENDPOINT_SOCKET"):
        find_socket(address)


def test_the_environment_names_the_agent(
    node: ThreadedNode, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from troth.cli.main import app

    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", f"unix://{data}/agent.sock")
    assert CliRunner().invoke(app, ["svid", "fetch"]).exit_code == 0
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", "tcp://127.0.0.1:1")
    assert CliRunner().invoke(app, ["svid", "fetch"]).exit_code == 1


def node_publish(node: ThreadedNode, view: Any) -> None:
    node.do(node.node.source.publish(view))


def node_fail(node: ThreadedNode, error: Any) -> None:
    node.do(node.node.source.fail(error))


def _recover(source: Any) -> Any:
    """What stands for the pause between two tries: the agent comes back in it."""
    wait = threading.Event.wait

    def pause(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout == module.RETRY_SECONDS and isinstance(source.failure, Unavailable):
            source.failure = None
            return False
        return wait(event, timeout)

    return pause


NOBODY: Any = None


@pytest.mark.parametrize(
    ("raise_it", "kind"),
    [
        (
            lambda: Sync(NOBODY, SystemClock(), SystemEntropy(), NOBODY).require_snapshot(),
            ServerUnreachable,
        ),
        (lambda: _raise(_explain_failure("https://a:1", httpx.ConnectError("refused"))),
         ServerUnreachable),
        (lambda: _raise(Unavailable("The agent stops; come back soon.")), Unavailable),
    ],
)  # fmt: skip
def test_an_agent_without_its_server_is_an_unreachable_server(
    raise_it: Callable[[], object], kind: type[Unavailable]
) -> None:
    with pytest.raises(Unavailable) as caught:
        raise_it()
    told = _explain_status(GRPCError(Status.UNAVAILABLE, caught.value.detail))
    assert type(told) is kind


def test_fetch_from_an_agent_without_its_server_is_exit_code_3(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise ServerUnreachable("The agent answers, but not its server.")

    monkeypatch.setattr(WorkloadApi, "fetch_x509", refuse)
    result = run("svid", "fetch")
    assert result.exit_code == 3
    assert "not its server" in result.stderr


def _raise(error: Exception) -> None:
    raise error
