"""Signatures that nobody made: checked where no key is known, so that the answer takes as long.

Who sends a token chooses its `alg`. So there is a key for each, or the answer would come sooner
wherever somebody unknown is named with an `alg` that another kind of key needs.
"""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from troth.core.errors import Invalid
from troth.core.jose.jwk import PublicKey
from troth.core.jose.jws import Token, verify_signature

_CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
_MODULUS = (1 << 2048) - 1
"""Odd, of the usual length, and no product that anybody chose."""


def verify_for_nobody(token: Token) -> None:
    """Do what verifying a token takes, and raise `Invalid` whatever comes of it.

    Its `alg` is one of ours.
    """
    algorithm = str(token.header["alg"])
    verify_signature(algorithm, _find_key(algorithm), token.signing_input, token.signature)
    raise Invalid("No key is known that could have made the signature.")


@cache
def _find_key(algorithm: str) -> PublicKey:
    curve = _CURVES.get(algorithm)
    if curve is not None:
        return ec.derive_private_key(1, curve).public_key()
    if algorithm.startswith("Ed"):
        return ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    return rsa.RSAPublicNumbers(65537, _MODULUS).public_key()
