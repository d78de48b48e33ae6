"""`troth witness`: a server that cosigns checkpoints of other people's logs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.logs import LogFormat, LogLevel, configure_logs
from troth.cli.terminal import Terminal, make_text
from troth.cli.vkeys import read_vkeys
from troth.core.endpoint import Endpoint, parse_endpoint
from troth.core.errors import Invalid

if TYPE_CHECKING:
    from rich.console import RenderableType

    from troth.server.witness.signer import WitnessSigner

app = make_app("A witness of other people's logs.")

FOLDER = "witness"

CertOption = Annotated[
    Path | None, typer.Option(help="Certificate chain, leaf first (PEM).", metavar="FILE")
]
KeyOption = Annotated[
    Path | None, typer.Option(help="The key of --tls-cert (PEM).", metavar="FILE")
]


@command(
    app,
    "witness",
    example="troth witness --data /srv/witness --listen 0.0.0.0:8448 \\\n"
    "      --name witness.example.net/w1 --log @example.org.vkey \\\n"
    "      --tls-cert chain.pem --tls-key key.pem",
    local=True,
)
def witness(
    terminal: Terminal,
    name: Annotated[
        str,
        typer.Option(
            help="What the witness is called for ever, such as witness.example.net/w1.",
            metavar="NAME",
        ),
    ],
    log: Annotated[
        list[str],
        typer.Option(
            help="A log's vkey, or @FILE with one a line; again for each.", metavar="VKEY|@FILE"
        ),
    ],
    listen: Annotated[
        str, typer.Option(help="Where to answer.", metavar="HOST:PORT")
    ] = "localhost:8448",
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
    key_encryption_key: Annotated[
        str,
        typer.Option(
            help="What seals the witness's keys: file:PATH or command:PROGRAM; default: a file "
            "beside them.",
            metavar="SOURCE",
        ),
    ] = "",
    log_level: Annotated[LogLevel, typer.Option(help="The least level logged.")] = "info",
    log_format: Annotated[LogFormat, typer.Option(help="How the log is written.")] = "auto",
) -> None:
    """Run a witness: it cosigns what logs say of themselves, as long as it never contradicts what
    they said before.

    It keeps its keys and the last checkpoint of each log in DATA/witness, and prints its own vkeys
    for those who want to rely on it. Without --tls-cert it speaks plain HTTP, for a proxy in front.
    SIGHUP has it read a renewed certificate. It runs until Ctrl-C.
    """
    from troth.server.witness.main import WitnessPlan, run_witness

    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key belong together: give both or neither.")
    address = _parse_listen(listen)
    if not (logs := read_vkeys(log, "--log")):
        raise typer.BadParameter("--log: the witness must know the key of a log at least.")
    plan = WitnessPlan(
        folder=terminal.options.data.absolute() / FOLDER,
        name=name,
        host=address.host,
        port=address.port,
        logs=logs,
        tls=(tls_cert, tls_key) if tls_cert and tls_key else None,
        key_source=key_encryption_key,
    )
    configure_logs(log_level, log_format)
    raise typer.Exit(run_witness(plan, partial(_announce, terminal)))


def _announce(terminal: Terminal, signer: WitnessSigner, url: str) -> None:
    """Say where it is and with which keys it signs, once it answers."""
    keys = [key.render() for key in signer.public]
    terminal.show({"url": url, "vkeys": keys, "pid": os.getpid()}, lambda: _paint(url, keys))


def _paint(url: str, keys: list[str]) -> list[RenderableType]:
    return [
        make_text(("the witness is ready", "bold green"), f" at {url}; its vkeys:"),
        *(make_text(key) for key in keys),
    ]


def _parse_listen(text: str) -> Endpoint:
    try:
        return parse_endpoint(text)
    except Invalid as error:
        raise typer.BadParameter(f"--listen: {error.detail}") from error
