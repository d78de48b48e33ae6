"""`troth agent`: the node agent alone, on a machine that has no server."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from troth.cli.command import command, make_app
from troth.cli.identity import require
from troth.cli.logs import LogFormat, LogLevel, configure_logs
from troth.cli.options import AGENT_SOCKET
from troth.cli.targets import read_targets
from troth.cli.terminal import Terminal, make_text
from troth.core.errors import Invalid
from troth.drivers.tracers import Telemetry, check_endpoint

app = make_app("The node agent alone.")

ServerOption = Annotated[
    str, typer.Option(help="The server's public URL (required).", metavar="URL")
]
MtlsOption = Annotated[
    str | None, typer.Option(help="Its mutual-TLS URL; default one port above.", metavar="URL")
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        help="The server's ca.pem (required), brought here in a way you trust.", metavar="FILE"
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        help="@FILE, or - for standard input; needed until the node has joined.", metavar="@FILE"
    ),
]
MachineOption = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        help="Join by the machine's own certificate instead: PEM files of the chain, leaf first, "
        "and of its key.",
        metavar="CERT KEY",
    ),
]
SocketOption = Annotated[
    Path | None,
    typer.Option(help="The Workload API's socket; default DATA/agent.sock.", metavar="PATH"),
]
FilesOption = Annotated[
    Path | None,
    typer.Option(help="SVIDs to keep as files: a TOML file, see the docs.", metavar="FILE"),
]
CacheOption = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Keep nothing of workloads on disk: a restart without a server leaves them without.",
    ),
]
LevelOption = Annotated[LogLevel, typer.Option(help="The least that is logged.")]
FormatOption = Annotated[
    LogFormat, typer.Option(help="auto: text at a terminal, JSON lines elsewhere.")
]

EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--otlp-endpoint",
        envvar="TROTH_TELEMETRY_OTLP_ENDPOINT",
        help="Send traces to this OpenTelemetry collector.",
        metavar="URL",
    ),
]
RatioOption = Annotated[
    float,
    typer.Option(
        envvar="TROTH_TELEMETRY_SAMPLE_RATIO", help="Share of the traces to keep.", min=0, max=1
    ),
]
MetricsOption = Annotated[
    Path | None,
    typer.Option(help="Write metrics to this .prom file every 15 s.", metavar="FILE"),
]
HEADERS = "TROTH_TELEMETRY_OTLP_HEADERS"

AGENT_DIRECTORY = "agent"
MAX_TOKEN = 4096


@command(
    app,
    "agent",
    streaming=True,
    local=True,
    example="troth token join --node web-1 | ssh web-1 'umask 077; cat > join-token'\n"
    "troth agent --server https://troth:8443 --ca ca.pem --join-token @join-token\n"
    "troth agent --server https://troth:8443 --ca ca.pem --x509pop device.pem device.key",
)
def agent(
    terminal: Terminal,
    server: ServerOption = "",
    mtls_url: MtlsOption = None,
    ca: CaOption = None,
    join_token: TokenOption = None,
    x509pop: MachineOption = None,
    socket: SocketOption = None,
    files: FilesOption = None,
    otlp_endpoint: EndpointOption = None,
    sample_ratio: RatioOption = 1.0,
    metrics_file: MetricsOption = None,
    no_cache: CacheOption = False,
    log_level: LevelOption = "info",
    log_format: FormatOption = "auto",
) -> None:
    """Run the node agent: it attests the processes of this machine and gives them identities.

    It joins once with a token from `troth token join`, or by the certificate that the machine was
    made with, and keeps its own key in DATA/agent.
    With --json it prints a line once it serves, and another if it fails.
    """
    from troth.agent.machine import Machine
    from troth.agent.main import run_agent
    from troth.agent.node import AgentSettings

    ca_file = _check_where(server, mtls_url, ca)
    if join_token is not None and x509pop is not None:
        raise typer.BadParameter("give it or --join-token, not both.", param_hint="--x509pop")
    data = terminal.options.data.absolute()
    data.mkdir(mode=0o711, parents=True, exist_ok=True)
    path = (socket or data / AGENT_SOCKET).absolute()
    settings = AgentSettings(
        server_url=server,
        mtls_url=mtls_url,
        ca_file=ca_file,
        data_dir=data / AGENT_DIRECTORY,
        socket_path=path,
        join_token=read_join_token(terminal, join_token),
        machine=None if x509pop is None else Machine(*map(Path.absolute, x509pop)),
        keep_cache=not no_cache,
        files=() if files is None else read_targets(files),
        telemetry=read_telemetry(otlp_endpoint, sample_ratio),
        metrics_file=None if metrics_file is None else metrics_file.absolute(),
    )
    address = f"unix://{path}"

    def tell_ready() -> None:
        if terminal.json:
            value = {"server": server, "data": str(data), "workload_api": address}
            terminal.show_line({"message": "ready", **value}, make_text)

    if not terminal.json and sys.stdin.isatty():
        terminal.say(f"export SPIFFE_ENDPOINT_SOCKET={address}", "Stop with Ctrl-C.")
    configure_logs(log_level, log_format)
    raise typer.Exit(run_agent(settings, tell_ready))


def read_telemetry(endpoint: str | None, ratio: float) -> Telemetry | None:
    """Where spans go; the collector's headers come from the environment, since arguments are for
    all to see."""
    if not endpoint:
        return None
    try:
        headers = msgspec.json.decode(os.environ.get(HEADERS, "{}"), type=dict[str, str])
    except (msgspec.DecodeError, UnicodeError) as error:  # the value isn't shown
        raise Invalid(
            f'{HEADERS} must be a JSON object such as {{"authorization": "Bearer …"}}.'
        ) from error
    try:
        return Telemetry(check_endpoint(endpoint, headers), headers, ratio)
    except Invalid as error:
        raise typer.BadParameter(error.detail, param_hint="--otlp-endpoint") from error


def _check_where(server: str, mtls_url: str | None, ca: Path | None) -> Path:
    """The CA file; wrong usage if it isn't said well which server to follow."""
    from troth.agent.connection import check_url

    if ca is None:
        raise typer.BadParameter(
            "it is missing: which server is the right one? Copy ca.pem from the server's data "
            "directory and add --ca FILE.",
            param_hint="--ca",
        )
    require(server, "--server", "where is the server? It is a URL.")
    for option, url in (("--server", server), ("--mtls-url", mtls_url)):
        try:
            check_url(url or server)
        except Invalid as error:
            raise typer.BadParameter(error.detail, param_hint=option) from error
    return ca


def read_join_token(terminal: Terminal, given: str | None) -> str | None:
    """The token from ``-``, ``@FILE`` or, with a warning, the argument itself."""
    if given is None:
        return None
    if given == "-":
        token = sys.stdin.read(MAX_TOKEN + 1)
    elif given.startswith("@"):
        token = _read_token_file(terminal, Path(given[1:]))
    else:
        terminal.say(
            "Every user of this machine can see that token in the process list: put it into a "
            "file and write --join-token @FILE.",
            style="yellow",
        )
        token = given
    if not token.strip() or len(token) > MAX_TOKEN:
        raise Invalid("There is no join token in it; make one with `troth token join --node NAME`.")
    return token.strip()


def _read_token_file(terminal: Terminal, path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            terminal.say(f"Others may read {path}: chmod 600 {path}", style="yellow")
        return file.read(MAX_TOKEN + 1)
