"""troth itself as resources: each noun of the system call table is one, its verbs are the actions.

So who may call what is decided by the same rules as everything else. The roles that come with troth
are roles like any other, with names that no manifest can take.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from troth.policy.fact import FactKind
from troth.policy.permissions import ROLES
from troth.policy.resource import Binding, Resource, TokenFormat, TokenTerms
from troth.policy.role import Permission, Role
from troth.policy.rule import SYSTEM

OWNER = "troth"
_PURPOSE = "comes with troth"
_ATTRIBUTES = {"spiffe_id": FactKind.TEXT}
"""What conditions may ask besides of an identity that something is done to."""
_TERMS = TokenTerms(TokenFormat.JWT, "ES256", timedelta(minutes=5), Binding.NONE)


def name_system_resource(operation: str) -> str:
    """The resource of an operation: ``identity.suspend`` is done to ``troth.identity``, and
    ``client_secret.ls`` to ``troth.client-secret``, since no manifest's name has an underscore."""
    return f"{SYSTEM}{operation.partition('.')[0].replace('_', '-')}"


def name_noun(resource: str) -> str:
    """What the operations on a resource of troth's own begin with."""
    return resource.removeprefix(SYSTEM).replace("-", "_")


def name_verb(operation: str) -> str:
    """The action that an operation is."""
    return operation.partition(".")[2]


def name_system_role(role: str) -> str:
    """The role's name among all roles."""
    return f"{SYSTEM}{role}"


def list_system_resources() -> tuple[Resource, ...]:
    """All of them, with each verb that some role holds."""
    verbs: dict[str, set[str]] = {}
    for operation in _list_operations():
        verbs.setdefault(name_system_resource(operation), set()).add(name_verb(operation))
    return tuple(
        Resource(
            name=name,
            labels={},
            owner=OWNER,
            purpose=_PURPOSE,
            identifiers=(),
            servers=(),
            actions={verb: f"{name_noun(name)}.{verb}" for verb in sorted(found)},
            passes_to=(),
            token=_TERMS,
            attributes=_ATTRIBUTES,
        )
        for name, found in sorted(verbs.items())
    )


def list_system_roles() -> tuple[Role, ...]:
    """The roles that come with troth."""
    return tuple(_make_role(role, names) for role, names in ROLES.items())


def _make_role(role: str, operations: Iterable[str]) -> Role:
    verbs: dict[str, list[str]] = {}
    for operation in sorted(operations):
        verbs.setdefault(name_system_resource(operation), []).append(name_verb(operation))
    permissions = tuple(Permission(name, tuple(found)) for name, found in verbs.items())
    return Role(name_system_role(role), {}, OWNER, _PURPOSE, (), permissions)


def _list_operations() -> set[str]:
    return {operation for names in ROLES.values() for operation in names}
