"""Plans: idempotent, told in words, and never a new SPIFFE ID for an old name."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.identities import DOMAIN, NOW, YEAR, make_identity, make_spec
from troth.core.errors import Invalid, Refused
from troth.core.ids import IdentityId
from troth.identity.identity import Identity, IdentitySpec, Kind, State
from troth.identity.lifecycle import move_identity
from troth.identity.plan import (
    Action,
    Plan,
    apply_spec,
    new_identity,
    plan_changes,
    spec_differs,
)
from troth.identity.selectors import Selector

LATER = NOW + timedelta(days=10)
UID_1, UID_2 = Selector("unix:uid", "1"), Selector("unix:uid", "2")
PROGRAM = Selector("unix:path", "/bin/pay")


def plan(
    specs: list[IdentitySpec], current: list[Identity], *, prune: bool = False, now=LATER
) -> Plan:
    return plan_changes(
        specs, current, prune=prune, trust_domain=DOMAIN, now=now, default_lifetime=YEAR
    )


def carry_out(made: Plan, current: list[Identity], now=LATER) -> list[Identity]:
    """What `manifest.apply` does to the store, in the plan's order."""
    assert made.refusals == ()
    state = {one.id: one for one in current}
    for change in made.changes:
        if change.action is Action.REMOVE:
            assert change.identity is not None
            state[change.identity.id] = move_identity(change.identity, "retire", "pruned", now)
        elif change.action is Action.CHANGE:
            assert change.identity is not None
            assert change.spec is not None
            state[change.identity.id] = apply_spec(change.identity, change.spec, now)
        elif change.action is Action.ADD:
            assert change.spec is not None
            made_id = IdentityId(f"idn_{len(state)}")
            state[made_id] = new_identity(
                change.spec, made_id, DOMAIN, now, YEAR, State.ACTIVE, True
            )
    return list(state.values())


def only(made: Plan):
    assert made.refusals == ()
    (change,) = made.changes
    return change


def test_a_new_identity_is_told_with_its_id_end_and_reach():
    change = only(plan([make_spec()], []))
    assert change.action is Action.ADD
    assert change.words == (
        "new service of payments@example.org in prod: Takes card payments",
        "becomes spiffe://example.org/payments-api until 2027-01-11 00:00 UTC",
        "processes with unix:uid:1001 on node local gain spiffe://example.org/payments-api",
    )


def test_a_new_identity_is_told_with_its_roles_and_delegates():
    change = only(plan([make_spec(roles=("teller", "auditor"), delegates=("desk",))], []))
    assert change.words[2:4] == ("roles: auditor, teller", "delegates: desk")


def test_a_new_identity_without_selectors_reaches_nobody():
    change = only(plan([make_spec(selectors=())], []))
    assert change.words[-1] == "no selectors: no process obtains it from an agent"


def test_the_same_spec_again_changes_nothing():
    change = only(plan([make_spec()], [make_identity()]))
    assert (change.action, change.words) == (Action.KEEP, ())
    assert plan([make_spec()], [make_identity()]).is_empty


def test_the_order_of_lists_is_no_change():
    before = make_identity(make_spec(selectors=(UID_1, PROGRAM), nodes=("a", "b")))
    assert not spec_differs(before, make_spec(selectors=(PROGRAM, UID_1), nodes=("b", "a")))


FIELDS = [
    ({"owner": "b@example.org"}, "owner: payments@example.org → b@example.org"),
    ({"purpose": "p"}, "purpose: Takes card payments → p"),
    ({"kind": Kind.JOB}, "kind: service → job"),
    ({"environment": "dev"}, "environment: prod → dev"),
    ({"hint": ""}, "hint: internal → none"),
    ({"labels": {"env": "dev"}}, "labels: + env=dev − env=prod"),
    ({"dns_names": ()}, "dnsNames: − payments.example.org"),
    ({"x509_ttl": timedelta(minutes=10)}, "ttl.x509: 1h → 10m"),
    ({"jwt_ttl": timedelta(minutes=1)}, "ttl.jwt: 5m → 1m"),
    (
        {"expires_at": NOW + timedelta(days=30)},
        "expires: 2027-01-01 00:00 UTC → 2026-01-31 00:00 UTC",
    ),
    (
        {"lifetime": timedelta(days=30)},
        "expires: 2027-01-01 00:00 UTC → 2026-01-31 00:00 UTC",
    ),
]


@pytest.mark.parametrize(("fields", "words"), FIELDS)
def test_each_field_is_told_and_applied(fields, words):
    before = make_identity()
    spec = make_spec(**fields)
    change = only(plan([spec], [before]))
    assert (change.action, change.words) == (Action.CHANGE, (words,))
    after = apply_spec(before, spec, LATER)
    assert (after.revision, after.updated_at) == (2, LATER)
    for name, value in fields.items():
        assert name == "lifetime" or getattr(after, name) == value
    assert not spec_differs(after, spec)


