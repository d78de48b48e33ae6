"""Roles: what they permit together, and rings of them."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from troth.policy.role import Permission, Role, expand_roles, find_cycle, list_actions

NAMES = st.sampled_from([f"r{n}" for n in range(6)])
ACTIONS = ("read", "write", "delete")


def role(name: str, *permissions: tuple[str, tuple[str, ...]], includes: tuple[str, ...] = ()):
    return Role(name, {}, "o", "p", includes, tuple(Permission(*one) for one in permissions))


ROLES = st.dictionaries(
    NAMES,
    st.tuples(
        st.lists(NAMES, max_size=3),
        st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([*ACTIONS, "*"])), max_size=3),
    ),
).map(
    lambda found: {
        name: role(name, *((r, (a,)) for r, a in permitted), includes=tuple(includes))
        for name, (includes, permitted) in found.items()
    }
)  # fmt: skip


def test_a_role_holds_what_it_includes() -> None:
    roles = {
        "reader": role("reader", ("ledger", ("read",))),
        "clerk": role("clerk", ("ledger", ("write",)), includes=("reader",)),
        "boss": role("boss", ("ledger", ("*",))),
    }
    held = expand_roles(["clerk"], roles)
    assert list_actions(held, "ledger", ACTIONS) == {"read", "write"}
    assert list_actions(held, "other", ACTIONS) == frozenset()
    assert list_actions(expand_roles(["boss"], roles), "ledger", ACTIONS) == set(ACTIONS)
    assert list_actions(expand_roles(["unheard-of"], roles), "ledger", ACTIONS) == frozenset()


def test_an_action_that_the_resource_doesnt_have_is_none() -> None:
    roles = {"odd": role("odd", ("ledger", ("fly",)))}
    assert list_actions(expand_roles(["odd"], roles), "ledger", ACTIONS) == frozenset()


@given(ROLES, st.lists(NAMES, max_size=3), NAMES)
def test_another_role_never_takes_anything_away(
    roles: dict[str, Role], held: list[str], more: str
) -> None:
    fewer = list_actions(expand_roles(held, roles), "a", ACTIONS)
    assert fewer <= list_actions(expand_roles([*held, more], roles), "a", ACTIONS)


@given(ROLES)
def test_a_ring_is_found_exactly_where_there_is_one(roles: dict[str, Role]) -> None:
    def reaches(start: str, goal: str, seen: frozenset[str]) -> bool:
        return any(
            one == goal or (one not in seen and reaches(one, goal, seen | {one}))
            for one in (roles[start].includes if start in roles else ())
        )

    ring = find_cycle(roles)
    assert bool(ring) == any(reaches(name, name, frozenset()) for name in roles)
    if ring:
        assert ring[0] == ring[-1]
        assert all(after in roles[before].includes for before, after in itertools.pairwise(ring))
