"""What is under deploy/, read, and its command lines as the program understands them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from troth.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "troth"
PORTS = (8443, 8444)


@cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def parse_command(words: list[str]) -> dict[str, Any]:
    """What the command line makes of `words`; fails if it doesn't understand them."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("troth", list(words))
    left: list[str] = [*context._protected_args, *context.args]
    name, rest = left[0], left[1:]
    inner = command.commands[name]
    return dict(inner.make_context(name, rest, parent=context).params)
