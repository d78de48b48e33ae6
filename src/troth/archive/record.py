"""One decision as it is kept: who asked what about whom, the answer, and the facts it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from troth.core.errors import Invalid, TooLarge

LARGEST = 256 << 10
"""Bytes of the largest record. A typical one has some 300."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One answer.

    `at` is UTC, with microseconds. `caller` is who asked (a SPIFFE ID, ``uid:N``), `point` how
    (``authzen``, ``envoy``, ``sdk``, ``api``, …). `resource` is the name of the declaration that
    was meant, "" if none was found. `policies` are those that determined the answer, `epoch` the
    journal position of the set they are from. `facts` are what the decision read, by name, as plain
    JSON values: with them it can be made again under another set.
    """

    id: str
    at: datetime
    request_id: str
    caller: str
    point: str
    subject_type: str
    subject: str
    action: str
    resource: str
    resource_type: str
    resource_id: str
    allowed: bool
    policies: tuple[str, ...]
    reason: str
    epoch: int
    facts: Mapping[str, Any] = field(default_factory=dict)


class _Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The fields in their order. A later version may append some; they are skipped here."""

    id: str
    at: int
    request_id: str
    caller: str
    point: str
    subject_type: str
    subject: str
    action: str
    resource: str
    resource_type: str
    resource_id: str
    allowed: bool
    policies: tuple[str, ...]
    reason: str
    epoch: int
    facts: dict[str, Any]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Kept)


def count_microseconds(at: datetime) -> int:
    """Microseconds since 1970, as segments keep times."""
    return (at - _EPOCH) // _TICK


def place_microseconds(count: int) -> datetime:
    """The time that `count_microseconds` counted; `Invalid` if no calendar has it."""
    try:
        return _EPOCH + timedelta(microseconds=count)
    except OverflowError:
        raise Invalid("A time in the decision log lies beyond every calendar.") from None


def encode_record(record: DecisionRecord) -> tuple[int, bytes]:
    """The record's time in microseconds, and its bytes: a MessagePack array of the fields.

    Raises `Invalid` for facts that are no plain JSON (numbers beyond 64 bits among them), and
    `TooLarge` beyond `LARGEST`.
    """
    r = record
    at = count_microseconds(r.at)
    facts = r.facts if type(r.facts) is dict else dict(r.facts)
    try:
        # A tuple is an array, as the struct is, and half the work.
        entry = _encoder.encode(
            (
                r.id,
                at,
                r.request_id,
                r.caller,
                r.point,
                r.subject_type,
                r.subject,
                r.action,
                r.resource,
                r.resource_type,
                r.resource_id,
                r.allowed,
                r.policies,
                r.reason,
                r.epoch,
                facts,
            )
        )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Invalid(
            "The decision can't be recorded, so it isn't answered: its facts must be plain JSON, "
            "with numbers of at most 64 bits and well-formed text."
        ) from error
    if len(entry) > LARGEST:
        raise TooLarge(
            f"The decision can't be recorded, so it isn't answered: with its facts it has "
            f"{len(entry)} bytes, at most {LARGEST}. Send less context."
        )
    return at, entry


def decode_record(entry: bytes) -> DecisionRecord:
    """The record in these bytes, also one of a later version; `Invalid` if there is none."""
    if len(entry) > LARGEST:
        raise Invalid("The entry is larger than any decision.")
    try:
        kept = _decoder.decode(entry)
    except (ValueError, RecursionError, OverflowError) as error:
        raise Invalid("The entry is no decision that this version can read.") from error
    return DecisionRecord(
        kept.id,
        place_microseconds(kept.at),
        kept.request_id,
        kept.caller,
        kept.point,
        kept.subject_type,
        kept.subject,
        kept.action,
        kept.resource,
        kept.resource_type,
        kept.resource_id,
        kept.allowed,
        kept.policies,
        kept.reason,
        kept.epoch,
        kept.facts,
    )