WHO = "spiffe://example.org/payments-api"
REACH = [
    (
        {"selectors": (UID_1,)},
        {"selectors": (UID_2,)},
        [
            "selectors: + unix:uid:2 − unix:uid:1",
            "processes with unix:uid:1 on node local, unless the new selectors match too, lose",
            "processes with unix:uid:2 on node local gain",
        ],
    ),
    (
        {"selectors": (UID_1,)},
        {"selectors": (UID_1, PROGRAM)},
        [
            "selectors: + unix:path:/bin/pay",
            "processes with unix:uid:1 on node local, but without unix:path:/bin/pay, lose",
        ],
    ),
    (
        {"selectors": (UID_1, PROGRAM)},
        {"selectors": (UID_1,)},
        [
            "selectors: − unix:path:/bin/pay",
            "processes with unix:uid:1 on node local, even without unix:path:/bin/pay, gain",
        ],
    ),
    (
        {"selectors": (UID_1,)},
        {"selectors": ()},
        ["selectors: − unix:uid:1", "processes with unix:uid:1 on node local lose"],
    ),
    (
        {"selectors": ()},
        {"selectors": (UID_1,)},
        ["selectors: + unix:uid:1", "processes with unix:uid:1 on node local gain"],
    ),
    (
        {"nodes": ("a", "b")},
        {"nodes": ("b", "c", "d")},
        [
            "nodes: + c + d − a",
            "processes with unix:uid:1001 on node a lose",
            "processes with unix:uid:1001 on nodes c and d gain",
        ],
    ),
    (
        {"nodes": ("a",)},
        {"nodes": ("*",)},
        ["nodes: + * − a", "processes with unix:uid:1001 on any attested node besides a gain"],
    ),
    (
        {"nodes": ("*",)},
        {"nodes": ("a",)},
        ["nodes: + a − *", "processes with unix:uid:1001 on nodes other than a lose"],
    ),
    ({"nodes": ("*",)}, {"nodes": ("*", "a")}, ["nodes: + a"]),
    (
        {"nodes": ("a",), "selectors": (UID_1,)},
        {"nodes": ("*",), "selectors": (UID_2,)},
        [
            "selectors: + unix:uid:2 − unix:uid:1",
            "nodes: + * − a",
            "processes with unix:uid:1 on node a, unless the new selectors match too, lose",
            "processes with unix:uid:2 on any attested node gain",
        ],
    ),
]


@pytest.mark.parametrize(("before", "after", "words"), REACH)
def test_who_gains_and_who_loses(before, after, words):
    change = only(plan([make_spec(**after)], [make_identity(make_spec(**before))]))
    told = [line.removesuffix(f" {WHO}") for line in change.words]
    assert told == words
    assert all(line.endswith(WHO) for line in change.words if " lose" in line or " gain" in line)


def test_access_of_a_quarantined_identity_waits_for_its_release():
    before = make_identity(state=State.QUARANTINED)
    change = only(plan([make_spec(selectors=())], [before]))
    assert change.words[-1].startswith("once it is no longer quarantined: processes with")
    assert apply_spec(before, make_spec(selectors=()), LATER).state is State.QUARANTINED


def test_renewing_an_expired_identity_gives_access_back():
    before = make_identity(expires_at=NOW + timedelta(days=1))
    kept = only(plan([make_spec()], [before]))
    assert kept.action is Action.KEEP
    assert kept.words == (
        "it has expired and obtains nothing; give it a later 'expires' to renew it",
    )
    change = only(plan([make_spec(expires_at=LATER + YEAR)], [before]))
    assert change.words[-1] == f"processes with unix:uid:1001 on node local gain {WHO}"


def test_an_absent_expiry_leaves_the_existing_one():
    before = make_identity(expires_at=NOW + timedelta(days=77))
    assert not spec_differs(before, make_spec())
    after = apply_spec(before, make_spec(owner="x"), LATER)
    assert after.expires_at == before.expires_at


def test_a_lifetime_counts_from_the_registration_so_time_changes_nothing():
    spec = make_spec(lifetime=timedelta(days=90))
    registered = carry_out(plan([spec], [], now=NOW), [], NOW)
    assert registered[0].expires_at == NOW + timedelta(days=90)
    assert plan([spec], registered, now=NOW + timedelta(days=60)).is_empty


def test_pruning_retires_and_not_pruning_leaves_alone():
    old = make_identity(make_spec("old"))
    kept = only(plan([], [old]))
    assert (kept.action, kept.words) == (
        Action.KEEP,
        ("left alone: it is in no manifest (use --prune to retire it)",),
    )
    gone = only(plan([], [old], prune=True))
    assert gone.action is Action.REMOVE
    assert gone.words == (
        "retired for good: it is in no manifest",
        "processes with unix:uid:1001 on node local lose spiffe://example.org/old",
    )


def test_what_was_registered_by_hand_is_no_business_of_prune():
    assert plan([], [make_identity(managed=False)], prune=True).changes == ()


