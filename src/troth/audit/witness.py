"""Witnesses (C2SP tlog-witness): what a log asks of one, what it answers, and how many must sign.

A witness cosigns a checkpoint only if it continues the one that it cosigned before. So as long as
enough of them are honest, nobody is shown a log that others aren't shown too.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from troth.audit.checkpoint import Checkpoint, parse_checkpoint, parse_size
from troth.audit.cosignature import read_timestamp
from troth.audit.merkle import EMPTY_ROOT, HASH_SIZE, verify_consistency
from troth.audit.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    Note,
    Signature,
    VerifierKey,
    decode_base64,
    parse_note,
    parse_signatures,
    render_note,
    verify_note,
)
from troth.core.errors import Invalid, TooLarge

PATH = "/add-checkpoint"
SIZE_TYPE = "text/x.tlog.size"
"""The media type of an answer that is a size."""
MOST_PROOF = 63
"""Hashes of a proof ("MUST NOT send more than 63 consistency proof lines")."""
LARGEST_SUBMISSION = 128 << 10
"""Bytes of a request: 63 hashes, and a note with sixteen of the largest signatures there are."""
LARGEST_ANSWER = 64 << 10
"""Bytes of an answer: more than a dozen cosignatures have."""
MOST_WITNESSES = 32
"""Keys of a policy: a note has room for twice as many signatures."""

_OLD = re.compile(r"old ([0-9]{1,19})", re.ASCII)


class Reason(StrEnum):
    """Why a witness doesn't cosign."""

    MALFORMED = "malformed"
    UNKNOWN_LOG = "unknown_log"
    UNSIGNED = "unsigned"
    STALE = "stale"
    """It cosigned a checkpoint of another size than the request starts from."""
    FORKED = "forked"
    """It cosigned one of the same size with another root: the log has signed both."""
    INCONSISTENT = "inconsistent"
    """The proof doesn't lead from what it cosigned to the new checkpoint."""


STATUSES = {
    Reason.MALFORMED: 400,
    Reason.UNKNOWN_LOG: 404,
    Reason.UNSIGNED: 403,
    Reason.STALE: 409,
    Reason.FORKED: 409,
    Reason.INCONSISTENT: 422,
}
"""What each is in HTTP (tlog-witness, "add-checkpoint")."""
_REASONS = {status: reason for reason, status in STATUSES.items()}


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to cosign: the `proof` leads from the tree of `old_size` to the note's."""

    old_size: int
    proof: tuple[bytes, ...]
    note: Note


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The checkpoint may be cosigned; `signatures` of the note are the log's own."""

    checkpoint: Checkpoint
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """It may not. `size` is that of the last one that was cosigned, where that is the reason."""

    reason: Reason
    detail: str
    size: int = 0

    @property
    def is_evidence(self) -> bool:
        """Whether the log may have two histories, so that both checkpoints must be kept.

        `FORKED` proves it: the log signed both. `INCONSISTENT` doesn't by itself, since anybody
        can send a true checkpoint with a wrong proof; but a log that has two histories can do
        nothing else.
        """
        return self.reason in (Reason.FORKED, Reason.INCONSISTENT)


def parse_submission(body: bytes) -> Submission:
    """The request in these bytes; `TooLarge` or `Invalid` if there is none."""
    if len(body) > LARGEST_SUBMISSION:
        raise TooLarge(f"The request has more than {LARGEST_SUBMISSION:,} bytes.")
    head, gap, note = body.partition(b"\n\n")
    try:
        old, *proof = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise Invalid("What stands above the checkpoint isn't ASCII.") from error
    found = _OLD.fullmatch(old)
    if not gap or found is None or len(proof) > MOST_PROOF:
        raise Invalid(
            f"The request is 'old SIZE', at most {MOST_PROOF} hashes, each on a line, an empty "
            "line and a checkpoint."
        )
    return Submission(parse_size(found[1]), tuple(map(_parse_hash, proof)), parse_note(note))


def render_submission(submission: Submission) -> bytes:
    """The request's bytes. `Invalid` for a proof that is longer than any."""
    if len(submission.proof) > MOST_PROOF:
        raise Invalid(f"A proof has {MOST_PROOF} hashes at most.")
    lines = [f"old {submission.old_size}", *(b64encode(one).decode() for one in submission.proof)]
    return "".join(f"{line}\n" for line in (*lines, "")).encode() + render_note(submission.note)


def judge_submission(
    known: Checkpoint | None, submission: Submission, keys: Iterable[VerifierKey]
) -> Acceptance | Refusal:
    """What a witness makes of a request, in the specification's order.

    `known` is the last checkpoint of this log that it cosigned, if there is one; `keys` are those
    of all logs that it knows, each called as its log is.
    """
    note = submission.note
    try:
        checkpoint = parse_checkpoint(note.text)
    except Invalid as error:
        return Refusal(Reason.MALFORMED, error.detail)
    mine = [key for key in keys if key.name == checkpoint.origin]
    if not mine:
        return Refusal(Reason.UNKNOWN_LOG, "This witness doesn't know the log.")
    try:
        signers = verify_note(note, mine)
    except Invalid as error:
        return Refusal(Reason.UNSIGNED, error.detail)
    refusal = _find_fault(known, submission, checkpoint)
    if refusal is not None:
        return refusal
    ids = {(key.name, key.key_id) for key in signers}
    return Acceptance(
        checkpoint, tuple(one for one in note.signatures if (one.name, one.key_id) in ids)
    )


