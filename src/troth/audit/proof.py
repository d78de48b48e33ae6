"""Proofs that need no server (C2SP tlog-proof): an entry's place, its path, and a checkpoint.

Whoever has the log's public key, and those of witnesses that are trusted, can check such a file
years later; nothing in it is believed for its own sake.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass

from troth.audit.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint, parse_size
from troth.audit.merkle import HASH_SIZE, LONGEST_PATH, hash_leaf, verify_inclusion
from troth.audit.note import LARGEST_NOTE, VerifierKey, decode_base64, parse_note
from troth.audit.witness import WitnessPolicy
from troth.core.errors import Invalid

HEADER = "c2sp.org/tlog-proof@v1"
SUFFIX = ".tlog-proof"
LARGEST_EXTRA = 256 << 10
"""Bytes of the extra data."""
LARGEST_PROOF = LARGEST_NOTE + 2 * LARGEST_EXTRA
"""Bytes of a whole proof."""

_INDEX = re.compile(r"index ([0-9]{1,19})", re.ASCII)
_EXTRA = "extra "


@dataclass(frozen=True, slots=True)
class LogProof:
    """That a log holds an entry at `index`, from 0 on.

    `path` goes from the leaf up, `checkpoint` is the signed note as it was made. `extra` is data
    that nothing vouches for, None if there is none.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


@dataclass(frozen=True, slots=True)
class Trust:
    """What a verifier believes beforehand: the log's keys, all of which must have signed, and how
    many of which witnesses must have cosigned (None: none need to)."""

    keys: tuple[VerifierKey, ...]
    policy: WitnessPolicy | None = None

    @property
    def origin(self) -> str:
        """What the log is called: its keys bear its name (tlog-policy, "Defining a log")."""
        return self.keys[0].name

    def __post_init__(self) -> None:
        if not self.keys:
            raise Invalid("Without a key of the log nothing can be shown: give its verifier key.")
        if len({key.name for key in self.keys}) != 1:
            names = ", ".join(sorted({repr(key.name) for key in self.keys}))
            raise Invalid(f"These are keys of different logs: {names}. Verify one log at a time.")


@dataclass(frozen=True, slots=True)
class Trusted:
    """A checkpoint that is signed as it must be; `witnesses` names those who cosigned it."""

    checkpoint: Checkpoint
    witnesses: tuple[str, ...] = ()


def parse_log_proof(data: bytes) -> LogProof:
    """The proof in these bytes; `Invalid` if there is none. Nothing is verified yet."""
    if len(data) > LARGEST_PROOF:
        raise Invalid(f"The proof has more than {LARGEST_PROOF:,} bytes.")
    head, gap, checkpoint = data.partition(b"\n\n")
    try:
        header, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise Invalid("What stands above the checkpoint isn't ASCII.") from error
    if header != HEADER or not gap:
        raise Invalid(f"That is no proof of a log: it begins with {HEADER!r} (C2SP tlog-proof).")
    extra = None
    if lines and lines[0].startswith(_EXTRA):
        extra = decode_base64(lines.pop(0).removeprefix(_EXTRA))
        if not 0 < len(extra) <= LARGEST_EXTRA:
            raise Invalid(f"The extra data has 1 to {LARGEST_EXTRA:,} bytes, or there is none.")
    found = _INDEX.fullmatch(lines[0]) if lines else None
    if found is None or len(lines) - 1 > LONGEST_PATH:
        raise Invalid(
            f"Below its header a proof has 'index N' and at most {LONGEST_PATH} hashes, one a line."
        )
    # As strict with it now as whoever verifies it.
    parse_checkpoint(parse_note(checkpoint).text)
    return LogProof(parse_size(found[1]), tuple(map(_parse_hash, lines[1:])), checkpoint, extra)


def render_log_proof(proof: LogProof) -> bytes:
    """The proof's bytes; `Invalid` if `parse_log_proof` wouldn't take them."""
    lines = [HEADER]
    if proof.extra is not None:
        lines.append(_EXTRA + b64encode(proof.extra).decode())
    lines.append(f"index {proof.index}")
    lines.extend(b64encode(one).decode() for one in proof.path)
    data = "".join(f"{line}\n" for line in (*lines, "")).encode() + proof.checkpoint
    if parse_log_proof(data) != proof:
        raise Invalid("The proof can't be written so that it would be read again.")
    return data


def verify_checkpoint(note: bytes, trust: Trust) -> Trusted:
    """The checkpoint in a signed note; `Invalid` unless it is signed and cosigned as it must be."""
    policy = trust.policy or WitnessPolicy((), 0)
    known = (*trust.keys, *policy.witnesses)
    checkpoint, _, signers = open_checkpoint(note, known, trust.origin)
    lacking = [key for key in trust.keys if key not in signers]
    if lacking:
        ids = ", ".join(key.key_id.hex() for key in lacking)
        raise Invalid(
            f"The checkpoint isn't signed with every key that is asked for: {ids} of "
            f"{trust.origin!r} is missing."
        )
    if not policy.is_met(signers):
        raise Invalid(
            f"{policy.count(signers)} of the witnesses cosigned the checkpoint, and "
            f"{policy.quorum} must have: it may have been shown to nobody else."
        )
    names = dict.fromkeys(key.name for key in policy.witnesses if key in signers)
    return Trusted(checkpoint, tuple(names))


def verify_log_proof(proof: LogProof, entry: bytes, trust: Trust) -> Trusted:
    """Show that the log holds `entry` at the proof's index; the checkpoint that says so.

    `Invalid` unless the checkpoint is signed as it must be and the path leads to its root.
    """
    found = verify_checkpoint(proof.checkpoint, trust)
    verify_path(proof, entry, found.checkpoint)
    return found


def verify_path(proof: LogProof, entry: bytes, checkpoint: Checkpoint) -> None:
    """That the proof's path leads from the entry to the checkpoint's root; `Invalid` otherwise."""
    leaf = hash_leaf(entry)
    verify_inclusion(leaf, proof.index, checkpoint.size, checkpoint.root, proof.path)


def _parse_hash(line: str) -> bytes:
    found = decode_base64(line)
    if len(found) != HASH_SIZE:
        raise Invalid("A line of the proof is no SHA-256 hash.")
    return found
