"""An API that lets in who shows an access token, with `troth.sdk` as its how-to has it.

The one of orders passes its caller on to the one of payments: it exchanges the caller's token for
one in which it stands as actor (RFC 8693).
"""

from __future__ import annotations

import asyncio
import encodings.idna
import json
import socket
import threading
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from typing import Any

import httpcore
import httpx

from troth.cli.demonstration.programs.life import Voice, become, hear, make_parser
from troth.cli.demonstration.programs.series import PAUSE, Series, describe_refusal
from troth.core.errors import TrothError, Unavailable
from troth.policy.resource import Binding
from troth.sdk.asgi import TokenMiddleware
from troth.sdk.client import AccessToken, OAuthClient
from troth.sdk.credential import X509Credential
from troth.sdk.errors import OAuthError
from troth.sdk.guard import PeerGuard
from troth.sdk.issuer import Issuer
from troth.sdk.listener import TlsProtocol, use_guard
from troth.sdk.resource import TOKEN, ProtectedResource, Route
from troth.sdk.validator import TokenValidator, ValidToken

_LOADED_EARLY = (encodings.idna, httpcore)
"""What libraries import late, when this user may not be able to read it."""

LOADED_BY_NAME = ("uvicorn.lifespan.off", "uvicorn.loops.asyncio")
"""The same, and not with this module: no part of the command line brings a server along."""

SECONDS = 5.0
ROUTES = [
    Route("GET", "/orders", ("read",)),
    Route("GET", "/orders/paid", ("read",)),
    Route("POST", "/orders/cancelled", ("cancel",)),
    Route("GET", "/payments", ("see",)),
]
PASSED_ON = "/orders/paid"
PEER_PATH = "/payments"
PEER_SCOPES = ("see",)


class Peer:
    """The API that callers are passed on to."""

    def __init__(self, options: Namespace, guard: PeerGuard, client: OAuthClient) -> None:
        self._options = options
        self._guard = guard
        self._client = client

    def pass_on(self, text: str) -> dict[str, Any]:
        """Call it for the holder of the token `text`; what it answered."""
        http, _, answer = self.reach(text)
        http.close()
        return {"status": answer.status_code, "answer": answer.json()}

    def reach(self, text: str) -> tuple[httpx.Client, AccessToken, httpx.Response]:
        """Call it for the holder of `text`: with what can be called again, and the answer.

        The exchanged token is bound to the certificate of that moment: should the agent give
        another one before the connection is made, it is done anew.
        """
        for last in (False, True):
            token, http = self.exchange(text), self.connect()
            answer = self.call(http, token)
            if last or answer.status_code != 401:
                return http, token, answer
            http.close()
        raise AssertionError("the last try returns")

    def exchange(self, text: str) -> AccessToken:
        """The token for one with this service as the actor."""
        return self._client.exchange(text, self._options.peer_resource, PEER_SCOPES)

    def connect(self) -> httpx.Client:
        """A client that expects this peer and shows this service's certificate."""
        context = self._guard.client_context({self._options.peer})
        return httpx.Client(
            base_url=self._options.peer_url, verify=context, trust_env=False, timeout=SECONDS
        )

    def call(self, http: httpx.Client, token: AccessToken) -> httpx.Response:
        """One call with `token`."""
        return http.get(PEER_PATH, headers={"authorization": token.header})


