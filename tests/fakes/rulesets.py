"""Sets of rules and questions at random: small worlds, in which rules and questions often meet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from hypothesis import strategies as st

from troth.core.tier import Tier
from troth.policy.decision import Question
from troth.policy.fact import FactKind
from troth.policy.policy import BuiltIn, Policy, Segment
from troth.policy.resource import Binding, Instance, Resource, TokenFormat, TokenTerms
from troth.policy.role import Permission, Role
from troth.policy.rule import IDENTITY, Effect, Principal, Subjects
from troth.policy.rulebook import RuleBook, make_rule_book

NOW = datetime(2026, 11, 20, 9, 30, 20, tzinfo=UTC)
"""A Friday."""

ROLES = ("reader", "writer", "boss")
RESOURCES = ("ledger", "till")
ACTIONS = ("read", "write", "burn")
IDENTITIES = ("app", "job")
TYPES = ("user", "robot")
TERMS = TokenTerms(TokenFormat.JWT, "ES256", timedelta(minutes=5), Binding.NONE)
SEGMENTS = (
    Segment("shop", {}, "o", "p", ("10.1.0.0/16",)),
    Segment("office", {}, "o", "p", ("10.2.0.0/16", "2001:db8::/32")),
)

_TEXTS: Mapping[str, tuple[str, ...]] = {
    "identity.environment": ("prod", "dev"),
    "identity.kind": ("service", "job"),
    "identity.owner": ("pay", "ops"),
    "identity.labels.team": ("a", "b", "ab"),
    "identity.labels.example.org/te-am": ("a", "b"),
    "request.country": ("CH", "DE"),
    "request.network": ("cloud", "tor"),
    "resource.owner": ("pay", "ops"),
    "resource.status": ("open", "o*p\"en'\\", "zu é 名"),
    "resource.labels.team": ("a", "b"),
    "task.purpose": ("pay", "ops"),
    "subject.type": ("identity", "user"),
    "action.name": ACTIONS,
}
_ORDERED: Mapping[str, tuple[str, ...]] = {
    "trust.tier": ("low", "medium", "high"),
    "identity.assurance": ("low", "medium", "high"),
    "request.transport": ("plain", "tls", "mtls"),
    "resource.sensitivity": ("low", "medium", "high", "critical"),
}
_NUMBERS = {"trust.score": (10, 50, 60, 90), "delegation.depth": (0, 1, 2), "resource.level": (1,)}
_BOOLEANS = ("request.bound", "action.soft")
_SETS: Mapping[str, tuple[str, ...]] = {
    "request.scopes": ("read", "write"),
    "delegation.actors": ("x", "y"),
    "grant.roles": ROLES,
    "resource.tags": ("a", "b"),
}
_ADDRESSES = ("10.1.0.7", "10.2.3.4", "10.0.0.1", "2001:db8::1", "192.0.2.9")
_NETWORKS = ("10.1.0.0/16", "10.0.0.0/8", "2001:db8::/32", "192.0.2.9/32")
_WINDOWS: tuple[dict[str, Any], ...] = (
    {"from": "08:00", "to": "18:00", "zone": "Europe/Zurich"},
    {"from": "22:00", "to": "06:00", "days": ["fri", "sat"]},
    {"days": ["mon", "tue"]},
    {"days": "fri", "zone": "Australia/Lord_Howe"},
    {"after": "2026-11-20T09:30:00Z"},
    {"before": "2026-11-20T09:31:00Z"},
    {"from": "09:31", "to": "09:32", "zone": "UTC"},
)


def _pick(values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def _some(values: Any) -> st.SearchStrategy[Any]:
    return st.lists(_pick(values), min_size=1, max_size=2, unique_by=str)


def _members(groups: Mapping[str, Any], make: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Tests of one fact, as manifests write them."""
    return _pick(sorted(groups)).flatmap(
        lambda name: make(groups[name]).map(lambda value: {name: value})
    )


