"""A request to an OAuth endpoint: its form, and what else proves who sends it."""

from __future__ import annotations

from dataclasses import dataclass

from troth.wire.oauth.form import Form


@dataclass(frozen=True, slots=True)
class OAuthRequest:
    """`certificate` is the client's (DER) where TLS asked for one; `authorization`, `dpop` and
    `accept` are those headers; `url` is where it was sent, without query, and `source` by whom."""

    form: Form
    certificate: bytes | None = None
    authorization: str | None = None
    dpop: str | None = None
    url: str = ""
    accept: str | None = None
    source: str = ""
