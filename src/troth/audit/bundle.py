"""Evidence that can be checked years later, without a server: one JSON document for one event.

It holds the log's entry, the detail that the entry commits to (unless that was taken out), and a
proof of the log. For a decision the event is the one that told of its segment's end: the decision
leads to the segment's root, that stands in the event's detail, and the event is in the log. Nothing
in the document is believed: each step follows from the one before, and the first from keys that the
verifier had beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from troth.audit.checkpoint import Checkpoint, parse_checkpoint
from troth.audit.entry import LARGEST_DETAIL, LARGEST_ENTRY, Detail, Leaf, open_detail, read_leaf
from troth.audit.merkle import HASH_SIZE, LONGEST_PATH, compute_root, hash_leaf
from troth.audit.note import parse_note
from troth.audit.proof import (
    LARGEST_PROOF,
    LogProof,
    Trust,
    parse_log_proof,
    render_log_proof,
    verify_checkpoint,
    verify_path,
)
from troth.core.errors import Invalid

FORMAT = "troth-audit-bundle/v1"
SEGMENT_CLOSED = "decisions.closed"
"""The event whose body holds the root of a segment of decisions."""
LARGEST_DECISION = 1 << 20
"""Bytes of a decision's entry: more than any has."""
LARGEST_BUNDLE = 2 * (LARGEST_DETAIL + LARGEST_DECISION + LARGEST_PROOF + LARGEST_ENTRY)
"""Bytes of the document: the details and the decision are hexadecimal."""


@dataclass(frozen=True, slots=True)
class DecisionEvidence:
    """Record `index` of segment `segment` of a server, which has `size` records, and its path to
    the segment's root."""

    server: str
    segment: int
    index: int
    size: int
    entry: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """`entry` is the leaf as it is in the log; `beside` its salt and detail, empty if it was
    redacted."""

    entry: bytes
    beside: bytes
    proof: LogProof
    decision: DecisionEvidence | None = None


class _Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    server: str
    segment: int
    index: int
    size: int
    entry: str
    path: list[str]


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    entry: str
    detail: str | None
    proof: str
    decision: _Decision | None = None


_decoder = msgspec.json.Decoder(_Document)


class Outcome(StrEnum):
    """What became of a step."""

    SHOWN = "shown"
    """It follows from the keys and from the steps before."""
    ABSENT = "absent"
    """There is nothing to show: the detail was taken out, or not handed on."""
    OPEN = "open"
    """It can't be shown with what is there."""
    WRONG = "wrong"
    """It isn't so."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at, in words."""

    number: int
    outcome: Outcome
    words: str


@dataclass(slots=True)
class Verdict:
    """All steps that were taken; the first one that isn't as it must be is the last.

    `leaf` and `detail` are what the event says, each None unless a step showed it.
    """

    steps: list[Step] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    leaf: Leaf | None = None
    detail: Detail | None = None

    @property
    def holds(self) -> bool:
        """Whether everything is shown, but for what was taken out."""
        fine = (Outcome.SHOWN, Outcome.ABSENT)
        return bool(self.steps) and all(step.outcome in fine for step in self.steps)

    def note(self, outcome: Outcome, words: str) -> None:
        """Add a step."""
        self.steps.append(Step(len(self.steps) + 1, outcome, words))


def parse_bundle(data: bytes) -> Bundle:
    """The bundle in these bytes; `Invalid` if there is none. Nothing is verified yet."""
    if len(data) > LARGEST_BUNDLE:
        raise Invalid(f"The bundle has more than {LARGEST_BUNDLE:,} bytes.")
    try:
        found = _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        raise Invalid(
            "That is no bundle: `troth audit prove` writes one, and nothing may be added to it."
        ) from error
    if found.format != FORMAT:
        raise Invalid(
            f"The bundle has the format {found.format[:40]!r}, and this version of troth reads "
            f"{FORMAT!r}."
        )
    beside = b"" if found.detail is None else _decode_hex(found.detail)
    if (found.detail == "") or len(beside) > LARGEST_DETAIL:
        raise Invalid("The bundle's detail is none: where it was redacted, it is null.")
    entry = found.entry.encode()
    if len(entry) > LARGEST_ENTRY:
        raise Invalid("The bundle's entry is larger than any entry of a log.")
    decision = None if found.decision is None else _parse_decision(found.decision)
    return Bundle(entry, beside, parse_log_proof(found.proof.encode()), decision)


