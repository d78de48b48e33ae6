"""Authorship: whatever a team submits, all that isn't its own stays as it is."""

from __future__ import annotations

import random
from typing import Any

from tests.fakes.clients import apply
from tests.fakes.house import DOMAIN, FakeHouse, in_house
from tests.fakes.teams import TEAM_A, describe, identity, settle_teams, submit
from troth.core.errors import Conflict, Denied, Invalid, Refused, TrothError
from troth.live.bundle import Bundle
from troth.operations.call import OPEN, Call, Target
from troth.operations.decision import Subject
from troth.policy.decision import Question, decide
from troth.policy.rule import SYSTEM
from troth.store.transaction import Transaction
from troth.wire.api.identities import ListIdentities

ROUNDS = 150
NAMES = ("a-web", "a-new", "b-web", "b-new", "ledger-api", "team-a-deployer")
RESOURCES = ("a-res", "a-own", "b-res", "troth.identity", "troth.manifest", "troth.role")
ROLES = ("a-reader", "a-more", "b-reader", "team-a-admin", "troth.admin", "nobody")
CEDAR = (
    "permit(principal, action, resource);",
    'permit(principal, action, resource == Resource::"b-res");',
    'permit(principal, action, resource == System::"troth.identity");',
    'permit(principal, action == Action::"b-res/read", resource);',
    'forbid(principal, action, resource) unless { context.identity.name == "a-web" };',
    'permit(principal in Role::"team-a-admin", action, resource is System);',
    'permit(principal, action, resource == Resource::"a-res");',
)


def make_own(pick: random.Random) -> dict[str, Any]:
    """Something that the team may have, mostly."""
    kind = pick.choice(("Identity", "Role", "Resource", "Policy"))
    if kind == "Identity":
        roles = pick.sample(("a-reader", "a-more"), pick.randrange(3))
        name = pick.choice(("a-web", "a-new", "a-x"))
        return identity(name, purpose=f"Try {pick.randrange(9)}", roles=roles)
    read = {"resource": pick.choice(("a-res", "a-own")), "actions": [pick.choice(("read", "*"))]}
    if kind == "Role":
        return describe("Role", pick.choice(("a-reader", "a-more")), permissions=[read])
    if kind == "Resource":
        name = pick.choice(("a-res", "a-own"))
        return describe("Resource", name, actions={"read": f"See {pick.randrange(9)}"})
    spec = {"effect": "permit", "subjects": {"anyone": True}, "actions": ["*"]}
    return describe("Policy", "a-rule", **spec, resources=[read["resource"]])


def make_manifest(pick: random.Random) -> dict[str, Any]:
    """Something that somebody might try."""
    kind = pick.choice(("Identity", "Identity", "Role", "Role", "Resource", "Policy", "Template"))
    team = pick.choice(("a", "a", "a", "b"))
    if kind == "Identity":
        spec: dict[str, Any] = {
            "purpose": f"Attempt {pick.randrange(100)}",
            "roles": pick.sample(ROLES, pick.randrange(3)),
            "path": pick.choice((f"/team-{team}/x{pick.randrange(9)}", "/team-b/y", "/ops")),
            "nodes": [pick.choice(("team-a-node", "team-b-node", "*"))],
            "selectors": pick.choice(([], ["unix:uid:1001"])),
            "dnsNames": pick.choice(([], ["x.a.example.org"], ["x.b.example.org"])),
            "delegates": pick.choice(([], ["b-web"])),
        }
        name = pick.choice(NAMES)
        if pick.random() < 0.8:
            spec["path"] = f"/team-{name[0]}/{name}"
        return identity(name, team, **spec)
    if kind == "Role":
        return describe(
            "Role",
            pick.choice(ROLES[:4]),
            team,
            includes=pick.sample(ROLES, pick.randrange(2)),
            permissions=[
                {
                    "resource": pick.choice(RESOURCES),
                    "actions": [pick.choice(("read", "*", "show"))],
                }
                for _ in range(pick.randrange(1, 3))
            ],
        )
    if kind == "Resource":
        spec = {
            "actions": {"read": "See it"},
            "type": pick.choice(("account", "thing", "person")),
            "pattern": pick.choice(("*", "1*", "12")),
            "servers": pick.sample(NAMES, 1),
            "passesTo": pick.choice(([], ["b-res"])),
            "instances": pick.choice(([], [{"id": "eve", "roles": [pick.choice(ROLES)]}])),
            "identifiers": pick.choice(
                ([], ["https://a.example.org/x"], ["https://b.example.org/x"])
            ),
        }
        return describe(
            "Resource", pick.choice(("a-res", "a-own", "b-res", "b-more")), team, **spec
        )
    if kind == "Template":
        spec = {"kind": "job", "match": ["unix:uid:*"], "naming": "u-{unix:uid}", "expires": "1d"}
        prefix = pick.choice(("/team-a/jobs", "/team-b/jobs"))
        return describe("Template", "a-jobs", team, prefix=prefix, **spec)
    name = pick.choice(("a-rule", "b-rule"))
    if pick.random() < 0.5:
        return describe("Policy", name, team, cedar=pick.choice(CEDAR))
    spec = {
        "effect": pick.choice(("permit", "forbid")),
        "subjects": pick.choice(({"anyone": True}, {"identities": ["b-web"]})),
        "actions": ["*"],
        "resources": pick.choice(([pick.choice(RESOURCES)], ["*"])),
    }
    return describe("Policy", name, team, **spec)


