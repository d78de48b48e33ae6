"""Debian's rsyslogd, unprivileged and on a port of its own, that writes down what it receives."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fakes.authority import Authority
from tests.fakes.receiver import Receiver

PROGRAM = shutil.which("rsyslogd") or "/usr/sbin/rsyslogd"
_CONFIG = """\
global(
  workDirectory="{folder}" maxMessageSize="64k"
  defaultNetstreamDriverCAFile="{ca}"
  defaultNetstreamDriverCertFile="{certificate}"
  defaultNetstreamDriverKeyFile="{key}")
main_queue(queue.type="Direct")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="{auth}")
template(name="raw" type="string" string="%rawmsg%\\n")
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="in")
ruleset(name="in" queue.type="Direct") {{
  action(type="omfile" file="{folder}/received" template="raw")
}}
"""


class Rsyslog(Receiver):
    """One receiver. It keeps its port and what it has received over stops and kills.

    Its queues are direct: what it has read, it writes at once.
    """

    def __init__(self, folder: Path, authority: Authority, *, mutual: bool = False) -> None:
        if not Path(PROGRAM).exists() or not list(Path("/usr/lib").glob("*/rsyslog/lmnsd_gtls.so")):
            pytest.skip("Debian's packages rsyslog and rsyslog-gnutls are not installed")
        super().__init__(folder)
        certificate, key = authority.issue("rsyslog")
        (folder / "rsyslog.conf").write_text(
            _CONFIG.format(
                folder=folder,
                ca=authority.file,
                certificate=certificate,
                key=key,
                port=self.port,
                auth="x509/certvalid" if mutual else "anon",
            )
        )

    @property
    def command(self) -> Sequence[str | Path]:
        return [
            PROGRAM,
            "-n",
            *("-f", self._folder / "rsyslog.conf"),
            *("-i", self._folder / "pid"),
        ]

    @property
    def url(self) -> str:
        return f"tls://localhost:{self.port}"

    def list_lines(self) -> list[bytes]:
        """The messages that it wrote down, whole ones alone."""
        path = self._folder / "received"
        data = path.read_bytes() if path.exists() else b""
        return data[: data.rfind(b"\n") + 1].splitlines()
