"""``token.exchange`` for a transaction token: what one call is for, for all workloads behind it.

Source: draft-ietf-oauth-transaction-tokens-10, a profile of RFC 8693. It is a draft, so nothing
here runs unless the setting `oauth.draft_transaction_tokens` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Invalid
from troth.core.events import Event
from troth.core.ids import TrustDomain, new_ordered_id
from troth.core.tier import Tier, lower_tier, read_tier
from troth.identity.identity import Identity
from troth.issuance.accesstoken import TIER, list_actors
from troth.issuance.authorities import TOKEN_ALGORITHMS
from troth.issuance.instance import join_instances
from troth.issuance.txntoken import (
    RESOURCE,
    TXN,
    TxnToken,
    limit_life,
    list_workloads,
    render_signing_input,
)
from troth.live.bundle import Bundle
from troth.live.snapshot import Snapshot
from troth.operations.accesstoken import NO_TARGET, bind_client, blame_proof, find_signer
from troth.operations.bearer import Bearer
from troth.operations.call import Call, Caller
from troth.operations.client import Authenticator, Proven
from troth.operations.declaration import read_bundle
from troth.operations.dpop import DpopVerifier
from troth.operations.exchange import NOT_LIVE, ExchangeToken, TokenReader
from troth.operations.recording import make_event
from troth.operations.standing import rate_client
from troth.operations.tokens import Replayed, TokenGatherer
from troth.operations.wish import refuse
from troth.policy.delegation import Asker
from troth.policy.narrowing import Denial, Wish
from troth.policy.resource import Resource
from troth.policy.transaction import (
    Transaction,
    decide_replacement,
    decide_transaction,
    extend_context,
    extend_workloads,
)
from troth.store.engine import Store
from troth.wire.oauth.answers import TokenAnswer
from troth.wire.oauth.errors import InvalidTarget, UnsupportedGrantType
from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import TOKEN_EXCHANGE
from troth.wire.oauth.request import OAuthRequest
from troth.wire.oauth.transaction import (
    NOT_APPLICABLE,
    REQUEST_CONTEXT,
    REQUEST_DETAILS,
    TXN_TOKEN,
    check_context,
    encode_member,
    parse_context,
)

T = TypeVar("T")

NO_PLACE = ("actor_token", "actor_token_type", "authorization_details")
"""Parameters of other exchanges, which mean nothing in this one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request for a transaction token asks for. `target` is an identifier of a resource."""

    scopes: frozenset[str]
    target: str | None
    context: dict[str, Any]
    details: dict[str, Any]


def read_transaction(form: Form, trust_domain: str) -> Wanted:
    """What a form asks for, section "Txn-Token Request"; `Invalid` or `InvalidTarget`."""
    for name in NO_PLACE:
        if form.find(name) is not None:
            raise Invalid(f"A request for a transaction token has no {name}.")
    if form.list("audience") != (trust_domain,):
        raise InvalidTarget(
            f"The audience of a transaction token is the trust domain's name: {trust_domain}."
        )
    targets = form.list("resource")
    if len(targets) > 1:
        raise InvalidTarget("The scope names actions of one resource: name one (RFC 8707).")
    token = form.require("subject_token")
    found = {}
    for name in (REQUEST_CONTEXT, REQUEST_DETAILS):
        text = form.find(name)
        if text is not None and token in text:
            # Section "Access Tokens": who reads the one must not find the other in it.
            raise Invalid(f"The {name} holds the subject_token; a transaction token must not.")
        found[name] = {} if text is None else parse_context(name, text)
    return Wanted(
        frozenset(form.require("scope").split()),
        targets[0] if targets else None,
        found[REQUEST_CONTEXT],
        found[REQUEST_DETAILS],
    )


@dataclass(frozen=True, slots=True)
class Basis:
    """What a token is made from: the transaction as it was, and who and what vouches for it.

    `jti` is that of the token that was shown, `ends` when it and its subject end; `instances` are
    the running copies that obtained it. `tier` is how much is relied on it now.
    """

    transaction: Transaction
    subject: Identity
    jti: str
    ends: tuple[datetime, ...]
    instances: tuple[str, ...]
    tier: Tier


class _Claims(msgspec.Struct, kw_only=True):
    aud: str
    txn: str
    scope: str
    resource: str = msgspec.field(name=RESOURCE)
    rctx: dict[str, Any] = {}
    tctx: dict[str, Any] = {}


def read_claims(claims: Any, trust_domain: str, bundle: Bundle) -> Transaction:
    """What the claims of a verified transaction token say; else `Invalid`."""
    try:
        found = msgspec.convert(claims, _Claims)
    except (msgspec.ValidationError, RecursionError, UnicodeError) as error:
        raise Invalid("The subject_token's claims are none of ours.") from error
    if found.aud != trust_domain:
        raise Invalid("The subject_token is of another trust domain.")
    resource = bundle.by_identifier.get(found.resource)
    if resource is None:
        raise Invalid("The subject_token is for a resource that is declared no more.")
    return Transaction(
        id=found.txn,
        resource=resource,
        scopes=frozenset(found.scope.split()),
        workloads=list_workloads(claims),
        actors=list_actors(claims),
        rctx=found.rctx,
        tctx=found.tctx,
    )


@dataclass(frozen=True, slots=True)
class TxnTokenMaker:
    """Makes transaction tokens for who was found to deserve them."""

    store: Store
    snapshot: Snapshot
    clock: Clock
    entropy: Entropy
    gatherer: TokenGatherer
    issuer_url: str
    trust_domain: TrustDomain

    async def make(
        self, call: Call[OAuthRequest], bundle: Bundle, client: Proven, basis: Basis
    ) -> TokenAnswer:
        """The token, recorded before it is answered; `basis` holds what it will say."""
        tier = lower_tier(
            await rate_client(self.store, self.snapshot, self.clock, client, basis.subject),
            basis.tier,
        )
        now = self.clock.now()
        said = basis.transaction
        parties = (str(basis.subject.spiffe_id), *said.workloads, *said.actors)
        instances = join_instances(client.instance, basis.instances)
        self.snapshot.tokens.check_issuing((*parties, *instances), now)
        authority = find_signer(bundle, now)
        ends = (client.identity.expires_at, *client.ends, *basis.ends)
        token = TxnToken(
            issuer_url=self.issuer_url,
            trust_domain=self.trust_domain.name,
            txn=said.id or new_ordered_id("txn", now, self.entropy),
            jti=new_ordered_id("tok", now, self.entropy),
            kid=bundle.key_ids[authority.id],
            subject=str(basis.subject.spiffe_id),
            resource=said.resource.audience,
            scopes=tuple(sorted(said.scopes)),
            workloads=said.workloads,
            issued_at=now,
            expires_at=limit_life(authority, ends, now),
            actors=said.actors,
            rctx=said.rctx,
            tctx=said.tctx,
            instances=instances,
            tier=tier,
        )
        content = render_signing_input(token, TOKEN_ALGORITHMS[authority.use])
        event = _describe(call, client, token, said.resource, basis.jti)
        try:
            text = await self.gatherer.sign(authority, content, event, client.proofs)
        except Replayed as error:
            raise blame_proof(client, error) from error
        return TokenAnswer(
            access_token=text,
            token_type=NOT_APPLICABLE,
            expires_in=int((token.expires_at - now).total_seconds()),
            scope=" ".join(token.scopes),
            issued_token_type=TXN_TOKEN,
        )


def _describe(
    call: Call[OAuthRequest], client: Proven, token: TxnToken, resource: Resource, from_jti: str
) -> Event:
    """The contexts aren't told: they may hold what is personal (section "Logging")."""
    by_client = Call(
        Caller(client.client_id, frozenset(), source=call.caller.source), call.request_id, None
    )
    return make_event(
        by_client,
        "token.exchanged",
        token.subject,
        token.issued_at,
        kind="transaction",
        txn=token.txn,
        jti=token.jti,
        from_jti=from_jti,
        kid=token.kid,
        client=client.client_id,
        method=client.method,
        vouched=client.vouched,
        resource=resource.name,
        audiences=[token.trust_domain],
        scope=token.scopes,
        actors=token.actors,
        workloads=token.workloads,
        troth_instances=token.instances,
        troth_tier=token.tier.value,
        expires_at=token.expires_at.isoformat(),
    )


