"""How much it says that somebody proved who they are, by the way in which they did."""

from __future__ import annotations

from collections.abc import Mapping

from troth.core.tier import Tier

PROOF_TIERS: Mapping[str, Tier] = {
    # An agent looked at the very process, and the key was made for it alone.
    "tls_client_auth": Tier.HIGH,
    "spiffe_x509": Tier.HIGH,
    "spiffe_jwt": Tier.HIGH,
    # A key that was registered by hand, wherever it is kept; or the word of somebody else.
    "private_key_jwt": Tier.MEDIUM,
    "self_signed_tls_client_auth": Tier.MEDIUM,
    "federated_jwt": Tier.MEDIUM,
    "jwt_bearer": Tier.MEDIUM,
    # It was sent over a network each time it was used.
    "client_secret_basic": Tier.LOW,
}
"""By the name of the method (RFC 7591, section 2)."""


def rate_proof(method: str) -> Tier:
    """The tier that a proof by `method` earns; the least for one that isn't known."""
    return PROOF_TIERS.get(method, Tier.LOW)
