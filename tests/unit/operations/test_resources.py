"""Resources as the API shows them."""

from __future__ import annotations

import pytest

from tests.fakes.clients import LEDGER, apply, render_manifest
from tests.fakes.house import FakeHouse, in_house
from troth.core.errors import NotFound
from troth.wire.api.resources import ListResources, NameResource


@in_house
async def test_resources_are_shown_as_they_were_declared(house: FakeHouse) -> None:
    assert (await house.call("resource.ls", ListResources())).items == []
    ledger = render_manifest(
        "Resource",
        "ledger",
        identifiers=[LEDGER, "urn:ledger"],
        servers=["ledger-api"],
        actions={"read": "See entries"},
        passesTo=["archive"],
        token={"ttl": "2m", "binding": "dpop"},
    )
    archive = render_manifest(
        "Resource", "archive", identifiers=["urn:archive"], servers=[], actions={"get": "Get it"}
    )
    await apply(house, ledger, archive)
    listed = (await house.call("resource.ls", ListResources())).items
    assert [one.name for one in listed] == ["archive", "ledger"]
    shown = await house.call("resource.show", NameResource(name="ledger"))
    assert shown == listed[1]
    assert shown.identifiers == [LEDGER, "urn:ledger"]
    assert (shown.ttl, shown.binding, shown.format) == (120, "dpop", "jwt")
    assert (shown.servers, shown.passes_to) == (["ledger-api"], ["archive"])
    assert shown.actions == {"read": "See entries"}
    with pytest.raises(NotFound, match="no resource 'vault'"):
        await house.call("resource.show", NameResource(name="vault"))
