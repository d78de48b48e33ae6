"""A transaction token over the wire, with the setting in a file, checked by our SDK."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import requests
from requests_oauth2client import OAuth2Client, PrivateKeyJwt

from tests.e2e.processes import Server
from tests.e2e.test_oauth import CLIENT_ID, KEY, KID, private_jwk
from tests.fakes.clients import LEDGER, LEDGER_MANIFESTS, render_identity
from troth.operations.exchange import ACCESS_TOKEN
from troth.sdk.errors import InvalidToken
from troth.sdk.issuer import Issuer
from troth.sdk.txntoken import TxnTokenValidator, find_token
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.oauth.metadata import TOKEN_EXCHANGE
from troth.wire.oauth.transaction import TXN_TOKEN

pytestmark = [pytest.mark.e2e, pytest.mark.interop]


@pytest.fixture(scope="module")
def settings() -> str:
    return "[oauth]\ndraft_transaction_tokens = true\n"


def test_one_is_asked_for_and_the_sdk_reads_it(troth: Server) -> None:
    documents = [*LEDGER_MANIFESTS, render_identity("billing", KEY, roles=["clerk"])]
    listed = [ManifestDocument(value=one) for one in documents]
    troth.call("manifest.apply", SubmitManifests(documents=listed))
    session = requests.Session()
    session.trust_env = False
    session.verify = str(troth.data / "ca.pem")
    client = OAuth2Client(
        token_endpoint=f"{troth.url}/oauth/token",
        auth=PrivateKeyJwt(CLIENT_ID, private_jwk() | {"alg": "ES256", "kid": KID}),
        session=session,
    )
    access = client.client_credentials(resource=LEDGER)
    wanted: dict[str, Any] = {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token": str(access.access_token),
        "subject_token_type": ACCESS_TOKEN,
        "requested_token_type": TXN_TOKEN,
        "audience": "troth.local",
        "scope": "read",
        "request_context": '{"req_ip": "69.151.72.123"}',
        "request_details": '{"invoice": 7}',
    }
    # Without the library's own method, which takes no token_type but those of access tokens.
    told = session.post(client.token_endpoint, data=wanted, auth=client.auth)
    answer = told.json()
    assert (told.status_code, told.headers["cache-control"]) == (200, "no-store")
    assert (answer["token_type"], answer["issued_token_type"]) == ("N_A", TXN_TOKEN)
    assert "refresh_token" not in answer
    context = ssl.create_default_context(cafile=str(troth.data / "ca.pem"))
    validator = TxnTokenValidator(Issuer(troth.url, context), "troth.local", None)
    found = validator.check(find_token([answer["access_token"]]))
    assert (found.subject, found.workloads) == (CLIENT_ID, (CLIENT_ID,))
    assert (found.resource, list(found.scopes)) == (LEDGER, ["read"])
    assert (found.rctx, found.tctx) == ({"req_ip": "69.151.72.123"}, {"invoice": 7})
    with pytest.raises(InvalidToken, match="no transaction token"):
        validator.check(str(access.access_token))
