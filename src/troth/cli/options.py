"""Where the server is and how to speak to it: options before environment before defaults."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import typer

from troth.core.errors import Denied, Invalid
from troth.wire.api.client import ApiClient, Unreachable, check_url

ADMIN_SOCKET = "admin.sock"
AGENT_SOCKET = "agent.sock"
CA_FILE = "ca.pem"
SYSTEM_DATA = Path("/var/lib/troth")
PERSONAL_DATA = Path("~/.local/share/troth")
PROBE_SECONDS = 2.0


class NoAccess(Denied):
    """The socket is there, and this user may not open it."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options that every command takes; None and "" mean "not given"."""

    json: bool = False
    data_dir: Path | None = None
    server_url: str | None = None
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def override(self, json: bool, data: Path | None, url: str | None) -> Options:
        """These options with what stands after the command's name put on top."""
        return replace(
            self,
            json=self.json or json,
            data_dir=data or self.data_dir,
            server_url=url if url is not None else self.server_url,
        )

    @property
    def data(self) -> Path:
        """The data directory: --data, TROTH_DATA, or the server's default for this user."""
        return self.data_dir or find_data_dir()

    @property
    def url(self) -> str:
        """The server's https URL, or "" for the admin socket in the data directory."""
        return os.environ.get("TROTH_URL", "") if self.server_url is None else self.server_url

    @property
    def admin_socket(self) -> Path:
        """Where a local server takes its administrator's calls."""
        return self.data / ADMIN_SOCKET

    @property
    def workload_socket(self) -> str:
        """The Workload API's address: SPIFFE_ENDPOINT_SOCKET, or the one in the data directory.

        A data directory that was named on the command line beats the environment.
        """
        if self.data_dir is None and (address := os.environ.get("SPIFFE_ENDPOINT_SOCKET", "")):
            return address
        return f"unix://{self.data.absolute() / AGENT_SOCKET}"

    @property
    def uses_socket(self) -> bool:
        """Whether calls go to the admin socket: no URL, or one that only repeats who is meant.

        `troth up` prints TROTH_URL and TROTH_DATA together. Over TLS a caller without a
        certificate is nobody, on the admin socket its uid is known; so the socket is used if the
        URL names this machine and the data directory was chosen, not assumed.
        """
        if not self.url:
            return True
        chosen = self.data_dir is not None or "TROTH_DATA" in os.environ
        if self.server_url is not None or self.certificate is not None or not chosen:
            return False
        host = urlsplit(self.url).hostname
        local = ("localhost", "127.0.0.1", "::1", socket.gethostname())
        return host in local and self.admin_socket.is_socket()

    def connect(self) -> ApiClient:
        """A client of the server.

        Wrong usage is a URL that can't be a server's, and options that can't work together.
        Raises `Invalid` for files that can't be used, `Unreachable` or `Denied` for such a socket.
        """
        if self.uses_socket:
            _probe_socket(self.admin_socket)
            return ApiClient.over_socket(str(self.admin_socket))
        if (self.certificate is None) != (self.key is None):
            raise typer.BadParameter("--cert and --key belong together: give both or neither.")
        try:
            check_url(self.url)
        except Invalid as error:
            source = "TROTH_URL" if self.server_url is None else "--url"
            raise typer.BadParameter(error.detail, param_hint=source) from error
        pair = (str(self.certificate), str(self.key)) if self.certificate else None
        return ApiClient.over_https(self.url, str(self.ca_file or self.data / CA_FILE), pair)


def find_data_dir() -> Path:
    """TROTH_DATA, or where the server keeps its data by default: it depends on who asks."""
    if chosen := os.environ.get("TROTH_DATA", ""):
        return Path(chosen)
    return SYSTEM_DATA if os.geteuid() == 0 else PERSONAL_DATA.expanduser()


def _probe_socket(path: Path) -> None:
    """Knock once, since only here can the reasons be told apart."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except PermissionError as error:
            raise NoAccess(
                f"You may not open {path}. Run this as the server's user or as root, or reach the "
                "server over the network with --url, --cert and --key."
            ) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unreachable(f"No server answers at {path}: {reason}.") from error
