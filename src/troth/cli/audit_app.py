"""The group of commands `troth audit`, which several modules add to."""

from __future__ import annotations

from troth.cli.command import make_app

app = make_app("The log: what happened, found, proved and verified.")
