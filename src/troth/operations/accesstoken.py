"""Access tokens: ``token.request``, for a client that proves who it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Invalid, TrothError, Unavailable
from troth.core.events import Event
from troth.core.ids import new_ordered_id
from troth.core.tier import Tier, lower_tier
from troth.identity.identity import Identity
from troth.issuance.accesstoken import TIER, AccessToken, plan_access_token
from troth.issuance.authorities import Authority, AuthorityState, find_token_use
from troth.issuance.instance import INSTANCES, join_instances
from troth.live.bundle import Bundle
from troth.live.snapshot import Snapshot
from troth.operations.call import Call, Caller
from troth.operations.client import Authenticator, Proven, blame_grant
from troth.operations.declaration import read_bundle
from troth.operations.delegate import Delegates
from troth.operations.dpop import DpopVerifier
from troth.operations.recording import make_event
from troth.operations.standing import rate_client
from troth.operations.tokens import Replayed, TokenGatherer
from troth.operations.wish import read_wanted, refuse
from troth.policy.narrowing import Access, Denial, narrow_access
from troth.policy.resource import Binding, Resource, Target, TokenFormat, find_unshared
from troth.store.engine import Store
from troth.wire.oauth.answers import TokenAnswer
from troth.wire.oauth.details import ACTION_TYPE, ActionDetail, render_details
from troth.wire.oauth.errors import (
    InvalidClient,
    InvalidDpopProof,
    InvalidTarget,
    UnsupportedGrantType,
)
from troth.wire.oauth.metadata import CLIENT_CREDENTIALS, GRANT_TYPES, JWT_BEARER
from troth.wire.oauth.request import OAuthRequest

NO_TARGET = (
    "The resource is unknown, or nothing is permitted to this client there. Name one by its "
    "identifier in the parameter resource (RFC 8707)."
)


PASSED = "troth_passed"
"""A private claim (RFC 7519, section 4.3): the audiences that a token was passed on through. It
doesn't return to one of them, so that what it was narrowed to there is never widened again."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom a token speaks for, and what it takes over from the one it was exchanged for.

    `jti` is that one's, and empty where there is none; `ends` are those of what was shown for it,
    `tier` how much it was trusted, and `instances` the running copies that obtained it.
    """

    subject: Identity
    jti: str = ""
    actors: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    ends: tuple[datetime, ...] = ()
    tier: Tier = Tier.HIGH
    instances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenMaker:
    """Makes tokens for who was found to deserve them."""

    store: Store
    snapshot: Snapshot
    clock: Clock
    entropy: Entropy
    gatherer: TokenGatherer
    issuer_url: str

    async def make(
        self,
        call: Call[OAuthRequest],
        bundle: Bundle,
        client: Proven,
        target: Target,
        access: Access,
        *,
        may_act: str = "",
        origin: Origin | None = None,
    ) -> TokenAnswer:
        """A token for `access` to `target`, recorded before it is answered.

        It speaks for `client` itself, or for the subject of what it is exchanged for; then `client`
        is who asked. `may_act` names whoever may act on the subject's behalf. Its tier is the
        lowest of the client's proof, of both their scores, and of what it is exchanged for.
        """
        for resource in target.resources:
            check_binding(resource, client)
        origin = origin or Origin(client.identity)
        tier = lower_tier(
            await rate_client(self.store, self.snapshot, self.clock, client, origin.subject),
            origin.tier,
        )
        now = self.clock.now()
        parties = (client.client_id, str(origin.subject.spiffe_id), *origin.actors)
        instances = join_instances(client.instance, origin.instances)
        self.snapshot.tokens.check_issuing((*parties, *instances), now)
        authority = find_signer(bundle, now, target.algorithm)
        token = plan_access_token(
            issuer=authority,
            kid=bundle.key_ids[authority.id],
            issuer_url=self.issuer_url,
            subject=origin.subject.spiffe_id,
            client_id=client.client_id,
            audiences=target.audiences,
            scopes=access.scopes,
            ttl=target.limit_ttl(tier),
            ends=(client.identity.expires_at, *client.ends, *origin.ends),
            actors=origin.actors,
            extra={TIER: tier.value, **_list_claims(access, target, origin, may_act, instances)},
            confirmation=client.confirmation,
            jti=new_ordered_id("tok", now, self.entropy),
            now=now,
        )
        event = _describe(call, client, token, target, origin)
        try:
            opaque = target.format is TokenFormat.OPAQUE
            text = await self.gatherer.issue(authority, token, event, client.proofs, opaque=opaque)
        except Replayed as error:
            raise blame_proof(client, error) from error
        return TokenAnswer(
            access_token=text,
            token_type="DPoP" if "jkt" in token.confirmation else "Bearer",
            expires_in=int((token.expires_at - now).total_seconds()),
            scope=" ".join(token.scopes),
            authorization_details=token.extra.get("authorization_details", []),
        )


def _list_claims(
    access: Access, target: Target, origin: Origin, may_act: str, instances: tuple[str, ...]
) -> Mapping[str, Any]:
    """The claims besides those of RFC 9068."""
    claims: dict[str, Any] = {}
    if access.details:
        claims["authorization_details"] = render_details(
            ActionDetail(
                type=ACTION_TYPE,
                actions=list(one.actions),
                locations=[target.resources[0].audience],
                identifier=one.identifier,
            )
            for one in access.details
        )
    if may_act:
        claims["may_act"] = {"sub": may_act}  # RFC 8693, section 4.4
    if origin.passed:
        claims[PASSED] = list(origin.passed)
    if instances:
        claims[INSTANCES] = list(instances)
    return claims


def _describe(
    call: Call[OAuthRequest], client: Proven, token: AccessToken, target: Target, origin: Origin
) -> Event:
    by_client = Call(
        Caller(client.client_id, frozenset(), source=call.caller.source), call.request_id, None
    )
    what = {name: value for name, value in token.extra.items() if value}
    if origin.jti:
        kind = "delegation" if origin.actors else "impersonation"
        what |= {"kind": kind, "actors": origin.actors, "from_jti": origin.jti}
    return make_event(
        by_client,
        f"token.{'exchanged' if origin.jti else 'issued'}",
        str(token.subject),
        token.issued_at,
        jti=token.jti,
        kid=token.kid,
        client=client.client_id,
        method=client.method,
        vouched=client.vouched,
        resource=target.name,
        audiences=token.audiences,
        scope=token.scopes,
        cnf=token.confirmation,
        expires_at=token.expires_at.isoformat(),
        **what,
    )


async def bind_client(client: Proven, request: OAuthRequest, dpop: DpopVerifier) -> Proven:
    """The client with what its DPoP proof binds to, if it sends one; a certificate's binding stays
    beside it."""
    if request.dpop is None:
        return client
    bound = await dpop.verify(request.dpop, "POST", request.url)
    return replace(
        client,
        confirmation={**client.confirmation, **bound.confirmation},
        proofs={**client.proofs, **bound.proofs},
        dpop=frozenset(bound.proofs),
    )


def blame_proof(client: Proven, error: Replayed) -> TrothError:
    """One of the proofs was used before: the DPoP proof, or the assertion."""
    if error.digests & client.dpop:
        return InvalidDpopProof(f"The proof can't be taken. {error.detail}")
    return InvalidClient(f"The client_assertion can't be taken. {error.detail}")


def check_binding(resource: Resource, client: Proven) -> None:
    """Raise `Invalid` unless the resource takes tokens that are bound as this one would be."""
    binding, bound = resource.token.binding, client.confirmation
    if binding is Binding.NONE or (binding is Binding.ANY and bound):
        return
    if binding is Binding.MTLS and "x5t#S256" in bound:
        return
    if binding is Binding.DPOP and "jkt" in bound:
        return
    ways = {
        Binding.MTLS: "on the mutual-TLS listener, with an X.509-SVID (RFC 8705)",
        Binding.DPOP: "with a DPoP proof (RFC 9449)",
    }
    how = ways.get(binding, " or ".join(ways.values()))
    raise Invalid(f"The resource takes tokens alone that are bound to their holder: ask {how}.")


def find_signer(bundle: Bundle, now: datetime, algorithm: str = "ES256") -> Authority:
    """The authority that signs access tokens with `algorithm` now."""
    use = find_token_use(algorithm)
    for authority in bundle.authorities:
        if authority.use is use and authority.state is AuthorityState.ACTIVE:
            return authority
    raise Unavailable(
        f"No authority signs access tokens with {algorithm} yet. Try again in a moment.", 1.0
    )


@dataclass(frozen=True, slots=True)
class RequestToken:
    """``token.request``: an access token for the client itself, as which it authenticates (RFC
    6749, section 4.4) or which its assertion names (RFC 7523, section 2.1)."""

    store: Store
    snapshot: Snapshot
    authenticator: Authenticator
    dpop: DpopVerifier
    maker: TokenMaker
    delegates: Delegates

    async def __call__(self, call: Call[OAuthRequest]) -> TokenAnswer:
        """The token; raises the refusals of RFC 6749, section 5.2, and RFC 8707, section 2."""
        grant = call.body.form.require("grant_type")
        if grant == CLIENT_CREDENTIALS:
            client = await self.authenticator.authenticate(call.body)
            return await self._issue(call, client)
        if grant == JWT_BEARER:
            client = await self.authenticator.take_assertion(call.body)
            try:
                return await self._issue(call, client)
            except InvalidClient as error:
                raise blame_grant(error) from error
        raise UnsupportedGrantType(f"The grant_type may be {', '.join(GRANT_TYPES)}.")

    async def _issue(self, call: Call[OAuthRequest], client: Proven) -> TokenAnswer:
        client = await bind_client(client, call.body, self.dpop)
        bundle = await read_bundle(self.store, self.snapshot)
        wanted = read_wanted(call.body.form)
        target = choose_target(bundle, client, wanted.targets)
        permitted = bundle.find_common(client.identity.roles, target.resources)
        access = narrow_access(wanted.at(*target.resources), permitted)
        if isinstance(access, Denial):
            refuse(access)
        may_act = await self.delegates.find_only(client.identity)
        return await self.maker.make(call, bundle, client, target, access, may_act=may_act)


def choose_target(bundle: Bundle, client: Proven, named: Collection[str]) -> Target:
    """What a request names, or the only resource where the client may do something."""
    roles = client.identity.roles
    if not named:
        reached = bundle.list_reached(roles)
        if len(reached) != 1:
            raise InvalidTarget(NO_TARGET)
        return Target((reached[0],))
    found: dict[str, Resource] = {}
    for identifier in named:
        resource = bundle.by_identifier.get(identifier)
        if resource is None or not bundle.find_actions(roles, resource):
            raise InvalidTarget(NO_TARGET)
        found[resource.name] = resource
    if len(found) > 1 and (reason := find_unshared([*found.values()])):
        raise InvalidTarget(reason)
    return Target(tuple(found.values()))