_known = st.booleans().map(lambda known: {"known": known})
_text_tests = _members(
    _TEXTS,
    lambda values: st.one_of(
        _pick(values),
        _some(values),
        _pick(values).map(lambda one: {"not": one}),
        _some(values).map(lambda some: {"notIn": some}),
        _pick(values).map(lambda one: {"like": f"{one[0]}*"}),
        _pick(values).map(lambda one: {"endsWith": one[-1]}),
        _known,
    ),
)
_ordered_tests = _members(
    _ORDERED,
    lambda values: st.one_of(
        _pick(values),
        _pick(values).map(lambda one: {"atLeast": one}),
        _pick(values).map(lambda one: {"atMost": one}),
    ),
)
_number_tests = _members(
    _NUMBERS,
    lambda values: st.tuples(
        _pick(("is", "not", "atLeast", "atMost", "above", "below")), _pick(values)
    ).map(lambda pair: {pair[0]: pair[1]}),
)
_boolean_tests = st.tuples(_pick(_BOOLEANS), st.booleans()).map(lambda pair: {pair[0]: pair[1]})
_set_tests = _members(
    _SETS,
    lambda values: st.one_of(
        _pick(("contains", "containsAny", "notContains")).flatmap(
            lambda verb: _some(values).map(lambda some: {verb: some})
        ),
        _known,
    ),
)
_address_tests = st.one_of(
    _some(_NETWORKS).map(lambda some: {"request.ip": {"in": some}}),
    _some(_NETWORKS).map(lambda some: {"request.ip": {"notIn": some}}),
    _pick(("shop", "office")).map(lambda one: {"request.segment": one}),
    _pick(("shop", "office")).map(lambda one: {"request.segment": {"notIn": [one]}}),
)
_time_tests = st.one_of(_pick(_WINDOWS), _some(_WINDOWS)).map(lambda one: {"request.time": one})
_same_tests = _pick(
    (
        {"identity.owner": {"sameAs": "resource.owner"}},
        {"task.purpose": {"sameAs": "identity.owner"}},
        {"request.scopes": {"sameAs": "grant.roles"}},
        {"resource.tags": {"sameAs": "delegation.actors"}},
        {"delegation.depth": {"sameAs": "resource.level"}},
    )
)
TESTS = st.one_of(
    _text_tests,
    _text_tests,
    _ordered_tests,
    _number_tests,
    _boolean_tests,
    _set_tests,
    _address_tests,
    _time_tests,
    _same_tests,
)
CONDITIONS: st.SearchStrategy[Any] = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: {"any": some}),
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"all": some}),
        inner.map(lambda one: {"not": one}),
        st.tuples(inner, inner).map(lambda two: {"any": [two[0]], "not": two[1]}),
    ),
    max_leaves=5,
)
"""Conditions as manifests write them."""

_whens = st.just(()) | CONDITIONS.map(lambda one: tuple(one) if isinstance(one, list) else (one,))
_moments = st.none() | st.integers(-2, 3).map(lambda n: NOW + timedelta(seconds=40 * n))
SUBJECTS = st.one_of(
    st.just(Subjects(anyone=True)),
    _some(ROLES).map(lambda some: Subjects(roles=tuple(some))),
    st.tuples(_some(ROLES), _some(IDENTITIES), _some(TYPES)).map(
        lambda three: Subjects(tuple(three[0]), tuple(three[1]), tuple(three[2]))
    ),
    _some(IDENTITIES).map(lambda some: Subjects(identities=tuple(some))),
    _some(TYPES).map(lambda some: Subjects(types=tuple(some))),
)


_effects = _pick((Effect.PERMIT, Effect.PERMIT, Effect.FORBID))
_about_actions: st.SearchStrategy[list[str]] = _some(ACTIONS) | st.just([])
_about_resources: st.SearchStrategy[list[str]] = _some(RESOURCES) | st.just([])
_granted = _some((*ACTIONS, "*"))
_labels = _pick(({}, {"team": "a"}))
_owners = _pick(("pay", "ops"))
_environments = _pick(("", "prod"))
_tiers = _pick((Tier.LOW, Tier.LOW, Tier.MEDIUM))
_audiences = _pick(((), (), ("api",)))
_one_resource = _pick(RESOURCES)
_included = [st.lists(_pick(ROLES[:n]), max_size=1) if n else st.just([]) for n in range(3)]
_bool = st.booleans()
_few = st.integers(0, 2)


