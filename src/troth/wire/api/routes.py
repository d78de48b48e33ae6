"""The one table of API routes: operation name → method, path, request and result.

Path fields come from the request of the same name; other fields are the query of a GET and the
JSON body of everything else. A stream answers with JSON Lines, one complete value a line.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from troth.core.errors import Internal, Invalid, TrothError, error_of
from troth.wire.api import (
    auditproofs,
    auditsearch,
    authorities,
    certificates,
    checkpoints,
    client_secrets,
    decisions,
    devices,
    enforcement,
    holds,
    identities,
    journal,
    jwt_svids,
    manifests,
    nodes,
    policies,
    problems,
    readmission,
    redactions,
    resources,
    revocations,
    rules,
    sinks,
    status,
    templates,
    tokens,
    trust,
)
from troth.wire.api.faults import explain_fault
from troth.wire.api.route import Route as Route

JSON_LINES = "application/jsonl"


def _moves() -> list[Route]:
    verbs = {
        "activate": "Let a proposed identity obtain credentials.",
        "suspend": "Stop issuance and revoke what an active identity holds, for a time.",
        "resume": "Let a suspended identity obtain credentials again.",
        "quarantine": "Cut an identity off everywhere, at once.",
        "release": "Let a quarantined identity work again, with new credentials.",
        "retire": "End an identity for good.",
    }
    return [
        Route(
            name=f"identity.{verb}",
            method="POST",
            path=f"/v1/identities/{{name}}/{verb}",
            request=identities.MoveIdentity,
            result=identities.IdentityView,
            summary=summary,
        )
        for verb, summary in verbs.items()
    ]


def _r(name: str, verb: str, path: str, request: Any, result: Any, summary: str) -> Route:
    return Route(name=name, method=verb, path=path, request=request, result=result, summary=summary)


ROUTES: tuple[Route, ...] = (
    _r(
        "identity.register",
        "POST",
        "/v1/identities",
        identities.RegisterIdentity,
        identities.IdentityView,
        "Register an identity.",
    ),
    _r(
        "identity.ls",
        "GET",
        "/v1/identities",
        identities.ListIdentities,
        identities.IdentityPage,
        "List identities.",
    ),
    _r(
        "identity.show",
        "GET",
        "/v1/identities/{name}",
        identities.NameIdentity,
        identities.IdentityView,
        "Show one identity.",
    ),
    *_moves(),
    _r(
        "identity.sight",
        "POST",
        "/v1/sightings",
        templates.SightWorkload,
        templates.SightedWorkload,
        "Ask for the identity of a workload that the calling node met for the first time.",
    ),
    _r(
        "template.ls",
        "GET",
        "/v1/templates",
        templates.ListTemplates,
        templates.TemplateList,
        "List templates: who gets an identity at first sight.",
    ),
    _r(
        "decision.enforce",
        "POST",
        "/v1/enforce",
        enforcement.EnforceDecision,
        enforcement.EnforcedDecision,
        "Decide whether a request at a proxy may pass.",
    ),
    _r(
        "resource.ls",
        "GET",
        "/v1/resources",
        resources.ListResources,
        resources.ResourceList,
        "List resources: the APIs that tokens are for.",
    ),
    _r(
        "resource.show",
        "GET",
        "/v1/resources/{name}",
        resources.NameResource,
        resources.ResourceView,
        "Show one resource.",
    ),
    *trust.ROUTES,
    *decisions.ROUTES,
    *policies.ROUTES,
    _r(
        "instance.ls",
        "GET",
        "/v1/identities/{name}/instances",
        identities.ListInstances,
        identities.InstanceList,
        "List the running copies of an identity.",
    ),
    _r(
        "instance.lock",
        "POST",
        "/v1/instances/{id}/lock",
        identities.MoveInstance,
        identities.InstanceView,
        "Cut one running copy off, with its tokens; its siblings go on.",
    ),
    _r(
        "instance.unlock",
        "POST",
        "/v1/instances/{id}/unlock",
        identities.MoveInstance,
        identities.InstanceView,
        "Let a locked copy obtain credentials again.",
    ),
    _r(
        "manifest.plan",
        "POST",
        "/v1/manifests/plan",
        manifests.SubmitManifests,
        manifests.ManifestPlan,
        "Show what applying manifests would change.",
    ),
    _r(
        "manifest.apply",
        "POST",
        "/v1/manifests/apply",
        manifests.SubmitManifests,
        manifests.ManifestPlan,
        "Apply manifests, all or nothing.",
    ),
    _r(
        "certificate.issue",
        "POST",
        "/v1/certificates/issue",
        certificates.IssueCertificates,
        certificates.IssuedCertificates,
        "Issue X.509-SVIDs for workloads that the calling node attested.",
    ),
    _r(
        "certificate.ls",
        "GET",
        "/v1/identities/{name}/certificates",
        certificates.ListCertificates,
        certificates.CertificateList,
        "List the unexpired certificates of an identity.",
    ),
    _r(
        "certificate.revoke",
        "POST",
        "/v1/certificates/{serial}/revoke",
        certificates.RevokeCertificate,
        certificates.CertificateView,
        "Revoke one certificate.",
    ),
    _r(
        "jwtsvid.issue",
        "POST",
        "/v1/jwt-svids/issue",
        jwt_svids.IssueJwtSvids,
        jwt_svids.IssuedJwtSvids,
        "Issue JWT-SVIDs for workloads that the calling node attested.",
    ),
    _r(
        "client_secret.create",
        "POST",
        "/v1/client-secrets",
        client_secrets.CreateClientSecret,
        client_secrets.ClientSecretCreated,
        "Make a secret for an old program that can't prove itself in a better way.",
    ),
    _r(
        "client_secret.ls",
        "GET",
        "/v1/client-secrets",
        client_secrets.ListClientSecrets,
        client_secrets.ClientSecretPage,
        "List the client secrets that are good now.",
    ),
    _r(
        "client_secret.revoke",
        "POST",
        "/v1/client-secrets/{id}/revoke",
        client_secrets.RevokeClientSecret,
        client_secrets.ClientSecretView,
        "End a client secret now.",
    ),
    _r(
        "token.join",
        "POST",
        "/v1/join-tokens",
        nodes.CreateJoinToken,
        nodes.JoinTokenCreated,
        "Make a one-time token with which a node joins.",
    ),
    _r(
        "token.revoke",
        "POST",
        "/v1/tokens/revoke",
        tokens.RevokeTokens,
        tokens.TokensRevoked,
        "End an access token, or all of an identity or a running copy, before their time.",
    ),
    _r(
        "node.attest",
        "POST",
        "/v1/nodes/attest",
        nodes.AttestNode,
        nodes.NodeCredential,
        "Join as a node.",
    ),
    _r(
        "node.renew",
        "POST",
        "/v1/nodes/renew",
        nodes.RenewNode,
        nodes.NodeCredential,
        "Renew the calling node's certificate.",
    ),
    _r("node.ls", "GET", "/v1/nodes", nodes.ListNodes, nodes.NodePage, "List nodes."),
    _r(
        "node.evict",
        "POST",
        "/v1/nodes/{name}/evict",
        nodes.EvictNode,
        nodes.NodeView,
        "End a node, with every certificate of its own and of its workloads.",
    ),
    _r(
        "node.readmit",
        "POST",
        "/v1/nodes/{name}/readmit",
        readmission.ReadmitNode,
        nodes.NodeView,
        "Let an evicted machine, or one with a new certificate, prove itself anew.",
    ),
    _r(
        "node.report",
        "POST",
        "/v1/nodes/report",
        nodes.ReportWorkloads,
        nodes.Accepted,
        "Tell which workloads the calling node serves and refused.",
    ),
    _r(
        "device.invite",
        "POST",
        "/v1/devices/invite",
        devices.InviteDevices,
        devices.DevicesInvited,
        "Make one-time codes with which devices enrol.",
    ),
    _r(
        "device.enroll",
        "POST",
        "/v1/devices/enroll",
        devices.EnrollDevice,
        devices.DeviceCredential,
        "Enrol as a device: the first certificate.",
    ),
    _r(
        "device.renew",
        "POST",
        "/v1/devices/renew",
        devices.RenewDevice,
        devices.DeviceCredential,
        "Renew the calling device's certificate.",
    ),
    _r(
        "authority.ls",
        "GET",
        "/v1/authorities",
        authorities.ListAuthorities,
        authorities.AuthorityList,
        "List signing authorities, and who still holds something of each.",
    ),
    _r(
        "authority.prepare",
        "POST",
        "/v1/authorities",
        authorities.PrepareAuthority,
        authorities.SigningAuthority,
        "Make and publish the next signing authority now.",
    ),
    _r(
        "authority.activate",
        "POST",
        "/v1/authorities/{id}/activate",
        authorities.ForceAuthority,
        authorities.SigningAuthority,
        "Let a prepared authority sign; the active one retires.",
    ),
    _r(
        "authority.taint",
        "POST",
        "/v1/authorities/{id}/taint",
        authorities.MoveAuthority,
        authorities.SigningAuthority,
        "Have all that an authority signed replaced at once.",
    ),
    _r(
        "authority.revoke",
        "POST",
        "/v1/authorities/{id}/revoke",
        authorities.ForceAuthority,
        authorities.SigningAuthority,
        "Take an authority out of the bundle, for good.",
    ),
    Route(
        "node.sync",
        "GET",
        "/v1/nodes/sync",
        nodes.SyncNode,
        nodes.SyncMessage,
        "Follow everything that concerns the calling node.",
        stream=True,
    ),
    _r(
        "journal.ls",
        "GET",
        "/v1/journal",
        journal.ListJournal,
        journal.JournalPage,
        "Read the journal.",
    ),
    Route(
        "journal.tail",
        "GET",
        "/v1/journal/tail",
        journal.TailJournal,
        journal.JournalEntry | nodes.Heartbeat | nodes.StreamEnd,
        "Follow the journal.",
        stream=True,
    ),
    Route(
        "revocation.follow",
        "GET",
        "/v1/revocations/follow",
        revocations.FollowRevocations,
        revocations.RevocationMessage,
        "Follow whom a verifier of peers must refuse.",
        stream=True,
    ),
    *checkpoints.ROUTES,
    *redactions.ROUTES,
    *auditproofs.ROUTES,
    *auditsearch.ROUTES,
    *holds.ROUTES,
    *rules.ROUTES,
    *sinks.ROUTES,
    _r(
        "status.show",
        "GET",
        "/v1/status",
        status.GetStatus,
        status.StatusView,
        "Show how the installation is.",
    ),
)


def find_route(name: str) -> Route:
    """The route of operation `name`; raises `KeyError` for a name that isn't in the table."""
    return _BY_NAME[name]


