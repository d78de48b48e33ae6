"""Evidence on the wire: that something is in the log, to be checked without any server."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from troth.wire.api.route import Route

EntryName = Annotated[str, Meta(pattern=r"^([1-9][0-9]{0,18}|dec_[0-9a-f]{1,60})$(?!\n)")]


class ProveEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name what is to be proved: an event by its position in the journal, or a decision by its id
    (``dec_…``)."""

    entry: EntryName


class DecisionEvidence(Struct, frozen=True, kw_only=True):
    """Record `index` of the segment's `size` records, and its path to the segment's root. Hashes
    and the entry are hexadecimal."""

    server: str
    segment: int
    index: int
    size: int
    entry: str
    path: list[str]


class Evidence(Struct, frozen=True, kw_only=True):
    """The document that `troth audit verify` reads: the log's entry, the `detail` that it commits
    to (salt and detail in hexadecimal; null if it was redacted), and a C2SP tlog-proof. With a
    decision, the entry is the event ``decisions.closed`` of its segment."""

    format: str
    entry: str
    detail: str | None
    proof: str
    decision: DecisionEvidence | None = None


ROUTES = (
    Route(
        "audit.prove",
        "GET",
        "/v1/audit/proofs/{entry}",
        ProveEntry,
        Evidence,
        "Prove an event or a decision: evidence that needs no server.",
    ),
)
