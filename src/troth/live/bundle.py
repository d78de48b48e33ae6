"""The bundle: what manifests declare about roles, resources and outside issuers, and the keys
that sign; all of it, ready to be asked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from troth.core.ids import AuthorityId
from troth.core.jose.jwk import derive_key_id
from troth.identity.issuer import Issuer
from troth.issuance.authorities import TOKEN_ALGORITHMS, Authority
from troth.policy.policy import Policy, Segment
from troth.policy.resource import Resource, index_identifiers
from troth.policy.role import Role, expand_roles, list_actions
from troth.policy.rulebook import RuleBook, make_rule_book
from troth.policy.system import list_system_resources, list_system_roles


def make_empty_book() -> RuleBook:
    """A rule book without a rule: nothing is permitted."""
    return make_rule_book(0, (), ())


@dataclass(frozen=True, slots=True)
class Bundle:
    """Declarations as of an epoch. Immutable; made anew when one changes.

    `resources` are found by name, `by_identifier` by any of their URIs, `issuers` by URL; `key_ids`
    are the `kid` of those authorities that sign tokens.
    """

    epoch: int
    roles: Mapping[str, Role]
    resources: Mapping[str, Resource]
    by_identifier: Mapping[str, Resource]
    authorities: tuple[Authority, ...]
    key_ids: Mapping[AuthorityId, str]
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    rules: RuleBook = field(default_factory=make_empty_book)
    _actions: dict[tuple[tuple[str, ...], str], frozenset[str]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def find_actions(self, roles: tuple[str, ...], resource: Resource) -> frozenset[str]:
        """What the holder of `roles` may do with `resource`."""
        key = (roles, resource.name)
        known = self._actions.get(key)
        if known is None:
            held = expand_roles(roles, self.roles)
            known = list_actions(held, resource.name, resource.actions)
            if len(self._actions) < _MOST_REMEMBERED:
                self._actions[key] = known
        return known

    def find_common(
        self, roles: tuple[str, ...], resources: Collection[Resource]
    ) -> frozenset[str]:
        """What the holder of `roles` may do at each of `resources`, of which there is one."""
        return frozenset.intersection(*(self.find_actions(roles, one) for one in resources))

    def list_reached(self, roles: tuple[str, ...]) -> list[Resource]:
        """The resources with which the holder of `roles` may do something, and that have tokens."""
        names = {p.resource for role in expand_roles(roles, self.roles) for p in role.permissions}
        found = (self.resources.get(name) for name in sorted(names))
        return [
            one
            for one in found
            if one is not None and one.identifiers and self.find_actions(roles, one)
        ]


_MOST_REMEMBERED = 100_000


def make_bundle(
    epoch: int,
    roles: Iterable[Role],
    resources: Iterable[Resource],
    authorities: Iterable[Authority],
    issuers: Iterable[Issuer] = (),
    policies: Iterable[Policy] = (),
    segments: Iterable[Segment] = (),
) -> Bundle:
    """The bundle of these declarations."""
    named = {resource.name: resource for resource in resources}
    by_name = {role.name: role for role in roles}
    published = tuple(authorities)
    return Bundle(
        epoch=epoch,
        roles=by_name,
        resources=named,
        by_identifier=index_identifiers(named.values()),
        authorities=published,
        key_ids={
            one.id: derive_key_id(one.public_key)
            for one in published
            if one.use in TOKEN_ALGORITHMS
        },
        issuers={issuer.url: issuer for issuer in issuers},
        rules=make_rule_book(
            epoch,
            (*list_system_roles(), *by_name.values()),
            (*list_system_resources(), *named.values()),
            policies,
            segments,
        ),
    )
