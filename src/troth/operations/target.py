"""What operations are done to, as far as permissions may depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from troth.identity.identity import Identity, IdentitySpec
from troth.operations.call import Target


class Labelled(Protocol):
    """What a manifest declares."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        ...

    @property
    def owner(self) -> str:
        """Who answers for it."""
        ...


def target_of(identity: Identity | IdentitySpec) -> Target:
    """An identity as something that is acted on."""
    return Target(identity.name, identity.owner, identity.environment, identity.labels)


def target_of_declared(declared: Labelled) -> Target:
    """What a manifest declares as something that is acted on."""
    environment = getattr(declared, "environment", "")
    return Target(declared.name, declared.owner, environment, declared.labels)
