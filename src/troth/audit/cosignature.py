"""What signatures of checkpoints are over (C2SP tlog-cosignature), and whether they hold.

A cosignature says that its key's owner has seen the log grow to this checkpoint without changing
what was there before, and at which time. It starts with that time: 64 bits, seconds since 1970.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from troth.audit.checkpoint import Checkpoint, parse_checkpoint
from troth.audit.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    LONGEST_NAME,
    Signature,
    VerifierKey,
)
from troth.core.errors import Invalid
from troth.core.x509 import UNREADABLE

LATEST_TIME = (1 << 63) - 1
"""The largest timestamp ("MUST NOT exceed 2^63 - 1")."""
SIGNATURE_SIZES = {ED25519: 64, COSIGNATURE_ED25519: 64, COSIGNATURE_MLDSA44: 2420}
"""Bytes of the signature proper, for each kind of key."""

_HEADER = b"cosignature/v1\n"
_LABEL = b"subtree/v1\n\0"
_TIME = struct.Struct(">Q")


def render_cosigned(key: VerifierKey, checkpoint: Checkpoint, text: str, timestamp: int) -> bytes:
    """The message that a cosigner signs with `key`.

    `text` is the note's, which is what an Ed25519 cosignature is over; one of ML-DSA-44 is over the
    cosigner's name and the tree. `timestamp` is in seconds since 1970. Raises `Invalid` for a key
    that doesn't cosign, and for what has no room in a message.
    """
    if not 0 <= timestamp <= LATEST_TIME:
        raise Invalid("The time of a cosignature is none.")
    if key.kind == COSIGNATURE_ED25519:
        return b"%btime %d\n%b" % (_HEADER, timestamp, text.encode())
    if key.kind != COSIGNATURE_MLDSA44:
        raise Invalid(f"The key of {key.name!r} is of a kind that doesn't cosign.")
    if checkpoint.extensions:
        # They would look signed, and anybody could change them.
        raise Invalid("A checkpoint with extension lines can't be cosigned with ML-DSA-44.")
    return b"".join(
        (
            _LABEL,
            _render_opaque(key.name),
            _TIME.pack(timestamp),
            _render_opaque(checkpoint.origin),
            _TIME.pack(0),  # a checkpoint's tree starts with the log
            _TIME.pack(checkpoint.size),
            checkpoint.root,
        )
    )


def pack_cosignature(timestamp: int, signature: bytes) -> bytes:
    """`timestamped_signature`: the time and then the signature."""
    return _TIME.pack(timestamp) + signature


def unpack_cosignature(value: bytes) -> tuple[int, bytes]:
    """The time of a `timestamped_signature`, and its signature."""
    if len(value) <= _TIME.size:
        raise Invalid("A cosignature is shorter than its time.")
    (timestamp,) = _TIME.unpack_from(value)
    if timestamp > LATEST_TIME:
        raise Invalid("The time of a cosignature is none.")
    return timestamp, value[_TIME.size :]


def read_timestamp(signature: Signature) -> int:
    """The time in a cosignature, in seconds since 1970. Whether it is one only its key tells."""
    return unpack_cosignature(signature.value)[0]


def verify_signature(key: VerifierKey, text: str, value: bytes) -> None:
    """Raise `Invalid` unless `value` is `key`'s signature of the note's `text`."""
    message, proper = text.encode(), value
    if key.kind in (COSIGNATURE_ED25519, COSIGNATURE_MLDSA44):
        timestamp, proper = unpack_cosignature(value)
        message = render_cosigned(key, parse_checkpoint(text), text, timestamp)
    if len(proper) != SIGNATURE_SIZES.get(key.kind):
        raise Invalid(f"The signature of {key.name!r} isn't as long as those of its kind.")
    try:
        _load(key).verify(proper, message)
    except (InvalidSignature, *UNREADABLE) as error:
        raise Invalid(
            f"The signature of {key.name!r} doesn't verify: the note was altered, or signed with"
            " another key."
        ) from error


def _load(key: VerifierKey) -> Ed25519PublicKey | MLDSA44PublicKey:
    if key.kind == COSIGNATURE_MLDSA44:
        return MLDSA44PublicKey.from_public_bytes(key.public)
    return Ed25519PublicKey.from_public_bytes(key.public)


def _render_opaque(text: str) -> bytes:
    """A string with its length in one byte before it (RFC 8446, section 3.4)."""
    encoded = text.encode()
    if not 0 < len(encoded) <= LONGEST_NAME:
        raise Invalid(
            f"The name {text[:80]!r} has no room in a cosignature: {LONGEST_NAME} bytes at most."
        )
    return bytes([len(encoded)]) + encoded