def test_a_manifest_adopts_what_was_registered_by_hand():
    before = make_identity(managed=False)
    change = only(plan([make_spec()], [before]))
    assert change.action is Action.CHANGE
    assert change.words[0].startswith("adopted: ")
    after = apply_spec(before, make_spec(), LATER)
    assert after.managed
    assert after.revision == 2
    assert not spec_differs(after, make_spec())


def test_a_retired_name_can_be_registered_anew():
    retired = make_identity(state=State.RETIRED)
    change = only(plan([make_spec()], [retired], prune=True))
    assert change.action is Action.ADD
    assert change.identity is None


def test_a_refusal_shows_a_long_path_in_part():
    [refusal] = plan([make_spec(path="/" + "x" * 1900)], [make_identity()]).refusals
    assert "'/xxx" in refusal
    assert len(refusal) < 400


def test_the_path_of_an_identity_never_changes():
    made = plan([make_spec(path="/other")], [make_identity()])
    (refusal,) = made.refusals
    assert made.changes == ()
    assert "an identity keeps its SPIFFE ID" in refusal
    assert "'/payments-api' to '/other'" in refusal
    with pytest.raises(Refused, match="keeps its SPIFFE ID"):
        apply_spec(make_identity(), make_spec(path="/other"), LATER)


def test_a_path_that_another_identity_holds_is_refused():
    holder = make_identity(make_spec("other", path="/payments-api"))
    (refusal,) = plan([make_spec()], [holder]).refusals
    assert "belongs to 'other'" in refusal


def test_a_rename_with_prune_frees_the_path_first():
    old = make_identity(make_spec("old", path="/payments-api"))
    made = plan([make_spec()], [old], prune=True)
    assert [change.action for change in made.changes] == [Action.REMOVE, Action.ADD]
    assert plan([make_spec()], carry_out(made, [old]), prune=True).is_empty


def test_a_name_that_is_there_twice_is_refused():
    (refusal,) = plan([make_spec(), make_spec(owner="x")], []).refusals
    assert "is there twice" in refusal


def test_an_id_that_would_be_too_long_is_refused():
    (refusal,) = plan([make_spec(path="/" + "p" * 2040)], []).refusals
    assert "longer than 2048" in refusal
    with pytest.raises(Invalid):
        new_identity(
            make_spec(path="/" + "p" * 2040), IdentityId("i"), DOMAIN, NOW, YEAR, State.ACTIVE, True
        )


def test_a_retired_or_renamed_identity_takes_no_spec():
    with pytest.raises(Refused, match="retired for good"):
        apply_spec(make_identity(state=State.RETIRED), make_spec(), LATER)
    with pytest.raises(Refused, match="name"):
        apply_spec(make_identity(), replace(make_spec(), name="x"), LATER)


def test_a_new_identity_starts_as_asked():
    made = new_identity(make_spec(), IdentityId("idn_9"), DOMAIN, NOW, YEAR, State.PROPOSED, False)
    assert (made.id, made.state, made.managed, made.revision) == (
        "idn_9",
        State.PROPOSED,
        False,
        1,
    )
    assert made.created_at == made.updated_at == NOW
    assert made.expires_at == NOW + YEAR
    assert str(made.spiffe_id) == WHO


names = st.sampled_from(["a", "b", "c", "d"])
specs = st.builds(
    make_spec,
    names,
    owner=st.sampled_from(["x", "y"]),
    labels=st.dictionaries(st.sampled_from(["k", "l"]), st.sampled_from(["1", "2"]), max_size=2),
    selectors=st.lists(st.sampled_from([UID_1, UID_2, PROGRAM]), max_size=2, unique=True).map(
        tuple
    ),
    nodes=st.lists(st.sampled_from(["n", "m", "*"]), min_size=1, max_size=3, unique=True).map(
        tuple
    ),
    expires_at=st.none() | st.just(LATER + YEAR),
    lifetime=st.none() | st.just(timedelta(days=9)),
)
sets = st.lists(specs, max_size=4, unique_by=lambda spec: spec.name)


@given(sets, sets, st.lists(st.booleans(), min_size=4, max_size=4), st.booleans())
def test_after_a_plan_was_carried_out_only_keep_is_left(before, wanted, by_hand, prune):
    current = [
        make_identity(spec, id=IdentityId(f"old_{n}"), managed=not by_hand[n])
        for n, spec in enumerate(before)
    ]
    made = plan(wanted, current, prune=prune)
    reached = carry_out(made, current)
    again = plan(wanted, reached, prune=prune)
    assert again.refusals == ()
    assert {change.action for change in again.changes} <= {Action.KEEP}
    living = {one.name: one for one in reached if one.state is not State.RETIRED}
    for spec in wanted:
        assert not spec_differs(living[spec.name], spec)
    for change in made.changes:
        assert (change.action is Action.KEEP) or change.words
