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


MOST_TARGETS = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """The parameters of a request that say what the token is to be for.

    `targets` are identifiers of resources; none if the request names none.
    """

    targets: tuple[str, ...]
    scopes: frozenset[str] | None
    details: tuple[ActionDetail, ...]

    @property
    def only_target(self) -> str | None:
        """The one resource that the request names, if it names any; `InvalidTarget` for several."""
        if len(self.targets) > 1:
            raise InvalidTarget("A token is exchanged for one resource: ask for one each.")
        return self.targets[0] if self.targets else None

    def at(self, *resources: Resource) -> Wish:
        """The same as a wish at what the token is for."""
        for detail in self.details:
            if len(resources) > 1 or not set(detail.locations) <= set(resources[0].identifiers):
                raise InvalidAuthorizationDetails(
                    "The locations of the authorization_details must be those of the one resource "
                    "that the token is for."
                )
        details = tuple(Detail(tuple(one.actions), one.identifier) for one in self.details)
        return Wish(self.scopes, details)


def read_wanted(form: Form) -> Wanted:
    """What a form asks for; `InvalidTarget` if it names very many resources.

    A resource is told by `resource` (RFC 8707, section 2), by `audience`, which means the same
    here (RFC 8693, section 2.1), or else by the `locations` of authorization details (RFC 9396,
    section 2.2).
    """
    text, scope = form.find("authorization_details"), form.find("scope")
    details = () if text is None else tuple(parse_details(text))
    named = {*form.list("resource"), *form.list("audience")}
    named = named or {location for one in details for location in one.locations}
    if len(named) > MOST_TARGETS:
        raise InvalidTarget(f"A token is for {MOST_TARGETS} resources at most (RFC 8707).")
    scopes = None if scope is None else frozenset(scope.split(" "))
    return Wanted(tuple(sorted(named)), scopes, details)


def refuse(denial: Denial) -> NoReturn:
    """Raise the standard's error for a denial."""
    raise _ERRORS[denial.fault](denial.reason)
