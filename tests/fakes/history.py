"""A database with a history: every table has rows, made by the operations that really make them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from tests.fakes.house import DOMAIN, FakeHouse, open_house
from tests.fakes.stores import HOUR, NOW, make_event
from troth.store.engine import Transaction
from troth.wire.api.certificates import InstanceClaim, IssueJwtSvid
from troth.wire.api.identities import ListInstances, MoveIdentity, MoveInstance
from troth.wire.api.nodes import CreateJoinToken

CLAIM = InstanceClaim(key="ab" * 16, pid=7, selectors=["unix:uid:1001"])


async def make_history(directory: Path, url: str | None = None) -> None:
    """Live through a little of everything in a fresh database."""
    async with open_house(directory, url=url) as house:
        await live(house)


async def live(house: FakeHouse) -> None:
    """Register, join, issue, lock, quarantine, retire, rotate; and leave some of it unfinished."""
    labels = {"env": "prod", "size": "L"}
    api = await house.register("api", labels=labels, purpose="Größe \U0001f511", hint="internal")
    bad = await house.register("bad", selectors=["unix:uid:1002"], nodes=["*"])
    await house.register("old", selectors=["unix:uid:1003"])
    node = await house.join()
    await house.join("edge")
    await house.issue(node, api.id)
    await house.issue(node, bad.id, selectors=["unix:uid:1002"], key="cd" * 16)
    body = IssueJwtSvid(identity_id=api.id, audiences=["orders"], instance=CLAIM)
    await house.call("jwtsvid.issue", body, node)
    await house.call("identity.quarantine", MoveIdentity(name="bad", reason="it lied"))
    (copy,) = (await house.call("instance.ls", ListInstances(name="api"))).items
    await house.call("instance.lock", MoveInstance(id=copy.id, reason="strange"))
    await house.call("identity.retire", MoveIdentity(name="old", reason="over"))
    await house.call("token.join", CreateJoinToken(node="later"))
    await house.publish()
    house.clock.advance(timedelta(days=183))
    await house.prepare()
    await house.settle()
    await house.parts.store.transact(_add_rest)
    house.parts.store.shelf.put("x509-1.key", bytes(range(256)))


def _add_rest(tx: Transaction) -> None:
    """What a server's processes keep about themselves, and an event that isn't sealed yet."""
    tx.cursors.save("sink", 7)
    tx.leases.take("sealer", "somebody", NOW, HOUR)
    tx.settings.set("trust_domain", str(DOMAIN))
    tx.journal.append(make_event())
