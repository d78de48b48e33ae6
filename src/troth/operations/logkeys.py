"""The log's keys: made once, kept in the keystore, and what they sign."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from troth.audit.checkpoint import Checkpoint, render_checkpoint
from troth.audit.cosignature import pack_cosignature, render_cosigned
from troth.audit.note import (
    COSIGNATURE_MLDSA44,
    ED25519,
    Note,
    Signature,
    VerifierKey,
    make_verifier_key,
    raw_public,
    render_note,
)
from troth.core.errors import Conflict
from troth.core.ids import TrustDomain
from troth.drivers.keystores import KeyKind, Keystore

ED25519_REF = "log-ed25519"
MLDSA44_REF = "log-ml-dsa-44"


def name_origin(trust_domain: TrustDomain) -> str:
    """The log's origin: a name that doesn't change when addresses do."""
    return f"{trust_domain}/log"


@dataclass(frozen=True, slots=True)
class LogSigner:
    """Signs checkpoints of one origin. Its methods may block as the keystore may."""

    keystore: Keystore
    keys: tuple[VerifierKey, VerifierKey]
    """The note's Ed25519 key, and the ML-DSA-44 key that cosigns."""

    @property
    def origin(self) -> str:
        """What the log is called."""
        return self.keys[0].name

    def sign(self, size: int, root: bytes, now: datetime) -> str:
        """The checkpoint as a note with both signatures (C2SP tlog-checkpoint; tlog-cosignature
        for the second)."""
        checkpoint = Checkpoint(self.origin, size, root)
        text = render_checkpoint(checkpoint)
        plain, quantum = self.keys
        timestamp = int(now.timestamp())
        message = render_cosigned(quantum, checkpoint, text, timestamp)
        cosigned = pack_cosignature(timestamp, self.keystore.sign(MLDSA44_REF, message))
        signatures = (
            Signature(plain.name, plain.key_id, self.keystore.sign(ED25519_REF, text.encode())),
            Signature(quantum.name, quantum.key_id, cosigned),
        )
        return render_note(Note(text, signatures)).decode()

    def render_keys(self) -> str:
        """What verifiers need, a key a line."""
        return "".join(f"{key.render()}\n" for key in self.keys)


def open_signer(keystore: Keystore, trust_domain: TrustDomain) -> LogSigner:
    """The log's signer; its keys are made if there are none. Blocks as the keystore may."""
    name = name_origin(trust_domain)
    known = set(keystore.list_keys())
    plain = _find_public(keystore, known, ED25519_REF, KeyKind.ED25519)
    quantum = _find_public(keystore, known, MLDSA44_REF, KeyKind.ML_DSA_44)
    return LogSigner(
        keystore,
        (
            make_verifier_key(name, ED25519, raw_public(plain)),
            make_verifier_key(name, COSIGNATURE_MLDSA44, raw_public(quantum)),
        ),
    )


def _find_public(keystore: Keystore, known: set[str], key_ref: str, kind: KeyKind) -> bytes:
    if key_ref not in known:
        try:
            return keystore.create_key(key_ref, kind)
        except Conflict:
            pass  # another server on this keystore was faster
    return keystore.public_key(key_ref)
