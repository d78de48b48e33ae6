"""Versions: every set that was applied, numbered, signed and chained to the one before.

The statement of a version names its number, the digest of everything that was declared, and the
digest of the statement before it. So whoever changes, drops or adds one of them afterwards breaks
the chain, and without the key nobody makes a new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

import msgspec

from troth.core.errors import Invalid
from troth.core.jose.jwk import derive_key_id, load_key
from troth.core.jose.jws import verify_signature

CONTEXT = "troth policy set v1\n"
"""Begins every statement: a signature over anything else is none over a version."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version. `digest` is that of its content, in hex; `previous` that of the statement before
    it ("" for the first one). `epoch` is the journal's last position when it was applied: decisions
    of a later epoch know it. `approver` is who else agreed, if somebody had to. `key_id` and
    `signature` are empty until it is signed.
    """

    number: int
    digest: str
    previous: str
    epoch: int
    author: str
    approver: str
    request_id: str
    created_at: datetime
    key_id: str = ""
    signature: bytes = b""


def digest_content(content: bytes) -> str:
    """The digest of what a version declares, as canonical JSON."""
    return sha256(content).hexdigest()


def render_statement(version: Version) -> bytes:
    """What is signed: JSON with sorted names after a line that says what it is."""
    told = {
        "approver": version.approver,
        "author": version.author,
        "created_at": version.created_at.isoformat(),
        "digest": version.digest,
        "epoch": version.epoch,
        "number": version.number,
        "previous": version.previous,
        "request_id": version.request_id,
    }
    return CONTEXT.encode() + msgspec.json.encode(told, order="sorted")


def link_of(version: Version) -> str:
    """What the next version names as its `previous`."""
    return sha256(render_statement(version)).hexdigest()


def find_fault(version: Version, before: Version | None, public_key: bytes) -> str:
    """Why a version isn't what was applied and signed here, in a sentence; "" if it is.

    `before` is the one whose number is one less, `public_key` (DER) the key that signs versions
    here; b"" if there is none.
    """
    if version.number > 1 and before is None:
        return f"Version {version.number - 1}, which it follows, is missing."
    if version.previous != ("" if before is None else link_of(before)):
        return f"It doesn't follow version {version.number - 1} as that is stored now."
    if not version.signature:
        return "It isn't signed yet."
    if not public_key or derive_key_id(public_key) != version.key_id:
        return "It was signed by a key that this server's keystore doesn't hold."
    try:
        key = load_key(public_key)
        verify_signature("EdDSA", key, render_statement(version), version.signature)
    except Invalid:
        return "Its signature is wrong: it was changed after it was applied."
    return ""


def find_faults(
    versions: Iterable[Version], before: Version | None, public_key: bytes
) -> dict[int, str]:
    """What `find_fault` says of each of these, which follow each other and `before`; by number."""
    faults: dict[int, str] = {}
    for version in versions:
        faults[version.number] = find_fault(version, before, public_key)
        before = version
    return faults
