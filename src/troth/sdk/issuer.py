"""An authorization server as its documents describe it: where its endpoints are, and its keys.

Sources: RFC 8414 sections 3 (metadata) and 3.3 (whose it must be), RFC 8705 section 5
(`mtls_endpoint_aliases`), RFC 6749 sections 3.2 and 5.2 (requests and refusals).
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from troth.core.clock import Clock, SystemClock
from troth.core.errors import Internal, Invalid, Passing
from troth.sdk.credential import Holder, trust_roots
from troth.sdk.errors import OAuthError, OAuthUnavailable
from troth.sdk.exchange import Answer, Request, Send, check_https, send
from troth.wire.oauth.answers import plain_text
from troth.wire.oauth.form import MEDIA_TYPE

METADATA_SECONDS = 3600.0
"""How long the metadata is believed; after that they are fetched again, if that is possible."""

WELL_KNOWN = "/.well-known/oauth-authorization-server"
BUSY = (429, 502, 503, 504)
LONGEST_DELAY = 3600.0
"""Seconds: whoever tells to come back later than this is asked after this time."""

Fields = Sequence[tuple[str, str]]
Trust = ssl.SSLContext | Path | str | Holder


class Issuer:
    """The authorization server whose issuer identifier is `url`. Any thread may use it.

    `trust` says what its public address must prove itself by: a `PeerGuard` or an `SvidFollower`
    (a troth server of this trust domain), a file with roots (PEM), or a context.
    """

    def __init__(
        self, url: str, trust: Trust, *, clock: Clock | None = None, send: Send = send
    ) -> None:
        self.url = check_https(url.rstrip("/"))
        self._trust = _make_trust(trust)
        self._clock = clock or SystemClock()
        self._send = send
        self._lock = threading.Lock()
        self._metadata: Mapping[str, Any] | None = None
        self._read_at = 0.0

    def find_endpoint(self, name: str, *, mutual: bool = False) -> str:
        """The URL of ``token_endpoint`` and others; with `mutual` on the mutual-TLS listener.

        Raises `OAuthError` if the issuer has no such endpoint.
        """
        metadata = self.read_metadata()
        aliases = metadata.get("mtls_endpoint_aliases")
        found = aliases.get(name) if mutual and isinstance(aliases, Mapping) else None
        found = found or metadata.get(name)
        if not isinstance(found, str):
            raise OAuthError("unsupported", f"{self.url} offers no {name}.", 404)
        return check_https(found)

    def post(
        self, endpoint: str, fields: Fields, mutual: ssl.SSLContext | None = None
    ) -> Mapping[str, Any]:
        """The JSON object that `endpoint` answers to a form, {} for an empty answer.

        With the context `mutual` it goes to the mutual-TLS listener. Raises `OAuthError` for a
        refusal, `OAuthUnavailable` and `Unreachable` for what may pass.
        """
        url = self.find_endpoint(endpoint, mutual=mutual is not None)
        request = Request(
            "POST", url, {"content-type": MEDIA_TYPE}, urlencode(fields).encode("ascii")
        )
        answer = self._send(request, mutual or self._trust())
        if answer.status != 200:
            raise self._read_refusal(answer)
        return _read_object(answer.body) if answer.body.strip() else {}

    def read_metadata(self) -> Mapping[str, Any]:
        """The metadata document, fetched now and then."""
        with self._lock:
            known = self._metadata
            age = self._clock.monotonic() - self._read_at
            if known is not None and age < METADATA_SECONDS:
                return known
            try:
                fresh = self._fetch_metadata()
            except Passing:
                if known is None:
                    raise
                fresh = known  # it is briefly away, and addresses hardly ever change
            self._metadata, self._read_at = fresh, self._clock.monotonic()
            return fresh

    def fetch_keys(self) -> Sequence[Any]:
        """The members of the issuer's JWK set, whatever they are."""
        keys = self._get(self.find_endpoint("jwks_uri")).get("keys")
        if not isinstance(keys, list):
            raise Internal(f"What {self.url} publishes as its keys is no JWK set.")
        return keys

    def _fetch_metadata(self) -> Mapping[str, Any]:
        parts = urlsplit(self.url)
        # A path of the issuer follows the well-known one (RFC 8414, section 3.1).
        metadata = self._get(f"https://{parts.netloc}{WELL_KNOWN}{parts.path}")
        if metadata.get("issuer") != self.url:  # RFC 8414, section 3.3
            named = plain_text(str(metadata.get("issuer")))[:200]
            raise Invalid(
                f"The metadata at {self.url} are those of the issuer {named}: name it as it does."
            )
        return metadata

    def _get(self, url: str) -> Mapping[str, Any]:
        answer = self._send(Request("GET", url), self._trust())
        if answer.status != 200:
            raise OAuthUnavailable(
                f"{url} answered {answer.status}.", _read_retry(answer, self._clock)
            )
        return _read_object(answer.body)

    def _read_refusal(self, answer: Answer) -> OAuthError | OAuthUnavailable:
        try:
            refusal = _read_object(answer.body)
        except Internal:
            refusal = {}
        error = str(refusal.get("error") or "")
        description = str(refusal.get("error_description") or "")
        passing = error == "temporarily_unavailable" or answer.status in BUSY
        if passing or answer.status >= 500 or not error:
            words = plain_text(description or error or "no reason given").rstrip(".")
            detail = f"{self.url} answered {answer.status}: {words}."
            return OAuthUnavailable(detail, _read_retry(answer, self._clock), error)
        return OAuthError(error, description, answer.status)


def _make_trust(trust: Trust) -> Callable[[], ssl.SSLContext]:
    """What makes a context for each request: a workload's roots change."""
    if isinstance(trust, str | Path):
        trust = ssl.create_default_context(cafile=str(trust))
    if isinstance(trust, ssl.SSLContext):
        context = trust
        return lambda: context
    holder = trust
    return lambda: trust_roots(holder)


def _read_retry(answer: Answer, clock: Clock) -> float | None:
    """In how many seconds to come back (RFC 9110, section 10.2.3)."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:6]), LONGEST_DELAY)
    try:
        moment = parsedate_to_datetime(text)
        seconds = (moment - clock.now()).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_DELAY)


def _read_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Internal("The authorization server's answer is not JSON.") from error
    if not isinstance(value, dict):
        raise Internal("The authorization server's answer is no JSON object.")
    return value
