"""The witness's keys: made once, kept sealed in its folder, and what they sign."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from troth.audit.checkpoint import Checkpoint
from troth.audit.cosignature import pack_cosignature, render_cosigned
from troth.audit.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    Signature,
    VerifierKey,
    check_name,
    make_verifier_key,
    raw_public,
)
from troth.core.entropy import Entropy
from troth.core.errors import NotFound, Refused
from troth.drivers.keystores import KeyKind, Keystore
from troth.drivers.keystores.file import open_folder, open_keystore
from troth.drivers.keystores.kek import resolve_key_encryption_key
from troth.drivers.keystores.sealed import SEAL

KEYS = {
    "witness-ed25519": (KeyKind.ED25519, COSIGNATURE_ED25519),
    "witness-ml-dsa-44": (KeyKind.ML_DSA_44, COSIGNATURE_MLDSA44),
}
"""Key reference → what it is in the keystore, and as what it signs."""
KEK = "kek"
NAME = "name"


@dataclass(frozen=True, slots=True)
class WitnessSigner:
    """Cosigns as one witness. Its methods block for as long as the keystore takes."""

    keystore: Keystore
    keys: dict[str, VerifierKey]
    """By key reference."""

    @property
    def public(self) -> tuple[VerifierKey, ...]:
        """What readers of cosignatures need."""
        return tuple(self.keys.values())

    def cosign(self, checkpoint: Checkpoint, text: str, timestamp: int) -> tuple[Signature, ...]:
        """A cosignature of the checkpoint, whose note has this `text`, with each key; `timestamp`
        is in seconds since 1970.

        If it has extension lines, which ML-DSA-44 would leave out, that key doesn't sign.
        """
        found = []
        for key_ref, key in self.keys.items():
            if checkpoint.extensions and key.kind == COSIGNATURE_MLDSA44:
                continue
            message = render_cosigned(key, checkpoint, text, timestamp)
            value = pack_cosignature(timestamp, self.keystore.sign(key_ref, message))
            found.append(Signature(key.name, key.key_id, value))
        return tuple(found)


def open_signer(folder: Path, name: str, source: str, entropy: Entropy) -> WitnessSigner:
    """The keys in `folder`, made if there are none; they belong to one `name` for ever.

    `source` says where the key-encryption key comes from, as `keystore.key_encryption_key` does;
    by default it lies beside the keys. Raises `Refused` if the folder's witness is called
    otherwise: an Ed25519 cosignature doesn't name its cosigner, so no key may have two names
    (C2SP tlog-cosignature, "Ed25519 signed message").
    """
    keys = folder / "keys"
    shelf = open_folder(keys, entropy)
    new = shelf.get(SEAL) is None
    source = source or f"file:{(keys / KEK).absolute()}"
    environment = {"PATH": os.defpath}
    key = resolve_key_encryption_key(source, environment=environment, entropy=entropy, create=new)
    keystore = open_keystore(keys, key, entropy)
    _claim_name(keystore, folder, name, entropy)
    known = set(keystore.list_keys())
    public = {}
    for key_ref, (kind, signs_as) in KEYS.items():
        made = key_ref in known
        spki = keystore.public_key(key_ref) if made else keystore.create_key(key_ref, kind)
        public[key_ref] = make_verifier_key(name, signs_as, raw_public(spki))
    return WitnessSigner(keystore, public)


def _claim_name(keystore: Keystore, folder: Path, name: str, entropy: Entropy) -> None:
    shelf = open_folder(folder, entropy)
    found = shelf.get(NAME)
    if found is None:
        if keystore.list_keys():
            raise NotFound(f"{folder / NAME} is gone: restore it, with the name of the witness.")
        shelf.put(NAME, f"{check_name(name)}\n".encode())
    elif found != f"{name}\n".encode():
        known = found[:300].decode(errors="replace").strip()
        raise Refused(
            f"The witness in {folder} is called {known!r}, and its keys sign under no other name. "
            f"Start it with --name {known}, or give the new one a folder of its own."
        )
