"""The requests of an OAuth client: for a token, for another one, about one, and the end of one.

Sources: RFC 6749 section 4.4, RFC 8707 section 2, RFC 8693 section 2.1, RFC 7662 section 2.1,
RFC 7009 section 2.1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from troth.core.clock import Clock, SystemClock
from troth.core.errors import Internal
from troth.sdk.credential import Credential, Shown
from troth.sdk.issuer import Issuer
from troth.wire.oauth.metadata import CLIENT_CREDENTIALS, TOKEN_EXCHANGE

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name
JWT = "urn:ietf:params:oauth:token-type:jwt"
UNKNOWN_LIFE = 60.0
"""Seconds that a token counts as good if the answer doesn't say (RFC 6749, section 5.1)."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token as received. `ends` is when it is good no more, on the clock's monotonic scale.

    `tag` is the thumbprint of the certificate that it is bound to, or "".
    """

    text: str = field(repr=False)
    kind: str
    scopes: frozenset[str]
    asked: float
    ends: float
    tag: str = ""
    answer: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def header(self) -> str:
        """The value of an ``Authorization`` header."""
        return f"{'Bearer' if self.kind.lower() == 'bearer' else self.kind} {self.text}"


class OAuthClient:
    """A client of `issuer` that proves itself by `credential`. Blocks; any thread may use it."""

    def __init__(
        self, issuer: Issuer, credential: Credential, *, clock: Clock | None = None
    ) -> None:
        self.issuer = issuer
        self.credential = credential
        self._clock = clock or SystemClock()

    def request(self, resource: str, scopes: Collection[str] = ()) -> AccessToken:
        """A token of this client for `resource` (RFC 6749, section 4.4; RFC 8707)."""
        fields = [("grant_type", CLIENT_CREDENTIALS)]
        return self._fetch([*fields, *_name_target(resource, scopes)], scopes)

    def exchange(
        self,
        subject_token: str,
        resource: str,
        scopes: Collection[str] = (),
        *,
        actor_token: str = "",
        subject_type: str = ACCESS_TOKEN,
        actor_type: str = ACCESS_TOKEN,
    ) -> AccessToken:
        """A token for `resource` in place of another one's (RFC 8693, section 2.1)."""
        fields = [
            ("grant_type", TOKEN_EXCHANGE),
            ("subject_token", subject_token),
            ("subject_token_type", subject_type),
            ("requested_token_type", ACCESS_TOKEN),
        ]
        if actor_token:
            fields += [("actor_token", actor_token), ("actor_token_type", actor_type)]
        return self._fetch([*fields, *_name_target(resource, scopes)], scopes)

    def introspect(self, token: str) -> Mapping[str, Any]:
        """What the issuer says of a token that is meant for this resource (RFC 7662)."""
        answer = self._post("introspection_endpoint", [("token", token)], self._show())
        if not isinstance(answer.get("active"), bool):
            raise Internal("The introspection endpoint's answer doesn't say whether it is active.")
        return answer

    def revoke(self, token: str) -> None:
        """End a token; one that the issuer doesn't know is over already (RFC 7009)."""
        self._post("revocation_endpoint", [("token", token)], self._show())

    def _show(self) -> Shown:
        return self.credential.show(self.issuer.url)

    def _post(
        self, endpoint: str, fields: Sequence[tuple[str, str]], shown: Shown
    ) -> Mapping[str, Any]:
        return self.issuer.post(endpoint, [*fields, *shown.fields], shown.context)

    def _fetch(self, fields: Sequence[tuple[str, str]], asked_for: Collection[str]) -> AccessToken:
        shown = self._show()
        # Earlier than the request: what the way takes shortens its life, never lengthens it.
        asked, now = self._clock.monotonic(), self._clock.now()
        answer = self._post("token_endpoint", fields, shown)
        text, kind = answer.get("access_token"), answer.get("token_type")
        if not isinstance(text, str) or not isinstance(kind, str) or not _is_token68(text):
            raise Internal("The token endpoint's answer holds no access token.")
        life = answer.get("expires_in", UNKNOWN_LIFE)
        if isinstance(life, bool) or not isinstance(life, int | float) or not life >= 0:
            raise Internal("The token endpoint's answer says in no number when the token ends.")
        if shown.ends is not None:  # a bound token is worth nothing without its certificate
            life = min(life, (shown.ends - now) / timedelta(seconds=1))
        scope = answer.get("scope")  # left out where it is what was asked for (RFC 6749, 5.1)
        scopes = frozenset(scope.split() if isinstance(scope, str) else asked_for)
        return AccessToken(text, kind, scopes, asked, asked + life, shown.tag, answer)


def _name_target(resource: str, scopes: Collection[str]) -> list[tuple[str, str]]:
    fields = [("resource", resource)] if resource else []
    if scopes:
        fields.append(("scope", " ".join(sorted(scopes))))
    return fields


def _is_token68(text: str) -> bool:
    """Whether it can stand in a header (RFC 6750, section 2.1)."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
