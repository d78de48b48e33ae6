"""A client of an API: access tokens for an X.509-SVID, by `troth.sdk`, and calls with them.

No token leaves it but to the API; what is told of one are its claims.
"""

from __future__ import annotations

import encodings.idna
from argparse import Namespace
from typing import Any

import httpcore
import httpx

from troth.cli.demonstration.programs.life import Voice, become, hear, make_parser
from troth.cli.demonstration.programs.series import Series, describe_refusal, read_challenge
from troth.core.jose.jws import parse_token
from troth.sdk.client import OAuthClient
from troth.sdk.credential import X509Credential
from troth.sdk.errors import OAuthError
from troth.sdk.guard import PeerGuard
from troth.sdk.httpx import TokenAuth
from troth.sdk.issuer import Issuer
from troth.sdk.tokens import TokenSource

_LOADED_EARLY = (encodings.idna, httpcore)
"""What libraries import late, when this user may not be able to read it."""

SECONDS = 5.0


class Client:
    """Gets tokens for one API, and calls it."""

    def __init__(self, options: Namespace, guard: PeerGuard, voice: Voice) -> None:
        self._options = options
        self._guard = guard
        self._voice = voice
        self._credential = X509Credential(guard)
        issuer = Issuer(options.issuer, guard)
        self._source = TokenSource(OAuthClient(issuer, self._credential))
        self._series: Series | None = None

    def token(self) -> dict[str, Any]:
        """What the present token says, and the thumbprint of the present certificate."""
        token = self._source.fetch(self._options.resource)
        claims = dict(parse_token(token.text).claims)
        return {"claims": claims, "kind": token.kind, "thumbprint": self._credential.tag}

    def call(self) -> dict[str, Any]:
        """Read what the API has."""
        return self._call("GET", "/orders")

    def bare(self) -> dict[str, Any]:
        """The same without a token."""
        with self._connect() as http:
            answer = http.get("/orders")
        return {"status": answer.status_code, **read_challenge(answer)}

    def passed(self) -> dict[str, Any]:
        """Read what the API must ask another one for."""
        return self._call("GET", "/orders/paid")

    def cancel(self) -> dict[str, Any]:
        """Do what the token doesn't permit."""
        return self._call("POST", "/orders/cancelled")

    def overreach(self) -> dict[str, Any]:
        """Ask for a token that no role permits."""
        try:
            token = self._source.fetch(self._options.resource, ["cancel"])
        except OAuthError as error:
            return {"error": error.error, "description": error.description}
        return {"error": "", "description": f"a token for {sorted(token.scopes)}"}

    def insist(self) -> dict[str, Any]:
        """From now on call with the present token, again and again, whatever comes back."""
        token, http = self._source.fetch(self._options.resource), self._connect()

        def call() -> str:
            answer = http.get("/orders", headers={"authorization": token.header})
            return "" if answer.status_code == 200 else describe_refusal(answer)

        self._series = Series(call, self._voice)
        return {"claims": dict(parse_token(token.text).claims)}

    def report(self) -> dict[str, Any]:
        """What became of that."""
        assert self._series is not None, "it doesn't insist on anything"
        return self._series.report()

    def _connect(self, auth: httpx.Auth | None = None) -> httpx.Client:
        context = self._guard.client_context({self._options.peer})
        return httpx.Client(
            base_url=self._options.url, verify=context, auth=auth, trust_env=False, timeout=SECONDS
        )

    def _call(self, method: str, path: str) -> dict[str, Any]:
        options = self._options
        auth = TokenAuth(self._source, options.resource, origin=options.url)
        with self._connect(auth) as http:
            answer = http.request(method, path)
        if answer.status_code == 200:
            return {"status": 200, "answer": answer.json()}
        return {"status": answer.status_code, **read_challenge(answer)}


def main() -> None:
    """Commands: the methods of `Client`, told with what they return."""
    parser = make_parser(__doc__)
    for name in ("agent", "server", "issuer", "resource", "peer", "url"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    become(options.uid)
    voice = Voice()
    with PeerGuard([options.server], options.agent) as guard:
        guard.wait_ready()
        client = Client(options, guard, voice)
        actions = {
            "token": client.token,
            "call": client.call,
            "bare": client.bare,
            "passed": client.passed,
            "cancel": client.cancel,
            "overreach": client.overreach,
            "insist": client.insist,
            "report": client.report,
        }
        voice.tell("ready")
        for word in hear():
            try:
                voice.tell(word, ok=True, **actions[word]())
            except Exception as error:  # noqa: BLE001  (whatever the SDK raises is the answer)
                voice.tell(word, ok=False, error=type(error).__name__, reason=str(error))


if __name__ == "__main__":
    main()
