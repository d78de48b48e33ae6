"""Introspections a second of distinct live tokens, by a server of their resource, on one core.

The resource server asks over mutual TLS with its X.509-SVID on kept-alive connections, each token
once. The reference, on the same core and in the same run, is what no such answer can do without:
one P-256 verification, bare. In the detail the same is asked with `private_key_jwt` assertions,
each used up before the answer, and answered in signed form (RFC 9701).
"""

from __future__ import annotations

import json
import ssl

from benchmarks.clients import (
    Key,
    ask_token,
    declare,
    make_assertion,
    make_contexts,
    make_keys,
    name_client,
    post_form,
)
from benchmarks.installation import Installation, leave_server_cores, run_server
from benchmarks.load import Batches, Measured, ask_all, run_load
from benchmarks.report import print_rates, say
from benchmarks.requests import Line
from troth.issuance.introspection import MEDIA_TYPE

IDENTITIES = 1000
CONNECTIONS = 32
RUNS = 5
OTHER_RUNS = 2
EACH = 64
RATIO = 0.35
GATE = "gate"
PATH = "/oauth/introspect"
ACTIVE = b'"active":true'


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    with run_server() as server:
        leave_server_cores()
        keys = make_keys(IDENTITIES)
        declare(server, keys, GATE, servers=[GATE, name_client(0)])
        public = ssl.create_default_context(cafile=str(server.folder / "ca.pem"))
        clients = [Line(server.public, public) for _ in range(CONNECTIONS)]
        (context,) = make_contexts(server, [GATE])
        lines = [Line(server.mutual, context) for _ in range(CONNECTIONS)]
        mutual, asserted, signed = Measured(), Measured(), Measured()
        mutual.measure_bare(sign=False)
        ask_all(lines, make_plain(server, get_tokens(server, clients, keys, 4)), ACTIVE)
        for number in range(RUNS):
            tokens = get_tokens(server, clients, keys, EACH)
            plain = make_plain(server, tokens)
            run_load(server, lines, plain, ACTIVE, mutual, f"mTLS, run {number + 1}", sign=False)
        for _ in range(OTHER_RUNS):
            tokens = get_tokens(server, clients, keys, EACH)
            proved = make_asserted(server, keys[0], tokens)
            run_load(server, clients, proved, ACTIVE, asserted, "assertions", sign=False)
            tokens = get_tokens(server, clients, keys, EACH)
            wanted = make_plain(server, tokens, f"accept: {MEDIA_TYPE}")
            run_load(server, lines, wanted, b"eyJ", signed, "signed", sign=False)
        for line in (*lines, *clients):
            line.close()
    print_rates(
        "introspect",
        mutual.rates,
        mutual.references,
        least=RATIO,
        reference_is="one P-256 verification by the library, on one core",
        asked_by="the resource's server, by tls_client_auth on kept-alive connections",
        tokens=RUNS * CONNECTIONS * EACH,
        identities=IDENTITIES,
        connections=CONNECTIONS,
        **mutual.describe_times(),
        private_key_jwt=asserted.describe(),
        signed=signed.describe(),
    )


def get_tokens(
    server: Installation, clients: list[Line], keys: list[Key], each: int
) -> list[list[str]]:
    """Fresh tokens of distinct identities, `each` for every connection."""
    batches = [
        [
            ask_token(server.public, make_assertion(keys[which], name_client(which), server.public))
            for number in range(each)
            for which in [(connection + number * CONNECTIONS) % IDENTITIES]
        ]
        for connection in range(CONNECTIONS)
    ]
    answers: list[bytes] = []
    ask_all(clients, batches, b"access_token", answers=answers)
    tokens = [json.loads(answer)["access_token"] for answer in answers]
    say(f"{len(tokens)} fresh tokens")
    return [tokens[n * each : (n + 1) * each] for n in range(CONNECTIONS)]


def make_plain(server: Installation, tokens: list[list[str]], *headers: str) -> Batches:
    """Questions of who is known by its certificate."""
    return [
        [post_form(server.mutual, PATH, {"token": token}, *headers) for token in mine]
        for mine in tokens
    ]


def make_asserted(server: Installation, key: Key, tokens: list[list[str]]) -> Batches:
    """Questions with a fresh assertion each."""
    return [
        [
            post_form(
                server.public,
                PATH,
                {"token": token, **make_assertion(key, name_client(0), server.public)},
            )
            for token in mine
        ]
        for mine in tokens
    ]


if __name__ == "__main__":
    main()
