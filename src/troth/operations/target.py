"""What operations are done to, as far as permissions may depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from troth.core.ids import TrustDomain
from troth.identity.identity import Identity, IdentitySpec
from troth.identity.template import Template
from troth.operations.call import Target
from troth.policy.rule import IDENTITY


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
    return Target(
        identity.name,
        identity.owner,
        identity.environment,
        identity.labels,
        IDENTITY,
        str(identity.spiffe_id) if isinstance(identity, Identity) else "",
    )


def target_of_spec(spec: IdentitySpec, trust_domain: TrustDomain) -> Target:
    """What an identity would be as something that is acted on."""
    return replace(target_of(spec), spiffe_id=f"{trust_domain.id}{spec.path}")


def target_of_template(template: Template, trust_domain: TrustDomain) -> Target:
    """A template as something that is acted on: with what its SPIFFE IDs begin with."""
    return Target(
        template.name,
        template.owner,
        template.environment,
        template.labels,
        "template",
        f"{trust_domain.id}{template.prefix}",
    )


def target_of_declared(declared: Labelled) -> Target:
    """What a manifest declares as something that is acted on."""
    environment = getattr(declared, "environment", "")
    kind = type(declared).__name__.lower()
    return Target(declared.name, declared.owner, environment, declared.labels, kind)
