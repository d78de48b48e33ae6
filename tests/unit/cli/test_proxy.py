"""Configurations for proxies and databases at the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.api import FakeApi
from tests.fakes.views import make_identity, make_status
from tests.unit.cli.conftest import Run
from tests.unit.cli.test_resource import make_view
from troth.wire.api.enforcement import EnforcedDecision
from troth.wire.api.resources import RouteView
from troth.wire.authzen.search import Found, PageEnd, Results
from troth.wire.ext_authz import IDENTITY_HEADERS
from troth.wire.yaml import load_documents

ROUTES = [RouteView(action="read", path="/entries/{id}", methods=["GET"])]


@pytest.fixture
def declared(api: FakeApi) -> FakeApi:
    api.answers["resource.show"] = make_view(hosts=["ledger.example.org"], routes=ROUTES)
    api.answers["status.show"] = make_status(origin="https://troth.example.org:8443")
    return api


def test_envoy_asks_over_http_or_grpc(declared: FakeApi, run: Run) -> None:
    made = run("proxy", "envoy", "ledger")
    assert made.exit_code == 0
    (document,) = load_documents(made.stdout.encode(), "envoy")
    parts: Any = document.value
    (filter_,) = parts["http_filters"]
    asked = filter_["typed_config"]
    assert asked["failure_mode_allow"] is False
    assert asked["http_service"]["server_uri"]["uri"] == "https://troth.example.org:8444"
    manager = parts["http_connection_manager"]
    assert manager["forward_client_cert_details"] == "SANITIZE_SET"
    (early,) = manager["early_header_mutation_extensions"]
    removed = {one["remove"] for one in early["typed_config"]["mutations"]}
    assert removed == set(IDENTITY_HEADERS)
    tls = parts["transport_socket"]["typed_config"]
    assert tls["disable_stateless_session_resumption"]
    assert tls["disable_stateful_session_resumption"]

    made = run("proxy", "envoy", "ledger", "--grpc", "troth.example.org:8445", "--json")
    parts = json.loads(made.stdout)
    asked = parts["http_filters"][0]["typed_config"]
    assert "http_service" not in asked
    assert asked["include_peer_certificate"] is True


def test_recipes_name_the_hosts_and_the_listener(declared: FakeApi, run: Run) -> None:
    nginx = run("proxy", "nginx", "ledger", "--files", "/etc/x").stdout
    assert "server_name ledger.example.org;" in nginx
    assert "server troth.example.org:8444;" in nginx
    assert "ssl_certificate_key /etc/x/svid_key.pem;" in nginx
    traefik = run("proxy", "traefik", "ledger", "--mutual", "h:1").stdout
    assert "https://h:1/enforce/traefik" in traefik
    assert "Host(`ledger.example.org`)" in traefik


def test_what_cannot_be_printed_is_refused(declared: FakeApi, run: Run) -> None:
    assert run("proxy", "nginx", "ledger", "--files", "/x; root /").exit_code != 0
    assert run("proxy", "envoy", "ledger", "--mutual", "nonsense").exit_code != 0
    declared.answers["resource.show"] = make_view()
    made = run("proxy", "envoy", "ledger")
    assert made.exit_code == 1
    assert "no routes" in made.stderr


def test_asking_says_whether_it_would_pass(declared: FakeApi, run: Run) -> None:
    answer = EnforcedDecision(allowed=True, decision="dec_1", status=200, resource="ledger")
    declared.answers["decision.enforce"] = answer
    me = "spiffe://example.org/billing"
    made = run("proxy", "ask", "GET", "https://ledger.example.org/entries/7?x=//", "--as", me)
    assert made.exit_code == 0
    (asked,) = declared.named("decision.enforce")
    assert (asked.host, asked.path, asked.peer) == ("ledger.example.org", "/entries/7?x=//", me)
    declared.answers["decision.enforce"] = EnforcedDecision(
        allowed=False, decision="dec_2", status=403, reason="denied", detail="nothing permits it"
    )
    made = run("proxy", "ask", "GET", "https://ledger.example.org")
    assert made.exit_code == 1
    assert "nothing permits it" in made.stderr
    assert run("proxy", "ask", "GET", "ledger").exit_code != 0


def test_rules_for_postgresql(api: FakeApi, run: Run) -> None:
    api.answers["resource.show"] = make_view(type="postgres", actions={"read": "See"})
    api.answers["decision.search"] = Results([Found(type="identity", id="till")], PageEnd("", 1))
    api.answers["identity.show"] = make_identity("till")
    made = run("postgres", "rules", "ledger", "--database", "shop", "--part", "ident")
    assert made.stdout == 'troth "CN=till" ledger_read\n'
    api.answers["resource.show"] = make_view()
    made = run("postgres", "rules", "ledger", "--database", "shop")
    assert made.exit_code == 1
    assert "type postgres" in made.stderr