def _parse_decision(found: _Decision) -> DecisionEvidence:
    entry, path = _decode_hex(found.entry), tuple(map(_decode_hex, found.path))
    if len(entry) > LARGEST_DECISION or len(path) > LONGEST_PATH:
        raise Invalid("The bundle's decision is larger than any.")
    if any(len(one) != HASH_SIZE for one in path):
        raise Invalid("The path of the bundle's decision holds something that is no SHA-256 hash.")
    return DecisionEvidence(found.server, found.segment, found.index, found.size, entry, path)


def render_bundle(bundle: Bundle) -> bytes:
    """The document, indented; `Invalid` if `parse_bundle` wouldn't read the same."""
    decision = bundle.decision
    document = _Document(
        format=FORMAT,
        entry=bundle.entry.decode(errors="replace"),
        detail=bundle.beside.hex() or None,
        proof=render_log_proof(bundle.proof).decode(),
        decision=None
        if decision is None
        else _Decision(
            server=decision.server,
            segment=decision.segment,
            index=decision.index,
            size=decision.size,
            entry=decision.entry.hex(),
            path=[one.hex() for one in decision.path],
        ),
    )
    data = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    if parse_bundle(data) != bundle:
        raise Invalid("The bundle can't be written so that it would be read again.")
    return data


def verify_bundle(bundle: Bundle, trust: Trust | None, *, foreign: bool = False) -> Verdict:
    """Go through a bundle step by step. Without `trust` the first step stays open.

    What the later steps show then holds for whoever signed, who may be anybody. Of a `foreign` log
    only that it holds the entry is shown, whatever that says.
    """
    verdict = Verdict()
    show_checkpoint(bundle.proof.checkpoint, trust, verdict)
    steps: list[Callable[[Bundle, Verdict], None]] = [_show_inclusion]
    if not foreign:
        steps += [_show_leaf, _show_detail]
    if bundle.decision is not None:
        steps += [_show_segment, _show_decision]
    for step in steps:
        if any(one.outcome is Outcome.WRONG for one in verdict.steps):
            break
        step(bundle, verdict)
    return verdict


def show_checkpoint(note: bytes, trust: Trust | None, verdict: Verdict) -> None:
    """The first step: whether the checkpoint in `note` is signed and cosigned as it must be."""
    try:
        if trust is None:
            found = parse_checkpoint(parse_note(note).text)
            verdict.checkpoint = found
            words = f"Nobody knows whether the log {found.origin!r} signed the checkpoint of "
            words += f"{found.size} entries: no key of it was given."
            verdict.note(Outcome.OPEN, words)
            return
        trusted = verify_checkpoint(note, trust)
    except Invalid as error:
        words = f"The checkpoint isn't one that the log's keys vouch for. {error.detail}"
        verdict.note(Outcome.WRONG, words)
        return
    verdict.checkpoint = found = trusted.checkpoint
    ids = " and ".join(key.key_id.hex() for key in trust.keys)
    words = f"The log {found.origin!r} signed that it has {found.size} entries with the root "
    verdict.note(Outcome.SHOWN, f"{words}{found.root.hex()} (key {ids}).")
    if trust.policy is not None and trust.policy.quorum:
        who = ", ".join(trusted.witnesses)
        words = f"{len(trusted.witnesses)} witnesses saw that checkpoint, and "
        verdict.note(Outcome.SHOWN, f"{words}{trust.policy.quorum} must have: {who}.")


