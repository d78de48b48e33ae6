"""Access tokens: ``token.request``, for a client that proves who it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Invalid, TrothError, Unavailable
from troth.core.events import Event
from troth.core.ids import new_ordered_id
from troth.issuance.accesstoken import AccessToken, plan_access_token
from troth.issuance.authorities import Authority, AuthorityState, find_token_use
from troth.live.bundle import Bundle
from troth.live.snapshot import Snapshot
from troth.operations.call import Call, Caller
from troth.operations.client import Authenticator, Proven
from troth.operations.declaration import read_bundle
from troth.operations.dpop import Bound, DpopVerifier
from troth.operations.recording import make_event
from troth.operations.tokens import Replayed, TokenGatherer
from troth.policy.resource import Binding, Resource
from troth.store.engine import Store
from troth.wire.oauth.answers import TokenAnswer
from troth.wire.oauth.errors import (
    InvalidClient,
    InvalidDpopProof,
    InvalidScope,
    InvalidTarget,
    UnsupportedGrantType,
)
from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import CLIENT_CREDENTIALS, GRANT_TYPES
from troth.wire.oauth.request import OAuthRequest

NO_TARGET = (
    "The resource is unknown, or nothing is permitted to this client there. Name one by its "
    "identifier in the parameter resource (RFC 8707)."
)


@dataclass(frozen=True, slots=True)
class TokenMaker:
    """Makes tokens for who was found to deserve them."""

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
        resource: Resource,
        scopes: Collection[str],
    ) -> TokenAnswer:
        """A token of `scopes` at `resource` for `client`, recorded before it is answered."""
        check_binding(resource, client)
        now = self.clock.now()
        self.snapshot.tokens.check_issuing([client.client_id], now)
        authority = find_signer(bundle, now, resource.token.algorithm)
        token = plan_access_token(
            issuer=authority,
            kid=bundle.key_ids[authority.id],
            issuer_url=self.issuer_url,
            subject=client.identity.spiffe_id,
            client_id=client.client_id,
            audiences=(resource.audience,),
            scopes=scopes,
            ttl=resource.token.ttl,
            ends=(client.identity.expires_at, *client.ends),
            confirmation=client.confirmation,
            jti=new_ordered_id("tok", now, self.entropy),
            now=now,
        )
        event = self._describe(call, client, token, resource)
        try:
            text = await self.gatherer.issue(authority, token, event, client.proofs)
        except Replayed as error:
            raise _blame_proof(client, error) from error
        return TokenAnswer(
            access_token=text,
            token_type="DPoP" if "jkt" in token.confirmation else "Bearer",
            expires_in=int((token.expires_at - now).total_seconds()),
            scope=" ".join(token.scopes),
        )

    def _describe(
        self, call: Call[OAuthRequest], client: Proven, token: AccessToken, resource: Resource
    ) -> Event:
        by_client = Call(
            Caller(client.client_id, frozenset(), source=call.caller.source), call.request_id, None
        )
        return make_event(
            by_client,
            "token.issued",
            str(token.subject),
            token.issued_at,
            jti=token.jti,
            kid=token.kid,
            client=client.client_id,
            method=client.method,
            vouched=client.vouched,
            resource=resource.name,
            audiences=token.audiences,
            scope=token.scopes,
            cnf=token.confirmation,
            expires_at=token.expires_at.isoformat(),
        )


def bind_client(client: Proven, bound: Bound) -> Proven:
    """The client with what its DPoP proof binds to; a certificate's binding stays beside it."""
    return replace(
        client,
        confirmation={**client.confirmation, **bound.confirmation},
        proofs={**client.proofs, **bound.proofs},
        dpop=frozenset(bound.proofs),
    )


def _blame_proof(client: Proven, error: Replayed) -> TrothError:
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
    """``token.request``: an access token for the client itself (RFC 6749, section 4.4)."""

    store: Store
    snapshot: Snapshot
    authenticator: Authenticator
    dpop: DpopVerifier
    maker: TokenMaker

    async def __call__(self, call: Call[OAuthRequest]) -> TokenAnswer:
        """The token; raises the refusals of RFC 6749, section 5.2, and RFC 8707, section 2."""
        form = call.body.form
        grant = form.require("grant_type")
        if grant not in GRANT_TYPES:
            raise UnsupportedGrantType(f"The grant_type may be {', '.join(GRANT_TYPES)}.")
        client = await self.authenticator.authenticate(call.body)
        if call.body.dpop is not None:
            bound = await self.dpop.verify(call.body.dpop, "POST", call.body.url)
            client = bind_client(client, bound)
        bundle = await read_bundle(self.store, self.snapshot)
        assert grant == CLIENT_CREDENTIALS
        resource = choose_resource(bundle, client, form)
        permitted = bundle.find_actions(client.identity.roles, resource)
        scopes = choose_scopes(form.find("scope"), permitted)
        return await self.maker.make(call, bundle, client, resource, scopes)


def choose_resource(bundle: Bundle, client: Proven, form: Form) -> Resource:
    """The resource that a request names, or the only one where the client may do something."""
    named = (*form.list("resource"), *form.list("audience"))
    if len(set(named)) > 1:
        raise InvalidTarget("A token is for one resource: ask for one each (RFC 8707).")
    roles = client.identity.roles
    if named:
        found = bundle.by_identifier.get(named[0])
        if found is not None and bundle.find_actions(roles, found):
            return found
        raise InvalidTarget(NO_TARGET)
    reached = bundle.list_reached(roles)
    if len(reached) != 1:
        raise InvalidTarget(NO_TARGET)
    return reached[0]


def choose_scopes(asked: str | None, permitted: frozenset[str]) -> frozenset[str]:
    """What of the scope asked for is permitted: all that is where none is named; never more.

    RFC 6749, section 3.3: what isn't permitted is left out, and the answer says what is there.
    """
    if asked is None:
        return permitted
    granted = permitted.intersection(asked.split(" "))
    if not granted:
        raise InvalidScope("Nothing of this scope is permitted to this client there.")
    return granted
