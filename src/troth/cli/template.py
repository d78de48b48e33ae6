"""`troth template`: which workloads get an identity when they are seen for the first time."""

from __future__ import annotations

from troth.cli.command import command, make_app
from troth.cli.identity import describe_duration_seconds
from troth.cli.terminal import Terminal, make_table
from troth.wire.api import templates

app = make_app("Which workloads get an identity when they are seen for the first time.")


@command(app, "ls", example="troth template ls\ntroth template ls --json")
def ls(terminal: Terminal) -> None:
    """List templates: whom they fit, on which nodes, and how many identities of each live.

    They come from manifests of kind Template: see `troth apply --help`.
    """
    found = terminal.call("template.ls", templates.ListTemplates())
    rows = [
        (item.name, " and ".join(item.match), ", ".join(item.nodes),
         f"{item.prefix}/{item.naming}", f"{item.identities} of {item.max}", item.start,
         describe_duration_seconds(item.unattended_after), item.owner)
        for item in found.items
    ]  # fmt: skip
    columns = ("NAME", "FITS", "NODES", "PATH", "LIVING", "START", "UNATTENDED", "OWNER")
    terminal.show(found, lambda: [make_table(columns, rows)] if rows else [])
    if not rows:
        terminal.say(
            "No templates. Describe one in a manifest of kind Template and `troth apply FILE`."
        )
