"""Delegation: who may have a token exchanged for another one, and who then acts for whom.

Source: RFC 8693 (sections in brackets). The rules are applied when a token is exchanged; whoever
decides about a request looks at the subject and the current actor alone [4.1].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from troth.policy.narrowing import NOTHING, Access, Denial, Fault, Wish, narrow_access
from troth.policy.resource import Resource

MAX_ACTORS = 5
"""How many may act one for the other. Each adds a SPIFFE ID to a token that must fit into a header,
and a credential that can be stolen on the way; a longer chain is mostly a loop or a mistake."""


@dataclass(frozen=True, slots=True)
class SubjectToken:
    """What the token says that is to be exchanged.

    It speaks for `subject`, was given to `holder`, and `actors` act, the current one first. It is
    meant for `resource`; None for a credential that is meant for this server, and says nothing of
    what may be done. `passed` are the audiences through which it came here, the first one first.
    `may_act` names who may act for the subject [4.4]; `confirmation` binds it to a key.
    """

    subject: str
    holder: str
    resource: Resource | None = None
    access: Access = NOTHING
    actors: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    may_act: str = ""
    confirmation: Mapping[str, str] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether it is its subject's own token, with nobody in between."""
        return self.holder == self.subject and not self.actors


@dataclass(frozen=True, slots=True)
class Asker:
    """The client that asks for the exchange, and the key that what it gets will be bound to."""

    spiffe_id: str
    name: str
    confirmation: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Passage:
    """Who acts in the new token, and through which audiences it came; no actors: impersonation."""

    actors: tuple[str, ...]
    passed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is given for a token."""

    passage: Passage
    access: Access


NOT_FOR_ASKER = (
    "The subject_token is not this client's to exchange: it is neither meant for a resource that "
    "the client serves, nor does its may_act or its subject's registration name the client."
)

NOTHING_THERE = (
    "Nothing is permitted there to both the subject and the client: whoever acts for somebody may "
    "do what both of them may."
)


def decide_exchange(
    token: SubjectToken,
    asker: Asker,
    delegates: Collection[str],
    target: Resource,
    permitted: frozenset[str],
    wish: Wish,
) -> Exchange | Denial:
    """What `asker` gets of what it wishes for at `target`, in exchange for `token`.

    `permitted` is what both the token's subject and the asker may do there by their roles, and
    `delegates` are those of the subject, by name. At the same resource nothing is given that the
    token itself doesn't allow.
    """
    passage = find_passage(token, asker, delegates, target)
    if isinstance(passage, Denial):
        return passage
    if not permitted:
        return Denial(Fault.TARGET, NOTHING_THERE)
    same = token.resource is not None and token.resource.name == target.name
    access = narrow_access(wish, permitted, token.access if same else None)
    return access if isinstance(access, Denial) else Exchange(passage, access)


def find_passage(
    token: SubjectToken, asker: Asker, delegates: Collection[str], target: Resource
) -> Passage | Denial:
    """Who acts, if `asker` may have a token for `target` in exchange.

    It may if it serves the resource that the token is meant for and that resource may pass callers
    on to `target`; if it is one of the subject's `delegates` (names), or named by `may_act`; or if
    it asks for a narrower token than the one it holds itself. In the last case nobody comes to act,
    in all others it is the asker who acts from here on.
    """
    holds = asker.spiffe_id == token.holder and (
        token.own or token.actors[:1] == (asker.spiffe_id,)
    )
    serves = token.resource is not None and asker.name in token.resource.servers
    named = token.may_act == asker.spiffe_id or asker.name in delegates
    if not (holds or serves or named):
        return Denial(Fault.TOKEN, NOT_FOR_ASKER)
    return (
        _check_bound(token, asker, serves=serves)
        or (_narrow(token, target) if holds else None)
        or _check_chain(token, asker)
        or _pass_on(token, asker, target, named=named)
    )


def _check_bound(token: SubjectToken, asker: Asker, *, serves: bool) -> Denial | None:
    """A bound token's key is proved by its holder to the resource, and to us by its holder alone.

    What is given in exchange for a bound token is bound as well: else an exchange would be the way
    to be rid of the binding.
    """
    if not token.confirmation:
        return None
    if not serves and dict(token.confirmation) != dict(asker.confirmation):
        return Denial(
            Fault.TOKEN,
            "The subject_token is bound to a key (cnf) of which this client gave no proof, and the "
            "client doesn't serve the resource that it is meant for.",
        )
    if not asker.confirmation:
        return Denial(
            Fault.TOKEN,
            "The subject_token is bound to a key (cnf), so what it is exchanged for must be: ask "
            "on the mutual-TLS listener, with an X.509-SVID (RFC 8705), or with a DPoP proof.",
        )
    return None


def _narrow(token: SubjectToken, target: Resource) -> Passage | Denial:
    """A token that its holder wants narrower: for the same resource, in the same roles."""
    if token.resource is None or token.resource.name == target.name:
        return Passage(token.actors, token.passed)
    return Denial(
        Fault.TARGET,
        "A client exchanges a token that it holds itself for the same resource alone.",
    )


def _check_chain(token: SubjectToken, asker: Asker) -> Denial | None:
    if asker.spiffe_id == token.subject or asker.spiffe_id in token.actors:
        return Denial(
            Fault.TOKEN,
            "The client is in the subject_token's chain already, and nobody acts in it twice.",
        )
    if len(token.actors) >= MAX_ACTORS:
        return Denial(
            Fault.TOKEN,
            f"The subject_token has passed through {MAX_ACTORS} actors, and may through no more.",
        )
    return None


def _pass_on(
    token: SubjectToken, asker: Asker, target: Resource, *, named: bool
) -> Passage | Denial:
    actors = (asker.spiffe_id, *token.actors)
    resource = token.resource
    if resource is None:
        return Passage(actors, token.passed)
    if resource.name == target.name:
        return Passage(actors, token.passed)
    if not named and target.name not in resource.passes_to:
        return Denial(
            Fault.TARGET,
            "The resource that the subject_token is meant for passes no callers on to this one: "
            "its passesTo doesn't name it.",
        )
    if not set(target.identifiers).isdisjoint(token.passed):
        return Denial(
            Fault.TARGET,
            "The subject_token came through this resource already, and doesn't return to it.",
        )
    return Passage(actors, (*token.passed, resource.audience))
