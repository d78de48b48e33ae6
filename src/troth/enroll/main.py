"""The command: arguments in, files out, and an exit code that tells a script what happened.

0 done, 1 refused or found wanting, 2 wrong usage, 3 server unreachable.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NoReturn

from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy
from troth.core.errors import Invalid, Refused, TrothError
from troth.enroll.device import MAX_CODE, CodeFile, Device, Manufactured, Proof, Settings
from troth.enroll.folder import CURRENT, Enrolment, Folder
from troth.enroll.keeper import Keeper, Patience
from troth.enroll.server import Unreachable, check_url

DONE, WANTING, WRONG_USAGE, UNREACHABLE = 0, 1, 2, 3
HOOK_SECONDS = 60
EXAMPLE = """\
Example:
  troth enroll --server https://troth:8443 --ca ca.pem --code-file code --out /etc/device
  troth enroll --out /etc/device --keep --hook 'systemctl reload nginx'
"""


class WrongUsage(Exception):
    """Arguments that don't fit together; `str` says why."""


class Parser(argparse.ArgumentParser):
    """As argparse's, but wrong usage is an exception, so that JSON can be told of it."""

    def error(self, message: str) -> NoReturn:
        """Raise `WrongUsage`."""
        raise WrongUsage(message)


def make_parser() -> Parser:
    """The options. None of them takes a secret: every user could read it in the process list."""
    parser = Parser(
        prog="troth enroll",
        description="Enrol this device and keep its certificate fresh, without an agent.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="Where key, certificate and roots go (required).")
    add("--server", default="", metavar="URL", help="The server's public URL.")
    add("--mtls-url", default="", metavar="URL", help="Its mutual-TLS URL; one port above.")
    add("--ca", type=Path, metavar="FILE", help="The server's ca.pem.")
    add("--ca-sha256", default="", metavar="HEX", help="Or the SHA-256 of its root certificate.")
    add("--code-file", metavar="FILE", help="The enrolment code; - for standard input.")
    add("--x509pop", nargs=2, type=Path, metavar=("CERT", "KEY"), help="Or the maker's pair (PEM).")
    add("--renew", action="store_true", help="Renew once, now.")
    add("--keep", action="store_true", help="Stay, and renew at half life.")
    add("--again", action="store_true", help="Enrol though the certificate is still good.")
    add("--keep-key", action="store_true", help="Renew for the same key instead of a new one.")
    add("--hook", default="", metavar="COMMAND", help="Run after each change, without a shell.")
    add("--patience", type=float, default=60.0, metavar="SECONDS", help="For a server away: 60.")
    add("--json", action="store_true", help="Print JSON alone on standard output.")
    return parser


class Output:
    """Results on standard output, messages on standard error."""

    def __init__(self, as_json: bool, out: IO[str], messages: IO[str]) -> None:
        self._json = as_json
        self._out = out
        self._messages = messages

    def say(self, message: str) -> None:
        """A sentence for people."""
        print(_clean(message), file=self._messages, flush=True)

    def show(self, folder: Folder, enrolment: Enrolment, *, line: bool = False) -> None:
        """What the device is now: one document, or with `line` one of many."""
        value = {**asdict(enrolment), "directory": str(folder.path / CURRENT)}
        if self._json:
            print(json.dumps(value, indent=None if line else 2), file=self._out, flush=True)
        else:
            ends = f"until {enrolment.not_after}"
            print(f"{_clean(enrolment.spiffe_id)} {ends}", file=self._out, flush=True)

    def fail(self, code: str, detail: str, *, retryable: bool = False) -> None:
        """The error, as a document where JSON was asked for."""
        if self._json:
            document = {"code": code, "detail": detail, "retryable": retryable}
            print(json.dumps(document), file=self._out, flush=True)
        self.say(f"error: {detail}")


def _clean(text: str) -> str:
    """`text` without characters that a terminal would obey: it may come from a server."""
    return "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text)


def run(arguments: Sequence[str], out: IO[str], messages: IO[str]) -> int:
    """Carry the command out; its exit code."""
    output = Output("--json" in arguments, out, messages)
    try:
        chosen = make_parser().parse_args(list(arguments))
        _check_usage(chosen)
        return _work(chosen, output)
    except WrongUsage as error:
        output.fail("invalid_usage", str(error))
        return WRONG_USAGE
    except TrothError as error:
        output.fail(error.code, error.detail, retryable=error.retryable)
        return UNREACHABLE if isinstance(error, Unreachable) else WANTING
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        output.fail("failed_precondition", f"Can't use{place}: {error.strerror or error}.")
        return WANTING


def _check_usage(chosen: argparse.Namespace) -> None:
    if chosen.out is None:
        raise WrongUsage("--out is missing: in which directory are key and certificate to be?")
    if chosen.ca is not None and chosen.ca_sha256:
        raise WrongUsage("--ca and --ca-sha256 say the same thing; give one.")
    if chosen.code_file is not None and chosen.x509pop:
        raise WrongUsage("--code-file and --x509pop are two ways to prove the same; give one.")
    if chosen.renew and (chosen.keep or chosen.again):
        raise WrongUsage("--renew is for one time; it goes with neither --keep nor --again.")
    if chosen.patience < 0:
        raise WrongUsage("--patience is a number of seconds.")
    try:
        shlex.split(chosen.hook)
        for url in filter(None, (chosen.server, chosen.mtls_url)):
            check_url(url)
    except (Invalid, ValueError) as error:
        raise WrongUsage(str(error)) from error


def _work(chosen: argparse.Namespace, output: Output) -> int:
    clock = SystemClock()
    patience = Patience(clock, SystemEntropy(), time.sleep, output.say)
    folder = Folder(chosen.out.absolute())
    settings = Settings(
        chosen.server, chosen.mtls_url, chosen.ca, chosen.ca_sha256, chosen.keep_key
    )
    device = Device(folder, settings, _choose_proof(chosen, output), clock)
    with folder.hold():
        present = folder.load()
        lives = present is not None and clock.now() < present.end
        if chosen.keep:
            return _keep(chosen, device, patience, output, lives and not chosen.again)
        if present is not None and lives and not (chosen.renew or chosen.again):
            output.say("It is enrolled already: --renew renews it, --again enrols it anew.")
            output.show(folder, present)
            return DONE
        work = device.renew if chosen.renew else device.enroll
        made = patience.attempt(work, chosen.patience)
        output.show(folder, made)
        _run_hook(chosen.hook)
    return DONE


def _keep(
    chosen: argparse.Namespace, device: Device, patience: Patience, output: Output, lives: bool
) -> int:
    def changed(enrolment: Enrolment) -> None:
        output.show(device.folder, enrolment, line=True)
        try:
            _run_hook(chosen.hook)
        except (TrothError, OSError) as error:  # the certificate is there all the same
            output.say(str(error))

    def stop(*_: Any) -> NoReturn:
        raise SystemExit(DONE)

    signal.signal(signal.SIGTERM, stop)
    if not lives:
        # Who starts it for the first time wants to be told of a mistake, not to see it wait.
        changed(patience.attempt(device.enroll, float("inf")))
    Keeper(device, patience, changed).run()
    raise AssertionError("keeping never ends by itself")


def _choose_proof(chosen: argparse.Namespace, output: Output) -> Proof | None:
    if chosen.x509pop:
        certificate, key = chosen.x509pop
        return Manufactured(certificate, key, SystemClock())
    if chosen.code_file is None:
        return None
    if chosen.code_file == "-":
        return CodeFile(code=sys.stdin.read(MAX_CODE + 1))
    path = Path(chosen.code_file).absolute()
    if path.exists() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        output.say(f"Others may read {path}: chmod 600 {path}")
    return CodeFile(path)


def _run_hook(command: str) -> None:
    """Run the hook to its end; `Refused` if it fails."""
    words = shlex.split(command)
    if not words:
        return
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__,  # our own output holds results alone
            timeout=HOOK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"The hook {words[0]!r} took longer than {HOOK_SECONDS} s.") from None
    if done.returncode:
        raise Refused(f"The hook {words[0]!r} ended with {done.returncode}; the files are there.")


def main() -> NoReturn:
    """Run the command line; the process ends with 0, 1, 2 or 3."""
    try:
        code = run(sys.argv[1:], sys.stdout, sys.stderr)
    except KeyboardInterrupt:
        code = DONE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = WANTING
    raise SystemExit(code)
