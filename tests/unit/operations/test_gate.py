"""The gate: who may begin what, and what is asked again once it is known what it is done to."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fakes.clients import apply, render_manifest
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.teams import TEAM_A, identity, settle_teams
from troth.core.errors import Denied, Unauthenticated
from troth.core.ids import RequestId
from troth.core.manifest.reader import NAME_PATTERN
from troth.operations.call import ANONYMOUS, OPEN, Call, Caller, Target
from troth.operations.gate import ASKING, AUTHORING, TARGETED, CallerGate
from troth.policy.permissions import ROLES
from troth.policy.system import list_system_resources, name_system_resource
from troth.wire.api import certificates as certificates_wire
from troth.wire.api import client_secrets as secrets_wire
from troth.wire.api import identities as wire
from troth.wire.api.devices import InviteDevices
from troth.wire.api.journal import TailJournal
from troth.wire.api.manifests import SubmitManifests
from troth.wire.api.resources import ListResources, NameResource
from troth.wire.api.status import GetStatus
from troth.wire.api.tokens import RevokeTokens
from troth.wire.api.trust import AddEvidence, ListTrust, NameTrust, WithdrawEvidence

OPERATOR = Caller("spiffe://example.org/ops", frozenset({"operator"}), serial="0c")
NODE = Caller("spiffe://example.org/troth/node/n", frozenset({"node"}), "node_1", serial="0d")  # type: ignore[arg-type]


class Nothing:
    """A gate that permits nothing, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[Target] = []

    def check(self, target: Target, operation: str = "", /) -> None:
        self.asked.append(target)
        raise Denied("Nothing.")

    def allows(self, target: Target, operation: str = "", /) -> bool:
        self.asked.append(target)
        return False


def policy(name: str, effect: str, resource: str, *actions: str, **spec: Any) -> dict[str, Any]:
    values = {"subjects": {"anyone": True}, "resources": [resource], "actions": list(actions)}
    return render_manifest("Policy", name, effect=effect, **{**values, **spec})


async def make_bodies(house: FakeHouse) -> dict[str, Any]:
    """A body for each targeted operation, that would do something."""
    await house.register("shop")
    await house.register("probe", kind="device", selectors=[])
    node = await house.join()
    shop = await house.call("identity.show", wire.NameIdentity(name="shop"))
    (leaf,) = await house.issue(node, shop.id)
    await apply(house, render_manifest("Resource", "ledger", actions={"read": "See"}))
    secret = await house.call(
        "client_secret.create", secrets_wire.CreateClientSecret(identity="shop")
    )
    evidence = await house.call("trust.add", AddEvidence(name="shop", weight=-5, reason="x"))
    move = wire.MoveIdentity(name="shop", reason="x")
    instance = wire.MoveInstance(id=leaf.instance_id, reason="x")
    moves = ("activate", "suspend", "resume", "quarantine", "release", "retire")
    return {
        **{f"identity.{verb}": move for verb in moves},
        "identity.ls": wire.ListIdentities(),
        "identity.show": wire.NameIdentity(name="shop"),
        "identity.register": wire.RegisterIdentity(
            name="new", kind="job", owner="x@example.org", purpose="x", nodes=["local"]
        ),
        "instance.ls": wire.ListInstances(name="shop"),
        "instance.lock": instance,
        "instance.unlock": instance,
        "certificate.ls": certificates_wire.ListCertificates(name="shop"),
        "certificate.revoke": certificates_wire.RevokeCertificate(serial=leaf.serial, reason="x"),
        "client_secret.create": secrets_wire.CreateClientSecret(identity="shop"),
        "client_secret.ls": secrets_wire.ListClientSecrets(),
        "client_secret.revoke": secrets_wire.RevokeClientSecret(id=secret.id, reason="x"),
        "device.invite": InviteDevices(names=["probe"]),
        "resource.ls": ListResources(),
        "resource.show": NameResource(name="ledger"),
        "token.revoke": RevokeTokens(identity="shop", reason="x"),
        "trust.add": AddEvidence(name="shop", weight=5, reason="x"),
        "trust.ls": ListTrust(),
        "trust.show": NameTrust(name="shop"),
        "trust.withdraw": WithdrawEvidence(id=evidence.id, reason="x"),
    }


def with_secrets(test: Callable[..., Any]) -> Callable[..., None]:
    return in_house(test, client_secrets=True)


@with_secrets
async def test_every_targeted_operation_asks_before_it_does_anything(house: FakeHouse) -> None:
    bodies = await make_bodies(house)
    assert bodies.keys() == TARGETED
    before = await house.events()
    for name, body in bodies.items():
        gate = Nothing()
        call = Call(ADMIN, RequestId("req_test"), body, gate)
        if name.endswith(".ls") and name not in ("instance.ls", "certificate.ls"):
            assert (await house.dispatcher.operations[name](call)).items == []
        else:
            with pytest.raises(Denied):
                await house.dispatcher.operations[name](call)
        named = {target.id for target in gate.asked}
        assert named & {"shop", "probe", "new", "ledger"}, name
    for more in (RevokeTokens(jti="tok_0a", reason="x"),):
        with pytest.raises(Denied):
            await house.dispatcher.operations["token.revoke"](
                Call(ADMIN, RequestId("req_test"), more, Nothing())
            )
    assert await house.events() == before


