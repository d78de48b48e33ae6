"""Debian's rsyslogd, unprivileged and on a port of its own, that writes down what it receives."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.fakes.authority import Authority

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


class Rsyslog:
    """One receiver. It keeps its port and what it has received over stops and kills.

    Its queues are direct: what it has read, it writes at once.
    """

    def __init__(self, folder: Path, authority: Authority, *, mutual: bool = False) -> None:
        if not Path(PROGRAM).exists() or not list(Path("/usr/lib").glob("*/rsyslog/lmnsd_gtls.so")):
            pytest.skip("Debian's packages rsyslog and rsyslog-gnutls are not installed")
        folder.mkdir()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        certificate, key = authority.issue("rsyslog")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
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
    def url(self) -> str:
        return f"tls://localhost:{self.port}"

    def start(self) -> None:
        """Run it until it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    PROGRAM,
                    "-n",
                    *("-f", str(self._folder / "rsyslog.conf")),
                    *("-i", str(self._folder / "pid")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 20
        while True:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < end, "rsyslogd doesn't listen"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; SIGKILL for a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None

    def list_lines(self) -> list[bytes]:
        """The messages that it wrote down, whole ones alone."""
        path = self._folder / "received"
        data = path.read_bytes() if path.exists() else b""
        return data[: data.rfind(b"\n") + 1].splitlines()

    def pause(self) -> None:
        """Let it hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it work again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