class Api:
    """The application behind the middleware, and what it remembers of its callers."""

    def __init__(
        self, peer: Peer | None, client: OAuthClient, guard: PeerGuard, voice: Voice
    ) -> None:
        self._peer = peer
        self._guard = guard
        self._client = client
        self._voice = voice
        self._shown: dict[str, str] = {}
        self._series: dict[str, Series] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with what the token says; one route asks the peer as well."""
        token: ValidToken = scope[TOKEN]
        headers = dict(scope["headers"])
        text = headers[b"authorization"].decode("ascii").partition(" ")[2].strip()
        self._shown[token.jti] = text
        answer: dict[str, Any] = {
            "subject": token.subject,
            "actors": token.actors,
            "scopes": sorted(token.scopes),
            "claims": dict(token.claims),
        }
        if self._peer is not None and scope["path"] == PASSED_ON:
            try:
                answer["passed_on"] = await asyncio.to_thread(self._peer.pass_on, text)
            except TrothError as error:
                answer["passed_on"] = {"status": 502, "answer": error.detail}
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def introspect(self, _: str = "") -> dict[str, Any]:
        """What the server says of each token that was shown here, by its jti."""
        tokens = self._shown.items()
        return {"tokens": {jti: self._client.introspect(text) for jti, text in tokens}}

    def insist(self, jti: str) -> dict[str, Any]:
        """From now on ask about that token, and act with it at the peer, again and again.

        For the peer it is exchanged once, and shown on one connection: its certificate stays the
        one that the exchanged token is bound to, whatever the agent gives meanwhile.
        """
        text, peer = self._shown[jti], self._peer
        assert peer is not None, "this API passes nobody on"
        http, token, _ = peer.reach(text)

        def ask() -> str:
            answer = self._client.introspect(text)
            return "" if answer["active"] else json.dumps(answer)

        def act() -> str:
            answer = peer.call(http, token)
            return "" if answer.status_code == 200 else describe_refusal(answer)

        self._series = {
            "introspection": Series(ask, self._voice),
            "payments": Series(act, self._voice),
        }
        return {}

    def exchange(self, jti: str) -> dict[str, Any]:
        """Whether that token still gets another one."""
        assert self._peer is not None, "this API passes nobody on"
        try:
            self._peer.exchange(self._shown[jti])
        except OAuthError as error:
            return {"error": error.error, "description": error.description}
        return {"error": "", "description": "it got one"}

    def judge(self, spiffe_id: str) -> dict[str, Any]:
        """Why connections of that caller are ended or refused here."""
        return {"reasons": self._guard.check_id(spiffe_id).reasons}

    def report(self, _: str = "") -> dict[str, Any]:
        """What became of what it insists on."""
        return {name: series.report() for name, series in self._series.items()}


def serve(app: Any, guard: PeerGuard, caller: str) -> int:
    """Serve over mutual TLS to `caller` in a thread of its own; returns the port."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=TlsProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        ssl_context_factory=use_guard(guard, {caller}),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        thread.join(PAUSE)
        if not thread.is_alive():
            raise Unavailable("The API's server didn't start; its log says why.")
    return int(listener.getsockname()[1])


def main() -> None:
    """Serve; commands: the methods of `Api` that tell, some of a token (its jti)."""
    parser = make_parser(__doc__)
    for name in ("agent", "server", "issuer", "resource", "caller"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("peer", "peer-resource", "peer-url"):
        parser.add_argument(f"--{name}", default="")
    options = parser.parse_args()
    for name in LOADED_BY_NAME:
        import_module(name)
    become(options.uid)
    voice = Voice()
    with PeerGuard([options.server], options.agent) as guard:
        guard.wait_ready()
        issuer = Issuer(options.issuer, guard)
        client = OAuthClient(issuer, X509Credential(guard))
        peer = Peer(options, guard, client) if options.peer else None
        api = Api(peer, client, guard, voice)
        validator = TokenValidator(issuer, [options.resource], guard, binding=Binding.MTLS)
        protected = TokenMiddleware(api, ProtectedResource(options.resource, validator, ROUTES))
        voice.tell("ready", port=serve(protected, guard, options.caller))
        actions: dict[str, Callable[[str], dict[str, Any]]] = {
            "introspect": api.introspect,
            "insist": api.insist,
            "exchange": api.exchange,
            "judge": api.judge,
            "report": api.report,
        }
        for line in hear():
            word, _, about = line.partition(" ")
            try:
                voice.tell(word, ok=True, **actions[word](about))
            except Exception as error:  # noqa: BLE001  (whatever the SDK raises is the answer)
                voice.tell(word, ok=False, error=type(error).__name__, reason=str(error))


if __name__ == "__main__":
    main()
