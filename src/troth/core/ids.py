"""Names: SPIFFE IDs and trust domains as the SPIFFE-ID standard defines them, and typed record ids.

Source: SPIFFE-ID.md, sections 2 (SPIFFE Identity), 2.1 (Trust Domain), 2.2 (Path),
2.3 (Maximum SPIFFE ID Length).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import NewType

from troth.core.entropy import Entropy
from troth.core.errors import Invalid

IdentityId = NewType("IdentityId", str)
InstanceId = NewType("InstanceId", str)
NodeId = NewType("NodeId", str)
AuthorityId = NewType("AuthorityId", str)
TokenId = NewType("TokenId", str)
CodeId = NewType("CodeId", str)
SecretId = NewType("SecretId", str)
EvidenceId = NewType("EvidenceId", str)
RequestId = NewType("RequestId", str)

MAX_SPIFFE_ID_LENGTH = 2048
MAX_TRUST_DOMAIN_LENGTH = 255
_SCHEME = "spiffe://"
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """A trust domain name: lower-case letters, digits, dots, dashes, underscores; ≤ 255 bytes."""

    name: str

    @classmethod
    def parse(cls, text: str) -> TrustDomain:
        """Read ``example.org`` or ``spiffe://example.org``; raises `Invalid` with the reason."""
        name = text.removeprefix(_SCHEME)
        if not name:
            raise Invalid("The trust domain is empty; give a name such as 'example.org'.")
        if len(name) > MAX_TRUST_DOMAIN_LENGTH:
            raise Invalid(f"The trust domain is longer than {MAX_TRUST_DOMAIN_LENGTH} characters.")
        if not _TRUST_DOMAIN.fullmatch(name):
            raise Invalid(
                f"{_shown(name)} is not a trust domain: use only a-z, 0-9, '.', '-' and '_'."
            )
        return cls(name)

    @property
    def id(self) -> SpiffeId:
        """The trust domain's own SPIFFE ID, with an empty path."""
        return SpiffeId(self, "")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A SPIFFE ID: a trust domain and a path that is empty or starts with a slash."""

    trust_domain: TrustDomain
    path: str

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """Read a ``spiffe://`` URI strictly; raises `Invalid` that says what to change."""
        if len(uri) > MAX_SPIFFE_ID_LENGTH:
            raise Invalid(f"The SPIFFE ID is longer than {MAX_SPIFFE_ID_LENGTH} bytes.")
        if not uri.startswith(_SCHEME):
            raise Invalid(f"{_shown(uri)} is not a SPIFFE ID: it must start with 'spiffe://'.")
        name, slash, rest = uri[len(_SCHEME) :].partition("/")
        return cls.of(TrustDomain.parse(name), slash + rest)

    @classmethod
    def of(cls, trust_domain: TrustDomain, path: str) -> SpiffeId:
        """Join a trust domain and a path (empty, or ``/segment[/segment…]``)."""
        check_path(path)
        made = cls(trust_domain, path)
        if len(str(made)) > MAX_SPIFFE_ID_LENGTH:
            raise Invalid(f"The SPIFFE ID is longer than {MAX_SPIFFE_ID_LENGTH} bytes.")
        return made

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain.name}{self.path}"


def check_path(path: str) -> None:
    """Raise `Invalid` unless `path` is empty or a legal SPIFFE ID path (section 2.2)."""
    if path == "":
        return
    if not path.startswith("/"):
        raise Invalid(f"The path {_shown(path)} must start with '/'.")
    if path.endswith("/"):
        raise Invalid(f"The path {_shown(path)} must not end with '/'.")
    for segment in path[1:].split("/"):
        if segment == "":
            raise Invalid(f"The path {_shown(path)} has an empty segment ('//').")
        if segment in (".", ".."):
            raise Invalid(f"The path {_shown(path)} has a relative segment '{segment}'.")
        if not _SEGMENT.fullmatch(segment):
            raise Invalid(
                f"The path segment {_shown(segment)} has a character outside A-Z a-z 0-9 . - _"
            )


def new_id(prefix: str, entropy: Entropy) -> str:
    """A fresh record id such as ``idn_3f9c…``: 96 random bits in lower-case hex."""
    return f"{prefix}_{entropy.token(12).hex()}"


def new_ordered_id(prefix: str, now: datetime, entropy: Entropy) -> str:
    """As `new_id`, the milliseconds since 1970 before the 96 random bits: ids of what is made in
    crowds then lie side by side in an index instead of all over it."""
    return f"{prefix}_{int(now.timestamp() * 1000):012x}{entropy.token(12).hex()}"


def _shown(text: str) -> str:
    """`text` for a message: quoted, escaped and cut, since it comes from outside."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
