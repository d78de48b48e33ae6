"""Sealing of opaque access tokens, with keys that all servers on one keystore derive alike."""

from __future__ import annotations

from datetime import datetime

from troth.core.entropy import Entropy, draw_nonce
from troth.drivers.keystores import Keystore
from troth.issuance.opaque import (
    NONCE_SIZE,
    SPANS,
    find_span,
    name_purpose,
    open_token,
    read_span,
    seal_token,
)


class TokenSealer:
    """Seals and opens. Its methods may block as the keystore may; any thread may call them."""

    def __init__(self, keystore: Keystore, entropy: Entropy) -> None:
        self._keystore = keystore
        self._entropy = entropy
        self._keys: dict[int, bytes] = {}

    def seal(self, jwt: str, now: datetime) -> str:
        """The opaque form of a signed token."""
        span = find_span(now)
        return seal_token(jwt, self._find_key(span), span, draw_nonce(self._entropy, NONCE_SIZE))

    def open(self, text: str, now: datetime) -> str:
        """The signed token inside; `Invalid` if it is none of ours, or can't live any more."""
        return open_token(text, self._find_key(read_span(text, now)))

    def is_ready(self, text: str, now: datetime) -> bool:
        """Whether `open` will answer without the keystore; `Invalid` as there."""
        return read_span(text, now) in self._keys

    def _find_key(self, span: int) -> bytes:
        key = self._keys.get(span)
        if key is None:
            key = self._keystore.derive_secret(name_purpose(span))
            # Made anew, not changed: another thread may look at it.
            kept = {old: k for old, k in self._keys.items() if old >= span - SPANS - 2}
            self._keys = {**kept, span: key}
        return key
