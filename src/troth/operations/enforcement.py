"""Enforcement without code: ``decision.enforce``, asked by proxies about each request.

A proxy is an identity like any other; what it says about a request counts where it is one of the
resource's servers. Whatever isn't understood is refused, and every answer is written down first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from troth.core.address import read_address
from troth.core.errors import Denied, Invalid
from troth.live.bundle import Bundle
from troth.operations.call import Call, Caller
from troth.operations.decision import Answer, Asked, DecisionMaker, Source, Subject
from troth.operations.places import Places
from troth.operations.showing import ShowingReader, Shown, Unshown, make_challenge
from troth.policy.http_routes import HttpRoutes, HttpTarget
from troth.policy.inquiry import Inquiry, Party
from troth.policy.resource import Resource
from troth.policy.rule import IDENTITY, Principal
from troth.wire.api.enforcement import EnforcedDecision, EnforceDecision

NOBODY = Party(Principal("anonymous", ""), {})
NOT_A_PROXY = (
    "This caller is no server of any resource: name its identity under 'servers' of those that it "
    "stands in front of."
)


class RouteTable:
    """The routes of all resources and the names of all that serve one, of the newest bundle.
    Belongs to one event loop."""

    def __init__(self) -> None:
        self._bundle: Bundle | None = None
        self.routes = HttpRoutes(())
        self.servers: frozenset[str] = frozenset()

    def load(self, bundle: Bundle) -> RouteTable:
        """This table, as of `bundle`."""
        if self._bundle is not bundle:
            resources = bundle.resources.values()
            self.routes = HttpRoutes(resources)
            self.servers = frozenset(name for one in resources for name in one.servers)
            self._bundle = bundle
        return self


class _Refusal(Exception):
    """A request may not pass, and no rule needs to be asked."""

    def __init__(self, reason: str, status: int, detail: str, challenge: str = "") -> None:
        super().__init__(detail)
        self.reason, self.status, self.detail = reason, status, detail
        self.challenge = challenge


@dataclass(slots=True)
class _Found:
    """What has been found out so far about a request, for the record of a refusal."""

    target: HttpTarget | None = None
    shown: Shown | None = None


@dataclass(frozen=True, slots=True)
class EnforceRequest:
    """``decision.enforce``: whether a request at a proxy may pass."""

    decider: DecisionMaker
    reader: ShowingReader
    table: RouteTable
    places: Places

    async def __call__(self, call: Call[EnforceDecision]) -> EnforcedDecision:
        """The answer. Raises `Denied` for a caller that is no proxy of ours, `Unavailable` while
        nobody knows what is true."""
        bundle = await self.decider.read_bundle()
        name = await self._find_proxy(bundle, call.caller)
        source = Source(call.caller.principal, call.body.point, call.request_id)
        found = _Found()
        try:
            return await self._decide(call, bundle, name, source, found)
        except _Refusal as refusal:
            return await self._refuse(bundle, call.body, source, found, refusal)

    async def _find_proxy(self, bundle: Bundle, caller: Caller) -> str:
        """The name of the proxy's identity; "" for an administrator, who asks for any."""
        if "admin" in caller.roles:
            return ""
        party = await self.decider.find_party(bundle, Subject(IDENTITY, caller.principal))
        if party.refusal or party.principal.id not in self.table.load(bundle).servers:
            raise Denied(party.refusal or NOT_A_PROXY)
        return party.principal.id

    async def _decide(
        self,
        call: Call[EnforceDecision],
        bundle: Bundle,
        proxy: str,
        source: Source,
        found: _Found,
    ) -> EnforcedDecision:
        body = call.body
        try:
            target = self.table.load(bundle).routes.find(body.method, body.host, body.path)
        except Invalid as error:
            raise _Refusal("no_route", 403, error.detail) from error
        found.target = target
        resource = target.resource
        if proxy and proxy not in resource.servers:
            raise _Refusal("not_server", 403, f"{proxy} doesn't serve {resource.name}.")
        try:
            shown = found.shown = await self.reader.read(body, resource, bundle)
        except Unshown as error:
            challenge = make_challenge(resource, error)
            raise _Refusal(error.reason, 401, error.detail, challenge) from error
        if shown.access is not None and not shown.access.allows(target.action, target.id):
            raise _Refusal("scope", 403, f"The token doesn't permit {target.action}.")
        if shown.tier is not None and shown.tier.rank < resource.minimum_tier.rank:
            # The rules know the subject's tier; a chain holds as its weakest link does.
            raise _Refusal("tier", 403, f"The token earns the tier {shown.tier.value} alone.")
        asked = Asked(Subject(IDENTITY, shown.subject), self._inquire(bundle, body, target, shown))
        answer = await self.decider.judge(asked)
        judged = answer.judgement.resource
        if judged is not None and judged.name != resource.name:
            detail = f"The id {target.id[:64]!r} belongs to {judged.name}, the route to another."
            raise _Refusal("no_route", 403, detail)
        await self.decider.record([asked], [answer], source)
        return self._answer(body, answer, target, shown)

    def _answer(
        self, body: EnforceDecision, answer: Answer, target: HttpTarget, shown: Shown
    ) -> EnforcedDecision:
        detail = ""
        if not answer.allowed and body.point == "proxy":
            # Why not is worth a look at other rules for people, who ask seldom.
            detail = self.decider.explain(answer).reason
        return EnforcedDecision(
            allowed=answer.allowed,
            decision=answer.id,
            status=200 if answer.allowed else 403,
            reason="" if answer.allowed else "denied",
            detail=detail,
            subject=shown.subject,
            actors=list(shown.actors),
            resource=target.resource.name,
            action=target.action,
            id=target.id,
        )

    def _inquire(
        self, bundle: Bundle, body: EnforceDecision, target: HttpTarget, shown: Shown
    ) -> Inquiry:
        request: dict[str, Any] = {
            **shown.describe_request(),
            "method": body.method,
            "host": body.host.lower(),
            "path": target.path,
            "transport": body.transport,
        }
        address = read_address(body.ip)
        if address is not None:
            request["ip"] = address
            request |= self.places.describe(address, bundle.rules.index.reads)
        told: Mapping[str, Mapping[str, Any]] = {
            "request": request,
            "delegation": shown.describe_delegation(),
        }
        return Inquiry(target.action, target.resource.entity_type, target.id, told)

    async def _refuse(
        self,
        bundle: Bundle,
        body: EnforceDecision,
        source: Source,
        found: _Found,
        refusal: _Refusal,
    ) -> EnforcedDecision:
        target, shown = found.target, found.shown
        resource: Resource | None = target.resource if target else None
        asked = Asked(
            Subject(IDENTITY, shown.subject if shown else ""),
            Inquiry(
                target.action if target else body.method[:64],
                resource.entity_type if resource else "http",
                target.id if target else f"{body.host}{body.path.partition('?')[0]}"[:512],
            ),
        )
        who = NOBODY if shown is None else Party(Principal("spiffe", shown.subject), {})
        answer = self.decider.refuse(bundle, who, resource, f"{refusal.reason}: {refusal.detail}")
        await self.decider.record([asked], [answer], source)
        return EnforcedDecision(
            allowed=False,
            decision=answer.id,
            status=refusal.status,
            reason=refusal.reason,
            detail=refusal.detail,
            challenge=refusal.challenge,
            subject=shown.subject if shown else "",
            resource=resource.name if resource else "",
            action=target.action if target else "",
            id=target.id if target else "",
        )
