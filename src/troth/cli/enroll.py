"""`troth enroll`: the device's own command, which also runs without the rest of troth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.terminal import Terminal

app = make_app("Enrol this device, without an agent.")

OutOption = Annotated[
    Path | None, typer.Option(help="Where key, certificate and roots go (required).")
]
ServerOption = Annotated[
    str, typer.Option(help="The server's public URL; --url is the same.", metavar="URL")
]
MtlsOption = Annotated[str, typer.Option(help="Its mutual-TLS URL; one port above.", metavar="URL")]
CaOption = Annotated[Path | None, typer.Option(help="The server's ca.pem.", metavar="FILE")]
PinOption = Annotated[
    str, typer.Option(help="Or the SHA-256 of its root certificate.", metavar="HEX")
]
CodeOption = Annotated[
    str, typer.Option(help="The enrolment code; - for standard input.", metavar="FILE")
]
PairOption = Annotated[
    tuple[Path, Path] | None,
    typer.Option(help="Or the maker's certificate and key (PEM).", metavar="CERT KEY"),
]
RenewOption = Annotated[bool, typer.Option("--renew", help="Renew once, now.")]
KeepOption = Annotated[bool, typer.Option("--keep", help="Stay, and renew at half life.")]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Enrol though the certificate is still good.")
]
KeepKeyOption = Annotated[
    bool, typer.Option("--keep-key", help="Renew for the same key instead of a new one.")
]
HookOption = Annotated[
    str, typer.Option(help="Run after each change, without a shell.", metavar="COMMAND")
]
PatienceOption = Annotated[
    float, typer.Option(help="How long to try when the server is away.", metavar="SECONDS")
]


@command(
    app,
    "enroll",
    local=True,
    example="troth enroll --server https://troth:8443 --ca ca.pem --code-file code --out DIR\n"
    "troth enroll --out DIR --keep --hook 'systemctl reload nginx'",
)
def enroll(
    terminal: Terminal,
    out: OutOption = None,
    server: ServerOption = "",
    mtls_url: MtlsOption = "",
    ca: CaOption = None,
    ca_sha256: PinOption = "",
    code_file: CodeOption = "",
    x509pop: PairOption = None,
    renew: RenewOption = False,
    keep: KeepOption = False,
    again: AgainOption = False,
    keep_key: KeepKeyOption = False,
    hook: HookOption = "",
    patience: PatienceOption = 60.0,
) -> None:
    """Enrol this device with a one-time code, and keep its certificate fresh by itself.

    It does the same as `python -m troth.enroll`, which needs only Python and `cryptography`.
    """
    from troth.enroll.main import run

    given: dict[str, object] = {
        "--out": out,
        "--server": server or terminal.options.server_url,
        "--mtls-url": mtls_url,
        "--ca": ca or terminal.options.ca_file,
        "--ca-sha256": ca_sha256,
        "--code-file": code_file,
        "--hook": hook,
        "--patience": patience,
    }
    arguments = [f"{name}={value}" for name, value in given.items() if value not in ("", None)]
    arguments += ["--x509pop", *map(str, x509pop)] if x509pop else []
    flags = {"--renew": renew, "--keep": keep, "--again": again, "--keep-key": keep_key}
    arguments += [name for name, wanted in flags.items() if wanted]
    arguments += ["--json"] if terminal.json else []
    raise typer.Exit(run(arguments, sys.stdout, sys.stderr))
