"""`troth postgres`: who may be which role of a database, by certificate."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from troth.cli.command import command, make_app
from troth.cli.terminal import Terminal, make_request
from troth.core.errors import Refused
from troth.core.ids import SpiffeId
from troth.issuance.x509svid import name_subject
from troth.wire.api import decisions, identities, resources
from troth.wire.pgrules import (
    Access,
    check_access,
    name_role,
    render_hba,
    render_ident,
    render_roles,
)

app = make_app("Databases of PostgreSQL: who may be which role.")

TYPE = "postgres"


class Part(StrEnum):
    """A part of what PostgreSQL must be told."""

    HBA = "hba"
    IDENT = "ident"
    ROLES = "roles"


_RENDER = {Part.HBA: render_hba, Part.IDENT: render_ident, Part.ROLES: render_roles}


@command(
    app,
    "rules",
    example="troth postgres rules shop --database shop --part ident > pg_ident.conf\n"
    "troth postgres rules shop --database shop --part roles | psql",
)
def rules(
    terminal: Terminal,
    name: Annotated[
        str, typer.Argument(help="The resource's name.", metavar="NAME", show_default=False)
    ],
    database: Annotated[
        str, typer.Option(help="The database; the id that is asked about.", metavar="NAME")
    ],
    part: Annotated[Part, typer.Option(help="Which file.", case_sensitive=False)] = Part.HBA,
    address: Annotated[
        str, typer.Option(help="The network that connections come from.", metavar="CIDR")
    ] = "all",
) -> None:
    """Print PostgreSQL's rules for a resource of type postgres, as of now.

    Each action is a role, such as shop_read. Who may do it now, by the rules of troth, may be it,
    with the certificate of its SPIFFE ID. What depends on the request, such as the time of day,
    isn't permitted here: PostgreSQL doesn't ask.
    """
    view: resources.ResourceView = terminal.call(
        "resource.show", make_request(resources.NameResource, name=name)
    )
    if view.type != TYPE:
        raise Refused(f"Resource {name} is of type {view.type}, not of type {TYPE}.")
    known: dict[str, str] = {}
    roles = {
        name_role(name, action): [
            _name_subject(terminal, one, known)
            for one in _list_permitted(terminal, view.type, database, action)
        ]
        for action in view.actions
    }
    access = check_access(Access(database, roles, address))
    text = _RENDER[part](access)
    terminal.show(
        {"database": database, "roles": roles, part.value: text}, lambda: [text.rstrip("\n")]
    )


def _list_permitted(terminal: Terminal, type_: str, database: str, action: str) -> list[str]:
    """The names of the identities that may do `action` now."""
    found: list[str] = []
    token = ""
    while True:
        request = make_request(
            decisions.SearchDecisions,
            target="subject",
            subject={"type": "identity"},
            resource={"type": type_, "id": database},
            action={"name": action},
            token=token,
        )
        page: Any = terminal.call("decision.search", request)
        found += [one.id for one in page.results]
        token = page.page.next_token
        if not token:
            return sorted(found)


def _name_subject(terminal: Terminal, name: str, known: dict[str, str]) -> str:
    if name not in known:
        view = terminal.call("identity.show", make_request(identities.NameIdentity, name=name))
        known[name] = name_subject(SpiffeId.parse(view.spiffe_id))
        if not known[name]:
            raise Refused(f"The path of {view.spiffe_id} is too long for a common name.")
    return known[name]
