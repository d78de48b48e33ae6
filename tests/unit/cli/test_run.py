"""troth run: files that stay fresh and go, signals that go on, and an exit code that comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.fakes.oauth import API, FakeAuthorizationServer, FakeCredential
from tests.fakes.tiny_ca import TinyCa
from tests.unit.cli.test_svid import ThreadedNode, serve_in_thread
from troth.agent.view import View
from troth.cli import run as module
from troth.cli.folder import CredentialFolder
from troth.cli.options import Options
from troth.cli.terminal import Terminal
from troth.core.entropy import SeededEntropy
from troth.core.errors import Denied
from troth.sdk.client import OAuthClient
from troth.sdk.svid import SvidFollower
from troth.sdk.tokens import TokenSource
from troth.sdk.workload import X509Update
from troth.wire.api.problems import Unreachable

SHOW = """
import json, os, pathlib, ssl, sys
files = {n: os.environ[n] for n in os.environ if n.startswith("TROTH_") and n.endswith("_FILE")}
context = ssl.create_default_context(cafile=files["TROTH_BUNDLE_FILE"])
context.load_cert_chain(files["TROTH_SVID_FILE"])
context.load_cert_chain(files["TROTH_SVID_FILE"], files["TROTH_SVID_KEY_FILE"])
folder = pathlib.Path(files["TROTH_SVID_FILE"]).parent
print(json.dumps({
    "id": os.environ["TROTH_SPIFFE_ID"],
    "folder": str(folder),
    "modes": sorted({oct(p.stat().st_mode & 0o777) for p in [folder, *folder.iterdir()]}),
    "arguments": sys.argv[1:],
}))
sys.exit(7)
"""
WAIT = """
import os, signal, sys
def end(number, frame):
    sys.exit(40 + number)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, end)
print(os.environ["TROTH_SVID_FILE"], flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def node(data: Path) -> Iterator[ThreadedNode]:
    with serve_in_thread(data, "/payments", "/orders") as served:
        yield served


def start(data: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "troth", "--data", str(data), "run", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )


def test_a_program_finds_its_credentials_and_they_are_gone_afterwards(node, data: Path) -> None:
    program = start(data, "--", sys.executable, "-c", SHOW, "--json", "x")
    out, err = program.communicate(timeout=50)
    assert program.returncode == 7, err
    assert '"id": "spiffe://example.org/payments"' in out
    assert '"modes": ["0o600", "0o700"]' in out
    assert '"arguments": ["--json", "x"]' in out
    folder = out.split('"folder": "')[1].split('"')[0]
    assert not Path(folder).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_go_on_to_the_program_and_its_end_comes_back(node, data: Path, number) -> None:
    program = start(data, "--", sys.executable, "-c", WAIT)
    assert program.stdout is not None
    path = Path(program.stdout.readline().strip())
    assert path.is_file()
    if number == signal.SIGTERM:
        program.send_signal(number)
        expected = 40 + number
    else:
        (child,) = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        os.kill(int(child), number)
        expected = 128 + number
    program.communicate(timeout=50)
    assert program.returncode == expected
    assert not path.parent.exists()


def test_a_program_that_isn_t_there_has_the_shell_s_exit_code(node, data: Path) -> None:
    program = start(data, "--", "/nowhere/at-all")
    _, err = program.communicate(timeout=50)
    assert program.returncode == 127
    assert "Can't start /nowhere/at-all" in err


def test_without_an_agent_nothing_is_started(run) -> None:
    answer = run("run", "--", "true")
    assert answer.exit_code == 3
    assert "No agent listens" in answer.stderr


# What happens meanwhile


def make_terminal(data: Path) -> Terminal:
    return Terminal(Options(data_dir=data))


def test_files_follow_the_agent_and_go_with_the_identity(node, data: Path, capsys) -> None:
    follower = SvidFollower(f"unix://{data}/agent.sock", entropy=SeededEntropy(1))
    heard: list[object] = []
    with module._keep_files(make_terminal(data), follower) as folder:
        follower.on_change(heard.append)
        first = (folder.path / "svid.pem").read_bytes()
        pair = follower.pair
        ca = TinyCa()
        node.do(node.node.source.publish(View((ca.issue("/payments"),), (ca.bundle(),))))
        wait_for(lambda: follower.pair != pair)
        wait_for(lambda: (folder.path / "svid.pem").read_bytes() != first)
        node.do(node.node.source.fail(Denied("It was quarantined.")))
        wait_for(lambda: not (folder.path / "svid.key").exists())
        path = folder.path
    assert not path.exists()
    assert follower.spiffe_id == "spiffe://example.org/payments"


def wait_for(look) -> None:
    for _ in range(2000):
        if look():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came true")


def test_a_token_is_kept_fresh_and_given_back(data: Path) -> None:
    server = FakeAuthorizationServer()
    client = OAuthClient(server.connect(), FakeCredential(), clock=server.clock)
    terminal = Terminal(Options(data_dir=data), clock=server.clock)
    folder = CredentialFolder()
    with module._keep_token(terminal, client, folder, API, ("read",)):
        text = (folder.path / "token").read_text()
        assert text.count(".") == 2
        assert folder.describe("x", with_token=True)["TROTH_TOKEN_FILE"].endswith("/token")
    assert not (folder.path / "token").exists()
    assert server.ended == {text}
    folder.close()
    folder.write_token("late")
    assert not folder.path.exists()


def test_a_token_that_has_ended_is_taken_away(data: Path) -> None:
    server = FakeAuthorizationServer()
    client = OAuthClient(server.connect(), FakeCredential(), clock=server.clock)
    terminal = Terminal(Options(data_dir=data), clock=server.clock)
    folder = CredentialFolder()
    source = TokenSource(
        client, clock=server.clock, spawn=lambda work: work(), wait=lambda seconds: None
    )
    keeper = module._TokenKeeper(terminal, source, folder, API, ())
    keeper.write(source.fetch(API))
    server.clock.advance(timedelta(seconds=599))
    keeper._complain(Unreachable("Away."))
    assert (folder.path / "token").exists()
    server.clock.advance(timedelta(seconds=1))
    keeper._complain(Unreachable("Away."))
    assert not (folder.path / "token").exists()
    folder.close()


def test_an_identity_that_isn_t_among_them_is_refused() -> None:
    follower = SvidFollower("unix:///agent.sock", spiffe_id="spiffe://example.org/none")
    with pytest.raises(Denied, match="gives this process no certificate for"):
        follower.choose(X509Update((), (), ()))
