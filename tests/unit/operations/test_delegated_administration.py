"""Delegated administration: a team manages what bears its label, and nothing else."""

from __future__ import annotations

import pytest

from tests.fakes.clients import apply, render_manifest
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.teams import (
    TEAM_A,
    TEAM_B,
    describe,
    identity,
    read_example,
    settle_teams,
    submit,
)
from troth.core.errors import Denied, Refused
from troth.operations.call import Caller
from troth.wire.api import identities as wire
from troth.wire.api.journal import ListJournal
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.api.status import GetStatus

AUDITOR = Caller("uid:7", frozenset({"auditor"}))


async def refuse(house: FakeHouse, *documents, caller: Caller = TEAM_A, **options) -> str:
    """Why these manifests are refused to a team; nothing of them is there then."""
    before = await house.events()
    with pytest.raises(Denied) as caught:
        await submit(house, caller, *documents, **options)
    assert await house.events() == before
    return caught.value.detail


def grant(resource: str, *actions: str, **more):
    return {"resource": resource, "actions": list(actions or ("read",)), **more}


@in_house
async def test_a_team_applies_the_example_and_steers_its_own(house: FakeHouse) -> None:
    await apply(house, *read_example("platform.yaml"))
    plan = await submit(house, TEAM_A, *read_example("team-a.yaml"))
    assert plan.applied
    assert {c.action for c in plan.changes} == {"add"}
    again = await submit(house, TEAM_A, *read_example("team-a.yaml"))
    assert {c.action for c in again.changes} == {"keep"}
    await apply(house, identity("b-web", "b"))
    for verb in ("suspend", "resume", "quarantine", "release"):
        body = wire.MoveIdentity(name="a-web", reason="a drill")
        await house.call(f"identity.{verb}", body, TEAM_A)
        await house.settle()
        with pytest.raises(Denied, match=f"identity.{verb} on 'b-web'.*labels.team"):
            await house.call(
                f"identity.{verb}", wire.MoveIdentity(name="b-web", reason="x"), TEAM_A
            )


@in_house
async def test_the_reason_says_what_is_missing(house: FakeHouse) -> None:
    await settle_teams(house)
    reason = await refuse(house, identity("b-web", "b", purpose="Mine now"))
    assert "identity.change on 'b-web'" in reason
    assert "No rule permits it" in reason
    assert "resource.labels.team" in reason


@in_house
async def test_nothing_is_stolen_by_another_label(house: FakeHouse) -> None:
    """What is another's before can't become one's own, and what is one's own no other's."""
    await settle_teams(house)
    stolen = identity("b-web", "a", path="/team-b/b-web")
    assert "identity.change on 'b-web'" in await refuse(house, stolen)
    given = identity("a-web", "b", path="/team-a/a-web")
    assert "identity.change on 'a-web'" in await refuse(house, given)
    unlabelled = identity("a-web", "a")
    unlabelled["metadata"]["labels"] = {}
    assert "identity.change on 'a-web'" in await refuse(house, unlabelled)


@in_house
async def test_no_name_is_taken_that_others_may_trust(house: FakeHouse) -> None:
    await settle_teams(house)
    there = identity("a-new", path="/team-b/a-new")
    assert "on 'a-new'" in await refuse(house, there)
    dns = identity("a-new", dnsNames=["web.b.example.org"])
    assert "identity.claim on 'web.b.example.org'" in await refuse(house, dns)
    place = identity("a-new", nodes=["team-b-node"], selectors=["unix:uid:1001"])
    assert "identity.claim on 'team-b-node'" in await refuse(house, place)
    everywhere = identity("a-new", nodes=["*"], selectors=["unix:uid:1001"])
    assert "identity.claim on '*'" in await refuse(house, everywhere)
    await submit(house, TEAM_A, identity("a-new", nodes=["team-a-node"], selectors=["unix:uid:9"]))


