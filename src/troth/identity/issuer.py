"""Outside issuers: whose OpenID tokens prove who a client is, and which identity is meant.

GitHub Actions, GitLab, Kubernetes API servers, cloud providers, another troth: each signs tokens
about its own workloads. A manifest of kind Issuer says under which claims which of our identities
is meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

ANYTHING = "*"
SEPARATORS = "/:@|"
"""What ``*`` never reaches over: where owner, repository, namespace and branch meet in a claim."""

_SPLIT = re.compile(f"([{SEPARATORS}])")


@dataclass(frozen=True, slots=True)
class Condition:
    """What a claim must be.

    `claim` is the way to it, from the outside in; one of `texts` must fit. In a text, ``*`` stands
    for one or more characters of one segment, and a segment holds one at most.
    """

    claim: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The claim as people write it."""
        return ".".join(self.claim)

    @property
    def exact(self) -> bool:
        """Whether nothing in it is left open."""
        return not any(ANYTHING in text for text in self.texts)

    def holds(self, claims: Mapping[str, Any]) -> bool:
        """Whether the claim is there and fits; of a list, whether one of its items does."""
        value: Any = claims
        for name in self.claim:
            if not isinstance(value, Mapping) or name not in value:
                return False
            value = value[name]
        found = [_write(item) for item in (value if isinstance(value, list) else [value])]
        return any(
            said is not None and fits_text(text, said) for said in found for text in self.texts
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """Whoever fulfils all `conditions` is the identity of that name; without any, nobody."""

    identity: str
    conditions: tuple[Condition, ...]

    def find(self, *claim: str) -> Condition | None:
        """The condition on that claim."""
        return next((one for one in self.conditions if one.claim == claim), None)

    def fits(self, claims: Mapping[str, Any]) -> bool:
        """Whether these claims fulfil all conditions."""
        return bool(self.conditions) and all(one.holds(claims) for one in self.conditions)


@dataclass(frozen=True, slots=True)
class Issuer:
    """What a manifest of kind Issuer says.

    `url` is its exact `iss`. Its keys are at `jwks_uri`, or where its discovery document says;
    `ca` (PEM) is who certifies it, if not an authority that the system trusts, and with one it may
    have a private address, as with `private_network`. Its tokens must be meant for `audience`, or
    for this server if that is empty, be signed with one of `algorithms`, and live for `max_life`
    at most.
    """

    name: str
    labels: Mapping[str, str]
    owner: str
    purpose: str
    url: str
    jwks_uri: str
    ca: str
    private_network: bool
    audience: str
    algorithms: tuple[str, ...]
    max_life: timedelta
    identities: tuple[Rule, ...]


def find_meant(issuer: Issuer, claims: Mapping[str, Any]) -> str | None:
    """The name of the one identity that these claims mean; None for no one, and for several."""
    names = {rule.identity for rule in issuer.identities if rule.fits(claims)}
    return names.pop() if len(names) == 1 else None


def fits_text(pattern: str, text: str) -> bool:
    """Whether `text` fits; in time linear in both, whatever they hold."""
    if ANYTHING not in pattern:
        return pattern == text
    wanted, found = _SPLIT.split(pattern), _SPLIT.split(text)
    return len(wanted) == len(found) and all(map(_fits_segment, wanted, found))


def _fits_segment(pattern: str, text: str) -> bool:
    before, star, after = pattern.partition(ANYTHING)
    if not star:
        return pattern == text
    room = len(text) - len(before) - len(after)
    return room > 0 and text.startswith(before) and text.endswith(after)


def _write(value: object) -> str | None:
    """A claim as the text that conditions speak of; None for what they can't."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else None
