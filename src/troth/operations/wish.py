"""What a request for a token asks for: a resource, scopes, authorization details."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from troth.core.errors import Invalid, TrothError
from troth.policy.narrowing import Denial, Detail, Fault, Wish
from troth.policy.resource import Resource
from troth.wire.oauth.details import ActionDetail, parse_details
from troth.wire.oauth.errors import InvalidAuthorizationDetails, InvalidScope, InvalidTarget
from troth.wire.oauth.form import Form

_ERRORS: dict[Fault, type[TrothError]] = {
    Fault.TOKEN: Invalid,  # RFC 8693, section 2.2.2: invalid_request, for policy too
    Fault.TARGET: InvalidTarget,
    Fault.SCOPE: InvalidScope,
    Fault.DETAILS: InvalidAuthorizationDetails,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The parameters of a request that say what the token is to be for.

    `target` is an identifier of a resource, or None if the request names none.
    """

    target: str | None
    scopes: frozenset[str] | None
    details: tuple[ActionDetail, ...]

    def at(self, resource: Resource) -> Wish:
        """The same as a wish at the one resource that the token is for."""
        for detail in self.details:
            if not set(detail.locations) <= set(resource.identifiers):
                raise InvalidAuthorizationDetails(
                    "The locations of the authorization_details must be those of the one resource "
                    "that the token is for."
                )
        details = tuple(Detail(tuple(one.actions), one.identifier) for one in self.details)
        return Wish(self.scopes, details)


def read_wanted(form: Form) -> Wanted:
    """What a form asks for; `InvalidTarget` if it names several resources.

    The resource is told by `resource` (RFC 8707, section 2), by `audience`, which means the same
    here (RFC 8693, section 2.1), or else by the `locations` of authorization details (RFC 9396,
    section 2.2).
    """
    text, scope = form.find("authorization_details"), form.find("scope")
    details = () if text is None else tuple(parse_details(text))
    named = {*form.list("resource"), *form.list("audience")}
    named = named or {location for one in details for location in one.locations}
    if len(named) > 1:
        raise InvalidTarget("A token is for one resource: ask for one each (RFC 8707).")
    scopes = None if scope is None else frozenset(scope.split(" "))
    return Wanted(next(iter(named), None), scopes, details)


def refuse(denial: Denial) -> NoReturn:
    """Raise the standard's error for a denial."""
    raise _ERRORS[denial.fault](denial.reason)
