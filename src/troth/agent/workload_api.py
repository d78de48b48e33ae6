"""The SPIFFE Workload API on the agent's socket: its five methods, and a refusal of the rest.

Source: SPIFFE_Workload_API.md and SPIFFE_Workload_Endpoint.md (sections 3 and 6). Clients stop for
good on InvalidArgument, Canceled and a clean end, so streams end with PermissionDenied (no
identity any more) or Unavailable (come back) and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing

from troth.agent.call import Call, Handler
from troth.agent.view import Caller, Source, View
from troth.agent.watch import watch_views
from troth.core.errors import Denied, Invalid, Unimplemented
from troth.core.ids import SpiffeId
from troth.wire.workload import SECURITY_HEADER, SERVICE, WorkloadMessages, X509SvidEntry

_SHOWN = 20
"""How many selectors or identities a refusal lists."""


class WorkloadApi:
    """The Workload API service."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._messages = WorkloadMessages()

    def methods(self) -> Mapping[str, Handler]:
        """All methods of workloadapi.proto, each behind the security header."""
        handlers: dict[str, Handler] = {
            "FetchX509SVID": self.fetch_x509_svids,
            "FetchX509Bundles": self.fetch_x509_bundles,
            "FetchJWTSVID": self.fetch_jwt_svids,
            "FetchJWTBundles": self.fetch_jwt_bundles,
            "ValidateJWTSVID": self.validate_jwt_svid,
            "FetchWITSVID": self.refuse_wit,
            "FetchWITBundles": self.refuse_wit,
        }
        return {
            f"/{SERVICE}/{name}": _require_header(handler) for name, handler in handlers.items()
        }

    async def fetch_x509_svids(self, call: Call) -> None:
        """Stream the caller's SVIDs with keys, bundles and revocation lists."""
        self._messages.check_request("X509SVIDRequest", await call.receive_first())
        await self._stream(call, self._render_x509_svids)

    async def fetch_x509_bundles(self, call: Call) -> None:
        """Stream X.509 bundles and revocation lists."""
        self._messages.check_request("X509BundlesRequest", await call.receive_first())
        await self._stream(call, self._render_x509_bundles)

    async def fetch_jwt_bundles(self, call: Call) -> None:
        """Stream JWT bundles."""
        self._messages.check_request("JWTBundlesRequest", await call.receive_first())
        await self._stream(call, self._render_jwt_bundles)

    async def fetch_jwt_svids(self, call: Call) -> None:
        """Make JWT-SVIDs for the audiences asked for."""
        request = self._messages.parse_jwt_svid_request(await call.receive_first())
        if request.spiffe_id is not None:
            SpiffeId.parse(request.spiffe_id)
        caller = await call.attest(self._source)
        svids = await self._source.fetch_jwt_svids(caller, request.audiences, request.spiffe_id)
        if not svids:
            raise _no_identity(caller)
        await call.send(
            self._messages.render_jwt_svids(
                (svid.spiffe_id, svid.token, svid.hint) for svid in svids
            )
        )

    async def validate_jwt_svid(self, call: Call) -> None:
        """Tell whose JWT-SVID it is and what it claims."""
        request = self._messages.parse_validate_request(await call.receive_first())
        caller = await call.attest(self._source)
        spiffe_id, claims = await self._source.validate_jwt_svid(
            caller, request.audience, request.token
        )
        await call.send(self._messages.render_validation(spiffe_id, claims))

    async def refuse_wit(self, call: Call) -> None:
        """The WIT-SVID profile is optional (section 7) and not offered."""
        raise Unimplemented("The WIT-SVID profile isn't offered here.")

    async def _stream(self, call: Call, render: Callable[[View], bytes]) -> None:
        caller = await call.attest(self._source)
        sent: bytes | None = None
        async with aclosing(watch_views(self._source, caller)) as views:
            async for view in views:
                if not view.svids:
                    raise _no_identity(caller, view)
                reply = render(view)
                if reply != sent:
                    await call.send(reply)
                    sent = reply

    def _render_x509_svids(self, view: View) -> bytes:
        authorities = {bundle.trust_domain: bundle.x509_authorities for bundle in view.bundles}
        own = view.bundles[0].trust_domain if view.bundles else ""
        return self._messages.render_x509_svids(
            (
                X509SvidEntry(
                    spiffe_id=svid.spiffe_id,
                    chain=svid.chain,
                    private_key=svid.private_key,
                    bundle=authorities.get(_trust_domain_of(svid.spiffe_id), ()),
                    hint=svid.hint,
                )
                for svid in view.svids
            ),
            _crls(view),
            {name: ders for name, ders in authorities.items() if name != own},
        )

    def _render_x509_bundles(self, view: View) -> bytes:
        bundles = {bundle.trust_domain: bundle.x509_authorities for bundle in view.bundles}
        return self._messages.render_x509_bundles(_crls(view), bundles)

    def _render_jwt_bundles(self, view: View) -> bytes:
        bundles = {bundle.trust_domain: bundle.jwks for bundle in view.bundles}
        return self._messages.render_jwt_bundles(bundles)


def _require_header(handler: Handler) -> Handler:
    """`handler` behind the header that keeps forged requests of a tricked program out."""

    async def checked(call: Call) -> None:
        if call.header(SECURITY_HEADER) != "true":
            raise Invalid(f"The metadata '{SECURITY_HEADER}: true' is missing; SPIFFE requires it.")
        await handler(call)

    return checked


def _no_identity(caller: Caller, view: View | None = None) -> Denied:
    if view is not None and view.withdrawn:
        words = tuple(_say_why(name, view.reasons.get(name)) for name in view.withdrawn)
        return Denied(f"Cut off: {_listed(words)}. {_say_where(view)} tells why.")
    return Denied(
        "No identity is registered for this process; attested: "
        f"{_listed(caller.selectors) or 'nothing'}. `troth doctor` tells what was compared."
    )


def _say_why(spiffe_id: str, reason: str | None) -> str:
    return f"{spiffe_id} is {reason}" if reason else spiffe_id


def _say_where(view: View) -> str:
    """The command that tells more: a lock is one copy's, anything else its identity's."""
    locked = next((name for name, reason in view.reasons.items() if reason == "locked"), None)
    if locked is None:
        return "`troth identity show`"
    return f"`troth instance ls {view.names.get(locked, 'NAME')}`"


def _listed(texts: tuple[str, ...]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def _trust_domain_of(spiffe_id: str) -> str:
    return str(SpiffeId.parse(spiffe_id).trust_domain.id)


def _crls(view: View) -> tuple[bytes, ...]:
    lists = (crl for bundle in view.bundles for crl in bundle.crls)
    return tuple(dict.fromkeys(lists))