@in_house
async def test_the_gate_knows_operations_alone(house: FakeHouse) -> None:
    assert house.dispatcher.operations.keys() >= ASKING
    assert set().union(*ROLES.values()) >= ASKING
    assert not TARGETED & AUTHORING


@in_house
async def test_who_governs_by_uid_can_t_be_locked_out(house: FakeHouse) -> None:
    await house.register("shop")
    names = map(name_system_resource, house.dispatcher.operations)
    nouns = sorted({name.removeprefix("troth.") for name in names})
    await apply(house, *(policy(f"no-{n}", "forbid", f"troth.{n}", "*") for n in nouns))
    await house.call("identity.suspend", wire.MoveIdentity(name="shop", reason="x"))
    assert (await house.call("manifest.plan", SubmitManifests(documents=[]))).changes
    for body, name in ((GetStatus(), "status.show"), (wire.ListIdentities(), "identity.ls")):
        with pytest.raises(Denied, match=f"policy/no-{name.partition('.')[0]} forbids it"):
            await house.call(name, body, OPERATOR)


@in_house
async def test_strangers_are_asked_who_they_are(house: FakeHouse) -> None:
    await apply(house, policy("open", "permit", "troth.identity", "ls"))
    await apply(house, policy("shut", "forbid", "troth.token", "*"))
    with pytest.raises(Unauthenticated):
        await house.call("identity.ls", wire.ListIdentities(), ANONYMOUS)
    gate = await house.dispatcher.gates.admit(ANONYMOUS, "token.request")
    assert gate is OPEN


@in_house
async def test_what_isn_t_known_of_a_target_yet_permits_and_forbids_nothing(
    house: FakeHouse,
) -> None:
    """Before the target is known, "has an owner" is no question that has an answer."""
    await house.register("shop")
    await apply(
        house,
        policy(
            "n", "forbid", "troth.identity", "suspend", when={"resource.owner": {"known": True}}
        ),
        policy("m", "forbid", "troth.identity", "ls", when={"resource.type": {"known": True}}),
    )
    with pytest.raises(Denied, match="policy/n forbids"):
        await house.call("identity.suspend", wire.MoveIdentity(name="shop", reason="x"), OPERATOR)
    assert not (await house.call("identity.ls", wire.ListIdentities(), OPERATOR)).items
    unlabelled = {"not": {"resource.labels.team": {"known": True}}}
    who = Caller("spiffe://example.org/x", frozenset({"workload"}), serial="0e")
    await apply(
        house,
        policy("p", "permit", "troth.identity", "show", when=unlabelled),
        identity("a-web"),
        policy("n", "permit", "troth.trust", "show", when={"resource.owner": {"known": False}}),
    )
    await house.call("identity.show", wire.NameIdentity(name="shop"), who)
    with pytest.raises(Denied):
        await house.call("identity.show", wire.NameIdentity(name="a-web"), who)
    with pytest.raises(Denied):
        await house.call("trust.show", NameTrust(name="shop"), who)


@in_house
async def test_what_has_no_target_needs_a_permission_without_one(house: FakeHouse) -> None:
    who = Caller(
        "spiffe://example.org/x", frozenset({"workload"}), source="10.0.0.1:1", serial="0e"
    )
    bound = {"request.transport": "mtls", "request.ip": {"in": "10.0.0.0/8"}}
    await apply(
        house,
        policy("p", "permit", "troth.status", "show", when={"resource.labels.team": "a"}),
        policy("q", "permit", "troth.node", "ls", when=bound),
    )
    with pytest.raises(Denied):
        await house.call("status.show", GetStatus(), who)
    await house.dispatcher.admit("node.ls", who)
    for other in (
        Caller(who.principal, who.roles, source="192.0.2.1:1", serial="0e"),
        Caller(who.principal, who.roles, source="10.0.0.1:1"),  # a token, no certificate
    ):
        with pytest.raises(Denied):
            await house.dispatcher.admit("node.ls", other)


@in_house
async def test_a_manifest_s_role_includes_one_of_troth_s(house: FakeHouse) -> None:
    body = identity("a-web", path="/ops/reader", roles=["readers"])
    await apply(house, render_manifest("Role", "readers", includes=["troth.auditor"]), body)
    reader = Caller("spiffe://example.org/ops/reader", frozenset({"workload"}), serial="0e")
    page = await house.call("identity.ls", wire.ListIdentities(), reader)
    assert [one.name for one in page.items] == ["a-web"]
    with pytest.raises(Denied):
        await house.call("identity.suspend", wire.MoveIdentity(name="a-web", reason="x"), reader)
    given = Caller("uid:1000", frozenset(), declared=("readers",))
    assert (await house.call("identity.ls", wire.ListIdentities(), given)).items


