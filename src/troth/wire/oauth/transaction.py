"""Transaction tokens on the wire: their type, the header that carries them, and their contexts.

Source: draft-ietf-oauth-transaction-tokens-10, sections "Txn-Token Request", "Txn-Token Response"
and "Txn-Token" HTTP Header. It is a draft: names may still change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from troth.core.errors import Invalid
from troth.core.jose.jws import STRICT_JSON

TXN_TOKEN = "urn:ietf:params:oauth:token-type:txn_token"  # noqa: S105 - a name
HEADER = "Txn-Token"
"""The header field that carries exactly one of them from workload to workload."""

NOT_APPLICABLE = "N_A"
"""The `token_type` of what is no access token (RFC 8693, section 2.2.1)."""

REQUEST_CONTEXT = "request_context"
REQUEST_DETAILS = "request_details"

MAX_CONTEXT = 4 * 1024
"""Characters of either parameter, and bytes of either claim: all of it goes into a header."""
MAX_DEPTH = 8
"""How deep a context may be nested, itself included."""


def parse_context(name: str, text: str) -> dict[str, Any]:
    """The JSON object in the parameter `name`; else `Invalid`.

    A name that is there twice is refused, since readers differ in which one they take; so is what
    can't be written again as it was read, such as numbers beyond what everybody's JSON holds.
    """
    if len(text) > MAX_CONTEXT:
        raise Invalid(f"The {name} has more than {MAX_CONTEXT:,} characters.")
    try:
        value = STRICT_JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"The {name} must be a JSON object, each name in it once.") from error
    if not isinstance(value, dict):
        raise Invalid(f"The {name} must be a JSON object.")
    return check_context(name, value)


def check_context(name: str, value: dict[str, Any]) -> dict[str, Any]:
    """`value`, if it is no larger than a token may hold and reads the same everywhere."""
    if _is_deep(value):
        raise Invalid(f"The {name} may be nested {MAX_DEPTH} levels deep.")
    try:
        written = encode_member(value)
        same = msgspec.json.decode(written) == value
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:  # UnicodeError among them
        raise Invalid(f"The {name} holds what JSON can't hold everywhere.") from error
    if not same:
        raise Invalid(f"The {name} holds numbers that are too large.")
    if len(written) > MAX_CONTEXT:
        raise Invalid(f"The {name} has more than {MAX_CONTEXT:,} bytes.")
    return value


def encode_member(value: object) -> bytes:
    """One form for each JSON value: two are the same if these bytes are. (``1 == True`` here.)"""
    return msgspec.json.encode(value, order="deterministic")


def _is_deep(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for one in level for inner in _list_inner(one)]
        if not level:
            return False
    return any(isinstance(one, dict | list) for one in level)


def _list_inner(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []
