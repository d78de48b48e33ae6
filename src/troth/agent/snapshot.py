"""What the server last said about this node, checked and indexed for matching callers.

The server is trusted, its bytes are not: an entry that can't be understood is left out, which
denies, and a snapshot without usable roots is refused as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import structlog
from cryptography import x509

from troth.agent.credential import check_roots
from troth.agent.view import Bundle
from troth.core.errors import Internal, Invalid
from troth.core.ids import SpiffeId, TrustDomain
from troth.core.x509 import UNREADABLE
from troth.identity.identity import State
from troth.identity.pattern import Pattern
from troth.identity.selectors import Match, Selector, match_selectors
from troth.identity.template import Catalogue
from troth.wire.api.nodes import Entry, NodeSnapshot, TemplateEntry

log = structlog.get_logger(__name__)


MAX_SPREAD = 10
"""Seconds."""


class Content(NamedTuple):
    """What a certificate says of its identity; `x509_ttl` is in seconds."""

    spiffe_id: str
    dns_names: tuple[str, ...]
    x509_ttl: int


@dataclass(frozen=True, slots=True)
class Registration:
    """One identity as this node knows it. `x509_ttl` is in seconds.

    `template` is the one that made it at first sight, or empty."""

    identity_id: str
    name: str
    spiffe_id: str
    state: str
    selectors: tuple[Selector, ...]
    dns_names: tuple[str, ...]
    x509_ttl: int
    jwt_ttl: int
    hint: str
    revision: int
    expires_at: datetime
    template: str = ""

    @property
    def content(self) -> Content:
        """What its certificates say: when this changes, a new one is needed."""
        return Content(self.spiffe_id, self.dns_names, self.x509_ttl)

    def is_servable(self, now: datetime) -> bool:
        """Whether the identity may be handed out: active and not past its end."""
        return self.state == State.ACTIVE and now < self.expires_at

    def is_lapsed(self, now: datetime) -> bool:
        """Whether a template made it, and nobody was seen for so long that it has expired.

        It lives again once the server is told that its workload is back.
        """
        return bool(self.template) and self.state == State.ACTIVE and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class Offer:
    """A template as this node knows it: who may get an identity at first sight."""

    name: str
    match: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that concerns this node, as of journal position `epoch`.

    `cut_off` are SPIFFE IDs, registered anywhere, whose tokens must be refused.
    What a key in `tainted` signed must be replaced within `spread` seconds, the time over which
    all nodes together spread what they all do at once.
    """

    epoch: int
    lease: int
    trust_domain: TrustDomain
    registrations: Mapping[str, Registration]
    locked: frozenset[str]
    cut_off: frozenset[str]
    revoked: frozenset[int]
    roots: tuple[bytes, ...]
    bundle: Bundle
    jwks: Mapping[str, Any]
    index: Mapping[Selector, tuple[Registration, ...]]
    tainted: frozenset[str] = frozenset()
    spread: float = 0.0
    offers: Catalogue[Offer] = field(default_factory=Catalogue, compare=False)

    def match(self, attested: frozenset[Selector]) -> list[Registration]:
        """The registrations that `attested` fulfils, the most demanding first.

        What somebody registered goes before what a template made, in whatever state it is.
        """
        found = {
            registration.identity_id: registration
            for selector in attested
            for registration in self.index.get(selector, ())
            if match_selectors(registration.selectors, attested).complete
        }
        explicit = [registration for registration in found.values() if not registration.template]
        chosen = explicit or found.values()
        return sorted(chosen, key=lambda r: (-len(r.selectors), r.name, r.identity_id))

    def rank_nearest(
        self, attested: frozenset[Selector], limit: int, effort: int
    ) -> list[tuple[Registration, Match]]:
        """The registrations that `attested` comes nearest to, for explaining a refusal.

        Compares at most `effort` of them, beginning with those that share a rare selector.
        """
        likely = (one for selector in sorted(attested) for one in self.index.get(selector, ()))
        chosen = {one.identity_id: one for one in islice(likely, effort)}
        for identity_id, registration in self.registrations.items():
            if len(chosen) >= effort:
                break
            chosen.setdefault(identity_id, registration)
        compared = [
            (registration, match_selectors(registration.selectors, attested))
            for registration in chosen.values()
        ]
        compared.sort(key=lambda pair: (-len(pair[1].held), len(pair[1].missing), pair[0].name))
        return compared[:limit]


