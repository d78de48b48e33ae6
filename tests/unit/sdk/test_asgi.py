"""The middleware refuses before the application hears anything."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any, cast

import pytest

from tests.fakes.tiny_ca import TinyCa
from troth.sdk.asgi import PEER, PeerMiddleware, find_certificate
from troth.sdk.decision import Decision
from troth.sdk.listener import describe_tls

SVID = TinyCa().issue("/web")
PEM = ssl.DER_cert_to_PEM_cert(SVID.chain[0])


class FakeGuard:
    """Answers what it is told to."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons
        self.asked: list[bytes | None] = []

    def check(self, certificate: bytes | None) -> Decision:
        self.asked.append(certificate)
        return Decision(not self.reasons, self.reasons, SVID.spiffe_id)


def ask(guard: Any, kind: str = "http", tls: Any = None) -> tuple[list[Any], list[Any]]:
    """What the application was given, and what was sent."""
    reached: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody reads a refused request")

    scope = {"type": kind, "extensions": {} if tls is None else {"tls": tls}}
    asyncio.run(PeerMiddleware(app, guard)(scope, receive, send))
    return reached, sent


def test_who_is_accepted_is_named_to_the_application() -> None:
    guard = FakeGuard()
    (scope,), sent = ask(guard, tls={"client_cert_chain": [PEM]})
    assert guard.asked == [SVID.chain[0]]
    assert scope[PEER] == SVID.spiffe_id
    assert sent == []


def test_who_is_refused_learns_why() -> None:
    reached, (start, body) = ask(FakeGuard("Web is quarantined."), tls={"client_cert_chain": [PEM]})
    assert reached == []
    assert start["status"] == 403
    assert (b"content-type", b"application/problem+json") in start["headers"]
    problem = json.loads(body["body"])
    assert (problem["code"], problem["detail"]) == ("permission_denied", "Web is quarantined.")


def test_a_websocket_is_closed_and_the_lifespan_goes_by() -> None:
    reached, sent = ask(FakeGuard("No."), "websocket")
    assert (reached, sent) == ([], [{"type": "websocket.close", "code": 1008}])
    guard = FakeGuard("No.")
    reached, sent = ask(guard, "lifespan")
    assert (len(reached), sent, guard.asked) == (1, [], [])


@pytest.mark.parametrize(
    "tls",
    [
        None,
        {},
        {"client_cert_chain": []},
        {"client_cert_chain": ["no PEM"]},
        {"client_cert_chain": [PEM], "client_cert_error": "self-signed"},
        {"client_cert_chain": [7]},
        {"client_cert_chain": 7},
        [PEM],
    ],
)
def test_what_is_not_proved_is_no_certificate(tls: Any) -> None:
    assert find_certificate({"type": "http", "extensions": {"tls": tls} if tls else None}) is None


def test_a_peer_s_certificate_without_a_readable_name_is_still_told_of() -> None:
    class Handshaken:
        def getpeercert(self, binary: bool) -> bytes:
            return b"\x30\x00"

    told = describe_tls(cast(ssl.SSLObject, Handshaken()))
    assert told["client_cert_name"] is None
    assert find_certificate({"extensions": {"tls": told}}) == b"\x30\x00"


def test_a_decision_is_not_a_truth_value() -> None:
    with pytest.raises(TypeError, match="allowed"):
        bool(Decision(True, ()))
