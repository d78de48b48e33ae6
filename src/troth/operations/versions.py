"""Versions of what is declared about access: recorded with each change, signed, read back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import structlog

from troth.core.errors import Conflict, NotFound, Refused, TrothError
from troth.core.jose.jwk import derive_key_id
from troth.drivers.keystores import KeyKind, Keystore
from troth.operations.call import Call
from troth.operations.recording import record_event
from troth.policy.version import (
    Version,
    digest_content,
    find_fault,
    link_of,
    render_statement,
)
from troth.store.declarations import TYPES, Declared, describe_declared, name_kind
from troth.store.engine import Store
from troth.store.transaction import Transaction

log = structlog.get_logger(__name__)

KINDS = ("Segment", "Role", "Resource", "Policy")
"""The kinds of manifests that a version holds."""

KEY_REF = "policy-sets"
BATCH = 100


def encode_declared(declared: Iterable[Declared]) -> bytes:
    """Canonical JSON of what a version holds: by kind and name, with sorted members."""
    found = [(kind, one) for one in declared if (kind := name_kind(one)) in KINDS]
    found.sort(key=lambda one: (one[0], one[1].name))
    return b"[" + b",".join(_encode_one(kind, one) for kind, one in found) + b"]"


_MOST_ENCODED = 500_000
_ENCODED: dict[tuple[str, str], tuple[Declared, bytes]] = {}
"""What was encoded last, and from what: of thousands mostly one has changed."""


def _encode_one(kind: str, one: Declared) -> bytes:
    known = _ENCODED.get((kind, one.name))
    if known is not None and known[0] is one:
        return known[1]
    told = {"kind": kind, "name": one.name, "spec": describe_declared(one)}
    found = msgspec.json.encode(told, order="sorted")
    if len(_ENCODED) >= _MOST_ENCODED:
        _ENCODED.clear()
    _ENCODED[kind, one.name] = (one, found)
    return found


def decode_declared(content: bytes) -> list[Declared]:
    """What `encode_declared` made; kinds of a newer version are passed over."""
    return [
        msgspec.convert(one["spec"], TYPES[one["kind"]], strict=False)
        for one in msgspec.json.decode(content)
        if one["kind"] in KINDS
    ]


def read_declared(tx: Transaction, number: int) -> list[Declared]:
    """What a version declares; `NotFound` if there is none, `Refused` if it isn't what it was."""
    version = tx.policy_sets.get(number)
    content = tx.policy_sets.read_content(number)
    if digest_content(content) != version.digest:
        raise Refused(
            f"Version {number} isn't what was applied: its content was changed in the database. "
            "Restore it from a backup, or choose another version."
        )
    return decode_declared(content)


def record_version(
    tx: Transaction,
    call: Call[Any],
    declared: Iterable[Declared],
    now: datetime,
    author: str = "",
) -> Version:
    """Store what holds from now on, unsigned; an `author` other than who calls had it approved."""
    content = encode_declared(declared)
    last = tx.policy_sets.find_last()
    caller = call.caller.principal
    version = Version(
        number=1 if last is None else last.number + 1,
        digest=digest_content(content),
        previous="" if last is None else link_of(last),
        epoch=tx.journal.head(),
        author=author or caller,
        approver=caller if author else "",
        request_id=call.request_id,
        created_at=now,
    )
    tx.policy_sets.add(version, content)
    record_event(
        tx,
        call,
        "policy.recorded",
        str(version.number),
        now,
        number=version.number,
        digest=version.digest,
        link=link_of(version),
        author=version.author,
    )
    return version


@dataclass(frozen=True, slots=True)
class SignVersions:
    """Background, and after each change: sign what has no signature yet. Idempotent."""

    store: Store
    keystore: Keystore

    async def __call__(self) -> None:
        """The oldest first."""
        while waiting := await self.store.read(lambda tx: tx.policy_sets.list_unsigned(BATCH)):
            key_id, signatures = await asyncio.to_thread(self._sign, waiting)
            pairs = list(zip(waiting, signatures, strict=True))

            def note(tx: Transaction, key_id: str = key_id, pairs: Any = pairs) -> None:
                for version, signature in pairs:
                    tx.policy_sets.sign(version.number, key_id, signature)

            await self.store.transact(note)

    async def attempt(self) -> None:
        """The same; what fails is done by the background's next run."""
        try:
            await self()
        except TrothError as error:
            log.warning("policy.unsigned", code=error.code, detail=error.detail)

    def _sign(self, versions: Sequence[Version]) -> tuple[str, list[bytes]]:
        try:
            public_key = self.keystore.public_key(KEY_REF)
        except NotFound:
            try:
                public_key = self.keystore.create_key(KEY_REF, KeyKind.ED25519)
            except Conflict:  # another server made it at this moment
                public_key = self.keystore.public_key(KEY_REF)
        statements = [render_statement(one) for one in versions]
        return derive_key_id(public_key), self.keystore.sign_all(KEY_REF, statements)

    async def read_key(self) -> bytes:
        """The key that signs versions here (DER); b"" before there is one."""

        def read() -> bytes:
            try:
                return self.keystore.public_key(KEY_REF)
            except NotFound:
                return b""

        return await asyncio.to_thread(read)


def check_version(tx: Transaction, number: int, public_key: bytes) -> str:
    """What is wrong with one version, in a sentence; "" if nothing is."""
    version = tx.policy_sets.get(number)
    if digest_content(tx.policy_sets.read_content(number)) != version.digest:
        return "Its content was changed after it was applied."
    return find_fault(version, tx.policy_sets.find(number - 1), public_key)
