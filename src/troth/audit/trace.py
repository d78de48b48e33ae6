"""Causal chains: what ties a thing that happened to those that followed from it.

Each tie is an identifier that the earlier thing made and the later one names: a token's, a
transaction's, a certificate's, a held change's. Things that have one request in common belong
together anyhow.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.audit.query import Found, Kind

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MONTH = timedelta(days=31)


@dataclass(frozen=True, slots=True)
class Tie:
    """Events of `type` belong there if the `member` of their body has the identifier; "" is their
    subject. `link` is the tie in a word, `words` in a sentence about the event."""

    type: str
    member: str
    link: str
    words: str


@dataclass(frozen=True, slots=True)
class Lead:
    """Where to look for what a thing is tied to: from `since` to before `until`, for events whose
    type is `action` or begins so, with `value` in their body or as their subject; or, if `action`
    is "", for all that is part of the task `value`."""

    action: str
    value: str
    since: datetime
    until: datetime
    ties: tuple[Tie, ...] = ()

    @property
    def needle(self) -> str:
        """What stands in the body, as it is written there, of whatever is tied; "" if that can't be
        said."""
        if not all(tie.member for tie in self.ties) or not self.value.isidentifier():
            return ""
        return f'"{self.value}"'


@dataclass(frozen=True, slots=True)
class _Trail:
    """Things of these types name something in a `member` (as `Tie.member`), and others are tied to
    it within `reach`, or until the time in their member `ends`."""

    types: tuple[str, ...]
    member: str
    action: str
    ties: tuple[Tie, ...]
    reach: timedelta
    ends: str = ""


TRANSACTION = Tie("", "", "transaction", "is part of the transaction {value}")

_TOKENS = ("token.issued", "token.exchanged")
_FORWARD = (
    _Trail(
        _TOKENS,
        "jti",
        "token.",
        (
            Tie("token.exchanged", "from_jti", "exchange", "gave another token for {value}"),
            Tie("token.revoked", "jti", "revocation", "ended the token {value}"),
            Tie("token.rejected", "jti", "rejection", "showed {value}, which didn't count"),
        ),
        DAY,
        "expires_at",
    ),
    _Trail(
        ("certificate.intended", "certificate.issued"),
        "serial",
        "certificate.",
        (
            Tie("certificate.issued", "serial", "issue", "gave out the certificate {value}"),
            Tie("certificate.revoked", "serial", "revocation", "ended the certificate {value}"),
            Tie("certificate.abandoned", "serial", "abandonment", "gave {value} up"),
        ),
        MONTH,
        "not_after",
    ),
    _Trail(
        ("policy.held",),
        "",
        "policy.",
        (
            Tie("policy.approved", "change", "approval", "approved the held change {value}"),
            Tie("policy.rejected", "change", "rejection", "rejected the held change {value}"),
        ),
        MONTH,
        "until",
    ),
    _Trail(
        ("evidence.added",),
        "id",
        "evidence.withdrawn",
        (Tie("evidence.withdrawn", "id", "withdrawal", "took the evidence {value} back"),),
        MONTH,
    ),
    _Trail(
        ("client_secret.created",),
        "id",
        "client_secret.revoked",
        (Tie("client_secret.revoked", "id", "revocation", "ended the client secret {value}"),),
        MONTH,
        "expires_at",
    ),
    _Trail(
        ("token.created",),
        "",
        "node.attested",
        (Tie("node.attested", "token", "attestation", "used the join token {value}"),),
        MONTH,
        "expires_at",
    ),
    _Trail(
        ("instance.locked",),
        "id",
        "instance.unlocked",
        (Tie("instance.unlocked", "id", "unlocking", "let {value} work again"),),
        MONTH,
    ),
)
_ISSUE = (
    Tie("token.issued", "jti", "token", "issued the token {value}"),
    Tie("token.exchanged", "jti", "token", "issued the token {value}"),
)
_BACKWARD = (
    _Trail(("token.exchanged",), "from_jti", "token.", _ISSUE, DAY),
    _Trail(("token.revoked", "token.rejected"), "jti", "token.", _ISSUE, DAY),
    _Trail(
        ("certificate.revoked", "certificate.abandoned"),
        "serial",
        "certificate.issued",
        (Tie("certificate.issued", "serial", "issue", "gave out the certificate {value}"),),
        MONTH,
    ),
    _Trail(
        ("policy.approved", "policy.rejected"),
        "change",
        "policy.held",
        (Tie("policy.held", "", "proposal", "proposed the change {value}"),),
        MONTH,
    ),
    _Trail(
        ("evidence.withdrawn",),
        "id",
        "evidence.added",
        (Tie("evidence.added", "id", "evidence", "added the evidence {value}"),),
        MONTH,
    ),
    _Trail(
        ("node.attested",),
        "token",
        "token.created",
        (Tie("token.created", "", "invitation", "made the join token {value}"),),
        MONTH,
    ),
)
_BEGUN = Tie("token.exchanged", "txn", "transaction", "gave a token of the transaction {value}")


def list_consequences(found: Found) -> list[Lead]:
    """Where to look for what followed from it."""
    since = found.at - HOUR
    leads = [
        Lead(trail.action, value, since, _find_end(found, trail), trail.ties)
        for trail in _FORWARD
        if (value := _find_value(found, trail))
    ]
    if found.kind is Kind.EVENT and found.task:
        leads.append(Lead("", found.task, since, found.at + DAY, (TRANSACTION,)))
    return leads


def list_causes(found: Found) -> list[Lead]:
    """Where to look for what it came from."""
    until = found.at + HOUR
    leads = [
        Lead(trail.action, value, found.at - trail.reach, until, trail.ties)
        for trail in _BACKWARD
        if (value := _find_value(found, trail))
    ]
    if found.task and found.action not in _TOKENS:
        leads.append(Lead("token.exchanged", found.task, found.at - DAY, until, (_BEGUN,)))
    return leads


def find_tie(lead: Lead, found: Found) -> Tie | None:
    """How something that was found is tied, or None if it isn't."""
    for tie in lead.ties:
        if tie is TRANSACTION and found.task == lead.value:
            return tie
        named = found.kind is Kind.EVENT and tie.type == found.action
        if named and _read(found, tie.member) == lead.value:
            return tie
    return None


def _find_value(found: Found, trail: _Trail) -> str:
    if found.kind is not Kind.EVENT or found.action not in trail.types:
        return ""
    return _read(found, trail.member)


def _read(found: Found, member: str) -> str:
    """A member of the body as text; a held change's is a number."""
    value = found.detail.get(member) if member else found.subject
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _find_end(found: Found, trail: _Trail) -> datetime:
    """Until when something may follow: an hour after what was made has ended."""
    ends = found.detail.get(trail.ends) if trail.ends else None
    latest = found.at + trail.reach
    if isinstance(ends, str):
        try:
            return min(max(datetime.fromisoformat(ends) + HOUR, found.at + HOUR), found.at + MONTH)
        except (ValueError, TypeError, OverflowError):
            pass
    return latest