@in_house
async def test_who_is_cut_off_may_do_nothing(house: FakeHouse) -> None:
    await settle_teams(house)
    await house.call("identity.show", wire.NameIdentity(name="a-web"), TEAM_A)
    body = wire.MoveIdentity(name="team-a-deployer", reason="odd")
    await house.call("identity.suspend", body)
    await house.settle()
    with pytest.raises(Denied, match="suspended"):
        await house.call("identity.show", wire.NameIdentity(name="a-web"), TEAM_A)


@in_house
async def test_a_stream_ends_when_rules_forbid_it(house: FakeHouse) -> None:
    gates = house.dispatcher.gates
    await house.dispatcher.admit("journal.tail", OPERATOR)
    assert gates.confirm(OPERATOR, "journal.tail")
    values = house.dispatcher.open(
        "journal.tail", OPERATOR, RequestId("req_test"), TailJournal(after=0)
    )
    await anext(values)
    await apply(house, policy("shut", "forbid", "troth.journal", "tail"))
    assert not gates.confirm(OPERATOR, "journal.tail")
    with pytest.raises(Denied):
        await house.dispatcher.confirm("journal.tail", OPERATOR)
    assert gates.confirm(OPERATOR, "revocation.follow")
    await values.aclose()  # type: ignore[attr-defined]


@in_house
async def test_what_nobody_speaks_of_costs_nothing(house: FakeHouse) -> None:
    """One word about certificates of teams must not make each issuance ask the rules."""
    await settle_teams(house)
    for name, caller in (
        ("node.sync", NODE),
        ("certificate.issue", NODE),
        ("token.request", ANONYMOUS),
    ):
        assert await house.dispatcher.gates.admit(caller, name) is OPEN


@in_house
async def test_nodes_are_not_looked_for_among_identities(house: FakeHouse) -> None:
    await apply(house, policy("n", "permit", "troth.node", "sync"))

    def fail(_: Any) -> Any:
        raise AssertionError("the store was read")

    await house.dispatcher.gates.admit(NODE, "node.sync")
    store = house.parts.decider._store
    try:
        house.parts.decider._store = type("Store", (), {"read": staticmethod(fail)})()
        assert await house.dispatcher.gates.admit(NODE, "node.sync") is not None
    finally:
        house.parts.decider._store = store


@in_house
async def test_any_thread_may_ask(house: FakeHouse) -> None:
    """Readers ask about many targets while the loop admits others, and explains."""
    await settle_teams(house)
    gate = await house.dispatcher.gates.admit(TEAM_A, "identity.suspend")
    assert isinstance(gate, CallerGate)
    assert not gate.certain
    domain = "spiffe://example.org/team-a/"

    def ask(number: int) -> tuple[bool, bool]:
        own = Target(f"a-{number}", labels={"team": "a"}, spiffe_id=f"{domain}{number}")
        other = Target(f"b-{number}", labels={"team": "b"}, spiffe_id=f"{domain}{number}")
        with pytest.raises(Denied, match=f"'b-{number}'"):
            gate.check(other)
        return gate.allows(own), gate.allows(other)

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(4) as pool:
        waiting = [loop.run_in_executor(pool, ask, number) for number in range(200)]
        for _ in range(200):
            await house.dispatcher.gates.admit(TEAM_A, "identity.retire")
        assert set(await asyncio.gather(*waiting)) == {(True, False)}


@in_house
async def test_many_targets_that_look_alike_are_judged_once(house: FakeHouse) -> None:
    await apply(
        house, policy("p", "permit", "troth.identity", "ls", when={"resource.labels.team": "a"})
    )
    gate = await house.dispatcher.gates.admit(TEAM_A, "identity.ls")
    assert isinstance(gate, CallerGate)
    teams = ("a", "b", "c")
    found = [gate.allows(Target(f"n{n}", labels={"team": teams[n % 3]})) for n in range(3_000)]
    assert found == [n % 3 == 0 for n in range(3_000)]
    assert len(gate._known) == 3


@in_house
async def test_a_refused_call_is_counted_before_its_body_is_read(house: FakeHouse) -> None:
    with pytest.raises(Denied):
        await house.dispatcher.begin("authority.revoke", OPERATOR, RequestId("req_test"))
    assert house.meter.seen[-1] == ("authority.revoke", "permission_denied")
    seen = len(house.meter.seen)
    await house.dispatcher.begin("status.show", OPERATOR, RequestId("req_test"))
    assert len(house.meter.seen) == seen  # it is counted when it ends


@in_house
async def test_a_refusal_says_what_is_missing_and_nothing_of_others(house: FakeHouse) -> None:
    await settle_teams(house)
    gate = await house.dispatcher.gates.admit(TEAM_A, "identity.show")
    with pytest.raises(Denied) as caught:
        gate.check(Target("b-web", "secret-owner", "prod", {"team": "b", "plan": "secret"}))
    assert "resource.labels.team being a" in caught.value.detail
    for word in ("secret", "team-b", "troth.admin"):
        assert word not in caught.value.detail


def test_every_resource_of_troth_s_own_can_be_named_in_a_manifest() -> None:
    for one in list_system_resources():
        assert re.fullmatch(NAME_PATTERN, one.name), one.name
