"""`troth run`: a program with fresh credentials, which are taken back when it ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.folder import BUNDLE, CRL, KEY, SVID, TOKEN, CredentialFolder
from troth.cli.launch import NOT_EXECUTABLE, NOT_FOUND, hold_signals, run_program
from troth.cli.oauth import choose_svid, find_issuer, make_client
from troth.cli.terminal import Terminal
from troth.cli.words import clean_text
from troth.core.errors import TrothError
from troth.sdk.client import AccessToken, OAuthClient
from troth.sdk.svid import SvidFollower
from troth.sdk.tokens import TokenSource
from troth.sdk.workload import NoIdentity, WorkloadApi, X509Update

app = make_app("Start programs with fresh credentials.")

READY_SECONDS = 30.0
LOOK_SECONDS = 1.0
"""How often it is looked whether the token is a new one."""


@command(
    app,
    "run",
    local=True,
    example="troth run -- ./billing --port 8080\n"
    "troth run --resource https://ledger.example.org -- sh -c 'curl --cert $TROTH_SVID_FILE …'",
)
def run(
    terminal: Terminal,
    words: Annotated[
        list[str],
        typer.Argument(
            help="The program and its arguments, after --.", metavar="-- CMD…", show_default=False
        ),
    ],
    resource: Annotated[
        str, typer.Option(help="Keep an access token for this API fresh too.", metavar="URI")
    ] = "",
    scope: Annotated[
        list[str] | None, typer.Option(help="An action of the token; again for more.")
    ] = None,
    spiffe_id: Annotated[str, typer.Option(help="Only this one of your identities.")] = "",
    jwt: Annotated[
        bool, typer.Option("--jwt", help="A token that isn't bound to the certificate.")
    ] = False,
) -> None:
    """Start a program with an X.509-SVID, its key and the roots in files that stay fresh.

    Variables say where they are. Signals are passed on, the exit code is the program's, and when it
    ends the files are removed and the token is revoked.
    """
    endpoint = terminal.options.workload_socket
    api = WorkloadApi(endpoint)
    choose_svid(api.fetch_x509(), spiffe_id)  # what can't work is told before signals are held
    with hold_signals() as held:
        follower = SvidFollower(endpoint, spiffe_id=spiffe_id)
        with _keep_files(terminal, follower) as folder:
            client = None
            if resource:
                url = find_issuer(terminal)
                client = make_client(terminal, url, api, follower, jwt=jwt)
            with _keep_token(terminal, client, folder, resource, tuple(scope or ())):
                files = folder.describe(follower.spiffe_id, with_token=bool(resource))
                environ = {**os.environ, "SPIFFE_ENDPOINT_SOCKET": endpoint, **files}
                try:
                    code = run_program(words, environ, held)
                except OSError as error:
                    terminal.say(f"error: Can't start {clean_text(words[0])}: {error.strerror}.")
                    missing = isinstance(error, FileNotFoundError)
                    code = NOT_FOUND if missing else NOT_EXECUTABLE
    raise typer.Exit(code)


@contextmanager
def _keep_files(terminal: Terminal, follower: SvidFollower) -> Iterator[CredentialFolder]:
    """A folder with the identity that `follower` follows; it is gone afterwards."""
    folder = CredentialFolder()

    def take(news: X509Update | TrothError) -> None:
        if isinstance(news, X509Update):
            folder.write_svid(follower.choose(news), news.crls)
        elif isinstance(news, NoIdentity):
            folder.remove(SVID, KEY, BUNDLE, CRL, TOKEN)
            terminal.say(f"The credentials were taken back. {clean_text(news.detail)}")

    follower.on_change(take)
    try:
        with follower:
            follower.wait_ready(READY_SECONDS)
            yield folder
    finally:
        folder.close()


@contextmanager
def _keep_token(
    terminal: Terminal,
    client: OAuthClient | None,
    folder: CredentialFolder,
    resource: str,
    scopes: tuple[str, ...],
) -> Iterator[None]:
    """A token for `resource` in `folder`, always a good one; the last one is revoked."""
    if client is None:
        yield
        return
    source = TokenSource(client, clock=terminal.clock)
    keeper = _TokenKeeper(terminal, source, folder, resource, scopes)
    keeper.write(source.fetch(resource, scopes))
    thread = threading.Thread(target=keeper.run, name="troth-token-file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        keeper.stop.set()
        thread.join(LOOK_SECONDS)
        folder.remove(TOKEN)
        _give_back(terminal, client, keeper.token)


class _TokenKeeper:
    """Writes each new token, and takes away one that has ended."""

    def __init__(
        self,
        terminal: Terminal,
        source: TokenSource,
        folder: CredentialFolder,
        resource: str,
        scopes: tuple[str, ...],
    ) -> None:
        self._terminal = terminal
        self._source = source
        self._folder = folder
        self._resource = resource
        self._scopes = scopes
        self._told = ""
        self.token: AccessToken | None = None
        self.stop = threading.Event()

    def run(self) -> None:
        """Look now and then, until `stop` is set."""
        while not self.stop.wait(LOOK_SECONDS):
            try:
                token = self._source.fetch(self._resource, self._scopes)
            except TrothError as error:
                self._complain(error)
            else:
                self._told = ""
                if token is not self.token and not self.stop.is_set():
                    self.write(token)

    def write(self, token: AccessToken) -> None:
        """Put it into the file."""
        self._folder.write_token(token.text)
        self.token = token

    def _complain(self, error: TrothError) -> None:
        if error.detail != self._told:
            self._terminal.say(f"No fresh access token: {clean_text(error.detail)}")
            self._told = error.detail
        if self.token is not None and self._terminal.clock.monotonic() >= self.token.ends:
            self._folder.remove(TOKEN)


def _give_back(terminal: Terminal, client: OAuthClient, token: AccessToken | None) -> None:
    """Revoke the token, if the issuer takes revocations; it ends soon in any case."""
    if token is None:
        return
    try:
        if "revocation_endpoint" in client.issuer.read_metadata():
            client.revoke(token.text)
    except TrothError as error:
        terminal.say(f"The access token wasn't revoked: {clean_text(error.detail)}")
