"""An OAuth client for a command: it proves itself with the SVID that the agent gives the caller."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import typer

from troth.cli.terminal import Terminal
from troth.core.clock import Clock
from troth.core.errors import Invalid
from troth.sdk.client import OAuthClient
from troth.sdk.credential import Credential, Holder, JwtCredential, X509Credential
from troth.sdk.exchange import check_https
from troth.sdk.issuer import Issuer
from troth.sdk.tls import Pair
from troth.sdk.workload import FetchedSvid, NoIdentity, WorkloadApi, X509Update
from troth.wire.api import status

MOST_SHOWN = 10


@dataclass(frozen=True, slots=True)
class HeldSvid:
    """One X.509-SVID as it was fetched."""

    spiffe_id: str
    pair: Pair | None


class OwnClient(OAuthClient):
    """A client that knows which identity it asks as."""

    def __init__(
        self, issuer: Issuer, credential: Credential, *, clock: Clock, spiffe_id: str
    ) -> None:
        super().__init__(issuer, credential, clock=clock)
        self.spiffe_id = spiffe_id


def open_client(terminal: Terminal, spiffe_id: str, *, jwt: bool) -> OwnClient:
    """A client of the server that the options name, with the caller's own identity."""
    url = find_issuer(terminal)
    api = WorkloadApi(terminal.options.workload_socket)
    held = hold(choose_svid(api.fetch_x509(), spiffe_id))
    return make_client(terminal, url, api, held, jwt=jwt)


def make_client(
    terminal: Terminal, url: str, api: WorkloadApi, held: Holder, *, jwt: bool
) -> OwnClient:
    """A client of the issuer `url` that proves itself by `held`, or with `jwt` by a JWT-SVID."""
    ca = terminal.options.ca_file
    issuer = Issuer(url, held if ca is None else ca, clock=terminal.clock)
    credential: Credential = JwtCredential(api, held.spiffe_id) if jwt else X509Credential(held)
    return OwnClient(issuer, credential, clock=terminal.clock, spiffe_id=held.spiffe_id)


def find_issuer(terminal: Terminal) -> str:
    """The issuer: --url or TROTH_URL, else the local server's origin. Wrong usage is neither."""
    url = terminal.options.url
    if not url and terminal.options.admin_socket.is_socket():
        url = terminal.call("status.show", status.GetStatus()).origin
    try:
        check_https(url)
    except Invalid as error:
        raise typer.BadParameter(
            "which server issues the tokens? Name its public https URL.", param_hint="--url"
        ) from error
    return f"https://{urlsplit(url).netloc}{urlsplit(url).path.rstrip('/')}"


def choose_svid(update: X509Update, spiffe_id: str) -> FetchedSvid:
    """The SVID of that name, or the first; raises `NoIdentity` if it isn't there."""
    for svid in update.svids:
        if spiffe_id in ("", svid.spiffe_id):
            return svid
    detail = f"The agent gives this process no certificate for {spiffe_id or 'anyone'}"
    if not update.svids:
        raise NoIdentity(f"{detail}; `troth doctor` tells why.")
    there = [svid.spiffe_id for svid in update.svids]
    more = f" and {len(there) - MOST_SHOWN} more" if len(there) > MOST_SHOWN else ""
    raise NoIdentity(f"{detail}; it may be {', '.join(there[:MOST_SHOWN])}{more}.")


def hold(svid: FetchedSvid) -> HeldSvid:
    """The SVID as a credential takes it."""
    return HeldSvid(svid.spiffe_id, Pair(svid.key, svid.chain, svid.bundle))
