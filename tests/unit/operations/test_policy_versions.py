"""Every applied set is a version: signed, chained, compared, and applied again."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from tests.fakes.house import FakeHouse, in_house
from tests.fakes.policies import Desk, identity, permission, resource, role
from troth.core.errors import NotFound, Refused
from troth.operations.versions import KEY_REF, SignVersions
from troth.store.policy_tables import policy_sets
from troth.wire.api import policies as wire


async def history(house: FakeHouse) -> list[wire.VersionView]:
    page: wire.VersionPage = await house.call("policy.history", wire.ListVersions())
    return page.items


async def change_row(house: FakeHouse, number: int, **values: object) -> None:
    statement = update(policy_sets).where(policy_sets.c.number == number).values(**values)
    await house.parts.store.transact(lambda tx: tx.policy_sets._session.execute(statement))


@in_house
async def test_what_changes_rules_is_a_version_and_nothing_else_is(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(identity("orders"))
    assert await history(house) == []
    await desk.apply(resource(), role("reader", permission(["read"])))
    await desk.apply(resource(), role("reader", permission(["read"])))
    await desk.apply(role("reader", permission(["read", "write"])))
    found = await history(house)
    assert [(one.number, one.author, one.fault) for one in found] == [
        (2, "uid:0", ""),
        (1, "uid:0", ""),
    ]
    assert len({one.digest for one in found}) == 2
    assert found[1].previous == ""
    events = await house.events("policy.recorded")
    assert [(one.body["number"], one.body["digest"]) for one in events] == [
        (one.number, one.digest) for one in reversed(found)
    ]
    assert events[0].body["link"] == found[0].previous
    first = await house.call("policy.history", wire.ListVersions(limit=1))
    assert (first.items[0].fault, first.next) == ("", 2)
    rest = await house.call("policy.history", wire.ListVersions(limit=1, before=2))
    assert (rest.items[0].number, rest.next) == (1, None)


@in_house
async def test_what_a_version_declares_is_shown_in_words(house: FakeHouse) -> None:
    await Desk(house).apply(resource(), role("reader", permission(["read"])))
    shown = await house.call("policy.show", wire.NameVersion(number="1"))
    assert [(one.kind, one.name) for one in shown.declared] == [
        ("Role", "reader"),
        ("Resource", "ledger"),
    ]
    assert "permissions: ledger: read" in shown.declared[0].words
    assert shown.version.fault == ""
    with pytest.raises(NotFound, match="no version 7"):
        await house.call("policy.show", wire.NameVersion(number="7"))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_whoever_changes_a_version_breaks_the_chain(at: int, tmp_path: object) -> None:
    async def check(house: FakeHouse) -> None:
        desk = Desk(house)
        await desk.apply(resource())
        await desk.apply(role("reader", permission(["read"])))
        await desk.apply(role("reader", permission(["write"])))
        await change_row(house, at, author="uid:4711")
        faults = {one.number: one.fault for one in await history(house)}
        assert "signature is wrong" in faults[at]
        assert {number for number, fault in faults.items() if fault} == {at, min(at + 1, 3)}
        shown = await house.call("policy.show", wire.NameVersion(number=str(at)))
        assert shown.version.fault
        with pytest.raises(Refused, match="can't be trusted"):
            await house.call("policy.rollback", wire.RollBack(number=str(at)))

    in_house(check)(tmp_path)  # type: ignore[arg-type]


@in_house
async def test_changed_content_is_found_and_never_applied(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(resource())
    await desk.apply(role("reader", permission(["read"])))
    import zlib

    await change_row(house, 1, content=zlib.compress(b"[]"))
    shown = await house.call("policy.show", wire.NameVersion(number="1"))
    assert shown.version.fault == "Its content was changed after it was applied."
    for body in (wire.RollBack(number="1"),):
        with pytest.raises(Refused, match="content was changed"):
            await house.call("policy.rollback", body)
    with pytest.raises(Refused, match="isn't what was applied"):
        await house.call("policy.diff", wire.CompareVersions(before=1))


@in_house
async def test_a_keystore_that_is_away_delays_the_signature_alone(house: FakeHouse) -> None:
    desk = Desk(house)

    def fail() -> None:
        from troth.core.errors import Unavailable

        raise Unavailable("The keystore is away.")

    await desk.apply(resource())
    house.keystore.before_sign = fail
    applied = await desk.apply(role("reader", permission(["read"])))
    assert applied.applied
    house.keystore.before_sign = None
    assert [one.fault for one in await history(house)] == ["It isn't signed yet.", ""]
    sign = SignVersions(house.parts.store, house.keystore)
    await sign()
    await sign()
    assert [one.fault for one in await history(house)] == ["", ""]


@in_house
async def test_another_key_isnt_taken_for_ours(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(resource())
    house.keystore.delete_key(KEY_REF)
    assert "doesn't hold" in (await history(house))[0].fault
    await desk.apply(role("reader", permission(["read"])))
    assert [bool(one.fault) for one in await history(house)] == [False, True]


@in_house
async def test_versions_are_compared_in_words_and_by_access(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(resource(), role("reader"), identity("orders", "reader"))
    await desk.apply(role("reader", permission(["read"])))
    await desk.apply(role("reader", permission(["read", "write"])))
    found = await house.call("policy.diff", wire.CompareVersions(before=1, after=2))
    assert [(one.action, one.name, one.words) for one in found.changes] == [
        ("change", "reader", ["permissions: ledger: none → read"])
    ]
    assert [one.words for one in found.access] == ["orders gains read on ledger"]
    back = await house.call("policy.diff", wire.CompareVersions(before=3, after=1))
    assert [one.words for one in back.access] == ["orders loses read, write on ledger"]
    present = await house.call("policy.diff", wire.CompareVersions(before=3))
    assert (present.changes, present.access) == ([], [])


@in_house
async def test_a_rollback_is_a_new_version_with_what_was(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(resource(), role("reader", permission(["read"])), identity("orders", "reader"))
    await desk.apply(role("reader", permission(["write"])), role("extra"))
    assert await desk.ask("orders", "write")
    dry = await house.call("policy.rollback", wire.RollBack(number="1", dry_run=True))
    assert not dry.applied
    assert len(await history(house)) == 2
    done = await house.call("policy.rollback", wire.RollBack(number="1"))
    await house.settle()
    assert done.applied
    assert [(one.action, one.kind, one.name) for one in done.changes if one.action != "keep"] == [
        ("remove", "Role", "extra"),
        ("change", "Role", "reader"),
    ]
    assert [one.words for one in done.access] == [
        "orders gains read on ledger",
        "orders loses write on ledger",
    ]
    found = await history(house)
    assert [one.number for one in found] == [3, 2, 1]
    assert found[0].digest == found[2].digest
    assert (await desk.ask("orders", "read"), await desk.ask("orders", "write")) == (True, False)
