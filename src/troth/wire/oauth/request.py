"""A request to an OAuth endpoint: its form, and what else proves who sends it."""

from __future__ import annotations

from dataclasses import dataclass

from troth.wire.oauth.form import Form


@dataclass(frozen=True, slots=True)
class OAuthRequest:
    """`certificate` is the client's (DER) where TLS asked for one; `authorization` and `accept` are
    those headers."""

    form: Form
    certificate: bytes | None = None
    authorization: str | None = None
    accept: str | None = None
