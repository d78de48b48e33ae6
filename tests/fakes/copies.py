"""Running copies of clients: each proves itself by an SVID of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.fakes.clients import LEDGER, ORIGIN
from tests.fakes.house import FakeHouse
from troth.operations.admission import name_instance
from troth.operations.call import ANONYMOUS, Caller
from troth.operations.exchange import ACCESS_TOKEN
from troth.operations.svidclient import JWT_SPIFFE_ASSERTION
from troth.wire.api.certificates import InstanceClaim
from troth.wire.api.jwt_svids import IssueJwtSvids, JwtSvidRequest
from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import CLIENT_CREDENTIALS, TOKEN_EXCHANGE
from troth.wire.oauth.request import OAuthRequest


@dataclass
class Copy:
    """One process of an identity on a node, with the JWT-SVID or the certificate it holds."""

    house: FakeHouse
    node: Caller
    identity: Any
    number: int
    svid: str = ""
    certificate: bytes | None = field(default=None, repr=False)

    @property
    def claim(self) -> InstanceClaim:
        key = f"{self.number:032x}"
        return InstanceClaim(key=key, pid=self.number, selectors=["unix:uid:1001"])

    @property
    def id(self) -> str:
        assert self.node.node_id is not None
        return name_instance(self.node.node_id, self.identity.id, self.claim.key)

    async def fetch_svid(self, audience: str = ORIGIN) -> str:
        """A fresh JWT-SVID; raises nothing: "" if it gets none. One for the issuer it keeps."""
        request = JwtSvidRequest(
            identity_id=self.identity.id, instance=self.claim, audiences=[audience]
        )
        body = IssueJwtSvids(requests=[request])
        (issued,) = (await self.house.call("jwtsvid.issue", body, self.node)).results
        if audience == ORIGIN:
            self.svid = issued.token
        token: str = issued.token
        return token

    async def fetch_certificate(self) -> bytes:
        """A fresh X.509-SVID."""
        claim = self.claim
        (issued,) = await self.house.issue(
            self.node, self.identity.id, key=claim.key, pid=claim.pid
        )
        der: bytes = issued.chain[0]
        self.certificate = der
        return der

    def ask(self, **fields: str | None) -> OAuthRequest:
        """A request with the certificate, if it has one, else with the JWT-SVID."""
        values: dict[str, str | None] = {
            "grant_type": CLIENT_CREDENTIALS,
            "resource": LEDGER,
            **fields,
        }
        if self.certificate is None:
            values |= {
                "client_assertion_type": JWT_SPIFFE_ASSERTION,
                "client_assertion": self.svid,
            }
        form = Form({name: (value,) for name, value in values.items() if value})
        return OAuthRequest(form, self.certificate)

    async def request(self, house: FakeHouse | None = None, **fields: str | None) -> str:
        """An access token, from another server of the same database if one is named."""
        where = house or self.house
        answer = await where.call("token.request", self.ask(**fields), ANONYMOUS)
        text: str = answer.access_token
        return text

    async def exchange(
        self, token: str, house: FakeHouse | None = None, **fields: str | None
    ) -> str:
        """What it gets in exchange for `token`."""
        values: dict[str, str | None] = {
            "grant_type": TOKEN_EXCHANGE,
            "resource": None,
            "subject_token": token,
            "subject_token_type": ACCESS_TOKEN,
        }
        asked = self.ask(**(values | fields))
        answer = await (house or self.house).call("token.exchange", asked, ANONYMOUS)
        text: str = answer.access_token
        return text


async def start_copy(house: FakeHouse, node: Caller, name: str, number: int) -> Copy:
    """A running copy of the identity of that name, with a JWT-SVID."""
    identity = await house.parts.store.read(lambda tx: tx.identities.get_named(name))
    copy = Copy(house, node, identity, number)
    await house.settle()
    assert await copy.fetch_svid()
    return copy
