"""The endpoints that proxies ask, with a whole house behind them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.fakes.house import FakeHouse, in_house
from tests.unit.operations.test_enforcement import BILLING, HOST, PROXY, furnish
from troth.core.errors import Unauthenticated, Unavailable
from troth.operations.call import ANONYMOUS, Caller
from troth.server.http.enforcement import EnforcementEndpoints, is_enforcement

Headers = list[tuple[str, str]]
XFCC = ("x-forwarded-client-cert", f"By=spiffe://example.org/edge;URI={BILLING}")
NGINX: Headers = [
    ("x-original-method", "GET"),
    ("x-original-host", HOST),
    ("x-original-uri", "/entries/7?x=1"),
]
TRAEFIK: Headers = [
    ("x-forwarded-method", "GET"),
    ("x-forwarded-host", HOST),
    ("x-forwarded-uri", "/entries/7?x=1"),
]


@dataclass
class As:
    """Everybody is this caller, or nobody is let in."""

    caller: Caller | Exception

    async def __call__(self, scope: Any) -> Caller:
        if isinstance(self.caller, Exception):
            raise self.caller
        return self.caller

    def confirm(self, scope: Any) -> Caller | None:
        return None


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str:
        return self.headers["x-troth-reason"]


async def ask(
    house: FakeHouse,
    path: str,
    headers: Headers,
    *,
    method: str = "GET",
    query: str = "",
    caller: Caller | Exception = PROXY,
) -> Answer:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    assert is_enforcement(scope["raw_path"])
    await EnforcementEndpoints(house.dispatcher, As(caller))(scope, None, send)
    start, body = sent
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], found, body["body"])


@in_house
async def test_envoy_asks_with_the_request_itself(house: FakeHouse) -> None:
    await furnish(house)
    host = ("host", HOST)
    passed = await ask(house, "/envoy/authz/entries/7", [host, XFCC], query="x=1")
    assert passed.status == 200
    assert passed.headers["x-troth-subject"] == BILLING
    assert passed.headers["x-troth-actors"] == ""
    denied = await ask(house, "/envoy/authz/entries", [host, XFCC], method="POST")
    assert (denied.status, denied.reason) == (403, "denied")
    assert msgspec.json.decode(denied.body)["decision"] == denied.headers["x-troth-decision"]
    nobody = await ask(house, "/envoy/authz/entries/7", [host])
    assert (nobody.status, nobody.reason) == (401, "no_credential")
    assert nobody.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "path",
    ["/envoy/authz//entries/7", "/envoy/authz/../v1/identities", "/envoy/authz/entries/%2e%2e/7",
     "/envoy/authz/", "/envoy/authz/entries/7%00", "/envoy/authz/entries/\xe4"],
)  # fmt: skip
def test_what_stands_below_envoys_path_is_read_strictly(path: str, tmp_path: Any) -> None:
    async def check(house: FakeHouse) -> None:
        await furnish(house)
        answer = await ask(house, path, [("host", HOST), XFCC])
        assert (answer.status, answer.reason) == (403, "no_route")

    in_house(check)(tmp_path)


@in_house
async def test_what_is_unclear_is_refused(house: FakeHouse) -> None:
    await furnish(house)
    path, host = "/envoy/authz/entries/7", ("host", HOST)
    token = ("authorization", "Bearer abc")
    for where, headers in (
        (path, [XFCC]),
        (path, [host, host, XFCC]),
        (path, [host, token, token]),
        (path, [host, ("x-forwarded-client-cert", "nonsense")]),
        (path, [host, ("x-forwarded-client-cert", f"URI={BILLING};URI={BILLING}")]),
        (path, [host, ("authorization", "Bearer " + "a" * 20_000)]),
        ("/enforce/nginx", NGINX[1:]),
        ("/enforce/nginx", [*NGINX, NGINX[0]]),
        ("/enforce/nginx", [*NGINX, ("x-client-cert", "abc"), ("x-client-verify", "NONE")]),
        ("/enforce/nginx", [*NGINX, ("x-client-cert", "abc"), ("x-client-verify", "SUCCESS")]),
        ("/enforce/traefik", TRAEFIK[:2]),
        ("/enforce/traefik", [*TRAEFIK, ("x-forwarded-tls-client-cert", "%%%")]),
    ):
        answer = await ask(house, where, headers)
        assert (answer.status, answer.reason) == (403, "bad_request"), headers


@in_house
async def test_of_several_elements_the_last_one_counts(house: FakeHouse) -> None:
    await furnish(house)
    path, host = "/envoy/authz/entries/7", ("host", HOST)
    forged = ("x-forwarded-client-cert", f"URI={BILLING}")
    own = ("x-forwarded-client-cert", "URI=spiffe://example.org/stranger")
    assert (await ask(house, path, [host, forged, own])).status == 403
    assert (await ask(house, path, [host, own, forged])).status == 200


@in_house
async def test_nginx_and_traefik_ask_with_headers(house: FakeHouse) -> None:
    await furnish(house)
    for path, headers in (("/enforce/nginx", NGINX), ("/enforce/traefik", TRAEFIK)):
        answer = await ask(house, path, headers)
        assert (answer.status, answer.reason) == (401, "no_credential")


@in_house
async def test_what_is_the_proxys_fault_or_ours_is_no_answer_to_a_client(house: FakeHouse) -> None:
    await furnish(house)
    path, headers = "/envoy/authz/entries/7", [("host", HOST), XFCC]
    stranger = Caller("spiffe://example.org/stranger", frozenset({"workload"}))
    for caller, reason in (
        (ANONYMOUS, "proxy"),
        (stranger, "proxy"),
        (Unauthenticated("expired"), "proxy"),
        (Unavailable("stale"), "unavailable"),
        (ValueError("secret"), "unavailable"),
    ):
        answer = await ask(house, path, headers, caller=caller)
        assert (answer.status, answer.reason) == (503, reason)
        assert b"secret" not in answer.body
    house.clock.advance(timedelta(seconds=60))  # the lease is over
    answer = await ask(house, path, headers)
    assert (answer.status, answer.reason) == (503, "unavailable")
