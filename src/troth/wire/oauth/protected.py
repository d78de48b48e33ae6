"""What a protected resource says of itself: where its document is, and what stands in it.

The SDK serves it at the resource's own origin, and so does a proxy that is configured with what
`troth resource metadata` prints: one function renders it for both.

Sources: RFC 9728 sections 1.2 (resource identifiers), 2 (metadata), 3 and 3.1 (where they are),
RFC 9449 section 5.1, RFC 8705 section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from troth.core.errors import Invalid
from troth.core.jose.dpop import ALGORITHMS as PROOF_ALGORITHMS

WELL_KNOWN = "/.well-known/oauth-protected-resource"
METADATA_SECONDS = 300
"""How long caches may keep the document."""


def render_resource_metadata(
    identifier: str,
    issuer: str,
    scopes: Iterable[str],
    *,
    mtls_only: bool = False,
    dpop_only: bool = False,
    name: str = "",
) -> dict[str, Any]:
    """The metadata document of the resource `identifier`, whose tokens come from `issuer`.

    `mtls_only` and `dpop_only` say that it takes tokens bound in that one way alone; `name` is for
    people.
    """
    document: dict[str, Any] = {
        "resource": identifier,
        "authorization_servers": [issuer],
        "bearer_methods_supported": ["header"],
        "scopes_supported": sorted(set(scopes)),
        "tls_client_certificate_bound_access_tokens": mtls_only,
        "dpop_bound_access_tokens_required": dpop_only,
    }
    if not mtls_only:
        document["dpop_signing_alg_values_supported"] = list(PROOF_ALGORITHMS)
    if name:
        document["resource_name"] = name
    return document


def find_metadata_path(identifier: str) -> str:
    """The path of the document at the resource's own origin; raises `Invalid` if it has none.

    A path of the identifier follows the well-known one; only the slash right after the host is
    left out (RFC 9728, section 3.1).
    """
    try:
        parts = urlsplit(identifier)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme != "https" or not host or parts.fragment or parts.query:
        raise Invalid(
            f"{identifier} can't say where its metadata are: an identifier for that is an https "
            "URL without query and fragment (RFC 9728, 1.2)."
        )
    return WELL_KNOWN + ("" if parts.path == "/" else parts.path)
