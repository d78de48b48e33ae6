"""Entries of the log: what stands in its leaves, and what stands beside them.

A leaf says that something of a type happened at a time, with which outcome and because of which
request. Who did what to whom, from where and why is the detail: the leaf holds SHA-256 over a
random salt and the detail, so that it can be published, and the detail be taken out later, without
breaking any proof. Leaf ``n`` (from 0 on) is the event at position ``n + 1`` of the sealed journal.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from troth.core.errors import Invalid

SALT_SIZE = 16
LARGEST_ENTRY = 65_535
"""Bytes of an entry: its length stands before it in 16 bits (C2SP tlog-tiles, "Log entries")."""
MOST_ENTRIES = 256
"""Entries of a full bundle (C2SP tlog-tiles, "Log entries")."""
LARGEST_DETAIL = 16 << 20
"""Bytes of a detail: more than any event has."""

_LENGTH = struct.Struct(">H")
_DETAIL_LENGTH = struct.Struct(">I")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MOMENT = "%Y-%m-%dT%H:%M:%S.%f%z"
_encoder = msgspec.json.Encoder()

FAILURE_WORDS = frozenset(
    {"refused", "rejected", "denied", "failed", "damaged", "forked", "disputed", "broken"}
)
"""The last words of event types that tell of something that didn't come to pass as it should."""


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of the log. `detail` is the commitment, in hexadecimal; `at` RFC 3339 in UTC;
    `outcome` ``success`` or ``failure``."""

    at: str
    detail: str
    outcome: str
    position: int
    request_id: str
    type: str
    version: int

    @property
    def microseconds(self) -> int:
        """When it happened, in microseconds since 1970; `Invalid` if that is no time."""
        try:
            at = datetime.strptime(self.at, _MOMENT).astimezone(UTC)
        except ValueError as error:
            raise Invalid(f"Entry {self.position - 1} has no time that can be read.") from error
        return (at - _EPOCH) // _MICROSECOND


class Detail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a leaf commits to. `body` is the event's, with `source` and `reason` where it has
    them."""

    actor: str
    body: dict[str, Any]
    subject: str


class StoredEvent(NamedTuple):
    """A sealed event as it lies in the journal: `at` in microseconds since 1970, `body` as JSON
    text. `salt` is None once the event is redacted; `digest` is its commitment from then on."""

    position: int
    type: str
    version: int
    subject: str
    actor: str
    at: int
    request_id: str
    body: str
    salt: bytes | None
    digest: bytes | None


class _DetailText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A detail whose body is left as it is written."""

    actor: str
    body: msgspec.Raw
    subject: str


_leaf_decoder = msgspec.json.Decoder(Leaf)
_detail_decoder = msgspec.json.Decoder(Detail)
_text_decoder = msgspec.json.Decoder(_DetailText)


@lru_cache(1024)
def find_outcome(type_: str) -> str:
    """Whether what the type tells of is a success or a failure."""
    return "failure" if type_.rpartition(".")[2].rpartition("_")[2] in FAILURE_WORDS else "success"


def render_moment(microseconds: int) -> str:
    """Microseconds since 1970 as RFC 3339, always with six digits."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{_render_second(seconds)}.{rest:06d}Z"


@lru_cache(1024)
def _render_second(seconds: int) -> str:
    """Most of a moment: it is the same for many events that follow each other."""
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}"


def render_detail(event: StoredEvent) -> bytes:
    """The detail's bytes: JSON with sorted keys. The body's text is taken as it is stored."""
    actor, subject = _encoder.encode(event.actor), _encoder.encode(event.subject)
    return b'{"actor":%b,"body":%b,"subject":%b}' % (actor, event.body.encode(), subject)


def commit_detail(salt: bytes, detail: bytes) -> bytes:
    """The commitment: SHA-256 over the salt, which always has `SALT_SIZE` bytes, and the detail."""
    return sha256(salt + detail).digest()


def render_leaf(event: StoredEvent, digest: bytes) -> bytes:
    """The entry's bytes: JSON with sorted keys and no space."""
    return (
        b'{"at":"%b","detail":"%b","outcome":"%b","position":%d,"request_id":%b,"type":"%b",'
        b'"version":%d}'
        % (
            render_moment(event.at).encode(),
            digest.hex().encode(),
            find_outcome(event.type).encode(),
            event.position,
            _encoder.encode(event.request_id),
            event.type.encode(),
            event.version,
        )
    )


