"""What the software keystores share: making P-256 keys, signing, and what a key may be called."""

from __future__ import annotations

import re

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from troth.core.entropy import Entropy
from troth.core.errors import Invalid

_KEY_REF = re.compile(r"[a-z0-9][a-z0-9_-]{0,127}", re.ASCII)
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def check_key_ref(key_ref: str) -> str:
    """`key_ref` if it is a name that is safe in any store, such as a file name."""
    if not is_key_ref(key_ref):
        raise Invalid(
            f"{key_ref[:80]!r} can't name a key: use 1 to 128 of a-z, 0-9, '-' and '_',"
            " a letter or digit first."
        )
    return key_ref


def is_key_ref(text: str) -> bool:
    """Whether `text` may name a key."""
    return _KEY_REF.fullmatch(text) is not None


def make_key(entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key from 64 bits more than the order has (FIPS 186-5, appendix A.2.1)."""
    random = int.from_bytes(entropy.token(40), "big")
    return ec.derive_private_key(random % (_ORDER - 1) + 1, ec.SECP256R1())


def encode_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign_data(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-256, as DER Ecdsa-Sig-Value."""
    return key.sign(data, _ALGORITHM)
