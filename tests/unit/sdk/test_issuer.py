"""What an issuer says of itself, and the requests of a client besides that for a token."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.fakes.oauth import (
    API,
    ISSUER,
    ME,
    MUTUAL,
    FakeAuthorizationServer,
    FakeCredential,
    make_answer,
)
from tests.fakes.tiny_ca import TinyCa
from troth.core.clock import VirtualClock
from troth.core.errors import Internal, Invalid, Unavailable
from troth.sdk.client import OAuthClient
from troth.sdk.credential import JwtCredential, X509Credential, thumbprint, trust_roots
from troth.sdk.errors import OAuthError, OAuthUnavailable
from troth.sdk.exchange import Answer, check_https
from troth.sdk.issuer import Issuer
from troth.sdk.tls import Pair
from troth.sdk.workload import FetchedJwt, WorkloadApi
from troth.wire.api.problems import Unreachable


class FakeHolder:
    """Holds a certificate, or none yet."""

    def __init__(self, pair: Pair | None = None, spiffe_id: str = ME) -> None:
        self.pair = pair
        self.spiffe_id = spiffe_id


def make_pair(ca: TinyCa, path: str = "/billing") -> Pair:
    svid = ca.issue(path)
    return Pair(svid.private_key, svid.chain, ca.bundle().x509_authorities)


@pytest.fixture
def server() -> FakeAuthorizationServer:
    return FakeAuthorizationServer()


@pytest.fixture
def client(server: FakeAuthorizationServer) -> OAuthClient:
    return OAuthClient(server.connect(), FakeCredential(), clock=server.clock)


def test_endpoints_come_from_the_metadata_and_those_of_mutual_tls_from_the_aliases(server) -> None:
    issuer = server.connect()
    assert issuer.find_endpoint("token_endpoint") == f"{ISSUER}/oauth/token"
    assert issuer.find_endpoint("token_endpoint", mutual=True) == f"{MUTUAL}/oauth/token"
    assert issuer.find_endpoint("jwks_uri", mutual=True) == f"{ISSUER}/oauth/jwks"
    with pytest.raises(OAuthError, match="offers no registration_endpoint"):
        issuer.find_endpoint("registration_endpoint")
    assert [request.url for request in server.requests] == [
        f"{ISSUER}/.well-known/oauth-authorization-server"
    ]


def test_metadata_are_fetched_again_after_an_hour_and_outlive_an_outage(server) -> None:
    issuer = server.connect()
    issuer.read_metadata()
    server.clock.advance(timedelta(hours=2))
    server.metadata = {**server.metadata, "token_endpoint": f"{ISSUER}/elsewhere"}
    assert issuer.find_endpoint("token_endpoint") == f"{ISSUER}/elsewhere"
    server.clock.advance(timedelta(hours=2))
    server.down = OAuthUnavailable("Away.")
    assert issuer.find_endpoint("token_endpoint") == f"{ISSUER}/elsewhere"
    server.clock.advance(timedelta(hours=2))
    server.down = Unreachable("Away.")
    assert issuer.find_endpoint("token_endpoint") == f"{ISSUER}/elsewhere"


def test_an_issuer_with_a_path_has_its_metadata_behind_the_well_known_one() -> None:
    seen = []

    def send(request, context):
        seen.append(request.url)
        return make_answer(200, {"issuer": "https://a.example/tenant"})

    Issuer("https://a.example/tenant/", FakeHolder(make_pair(TinyCa())), send=send).read_metadata()
    assert seen == ["https://a.example/.well-known/oauth-authorization-server/tenant"]


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"issuer": "https://evil.example"}, Invalid),
        ({}, Invalid),
        ({"issuer": ISSUER, "token_endpoint": "http://troth.example.org/t"}, Invalid),
        ({"issuer": ISSUER, "token_endpoint": 7}, OAuthError),
    ],
)
def test_metadata_of_somebody_else_are_not_believed(server, metadata, error) -> None:
    server.metadata = metadata
    with pytest.raises(error):
        server.connect().find_endpoint("token_endpoint")


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 5000, b"{"])
def test_what_is_no_json_object_is_refused(server, body) -> None:
    server.answers = [Answer(200, {}, body or b"1")]
    with pytest.raises(Internal):
        server.connect().post("token_endpoint", [])


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example",
        "https://",
        "https://a@b.example",
        "https://a.example:99999",
        "https://a.example/#x",
        "https://a.example/a b",
        "https://a.example/\r\nx",
        "https://ä.example",
        "https://[::1",
    ],
)
def test_only_https_urls_are_asked(url: str) -> None:
    with pytest.raises(Invalid):
        check_https(url)


def test_an_exchange_is_that_of_the_standard(server, client) -> None:
    token = client.exchange("theirs", API, ["read"], actor_token="mine")
    assert token.scopes == {"read"}
    kind = "urn:ietf:params:oauth:token-type:access_token"
    assert server.forms[-1] == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "theirs",
        "subject_token_type": kind,
        "requested_token_type": kind,
        "actor_token": "mine",
        "actor_token_type": kind,
        "resource": API,
        "scope": "read",
        "client_assertion": "me",
    }


def test_a_token_is_looked_up_and_ended(server, client) -> None:
    assert client.introspect("t")["sub"] == ME
    client.revoke("t")
    assert client.introspect("t") == {"active": False}
    assert server.forms[-1] == {"token": "t", "client_assertion": "me"}
    server.answers = [make_answer(200, {"active": "yes"})]
    with pytest.raises(Internal):
        client.introspect("t")


def test_an_x509_svid_shows_who_asks_and_binds_the_token_to_it() -> None:
    ca = TinyCa()
    holder = FakeHolder()
    credential = X509Credential(holder)
    assert credential.tag == ""
    with pytest.raises(Unavailable, match="no certificate yet"):
        credential.show(ISSUER)
    holder.pair = make_pair(ca)
    shown = credential.show(ISSUER)
    assert shown.fields == [("client_id", ME)]
    assert shown.context is not None
    assert shown.tag == credential.tag == thumbprint(holder.pair.chain[0])
    assert credential.show(ISSUER) is shown
    holder.pair = make_pair(ca)
    assert credential.show(ISSUER).tag == credential.tag != shown.tag
    assert trust_roots(holder) is not None
    assert "billing" not in repr(shown)


def test_a_bound_request_goes_to_the_mutual_tls_listener() -> None:
    server = FakeAuthorizationServer(VirtualClock())
    holder = FakeHolder(make_pair(TinyCa()))
    token = OAuthClient(server.connect(), X509Credential(holder), clock=server.clock).request(API)
    assert server.requests[-1].url == f"{MUTUAL}/oauth/token"
    assert server.forms[-1]["client_id"] == ME
    assert token.tag == thumbprint(holder.pair.chain[0])  # type: ignore[union-attr]


def test_a_jwt_svid_is_an_assertion_for_the_issuer_alone(monkeypatch) -> None:
    asked = []

    def fetch_jwt(api, audiences, spiffe_id):
        asked.append((audiences, spiffe_id))
        return (FetchedJwt(ME, "svid", ""),)

    monkeypatch.setattr(WorkloadApi, "fetch_jwt", fetch_jwt)
    shown = JwtCredential(WorkloadApi("unix:///a.sock"), ME).show(ISSUER)
    assert asked == [((ISSUER,), ME)]
    assert dict(shown.fields) == {
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe",
        "client_assertion": "svid",
    }
    assert shown.context is None
    assert shown.tag == ""
