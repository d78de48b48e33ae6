"""What every engine promises about identities, instances, nodes, tokens and bookkeeping."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.fakes.stores import (
    DAY,
    ENGINES,
    HOUR,
    NOW,
    SECOND,
    make_instance,
    make_named,
    make_node,
    make_token,
    make_url,
    read,
    transact,
)
from troth.core.clock import VirtualClock
from troth.core.errors import Conflict, NotFound, Refused
from troth.identity.identity import Kind, State
from troth.identity.selectors import Selector
from troth.store import identities, nodes
from troth.store.engine import open_store
from troth.store.instances import CHUNK
from troth.store.records import NodeState

MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(params=ENGINES)
def store(request, tmp_path):
    store = open_store(make_url(request.param, tmp_path), clock=VirtualClock(NOW))
    yield store
    store.close()


def _add(store, *found):
    def add(tx):
        for identity in found:
            tx.identities.add(identity)

    transact(store, add)


def _names(store, **how):
    return [i.name for i in read(store, lambda tx: tx.identities.page(**how))]


def test_an_identity_comes_back_as_it_was(store):
    full = make_named(
        "api",
        kind=Kind.AGENT,
        labels={"env": "prod", "team": "ünïcode ' \" \\"},
        selectors=(Selector("unix:path", "/a:b/c"), Selector("unix:uid", "7")),
        nodes=("*", "n-1"),
        dns_names=(),
        x509_ttl=timedelta(minutes=7, microseconds=1),
        expires_at=NOW + 400 * DAY + MICROSECOND,
        state_reason="because",
        managed=False,
        revision=41,
    )
    _add(store, full)
    assert read(store, lambda tx: tx.identities.get(full.id)) == full
    assert read(store, lambda tx: tx.identities.find(full.id)) == full
    assert read(store, lambda tx: tx.identities.get_named("api")) == full


def test_an_unknown_identity_is_none_or_not_found(store):
    assert read(store, lambda tx: tx.identities.find("idn_0")) is None
    assert read(store, lambda tx: tx.identities.find_named("ghost")) is None
    with pytest.raises(NotFound, match="idn_0"):
        read(store, lambda tx: tx.identities.get("idn_0"))
    with pytest.raises(NotFound, match="identity ls"):
        read(store, lambda tx: tx.identities.get_named("ghost"))


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (make_named("web", id="idn_api"), "The identity id idn_api is taken"),
        (make_named("api", id="idn_2", spiffe_id=make_named("b").spiffe_id), "The name 'api'"),
        (make_named("web", spiffe_id=make_named("api").spiffe_id), "The path '/api' is taken"),
    ],
)
def test_what_is_taken_is_a_conflict_that_names_the_field(store, other, sentence):
    _add(store, make_named("api"))
    with pytest.raises(Conflict, match=sentence):
        _add(store, other)
    free = make_named("free", id="idn_free")
    _add(store, free)
    if other.id != "idn_api":
        with pytest.raises(Conflict, match=sentence):
            transact(store, lambda tx: tx.identities.save(replace(other, id=free.id), 1))
    assert _names(store) == ["api", "free"]


def test_the_retired_give_their_name_and_path_free(store):
    old = make_named("api", state=State.RETIRED, updated_at=NOW)
    older = make_named("api", id="idn_0", state=State.RETIRED, updated_at=NOW - DAY)
    _add(store, older, old)
    assert read(store, lambda tx: tx.identities.get_named("api")) == old
    living = make_named("api", id="idn_9", updated_at=NOW - 9 * DAY)
    _add(store, living)
    assert read(store, lambda tx: tx.identities.get_named("api")) == living
    with pytest.raises(Conflict, match="is taken by another"):
        transact(store, lambda tx: tx.identities.save(replace(old, state=State.ACTIVE), 1))


def test_save_demands_the_revision_that_was_read(store):
    first = make_named("api")
    _add(store, first)
    second = replace(first, owner="new", revision=2)
    transact(store, lambda tx: tx.identities.save(second, 1))
    assert read(store, lambda tx: tx.identities.get(first.id)) == second
    with pytest.raises(Conflict, match="changed by somebody else"):
        transact(store, lambda tx: tx.identities.save(replace(first, owner="third"), 1))
    assert read(store, lambda tx: tx.identities.get(first.id)) == second
    with pytest.raises(NotFound):
        transact(store, lambda tx: tx.identities.save(make_named("ghost"), 1))


def test_pages_cover_everything_once_even_when_names_repeat(store):
    retired = [make_named("b", id=f"idn_{n}", state=State.RETIRED) for n in range(5)]
    _add(store, make_named("a"), *retired, make_named("b"), make_named("c"))
    seen, after = [], None
    while page := read(store, lambda tx, after=after: tx.identities.page(after=after, limit=2)):
        assert len(page) <= 2
        seen += [i.id for i in page]
        after = identities.mark_page(page[-1])
    assert len(seen) == len(set(seen)) == 8
    assert _names(store, after="a") == ["b"] * 6 + ["c"]


def test_pages_filter_by_state_kind_and_text(store):
    _add(
        store,
        make_named("api", purpose="Takes CARDS"),
        make_named("batch", kind=Kind.JOB, owner="data_team"),
        make_named("old", state=State.RETIRED),
    )
    assert _names(store, state=State.ACTIVE) == ["api", "batch"]
    assert _names(store, kind=Kind.JOB) == ["batch"]
    assert _names(store, text="cards") == ["api"]
    assert _names(store, text="data_") == ["batch"]
    assert _names(store, text="%") == []
    assert _names(store, text="example.org/OLD") == ["old"]
    assert _names(store, state=State.RETIRED, kind=Kind.JOB) == []


def test_a_node_gets_what_names_it_or_every_node(store):
    _add(
        store,
        make_named("both", nodes=("n1", "*")),
        make_named("mine", nodes=("n1", "n2")),
        make_named("other", nodes=("n2",)),
        make_named("everywhere", nodes=("*",), state=State.QUARANTINED),
        make_named("proposed", nodes=("n1",), state=State.PROPOSED),
        make_named("retired", nodes=("n1",), state=State.RETIRED),
        make_named("asleep", nodes=("n1",), state=State.SUSPENDED),
    )

    def hosted(node):
        return [i.name for i in read(store, lambda tx: tx.identities.for_node(node))]

    assert hosted("n1") == ["asleep", "both", "everywhere", "mine"]
    assert hosted("n3") == ["both", "everywhere"]
    moved = replace(make_named("mine", nodes=("n3",)), revision=2)
    transact(store, lambda tx: tx.identities.save(moved, 1))
    assert hosted("n1") == ["asleep", "both", "everywhere"]
    assert hosted("n3") == ["both", "everywhere", "mine"]
    transact(store, lambda tx: tx.identities.save(replace(moved, state=State.RETIRED), 2))
    assert hosted("n3") == ["both", "everywhere"]


def test_managed_due_and_counted(store):
    _add(
        store,
        make_named("a", expires_at=NOW),
        make_named("b", expires_at=NOW - SECOND, managed=False),
        make_named("c", expires_at=NOW + MICROSECOND),
        make_named("d", expires_at=NOW - DAY, state=State.RETIRED),
    )

    def names(function):
        return [i.name for i in read(store, function)]

    assert names(lambda tx: tx.identities.list_managed(without=(), limit=None)) == ["a", "c"]
    assert names(lambda tx: tx.identities.list_managed(without=(), limit=1)) == ["a"]
    assert names(lambda tx: tx.identities.list_managed(without={"a"}, limit=9)) == ["c"]
    assert names(lambda tx: tx.identities.list_named(["b", "a", "nobody"])) == ["a", "b"]
    assert names(lambda tx: tx.identities.due_to_expire(NOW, 10)) == ["b", "a"]
    assert names(lambda tx: tx.identities.due_to_expire(NOW, 1)) == ["b"]
    counts = read(store, lambda tx: tx.identities.count_by_state())
    assert counts == dict.fromkeys(State, 0) | {State.ACTIVE: 3, State.RETIRED: 1}


def test_a_report_never_unlocks_an_instance(store):
    _add(store, make_named("api"))
    first = make_instance()
    assert transact(store, lambda tx: tx.instances.upsert(first)) == first
    transact(store, lambda tx: tx.instances.set_locked(first.id, True, "odd"))
    report = make_instance(pid=99, evidence=(), first_seen=NOW + DAY, last_seen=NOW + DAY)
    stored = transact(store, lambda tx: tx.instances.upsert(report))
    assert stored == replace(report, first_seen=NOW, locked=True, locked_reason="odd")
    assert read(store, lambda tx: tx.instances.get(first.id)) == stored
    transact(store, lambda tx: tx.instances.upsert(replace(report, last_seen=NOW)))
    assert read(store, lambda tx: tx.instances.get(first.id)).last_seen == NOW + DAY
    transact(store, lambda tx: tx.instances.set_locked(first.id, False, ""))
    assert not read(store, lambda tx: tx.instances.get(first.id)).locked


def test_an_instance_belongs_to_one_identity_and_node_for_good(store):
    _add(store, make_named("api"), make_named("web"))
    transact(store, lambda tx: tx.instances.upsert(make_instance()))
    for change in ({"identity_id": "idn_web"}, {"node_id": "nod_2"}):
        with pytest.raises(Conflict, match="another identity or node"):
            transact(store, lambda tx, c=change: tx.instances.upsert(make_instance(**c)))
    with pytest.raises(Conflict, match="doesn't exist"):
        transact(store, lambda tx: tx.instances.upsert(make_instance(2, identity_id="idn_0")))


def test_many_instances_are_reported_at_once(store):
    _add(store, make_named("api"), make_named("web"))
    known = make_instance(1, last_seen=NOW + DAY)
    transact(store, lambda tx: tx.instances.upsert(known))
    transact(store, lambda tx: tx.instances.set_locked(known.id, True, "odd"))
    many = [make_instance(n, pid=7, first_seen=NOW + HOUR) for n in range(CHUNK + 2)]
    again = replace(many[2], pid=8)
    transact(store, lambda tx: tx.instances.upsert_all([*many, again]))
    ids = [i.id for i in many]
    found = read(store, lambda tx: [tx.instances.get(i) for i in ids])
    kept = replace(many[1], first_seen=NOW, last_seen=NOW + DAY, locked=True, locked_reason="odd")
    assert found == [many[0], kept, again, *many[3:]]
    assert read(store, lambda tx: tx.instances.list_locked(known.node_id)) == {known.id}
    assert read(store, lambda tx: tx.instances.list_locked("nod_x")) == frozenset()
    soon, later = (replace(again, last_seen=again.last_seen + d) for d in (SECOND, SECOND * 10))
    for seen, stored in ((soon, again), (later, later), (soon, later)):
        transact(store, lambda tx, seen=seen: tx.instances.upsert_all([seen]))
        assert read(store, lambda tx: tx.instances.get(again.id)) == stored
    stranger = make_instance(1, node_id="nod_2")
    with pytest.raises(Conflict, match="another identity or node"):
        transact(store, lambda tx: tx.instances.upsert_all([make_instance(9999), stranger]))
    assert read(store, lambda tx: tx.instances.find("ins_9999")) is None
    transact(store, lambda tx: tx.instances.upsert_all([]))


def test_many_identities_are_found_at_once(store):
    api, web = make_named("api"), make_named("web")
    _add(store, api, web)
    found = read(store, lambda tx: tx.identities.find_all([api.id, "idn_ghost", web.id]))
    assert found == {i.id: read(store, lambda tx, i=i: tx.identities.get(i.id)) for i in (api, web)}
    assert read(store, lambda tx: tx.identities.find_all([])) == {}


def test_an_unknown_instance_is_none_or_not_found(store):
    assert read(store, lambda tx: tx.instances.find("ins_0")) is None
    with pytest.raises(NotFound, match="ins_0"):
        read(store, lambda tx: tx.instances.get("ins_0"))
    with pytest.raises(NotFound, match="ins_0"):
        transact(store, lambda tx: tx.instances.set_locked("ins_0", True, ""))


def test_instances_of_identities_and_nodes(store):
    _add(store, make_named("api"), make_named("web"), make_named("idle"))
    copies = [
        make_instance(1, last_seen=NOW),
        make_instance(2, last_seen=NOW + SECOND, node_id="nod_2"),
        make_instance(3, identity_id="idn_web", locked=True, locked_reason="x"),
        make_instance(4, identity_id="idn_web", node_id="nod_2", locked=True),
    ]
    transact(store, lambda tx: [tx.instances.upsert(c) for c in copies])
    assert read(store, lambda tx: tx.instances.of_identity("idn_api")) == [copies[1], copies[0]]
    assert read(store, lambda tx: tx.instances.locked_for_node("nod_1")) == [copies[2]]

    asked = ["idn_api", "idn_web", "idn_idle"]
    seen = read(store, lambda tx: tx.instances.last_seen_by_identity(asked))
    assert seen == {"idn_api": NOW + SECOND, "idn_web": NOW}
    counts = read(store, lambda tx: tx.instances.count_by_identity(asked))
    assert counts == {"idn_api": 2, "idn_web": 2}
    assert read(store, lambda tx: tx.instances.last_seen_by_identity([])) == {}


def test_touching_moves_forward_only_and_may_be_bound_to_a_node(store):
    _add(store, make_named("api"))
    many = [make_instance(n, node_id=f"nod_{n % 2}") for n in range(CHUNK + 2)]
    transact(store, lambda tx: [tx.instances.upsert(c) for c in many])
    ids = [c.id for c in many]
    transact(store, lambda tx: tx.instances.touch(ids, NOW + HOUR, of_node="nod_1"))
    transact(store, lambda tx: tx.instances.touch([*ids, "ins_ghost"], NOW + SECOND))
    found = read(store, lambda tx: [tx.instances.get(i).last_seen for i in ids])
    assert found == [NOW + (HOUR if n % 2 else SECOND) for n in range(CHUNK + 2)]


def test_purging_instances_spares_the_locked(store):
    _add(store, make_named("api"))
    copies = [make_instance(n, last_seen=NOW + n * SECOND) for n in range(3)]
    copies.append(make_instance(9, locked=True))
    transact(store, lambda tx: [tx.instances.upsert(c) for c in copies])
    assert transact(store, lambda tx: tx.instances.purge(NOW + 2 * SECOND, 1)) == 1
    assert transact(store, lambda tx: tx.instances.purge(NOW + 2 * SECOND, 9)) == 1
    assert transact(store, lambda tx: tx.instances.purge(NOW + 2 * SECOND, 9)) == 0
    left = read(store, lambda tx: tx.instances.of_identity("idn_api"))
    assert {c.id for c in left} == {"ins_2", "ins_9"}


def test_nodes_are_unique_by_name_among_the_active(store):
    evicted = make_node(id="nod_0", state=NodeState.EVICTED)
    node = make_node()
    transact(store, lambda tx: tx.nodes.add(evicted))
    assert read(store, lambda tx: tx.nodes.find_named("local")) == evicted
    transact(store, lambda tx: tx.nodes.add(node))
    assert read(store, lambda tx: tx.nodes.find_named("local")) == node
    assert read(store, lambda tx: tx.nodes.get_named("local")) == node
    with pytest.raises(Conflict, match="'local' is taken by an active node"):
        transact(store, lambda tx: tx.nodes.add(make_node(id="nod_2")))
    with pytest.raises(Conflict, match="'local' is taken by an active node"):
        transact(store, lambda tx: tx.nodes.save(replace(evicted, state=NodeState.ACTIVE)))
    with pytest.raises(Conflict, match="id nod_local is taken"):
        transact(store, lambda tx: tx.nodes.add(make_node("other", id="nod_local")))
    assert read(store, lambda tx: tx.nodes.count()) == 1


def test_nodes_are_saved_touched_and_paged(store):
    added = [make_node(name) for name in ("c", "a", "b")]
    transact(store, lambda tx: [tx.nodes.add(node) for node in added])
    gone = replace(added[0], state=NodeState.EVICTED, expires_at=NOW + HOUR)
    transact(store, lambda tx: tx.nodes.save(gone))
    assert read(store, lambda tx: tx.nodes.get(gone.id)) == gone
    transact(store, lambda tx: tx.nodes.touch("nod_a", NOW + SECOND))
    transact(store, lambda tx: tx.nodes.touch("nod_a", NOW))
    assert read(store, lambda tx: tx.nodes.get("nod_a")).last_seen == NOW + SECOND

    def names(**how):
        return [n.name for n in read(store, lambda tx: tx.nodes.page(**how))]

    assert names() == ["a", "b", "c"]
    assert names(state=NodeState.ACTIVE, limit=1) == ["a"]
    assert names(after="a") == ["b", "c"]
    assert names(after=nodes.mark_page(make_node("b"))) == ["c"]


def test_an_unknown_node_is_none_or_not_found(store):
    assert read(store, lambda tx: tx.nodes.find("nod_0")) is None
    assert read(store, lambda tx: tx.nodes.find_named("ghost")) is None
    for ask in (
        lambda tx: tx.nodes.get("nod_0"),
        lambda tx: tx.nodes.get_named("nod_0"),
        lambda tx: tx.nodes.save(make_node("nod_0", id="nod_0")),
    ):
        with pytest.raises(NotFound, match="nod_0"):
            transact(store, ask)


def test_a_join_token_is_taken_once_and_in_time(store):
    token = make_token(expires_at=NOW + HOUR)
    transact(store, lambda tx: tx.join_tokens.add(token))
    with pytest.raises(Conflict, match="id is taken"):
        transact(store, lambda tx: tx.join_tokens.add(token))
    until = NOW + 3 * HOUR

    def take(token_id, now, key_hash, used_by):
        return transact(
            store, lambda tx: tx.join_tokens.take(token_id, now, key_hash, until, used_by)
        )

    assert not take(token.id, NOW + HOUR, "aa", "nod_1")  # it has expired
    assert not take("jtk_0", NOW, "aa", "nod_1")  # there is none
    assert read(store, lambda tx: tx.join_tokens.find(token.id)) == token
    assert take(token.id, NOW + SECOND, "aa", "nod_1")
    assert not take(token.id, NOW + 2 * SECOND, "bb", "nod_2")
    assert read(store, lambda tx: tx.join_tokens.find(token.id)) == replace(
        token, used_at=NOW + SECOND, used_by="nod_1", key_hash="aa", expires_at=until
    )


def test_a_join_token_whose_taking_is_rolled_back_is_still_good(store):
    def take_and_fail(tx):
        assert tx.join_tokens.take("jtk_1", NOW, "aa", NOW + HOUR, "nod_1")
        raise Refused("the request was no good")

    transact(store, lambda tx: tx.join_tokens.add(make_token()))
    with pytest.raises(Refused, match="no good"):
        transact(store, take_and_fail)
    assert transact(store, lambda tx: tx.join_tokens.take("jtk_1", NOW, "aa", NOW + HOUR, "nod_1"))


def test_join_tokens_end_with_their_node_used_or_not(store):
    tokens = [make_token(1), make_token(2), make_token(3, node_name="other")]
    transact(store, lambda tx: [tx.join_tokens.add(t) for t in tokens])
    transact(store, lambda tx: tx.join_tokens.take("jtk_1", NOW, "aa", NOW + HOUR, "nod_1"))
    transact(store, lambda tx: tx.join_tokens.end_for_node("local", NOW + SECOND))
    ends = [read(store, lambda tx, n=n: tx.join_tokens.find(f"jtk_{n}")).expires_at for n in (1, 2)]
    assert ends == [NOW + SECOND, NOW + SECOND]
    assert read(store, lambda tx: tx.join_tokens.find("jtk_3")) == tokens[2]
    assert transact(store, lambda tx: tx.join_tokens.void(NOW + SECOND)) == 1


def test_join_tokens_are_listed_while_good_and_purged_once_over(store):
    tokens = [make_token(n, expires_at=NOW + n * HOUR) for n in (3, 1, 2)]
    transact(store, lambda tx: [tx.join_tokens.add(t) for t in tokens])
    transact(store, lambda tx: tx.join_tokens.take("jtk_2", NOW, "aa", NOW + 2 * HOUR, "nod_1"))
    assert [t.id for t in read(store, lambda tx: tx.join_tokens.list(NOW))] == ["jtk_1", "jtk_3"]
    assert transact(store, lambda tx: tx.join_tokens.purge(NOW + 2 * HOUR)) == 2
    assert read(store, lambda tx: tx.join_tokens.find("jtk_1")) is None
    assert read(store, lambda tx: tx.join_tokens.find("jtk_2")) is None


def test_a_cursor_never_goes_back(store):
    assert read(store, lambda tx: tx.cursors.get("c")) == 0
    transact(store, lambda tx: tx.cursors.save("c", 5))
    transact(store, lambda tx: tx.cursors.save("c", 5))
    with pytest.raises(Conflict, match="past 4 already"):
        transact(store, lambda tx: tx.cursors.save("c", 4))
    transact(store, lambda tx: tx.cursors.save("c", 6))
    assert read(store, lambda tx: (tx.cursors.get("c"), tx.cursors.get("d"))) == (6, 0)


def test_a_lease_is_held_renewed_lost_and_released(store):
    def take(holder, now):
        return transact(store, lambda tx: tx.leases.take("l", holder, now, HOUR))

    assert take("a", NOW)
    assert not take("b", NOW + HOUR - MICROSECOND)
    assert take("a", NOW + SECOND)
    assert not take("b", NOW + HOUR)
    assert take("b", NOW + HOUR + SECOND)
    assert not take("a", NOW + HOUR + SECOND)
    assert not transact(store, lambda tx: tx.leases.release("l", "a"))
    assert transact(store, lambda tx: tx.leases.release("l", "b"))
    assert take("a", NOW)


def test_settings_are_set_and_set_again(store):
    assert read(store, lambda tx: tx.settings.get("k")) is None
    transact(store, lambda tx: tx.settings.set("k", ""))
    assert read(store, lambda tx: tx.settings.get("k")) == ""
    transact(store, lambda tx: tx.settings.set("k", "v"))
    assert read(store, lambda tx: tx.settings.get("k")) == "v"


def test_a_proof_is_taken_once(store):
    transact(store, lambda tx: tx.used_proofs.take("ab" * 32, NOW + SECOND))
    with pytest.raises(Refused, match="used before"):
        transact(store, lambda tx: tx.used_proofs.take("ab" * 32, NOW + HOUR))
    transact(store, lambda tx: tx.used_proofs.take("cd" * 32, NOW + HOUR))
    assert read(store, lambda tx: tx.used_proofs.is_used("ab" * 32))
    assert not read(store, lambda tx: tx.used_proofs.is_used("ef" * 32))


def test_of_ten_takers_of_a_proof_one_gets_it(store):
    def take(tx):
        tx.used_proofs.take("ab" * 32, NOW + SECOND)

    async def race():
        return await asyncio.gather(
            *(store.transact(take) for _ in range(10)), return_exceptions=True
        )

    outcomes = asyncio.run(race())
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [Refused] * 9


def test_proofs_are_forgotten_once_they_are_too_old(store):
    for number in range(5):
        digest = f"{number:064x}"
        transact(store, lambda tx, d=digest, n=number: tx.used_proofs.take(d, NOW + n * SECOND))
    assert transact(store, lambda tx: tx.used_proofs.purge(NOW + 3 * SECOND, 3)) == 3
    assert transact(store, lambda tx: tx.used_proofs.purge(NOW + 3 * SECOND, 3)) == 1
    assert read(store, lambda tx: tx.used_proofs.is_used(f"{4:064x}"))


def test_who_was_evicted_with_a_certificate_is_barred_until_readmitted(store):
    mark = "ab" * 32
    evicted = make_node("a", fingerprint=mark, state=NodeState.EVICTED)
    others = (
        make_node("b", fingerprint=mark),
        make_node("c", fingerprint=mark, state=NodeState.EVICTED, readmitted_at=NOW),
        make_node("d", fingerprint="cd" * 32, state=NodeState.EVICTED),
    )
    transact(store, lambda tx: [tx.nodes.add(node) for node in (evicted, *others)] and None)
    assert read(store, lambda tx: tx.nodes.list_barred(mark)) == [evicted]
    transact(store, lambda tx: tx.nodes.save(replace(evicted, readmitted_at=NOW)))
    assert read(store, lambda tx: tx.nodes.list_barred(mark)) == []