@st.composite
def policies(draw: st.DrawFn) -> tuple[Policy, ...]:
    """Up to six policies; forbids are rarer, or nothing were ever permitted."""
    found = []
    for number in range(draw(st.integers(1, 6))):
        effect = draw(_effects)
        relaxes = effect is Effect.PERMIT and draw(_bool)
        found.append(
            Policy(
                f"p{number}",
                {},
                "o",
                "p",
                effect,
                draw(SUBJECTS),
                tuple(draw(_about_actions)),
                tuple(draw(_about_resources)),
                draw(_whens),
                relaxes=(BuiltIn.ENVIRONMENTS,) if relaxes else (),
                expires_at=draw(_moments),
            )
        )
    return tuple(found)


@st.composite
def resources(draw: st.DrawFn) -> tuple[Resource, ...]:
    """The same two resources, guarded in different ways."""
    return tuple(
        Resource(
            name=name,
            labels=draw(_labels),
            owner=draw(_owners),
            purpose="p",
            identifiers=(),
            servers=(),
            actions=dict.fromkeys(ACTIONS, "Do"),
            passes_to=(),
            token=TERMS,
            type="thing",
            pattern=f"{name}-*",
            environment=draw(_environments),
            minimum_tier=draw(_tiers),
            audiences=draw(_audiences),
            attributes={
                "status": FactKind.TEXT,
                "level": FactKind.NUMBER,
                "tags": FactKind.TEXTS,
            },
            action_attributes={"soft": FactKind.BOOLEAN},
            instances=(Instance(f"{name}-1", {"status": "open", "tags": ["a"]}, ("writer",)),),
        )
        for name in RESOURCES
    )


@st.composite
def roles(draw: st.DrawFn) -> tuple[Role, ...]:
    """Three roles of which each may include those before it."""
    found = []
    for number, name in enumerate(ROLES):
        permissions = tuple(
            Permission(draw(_one_resource), tuple(draw(_granted)), draw(_whens))
            for _ in range(draw(_few))
        )
        includes = tuple(draw(_included[number]))
        found.append(Role(name, {}, "o", "p", includes, permissions))
    return tuple(found)


_all_roles, _all_resources, _all_policies = roles(), resources(), policies()


@st.composite
def books(draw: st.DrawFn, epoch: int = 0) -> RuleBook:
    """A rule book of all that; everything in it compiles."""
    book = make_rule_book(
        epoch, draw(_all_roles), draw(_all_resources), draw(_all_policies), SEGMENTS
    )
    assert not book.mistakes, book.mistakes
    return book


def _list_values() -> dict[tuple[str, str], st.SearchStrategy[Any]]:
    found: dict[str, st.SearchStrategy[Any]] = {
        **{name: _pick((*values, "other")) for name, values in _TEXTS.items()},
        **{name: _pick(values) for name, values in _ORDERED.items()},
        **{name: st.integers(-1, 100) | _pick(v) for name, v in _NUMBERS.items()},
        **{name: st.booleans() for name in _BOOLEANS},
        **{name: st.lists(_pick(values), max_size=3).map(tuple) for name, values in _SETS.items()},
        "request.ip": _pick(_ADDRESSES).map(ip_address),
        "request.audience": _pick((("api",), ("other",), ("other", "api"))),
    }
    return {tuple(name.split(".", 1)): one for name, one in found.items()}  # type: ignore[misc]


VALUES = _list_values()
"""Values of each fact that conditions here ask about, by group and key."""


_absent = st.sets(_pick(sorted(VALUES)), max_size=6)


@st.composite
def facts(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Facts, of which some are missing."""
    found: dict[str, dict[str, Any]] = {}
    absent = draw(_absent)
    for (group, key), values in VALUES.items():
        if (group, key) not in absent:
            found.setdefault(group, {})[key] = draw(values)
    return found


_facts = facts()
_held = st.lists(_pick(ROLES), max_size=2, unique=True)
_types = _pick((IDENTITY, IDENTITY, "user"))
_ids = _pick(IDENTITIES)
_one_action = _pick(ACTIONS)


@st.composite
def questions(draw: st.DrawFn, book: RuleBook) -> Question:
    """A question about one of the resources."""
    held = tuple(draw(_held))
    type_ = draw(_types)
    principal = Principal(type_, draw(_ids), book.expand(held))
    known = draw(_facts)
    action = draw(_one_action)
    known.setdefault("action", {})["name"] = action
    return Question(principal, action, draw(_one_resource), known)


MOMENTS = st.integers(0, 6 * 24 * 60).map(lambda n: NOW + timedelta(minutes=n)) | st.integers(
    0, 200
).map(lambda n: NOW + timedelta(seconds=n))
