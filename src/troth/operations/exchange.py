"""``token.exchange``: a token in exchange for another one, narrower or for somebody to act with.

Source: RFC 8693 (sections in brackets).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from troth.core.clock import Clock
from troth.core.errors import Invalid, TrothError
from troth.core.ids import TrustDomain
from troth.core.jose.claims import list_audiences
from troth.core.jose.jws import parse_token
from troth.core.tier import Tier, lower_tier, read_tier
from troth.identity.identity import Identity
from troth.issuance.accesstoken import TIER, TYP, list_actors
from troth.issuance.opaque import is_opaque
from troth.live.bundle import Bundle
from troth.live.snapshot import Snapshot
from troth.operations.accesstoken import NO_TARGET, PASSED, Origin, TokenMaker, bind_client
from troth.operations.bearer import Bearer, Rejected, TokenJudge, Verified
from troth.operations.call import Call
from troth.operations.client import Authenticator, Proven
from troth.operations.declaration import read_bundle
from troth.operations.dpop import DpopVerifier
from troth.operations.svidclient import read_jwt_svid
from troth.operations.wish import read_wanted, refuse
from troth.policy.delegation import Asker, SubjectToken, decide_exchange
from troth.policy.narrowing import Access, Denial, Detail
from troth.policy.resource import Resource, Target
from troth.store.engine import Store
from troth.wire.oauth.answers import TokenAnswer
from troth.wire.oauth.details import read_details
from troth.wire.oauth.errors import InvalidClient, InvalidTarget, UnsupportedGrantType
from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import TOKEN_EXCHANGE
from troth.wire.oauth.request import OAuthRequest

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name [3]
JWT = "urn:ietf:params:oauth:token-type:jwt"
TOKEN_TYPES = (ACCESS_TOKEN, JWT)

NOT_LIVE = (
    "The token is not live: it has ended or was revoked, or somebody who stands in it may hold no "
    "tokens now."
)
"""One sentence for all that depends on what is registered: its bearer learns nothing from it."""


@dataclass(frozen=True, slots=True)
class Presented:
    """A token that was shown and is live: what it says, and the identity it speaks for. `tier` is
    how much is relied on it now: what it says itself, or less if somebody in it has fallen."""

    token: SubjectToken
    identity: Identity
    jti: str
    end: datetime
    instances: tuple[str, ...]
    issued_at: int
    tier: Tier


@dataclass(frozen=True, slots=True)
class TokenReader:
    """Reads the tokens that are to be exchanged."""

    judge: TokenJudge
    clock: Clock
    trust_domain: TrustDomain
    issuer_url: str

    async def read(self, name: str, form: Form, bundle: Bundle, asker: str) -> Presented:
        """The token in the parameter `name`, of the type in ``<name>_type``, that `asker` shows.

        Raises `Invalid` for whatever is wrong with it: ``invalid_request`` it must be [2.2.2].
        """
        text, type_ = form.require(name), form.require(f"{name}_type")
        if type_ not in TOKEN_TYPES:
            raise Invalid(f"The {name}_type may be {' or '.join(TOKEN_TYPES)}.")
        try:
            if type_ == JWT and not is_opaque(text) and not _is_access_token(text):
                return await self._read_svid(text, bundle, asker)
            return await self._read_access_token(text, bundle)
        except TrothError as error:
            if error.retryable:
                raise
            detail = error.detail.replace("The token", f"The {name}")
            raise Invalid(detail.replace("The JWT-SVID", f"The {name}")) from error

    async def _read_access_token(self, text: str, bundle: Bundle) -> Presented:
        bearer = _require(await self.judge.judge(text, bundle))
        token = bearer.token
        said = read_claims(token.claims, bundle)
        tier = lower_tier(read_tier(token.claims.get(TIER)), bearer.tier)
        issued_at = token.claims["iat"]
        return Presented(
            said, bearer.subject, token.jti, token.end, token.instances, issued_at, tier
        )

    async def _read_svid(self, text: str, bundle: Bundle, asker: str) -> Presented:
        """A JWT-SVID that is meant to be exchanged here: for any other server it proves nothing.

        One that is meant for the issuer itself proves its subject as a client. So it is taken from
        the subject alone: in anybody else's hands it would make them the subject.
        """
        now = self.clock.now()
        meant = (self.issuer_url, name_exchange(self.issuer_url))
        try:
            svid = read_jwt_svid(text, bundle, self.trust_domain, meant, now)
        except InvalidClient as error:
            raise Invalid(error.detail) from error
        token = parse_token(text)
        if not isinstance(token.claims.get("jti"), str):
            raise Invalid("The token has no jti, by which the journal could name it.")
        apart = name_exchange(self.issuer_url)
        if asker != svid.spiffe_id and list(list_audiences(token.claims)) != [apart]:
            raise Invalid(
                "A JWT-SVID that is meant for this server proves its subject, so nobody else may "
                f"have it: get one that is meant for {apart} alone."
            )
        subject, instances = svid.spiffe_id, (svid.instance,) if svid.instance else ()
        shown = Verified(token.claims, str(token.header.get("kid")), (subject,), instances)
        if shown.end <= now:  # by our own clock: leeway is for verifiers
            raise Invalid("The token has expired; get a fresh one.")
        bearer = _require(await self.judge.weigh(shown, bundle))
        said = SubjectToken(subject, subject)
        return Presented(
            said, bearer.subject, shown.jti, shown.end, instances, svid.issued_at, bearer.tier
        )


def _is_access_token(text: str) -> bool:
    typ = str(parse_token(text).header.get("typ", "")).lower()
    return typ.removeprefix("application/") == TYP


def name_exchange(issuer_url: str) -> str:
    """The audience of JWT-SVIDs that may be given to somebody else, who exchanges them: they prove
    no client."""
    return f"{issuer_url}/exchange"


def _require(found: Bearer | Rejected) -> Bearer:
    if isinstance(found, Rejected):
        raise Invalid(found.reason if found.evident else NOT_LIVE)
    return found


def read_claims(claims: Mapping[str, Any], bundle: Bundle) -> SubjectToken:
    """What the claims of a verified access token say about delegation; else `Invalid`."""
    try:
        found = msgspec.convert(claims, _Claims)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise Invalid("The token's claims are none of ours.") from error
    if not isinstance(found.aud, str):
        raise Invalid("The token is for several resources; exchange one that is for one alone.")
    resource = bundle.by_identifier.get(found.aud)
    if resource is None:
        raise Invalid("The token is meant for a resource that is declared no more.")
    details = (Detail(tuple(d.actions), d.identifier) for d in read_details(found.details))
    may_act = found.may_act
    return SubjectToken(
        subject=found.sub,
        holder=found.client_id,
        resource=resource,
        access=Access(frozenset(found.scope.split()), tuple(details)),
        actors=list_actors(claims),
        passed=tuple(found.passed),
        may_act=may_act.sub if may_act and may_act.iss in ("", found.iss) else "",
        confirmation=found.cnf,
    )


class _Party(msgspec.Struct):
    sub: str
    iss: str = ""


class _Claims(msgspec.Struct, kw_only=True):
    iss: str
    sub: str
    client_id: str
    aud: str | list[str]
    scope: str = ""
    cnf: dict[str, str] = {}
    may_act: _Party | None = None
    passed: list[str] = msgspec.field(default_factory=list, name=PASSED)
    details: Any = msgspec.field(default=None, name="authorization_details")


@dataclass(frozen=True, slots=True)
class ExchangeToken:
    """``token.exchange``: as far as the subject and the client may both go, and never further than
    the subject token (RFC 8693)."""

    store: Store
    snapshot: Snapshot
    authenticator: Authenticator
    dpop: DpopVerifier
    reader: TokenReader
    maker: TokenMaker

    async def __call__(self, call: Call[OAuthRequest]) -> TokenAnswer:
        """The token; raises the refusals of sections 2.2.2 and of RFC 6749, section 5.2."""
        form = call.body.form
        if form.require("grant_type") != TOKEN_EXCHANGE:
            raise UnsupportedGrantType(f"The grant_type of an exchange is {TOKEN_EXCHANGE}.")
        if form.find("requested_token_type") not in (None, ACCESS_TOKEN):
            raise Invalid(f"The requested_token_type may be {ACCESS_TOKEN}.")
        client = await self.authenticator.authenticate(call.body)
        client = await bind_client(client, call.body, self.dpop)
        bundle = await read_bundle(self.store, self.snapshot)
        subject = await self.reader.read("subject_token", form, bundle, client.client_id)
        actor_end = await self._check_actor(form, bundle, client)
        wanted = read_wanted(form)
        resource = find_target(bundle, subject.token, wanted.only_target)
        said = subject.token
        if subject.issued_at < int(client.identity.created_at.timestamp()):
            # Its may_act means whoever had that name by then.
            said = replace(said, may_act="")
        decided = decide_exchange(
            said,
            Asker(client.client_id, client.identity.name, client.confirmation),
            subject.identity.delegates,
            resource,
            permit_both(bundle, subject.identity, client.identity, resource),
            wanted.at(resource),
        )
        if isinstance(decided, Denial):
            refuse(decided)
        origin = Origin(
            subject.identity,
            subject.jti,
            decided.passage.actors,
            decided.passage.passed,
            (subject.identity.expires_at, subject.end, actor_end),
            subject.tier,
            subject.instances,
        )
        target = Target((resource,))
        made = await self.maker.make(call, bundle, client, target, decided.access, origin=origin)
        return msgspec.structs.replace(made, issued_token_type=ACCESS_TOKEN)

    async def _check_actor(self, form: Form, bundle: Bundle, client: Proven) -> datetime:
        """Until when the actor may act: who acts is who asks, and its token bounds that further.

        A token of another party would show no more than that the client came by it.
        """
        if form.find("actor_token") is None:
            if form.find("actor_token_type") is not None:
                raise Invalid("There is an actor_token_type and no actor_token (RFC 8693, 2.1).")
            return client.identity.expires_at
        actor = await self.reader.read("actor_token", form, bundle, client.client_id)
        if not actor.token.own or actor.token.subject != client.client_id:
            raise Invalid("The actor_token must be the client's own: who acts is who asks.")
        if actor.token.confirmation and actor.token.confirmation != client.confirmation:
            raise Invalid("The actor_token is bound to a key of which there is no proof here.")
        return actor.end


def find_target(bundle: Bundle, token: SubjectToken, target: str | None) -> Resource:
    """The resource that the request names, or else the one that the subject token is meant for."""
    found = token.resource if target is None else bundle.by_identifier.get(target)
    if found is None:
        raise InvalidTarget(NO_TARGET)
    return found


def permit_both(
    bundle: Bundle, subject: Identity, actor: Identity, resource: Resource
) -> frozenset[str]:
    """What both may do at the resource, by the roles that they hold now."""
    theirs = bundle.find_actions(subject.roles, resource)
    return theirs & bundle.find_actions(actor.roles, resource)
