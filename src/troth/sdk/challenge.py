"""What a resource's challenge says about a token (RFC 6750, section 3; RFC 9449, section 7.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_INVALID = re.compile(r"""\berror\s*=\s*(?:"invalid_token"|invalid_token\b)""", re.ASCII)
MAX_LENGTH = 8192


def blames_token(status: int, challenges: Iterable[str]) -> bool:
    """Whether an answer says that the token is good no more, so that another one might help."""
    return status == 401 and any(_INVALID.search(one[:MAX_LENGTH]) for one in challenges)
