"""A request to an OAuth endpoint: its form, and what else proves who sends it."""

from __future__ import annotations

from dataclasses import dataclass

from troth.core.errors import TrothError
from troth.wire.oauth.form import Form


@dataclass(frozen=True, slots=True)
class OAuthRequest:
    """`certificate` is the client's (DER) where TLS asked for one; `authorization`, `dpop` and
    `accept` are those headers; `url` is where it was sent, without query, and `source` by whom.
    `fault` is what is wrong with one that could not be read: it is refused, and told like any other
    refusal."""

    form: Form
    certificate: bytes | None = None
    authorization: str | None = None
    dpop: str | None = None
    url: str = ""
    accept: str | None = None
    fault: TrothError | None = None
    source: str = ""