def read_snapshot(message: NodeSnapshot, before: Snapshot | None) -> Snapshot:
    """`message` checked; raises `Internal` if it can't be used at all.

    `before` is the snapshot that it replaces, whose parsed revocation lists are used again.
    """
    try:
        trust_domain = TrustDomain.parse(message.trust_domain)
    except Invalid as error:
        raise Internal("The server's snapshot names no valid trust domain.") from error
    roots = tuple(message.x509_authorities)
    check_roots(roots)
    crls = tuple(message.crls)
    if before is not None and before.bundle.crls == crls:
        revoked = before.revoked
    else:
        crls, revoked = _read_crls(crls)
    jwks = _read_jwks(message.jwks)
    registrations = {
        registration.identity_id: registration
        for entry in message.entries
        if (registration := _read_entry(entry, trust_domain)) is not None
    }
    return Snapshot(
        epoch=message.epoch,
        lease=message.lease,
        trust_domain=trust_domain,
        registrations=registrations,
        locked=frozenset(message.locked),
        cut_off=frozenset(message.cut_off),
        revoked=revoked,
        roots=roots,
        bundle=Bundle(
            trust_domain=str(trust_domain.id),
            x509_authorities=roots,
            crls=crls,
            jwks=msgspec.json.encode(jwks),
        ),
        jwks=jwks,
        index=_index_registrations(registrations.values()),
        tainted=frozenset(message.tainted),
        spread=float(min(max(message.spread, 0), MAX_SPREAD)),
        offers=Catalogue(
            offer for entry in message.templates if (offer := _read_offer(entry)) is not None
        ),
    )


def _read_offer(entry: TemplateEntry) -> Offer | None:
    """The template, or None with a word in the log: a newer server may know other patterns."""
    try:
        return Offer(entry.name, tuple(map(Pattern.parse, entry.match)))
    except Invalid as error:
        log.warning("snapshot.template_unusable", name=entry.name[:128], reason=error.detail)
        return None


def _read_entry(entry: Entry, trust_domain: TrustDomain) -> Registration | None:
    """The entry, or None with a word in the log: what isn't understood is served to nobody."""
    try:
        spiffe_id = SpiffeId.parse(entry.spiffe_id)
        if spiffe_id.trust_domain != trust_domain or not spiffe_id.path:
            raise Invalid(f"{str(spiffe_id)[:200]} is not a workload of {trust_domain}.")
        if entry.expires_at.tzinfo is None:
            raise Invalid("Its expiry has no time zone.")
        selectors = tuple(Selector.parse(text) for text in entry.selectors)
    except Invalid as error:
        log.warning("snapshot.entry_unusable", identity=entry.name[:128], reason=error.detail)
        return None
    return Registration(
        identity_id=entry.identity_id,
        name=entry.name,
        spiffe_id=str(spiffe_id),
        state=entry.state,
        selectors=selectors,
        dns_names=tuple(entry.dns_names),
        x509_ttl=entry.x509_ttl,
        jwt_ttl=entry.jwt_ttl,
        hint=entry.hint,
        revision=entry.revision,
        expires_at=entry.expires_at,
        template=entry.template,
    )


def _read_crls(crls: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], frozenset[int]]:
    """The readable lists, and the serials that they revoke."""
    readable: list[bytes] = []
    serials: set[int] = set()
    for der in crls:
        try:
            parsed = x509.load_der_x509_crl(der)
            serials.update(revoked.serial_number for revoked in parsed)
        except UNREADABLE as error:
            log.warning("snapshot.crl_unusable", reason=str(error)[:200])
            continue
        readable.append(der)
    return tuple(readable), frozenset(serials)


def _read_jwks(jwks: Mapping[str, Any]) -> dict[str, Any]:
    """The JWK set with the keys that clients can use: objects with a ``kid``."""
    keys = jwks.get("keys")
    if not isinstance(keys, list):
        keys = []
    usable = [key for key in keys if isinstance(key, dict) and isinstance(key.get("kid"), str)]
    if len(usable) != len(keys):
        log.warning("snapshot.jwk_unusable", left_out=len(keys) - len(usable))
    return {**jwks, "keys": usable}


def _index_registrations(
    registrations: Iterable[Registration],
) -> dict[Selector, tuple[Registration, ...]]:
    """Each registration under its rarest selector: a caller is compared with few of them."""
    listed = list(registrations)
    counts = Counter(selector for registration in listed for selector in registration.selectors)
    index: dict[Selector, list[Registration]] = {}
    for registration in listed:
        if registration.selectors:
            rarest = min(registration.selectors, key=lambda selector: (counts[selector], selector))
            index.setdefault(rarest, []).append(registration)
    return {selector: tuple(found) for selector, found in index.items()}
