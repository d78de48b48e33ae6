"""The system call table is whole: permission, route, CLI verb and documentation for each name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.fakes.house import FakeHouse, in_house
from troth.policy.permissions import BESIDES, ROLES, decide_operation
from troth.wire.api.routes import ROUTES
from troth.wire.oauth.routes import OAUTH_ROUTES

DOCUMENT = Path(__file__).parents[3] / "docs/reference/operations.md"


@in_house
async def test_every_operation_has_a_route_and_a_permission(house: FakeHouse) -> None:
    made = set(house.dispatcher.operations) | set(house.dispatcher.subscriptions)
    assert made == {route.name for route in ROUTES} | OAUTH_ROUTES.keys()
    assert {r.name for r in ROUTES if r.stream} == set(house.dispatcher.subscriptions)
    assert made | BESIDES == set().union(*ROLES.values())


def test_every_operation_is_documented() -> None:
    text = DOCUMENT.read_text()
    missing = [route.name for route in ROUTES if f"`{route.name}`" not in text]
    assert not missing
    assert all(route.summary.endswith(".") for route in ROUTES)


@in_house
async def test_an_operation_is_small_and_frozen(house: FakeHouse) -> None:
    for name, call in {**house.dispatcher.operations, **house.dispatcher.subscriptions}.items():
        assert dataclasses.is_dataclass(call), name
        assert len(dataclasses.fields(call)) <= 6, name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(call, dataclasses.fields(call)[0].name, None)


def test_routes_are_distinct() -> None:
    assert len({(r.method, r.path) for r in ROUTES}) == len(ROUTES)
    assert len({r.name for r in ROUTES}) == len(ROUTES)


def test_nobody_holds_everything_and_the_unknown_nothing() -> None:
    for name in ("identity.quarantine", "certificate.issue", "node.sync"):
        assert not decide_operation(["anyone"], name).allowed
        assert not decide_operation([], name).allowed
        assert not decide_operation(["superuser"], name).allowed
    assert not decide_operation(["admin"], "certificate.issue").allowed
    assert not decide_operation(["node"], "identity.quarantine").allowed
    assert not decide_operation(["admin"], "no.such").allowed