@in_house
async def test_a_process_elsewhere_isn_t_met_by_other_selectors(house: FakeHouse) -> None:
    """An identity that an administrator put on a shared node stays for the process it is for."""
    await settle_teams(house)
    await apply(house, identity("a-web", nodes=["shared"], selectors=["unix:uid:9"]))
    moved = identity("a-web", nodes=["shared"], selectors=["unix:uid:1001"])
    assert "identity.claim on 'shared'" in await refuse(house, moved)
    await submit(
        house, TEAM_A, identity("a-web", nodes=["shared"], selectors=["unix:uid:9"], hint="new")
    )


@in_house
async def test_the_trust_in_a_retired_identity_isn_t_inherited(house: FakeHouse) -> None:
    await settle_teams(house)
    await house.call("identity.retire", wire.MoveIdentity(name="b-web", reason="over"))
    await house.settle()
    reason = await refuse(house, identity("b-web", "a"))
    assert "identity.register on 'b-web'" in reason


@in_house
async def test_a_name_that_others_speak_of_isn_t_filled(house: FakeHouse) -> None:
    """A resource names a server that isn't registered yet: not anybody may become that."""
    await settle_teams(house)
    ledger = describe("Resource", "ledger", "b", servers=["ledger-api"], actions={"read": "See"})
    await apply(house, ledger)
    reason = await refuse(house, identity("ledger-api"))
    assert "resource.declare on 'ledger'" in reason


@in_house
async def test_roles_are_given_by_those_whose_they_are(house: FakeHouse) -> None:
    await settle_teams(house)
    await apply(
        house,
        describe("Resource", "b-res", "b", actions={"read": "See"}),
        describe("Role", "b-reader", "b", permissions=[grant("b-res")]),
    )
    for role in ("b-reader", "not-there", "team-a-admin"):
        reason = await refuse(house, identity("a-web", roles=[role]))
        assert f"role.assign on '{role}'" in reason
    reason = await refuse(house, identity("a-web", roles=["troth.admin"]))
    assert "role.delegate on 'troth.admin'" in reason
    held = describe("Role", "a-all", includes=["b-reader"])
    assert "role.assign on 'b-reader'" in await refuse(house, held)
    held = describe("Role", "a-all", includes=["troth.admin"])
    assert "role.delegate on 'troth.admin'" in await refuse(house, held)


@in_house
async def test_nothing_is_said_about_the_resources_of_others(house: FakeHouse) -> None:
    await settle_teams(house)
    await apply(house, describe("Resource", "b-res", "b", actions={"read": "See"}))
    role = describe("Role", "a-reader", permissions=[grant("b-res")])
    assert "resource.declare on 'b-res'" in await refuse(house, role)
    everybody = {"subjects": {"anyone": True}, "actions": ["*"]}
    policy = describe("Policy", "a-p", effect="forbid", resources=["b-res"], **everybody)
    assert "resource.declare on 'b-res'" in await refuse(house, policy)
    policy = describe("Policy", "a-p", effect="forbid", resources=["*"], **everybody)
    assert "resource.declare" in await refuse(house, policy)
    for text, wanted in (
        ('forbid(principal, action, resource == Resource::"b-res");', "resource.declare on 'b-res"),
        ('permit(principal, action == Action::"b-res/read", resource);', "resource.declare on 'b"),
        ("forbid(principal, action, resource);", "resource.declare"),
        (
            'permit(principal, action, resource == System::"troth.identity");',
            "policy.delegate on 'troth.identity'",
        ),
        (
            'permit(principal, action, resource == System::"\\u{74}roth.identity");',
            "policy.delegate on 'troth.identity'",
        ),
        (
            'permit(principal, action == Action::"troth.identity/show", resource);',
            "policy.delegate on 'troth.identity'",
        ),
    ):
        assert wanted in await refuse(house, describe("Policy", "a-p", cedar=text)), text


