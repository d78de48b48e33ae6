"""Which running copies of identities stand in a token, so that one copy can be cut off alone.

They stand in private claims (RFC 7519, section 4.3), which whoever doesn't know them passes over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from troth.core.errors import Invalid

INSTANCE = "troth_instance"
"""In a JWT-SVID: the id of the copy that it was issued to."""
INSTANCES = "troth_instances"
"""In an access token: the ids of the copies that obtained it, the last one first."""

MAX_INSTANCES = 16
"""In one token. Each actor brings one; more come of narrowing a token by one copy after another."""


def find_instance(claims: Mapping[str, Any]) -> str:
    """The copy that a JWT-SVID was issued to, "" if it doesn't say; `Invalid` if malformed."""
    found = claims.get(INSTANCE, "")
    if not isinstance(found, str):
        raise Invalid(f"The token's {INSTANCE} must be a text.")
    return found


def list_instances(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """The copies that obtained an access token, the last one first; `Invalid` if malformed."""
    found = claims.get(INSTANCES, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise Invalid(f"The token's {INSTANCES} must be a list of texts.")
    return tuple(found)


def join_instances(current: str, earlier: tuple[str, ...]) -> tuple[str, ...]:
    """The copies of a token that `current` ("": unknown) obtains for one of `earlier`, each once;
    `Invalid` if they are too many."""
    joined = tuple(dict.fromkeys((current, *earlier) if current else earlier))
    if len(joined) > MAX_INSTANCES:
        raise Invalid(
            f"The token has passed through {MAX_INSTANCES} running copies; begin with a fresh one."
        )
    return joined
