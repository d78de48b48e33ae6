"""What a witness does with a request: compare, remember, cosign; in this order for every log.

The whole of it happens under one lock, so that what is compared is what is replaced, and the
record is on the disk before the cosignature leaves. A process that is killed in between has
remembered a checkpoint whose cosignature nobody got; the log asks again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import structlog

from troth.audit.checkpoint import Checkpoint, parse_checkpoint
from troth.audit.note import Note, Signature, VerifierKey, merge_signatures
from troth.audit.witness import Refusal, judge_submission, parse_submission
from troth.core.clock import Clock
from troth.core.errors import Invalid, Unavailable
from troth.server.witness.records import Record, Records
from troth.server.witness.signer import WitnessSigner

REPEAT_SECONDS = 5
"""For how long the same checkpoint gets the same cosignature: whoever saw it could ask for new ones
without end, and each would be written to the disk."""

log = structlog.get_logger(__name__)


class WitnessDesk:
    """Cosigns checkpoints of the logs whose keys it knows, each called as its log is. Any thread
    may call it."""

    def __init__(
        self, records: Records, signer: WitnessSigner, logs: Iterable[VerifierKey], clock: Clock
    ) -> None:
        self.records = records
        self.signer = signer
        self._logs = tuple(logs)
        self._origins = frozenset(key.name for key in self._logs)
        self._clock = clock
        self._lock = threading.Lock()

    def submit(self, body: bytes) -> tuple[Signature, ...] | Refusal:
        """The cosignatures, durable, or why there are none. Blocks.

        Raises `Invalid` or `TooLarge` for what is no request, `Unavailable` if the disk can't.
        """
        submission = parse_submission(body)
        with self._lock:
            record = self._find(submission.note)
            known = record.checkpoint if record else None
            verdict = judge_submission(known, submission, self._logs)
            if isinstance(verdict, Refusal):
                self._tell(verdict, record, body)
                return verdict
            if record is not None and self._may_repeat(record, submission.note):
                ids = {(key.name, key.key_id) for key in self.signer.public}
                return tuple(one for one in record.note.signatures if (one.name, one.key_id) in ids)
            note = merge_signatures(Note(submission.note.text, ()), verdict.signatures)
            return self._cosign(verdict.checkpoint, note, record)

    def show(self, digest: str) -> bytes:
        """The note of the last checkpoint that was cosigned of the log whose origin has this
        SHA-256 (hexadecimal), durable. Blocks.

        Raises `NotFound` if there is none, `Unavailable` if it is damaged or the disk can't.
        """
        with self._lock:
            return self.records.show(digest)

    def tell_damage(self) -> None:
        """Log of which logs nothing will be cosigned, since what is kept of them is damaged."""
        for origin in sorted(self._origins):
            try:
                self.records.find(origin)
            except Unavailable as error:
                log.error("witness.damaged", origin=origin, detail=error.detail)

    def _cosign(
        self, checkpoint: Checkpoint, note: Note, record: Record | None
    ) -> tuple[Signature, ...]:
        # A clock that was set back must not say that the larger log was seen before the smaller.
        timestamp = max(int(self._clock.now().timestamp()), record.timestamp if record else 1)
        made = self.signer.cosign(checkpoint, note.text, timestamp)
        self.records.save(Record(checkpoint, merge_signatures(note, made), timestamp))
        log.info("witness.cosigned", origin=checkpoint.origin, size=checkpoint.size)
        return made

    def _find(self, note: Note) -> Record | None:
        try:
            origin = parse_checkpoint(note.text).origin
        except Invalid:
            return None
        return self.records.find(origin) if origin in self._origins else None

    def _may_repeat(self, record: Record, note: Note) -> bool:
        return (
            record.note.text == note.text
            and self.records.is_settled(record.checkpoint.origin)
            and self._clock.now().timestamp() < record.timestamp + REPEAT_SECONDS
        )

    def _tell(self, refusal: Refusal, record: Record | None, body: bytes) -> None:
        if record is None or not refusal.is_evidence:
            log.debug("witness.refused", reason=refusal.reason.value)
            return
        submitted = parse_checkpoint(parse_submission(body).note.text)
        known = record.checkpoint
        if (submitted.size, submitted.root) == (known.size, known.root):
            return  # a proof too many; of the log it is the very tree that was cosigned
        kept = self.records.keep_evidence(record, body, refusal.reason, self._clock.now())
        if kept:
            log.error(
                "witness.disputed",
                why=refusal.reason.value,
                origin=submitted.origin,
                size=submitted.size,
                root=submitted.root.hex(),
                cosigned_size=known.size,
                cosigned_root=known.root.hex(),
                kept=kept,
            )
