"""PostgreSQL's rules for who may be which role, by client certificate: ``pg_hba.conf``,
``pg_ident.conf``, and the roles.

PostgreSQL matches the subject of a certificate, and knows no URI names. Each action of a resource
is a role of the database with the privileges of that action and no others; a certificate gets its
holder into those roles alone. Sources: PostgreSQL 14 and newer, chapter "Client Authentication"
(pg_hba.conf, User Name Maps, Certificate Authentication).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from troth.core.errors import Invalid

MAP = "troth"
_DATABASE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._/-]{1,64}", re.ASCII)
_ADDRESS = re.compile(r"all|samenet|samehost|[0-9a-fA-F.:]{2,45}/[0-9]{1,3}", re.ASCII)
MAX_ROLE = 63


@dataclass(frozen=True, slots=True)
class Access:
    """Who may be which role in a database: common names by the role's name. Connections come from
    `address`."""

    database: str
    roles: Mapping[str, Sequence[str]]
    address: str = "all"


def name_role(resource: str, action: str) -> str:
    """The role of an action; raises `Invalid` if it would be too long, and so cut off."""
    name = re.sub(r"[^a-z0-9]", "_", f"{resource}_{action}".lower())
    if len(name) > MAX_ROLE or not name[0].isalpha():
        raise Invalid(
            f"The role {name} can't be one of PostgreSQL's: it must begin with a letter and have "
            f"at most {MAX_ROLE} characters."
        )
    return name


def check_access(access: Access) -> Access:
    """`access` if every name in it can stand in these files; else `Invalid`."""
    if not _DATABASE.fullmatch(access.database):
        raise Invalid(f"{access.database!r} is no plain name of a database.")
    if not _ADDRESS.fullmatch(access.address):
        raise Invalid(f"{access.address!r} is no network such as 10.0.0.0/8, nor 'all'.")
    for names in access.roles.values():
        for name in names:
            if not _NAME.fullmatch(name):
                raise Invalid(f"{name!r} can't be the common name of a certificate.")
    return access


def render_hba(access: Access) -> str:
    """Lines for the beginning of ``pg_hba.conf``: the first that fits counts.

    Nobody gets into these roles in any other way.
    """
    roles = ",".join(access.roles)
    return (
        f"hostssl {access.database} {roles} {access.address} cert clientname=DN map={MAP}\n"
        f"host all {roles} all reject\n"
        f"local all {roles} reject\n"
    )


def render_ident(access: Access) -> str:
    """Lines for ``pg_ident.conf``: which certificate may be which role."""
    return "".join(
        f'{MAP} "CN={name}" {role}\n' for role, names in access.roles.items() for name in names
    )


def render_roles(access: Access) -> str:
    """SQL that makes the roles, without privileges but to connect; it can be run again."""
    made = "".join(
        f"DO $$ BEGIN CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE "
        "NOREPLICATION NOBYPASSRLS;\n"
        "EXCEPTION WHEN duplicate_object THEN NULL; END $$;\n"
        f"GRANT CONNECT ON DATABASE {access.database} TO {role};\n"
        for role in access.roles
    )
    return f"REVOKE CONNECT, TEMPORARY ON DATABASE {access.database} FROM PUBLIC;\n{made}"