@dataclass(frozen=True, slots=True)
class IssueTxnToken:
    """``token.exchange`` with `requested_token_type` a transaction token: one begins, or the token
    of one is replaced by another that says more or permits less."""

    store: Store
    snapshot: Snapshot
    authenticator: Authenticator
    dpop: DpopVerifier
    reader: TokenReader
    maker: TxnTokenMaker

    async def __call__(self, call: Call[OAuthRequest]) -> TokenAnswer:
        """The token; raises the refusals of RFC 8693, section 2.2.2."""
        form = call.body.form
        if form.require("grant_type") != TOKEN_EXCHANGE:
            raise UnsupportedGrantType(f"The grant_type of an exchange is {TOKEN_EXCHANGE}.")
        wanted = read_transaction(form, self.maker.trust_domain.name)
        client = await self.authenticator.authenticate(call.body)
        client = await bind_client(client, call.body, self.dpop)
        asker = Asker(client.client_id, client.identity.name, client.confirmation)
        bundle = await read_bundle(self.store, self.snapshot)
        replaces = form.require("subject_token_type") == TXN_TOKEN
        find = self._replace if replaces else self._begin
        basis = await find(form, bundle, asker, wanted)
        return await self.maker.make(call, bundle, client, basis)

    async def _begin(self, form: Form, bundle: Bundle, asker: Asker, wanted: Wanted) -> Basis:
        """A transaction that begins with an access token, or with the asker's own JWT-SVID."""
        shown = await self.reader.read("subject_token", form, bundle, asker.spiffe_id)
        resource = find_resource(bundle, shown.token.resource, wanted)
        permitted = bundle.find_actions(shown.identity.roles, resource)
        access = _require(decide_transaction(shown.token, asker, permitted, Wish(wanted.scopes)))
        transaction = Transaction(
            id="",
            resource=resource,
            scopes=access.scopes,
            workloads=(asker.spiffe_id,),
            actors=shown.token.actors,
            rctx=wanted.context,
            tctx=wanted.details,
        )
        ends = (shown.identity.expires_at, shown.end)
        return Basis(transaction, shown.identity, shown.jti, ends, shown.instances, shown.tier)

    async def _replace(self, form: Form, bundle: Bundle, asker: Asker, wanted: Wanted) -> Basis:
        """The same transaction, with what is wanted added to it and perhaps less permitted."""
        bearer = await self.reader.judge.judge(form.require("subject_token"), bundle, TXN)
        if not isinstance(bearer, Bearer):
            detail = bearer.reason if bearer.evident else NOT_LIVE
            raise Invalid(detail.replace("The token", "The subject_token"))
        old = read_claims(bearer.token.claims, self.maker.trust_domain.name, bundle)
        find_resource(bundle, old.resource, wanted)
        resources = (bundle.resources.get(name) for name in old.resource.passes_to)
        passed_to = {server for one in resources if one is not None for server in one.servers}
        permitted = bundle.find_actions(bearer.subject.roles, old.resource)
        wish = Wish(wanted.scopes)
        access = _require(decide_replacement(old, asker, passed_to, permitted, wish))
        transaction = Transaction(
            id=old.id,
            resource=old.resource,
            scopes=access.scopes,
            workloads=_require(extend_workloads(old.workloads, asker.spiffe_id)),
            actors=old.actors,
            rctx=_extend("rctx", old.rctx, wanted.context),
            tctx=_extend("tctx", old.tctx, wanted.details),
        )
        ends = (bearer.subject.expires_at, bearer.token.end)
        token = bearer.token
        tier = lower_tier(read_tier(token.claims.get(TIER)), bearer.tier)
        return Basis(transaction, bearer.subject, token.jti, ends, token.instances, tier)


