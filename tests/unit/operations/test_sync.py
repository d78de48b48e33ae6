"""``node.sync`` for many agents: who is woken by what, and what is made once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.fakes.house import DOMAIN, LEASE, FakeHouse, call_of, in_house
from tests.fakes.stores import CountingStore
from tests.fakes.templates import describe_template, submit
from troth.identity.pattern import Pattern
from troth.operations.entries import Entries
from troth.operations.node import SyncNode
from troth.wire.api import nodes as wire
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.manifests import ManifestDocument, SubmitManifests

NAMES = ("one", "two", "three")


class Fleet:
    """Agents that follow, and what they are told next."""

    def __init__(self, house: FakeHouse, store: CountingStore, streams: dict[str, Any]) -> None:
        self.house = house
        self.store = store
        self.streams = streams
        self.waiting = {name: asyncio.ensure_future(anext(s)) for name, s in streams.items()}

    async def collect(self) -> dict[str, wire.NodeSnapshot]:
        """What came since, by node; nothing of those that were not woken."""
        await self.house.settle()
        found: dict[str, wire.NodeSnapshot] = {}
        while woken := await self._list_woken():
            for name in woken:
                value = await self.waiting[name]
                if isinstance(value, wire.NodeSnapshot):  # and no heartbeat of a slow machine
                    found[name] = value
                self.waiting[name] = asyncio.ensure_future(anext(self.streams[name]))
        return found

    async def _list_woken(self) -> list[str]:
        await self._rest()
        await self.store.wait_idle()
        await self._rest()
        return [name for name, waiting in self.waiting.items() if waiting.done()]

    async def _rest(self) -> None:
        """Let whoever can go on do so."""
        for _ in range(20):
            await asyncio.sleep(0)


@asynccontextmanager
async def open_fleet(house: FakeHouse) -> AsyncIterator[Fleet]:
    """Three agents in step with the server."""
    store = CountingStore(house.parts.store)
    sync = SyncNode(store, house.parts.snapshot, house.clock, DOMAIN, LEASE)
    nodes = {name: await house.join(name) for name in NAMES}
    await house.settle()
    async with AsyncExitStack() as stack:
        streams = {}
        for name, node in nodes.items():
            values = sync(call_of(wire.SyncNode(), node))
            streams[name] = await stack.enter_async_context(aclosing(values))  # type: ignore[type-var]
            await anext(streams[name])
        fleet = Fleet(house, store, streams)
        try:
            yield fleet
        finally:
            for waiting in fleet.waiting.values():
                waiting.cancel()
            await asyncio.gather(*fleet.waiting.values(), return_exceptions=True)


def describe(name: str, *nodes: str) -> SubmitManifests:
    spec = {
        "kind": "service",
        "owner": "team@example.org",
        "purpose": "Takes payments",
        "selectors": ["unix:uid:1001"],
        "nodes": list(nodes),
    }
    manifest = {
        "apiVersion": "troth/v1",
        "kind": "Identity",
        "metadata": {"name": name},
        "spec": spec,
    }
    return SubmitManifests(documents=[ManifestDocument(value=manifest)])


@in_house
async def test_an_identity_wakes_the_nodes_that_hold_it_or_held_it(house: FakeHouse) -> None:
    async with open_fleet(house) as fleet:
        for nodes, told in [
            (("one",), {"one": ["payments"]}),
            (("one", "two"), {"one": ["payments"], "two": ["payments"]}),
            (("two", "three"), {"one": [], "two": ["payments"], "three": ["payments"]}),
        ]:
            before = fleet.store.reads
            await house.call("manifest.apply", describe("payments", *nodes))
            found = await fleet.collect()
            assert {n: [e.name for e in v.entries] for n, v in found.items()} == told
            assert fleet.store.reads - before == len(told)


@in_house
async def test_whom_to_refuse_is_told_to_every_node(house: FakeHouse) -> None:
    await house.register(nodes=["one"])
    async with open_fleet(house) as fleet:
        for verb, cut_off in (("quarantine", ["spiffe://example.org/payments"]), ("release", [])):
            await house.call(f"identity.{verb}", MoveIdentity(name="payments", reason="x"))
            found = await fleet.collect()
            assert {n: v.cut_off for n, v in found.items()} == dict.fromkeys(NAMES, cut_off)


@in_house
async def test_what_many_nodes_hold_is_made_once(house: FakeHouse) -> None:
    for name in ("api", "web"):
        await house.register(name, nodes=["*"])
    await house.settle()
    entries = Entries()
    read = house.parts.store.read
    one = await read(lambda tx: entries.collect(tx, "one"))
    two = await read(lambda tx: entries.collect(tx, "two"))
    assert [entry.name for entry in one] == ["api", "web"]
    assert all(a is b for a, b in zip(one, two, strict=True))

    await house.call("identity.suspend", MoveIdentity(name="api", reason="x"))
    later = await read(lambda tx: entries.collect(tx, "one"))
    assert [entry.state for entry in later] == ["suspended", "active"]
    assert later[1] is one[1]
    await house.call("identity.retire", MoveIdentity(name="web", reason="x"))
    assert [e.name for e in await read(lambda tx: entries.collect(tx, "one"))] == ["api"]


@in_house
async def test_entries_are_bounded_and_complete_all_the_same(house: FakeHouse) -> None:
    for name in ("a", "b", "c"):
        await house.register(name, nodes=["one"])
    await house.register("d", nodes=["two"])
    for capacity, few in ((0, 500), (1, 500), (3, 500), (3, 1), (9, 1)):
        entries = Entries(capacity, few)
        for node, names in (("one", "abc"), ("two", "d"), ("one", "abc")):
            found = await house.parts.store.read(partial(entries.collect, node_name=node))
            assert "".join(entry.name for entry in found) == names
            assert len(entries._known) <= capacity


@in_house
async def test_templates_are_parsed_once_for_all_nodes(house: FakeHouse) -> None:
    await house.call("manifest.apply", submit(describe_template(nodes=["*"])))
    parsed: list[str] = []
    parse = Pattern.parse

    def count(text: str) -> Pattern:
        parsed.append(text)
        return parse(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pattern, "parse", count)
        async with open_fleet(house) as fleet:
            assert parsed == ["unix:uid:1000-1999"]
            await house.register(nodes=["*"])
            assert set(await fleet.collect()) == set(NAMES)
            assert parsed == ["unix:uid:1000-1999"]
