"""``Authorization: Basic`` of OAuth clients: RFC 6749, section 2.3.1, over RFC 7617."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

from troth.wire.oauth.errors import InvalidClient

SCHEME = "basic"
MAX_LENGTH = 8192
"""Of the header: a SPIFFE ID of 2,048 characters, each perhaps escaped, and a secret."""
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client says its id and its secret are; neither is checked."""

    client_id: str
    secret: str = field(repr=False)


def is_basic(authorization: str | None) -> bool:
    """Whether the header tries this scheme (RFC 9110, section 11.1: its case doesn't matter)."""
    return authorization is not None and authorization.split(" ", 1)[0].lower() == SCHEME


def parse_basic(authorization: str) -> Credentials:
    """Id and secret; `InvalidClient` if they can't be read. What it says never repeats them.

    Both are form-encoded before they are joined by a colon. Many clients leave that out; the last
    colon parts them nevertheless, since no secret of ours has one and every SPIFFE ID does.
    """
    encoded = authorization.partition(" ")[2].strip(" ")
    problem = InvalidClient(
        "The Authorization header is no Basic one that can be read: base64 of the client_id, a "
        "colon and the secret, both form-encoded (RFC 6749, 2.3.1)."
    )
    if not is_basic(authorization) or len(authorization) > MAX_LENGTH:
        raise problem
    try:
        joined = base64.b64decode(encoded, validate=True).decode("ascii")
        client_id, colon, secret = joined.rpartition(":")
        found = [unquote_plus(text, errors="strict") for text in (client_id, secret)]
    except ValueError:
        raise problem from None
    if not colon or not all(found) or _ESCAPE.search(joined):
        raise problem
    return Credentials(*found)
