"""`troth up`: a server and a local agent, ready on the first run."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from troth.cli.command import command, make_app
from troth.cli.logs import configure_logs
from troth.cli.options import AGENT_SOCKET, CA_FILE
from troth.cli.terminal import Terminal, make_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from troth.server.config import Config

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

app = make_app("A server and a local agent.")


@command(
    app,
    "up",
    example="troth up\ntroth up --data /srv/troth --listen 0.0.0.0:8443",
    local=True,
)
def up(
    terminal: Terminal,
    listen: Annotated[
        str | None, typer.Option(help="The public address.", metavar="HOST:PORT")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="The database, without a password; default SQLite in DATA.", metavar="URL"
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings; default DATA/troth.toml.", metavar="FILE")
    ] = None,
    trust_domain: Annotated[
        str | None, typer.Option(help="Such as example.org; fixed after the first start.")
    ] = None,
    agent: Annotated[
        bool, typer.Option("--agent/--no-agent", help="Whether to run a local agent too.")
    ] = True,
) -> None:
    """Start a server and a local agent; the first start makes all that they need.

    It runs until Ctrl-C. Other settings: the file, or TROTH_… in the environment (see the docs).
    """
    from troth.server.config import InvalidArgument, load_config
    from troth.server.main import run_server

    try:
        settings = load_config(
            data=terminal.options.data_dir,
            listen=listen,
            database=database,
            trust_domain=trust_domain,
            config_file=config,
            environ=os.environ,
        )
    except InvalidArgument as error:
        raise typer.BadParameter(error.detail) from error
    configure_logs(settings.log.level, settings.log.format)
    for variable in settings.unknown_variables:
        log.warning("settings.unknown_variable", variable=variable, help="nothing reads it")
    announce = partial(_announce, terminal, agent=agent)
    raise typer.Exit(run_server(settings, agent=agent, announce=announce))


def _announce(terminal: Terminal, config: Config, *, agent: bool) -> None:
    """Say where everything is, once it answers."""
    exports = {"TROTH_URL": config.origin, "TROTH_DATA": str(config.data)}
    if agent:
        exports["SPIFFE_ENDPOINT_SOCKET"] = f"unix://{config.data / AGENT_SOCKET}"
    value = {
        "url": config.origin,
        "data": str(config.data),
        "trust_domain": str(config.trust_domain),
        "ca": str(config.data / CA_FILE),
        "admin_socket": str(config.admin_socket),
        "workload_api": exports.get("SPIFFE_ENDPOINT_SOCKET"),
    }
    terminal.show(value, partial(_paint, config, exports))


def _paint(config: Config, exports: dict[str, str]) -> list[RenderableType]:
    return [
        make_text(
            ("troth is ready", "bold green"),
            f" at {config.origin} for the trust domain {config.trust_domain}; its data is in "
            f"{config.data}",
        ),
        make_text(""),
        *(make_text(f"export {name}={value}") for name, value in exports.items()),
        make_text(""),
        make_text(
            "Next, in another terminal: those lines, then `troth ps`, `troth apply FILE`, "
            "`troth doctor`. Stop with Ctrl-C."
        ),
    ]
