"""``audit.who``: who could do what then, by the rules and the states of then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fakes.archive import FakeArchive
from tests.fakes.house import FakeHouse, in_house
from tests.fakes.identities import make_identity
from tests.fakes.town import apply, document, identity, open_town, policy, resource, role
from tests.unit.operations.test_attendance import NAME, meet, pass_time, start
from troth.audit.found import present_event
from troth.audit.query import Found, Kind
from troth.core.errors import Invalid, NotFound
from troth.operations import auditwho
from troth.wire.api import auditsearch as wire
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.policies import RollBack

HOUR = timedelta(hours=1)
NOBODY: dict[str, Any] = dict.fromkeys(
    ("outcome", "actor", "subject", "resource", "request_id", "source", "reason", "task"), ""
)
SECOND = timedelta(seconds=1)


async def ask(house: FakeHouse, name: str, **fields: Any) -> wire.WhoCould:
    await house.settle()
    found: wire.WhoCould = await house.call("audit.who", wire.AskWho(resource=name, **fields))
    return found


def outline(found: wire.WhoCould) -> dict[str, tuple[list[str], str]]:
    return {one.subject: (one.actions, one.condition) for one in found.items}


async def move(house: FakeHouse, verb: str, name: str) -> datetime:
    """Change a state, and tell a moment right after it, before anything else."""
    await house.call(f"identity.{verb}", MoveIdentity(name=name, reason="a test"))
    house.clock.advance(HOUR)
    return house.clock.now() - HOUR / 2


@in_house
async def test_the_rules_of_then_count(house: FakeHouse) -> None:
    await open_town(house)
    house.clock.advance(HOUR)
    before = house.clock.now()
    house.clock.advance(HOUR)
    await apply(house, role("reader", "ledger", "read", "write"))
    house.clock.advance(HOUR)
    now = await ask(house, "ledger")
    assert outline(now) == {"till": (["read", "write"], "")}
    then = await ask(house, "ledger", at=before)
    assert outline(then) == {"till": (["read"], "")}
    assert then.version == now.version - 1 > 0
    assert then.items[0].exact
    assert then.items[0].spiffe_id == "spiffe://example.org/till"
    assert (await ask(house, "ledger", at=before, action="write")).items == []
    assert outline(await ask(house, "ledger", action="write")) == {"till": (["write"], "")}
    await house.call("policy.rollback", RollBack(number=str(then.version)))
    assert outline(await ask(house, "ledger")) == {"till": (["read"], "")}


@in_house
async def test_what_depends_on_the_request_is_a_condition(house: FakeHouse) -> None:
    await open_town(house)
    await apply(
        house,
        policy(
            "mutual-only",
            effect="forbid",
            subjects={"anyone": True},
            resources=["ledger"],
            actions=["*"],
            when={"request.transport": "plain"},
        ),
    )
    (item,) = (await ask(house, "ledger")).items
    assert (item.level, item.subject) == ("conditional", "till")
    assert "transport" in item.condition or "protected" in item.condition


@in_house
async def test_states_of_then_count(house: FakeHouse) -> None:
    await open_town(house)
    house.clock.advance(HOUR)
    active = house.clock.now()
    house.clock.advance(HOUR)
    suspended = await move(house, "suspend", "till")
    quarantined = await move(house, "quarantine", "till")
    released = await move(house, "release", "till")
    resumed = await move(house, "resume", "till")
    again = await move(house, "quarantine", "till")
    retired = await move(house, "retire", "till")
    expected = [
        (active, True),
        (suspended, False),
        (quarantined, False),
        (released, False),
        (resumed, True),
        (again, False),
        (retired, False),
    ]
    for at, could in expected:
        found = await ask(house, "ledger", at=at)
        assert bool(found.items) is could, at
        assert all(one.exact and not one.note for one in found.items)
    await house.settle()
    rows = await house.parts.store.read(lambda tx: tx.journal.list_stored(0, 10_000))
    archive = house.parts.archive
    assert isinstance(archive, FakeArchive)
    archive.events = [present_event(row) for row in rows]
    for at, could in expected:
        assert bool((await ask(house, "ledger", at=at)).items) is could, at


@in_house
async def test_who_came_later_or_was_changed_meanwhile(house: FakeHouse) -> None:
    await open_town(house)
    house.clock.advance(HOUR)
    before = house.clock.now()
    house.clock.advance(HOUR)
    await apply(house, identity("newcomer", 50, "reader"), identity("banker", 4, "reader"))
    house.clock.advance(HOUR)
    assert set(outline(await ask(house, "ledger"))) == {"till", "newcomer", "banker"}
    then = {one.subject: one for one in (await ask(house, "ledger", at=before)).items}
    assert set(then) == {"till", "banker"}  # banker: as it is now, which is said
    assert then["till"].exact
    assert not then["banker"].exact
    assert "it was changed at" in then["banker"].note
    assert (await ask(house, "vault", at=before)).items == []


@in_house
async def test_who_had_expired_then_could_do_nothing_though_its_end_was_put_off(
    house: FakeHouse,
) -> None:
    await open_town(house)
    begin = house.clock.now()
    ends = [(begin + n * HOUR).isoformat() for n in (2, 9)]
    await apply(house, identity("till", 3, "clerk", expires=ends[0]))
    house.clock.advance(4 * HOUR)
    await apply(house, identity("till", 3, "clerk", expires=ends[1]))
    house.clock.advance(HOUR)
    for hours, could in ((1, True), (3, False), (5, True)):
        found = await ask(house, "ledger", at=begin + hours * HOUR)
        assert bool(found.items) is could, hours


@in_house
async def test_a_template_put_an_end_off(house: FakeHouse) -> None:
    await open_town(house)
    await apply(
        house,
        policy(
            "all",
            effect="permit",
            subjects={"anyone": True},
            resources=["vault"],
            actions=["read"],
        ),
    )
    node = await start(house)
    await pass_time(house, 9)
    expired = house.clock.now()
    assert NAME not in outline(await ask(house, "vault"))
    house.clock.advance(SECOND)
    await meet(house, node)
    assert NAME in outline(await ask(house, "vault"))
    assert NAME not in outline(await ask(house, "vault", at=expired))


def test_an_end_that_an_earlier_version_put_off_isnt_known() -> None:
    now = datetime(2027, 6, 30, tzinfo=UTC)
    one = make_identity(expires_at=now)

    def extend(**detail: str) -> Found:
        return Found(Kind.EVENT, "1", now, "identity.extended", detail=detail, **NOBODY)

    before = extend(expires_before=(now - HOUR).isoformat())
    assert auditwho.find_end(one, []) == now
    assert auditwho.find_end(one, [before]) == now - HOUR
    assert auditwho.find_end(one, [extend()]) is None
    assert auditwho.find_end(one, [extend(), before]) == now - HOUR
    assert auditwho.find_end(one, [before, extend()]) is None
    for odd in ("yesterday", "2027-06-30T00:00:00"):
        assert auditwho.find_end(one, [extend(expires_before=odd)]) is None


@in_house
async def test_who_lost_a_role_since_is_named(house: FakeHouse) -> None:
    await open_town(house)
    await apply(house, identity("banker", 4, "reader"))
    house.clock.advance(HOUR)
    before = house.clock.now()
    house.clock.advance(HOUR)
    await apply(house, identity("banker", 4, "banker"))
    house.clock.advance(HOUR)
    then = await ask(house, "ledger", at=before)
    assert set(outline(then)) == {"till"}
    assert any("banker" in note and "may have" in note for note in then.notes)
    assert not any("banker" in note for note in (await ask(house, "ledger")).notes)


@in_house
async def test_an_uncertain_state_is_looked_up_or_told(
    house: FakeHouse,
) -> None:
    await open_town(house)
    house.clock.advance(HOUR)
    before = house.clock.now()
    house.clock.advance(HOUR)
    await move(house, "retire", "till")
    assert outline(await ask(house, "ledger", at=before)) == {"till": (["read"], "")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditwho, "MOST_LOOKUPS", 0)
        (item,) = (await ask(house, "ledger", at=before)).items
        assert not item.exact
        assert "isn't known" in item.note


@in_house
async def test_subjects_that_are_declared(house: FakeHouse) -> None:
    await open_town(house)
    people = document(
        "Resource",
        "people",
        type="user",
        actions={"call": "Call them"},
        instances=[{"id": "alice", "roles": ["reader"]}, {"id": "bob"}],
    )
    await apply(house, people)
    found = await ask(house, "ledger")
    types = {(one.subject_type, one.subject) for one in found.items}
    assert types == {("identity", "till"), ("user", "alice")}


@in_house
async def test_what_wasnt_there(house: FakeHouse) -> None:
    start = house.clock.now()
    house.clock.advance(HOUR)
    await open_town(house)
    await apply(house, resource("extra", "ledger"))
    with pytest.raises(NotFound, match="Nothing was declared"):
        await ask(house, "ledger", at=start)
    with pytest.raises(NotFound, match="There were: extra, ledger, vault"):
        await ask(house, "'; DROP TABLE", at=None)
    with pytest.raises(NotFound, match="It had: read, write"):
        await ask(house, "ledger", action="fly")
    with pytest.raises(Invalid, match="future"):
        await ask(house, "ledger", at=house.clock.now() + SECOND)
    with pytest.raises(Invalid, match="time zone"):
        await ask(house, "ledger", at=house.clock.now().replace(tzinfo=None))


@in_house
async def test_an_answer_is_bounded(house: FakeHouse) -> None:
    await open_town(house)
    house.clock.advance(HOUR)
    before = house.clock.now()
    house.clock.advance(HOUR)
    for _ in range(3):
        await move(house, "suspend", "guard")
        await move(house, "resume", "guard")
    for name, value in (("MOST_IDENTITIES", 0), ("MOST_EVENTS", 1), ("MOST_MEASURED", 2)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(auditwho, name, value)
            patch.setattr(auditwho, "EVENT_PAGE", 1)
            found = await ask(house, "ledger", at=before)
            assert not found.complete, name
            assert len(found.notes) > len(auditwho.BASIS) or name == "MOST_MEASURED"
    troth = await ask(house, "troth.journal")
    assert any("uid" in one for one in troth.notes)
