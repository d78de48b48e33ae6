"""Requests and results about checkpoints of the log."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from troth.core.logsize import LARGEST_SIZE
from troth.wire.api.route import Route

LONGEST_NOTE = 64 << 10
"""Characters: a checkpoint with some sixteen cosignatures."""


class ShowCheckpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the newest checkpoint, and that it continues one of `since` entries."""

    since: Annotated[int, Meta(ge=0, le=LARGEST_SIZE)] = 0


class CheckpointShown(Struct, frozen=True, kw_only=True):
    """`note` as C2SP tlog-checkpoint has it, `keys` as signed-note writes them. `proof` leads from
    `since` to it, in hexadecimal; it is empty if that is larger."""

    note: str
    keys: list[str]
    proof: list[str]


class DisputeCheckpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint that was seen, and that the log isn't thought to continue."""

    note: Annotated[str, Meta(max_length=LONGEST_NOTE)]


class DisputeAnswer(Struct, frozen=True, kw_only=True):
    """Whether the log continues that checkpoint after all. If not, it is on record now."""

    continued: bool
    detail: str


class AbandonCheckpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Go on without the checkpoint that was signed last and that the log contradicts."""

    reason: Annotated[str, Meta(min_length=1, max_length=1000)]


class CheckpointAbandoned(Struct, frozen=True, kw_only=True):
    """What isn't continued: how many entries it had, and their root in hexadecimal."""

    size: int
    root: str


ROUTES: tuple[Route, ...] = (
    Route(
        "checkpoint.show",
        "GET",
        "/v1/checkpoint",
        ShowCheckpoint,
        CheckpointShown,
        "Show the log's newest checkpoint, with a proof that it continues an older one.",
    ),
    Route(
        "checkpoint.dispute",
        "POST",
        "/v1/checkpoint/disputes",
        DisputeCheckpoint,
        DisputeAnswer,
        "Tell of a checkpoint that the log doesn't continue.",
    ),
    Route(
        "checkpoint.abandon",
        "POST",
        "/v1/checkpoint/abandon",
        AbandonCheckpoint,
        CheckpointAbandoned,
        "Go on with the log though it contradicts what was signed: after a fork was looked into.",
    ),
)
