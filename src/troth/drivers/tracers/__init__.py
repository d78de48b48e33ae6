"""Tracers: where spans go. One driver, OTLP's; loaded only where an endpoint is set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from urllib.parse import urlsplit

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Invalid
from troth.core.tracing import NO_TRACER, Tracer
from troth.drivers.headers import check_headers

BUILT_IN: dict[str, str] = {"otlp": "troth.drivers.tracers.otlp:open_tracer"}
"""Name → ``module:factory``; loaded only when configured."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Where spans go, with which HTTP headers, and which share of traces begun here is kept."""

    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a token
    sample_ratio: float = 1.0


def check_endpoint(endpoint: str, headers: Mapping[str, str]) -> str:
    """`endpoint` without a slash at its end; raises `Invalid` unless it is a plain http(s) URL.

    Headers may hold a token, so they go over https, or to this machine.
    """
    # Not shown: somebody may have put a password into it.
    problem = Invalid("it must be a URL such as http://localhost:4318, without user or query.")
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise problem from error
    if not sound or parts.query or parts.fragment or "@" in parts.netloc:
        raise problem
    if headers and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise Invalid("headers may hold a token: send them over https, or to localhost.")
    check_headers(headers)
    return endpoint.rstrip("/")


def load_tracer(
    telemetry: Telemetry | None, *, service: str, version: str, clock: Clock, entropy: Entropy
) -> Tracer:
    """The tracer for `telemetry`; without any, one that does nothing and imports nothing."""
    if telemetry is None:
        return NO_TRACER
    module, _, factory = BUILT_IN["otlp"].partition(":")
    make: Callable[..., Tracer] = getattr(import_module(module), factory)
    return make(telemetry, service=service, version=version, clock=clock, entropy=entropy)
