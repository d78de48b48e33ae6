"""An unmodified SPIFFE library fetches and checks tokens through a forced rotation of a real
server's JWT authority: none is refused, of the old key or of the new one."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from spiffe import WorkloadApiClient

from tests.e2e.processes import Server, open_folder, wait_for
from troth.core.jose.jws import parse_token
from troth.wire.api.authorities import ForceAuthority, ListAuthorities, PrepareAuthority

pytestmark = [pytest.mark.interop, pytest.mark.e2e]

AUDIENCE = "ledger"
TTL = 3
"""Seconds: so that the old authority is needed by nobody soon after it retired."""


class Caller(threading.Thread):
    """Fetches a token and checks it, and the one before, again and again until it is stopped."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self._endpoint = endpoint
        self._over = threading.Event()
        self.rounds = 0
        self.keys: list[str] = []
        self.failures: list[str] = []

    def run(self) -> None:
        with WorkloadApiClient(self._endpoint) as client:
            before = ""
            while not self._over.is_set():
                try:
                    token = client.fetch_jwt_svid(audience={AUDIENCE}).token
                    for one in filter(None, (token, before)):
                        client.validate_jwt_svid(one, AUDIENCE)
                except Exception as error:
                    self.failures.append(f"round {self.rounds}: {error!r}")
                    token = ""
                before = token
                if token:
                    self._note(str(parse_token(token).header["kid"]))
                self.rounds += 1
                self._over.wait(0.05)

    def stop(self) -> None:
        """No more rounds; wait for the last one."""
        self._over.set()
        self.join(30)

    def go_on(self, rounds: int = 20) -> None:
        """Wait for that many rounds more."""
        target = self.rounds + rounds
        wait_for(lambda: self.rounds >= target, "tokens go on", 30)

    def _note(self, kid: str) -> None:
        if not self.keys or self.keys[-1] != kid:
            self.keys.append(kid)


@pytest.fixture
def server() -> Iterator[Server]:
    with open_folder() as folder:
        made = Server(folder)
        try:
            yield made.start()
        finally:
            made.stop()


def find(server: Server, state: str) -> Any:
    items = server.call("authority.ls", ListAuthorities()).items
    (found,) = [item for item in items if (item.use, item.state) == ("jwt-svid", state)]
    return found


def is_known(client: WorkloadApiClient, kid: str) -> bool:
    bundles = client.fetch_jwt_bundles()
    return any(kid in bundle.jwt_authorities for bundle in bundles.bundles)


def test_no_token_is_refused_through_a_forced_rotation(server: Server) -> None:
    path = Path(sys.executable).resolve()
    server.register("caller", f"unix:uid:{os.getuid()}", f"unix:path:{path}", jwt_ttl=TTL)
    caller = Caller(server.endpoint)
    caller.start()
    try:
        caller.go_on()
        old, reason = find(server, "active"), "a test rotates"
        made = server.call("authority.prepare", PrepareAuthority(use="jwt-svid", reason=reason))
        with WorkloadApiClient(server.endpoint) as client:
            wait_for(lambda: is_known(client, made.key_id), "the agent knows the next key", 30)
        server.call("authority.activate", ForceAuthority(id=made.id, reason=reason, force=True))
        caller.go_on(5)
        wait_for(lambda: made.key_id in caller.keys, "tokens of the new key", 30)
        wait_for(lambda: not find(server, "retired").holders, "no token of the old key lives", 30)
        server.call("authority.revoke", ForceAuthority(id=old.id, reason=reason))
        caller.go_on()
    finally:
        caller.stop()
    assert caller.failures == []
    assert caller.keys == [old.key_id, made.key_id]