def find_others(tx: Transaction) -> dict[str, Any]:
    """Everything that isn't team a's, as it is."""
    found: dict[str, Any] = {}
    for one in tx.identities.page(limit=1000):
        if one.labels.get("team") != "a":
            found[f"Identity {one.id}"] = one
    for stored in tx.declarations.list():
        if stored.value.labels.get("team") != "a":
            found[f"{stored.kind} {stored.value.name}"] = stored
    return found


async def find_access(house: FakeHouse, bundle: Bundle) -> set[tuple[str, str, str]]:
    """Who may do what at things that aren't team a's, and with troth."""
    identities = await house.parts.store.read(lambda tx: tx.identities.page(living=True, limit=999))
    people = [Subject("identity", one.name) for one in identities]
    people.append(Subject("person", "eve"))
    asked = [("b-res", "read"), ("account", "read")]
    asked += [(f"{SYSTEM}identity", verb) for verb in ("show", "suspend", "register")]
    asked += [(f"{SYSTEM}authority", "revoke"), (f"{SYSTEM}role", "delegate")]
    found = set()
    for subject in people:
        party = await house.parts.decider.find_party(bundle, subject)
        for name, action in asked:
            resource = bundle.rules.match("account", "123") if name == "account" else None
            at = resource.name if resource else name
            facts = {**party.facts, "resource": {"id": "b-web", "labels.team": "b"}}
            question = Question(party.principal, action, at, facts)
            if decide(bundle.rules.index, question, house.clock.now()).allowed:
                found.add((subject.id, f"{name}: {at}" if resource else name, action))
    return found


@in_house
async def test_nothing_a_team_submits_reaches_beyond_what_is_its_own(house: FakeHouse) -> None:
    await settle_teams(house)
    await apply(
        house,
        describe("Resource", "b-res", "b", actions={"read": "See"}, type="account"),
        describe("Role", "b-reader", "b", permissions=[{"resource": "b-res", "actions": ["read"]}]),
        identity("b-web", "b", roles=["b-reader"]),
    )
    pick = random.Random(20261122)
    read = house.parts.decider.read_bundle
    others = await house.parts.store.read(find_others)
    access = await find_access(house, await read())
    assert ("b-web", "b-res", "read") in access
    done = 0
    for _ in range(ROUNDS):
        make = pick.choice((make_own, make_manifest))
        documents = [make(pick) for _ in range(pick.choice((1, 1, 2, 3)))]
        try:
            await submit(house, TEAM_A, *documents, prune=pick.random() < 0.2)
        except (Conflict, Denied, Invalid, Refused):  # and nothing else
            continue
        done += 1
        assert await house.parts.store.read(find_others) == others, documents
        assert await find_access(house, await read()) == access, documents
        page = await house.call("identity.ls", ListIdentities(limit=1000), TEAM_A)
        assert all(one.labels["team"] == "a" for one in page.items)
    assert 10 < done < ROUNDS - 10  # both ways were gone often enough to mean something


@in_house
async def test_the_same_submissions_by_an_administrator_would_reach_it(house: FakeHouse) -> None:
    """So that the test above would notice: without the gate much of it changes what is others'."""
    await settle_teams(house)
    pick = random.Random(20261122)
    others = await house.parts.store.read(find_others)
    reached = 0
    for _ in range(30):
        try:
            await apply(house, make_manifest(pick))
        except TrothError:
            continue
        reached += await house.parts.store.read(find_others) != others
    assert reached > 5


def test_a_call_without_a_gate_is_troth_s_own() -> None:
    call: Call[None] = Call(TEAM_A, "req_test", None)  # type: ignore[arg-type]
    assert call.gate is OPEN
    assert OPEN.allows(Target(), "authority.revoke")
    assert str(DOMAIN) == "example.org"
