"""Fresh credentials as files in a private folder, for a program that reads files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from troth.cli.secrets import replace_file
from troth.sdk.workload import FetchedSvid
from troth.wire.pem import render_pem, render_pem_certificates, render_pem_crls

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own in it, which only we can open

SVID, KEY, BUNDLE, CRL, TOKEN = "svid.pem", "svid.key", "bundle.pem", "crl.pem", "token"

VARIABLES: Mapping[str, str] = {
    "TROTH_SVID_FILE": SVID,
    "TROTH_SVID_KEY_FILE": KEY,
    "TROTH_BUNDLE_FILE": BUNDLE,
    "TROTH_TOKEN_FILE": TOKEN,
}
"""The variables that tell a program where its credentials are."""
SPIFFE_ID_VARIABLE = "TROTH_SPIFFE_ID"


class CredentialFolder:
    """A folder that only this user can open, in memory where that is possible.

    ``svid.pem`` holds the chain and the key, so that both change in one step; ``svid.key`` the key
    alone, for programs that want it in a file of its own.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="troth-run-", dir=_choose_parent()))
        self._ended = False

    def write_svid(self, svid: FetchedSvid, crls: tuple[bytes, ...]) -> None:
        """Put an identity there, in place of the one before."""
        if self._ended:
            return
        key = render_pem("PRIVATE KEY", svid.key)
        self._write(SVID, render_pem_certificates(svid.chain) + key)
        self._write(KEY, key)
        self._write(BUNDLE, render_pem_certificates(svid.bundle))
        self._write(CRL, render_pem_crls(crls))

    def write_token(self, text: str) -> None:
        """Put an access token there."""
        if not self._ended:
            self._write(TOKEN, text.encode("ascii"))

    def remove(self, *names: str) -> None:
        """Take back what is good no more."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def describe(self, spiffe_id: str, *, with_token: bool) -> dict[str, str]:
        """The variables for a program."""
        files = {
            variable: str(self.path / name)
            for variable, name in VARIABLES.items()
            if with_token or name != TOKEN
        }
        return {SPIFFE_ID_VARIABLE: spiffe_id, **files}

    def close(self) -> None:
        """Take everything back."""
        self._ended = True
        shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, name: str, content: bytes) -> None:
        replace_file(self.path / name, content)


def _choose_parent() -> Path | None:
    """Where nothing reaches a disk; None for the usual place of temporary files."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    for folder in (Path(named) if named else None, SHARED_MEMORY):
        if folder is not None and folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None
