"""Configuration of the demo's Envoys: certificates from the agent's socket, mutual TLS, and bounds.

What makes a quarantine bite within seconds stands here and nowhere else, so it can be copied:

- Certificate, roots and revocation lists come over SDS, so a change reaches the next handshake.
- Session resumption is off on both sides: a resumed session skips the check of the certificate.
- A connection lives `CONNECTION_SECONDS` at most: one that is open is never checked again.
- The hop between an application and its own Envoy is a Unix socket in a private directory: on a
  loopback port, every user of the machine could speak with the service's identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONNECTION_SECONDS = 2
"""How long a connection between proxies may live before it is drained."""

DRAIN_SECONDS = 1
"""How long a drained connection may still finish what it carries."""

REQUEST_SECONDS = 2

_TYPES = "type.googleapis.com/"
_TLS = _TYPES + "envoy.extensions.transport_sockets.tls.v3."
_HTTP_MANAGER = (
    _TYPES + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class Ingress:
    """Takes mutual TLS on a port that the system picks, from `callers` alone, for `application`.

    Why a connection was refused is written to `refusals`, a line for each connection that ended.
    """

    callers: Sequence[str]
    application: Path
    refusals: Path


@dataclass(frozen=True, slots=True)
class Egress:
    """Takes plain HTTP on the Unix socket `path` and carries it to the service `peer` at `port`."""

    path: Path
    peer: str
    port: int


def render_bootstrap(
    name: str, agent_socket: Path, admin: Path, ingress: Ingress, egress: Egress | None = None
) -> dict[str, Any]:
    """An Envoy's whole static configuration; `admin` is the path of its admin socket."""
    listeners = [_ingress_listener(ingress)]
    clusters = [_agent_cluster(agent_socket), _application_cluster(ingress.application)]
    if egress is not None:
        listeners.append(_egress_listener(egress))
        clusters.append(_peer_cluster(egress))
    return _assemble(name, admin, listeners, clusters)


def render_gate(
    name: str, admin: Path, application: Path, parts: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration of an Envoy that asks troth about each request to `application`: what
    `troth proxy envoy` printed, `parts`, each where its name says."""
    manager = {
        "stat_prefix": "gate",
        "route_config": _route_all("application"),
        **parts["http_connection_manager"],
    }
    chain = {
        "transport_socket": parts["transport_socket"],
        "filters": [_http_filter(manager, parts["http_filters"])],
    }
    clusters = [*parts["clusters"], _application_cluster(application)]
    return _assemble(name, admin, [_listen_anywhere([chain])], clusters)


def _assemble(
    name: str, admin: Path, listeners: list[dict[str, Any]], clusters: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "node": {"id": name, "cluster": name},
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _listen_anywhere(chains: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """On a port of the loopback interface that the system picks."""
    return {
        "name": "ingress",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": chains,
        **more,
    }


def _ingress_listener(ingress: Ingress) -> dict[str, Any]:
    context = {
        "@type": _TLS + "DownstreamTlsContext",
        "require_client_certificate": True,
        "disable_stateless_session_resumption": True,
        "disable_stateful_session_resumption": True,
        "common_tls_context": _tls_context(ingress.callers),
    }
    manager = {
        "stat_prefix": "ingress",
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
        "route_config": _route_all("application"),
        **_bounds(),
    }
    chain = {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        "filters": [_http_filter(manager)],
    }
    return _listen_anywhere([chain], access_log=[_refusal_log(ingress.refusals)])


def _refusal_log(path: Path) -> dict[str, Any]:
    line = {"text_format_source": {"inline_string": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%\n"}}
    config = {
        "@type": _TYPES + "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": str(path),
        "log_format": line,
    }
    return {"name": "envoy.access_loggers.file", "typed_config": config}


def _egress_listener(egress: Egress) -> dict[str, Any]:
    manager = {
        "stat_prefix": "egress",
        "codec_type": "HTTP1",
        "route_config": _route_all("peer"),
        # Says why TLS failed: otherwise the application reads "connection failure" alone.
        "local_reply_config": {
            "body_format": {
                "text_format_source": {
                    "inline_string": "%LOCAL_REPLY_BODY% (%UPSTREAM_TRANSPORT_FAILURE_REASON%)"
                }
            }
        },
    }
    return {
        "name": "egress",
        "address": {"pipe": {"path": str(egress.path), "mode": 0o600}},
        "filter_chains": [{"filters": [_http_filter(manager)]}],
    }


def _bounds() -> dict[str, Any]:
    return {
        "common_http_protocol_options": {
            "max_connection_duration": f"{CONNECTION_SECONDS}s",
            "max_stream_duration": f"{REQUEST_SECONDS}s",
            "idle_timeout": "30s",
        },
        "drain_timeout": f"{DRAIN_SECONDS}s",
        "request_headers_timeout": "5s",
    }


def _http_filter(manager: dict[str, Any], before: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The connection manager; the filters `before` see a request before it is routed."""
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": _TYPES + "envoy.extensions.filters.http.router.v3.Router"},
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {"@type": _HTTP_MANAGER, **manager, "http_filters": [*before, router]},
    }


def _route_all(cluster: str) -> dict[str, Any]:
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": cluster, "timeout": f"{REQUEST_SECONDS}s"},
    }
    return {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}


def _tls_context(peers: Sequence[str]) -> dict[str, Any]:
    """TLS 1.3 with our certificate and roots from SDS, for peers with one of these SPIFFE IDs."""
    names = [{"san_type": "URI", "matcher": {"exact": peer}} for peer in peers]
    return {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",  # a client's is 1.2 unless told
        },
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [_secret("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": _secret("ROOTCA"),
        },
    }


def _secret(name: str) -> dict[str, Any]:
    source = {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "agent"}}],
    }
    config = {
        "resource_api_version": "V3",
        "initial_fetch_timeout": "10s",
        "api_config_source": source,
    }
    return {"name": name, "sds_config": config}


def _cluster(name: str, address: dict[str, Any], **more: Any) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": address}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **more,
    }


def _agent_cluster(socket: Path) -> dict[str, Any]:
    return _cluster("agent", {"pipe": {"path": str(socket)}}, **_speak_http2())


def _application_cluster(socket: Path) -> dict[str, Any]:
    return _cluster("application", {"pipe": {"path": str(socket)}})


def _peer_cluster(egress: Egress) -> dict[str, Any]:
    context = {
        "@type": _TLS + "UpstreamTlsContext",
        "max_session_keys": 0,  # keep no session to resume
        "common_tls_context": _tls_context([egress.peer]),
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": egress.port}}
    lifetime = {"max_connection_duration": f"{CONNECTION_SECONDS}s"}
    return _cluster(
        "peer",
        address,
        transport_socket={"name": "envoy.transport_sockets.tls", "typed_config": context},
        **_speak_http2(common_http_protocol_options=lifetime),
    )


def _speak_http2(**more: Any) -> dict[str, Any]:
    options = {
        "@type": _TYPES + _HTTP_OPTIONS,
        "explicit_http_config": {"http2_protocol_options": {}},
        **more,
    }
    return {"typed_extension_protocol_options": {_HTTP_OPTIONS: options}}
