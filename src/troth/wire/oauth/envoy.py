"""Envoy in front of a protected resource: it serves the resource's metadata and asks for tokens.

Envoy's own filters do it: ``jwt_authn`` verifies signature, issuer, audience and times, ``rbac``
refuses what else is signed with the same keys and what is bound to a key, and a direct response is
the metadata. Nothing of it asks troth who was cut off since the token was issued.

Sources: Envoy's API v3 (extensions.filters.http.jwt_authn.v3, extensions.filters.http.rbac.v3,
config.route.v3), RFC 9068 section 4, RFC 9728 sections 3 and 5.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from troth.core.address import read_address
from troth.wire.oauth.protected import METADATA_SECONDS, find_metadata_path
from troth.wire.oauth.routes import JWKS_PATH

PROVIDER = "troth"
CLUSTER = "troth-issuer"
JWT_AUTHN = "envoy.filters.http.jwt_authn"
RBAC = "envoy.filters.http.rbac"
_JWT_TYPES = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3."
_RBAC_TYPES = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3."
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
SMALL_BODY = 4096
"""Bytes of a direct response that Envoy takes without being told (RouteConfiguration)."""


@dataclass(frozen=True, slots=True)
class Protection:
    """What Envoy must know: the resource's metadata document, the issuer of its tokens and the file
    with the issuer's roots, the clock difference allowed, in seconds."""

    document: Mapping[str, Any]
    issuer: str
    ca_file: str
    leeway: int


def render_envoy(wanted: Protection) -> dict[str, Any]:
    """The parts of a configuration, each under the name of the field that it belongs to."""
    identifier = str(wanted.document["resource"])
    path = find_metadata_path(identifier)
    body = json.dumps(wanted.document, ensure_ascii=False)
    parts: dict[str, Any] = {
        "routes": [_serve_document(path, body)],
        "http_filters": [_check_signature(wanted, identifier), _check_kind()],
        "local_reply_config": _point_to(f"https://{urlsplit(identifier).netloc}{path}"),
        "clusters": [_reach_issuer(wanted)],
    }
    if (size := len(body.encode())) > SMALL_BODY:
        parts["route_config"] = {"max_direct_response_body_size_bytes": size}
    return parts


def _serve_document(path: str, body: str) -> dict[str, Any]:
    """The well-known path, which needs no token."""
    return {
        "match": {"path": path},
        "direct_response": {"status": 200, "body": {"inline_string": body}},
        "response_headers_to_add": [
            _set_header("content-type", "application/json"),
            _set_header("cache-control", f"max-age={METADATA_SECONDS}"),
        ],
        "typed_per_filter_config": {
            JWT_AUTHN: {"@type": f"{_JWT_TYPES}PerRouteConfig", "disabled": True},
            RBAC: {"@type": f"{_RBAC_TYPES}RBACPerRoute"},
        },
    }


def _check_signature(wanted: Protection, audience: str) -> dict[str, Any]:
    provider = {
        "issuer": wanted.issuer,
        "audiences": [audience],
        "require_expiration": True,
        "clock_skew_seconds": wanted.leeway,
        # Else it would be taken from the address too, and addresses end up in logs (RFC 6750, 2.3).
        "from_headers": [{"name": "Authorization", "value_prefix": "Bearer "}],
        "forward": True,  # the application reads from it who calls, and the scope
        "header_in_metadata": "header",
        "payload_in_metadata": "payload",
        "remote_jwks": {
            "http_uri": {
                "uri": f"{wanted.issuer}{JWKS_PATH}",
                "cluster": CLUSTER,
                "timeout": "5s",
            },
            "cache_duration": "300s",  # a new key is published ten minutes before it signs
            "async_fetch": {"failed_refetch_duration": "1s"},
            "retry_policy": {"num_retries": 3},
        },
    }
    typed = {
        "@type": f"{_JWT_TYPES}JwtAuthentication",
        "providers": {PROVIDER: provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": PROVIDER}}],
    }
    return {"name": JWT_AUTHN, "typed_config": typed}


def _check_kind() -> dict[str, Any]:
    """Access tokens alone (RFC 9068, section 4), and none that is bound: Envoy can't see whether
    who shows it holds the key."""
    typ = _find_in_token(["header", "typ"], {"string_match": {"exact": "at+jwt"}})
    bound = _find_in_token(["payload", "cnf"], {"present_match": True})
    policy = {
        "permissions": [{"any": True}],
        "principals": [{"and_ids": {"ids": [typ, {"not_id": bound}]}}],
    }
    rules = {"action": "ALLOW", "policies": {"access-tokens-alone": policy}}
    return {"name": RBAC, "typed_config": {"@type": f"{_RBAC_TYPES}RBAC", "rules": rules}}


def _find_in_token(path: list[str], value: Mapping[str, Any]) -> dict[str, Any]:
    matcher = {"filter": JWT_AUTHN, "path": [{"key": key} for key in path], "value": value}
    return {"sourced_metadata": {"metadata_matcher": matcher, "metadata_source": "DYNAMIC"}}


def _point_to(url: str) -> dict[str, Any]:
    """A 401 of Envoy's own says where to get a token (RFC 9728, section 5.1)."""
    status = {
        "comparison": {
            "op": "EQ",
            "value": {"default_value": 401, "runtime_key": "troth.unauthorized"},
        }
    }
    challenge = _set_header("www-authenticate", f'Bearer resource_metadata="{url}"')
    return {"mappers": [{"filter": {"status_code_filter": status}, "headers_to_add": [challenge]}]}


def _reach_issuer(wanted: Protection) -> dict[str, Any]:
    place = urlsplit(wanted.issuer)
    host = place.hostname or ""
    address = {"socket_address": {"address": host, "port_value": place.port or 443}}
    numeric = read_address(host) is not None
    validation = {
        "trusted_ca": {"filename": wanted.ca_file},
        "match_typed_subject_alt_names": [
            {"san_type": "IP_ADDRESS" if numeric else "DNS", "matcher": {"exact": host}}
        ],
    }
    tls: dict[str, Any] = {
        "@type": _TLS,
        "common_tls_context": {
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": validation,
        },
    }
    if not numeric:
        tls["sni"] = host
    return {
        "name": CLUSTER,
        "type": "STRICT_DNS",
        "dns_lookup_family": "ALL",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
    }


def _set_header(name: str, value: str) -> dict[str, Any]:
    # Envoy reads % as the beginning of a command.
    header = {"key": name, "value": value.replace("%", "%%")}
    return {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
