"""A company in which tokens are passed on: who serves what, who acts for whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tests.fakes.clients import LEDGER, FakeClient, apply, render_identity, render_manifest
from tests.fakes.house import FakeHouse
from tests.fakes.issuer import make_private_key
from troth.operations.call import ANONYMOUS
from troth.operations.exchange import ACCESS_TOKEN
from troth.wire.oauth.answers import TokenAnswer
from troth.wire.oauth.metadata import TOKEN_EXCHANGE
from troth.wire.oauth.request import OAuthRequest

ARCHIVE = "https://archive.example.org"
VAULT = "https://vault.example.org"

RESOURCES = [
    render_manifest(
        "Resource",
        "ledger",
        identifiers=[LEDGER],
        servers=["ledger-api"],
        actions={"read": "See entries", "write": "Add entries", "close": "Close a year"},
        passesTo=["archive"],
        token={"ttl": "5m"},
    ),
    render_manifest(
        "Resource",
        "archive",
        identifiers=[ARCHIVE],
        servers=["archive-api"],
        actions={"fetch": "See a file", "purge": "Delete a file"},
        passesTo=["ledger", "vault"],
        token={"ttl": "10m"},
    ),
    render_manifest(
        "Resource",
        "vault",
        identifiers=[VAULT],
        servers=["vault-api"],
        actions={"open": "Open a safe"},
        passesTo=["ledger", "archive"],
    ),
]


def render_role(name: str, **actions: list[str]) -> dict[str, Any]:
    permissions = [{"resource": r, "actions": listed} for r, listed in actions.items()]
    return render_manifest("Role", name, permissions=permissions)


ROLES = [
    render_role("clerk", ledger=["read", "write"], archive=["fetch", "purge"], vault=["open"]),
    render_role("reader", ledger=["read"], archive=["fetch"]),
    render_role("backend", ledger=["*"], archive=["fetch"], vault=["open"]),
]

PEOPLE: dict[str, dict[str, Any]] = {
    "billing": {"roles": ["clerk"], "delegates": ["helper"]},
    "shipping": {"roles": ["clerk"], "delegates": ["helper", "ledger-api"]},
    "stranger": {"roles": ["clerk"]},
    "helper": {"roles": ["reader"], "kind": "agent"},
    "ledger-api": {"roles": ["backend"]},
    "archive-api": {"roles": ["backend"]},
    "vault-api": {"roles": ["backend"]},
}


@dataclass
class Company:
    """Clients by name, in a house."""

    house: FakeHouse
    clients: dict[str, FakeClient]

    async def request(
        self, name: str, *, certificate: bytes | None = None, **fields: Any
    ) -> TokenAnswer:
        """A token of a client's own."""
        asked = _ask(self.clients[name], certificate, fields)
        answer: TokenAnswer = await self.house.call("token.request", asked, ANONYMOUS)
        return answer

    async def exchange(
        self, name: str, token: str, *, certificate: bytes | None = None, **fields: Any
    ) -> TokenAnswer:
        """What a client gets in exchange for `token`."""
        values: dict[str, Any] = {
            "grant_type": TOKEN_EXCHANGE,
            "resource": None,
            "subject_token": token,
            "subject_token_type": ACCESS_TOKEN,
        }
        asked = _ask(self.clients[name], certificate, values | fields)
        answer: TokenAnswer = await self.house.call("token.exchange", asked, ANONYMOUS)
        return answer


def _ask(client: FakeClient, certificate: bytes | None, fields: dict[str, Any]) -> OAuthRequest:
    """A request with a client assertion, or with a certificate instead."""
    if certificate is None:
        return client.ask(**fields)
    without = {"client_assertion": None, "client_assertion_type": None}
    return replace(client.ask(**(without | fields)), certificate=certificate)


async def found_company(house: FakeHouse) -> Company:
    """Everybody registered."""
    keys = {name: make_private_key(60 + number) for number, name in enumerate(PEOPLE)}
    identities = [render_identity(name, keys[name], **spec) for name, spec in PEOPLE.items()]
    await apply(house, *RESOURCES, *ROLES, *identities)
    return Company(
        house,
        {
            name: FakeClient(f"spiffe://example.org/{name}", key, house.clock.now)
            for name, key in keys.items()
        },
    )