def _show_inclusion(bundle: Bundle, verdict: Verdict) -> None:
    proof, checkpoint = bundle.proof, verdict.checkpoint
    if checkpoint is None:
        return
    try:
        verify_path(proof, bundle.entry, checkpoint)
    except Invalid as error:
        verdict.note(Outcome.WRONG, f"The entry isn't in that log. {error.detail}")
        return
    words = f"Entry {proof.index} of the log is this one: its path of {len(proof.path)} hashes "
    verdict.note(Outcome.SHOWN, f"{words}leads to that root.")


def _show_leaf(bundle: Bundle, verdict: Verdict) -> None:
    try:
        leaf = read_leaf(bundle.entry)
    except Invalid as error:
        verdict.note(Outcome.OPEN, f"{error.detail} Is the log somebody else's?")
        return
    if leaf.position != bundle.proof.index + 1:
        words = f"The entry says that it is event {leaf.position}, and it stands in the place of "
        verdict.note(Outcome.WRONG, f"{words}event {bundle.proof.index + 1}.")
        return
    verdict.leaf = leaf
    words = f"It says: event {leaf.position}, {leaf.type}, {leaf.outcome}, at {leaf.at}, because "
    verdict.note(Outcome.SHOWN, f"{words}of request {leaf.request_id}.")


def _show_detail(bundle: Bundle, verdict: Verdict) -> None:
    if verdict.leaf is None:
        return
    try:
        detail = open_detail(verdict.leaf, bundle.beside)
    except Invalid as error:
        verdict.note(Outcome.WRONG, error.detail)
        return
    if detail is None:
        words = "Who did it, and to what, isn't there: it was taken out, or not handed on."
        verdict.note(Outcome.ABSENT, words)
        return
    verdict.detail = detail
    words = f"The detail is the one that the entry commits to: {detail.actor} did it to "
    verdict.note(Outcome.SHOWN, f"{words}{detail.subject}.")


def _show_segment(bundle: Bundle, verdict: Verdict) -> None:
    decision, leaf, detail = bundle.decision, verdict.leaf, verdict.detail
    if decision is None:
        return
    if leaf is None or detail is None:
        words = "What the segment's root was can't be told any more: the event's detail is gone."
        verdict.note(Outcome.OPEN, words)
        return
    told = tuple(detail.body.get(name) for name in ("server", "segment", "size"))
    if leaf.type != SEGMENT_CLOSED or told != (decision.server, decision.segment, decision.size):
        words = f"The event isn't the one that tells of segment {decision.segment} of server "
        words += f"{decision.server} with {decision.size} decisions."
        verdict.note(Outcome.WRONG, words)
        return
    words = f"The event says that segment {decision.segment} of server {decision.server} was "
    words += f"closed with {decision.size} decisions and the root {_find_root(detail)}."
    verdict.note(Outcome.SHOWN, words)


def _show_decision(bundle: Bundle, verdict: Verdict) -> None:
    decision, detail = bundle.decision, verdict.detail
    if decision is None or detail is None:
        return
    leaf = hash_leaf(decision.entry)
    try:
        root = compute_root(leaf, decision.index, decision.size, decision.path)
        if root.hex() != _find_root(detail):
            raise Invalid("Its path leads to another root.")
    except Invalid as error:
        verdict.note(Outcome.WRONG, f"The decision isn't in that segment. {error.detail}")
        return
    words = f"The decision is record {decision.index} of that segment: its path of "
    verdict.note(Outcome.SHOWN, f"{words}{len(decision.path)} hashes leads to that root.")


def _find_root(detail: Detail) -> str:
    root = detail.body.get("root")
    return root if isinstance(root, str) else ""


def _decode_hex(text: str) -> bytes:
    """Lower-case hexadecimal without spaces, and nothing else."""
    try:
        found = bytes.fromhex(text)
    except ValueError as error:
        raise Invalid("Something in the bundle isn't hexadecimal that should be.") from error
    if found.hex() != text:
        raise Invalid("Something in the bundle is hexadecimal, but not in lower case alone.")
    return found
