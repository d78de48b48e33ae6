"""What every engine promises about templates, sightings, what nodes hold, and first sights."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.fakes.identities import DOMAIN
from tests.fakes.stores import (
    DAY,
    ENGINES,
    HOUR,
    NOW,
    SECOND,
    make_certificate,
    make_instance,
    make_named,
    make_node,
    make_url,
    read,
    seal_all,
    transact,
)
from tests.fakes.templates import make_template
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Conflict, Refused, TrothError
from troth.core.ids import IdentityId, NodeId, RequestId
from troth.identity.attendance import Phase, Sighting
from troth.identity.identity import State
from troth.identity.template_plan import StoredTemplate
from troth.live.snapshot import Seed, Snapshot
from troth.operations.call import Call, Caller
from troth.operations.sight import SightWorkload
from troth.store.engine import open_store
from troth.store.records import CertificateKind, format_serial
from troth.store.sealer import Sealer
from troth.store.templates import ReadTemplates
from troth.wire.api import templates as wire


@pytest.fixture(params=ENGINES)
def store(request, tmp_path):
    store = open_store(make_url(request.param, tmp_path), clock=VirtualClock(NOW))
    yield store
    store.close()


def make_sighting(name="a", **changes):
    made = Sighting(
        identity_id=IdentityId(f"idn_{name}"),
        template="batch",
        binding="ab" * 32,
        node_id=NodeId("nod_1"),
        phase=Phase.ATTENDED,
        seen_at=NOW,
        due_at=NOW + DAY,
        ends_at=NOW + 365 * DAY,
        span=7 * DAY,
        grace=HOUR,
        created_at=NOW,
    )
    return replace(made, **changes)


def _add(store, *sightings, **identity):
    def add(tx):
        for sighting in sightings:
            name = sighting.identity_id.removeprefix("idn_")
            tx.identities.add(make_named(name, template="batch", **identity))
            tx.sightings.add(sighting)

    transact(store, add)


def test_a_template_comes_back_as_it_was(store):
    template = make_template(
        "batch",
        "unix:uid:1-9",
        "unix:path:/opt/ü */**",
        naming="{node}/{uid}/{path}",
        nodes=("*", "web-1"),
        labels={"team": "ünïcode ' \" \\"},
        needs_approval=True,
        limit=5,
        unattended_after=timedelta(hours=1, seconds=1),
    )
    transact(store, lambda tx: tx.templates.add(template, NOW))
    assert read(store, lambda tx: tx.templates.find("batch")) == StoredTemplate(template, 1)
    assert read(store, lambda tx: tx.templates.find("other")) is None


def test_templates_by_node_and_prefix(store):
    here = make_template("here")
    everywhere = make_template("everywhere", nodes=("*",))
    transact(store, lambda tx: [tx.templates.add(t, NOW) for t in (here, everywhere)])

    def names(node):
        return [t.name for t in read(store, lambda tx: tx.templates.list_for_node(node))]

    assert names("local") == ["everywhere", "here"]
    assert names("web-1") == ["everywhere"]
    assert read(store, lambda tx: tx.templates.find_owner(frozenset({"/x", "/here"}))) == "here"
    assert read(store, lambda tx: tx.templates.find_owner(frozenset({"/x"}))) is None
    assert read(store, lambda tx: tx.templates.count()) == 2
    transact(store, lambda tx: tx.templates.remove("here"))
    assert names("local") == ["everywhere"]


def test_names_and_prefixes_of_templates_are_unique_and_revisions_count(store):
    template = make_template()
    transact(store, lambda tx: tx.templates.add(template, NOW))
    for other in (template, make_template("other", prefix="/batch")):
        with pytest.raises(Conflict):
            transact(store, lambda tx, other=other: tx.templates.add(other, NOW))
    stored = StoredTemplate(template, 1)
    wider = replace(template, limit=7)
    transact(store, lambda tx: tx.templates.save(stored, wider, NOW))
    assert read(store, lambda tx: tx.templates.find("batch")) == StoredTemplate(wider, 2)
    with pytest.raises(Conflict, match="changed by somebody else"):
        transact(store, lambda tx: tx.templates.save(stored, template, NOW))


def test_a_sighting_comes_back_and_changes(store):
    sighting = make_sighting()
    _add(store, sighting)
    assert read(store, lambda tx: tx.sightings.find("idn_a")) == sighting
    assert read(store, lambda tx: tx.identities.get("idn_a")).template == "batch"
    later = replace(sighting, phase=Phase.EXPIRED, due_at=NOW + 9 * DAY, span=DAY)
    transact(store, lambda tx: tx.sightings.save(later))
    assert read(store, lambda tx: tx.sightings.find("idn_a")) == later
    with pytest.raises(TrothError):
        transact(store, lambda tx: tx.sightings.save(make_sighting("nobody")))


def test_the_latest_sighting_of_a_workload(store):
    old = make_sighting("a", phase=Phase.RETIRED)
    new = make_sighting("b", created_at=NOW + SECOND)
    _add(store, old, new, make_sighting("c", binding="cd" * 32))

    def latest(template, binding):
        return read(store, lambda tx: tx.sightings.find_latest(template, binding))

    assert latest("batch", "ab" * 32) == new
    assert latest("other", "ab" * 32) is None


def test_what_is_due_and_how_many_there_are(store):
    rows = [
        make_sighting("a", due_at=NOW - SECOND),
        make_sighting("b", due_at=NOW - HOUR, phase=Phase.EXPIRED),
        make_sighting("c", due_at=NOW - HOUR, phase=Phase.RETIRED),
        make_sighting("d", due_at=NOW + SECOND, node_id=NodeId("nod_2")),
        make_sighting("e", due_at=NOW - HOUR, phase=Phase.ENDED, created_at=NOW - DAY),
    ]
    _add(store, *rows)

    def due(limit):
        found = read(store, lambda tx: tx.sightings.due(NOW, limit))
        return [one.identity_id for one in found]

    assert due(9) == ["idn_b", "idn_a"]
    assert due(1) == ["idn_b"]
    assert read(store, lambda tx: tx.sightings.count_in(Phase.ATTENDED)) == 2
    assert read(store, lambda tx: tx.sightings.list_in(Phase.EXPIRED, 9)) == [rows[1]]
    assert read(store, lambda tx: tx.sightings.count_since("nod_1", NOW - SECOND)) == 3
    assert read(store, lambda tx: tx.sightings.count_since("nod_1", NOW)) == 0


def test_identities_of_templates_do_not_expire_like_others(store):
    transact(store, lambda tx: tx.identities.add(make_named("plain", expires_at=NOW)))
    _add(store, make_sighting("a"), expires_at=NOW)
    found = read(store, lambda tx: tx.identities.due_to_expire(NOW, 9))
    assert [identity.name for identity in found] == ["plain"]
    assert read(store, lambda tx: tx.identities.count_of_template("batch")) == 1
    page = read(store, lambda tx: tx.identities.page(template="batch"))
    assert [identity.name for identity in page] == ["a"]


def test_what_nobody_uses(store):
    def add(tx):
        for name in ("idle", "used", "young", "held"):
            created = NOW if name == "young" else NOW - 9 * DAY
            state = State.SUSPENDED if name == "held" else State.ACTIVE
            tx.identities.add(make_named(name, created_at=created, state=state))
        tx.instances.upsert(make_instance(identity_id=IdentityId("idn_used")))
        old = NOW - 8 * DAY
        tx.instances.upsert(
            make_instance(2, identity_id=IdentityId("idn_idle"), first_seen=old, last_seen=old)
        )

    transact(store, add)
    _add(store, make_sighting("a"), make_sighting("b", phase=Phase.UNATTENDED))
    page = read(store, lambda tx: tx.identities.page(unattended_since=NOW - DAY))
    assert [identity.name for identity in page] == ["b", "idle"]


def test_intruders_of_a_prefix(store):
    def add(tx):
        for name in ("batch", "batch.inner", "batcher", "batch-x"):
            tx.identities.add(make_named(name))
        tx.identities.add(make_named("gone.x", state=State.RETIRED))

    transact(store, add)

    def find(path, name, template="batch"):
        root = f"spiffe://{DOMAIN}{path}"
        found = read(store, lambda tx: tx.identities.find_intruder(root, name, template))
        return None if found is None else found.name

    assert find("/batch", "zzz") == "batch"
    assert find("/zzz", "batch") in ("batch", "batch.inner")
    assert find("/bat", "bat") is None
    assert find("/batcher", "zzz") == "batcher"
    assert find("/gone", "gone") is None
    _add(store, make_sighting("mine"))
    assert find("/mine", "mine") is None
    assert find("/mine", "mine", "other") == "mine"


def test_what_is_held_on_a_node(store):
    def add(tx):
        tx.identities.add(make_named("a", state=State.QUARANTINED, nodes=("web-1",)))
        tx.identities.add(make_named("b", state=State.SUSPENDED, nodes=("*",)))
        tx.identities.add(make_named("c", nodes=("web-1",)))

    transact(store, add)

    def held(node):
        states = (State.QUARANTINED, State.SUSPENDED)
        found = read(store, lambda tx: tx.identities.list_held_on(node, states))
        return sorted(identity.name for identity in found)

    assert held("web-1") == ["a", "b"]
    assert held("web-2") == ["b"]


NODES = ("web-1", "web-2", "web-3")


def open_sight(store, *templates):
    """The operation, on a store with three nodes; and a way to call it as one of them."""

    def prepare(tx):
        for number, name in enumerate(NODES, 1):
            tx.nodes.add(make_node(name))
            certificate = make_certificate(
                number,
                kind=CertificateKind.NODE,
                node_id=NodeId(f"nod_{name}"),
                identity_id=None,
                instance_id=None,
            )
            tx.certificates.add_intended(certificate)
        for template in templates:
            tx.templates.add(template, NOW)

    transact(store, prepare)
    clock = VirtualClock(NOW)
    snapshot = Snapshot(clock, 10 * HOUR)
    snapshot.load(Seed(epoch=0, cut_off={}, revoked={}))
    operation = SightWorkload(store, clock, SeededEntropy(1), snapshot, DOMAIN)

    async def sight(node, *selectors):
        caller = Caller(
            f"spiffe://{DOMAIN}/troth/node/{node}",
            frozenset({"node"}),
            NodeId(f"nod_{node}"),
            serial=format_serial(NODES.index(node) + 1),
        )
        body = wire.SightWorkload(selectors=list(selectors))
        return await operation(Call(caller, RequestId("req_1"), body))

    return sight


async def gather(calls):
    return await asyncio.gather(*calls, return_exceptions=True)


def test_nodes_that_meet_one_workload_at_once_make_one_identity(store):
    template = make_template(nodes=("*",), naming="{uid}")
    sight = open_sight(store, template)
    calls = [sight(node, "unix:uid:1500") for node in NODES for _ in range(4)]
    met = asyncio.run(gather(calls))
    failures = [one for one in met if isinstance(one, BaseException)]
    assert not failures
    assert len({one.identity_id for one in met}) == 1
    identity = read(store, lambda tx: tx.identities.get_named("batch.1500"))
    assert sorted(identity.nodes) == sorted(NODES)
    seal = Sealer(store, clock=store.clock, holder="test")
    asyncio.run(seal_all(seal))
    assert read(store, lambda tx: tx.journal.head()) == 3, (
        "registered once, changed for each further node"
    )


def test_a_max_holds_however_many_ask_at_once(store):
    template = make_template(nodes=("*",), limit=3)
    sight = open_sight(store, template)
    calls = [sight(node, f"unix:uid:{1000 + n}") for n in range(4) for node in NODES]
    met = asyncio.run(gather(calls))
    refused = [one for one in met if isinstance(one, BaseException)]
    assert all(isinstance(one, Refused) for one in refused), refused
    assert len(met) - len(refused) == 3
    assert read(store, lambda tx: tx.identities.count_of_template("batch")) == 3


def test_another_workload_never_gets_a_name_that_is_taken(store):
    sight = open_sight(store, make_template(nodes=("*",), naming="{uid}"))
    other = make_named("batch.1500")
    transact(store, lambda tx: tx.identities.add(other))
    with pytest.raises(Refused, match="belongs to another workload"):
        asyncio.run(sight("web-1", "unix:uid:1500"))
    assert read(store, lambda tx: tx.identities.get_named("batch.1500")) == other


def test_what_was_read_before_is_not_parsed_again(store):
    batch, other = make_template(), make_template("other", nodes=("*",))
    transact(store, lambda tx: [tx.templates.add(one, NOW) for one in (batch, other)])
    known = ReadTemplates()
    first = read(store, lambda tx: tx.templates.list(known))
    assert first == read(store, lambda tx: tx.templates.list())
    again = read(store, lambda tx: tx.templates.list(known))
    assert all(a is b for a, b in zip(first, again, strict=True))
    (held,) = read(store, lambda tx: tx.templates.list_for_node("edge", known))
    assert held is first[1].template

    wider = replace(batch, limit=5)
    transact(store, lambda tx: tx.templates.save(first[0], wider, NOW))
    changed = read(store, lambda tx: tx.templates.list(known))
    assert changed[0] == StoredTemplate(wider, 2)
    assert changed[1] is first[1]


def test_a_template_of_the_same_name_is_another_one(store):
    known = ReadTemplates(capacity=1)
    for made in (make_template(), make_template(limit=7), make_template("other")):
        transact(store, lambda tx, made=made: tx.templates.add(made, NOW))
        assert read(store, lambda tx: tx.templates.list(known)) == [StoredTemplate(made, 1)]
        transact(store, lambda tx, made=made: tx.templates.remove(made.name))


def test_the_versions_of_a_node_s_identities_are_those_of_its_rows(store):
    made = [
        make_named("web", nodes=("edge",), updated_at=NOW),
        make_named("api", nodes=("*",), revision=4, updated_at=NOW + SECOND),
        make_named("old", nodes=("edge",), state=State.RETIRED),
        make_named("far", nodes=("other",)),
    ]
    transact(store, lambda tx: tx.identities.add_all(made))
    found = read(store, lambda tx: tx.identities.list_versions("edge"))
    assert list(found) == ["idn_api", "idn_web"]
    hosted = read(store, lambda tx: tx.identities.for_node("edge"))
    assert list(found) == [one.id for one in hosted]
    assert found["idn_api"][0] == 4
    assert found["idn_api"][1] - found["idn_web"][1] == 1_000_000
    later = replace(made[0], updated_at=NOW + 2 * SECOND)  # as in a database that was set back
    transact(store, lambda tx: tx.identities.save(later, later.revision))
    assert read(store, lambda tx: tx.identities.list_versions("edge")) != found
