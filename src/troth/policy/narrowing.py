"""What a token may be used for at its resource, and how a request narrows that and never widens it.

A scope is an action anywhere at the resource (RFC 6749, section 3.3); a detail names actions, and
perhaps the one object on which they may be done (RFC 9396).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Detail:
    """Actions on one object of the resource, by the resource's own name for it; "" means any."""

    actions: tuple[str, ...]
    identifier: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """What a token allows at its resource: `scopes`, and `details` besides."""

    scopes: frozenset[str]
    details: tuple[Detail, ...] = ()

    def allows(self, action: str, identifier: str = "") -> bool:
        """Whether `action` may be done on that object; "" asks for any of them."""
        return action in self.scopes or any(
            action in one.actions and one.identifier in ("", identifier) for one in self.details
        )


NOTHING = Access(frozenset())


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for. `scopes` are None where it names none."""

    scopes: frozenset[str] | None = None
    details: tuple[Detail, ...] = ()


class Fault(StrEnum):
    """What of a request a denial is about."""

    TOKEN = "token"  # noqa: S105 - a name
    TARGET = "target"
    SCOPE = "scope"
    DETAILS = "details"


@dataclass(frozen=True, slots=True)
class Denial:
    """Why something isn't given; `reason` is a sentence for whoever asked."""

    fault: Fault
    reason: str


def narrow_access(
    wish: Wish, permitted: frozenset[str], held: Access | None = None
) -> Access | Denial:
    """What of `wish` is permitted, and within `held` if that is what the asker has there already.

    Scopes that aren't permitted are left out, as RFC 6749, section 3.3 lets us. Details are granted
    as they are or not at all: who asks for less than everything means each of them. Who asks for
    nothing in particular gets all there is; who names details alone gets no scope beside them.
    """
    ceiling = permitted if held is None else permitted & held.scopes
    for one in wish.details:
        for action in one.actions:
            if action not in permitted or not (held is None or held.allows(action, one.identifier)):
                return Denial(
                    Fault.DETAILS,
                    "An action of the authorization_details is not permitted there.",
                )
    if wish.scopes is not None:
        given = Access(ceiling & wish.scopes, wish.details)
    elif wish.details:
        given = Access(frozenset(), wish.details)
    else:
        given = Access(ceiling, _keep_permitted(held, permitted))
    if given.scopes or given.details:
        return given
    return Denial(
        Fault.SCOPE,
        "Nothing of this scope is permitted to this client there; `troth resource show NAME` lists "
        "the resource's actions, and roles permit them.",
    )


def _keep_permitted(held: Access | None, permitted: frozenset[str]) -> tuple[Detail, ...]:
    """The details that are held already, without the actions that are permitted no longer."""
    kept = (
        Detail(tuple(a for a in one.actions if a in permitted), one.identifier)
        for one in (held.details if held else ())
    )
    return tuple(one for one in kept if one.actions)
