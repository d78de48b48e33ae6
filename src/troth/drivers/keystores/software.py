"""What the software keystores share: making keys, signing, and what a key may be called."""

from __future__ import annotations

import re

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from troth.core.entropy import Entropy
from troth.core.errors import Invalid
from troth.drivers.keystores import KeyKind

_KEY_REF = re.compile(r"[a-z0-9][a-z0-9_-]{0,127}", re.ASCII)
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_DERIVED = b"troth derived secret\n"
_RSA_BITS = 2048
_RSA_EXPONENT = 65_537

PrivateKey = (
    ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | rsa.RSAPrivateKey
    | mldsa.MLDSA44PrivateKey
)
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def derive_secret(root: bytes, purpose: str) -> bytes:
    """32 bytes from a secret `root` (HKDF with SHA-256, RFC 5869)."""
    info = _DERIVED + purpose.encode()
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(root)


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


def make_key(entropy: Entropy, kind: KeyKind = KeyKind.P256) -> PrivateKey:
    """A fresh key. The primes of RSA are OpenSSL's to find, with randomness of its own."""
    match kind:
        case KeyKind.P256:
            # From 64 bits more than the order has (FIPS 186-5, appendix A.2.1).
            random = int.from_bytes(entropy.token(40), "big")
            return ec.derive_private_key(random % (_ORDER - 1) + 1, ec.SECP256R1())
        case KeyKind.ED25519:
            return ed25519.Ed25519PrivateKey.from_private_bytes(entropy.token(32))
        case KeyKind.RSA:
            return rsa.generate_private_key(_RSA_EXPONENT, _RSA_BITS)
        case KeyKind.ML_DSA_44:
            return mldsa.MLDSA44PrivateKey.from_seed_bytes(entropy.token(32))


def find_private_key(key: object) -> PrivateKey | None:
    """`key` if it is of a kind that is made here."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key if key.curve.name == "secp256r1" else None
    if isinstance(key, rsa.RSAPrivateKey):
        return key if key.key_size >= _RSA_BITS else None
    return key if isinstance(key, ed25519.Ed25519PrivateKey | mldsa.MLDSA44PrivateKey) else None


def encode_public(key: PrivateKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign_data(key: PrivateKey, data: bytes) -> bytes:
    """The signature in the form of the key's kind."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, _ALGORITHM)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data)