@in_house
async def test_nobody_governs_troth_by_a_role_of_their_own(house: FakeHouse) -> None:
    """Not even what one holds can be given on: it is conditional, and the copy would not be."""
    await settle_teams(house)
    for permission in (grant("troth.identity", "*"), grant("troth.manifest", "apply")):
        role = describe("Role", "a-power", permissions=[permission])
        assert "role.delegate on 'troth." in await refuse(house, role)
    taken = read_example("platform.yaml")[0]
    taken["metadata"]["labels"] = {"team": "a"}
    assert "role.declare on 'team-a-admin'" in await refuse(house, taken)
    # Where the platform labelled it as the team's by mistake, it still can't be widened.
    await apply(house, taken)
    taken["spec"]["permissions"].append(grant("troth.authority", "revoke"))
    assert "on 'team-a-admin'" in await refuse(house, taken)


@in_house
async def test_questions_about_the_things_of_others_aren_t_answered(house: FakeHouse) -> None:
    """A resource that fits better than another's would decide in its place."""
    await settle_teams(house)
    await apply(house, describe("Resource", "b-res", "b", type="account", actions={"read": "See"}))
    closer = describe("Resource", "a-res", type="account", pattern="1*", actions={"read": "See"})
    assert "resource.declare on 'b-res'" in await refuse(house, closer)
    uri = describe(
        "Resource", "a-res", identifiers=["https://b.example.org/x"], actions={"read": "See"}
    )
    assert "resource.claim on 'https://b.example.org/x'" in await refuse(house, uri)
    aud = describe(
        "Resource", "a-res", audiences=["https://b.example.org/x"], actions={"read": "See"}
    )
    assert "resource.claim on 'https://b.example.org/x'" in await refuse(house, aud)
    host = describe("Resource", "a-res", hosts=["api.b.example.org"], actions={"read": "See"})
    assert "resource.claim on 'api.b.example.org'" in await refuse(house, host)


@in_house
async def test_callers_aren_t_passed_on_to_others(house: FakeHouse) -> None:
    """The servers of a resource act for its callers there: its owner must agree."""
    await settle_teams(house)
    await apply(house, describe("Resource", "b-res", "b", actions={"read": "See"}))
    deputy = describe(
        "Resource", "a-res", servers=["a-web"], passesTo=["b-res"], actions={"read": "See"}
    )
    assert "resource.declare on 'b-res'" in await refuse(house, deputy)


@in_house
async def test_users_of_others_hold_no_more_roles(house: FakeHouse) -> None:
    await settle_teams(house)
    await apply(
        house,
        describe("Resource", "b-res", "b", actions={"read": "See"}),
        describe("Role", "b-reader", "b", permissions=[grant("b-res")]),
    )
    users = describe(
        "Resource", "a-users", type="person", instances=[{"id": "eve"}], actions={"read": "See"}
    )
    await submit(house, TEAM_A, users)
    users["spec"]["instances"] = [{"id": "eve", "roles": ["b-reader"]}]
    assert "role.assign on 'b-reader'" in await refuse(house, users)


@in_house
async def test_outsiders_stand_for_own_identities_alone(house: FakeHouse) -> None:
    await settle_teams(house)
    owner = render_manifest(
        "Role", "issuers", permissions=[grant("troth.issuer", "declare", when={
            "resource.labels.team": "a"})]
    )  # fmt: skip
    deployer = read_example("platform.yaml")[1]
    deployer["spec"]["roles"].append("issuers")
    await apply(house, owner, deployer)

    def issuer(name: str):
        rule = {"identity": name, "claims": {"sub": "repo:a/web"}}
        spec = {"url": "https://tokens.example.net", "identities": [rule]}
        return describe("Issuer", "a-ci", **spec)

    assert "identity.change on 'b-web'" in await refuse(house, issuer("b-web"))
    assert "identity.change on 'later'" in await refuse(house, issuer("later"))
    await submit(house, TEAM_A, issuer("a-web"))


