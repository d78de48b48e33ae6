"""The SDK as a service uses it: the programs of the how-to, against real servers."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.processes import Server, open_folder, wait_for
from troth.core.errors import Unavailable
from troth.sdk.guard import PeerGuard
from troth.wire.api.certificates import ListCertificates
from troth.wire.api.identities import ListInstances, MoveInstance
from troth.wire.api.nodes import EvictNode

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "python-service.md"
BOUND = 1.0
ROUNDS = 5
"""How often it is measured anew: other tests keep the same two cores busy meanwhile."""
HEAVY = (
    "alembic",
    "httpx",
    "litestar",
    "requests",
    "rich",
    "sqlalchemy",
    "structlog",
    "typer",
    "uvicorn",
)


def read_programs() -> list[str]:
    """The blocks of the how-to, in order."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def guard(troth: Server) -> Iterator[PeerGuard]:
    """A guard of this very process."""
    troth.register(
        "tests", f"unix:uid:{os.getuid()}", f"unix:path:{Path(sys.executable).resolve()}"
    )
    with PeerGuard([troth.mutual], troth.endpoint) as made:
        made.wait_ready()
        yield made


def identify(troth: Server, name: str) -> str:
    return f"spiffe://troth.local/{name}"


def measure(attempt: Callable[[int], float]) -> None:
    """Succeed once one of several attempts is within the bound."""
    taken = []
    for number in range(ROUNDS):
        taken.append(attempt(number))
        if taken[-1] < BOUND:
            return
    raise AssertionError(f"never within {BOUND} s: {taken}")


def test_a_quarantine_and_its_release_reach_the_guard(troth: Server, guard: PeerGuard) -> None:
    troth.register("bad", "unix:uid:12345")
    spiffe_id = identify(troth, "bad")

    def cut_off(number: int) -> float:
        assert guard.check_id(spiffe_id).allowed
        asked = troth.move("bad", "quarantine")
        wait_for(lambda: not guard.check_id(spiffe_id).allowed, "a denial")
        denied = time.monotonic()
        assert guard.check_id(spiffe_id).reasons == (f"{spiffe_id} is quarantined.",)
        troth.move("bad", "release")
        wait_for(lambda: guard.check_id(spiffe_id).allowed, "the release")
        return denied - asked

    measure(cut_off)


def test_the_guard_remembers_the_servers_log(guard: PeerGuard) -> None:
    watch = guard._following.log_watch
    wait_for(lambda: watch.size > 0, "the first look at the log")
    assert guard.log_problem == ""


def test_the_service_of_the_how_to_turns_a_peer_away(troth: Server, guard: PeerGuard) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", read_programs()[0], troth.endpoint, str(port), troth.mutual]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    me = identify(troth, "tests")
    fetch: dict[str, Callable[..., str]] = {}
    exec(compile(read_programs()[1], str(PAGE), "exec"), fetch)
    try:
        url = f"https://127.0.0.1:{port}/"
        context = guard.client_context({me})
        with httpx.Client(base_url=url, verify=context, trust_env=False) as client:
            wait_for(lambda: can_connect(port), "the service listens")
            assert client.get("/").text == f"hello {me}\n"
            assert fetch["fetch_greeting"](troth.endpoint, troth.mutual, url, me) == f"hello {me}\n"
            with pytest.raises(httpx.ConnectError):
                httpx.get(url, verify=guard.client_context({f"{me}-2"}), trust_env=False)
            # This copy alone is locked: its certificate is refused, on the open connection too.
            (mine,) = (
                item.id
                for item in troth.call("instance.ls", ListInstances(name="tests")).items
                if item.pid == os.getpid()
            )
            troth.call("instance.lock", MoveInstance(id=mine, reason="a test"))
            wait_for(lambda: is_refused(client), "the open connection ends")
            troth.call("instance.unlock", MoveInstance(id=mine, reason="a test"))
            wait_for(lambda: not is_refused(client), "it is let in again")
    finally:
        service.terminate()
        service.wait(15)
        assert service.stderr is not None
        print(service.stderr.read())
        service.stderr.close()


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def is_refused(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code != 200
    except (httpx.TransportError, ssl.SSLError):
        return True


def test_one_certificate_and_a_node_with_all_of_its_own(
    troth: Server, guard: PeerGuard, programs, run_program
) -> None:
    troth.register("api", *programs.selectors("api"))
    workload = run_program("api", troth.endpoint)
    told = workload.ask("fetch")
    serial = told["svids"][0]["serial"]
    listed = troth.call("certificate.ls", ListCertificates(name="api")).items
    assert [item.serial for item in listed] == [serial]
    objections = guard._known.find_objections
    spiffe_id = identify(troth, "api")
    assert objections(spiffe_id, serial) == []
    troth.call("node.evict", EvictNode(name="local", reason="a test"))
    wait_for(lambda: objections(spiffe_id, serial), "the eviction at the guard")


def test_the_next_server_is_tried_and_without_any_the_lease_ends_it(lone_troth: Server) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"https://localhost:{nobody.getsockname()[1]}"
        lone_troth.start()
        lone_troth.register("tests", f"unix:uid:{os.getuid()}")
        urls = [closed, lone_troth.mutual]
        with PeerGuard(urls, lone_troth.endpoint, lease=6.0) as guard:
            guard.wait_ready()
            spiffe_id = identify(lone_troth, "tests")
            assert guard.check_id(spiffe_id).allowed
            lone_troth.daemon.kill()
            wait_for(lambda: not guard.check_id(spiffe_id).allowed, "the end of the lease")
            assert "lease of 6 s" in guard.check_id(spiffe_id).reasons[0]
            lone_troth.start()
            wait_for(lambda: guard.check_id(spiffe_id).allowed, "it is heard again")


def test_who_has_no_identity_waits_in_vain_and_is_told_why(troth: Server) -> None:
    with (
        open_folder() as folder,
        PeerGuard([troth.mutual], f"unix://{folder}/agent.sock") as guard,
        pytest.raises(Unavailable, match="No agent listens"),
    ):
        guard.wait_ready(0.5)


def test_importing_it_brings_no_server_and_no_http_client() -> None:
    script = (
        "import sys, troth.sdk.guard, troth.sdk.asgi, troth.sdk.wsgi, troth.sdk.tokens;"
        f"print([m for m in {HEAVY!r} if m in sys.modules],"
        "[m for m in sys.modules if m.startswith(('troth.operations', 'troth.store'))])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.stdout == "[] []\n", answer.stderr
