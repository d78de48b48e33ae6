"""`troth certificate`: the X.509-SVIDs that were issued."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.cli.command import command, make_app
from troth.cli.identity import NameArgument, ReasonOption, require
from troth.cli.terminal import Terminal, make_request, make_table
from troth.cli.words import describe_time
from troth.wire.api import certificates

SERIAL_DIGITS = 40
"""Serials are stored in full length: 20 octets (RFC 5280, section 4.1.2.2)."""

app = make_app("The X.509-SVIDs that were issued and have not expired.")


@command(app, "ls", example="troth certificate ls payments-api")
def ls(terminal: Terminal, name: NameArgument) -> None:
    """List an identity's unexpired certificates, newest first."""
    found = terminal.call("certificate.ls", make_request(certificates.ListCertificates, name=name))
    now = terminal.now()
    rows = [
        (item.serial, describe_state(item), describe_time(item.not_before, now),
         describe_time(item.not_after, now), item.instance_id or "", item.revocation_reason or "")
        for item in found.items
    ]  # fmt: skip
    columns = ("SERIAL", "STATE", "VALID SINCE", "EXPIRES", "INSTANCE", "WHY REVOKED")
    terminal.show(found, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say(
            f"No unexpired certificates of {name}. A workload fetches one from its agent: "
            "`troth svid fetch`."
        )


@command(app, "revoke", example="troth certificate revoke 5f3c01… --reason 'key was copied'")
def revoke(
    terminal: Terminal,
    serial: Annotated[
        str, typer.Argument(help="The serial in hexadecimal; colons may stay.", metavar="SERIAL")
    ],
    reason: ReasonOption = "",
) -> None:
    """Revoke one certificate; its identity may go on and fetch another."""
    request = make_request(
        certificates.RevokeCertificate,
        serial=serial.lower().removeprefix("0x").replace(":", "").zfill(SERIAL_DIGITS),
        reason=require(reason, "--reason", "why do you revoke it?"),
    )
    view = terminal.call("certificate.revoke", request)
    terminal.show(view, lambda: [f"{view.serial} of {view.spiffe_id} is {describe_state(view)}"])
    terminal.say("To keep its identity from fetching another: `troth identity quarantine`.")


def describe_state(view: certificates.CertificateView) -> str:
    """Its state in one word: how far its issuance came, or that it was revoked since."""
    return "revoked" if view.revoked_at else view.state
