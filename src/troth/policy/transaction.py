"""Transactions: who may have a token made for one, and what of it a replacement may change.

Source: draft-ietf-oauth-transaction-tokens-10, sections "TTS Issuance Policies", which it leaves to
us, "Scope Processing" and "Txn-Token as a `subject_token`".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from troth.policy.delegation import Asker, SubjectToken
from troth.policy.narrowing import Access, Denial, Fault, Wish, narrow_access
from troth.policy.resource import Resource

MAX_WORKLOADS = 5
"""How many may ask one after the other for a token of one transaction: each adds a SPIFFE ID."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a transaction token says: its id, whose actions at which resource, who asked for it
    (the first one first), who acts (the current one first), and its two contexts."""

    id: str
    resource: Resource
    scopes: frozenset[str]
    workloads: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    rctx: Mapping[str, Any] = field(default_factory=dict)
    tctx: Mapping[str, Any] = field(default_factory=dict)


def decide_transaction(
    token: SubjectToken, asker: Asker, permitted: frozenset[str], wish: Wish
) -> Access | Denial:
    """What of `wish` a transaction may do that `asker` begins with `token`.

    Those begin one to whom the token was shown, since they serve its resource, and who holds it
    itself. A delegate does not: it exchanges the token for its own first. `permitted` is what the
    subject may do there now.
    """
    serves = token.resource is not None and asker.name in token.resource.servers
    holds = asker.spiffe_id == token.holder and (
        token.own or token.actors[:1] == (asker.spiffe_id,)
    )
    if not (serves or holds):
        return Denial(
            Fault.TOKEN,
            "The subject_token is not this client's to begin a transaction with: the client "
            "neither serves the resource that it is meant for nor holds it.",
        )
    if token.confirmation and not serves and dict(token.confirmation) != dict(asker.confirmation):
        return Denial(
            Fault.TOKEN,
            "The subject_token is bound to a key (cnf) of which this client gave no proof.",
        )
    return narrow_access(wish, permitted, token.access if token.resource is not None else None)


def decide_replacement(
    old: Transaction,
    asker: Asker,
    passed_to: Collection[str],
    permitted: frozenset[str],
    wish: Wish,
) -> Access | Denial:
    """What of `wish` the replacement of `old` may do that `asker` wants.

    Those replace a token who asked for it before, or who are in the call chain as it is declared:
    the servers of its resource, and `passed_to`, those of the resources that this one passes
    callers on to, by name.
    """
    known = (
        asker.spiffe_id in old.workloads
        or asker.name in old.resource.servers
        or asker.name in passed_to
    )
    if not known:
        return Denial(
            Fault.TOKEN,
            "The subject_token is not this client's to replace: the client serves neither its "
            "resource nor one in that resource's passesTo.",
        )
    return narrow_access(wish, permitted, Access(old.scopes))


def extend_workloads(old: tuple[str, ...], asker: str) -> tuple[str, ...] | Denial:
    """Who asked for the token that `asker` gets now; nobody is ever left out."""
    workloads = old if old[-1:] == (asker,) else (*old, asker)
    if len(workloads) <= MAX_WORKLOADS:
        return workloads
    return Denial(
        Fault.TOKEN,
        f"The subject_token was replaced by {MAX_WORKLOADS} workloads, and that is all.",
    )


def extend_context(
    name: str, old: Mapping[str, Any], added: Mapping[str, Any], form: Callable[[object], bytes]
) -> dict[str, Any] | Denial:
    """`old` with what is `added`: a member that is there stays as it is, and can't be left out.

    `form` gives one form for each JSON value, by which two are compared.
    """
    for member in added.keys() & old.keys():
        if form(added[member]) != form(old[member]):
            return Denial(
                Fault.TOKEN,
                f"The subject_token's {name} has the member {member[:64]!r} already, and it never "
                "changes.",
            )
    return {**old, **added}
