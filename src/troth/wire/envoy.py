"""The configuration of an Envoy that asks troth about each request (ext_authz).

What it must hold besides the question itself: identity headers and certificates that clients send
are taken away, connections end so that a peer's certificate is looked at again, resumed TLS
sessions, which skip that look, don't exist, and without an answer nothing passes.

Sources: Envoy's API v3 (extensions.filters.http.ext_authz.v3, extensions.filters.network.
http_connection_manager.v3, extensions.transport_sockets.tls.v3, extensions.http.
early_header_mutation.header_mutation.v3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from troth.core.address import read_address
from troth.wire.ext_authz import DECISION, IDENTITY_HEADERS, REASON

AUTHZ = "troth-authz"
AGENT = "troth-agent"
PREFIX = "/envoy/authz"
CONNECTION_SECONDS = 60
ANSWER_SECONDS = 1
_TYPES = "type.googleapis.com/envoy.extensions."
_TLS = f"{_TYPES}transport_sockets.tls.v3."
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_EARLY = "envoy.http.early_header_mutation.header_mutation"
_TLS_13 = {
    "tls_minimum_protocol_version": "TLSv1_3",
    "tls_maximum_protocol_version": "TLSv1_3",
}


_RETRY = {
    # What never got to a server: there may be another one, or a connection that has just ended.
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 2,
}


@dataclass(frozen=True, slots=True)
class Enforcer:
    """What an Envoy must know: the address of troth's mutual-TLS listener, or with `grpc` of its
    gRPC listener, as a URL; the server's SPIFFE ID; the path of the agent's socket."""

    url: str
    server: str
    agent_socket: str
    grpc: bool = False


def render_enforcer(wanted: Enforcer) -> dict[str, Any]:
    """The parts of a configuration, each under the name of the field that it belongs to."""
    return {
        "transport_socket": _serve_mutual_tls(),
        "http_connection_manager": {
            # What a client sends as x-forwarded-client-cert goes; what it showed to TLS comes.
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"uri": True, "cert": True},
            "use_remote_address": True,
            # The path is decided on as it was sent, and passed on as it was decided on.
            "normalize_path": False,
            "merge_slashes": False,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "common_http_protocol_options": {
                # An open connection's certificate is never looked at again.
                "max_connection_duration": f"{CONNECTION_SECONDS}s",
                "idle_timeout": f"{CONNECTION_SECONDS}s",
                # Many applications take x_troth_subject for x-troth-subject.
                "headers_with_underscores_action": "REJECT_REQUEST",
            },
            "early_header_mutation_extensions": [_forget_identity()],
        },
        "http_filters": [_ask(wanted)],
        "clusters": [_reach_authz(wanted), _reach_agent(wanted.agent_socket)],
    }


def _serve_mutual_tls() -> dict[str, Any]:
    typed = {
        "@type": f"{_TLS}DownstreamTlsContext",
        "require_client_certificate": True,
        # A resumed session skips the check of the client's certificate.
        "disable_stateless_session_resumption": True,
        "disable_stateful_session_resumption": True,
        "common_tls_context": {
            **_follow_agent(),
            "alpn_protocols": ["h2", "http/1.1"],
            "validation_context_sds_secret_config": _name_secret("ROOTCA"),
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": typed}


def _follow_agent() -> dict[str, Any]:
    return {
        "tls_params": dict(_TLS_13),
        "tls_certificate_sds_secret_configs": [_name_secret("default")],
    }


def _name_secret(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "initial_fetch_timeout": "10s",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": AGENT}}],
            },
        },
    }


def _forget_identity() -> dict[str, Any]:
    """Before any filter: what clients send under these names never counts."""
    return {
        "name": _EARLY,
        "typed_config": {
            "@type": f"{_TYPES}http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [{"remove": name} for name in IDENTITY_HEADERS],
        },
    }


def _ask(wanted: Enforcer) -> dict[str, Any]:
    """The filter: without an answer nothing passes."""
    sent = ["authorization", "dpop"]
    service: dict[str, Any]
    if wanted.grpc:
        grpc = {
            "envoy_grpc": {"cluster_name": AUTHZ, "retry_policy": _RETRY},
            "timeout": f"{ANSWER_SECONDS}s",
        }
        service = {
            "grpc_service": grpc,
            "include_peer_certificate": True,
            "include_tls_session": True,
        }
    else:
        sent += ["x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-proto"]
        service = {
            "http_service": {
                "server_uri": {
                    "uri": wanted.url,
                    "cluster": AUTHZ,
                    "timeout": f"{ANSWER_SECONDS}s",
                },
                "path_prefix": PREFIX,
                "retry_policy": _RETRY,
                "authorization_response": {
                    "allowed_upstream_headers": _match(*IDENTITY_HEADERS),
                    "allowed_client_headers": _match(
                        "www-authenticate", "content-type", "cache-control", DECISION, REASON
                    ),
                },
            }
        }
    typed = {
        "@type": f"{_TYPES}filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "failure_mode_allow": False,
        "status_on_error": {"code": "ServiceUnavailable"},
        "allowed_headers": _match(*sent),
        **service,
    }
    return {"name": "envoy.filters.http.ext_authz", "typed_config": typed}


def _match(*names: str) -> dict[str, Any]:
    return {"patterns": [{"exact": name} for name in names]}


def _reach_authz(wanted: Enforcer) -> dict[str, Any]:
    place = urlsplit(wanted.url)
    host = place.hostname or ""
    address = {"socket_address": {"address": host, "port_value": place.port or 443}}
    validation = {
        "default_validation_context": {
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": wanted.server}}
            ]
        },
        "validation_context_sds_secret_config": _name_secret("ROOTCA"),
    }
    tls: dict[str, Any] = {
        "@type": f"{_TLS}UpstreamTlsContext",
        "max_session_keys": 0,
        "common_tls_context": {**_follow_agent(), "combined_validation_context": validation},
    }
    if read_address(host) is None:
        tls["sni"] = host
    protocol = "http2_protocol_options" if wanted.grpc else "http_protocol_options"
    return {
        "name": AUTHZ,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            _OPTIONS: {
                "@type": f"type.googleapis.com/{_OPTIONS}",
                # Ours ends before the certificate does that it was made with.
                "common_http_protocol_options": {
                    "max_connection_duration": f"{CONNECTION_SECONDS}s"
                },
                "explicit_http_config": {protocol: {}},
            }
        },
        "load_assignment": _assign(AUTHZ, address),
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
    }


def _reach_agent(socket: str) -> dict[str, Any]:
    return {
        "name": AGENT,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            _OPTIONS: {
                "@type": f"type.googleapis.com/{_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": _assign(AGENT, {"pipe": {"path": socket}}),
    }


def _assign(name: str, address: dict[str, Any]) -> dict[str, Any]:
    return {
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    }
