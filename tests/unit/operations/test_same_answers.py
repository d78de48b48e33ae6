"""Server and service give the same answers with their rules, whatever the rules are."""

from __future__ import annotations

from contextlib import aclosing
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.fakes.house import FakeHouse, in_house
from tests.fakes.town import apply, document, identity
from troth.core.ids import RequestId
from troth.live.judge import Judge
from troth.live.policies import Policies
from troth.live.share import cut_share, find_includers, read_rules
from troth.operations.call import Caller
from troth.operations.decision import Asked, Subject
from troth.policy.explanation import explain
from troth.policy.inquiry import Inquiry, make_outside_party
from troth.wire.api.manifests import ManifestDocument
from troth.wire.api.rules import FollowPolicies, PolicyMessage, PolicySnapshot
from troth.wire.api.trust import AddEvidence

RAW = (
    "permit (principal, action, resource) when { context has request && "
    'context.request has transport && context.request.transport == "mtls" };'
)
SERVER = Caller("spiffe://example.org/server", frozenset({"workload"}))
PEOPLE = ("ada", "bob", "cyd", "dan")
ROLES = ("r0", "r1", "r2", "r3")
QUESTIONS = 120

CONDITIONS: tuple[Any, ...] = (
    {"trust.score": {"atLeast": 40}},
    {"trust.tier": {"atLeast": "medium"}},
    {"identity.environment": "prod"},
    {"identity.labels.team": ["red", "blue"]},
    {"request.segment": "office"},
    {"not": [{"request.transport": "plain"}]},
    {
        "request.time": {
            "days": ["thu", "fri"],
            "from": "00:00",
            "to": "18:00",
            "zone": "Europe/Berlin",
        }
    },
    {"resource.secret": True},
    {"any": [{"request.scopes": {"contains": ["read"]}}, {"identity.kind": "service"}]},
    {"delegation.depth": {"atMost": 1}},
)


def draw_town(random: Random, conditions: list[Any]) -> list[ManifestDocument]:
    """A random set of manifests, of which the identity `server` serves two resources of three."""

    def when() -> dict[str, Any]:
        chosen = random.sample(conditions, random.choice((0, 0, 1, 2)))
        return {"when": chosen} if chosen else {}

    def draw_resource(name: str, server: str, **spec: Any) -> ManifestDocument:
        if random.random() < 0.4:
            spec["environment"] = random.choice(("prod", "dev"))
        if random.random() < 0.3:
            spec["minimumTier"] = random.choice(("medium", "high"))
        actions = {"read": "Read", "write": "Write"}
        return document(
            "Resource",
            name,
            servers=[server],
            actions=actions,
            attributes={"secret": "boolean"},
            **spec,
        )

    documents = [
        draw_resource("files", "server", type="file"),
        draw_resource("secrets", "guard", type="file", pattern="secret-*"),
        draw_resource("mail", "server"),
        document("Segment", "office", networks=["10.1.0.0/16"]),
    ]
    names = ("files", "secrets", "mail")
    for number, name in enumerate(ROLES):
        spec: dict[str, Any] = {}
        if number and random.random() < 0.5:
            spec["includes"] = [random.choice(ROLES[:number])]
        if random.random() < 0.8 or not spec:
            spec["permissions"] = [
                {"resource": random.choice(names), "actions": [random.choice(("read", "*"))]}
                | when()
            ]
        documents.append(document("Role", name, **spec))
    for number in range(8):
        subjects: dict[str, Any] = random.choice(
            (
                {"roles": [random.choice(ROLES)]},
                {"identities": [random.choice(PEOPLE)]},
                {"anyone": True},
            )
        )
        spec = {
            "effect": random.choice(("permit", "permit", "forbid")),
            "subjects": subjects,
            "actions": random.choice((["read"], ["write"], ["*"])),
            "resources": [random.choice(names)],
        }
        if spec["effect"] == "permit" and random.random() < 0.3:
            spec["relaxes"] = ["environments"]
        documents.append(document("Policy", f"p{number}", **spec, **when()))
    return documents


def draw_question(random: Random) -> tuple[str, Inquiry]:
    told: dict[str, Any] = {"request": {}, "delegation": {"depth": random.randint(0, 2)}}
    if random.random() < 0.7:
        told["request"]["ip"] = ip_address(random.choice(("10.1.2.3", "192.0.2.1")))
    if random.random() < 0.7:
        told["request"]["transport"] = random.choice(("plain", "mtls"))
    if random.random() < 0.5:
        told["request"]["scopes"] = (random.choice(("read", "write")),)
    if random.random() < 0.5:
        told["resource"] = {"secret": random.random() < 0.5}
    type_, id_ = random.choice((("file", "a"), ("file", "secret-1"), ("mail", ""), ("none", "")))
    action = random.choice(("read", "write", "fly"))
    return random.choice((*PEOPLE, "nobody")), Inquiry(action, type_, id_, told)