def find_resource(bundle: Bundle, meant: Resource | None, wanted: Wanted) -> Resource:
    """The resource whose actions the scope names: the one that the token is `meant` for.

    A JWT-SVID is meant for none, so the request says it: an unknown scope is never taken for an
    unlimited one (section "Unknown `subject_token` scope").
    """
    if meant is None:
        found = bundle.by_identifier.get(wanted.target or "")
        if found is not None:
            return found
    elif wanted.target is None or wanted.target in meant.identifiers:
        return meant
    raise InvalidTarget(NO_TARGET)


def _extend(name: str, old: Any, added: dict[str, Any]) -> dict[str, Any]:
    return check_context(name, _require(extend_context(name, old, added, encode_member)))


def _require(found: T | Denial) -> T:
    if isinstance(found, Denial):
        refuse(found)
    return found


@dataclass(frozen=True, slots=True)
class ExchangeForEither:
    """``token.exchange`` where transaction tokens are offered too."""

    access: ExchangeToken
    transaction: IssueTxnToken

    async def __call__(self, call: Call[OAuthRequest]) -> TokenAnswer:
        """What one of the two answers, as the request wants."""
        if call.body.form.find("requested_token_type") == TXN_TOKEN:
            return await self.transaction(call)
        return await self.access(call)