def render_entry(event: StoredEvent) -> tuple[bytes, bytes]:
    """The leaf's bytes, and what lies beside it: salt and detail, or nothing if it is redacted."""
    if event.salt is None:
        if event.digest is None:
            raise Invalid(f"The event at position {event.position} has neither salt nor digest.")
        return render_leaf(event, event.digest), b""
    detail = render_detail(event)
    return render_leaf(event, commit_detail(event.salt, detail)), event.salt + detail


def read_leaf(entry: bytes) -> Leaf:
    """The leaf in these bytes; `Invalid` if they are none."""
    if len(entry) > LARGEST_ENTRY:
        raise Invalid("The entry is larger than any entry of a log.")
    try:
        return _leaf_decoder.decode(entry)
    except (ValueError, RecursionError) as error:
        raise Invalid("The entry is none that this version of troth can read.") from error


def open_detail(leaf: Leaf, beside: bytes) -> Detail | None:
    """The detail that lies beside a leaf, once it is shown to be the one that the leaf commits to.

    None if it was redacted; `Invalid` if it is another one.
    """
    if not beside:
        return None
    salt, detail = beside[:SALT_SIZE], beside[SALT_SIZE:]
    if commit_detail(salt, detail).hex() != leaf.detail:
        raise Invalid(
            f"The detail beside entry {leaf.position - 1} isn't the one that the log commits to: "
            "it was altered."
        )
    try:
        return _detail_decoder.decode(detail)
    except (ValueError, RecursionError) as error:
        raise Invalid("The detail is none that this version of troth can read.") from error


def restore_event(entry: bytes, beside: bytes) -> StoredEvent:
    """The event as it lay in the journal; `Invalid` unless the detail is the entry's own."""
    leaf = read_leaf(entry)
    found = open_detail(leaf, beside)
    text = None if found is None else _text_decoder.decode(beside[SALT_SIZE:])
    return StoredEvent(
        position=leaf.position,
        type=leaf.type,
        version=leaf.version,
        subject=text.subject if text else "",
        actor=text.actor if text else "",
        at=leaf.microseconds,
        request_id=leaf.request_id,
        body=bytes(text.body).decode() if text else "{}",
        salt=beside[:SALT_SIZE] if text else None,
        digest=None if text else _decode_commitment(leaf),
    )


def _decode_commitment(leaf: Leaf) -> bytes:
    try:
        return bytes.fromhex(leaf.detail)
    except ValueError as error:
        raise Invalid(f"Entry {leaf.position - 1} commits to nothing that can be read.") from error


def join_entries(entries: Iterable[bytes]) -> bytes:
    """An entry bundle: each entry with its length in 16 bits before it (C2SP tlog-tiles)."""
    return b"".join(_LENGTH.pack(len(entry)) + entry for entry in entries)


def split_entries(bundle: bytes) -> list[bytes]:
    """The entries of a bundle; `Invalid` if it is cut off."""
    return _split(bundle, _LENGTH, LARGEST_ENTRY)


def join_details(details: Iterable[bytes]) -> bytes:
    """What lies beside the entries of a bundle, each with its length in 32 bits before it."""
    return b"".join(_DETAIL_LENGTH.pack(len(one)) + one for one in details)


def split_details(bundle: bytes) -> list[bytes]:
    """What lies beside each entry of a bundle; empty where it was redacted. `Invalid` if it is cut
    off."""
    return _split(bundle, _DETAIL_LENGTH, LARGEST_DETAIL)


def _split(bundle: bytes, length: struct.Struct, largest: int) -> list[bytes]:
    found: list[bytes] = []
    at, size = 0, len(bundle)
    while at < size:
        if at + length.size > size:
            raise Invalid("A bundle ends in the middle of a length: it was cut off.")
        (count,) = length.unpack_from(bundle, at)
        at += length.size
        if count > largest or at + count > size:
            raise Invalid("A bundle ends in the middle of an entry: it was cut off or altered.")
        if len(found) > MOST_ENTRIES:  # one more than there can be is still told as that
            raise Invalid(f"A bundle holds more than {MOST_ENTRIES} entries.")
        found.append(bundle[at : at + count])
        at += count
    return found