@in_house
async def test_a_prune_reaches_what_is_one_s_own(house: FakeHouse) -> None:
    await settle_teams(house)
    await apply(
        house,
        describe("Resource", "b-res", "b", actions={"read": "See"}),
        describe("Role", "b-reader", "b", permissions=[grant("b-res")]),
        describe("Resource", "a-res", actions={"read": "See"}),
    )
    plan = await submit(house, TEAM_A, identity("a-new"), prune=True)
    told = {(c.action, c.name) for c in plan.changes}
    assert told == {("add", "a-new"), ("remove", "a-web"), ("remove", "a-res")}
    names = {one.name for one in (await house.call("identity.ls", wire.ListIdentities())).items}
    assert {"b-web", "team-a-deployer", "a-new"} <= names


@in_house
async def test_one_sees_what_is_one_s_own(house: FakeHouse) -> None:
    await settle_teams(house)
    for order in ("name", "attention"):
        body = wire.ListIdentities(order=order)
        for caller, name in ((TEAM_A, "a-web"), (TEAM_B, "b-web")):
            page = await house.call("identity.ls", body, caller)
            assert [one.name for one in page.items] == [name]
    for name, asked in (("journal.ls", ListJournal()), ("status.show", GetStatus())):
        with pytest.raises(Denied):
            await house.call(name, asked, TEAM_A)
    plan = await house.call("manifest.plan", SubmitManifests(documents=[]), TEAM_A)
    assert {one.name for one in plan.changes} == {"a-web"}
    theirs = ManifestDocument(value=identity("b-web", "b", purpose="?"))
    with pytest.raises(Denied, match="on 'b-web'"):
        await house.call("manifest.plan", SubmitManifests(documents=[theirs]), TEAM_A)


@in_house
async def test_a_page_is_filled_however_few_may_be_seen(house: FakeHouse) -> None:
    await apply(house, *read_example("platform.yaml"))
    names = [f"a-{number:02}" for number in range(0, 30, 3)]
    others = [f"a-{number:02}" for number in range(30) if number % 3]
    await apply(house, *map(identity, names), *(identity(one, "b") for one in others))
    found, after = [], None
    while True:
        body = wire.ListIdentities(limit=4, after=after)
        page = await house.call("identity.ls", body, TEAM_A)
        assert len(page.items) <= 4
        found += [one.name for one in page.items]
        after = page.next
        if after is None:
            break
        assert len(page.items) == 4
        assert after.startswith(found[-1])
    assert found == names


@in_house
async def test_whoever_reads_everything_may_plan_what_others_would_apply(house: FakeHouse) -> None:
    await settle_teams(house)
    body = SubmitManifests(documents=[ManifestDocument(value=identity("b-web", "b", purpose="?"))])
    plan = await house.call("manifest.plan", body, AUDITOR)
    assert ("change", "b-web") in {(c.action, c.name) for c in plan.changes}
    assert any("Applying this would be refused" in text for text in plan.warnings)
    with pytest.raises(Denied):
        await house.call("manifest.apply", body, AUDITOR)


@in_house
async def test_names_to_which_configuration_gives_roles_are_no_one_s(house: FakeHouse) -> None:
    house.dispatcher.gates._given = {"spiffe://example.org/team-a/boss": "admin"}  # type: ignore[attr-defined]
    await settle_teams(house)
    boss = identity("a-boss", path="/team-a/boss")
    assert "role.delegate on 'troth.admin'" in await refuse(house, boss)
    await submit(house, ADMIN, boss)


@in_house
async def test_what_is_critical_waits_for_others_by_the_same_rules(house: FakeHouse) -> None:
    """An approver needs the permissions that applying needs."""
    await settle_teams(house)
    vault = describe("Resource", "b-vault", "b", sensitivity="critical", actions={"read": "See"})
    assert "resource.declare on 'b-vault'" in await refuse(house, vault)


@in_house
async def test_refused_whole_means_refused_whole(house: FakeHouse) -> None:
    """What is permitted beside what isn't doesn't happen either."""
    await settle_teams(house)
    await refuse(house, identity("a-new"), identity("b-new", "b"))
    with pytest.raises(Refused, match="belongs to 'b-web'"):
        await submit(house, TEAM_A, identity("a-new", path="/team-b/b-web"))