async def hear(house: FakeHouse) -> Policies:
    """What a service knows, after a way over the wire."""
    known = Policies(house.clock)
    opened = house.dispatcher.open("policy.follow", SERVER, RequestId("r"), FollowPolicies())
    async with aclosing(opened) as values:  # type: ignore[type-var]
        line = msgspec.json.encode(await anext(values))
    message = msgspec.json.decode(line, type=PolicyMessage)
    assert isinstance(message, PolicySnapshot)
    known.take(message, house.clock.monotonic())
    return known


@pytest.mark.parametrize("seed", range(12))
def test_random_questions_have_the_same_answers(seed: int, tmp_path: Path) -> None:
    random = Random(seed)

    async def ask(house: FakeHouse) -> None:
        await apply(
            house,
            *draw_town(random, list(CONDITIONS)),
            identity("server", 1),
            identity("guard", 2),
            *(
                identity(
                    name,
                    10 + number,
                    *random.sample(ROLES, random.randint(0, 2)),
                    environment=random.choice(("prod", "dev")),
                )
                for number, name in enumerate(PEOPLE)
            ),
        )
        body = AddEvidence(
            name="ada", weight=-25, half_life=3600, kind="odd", origin="test", reason="a test"
        )
        await house.call("trust.add", body)
        await house.settle()
        known = (await hear(house)).known
        assert known is not None
        judge, now, permitted = Judge(), house.clock.now(), 0
        bundle = await house.parts.decider.read_bundle()
        for _ in range(QUESTIONS):
            name, inquiry = draw_question(random)
            there = await house.parts.decider.judge(Asked(Subject("identity", name), inquiry))
            served = there.judgement.resource
            party = known.parties.find(name)
            if party is None:
                assert not there.allowed
                continue
            here = judge.judge(known.book, party.make(known.book, now), inquiry, now)
            if served is not None and served.name not in known.served:
                assert here.resource is not None
                assert here.resource.name == served.name
                continue
            assert here.allowed == there.allowed, (name, inquiry)
            # Cedar names those that decided in any order.
            determining = there.judgement.decision.determining
            assert sorted(here.decision.determining) == sorted(determining)
            assert here.decision.valid_until == there.judgement.decision.valid_until
            assert here.decision.read == there.judgement.decision.read
            assert here.refusal == there.judgement.refusal
            if not here.refusal:
                mine = explain(known.book, here.decision, now)
                other = explain(bundle.rules, there.judgement.decision, now)
                assert (mine.missing, mine.unknown) == (other.missing, other.unknown)
            permitted += here.allowed
        assert permitted or seed

    in_house(ask)(tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_rules_are_the_same_after_the_way(seed: int, tmp_path: Path) -> None:
    async def compare(house: FakeHouse) -> None:
        await apply(
            house,
            *draw_town(Random(seed), list(CONDITIONS)),
            document(
                "Policy",
                "raw",
                cedar=RAW,
            ),
        )
        book = (await house.parts.decider.read_bundle()).rules
        served = ("files", "mail")
        share = cut_share(book, find_includers(book.roles.values()), served)
        again = read_rules(
            msgspec.json.decode(msgspec.json.encode(share.rules), type=type(share.rules))
        )
        for name in served:
            for action in ("read", "write"):
                wanted = book.index.find_scoped(name, action)
                found = again.index.find_scoped(name, action)
                assert [one.id for one in found] == [one.id for one in wanted]
                for one, other in zip(found, wanted, strict=True):
                    assert (one.condition, one.reads, one.subjects) == (
                        other.condition,
                        other.reads,
                        other.subjects,
                    )
                    assert (one.effect, one.cedar, one.expires) == (
                        other.effect,
                        other.cedar,
                        other.expires,
                    )
            assert again.resources[name] == book.resources[name]

    in_house(compare)(tmp_path)


@in_house
async def test_subjects_that_are_no_identities_are_known_too(house: FakeHouse) -> None:
    users = document(
        "Resource",
        "users",
        type="user",
        servers=["guard"],
        actions={"see": "See"},
        attributes={"level": "number"},
        instances=[{"id": "alice", "properties": {"level": 3}, "roles": ["r"]}],
    )
    await apply(
        house,
        users,
        document("Resource", "files", servers=["server"], actions={"read": "Read"}),
        document(
            "Role",
            "r",
            permissions=[
                {
                    "resource": "files",
                    "actions": ["read"],
                    "when": [{"subject.level": {"atLeast": 2}}],
                }
            ],
        ),
        identity("server", 1),
    )
    known = (await hear(house)).known
    assert known is not None
    judge, now = Judge(), house.clock.now()
    for name in ("alice", "mallory"):
        there = await house.parts.decider.judge(
            Asked(Subject("user", name), Inquiry("read", "files", ""))
        )
        party = make_outside_party(known.book, "user", name, {})
        here = judge.judge(known.book, party, Inquiry("read", "files", ""), now)
        assert here.allowed == there.allowed == (name == "alice")