_BY_NAME = {route.name: route for route in ROUTES}


def render_request(name: str, request: msgspec.Struct) -> tuple[str, str, bytes | None]:
    """Method, path with query, and JSON body (or None) for a call of operation `name`."""
    route = find_route(name)
    fields: dict[str, Any] = msgspec.to_builtins(request)
    path = route.path
    for field in route.path_fields:
        path = path.replace(f"{{{field}}}", quote(str(fields.pop(field)), safe=""))
    if route.method != "GET":
        return route.method, path, msgspec.json.encode(fields)
    query = urlencode({key: value for key, value in fields.items() if value is not None})
    return route.method, f"{path}?{query}" if query else path, None


def parse_request(route: Route, path: dict[str, str], query: dict[str, str], body: bytes) -> Any:
    """The typed request from its parts; raises `Invalid` with the place and the reason."""
    fields: Any = query
    if body and route.method != "GET" and not route.path_fields:
        # In one go where nothing has to be put together; what is wrong is told below.
        try:
            request = msgspec.json.decode(body, type=route.request)
            _refuse_duplicates(body)
            return request
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    if route.method != "GET":
        try:
            fields = msgspec.json.decode(body) if body else {}
            _refuse_duplicates(body)
        except UnicodeDecodeError as error:
            raise Invalid("The body is not UTF-8.") from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise Invalid(f"The body is not JSON: {error}.") from error
        if not isinstance(fields, dict):
            raise Invalid("The body must be a JSON object.")
    clash = set(fields) & set(path)
    if clash:
        raise Invalid(f"'{min(clash)}' belongs in the path only.")
    try:
        return msgspec.convert({**fields, **path}, type=route.request, strict=route.method != "GET")
    except msgspec.ValidationError as error:
        raise Invalid(explain_fault(str(error), route.request)) from error


def _refuse_duplicates(body: bytes) -> None:
    """Raise `Invalid` for a member given twice: parsers differ in which one they take (RFC 8259).

    msgspec takes the last in silence, so the body, known to be JSON by now, is looked at once more.
    """

    def check(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise Invalid(f"The body has {name[:80]!r} twice; give it once.")
            seen.add(name)

    if body:
        # Numbers stay text: their size is msgspec's business.
        json.loads(body, object_pairs_hook=check, parse_int=str, parse_float=str)


def parse_result(route: Route, status_code: int, body: bytes) -> Any:
    """The typed result of an answer, or the error in its problem document, raised."""
    if 200 <= status_code < 300:
        try:
            return msgspec.json.decode(body, type=route.result)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Internal(f"The server's answer to {route.name} was not understood.") from error
    raise parse_failure(status_code, body)


def parse_failure(status_code: int, body: bytes) -> TrothError:
    """The error that a refusing answer carries."""
    problem = problems.parse_problem(body)
    if problem is None or not problem.detail:
        return Internal(f"The server answered {status_code} without saying why.")
    return error_of(problem.code, problem.detail)
