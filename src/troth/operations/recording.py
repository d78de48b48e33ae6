"""How operations write the journal: one event, in the transaction that changes the state."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from troth.core.events import Event
from troth.core.ids import RequestId
from troth.core.jose.jwk import derive_key_id
from troth.identity.identity import Identity
from troth.identity.readers import MAX_NODES
from troth.issuance.authorities import Authority, Use
from troth.issuance.der import identify_key
from troth.operations.call import SELF, Call
from troth.store.transaction import Transaction

BACKGROUND = Call(SELF, RequestId("background"), None)
"""The call as which background work records what it does."""


def make_event(call: Call[Any], type_: str, subject: str, now: datetime, **body: Any) -> Event:
    """An event of `type_` about `subject`, by the call's caller, with plain JSON values."""
    if call.caller.source:
        body["source"] = call.caller.source
    return Event(
        type=type_,
        subject=subject,
        actor=call.caller.principal,
        at=now,
        request_id=call.request_id,
        body=body,
    )


def record_event(
    tx: Transaction, call: Call[Any], type_: str, subject: str, now: datetime, **body: Any
) -> None:
    """Append what `make_event` makes."""
    tx.journal.append(make_event(call, type_, subject, now, **body))


def record_once(
    tx: Transaction,
    call: Call[Any],
    type_: str,
    subject: str,
    now: datetime,
    *,
    mark: str,
    **body: Any,
) -> bool:
    """Append what `make_event` makes, unless that was done with the same `mark` before; whether it
    was done now. For what is found again and again, and is an event once."""
    name = f"{type_}/{mark}"
    if tx.cursors.get(name):
        return False
    tx.cursors.save(name, 1)
    tx.journal.append(make_event(call, type_, subject, now, **body))
    return True


def record_identity(
    tx: Transaction,
    call: Call[Any],
    verbed: str,
    identity: Identity,
    now: datetime,
    before: Identity | None = None,
    **body: Any,
) -> None:
    """Append what `describe_identity` makes."""
    tx.journal.append(describe_identity(call, verbed, identity, now, before, **body))


def describe_identity(
    call: Call[Any],
    verbed: str,
    identity: Identity,
    now: datetime,
    before: Identity | None = None,
    **body: Any,
) -> Event:
    """``identity.<verbed>`` with the facts that snapshots need.

    `before` is the identity as it was, wherever its nodes or its end may have changed: the event
    names the nodes that hold it or held it, so that no other agent is woken (if those are too many,
    all are), and the end that it had, so that its past can be told.
    """
    if before is not None and before.expires_at != identity.expires_at:
        body["expires_before"] = before.expires_at.isoformat()
    nodes = {*identity.nodes, *(before.nodes if before else ())}
    if len(nodes) <= MAX_NODES:
        body["nodes"] = sorted(nodes)
    return make_event(
        call,
        f"identity.{verbed}",
        str(identity.spiffe_id),
        now,
        id=identity.id,
        name=identity.name,
        spiffe_id=str(identity.spiffe_id),
        state=identity.state.value,
        owner=identity.owner,
        revision=identity.revision,
        **body,
    )


def record_authority(
    tx: Transaction, call: Call[Any], verbed: str, authority: Authority, now: datetime, **body: Any
) -> None:
    """Append ``authority.<verbed>``; `key_id` is there once the key is."""
    if authority.public_key:
        body["key_id"] = name_key(authority)
    record_event(
        tx,
        call,
        f"authority.{verbed}",
        authority.id,
        now,
        use=authority.use.value,
        key=authority.key_ref,
        not_after=authority.not_after.isoformat(),
        **body,
    )


def name_key(authority: Authority) -> str:
    """How what it signed names its key: hexadecimal key identifier (X.509) or ``kid`` (tokens)."""
    if authority.use is Use.X509:
        return identify_key(authority.public_key).hex()
    return derive_key_id(authority.public_key)


def record_revocations(
    tx: Transaction, call: Call[Any], serials: list[str], reason: str, now: datetime
) -> None:
    """Append ``certificate.revoked`` for each serial that was just revoked."""
    tx.journal.append_all(
        [
            make_event(
                call,
                "certificate.revoked",
                found.subject,
                now,
                serial=found.serial,
                not_after=found.not_after.isoformat(),
                reason=reason,
            )
            for found in tx.certificates.list_named(serials)
        ]
    )
