"""The rules of delegation as algebra: whatever is asked for in whatever order, exchanges narrow."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from troth.policy.delegation import (
    MAX_ACTORS,
    Asker,
    Exchange,
    SubjectToken,
    decide_exchange,
)
from troth.policy.narrowing import Access, Denial, Detail, Fault, Wish, narrow_access
from troth.policy.resource import Binding, Resource, TokenFormat, TokenTerms

TERMS = TokenTerms(TokenFormat.JWT, "ES256", timedelta(minutes=5), Binding.NONE)
PEOPLE = [f"p{number}" for number in range(8)]
PLACES = [f"r{number}" for number in range(5)]
ACTIONS = ["a", "b", "c"]
OBJECTS = ["", "x", "y"]


def make_id(name: str) -> str:
    return f"spiffe://example.org/{name}"


@dataclass(frozen=True)
class World:
    """Who may do what, who serves what, who passes on to where, who acts for whom."""

    resources: dict[str, Resource]
    permitted: dict[tuple[str, str], frozenset[str]]
    delegates: dict[str, tuple[str, ...]]

    def may(self, name: str, place: str) -> frozenset[str]:
        return self.permitted[name, place]


def make_resource(name: str, servers: list[str], passes_to: list[str]) -> Resource:
    actions = dict.fromkeys(ACTIONS, "Do it")
    identifiers = (f"https://{name}.example", f"urn:{name}")
    return Resource(
        name, {}, "o", "p", identifiers, tuple(servers), actions, tuple(passes_to), TERMS
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    resources = {
        name: make_resource(
            name,
            draw(st.lists(st.sampled_from(PEOPLE), max_size=4, unique=True)),
            draw(st.lists(st.sampled_from(PLACES), max_size=4, unique=True)),
        )
        for name in PLACES
    }
    mostly = st.just(frozenset(ACTIONS)) | st.frozensets(st.sampled_from(ACTIONS))
    permitted = {(who, place): draw(mostly) for who in PEOPLE for place in PLACES}
    some = st.lists(st.sampled_from(PEOPLE), max_size=3, unique=True).map(tuple)
    return World(resources, permitted, {who: draw(some) for who in PEOPLE})


DETAILS = st.builds(
    Detail,
    st.lists(st.sampled_from(ACTIONS), min_size=1, unique=True).map(tuple),
    st.sampled_from(OBJECTS),
)
WISHES = st.builds(
    Wish,
    st.none() | st.frozensets(st.sampled_from([*ACTIONS, "z"])),
    st.lists(DETAILS, max_size=2).map(tuple),
)
CNF = st.sampled_from([{}, {}, {}, {"x5t#S256": "k1"}, {"x5t#S256": "k2"}])
STEPS = st.lists(
    st.tuples(st.integers(0, 1000), st.sampled_from(PEOPLE), st.sampled_from(PLACES), WISHES, CNF),
    min_size=10,
    max_size=60,
)


@dataclass(frozen=True)
class Node:
    """A token of the game, and the one from which it came."""

    token: SubjectToken
    before: Node | None = None

    def ancestors(self) -> list[SubjectToken]:
        found, node = [], self.before
        while node is not None:
            found.append(node.token)
            node = node.before
        return found


def list_allowed(access: Access) -> set[tuple[str, str]]:
    """What it comes to, action by action and object by object; "" stands for any object."""
    allowed = {(action, one) for action in access.scopes for one in OBJECTS}
    for detail in access.details:
        objects = [detail.identifier] if detail.identifier else OBJECTS
        allowed |= {(action, one) for action in detail.actions for one in objects}
    return allowed


def start(
    world: World,
    subject: str,
    place: str,
    may_act: str = "",
    cnf: Any = None,
    wish: Wish = Wish(),  # noqa: B008 - frozen
) -> Node | None:
    access = narrow_access(wish, world.may(subject, place))
    if isinstance(access, Denial):
        return None
    name = make_id(subject)
    resource = world.resources[place]
    return Node(SubjectToken(name, name, resource, access, may_act=may_act, confirmation=cnf or {}))


def give(world: World, node: Node, who: str, place: str, wish: Wish, cnf: Any) -> Node | Denial:
    token, target = node.token, world.resources[place]
    subject = token.subject.rpartition("/")[2]
    permitted = world.may(subject, place) & world.may(who, place)
    asker = Asker(make_id(who), who, cnf)
    found = decide_exchange(token, asker, world.delegates[subject], target, permitted, wish)
    if isinstance(found, Denial):
        return found
    passage = found.passage
    made = SubjectToken(
        token.subject, asker.spiffe_id, target, found.access, passage.actors, passage.passed,
        confirmation=cnf,
    )  # fmt: skip
    return Node(made, node)


def check_step(world: World, node: Node, who: str, place: str) -> None:
    """What must hold for every token that was given, told without the words of the rules."""
    made, old = node.token, node.ancestors()[0]
    subject = made.subject.rpartition("/")[2]
    both = world.may(subject, place) & world.may(who, place)
    allowed = list_allowed(made.access)
    # Nothing that the subject or the actor lacks.
    assert {action for action, _ in allowed} <= both
    assert made.access.scopes <= both
    assert made.access.scopes or made.access.details
    # At a resource that the chain has touched, nothing that it didn't allow there.
    for earlier in node.ancestors():
        assert earlier.resource is not None
        if earlier.resource.name == place:
            assert allowed <= list_allowed(earlier.access)
    # The chain is bounded, grows by who asked alone, and nobody stands in it twice.
    assert made.subject == old.subject
    assert len(made.actors) <= MAX_ACTORS
    assert len({made.subject, *made.actors}) == 1 + len(made.actors)
    asker = make_id(who)
    if made.actors:
        assert made.actors[0] == asker
        assert made.actors in (old.actors, (asker, *old.actors))
    else:
        assert asker == made.subject == old.holder
    # What was bound stays so.
    assert made.confirmation or not old.confirmation
    # Nobody but who was entitled.
    entitled = (
        asker == old.holder
        or (old.resource is not None and who in old.resource.servers)
        or who in world.delegates[subject]
        or old.may_act == asker
    )
    assert entitled


@settings(max_examples=100, deadline=None)
@given(worlds(), STEPS, st.sampled_from(PEOPLE), CNF, WISHES)
def test_chains_of_random_exchanges_only_narrow(
    world: World, steps: list[Any], named: str, cnf: dict[str, str], wish: Wish
) -> None:
    nodes = [
        node
        for who in PEOPLE[:2]
        for place in PLACES
        if (node := start(world, who, place, make_id(named), cnf, wish)) is not None
    ]
    for number, who, place, wish, bound in steps:
        if not nodes:
            return
        # The newest ones more often, so that chains get long.
        node = nodes[-1 - number % min(len(nodes), 3)] if number % 2 else nodes[number % len(nodes)]
        found = give(world, node, who, place, wish, bound)
        if isinstance(found, Node):
            check_step(world, found, who, place)
            nodes.append(found)


def open_world() -> World:
    """Everybody may everything, and every resource passes on to every other."""
    resources = {
        f"r{n}": make_resource(f"r{n}", [f"p{n}"], [f"r{m}" for m in range(8)]) for n in range(8)
    }
    everything = frozenset(ACTIONS)
    permitted = {(p, r): everything for p in [*PEOPLE, "s"] for r in resources}
    return World(resources, permitted, dict.fromkeys([*PEOPLE, "s"], ()))


def test_a_chain_ends_at_its_bound() -> None:
    world = open_world()
    node = start(world, "s", "r0")
    assert node is not None
    for number in range(MAX_ACTORS):
        found = give(world, node, f"p{number}", f"r{number + 1}", Wish(), {})
        assert isinstance(found, Node), found
        node = found
    assert len(node.token.actors) == MAX_ACTORS
    found = give(world, node, f"p{MAX_ACTORS}", f"r{MAX_ACTORS + 1}", Wish(), {})
    assert isinstance(found, Denial)
    assert found.fault is Fault.TOKEN
    # Whoever holds it may still narrow it: that makes the chain no longer.
    holder = f"p{MAX_ACTORS - 1}"
    again = give(world, node, holder, f"r{MAX_ACTORS}", Wish(frozenset("a")), {})
    assert isinstance(again, Node)
    assert again.token.actors == node.token.actors


def test_a_token_never_returns_to_where_it_was() -> None:
    """Else what was narrowed there would come back as wide as the roles are."""
    world = open_world()
    node = start(world, "s", "r0", wish=Wish(frozenset("a")))
    assert node is not None
    for number in range(1, MAX_ACTORS):
        found = give(world, node, f"p{number - 1}", f"r{number}", Wish(), {})
        assert isinstance(found, Node), found
        node = found
        for earlier in range(number):
            back = give(world, node, f"p{number}", f"r{earlier}", Wish(), {})
            assert isinstance(back, Denial)
            assert back.fault is Fault.TARGET


def test_a_credential_for_this_server_alone_is_for_its_subject_and_delegates() -> None:
    world = open_world()
    token = SubjectToken(make_id("s"), make_id("s"))
    target = world.resources["r0"]

    def ask(who: str, delegates: tuple[str, ...] = ()) -> Exchange | Denial:
        asker = Asker(make_id(who), who)
        return decide_exchange(token, asker, delegates, target, frozenset("ab"), Wish())

    own, acting, other = ask("s"), ask("p1", ("p1",)), ask("p0")
    assert isinstance(own, Exchange)
    assert own.passage.actors == ()
    assert isinstance(acting, Exchange)
    assert acting.passage.actors == (make_id("p1"),)
    assert acting.access == Access(frozenset("ab"))
    assert isinstance(other, Denial)


@given(WISHES, st.frozensets(st.sampled_from(ACTIONS)), st.none() | st.builds(
    Access, st.frozensets(st.sampled_from(ACTIONS)), st.lists(DETAILS, max_size=3).map(tuple)
))  # fmt: skip
def test_narrowing_never_widens(wish: Wish, permitted: frozenset[str], held: Access | None) -> None:
    found = narrow_access(wish, permitted, held)
    if isinstance(found, Denial):
        assert found.fault in (Fault.SCOPE, Fault.DETAILS)
        return
    allowed = list_allowed(found)
    assert {action for action, _ in allowed} <= permitted
    if held is not None:
        assert allowed <= list_allowed(held)
    if wish.scopes is not None:
        assert found.scopes <= wish.scopes
    if wish.scopes is not None or wish.details:
        asked = Access(wish.scopes or frozenset(), wish.details)
        assert allowed <= list_allowed(asked)
    # The same wish again changes nothing.
    assert narrow_access(wish, permitted, found) == found


def test_without_a_wish_there_is_all_that_is_held_and_permitted() -> None:
    held = Access(frozenset("ab"), (Detail(("b", "c"), "x"), Detail(("b",), "y")))
    assert narrow_access(Wish(), frozenset("ac"), held) == Access(
        frozenset("a"), (Detail(("c",), "x"),)
    )
    assert narrow_access(Wish(), frozenset("ac")) == Access(frozenset("ac"))
