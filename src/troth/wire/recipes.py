"""Configurations of nginx and Traefik that ask troth about each request.

Both are given their certificates as files. What a client sends under the names of our headers is
written over, since whoever comes later can't tell it from ours.

Sources: ngx_http_auth_request_module, ngx_http_ssl_module and ngx_http_proxy_module of nginx's
documentation; "ForwardAuth", "PassTLSClientCert" and "TLS options" of Traefik's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from troth.wire.ext_authz import IDENTITY_HEADERS, REASON

PASSED_ON = tuple(name for name in IDENTITY_HEADERS if name != REASON)
_CASED = {name: "-".join(part.title() for part in name.split("-")) for name in IDENTITY_HEADERS}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a proxy must know: the hosts that it answers for, the address (host:port) of troth's
    mutual-TLS listener, the folder with its own SVID as files, and the URL of the application."""

    name: str
    hosts: Sequence[str]
    mutual: str
    files: str
    upstream: str


NGINX = """\
upstream troth_authz {{
    server {mutual};
    keepalive 16;
    keepalive_time 60s;
}}

server {{
    listen 443 ssl;
    server_name {hosts};

    ssl_protocols TLSv1.3;
    # A resumed session skips the check of the client's certificate.
    ssl_session_tickets off;
    ssl_session_cache off;
    ssl_certificate {files}/svid.pem;
    ssl_certificate_key {files}/svid_key.pem;
    ssl_client_certificate {files}/bundle.pem;
    ssl_crl {files}/crl.pem;
    ssl_verify_client on;
    # An open connection's certificate is never looked at again by nginx.
    keepalive_time 60s;

    # The path is decided on as it was sent, and passed on as it was decided on.
    merge_slashes off;
    underscores_in_headers off;

    location / {{
        auth_request /.troth;
{taken}
        # A client never writes these: without a value of ours they are gone.
{given}
        add_header X-Troth-Decision $troth_decision always;
        add_header X-Troth-Reason $troth_reason always;
        proxy_pass {upstream};
    }}

    location = /.troth {{
        internal;
        proxy_pass https://troth_authz/enforce/nginx;
        proxy_http_version 1.1;
        proxy_pass_request_body off;
        proxy_pass_request_headers off;
        proxy_connect_timeout 1s;
        proxy_read_timeout 2s;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_session_reuse off;
        proxy_ssl_name {server_name};
        proxy_ssl_server_name on;
        proxy_ssl_verify on;
        proxy_ssl_verify_depth 3;
        proxy_ssl_trusted_certificate {files}/bundle.pem;
        proxy_ssl_certificate {files}/svid.pem;
        proxy_ssl_certificate_key {files}/svid_key.pem;
        proxy_set_header Connection "";
        proxy_set_header Content-Length "";
        proxy_set_header Authorization $http_authorization;
        proxy_set_header DPoP $http_dpop;
        proxy_set_header X-Original-Method $request_method;
        proxy_set_header X-Original-Host $host;
        proxy_set_header X-Original-Uri $request_uri;
        proxy_set_header X-Original-Proto $scheme;
        proxy_set_header X-Real-Ip $remote_addr;
        proxy_set_header X-Client-Verify $ssl_client_verify;
        proxy_set_header X-Client-Cert $ssl_client_escaped_cert;
    }}
}}
"""


def render_nginx(wanted: Recipe) -> str:
    """A piece for nginx's ``http`` block."""
    taken = [
        f"        auth_request_set $troth_{_shorten(name)} $upstream_http_{name.replace('-', '_')};"
        for name in IDENTITY_HEADERS
    ]
    given = [
        f"        proxy_set_header {_CASED[name]} $troth_{_shorten(name)};" for name in PASSED_ON
    ]
    return NGINX.format(
        mutual=wanted.mutual,
        server_name=wanted.mutual.rpartition(":")[0].strip("[]"),
        hosts=" ".join(host.partition(":")[0] for host in wanted.hosts) or "_",
        files=wanted.files,
        upstream=wanted.upstream,
        taken="\n".join(taken),
        given="\n".join(given),
    )


def _shorten(name: str) -> str:
    return name.removeprefix("x-troth-").replace("-", "_")


def render_traefik(wanted: Recipe) -> dict[str, Any]:
    """A file for Traefik's file provider (dynamic configuration)."""
    rule = " || ".join(f"Host(`{host.partition(':')[0]}`)" for host in wanted.hosts)
    router = {
        "rule": rule or "PathPrefix(`/`)",
        "middlewares": ["troth-names", "troth-certificate", "troth"],
        "service": wanted.name,
        "tls": {"options": "troth"},
    }
    # Many applications take x_troth_subject for x-troth-subject.
    forgotten = {name.replace("-", "_"): "" for name in IDENTITY_HEADERS}
    return {
        "http": {
            "routers": {wanted.name: router},
            "middlewares": {
                "troth-names": {"headers": {"customRequestHeaders": forgotten}},
                "troth-certificate": {"passTLSClientCert": {"pem": True}},
                "troth": {"forwardAuth": _forward(wanted)},
            },
            "services": {wanted.name: {"loadBalancer": {"servers": [{"url": wanted.upstream}]}}},
        },
        "tls": _serve_mutual_tls(wanted.files),
    }


def _forward(wanted: Recipe) -> dict[str, Any]:
    files = wanted.files
    return {
        "address": f"https://{wanted.mutual}/enforce/traefik",
        # Else the certificate wouldn't be sent. The entry point takes away what clients write
        # under such names, unless it is told to trust them.
        "trustForwardHeader": True,
        "maxResponseBodySize": 65536,
        "authRequestHeaders": ["Authorization", "DPoP", "X-Forwarded-Tls-Client-Cert"],
        # Those that the answer lacks are taken away.
        "authResponseHeaders": [_CASED[name] for name in IDENTITY_HEADERS],
        "tls": {
            "ca": f"{files}/bundle.pem",
            "cert": f"{files}/svid.pem",
            "key": f"{files}/svid_key.pem",
        },
    }


def _serve_mutual_tls(files: str) -> dict[str, Any]:
    own = {"certFile": f"{files}/svid.pem", "keyFile": f"{files}/svid_key.pem"}
    options = {
        "minVersion": "VersionTLS13",
        # A resumed session skips the check of the client's certificate.
        "disableSessionTickets": True,
        "clientAuth": {
            "caFiles": [f"{files}/bundle.pem"],
            "clientAuthType": "RequireAndVerifyClientCert",
        },
    }
    return {
        # An SVID names no host, so it is shown whatever host a client asks for.
        "stores": {"default": {"defaultCertificate": own}},
        "options": {"troth": options},
    }
