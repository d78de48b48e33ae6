"""Routes and what they need, refusals and their challenges, metadata; before ASGI and WSGI apps."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.issuer import make_private_key
from tests.fakes.oauth import API, ISSUER, ME, FakeAuthorizationServer
from tests.fakes.proofs import find_thumbprint, make_proof
from tests.fakes.tiny_ca import TinyCa
from troth.core.errors import Invalid
from troth.policy.resource import Binding
from troth.sdk.asgi import TokenMiddleware
from troth.sdk.credential import thumbprint
from troth.sdk.errors import InvalidToken
from troth.sdk.resource import TOKEN, ProtectedResource, Route, quote_path
from troth.sdk.validator import TokenValidator
from troth.sdk.wsgi import TokenMiddleware as WsgiMiddleware
from troth.wire.api.problems import Unreachable

METADATA = f"{API}/.well-known/oauth-protected-resource"
ROUTES = [
    Route("GET", "/healthz", public=True),
    Route("GET", "/entries", ("read",)),
    Route("GET", "/entries/*", ("read",)),
    Route("POST", "/entries", ("read", "write")),
    Route("*", "/files/**", ("files",)),
    Route("GET", "/me"),
]


class Stage:
    """An application behind each kind of middleware, and the issuer of its tokens."""

    def __init__(self, binding: Binding = Binding.NONE) -> None:
        self.server = FakeAuthorizationServer()
        clock = self.server.clock
        validator = TokenValidator(self.server.connect(), [API], None, binding=binding, clock=clock)
        self.resource = ProtectedResource(API, validator, ROUTES, name="The ledger")
        self.reached: list[Any] = []

    def ask(self, kind: str, method: str, path: str, **request: Any) -> Answer:
        ask = self.ask_asgi if kind == "asgi" else self.ask_wsgi
        return ask(method, path, **request)

    def ask_asgi(
        self, method: str, path: str, pem: str = "", kind: str = "http", **headers: str
    ) -> Answer:
        sent: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.reached.append(scope.get(TOKEN))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("nobody reads a refused request")

        given = [(name.encode(), value.encode()) for name, value in headers.items()]
        tls = {"tls": {"client_cert_chain": [pem]}} if pem else {}
        scope = {
            "type": kind,
            "method": method,
            "path": path,
            "headers": given,
            "extensions": tls,
            TOKEN: "forged",
        }
        asyncio.run(TokenMiddleware(app, self.resource)(scope, receive, send))
        if kind == "websocket":
            return Answer(sent[0]["code"], {}, b"")
        found: dict[str, list[str]] = {}
        for name, value in sent[0]["headers"]:
            found.setdefault(name.decode(), []).append(value.decode())
        return Answer(sent[0]["status"], found, sent[1]["body"])

    def ask_wsgi(self, method: str, path: str, pem: str = "", **headers: str) -> Answer:
        answer = Answer(0, {}, b"")

        def app(environ: Any, start_response: Any) -> list[bytes]:
            self.reached.append(environ.get(TOKEN))
            start_response("200 OK", [])
            return [b"hello"]

        def start_response(status: str, given: list[tuple[str, str]]) -> None:
            answer.status = int(status.split()[0])
            for name, value in given:
                answer.headers.setdefault(name, []).append(value)

        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "SSL_CLIENT_CERT": pem,
            TOKEN: "forged",
            **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
        }
        answer.body = b"".join(WsgiMiddleware(app, self.resource)(environ, start_response))
        return answer


class Answer:
    def __init__(self, status: int, headers: dict[str, list[str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def challenges(self) -> list[str]:
        return self.headers.get("www-authenticate", [])

    @property
    def detail(self) -> str:
        return str(json.loads(self.body)["detail"])


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture(params=["asgi", "wsgi"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def bear(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_request_with_a_good_token_reaches_the_application(stage: Stage, kind: str) -> None:
    token = stage.server.issue(scope="read")
    assert stage.ask(kind, "GET", "/entries", **bear(token)).body == b"hello"
    assert stage.ask(kind, "HEAD", "/entries/7", **bear(token)).status == 200
    assert stage.ask(kind, "GET", "/me", authorization=f"bearer {token}").status == 200
    assert {token.subject for token in stage.reached} == {ME}


def test_a_public_route_needs_none(stage: Stage, kind: str) -> None:
    assert stage.ask(kind, "GET", "/healthz").body == b"hello"
    assert stage.reached == [None]
    assert stage.ask(kind, "POST", "/healthz").status == 401


@pytest.mark.parametrize("authorization", ["", "Basic YTpi", "Bearer", "Negotiate x, Basic y"])
def test_without_a_token_it_says_where_to_get_one(
    stage: Stage, kind: str, authorization: str
) -> None:
    headers = {"authorization": authorization} if authorization else {}
    answer = stage.ask(kind, "GET", "/entries", **headers)
    if authorization == "Bearer":
        assert answer.status == 400
        assert 'error="invalid_request"' in answer.challenges[0]
        return
    assert answer.status == 401
    bearer, dpop = answer.challenges
    assert bearer == f'Bearer resource_metadata="{METADATA}", scope="read"'
    assert dpop.startswith(f'DPoP resource_metadata="{METADATA}", scope="read", algs="ES256 ')
    assert stage.reached == []


def test_a_token_that_is_not_good_is_answered_with_its_code(stage: Stage, kind: str) -> None:
    answer = stage.ask(kind, "GET", "/entries", **bear(stage.server.issue(exp=1)))
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.challenges[0]
    assert 'error_description="The token has expired' in answer.challenges[0]
    assert "error" not in answer.challenges[1]
    assert answer.headers["content-type"] == ["application/problem+json"]
    assert answer.headers["content-length"] == [str(len(answer.body))]
    assert "expired" in answer.detail


def test_a_token_that_permits_less_is_told_what_is_needed(stage: Stage, kind: str) -> None:
    answer = stage.ask(kind, "POST", "/entries", **bear(stage.server.issue(scope="read")))
    assert answer.status == 403
    assert 'error="insufficient_scope"' in answer.challenges[0]
    assert 'scope="read write"' in answer.challenges[0]
    assert answer.detail == "The token doesn't permit write."


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/other",
        "/entries/",
        "/entries/7/8",
        "/files",
        "/files/../entries",
        "/files/./a",
        "/files//a",
        "/files/a\\b",
        "/files/\0",
        "entries",
        "",
    ],
)
def test_what_no_route_allows_is_refused(stage: Stage, kind: str, path: str) -> None:
    token = stage.server.issue(scope="read write files")
    answer = stage.ask(kind, "GET", path, **bear(token))
    assert answer.status == 403
    assert "no route" in answer.detail
    assert stage.reached == []


@given(st.text(alphabet="/.*ab\\%\0", max_size=12), st.sampled_from(["GET", "POST", "HEAD"]))
def test_a_route_never_matches_what_programs_read_in_several_ways(path: str, method: str) -> None:
    resource = Stage().resource
    route = resource.find_route(method, path)
    if route is not None and route.path == "/files/**":
        parts = path.split("/")
        assert parts[:2] == ["", "files"]
        assert not {".", ".."} & set(parts)
        assert "" not in parts[1:-1]


def test_a_path_that_no_client_could_send_reaches_nothing() -> None:
    assert quote_path("/a\ud800b/é") == "/a%ED%A0%80b/%C3%A9"


def test_tokens_in_the_query_count_for_nothing(stage: Stage) -> None:
    token = stage.server.issue()
    assert stage.ask_asgi("GET", "/entries", **{"x-access-token": token}).status == 401


def test_two_tokens_are_none(stage: Stage) -> None:
    token = stage.server.issue()
    both = {"authorization": f"Bearer {token}, Bearer {token}"}
    assert stage.ask_wsgi("GET", "/entries", **both).status == 400
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    header = (b"authorization", f"Bearer {token}".encode())
    scope = {"type": "http", "method": "GET", "path": "/entries", "headers": [header, header]}
    asyncio.run(TokenMiddleware(None, stage.resource)(scope, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400


def test_where_nobody_can_say_it_is_not_the_token_s_fault(stage: Stage, kind: str) -> None:
    stage.server.down = Unreachable("Away.")
    answer = stage.ask(kind, "GET", "/entries", **bear(stage.server.issue()))
    assert answer.status == 503
    assert answer.headers["retry-after"] == ["1"]
    assert answer.challenges == []


def test_metadata_are_served_to_anybody(stage: Stage, kind: str) -> None:
    answer = stage.ask(kind, "GET", "/.well-known/oauth-protected-resource")
    assert answer.status == 200
    document = json.loads(answer.body)
    assert document["resource"] == API
    assert document["authorization_servers"] == [ISSUER]
    assert document["scopes_supported"] == ["files", "read", "write"]
    assert document["bearer_methods_supported"] == ["header"]
    assert document["resource_name"] == "The ledger"
    assert document["tls_client_certificate_bound_access_tokens"] is False
    assert document["dpop_bound_access_tokens_required"] is False
    assert stage.ask(kind, "HEAD", "/.well-known/oauth-protected-resource").body == b""
    assert stage.ask(kind, "POST", "/.well-known/oauth-protected-resource").status == 405


def test_what_the_application_asks_for_itself_stands_in_the_metadata(stage: Stage) -> None:
    validator = stage.resource.validator
    routes = [Route("*", "/mcp", ("use",))]
    resource = ProtectedResource(f"{API}/mcp", validator, routes, scopes=["write", "read"])
    assert resource.describe()["scopes_supported"] == ["read", "use", "write"]
    with pytest.raises(Invalid, match="can't be an action"):
        ProtectedResource(API, validator, [], scopes=["two words"])


def test_a_resource_with_a_path_has_its_metadata_behind_the_well_known_one(stage: Stage) -> None:
    validator = stage.resource.validator
    resource = ProtectedResource(f"{API}/v2", validator, [])
    assert resource.metadata_path == "/.well-known/oauth-protected-resource/v2"
    named = ProtectedResource("urn:example:ledger", validator, [], origin=f"{API}:9443")
    assert named.metadata_path == "/.well-known/oauth-protected-resource"
    challenge = named.refuse(InvalidToken("x")).headers[-1][1]
    assert f'resource_metadata="{API}:9443/.well-known/' in challenge


def test_bound_tokens_pass_with_their_certificate(kind: str) -> None:
    stage = Stage(Binding.MTLS)
    der = TinyCa().issue("/billing").chain[0]
    token = stage.server.issue(cnf={"x5t#S256": thumbprint(der)})
    pem = ssl.DER_cert_to_PEM_cert(der)
    assert stage.ask(kind, "GET", "/entries", pem=pem, **bear(token)).status == 200
    answer = stage.ask(kind, "GET", "/entries", **bear(token))
    assert answer.status == 401
    assert [one.split()[0] for one in answer.challenges] == ["Bearer"]
    assert stage.ask(kind, "GET", "/entries", pem="rubbish", **bear(token)).status == 401


def test_dpop_bound_tokens_pass_with_a_proof_for_this_resource(kind: str) -> None:
    stage = Stage(Binding.DPOP)
    key, now = make_private_key(5), stage.server.clock.now()
    token = stage.server.issue(cnf={"jkt": find_thumbprint(key)})
    proof = make_proof(key, "GET", f"{API}/entries/a%20b", now, token)
    headers = {"authorization": f"DPoP {token}", "dpop": proof}
    assert stage.ask(kind, "GET", "/entries/a b", **headers).status == 200
    again = stage.ask(kind, "GET", "/entries/a b", **headers)
    assert again.status == 401
    (challenge,) = again.challenges
    assert challenge.startswith("DPoP ")
    assert 'error="invalid_dpop_proof"' in challenge
    elsewhere = make_proof(key, "GET", "https://evil.example/entries", now, token, jti="p2")
    answer = stage.ask(kind, "GET", "/entries", **{**headers, "dpop": elsewhere})
    assert "htu" in answer.detail


def test_a_websocket_is_refused_by_closing_it(stage: Stage) -> None:
    assert stage.ask_asgi("GET", "/entries", kind="websocket").status == 1008


@pytest.mark.parametrize(
    "route",
    [
        Route("GET", "entries"),
        Route("GET", "/a/**/b"),
        Route("GET", "/a", ("read all",)),
        Route("GET", "/a", ('"',)),
        Route("GET", "/a", ("read",), public=True),
    ],
)
def test_a_route_that_can_t_be_is_refused_at_the_start(stage: Stage, route: Route) -> None:
    with pytest.raises(Invalid):
        ProtectedResource(API, stage.resource.validator, [route])
