"""Introspection: ``token.introspect``, by which a resource learns whose token it was shown.

Source: RFC 7662 (sections in brackets), RFC 9701 for the signed form.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from troth.core.clock import Clock
from troth.core.jose.claims import list_audiences
from troth.core.jose.jwk import derive_key_id
from troth.core.tier import lower_tier, read_tier
from troth.drivers.keystores import Keystore
from troth.issuance.accesstoken import TIER
from troth.issuance.introspection import MEDIA_TYPE, render_introspection
from troth.issuance.jwtsvid import check_jwt, finish_jwt
from troth.live.bundle import Bundle
from troth.operations.accesstoken import find_signer
from troth.operations.bearer import Bearer, Rejected, TokenJudge
from troth.operations.call import Call
from troth.operations.client import Authenticator, Proven
from troth.operations.rejection import RejectionJournal
from troth.policy.resource import Resource
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.oauth.details import read_details, render_details
from troth.wire.oauth.errors import InvalidClient
from troth.wire.oauth.introspection import INACTIVE, Introspection, Signed
from troth.wire.oauth.request import OAuthRequest

DETAILS = "authorization_details"
CACHE_SECONDS = 1
"""For how long an answer may be kept: it is what a revocation takes longer to be felt by who keeps
answers, on top of how long every server takes to know it."""


_NEVER = re.compile(r"q=0(\.0*)?")


@dataclass(frozen=True, slots=True)
class AnswerSigner:
    """Signs answers with the key that signs access tokens now (RFC 9701, section 5)."""

    keystore: Keystore
    clock: Clock
    issuer_url: str

    async def sign(self, bundle: Bundle, asker: str, answer: Introspection) -> Signed:
        """The answer as a JWT for `asker`; `Unavailable` if it can't be signed now."""
        now = self.clock.now()
        authority = find_signer(bundle, now)
        content = render_introspection(
            kid=derive_key_id(authority.public_key),
            issuer_url=self.issuer_url,
            asker=asker,
            answer=msgspec.to_builtins(answer),
            now=now,
        )
        signature = await asyncio.to_thread(self.keystore.sign, authority.key_ref, content)
        text = finish_jwt(content, signature)
        check_jwt(text, content, signature, authority.public_key)
        return Signed(text, MEDIA_TYPE)


@dataclass(frozen=True, slots=True)
class IntrospectToken:
    """``token.introspect``: what a token means to the resource that asks, now."""

    store: Store
    clock: Clock
    authenticator: Authenticator
    judge: TokenJudge
    signer: AnswerSigner
    rejections: RejectionJournal

    async def __call__(self, call: Call[OAuthRequest]) -> Introspection | Signed:
        """What it means; of one that doesn't count, or isn't meant for who asks, that it isn't
        active and nothing else [2.2]. Raises `InvalidClient` for who may ask nothing [2.3]."""
        asker = await self.authenticator.authenticate(call.body)
        text = call.body.form.require("token")
        if asker.proofs:
            await self.store.transact(lambda tx: use_up(tx, asker))
        bundle = await self.judge.read_bundle()
        answer = await self._answer(call, bundle, asker, text)
        if accepts(call.body.accept, MEDIA_TYPE):
            return await self.signer.sign(bundle, asker.client_id, answer)
        return answer

    async def _answer(
        self, call: Call[OAuthRequest], bundle: Bundle, asker: Proven, text: str
    ) -> Introspection:
        found = await self.judge.judge(text, bundle)
        if isinstance(found, Bearer):
            resources = _find_resources(bundle, asker, found, call.body.form.list("resource"))
            if resources:
                return self._describe(bundle, found, resources)
            found = Rejected("The token is meant for no resource of who asks.", found.token)
        await self.rejections.record(call, asker, found)
        return INACTIVE

    def _describe(
        self, bundle: Bundle, bearer: Bearer, resources: Sequence[Resource]
    ) -> Introspection:
        claims, subject = bearer.token.claims, bearer.subject
        # Where one token is for several resources of the asker, what holds at all of them.
        permitted = bundle.find_common(subject.roles, resources)
        known = {action for resource in resources for action in resource.actions}
        scopes = [name for name in str(claims.get("scope", "")).split() if name in known]
        bound = claims.get("cnf", {})
        soon = int(self.clock.now().timestamp()) + CACHE_SECONDS
        optional = {name: claims[name] for name in ("cnf", "act") if name in claims}
        if DETAILS in claims and (details := _list_details(claims, permitted)):
            optional[DETAILS] = details
        return Introspection(
            active=True,
            scope=" ".join(scopes),
            client_id=claims["client_id"],
            token_type="DPoP" if "jkt" in bound else "Bearer",
            exp=claims["exp"],
            iat=claims["iat"],
            sub=bearer.token.subject,
            aud=claims["aud"],
            iss=claims["iss"],
            jti=bearer.token.jti,
            roles=list(subject.roles),
            permitted_actions=sorted(permitted.intersection(scopes)),
            trust_tier=lower_tier(read_tier(claims.get(TIER)), bearer.tier).value,
            cache_until=min(soon, claims["exp"]),
            **optional,
        )


def _list_details(claims: Mapping[str, Any], permitted: Collection[str]) -> list[dict[str, Any]]:
    """The authorization details of a token, as far as its roles permit them now."""
    kept = (
        msgspec.structs.replace(one, actions=[a for a in one.actions if a in permitted])
        for one in read_details(claims[DETAILS])
    )
    return render_details(one for one in kept if one.actions)


def _find_resources(
    bundle: Bundle, asker: Proven, bearer: Bearer, named: Collection[str]
) -> list[Resource]:
    """The resources that the token is meant for and the asker serves; of them those that it names,
    if it names any, as context [2.1]."""
    found: dict[str, Resource] = {}
    for audience in list_audiences(bearer.token.claims):
        resource = bundle.by_identifier.get(audience)
        if resource is not None and asker.identity.name in resource.servers:
            found[resource.name] = resource
    if not named:
        return list(found.values())
    return [one for one in found.values() if not set(named).isdisjoint(one.identifiers)]


def use_up(tx: Transaction, client: Proven) -> None:
    """Use up the proofs of a client that gets no token; `InvalidClient` for a replay."""
    if tx.used_proofs.take_all(client.proofs):
        # Raised out of the transaction, so that nothing of it stays.
        raise InvalidClient(
            "The client_assertion can't be taken. It was used before; make a new one, with a jti "
            "of its own, for each request."
        )


def accepts(header: str | None, media_type: str) -> bool:
    """Whether an ``Accept`` header names that very media type (RFC 9110, section 12.5.1)."""
    for part in (header or "").split(","):
        name, _, parameters = part.partition(";")
        if name.strip().lower() == media_type:
            return _NEVER.fullmatch(parameters.replace(" ", "").lower()) is None
    return False
