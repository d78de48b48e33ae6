"""The group of commands `troth policy`, which several modules add to."""

from __future__ import annotations

from troth.cli.command import make_app

app = make_app("Policy as code: tests, versions, replays, least privilege, second persons.")
