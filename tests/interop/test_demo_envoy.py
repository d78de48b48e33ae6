"""The demo's Envoy configuration, judged by Envoy itself and by what a quarantine needs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from troth.cli.demonstration.proxies import (
    CONNECTION_SECONDS,
    DRAIN_SECONDS,
    Egress,
    Ingress,
    render_bootstrap,
    render_gate,
)
from troth.cli.demonstration.stage import find_envoy
from troth.wire.envoy import Enforcer, render_enforcer

pytestmark = pytest.mark.interop


def render(folder: Path) -> dict[str, Any]:
    ingress = Ingress(["spiffe://troth.local/orders"], folder / "app.sock", folder / "refusals.log")
    egress = Egress(folder / "egress.sock", "spiffe://troth.local/payments", 8443)
    return render_bootstrap("orders", folder / "agent.sock", folder / "admin.sock", ingress, egress)


def render_asking(folder: Path) -> dict[str, Any]:
    parts = render_enforcer(
        Enforcer("https://localhost:8444", "spiffe://troth.local/troth/server", "/run/agent.sock")
    )
    return render_gate("gate", folder / "admin.sock", folder / "app.sock", parts)


@pytest.mark.parametrize("how", [render, render_asking])
def test_envoy_accepts_the_configuration(tmp_path, how):
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(how(tmp_path)))
    done = subprocess.run(
        [find_envoy(), "--mode", "validate", "-c", config],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr


def test_nothing_lets_an_old_certificate_live_on(tmp_path):
    listener, egress = render(tmp_path)["static_resources"]["listeners"]
    chain = listener["filter_chains"][0]
    tls = chain["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"]
    assert tls["disable_stateless_session_resumption"]
    assert tls["disable_stateful_session_resumption"]
    assert tls["common_tls_context"]["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_3"
    manager = chain["filters"][0]["typed_config"]
    lifetime = manager["common_http_protocol_options"]["max_connection_duration"]
    assert lifetime == f"{CONNECTION_SECONDS}s"
    assert CONNECTION_SECONDS + DRAIN_SECONDS < 5
    assert "pipe" in egress["address"]


def test_the_gate_asks_before_it_routes_and_lets_nothing_through_unasked(tmp_path):
    (listener,) = render_asking(tmp_path)["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    tls = chain["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"]
    assert tls["disable_stateless_session_resumption"]
    assert tls["disable_stateful_session_resumption"]
    manager = chain["filters"][0]["typed_config"]
    asks, router = manager["http_filters"]
    assert asks["name"] == "envoy.filters.http.ext_authz"
    assert asks["typed_config"]["failure_mode_allow"] is False
    assert router["name"] == "envoy.filters.http.router"
    assert manager["forward_client_cert_details"] == "SANITIZE_SET"
