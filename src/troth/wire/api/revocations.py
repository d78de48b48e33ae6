"""Revocations on the wire: the stream that tells a verifier of peers whom to refuse.

A complete value first, or the changes since the epoch that the caller names; then changes and
heartbeats. Times of expiry are seconds of the Unix epoch: a list of 100,000 serials stays small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from troth.wire.api.nodes import StreamEnd


class FollowRevocations(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Follow whom to refuse. `after` and `mark` are those of the last message heard, if any."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    mark: Annotated[str, Meta(max_length=64)] = ""


class RevocationSnapshot(Struct, frozen=True, kw_only=True, tag_field="message", tag="snapshot"):
    """The complete value as of journal position `epoch`, which replaces all that was known.

    `cut_off` maps SPIFFE IDs to the state that cuts them off; `revoked` serials (lower-case hex) of
    unexpired certificates to their expiry; `distrusted` key identifiers (hex, or the ``kid`` of a
    key of tokens) of authorities that are trusted no more to theirs. `tokens` maps the ``jti`` of
    revoked access tokens to their expiry, and `issued_until` SPIFFE IDs and ids of instances to the
    second up to which, itself included, tokens were issued that count no more: those of which an
    identity is subject, client or actor, and those that an instance obtained.

    `as_of` is when this was known to be true, in seconds since the stream was opened, and may be
    negative; `lease` for how many seconds from then on it holds without another word. `mark` tells
    this journal from another one that reached the same position.
    """

    epoch: int
    mark: str
    as_of: float
    lease: float
    trust_domain: str
    cut_off: Mapping[str, str]
    revoked: Mapping[str, int]
    distrusted: Mapping[str, int]
    tokens: Mapping[str, int] = {}
    issued_until: Mapping[str, int] = {}


class RevocationChange(Struct, frozen=True, kw_only=True, tag_field="message", tag="change"):
    """What changed after journal position `since`: added, replaced, or, if `restored`, gone."""

    since: int
    epoch: int
    mark: str
    as_of: float
    lease: float
    cut_off: Mapping[str, str] = {}
    restored: Sequence[str] = []
    revoked: Mapping[str, int] = {}
    distrusted: Mapping[str, int] = {}
    tokens: Mapping[str, int] = {}
    issued_until: Mapping[str, int] = {}


class RevocationHeartbeat(Struct, frozen=True, kw_only=True, tag_field="message", tag="heartbeat"):
    """Nothing changed; what is known is complete as of journal position `epoch`."""

    epoch: int
    mark: str
    as_of: float


RevocationMessage = RevocationSnapshot | RevocationChange | RevocationHeartbeat | StreamEnd
