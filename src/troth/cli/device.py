"""`troth device`: codes with which devices enrol, without an agent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.options import CA_FILE
from troth.cli.terminal import Terminal, make_request, make_table
from troth.cli.words import count_noun, describe_time, parse_duration
from troth.core.errors import Invalid
from troth.wire.api import devices, status

app = make_app("Devices that enrol without an agent.")

MAX_NAMES = 16 << 20
"""Characters of a file with names."""


@command(
    app,
    "invite",
    example="troth device invite sensor-1 --ttl 1d\ntroth device invite --names fleet.txt --json",
)
def invite(
    terminal: Terminal,
    names: Annotated[list[str] | None, typer.Argument(help="Names of devices.")] = None,
    names_file: Annotated[
        Path | None,
        typer.Option("--names", help="Names in a file, one a line; - for standard input."),
    ] = None,
    copies: Annotated[
        int, typer.Option(help="Codes for each name: one for each copy of the device.")
    ] = 1,
    ttl: Annotated[str, typer.Option(help="How long a code may wait: 10m, 2h, 7d.")] = "1h",
) -> None:
    """Make one-time codes with which devices enrol. They are shown now and never again."""
    wanted = [*(names or ()), *_read_names(names_file)]
    if not wanted or copies < 1:
        raise typer.BadParameter("name at least one device, or a file with --names.")
    try:
        seconds = int(parse_duration(ttl).total_seconds())
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint="--ttl") from error
    repeated = [name for name in wanted for _ in range(copies)]
    size = devices.MAX_INVITED
    requests = [
        make_request(devices.InviteDevices, names=repeated[start : start + size], ttl=seconds)
        for start in range(0, len(repeated), size)
    ]
    with terminal.connect() as client:
        answers = [client.call("device.invite", request) for request in requests]
        origin = "" if terminal.json else client.call("status.show", status.GetStatus()).origin
    made = [code for answer in answers for code in answer.codes]
    result = devices.DevicesInvited(codes=made, expires_at=answers[0].expires_at)
    rows = [(code.name, code.code, code.id) for code in made]
    terminal.show(result, lambda: [make_table(("NAME", "CODE", "ID"), rows)])
    if not terminal.json:
        ends = describe_time(result.expires_at, terminal.now())
        ca = terminal.options.ca_file or terminal.options.data / CA_FILE
        terminal.say(
            "",
            f"{count_noun(len(made), 'code')}, each for one device; they end {ends}.",
            f"On the device: bring {ca} of the server there as ca.pem, and run",
            "",
            f"  troth enroll --server {origin} --ca ca.pem --code-file - --out /etc/troth-device",
        )


def _read_names(path: Path | None) -> list[str]:
    if path is None:
        return []
    if str(path) == "-":
        text = sys.stdin.read(MAX_NAMES)
    else:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_NAMES)
    return [line for raw in text.splitlines() if (line := raw.strip())]