def _find_fault(
    known: Checkpoint | None, submission: Submission, checkpoint: Checkpoint
) -> Refusal | None:
    old, size = submission.old_size, known.size if known else 0
    if old > checkpoint.size:
        return Refusal(Reason.MALFORMED, "The old size is larger than the checkpoint's.")
    if old != size:
        return Refusal(Reason.STALE, f"The last checkpoint here is of {size} entries.", size)
    if not checkpoint.size and checkpoint.root != EMPTY_ROOT:
        return Refusal(Reason.INCONSISTENT, "The root of an empty log is another one.")
    if known is not None and old == checkpoint.size and known.root != checkpoint.root:
        return Refusal(Reason.FORKED, f"The log of {size} entries had another root before.")
    try:
        if known is not None and old:
            verify_consistency(old, known.root, checkpoint.size, checkpoint.root, submission.proof)
        elif submission.proof:
            raise Invalid("From an empty log on there is no proof.")
    except Invalid as error:
        return Refusal(Reason.INCONSISTENT, error.detail)
    return None


# What comes back


@dataclass(frozen=True, slots=True)
class Cosigned:
    """The witness's lines, of which nothing is verified yet."""

    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Declined:
    """The witness didn't cosign; `size` is what it has, if that is the reason."""

    reason: Reason
    size: int = 0


def render_size(size: int) -> bytes:
    """The body of an answer that tells which size the witness has."""
    return f"{size}\n".encode()


def parse_answer(status: int, media_type: str, body: bytes) -> Cosigned | Declined:
    """What a witness answered; `Invalid` if no witness answers so."""
    if len(body) > LARGEST_ANSWER:
        raise Invalid(f"The answer has more than {LARGEST_ANSWER:,} bytes.")
    if status == 200:
        return Cosigned(parse_signatures(body))
    reason = _REASONS.get(status)
    if reason is None:
        raise Invalid(f"The witness answers with status {status}.")
    if status != STATUSES[Reason.STALE]:
        return Declined(reason)
    if media_type.partition(";")[0].strip().lower() != SIZE_TYPE:
        return Declined(Reason.FORKED)
    text = body[:32].decode("ascii", errors="replace")
    if not text.endswith("\n"):
        raise Invalid("The witness says that it has another size, but not which.")
    return Declined(Reason.STALE, parse_size(text[:-1]))


def select_cosignatures(
    text: str, signatures: Iterable[Signature], keys: Iterable[VerifierKey]
) -> tuple[Signature, ...]:
    """Those of the `signatures` of a checkpoint's `text` that the witness made with its `keys`.

    All others are passed over. Raises `Invalid` if there are none, if one doesn't verify, or if
    one has no time ("the timestamp MUST NOT be zero").
    """
    known = tuple(keys)
    ids = {(key.name, key.key_id) for key in known}
    found = {(one.name, one.key_id): one for one in signatures if (one.name, one.key_id) in ids}
    verify_note(Note(text, tuple(found.values())), known)
    if not all(map(read_timestamp, found.values())):
        raise Invalid("A cosignature of the witness says no time.")
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """How many of which witnesses must have cosigned: `quorum` of them.

    A witness may have several keys, all under its name. Raises `Invalid` for more than there are,
    for keys that don't cosign, and for a public key that stands under two names.
    """

    witnesses: tuple[VerifierKey, ...]
    quorum: int

    def __post_init__(self) -> None:
        if len(self.witnesses) > MOST_WITNESSES:
            raise Invalid(f"There are more than {MOST_WITNESSES} keys of witnesses.")
        owners: dict[bytes, str] = {}
        for key in self.witnesses:
            if key.kind not in (COSIGNATURE_ED25519, COSIGNATURE_MLDSA44):
                raise Invalid(
                    f"The key of {key.name!r} is one of a log: a witness's vkey is of kind 0x04 or"
                    " 0x06."
                )
            if owners.setdefault(key.public, key.name) != key.name:
                raise Invalid(
                    f"{key.name!r} and {owners[key.public]!r} have the same public key: they are"
                    " one witness."
                )
        if not 0 <= self.quorum <= len(self.names):
            raise Invalid(f"A quorum of {self.quorum} can't be had of {len(self.names)} witnesses.")

    @property
    def names(self) -> frozenset[str]:
        """What the witnesses are called."""
        return frozenset(key.name for key in self.witnesses)

    def count(self, signers: Iterable[VerifierKey]) -> int:
        """How many of the witnesses are among those who signed."""
        return len({key.name for key in set(signers) & set(self.witnesses)})

    def is_met(self, signers: Iterable[VerifierKey]) -> bool:
        """Whether that is enough."""
        return self.count(signers) >= self.quorum


def _parse_hash(line: str) -> bytes:
    found = decode_base64(line)
    if len(found) != HASH_SIZE:
        raise Invalid("A line of the proof is no SHA-256 hash.")
    return found
