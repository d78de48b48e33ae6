"""The command `troth`: a table of commands, each loaded when it is called for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
import typer.main

import troth
from troth.core.heap import begin_heap

if TYPE_CHECKING:
    from typer.core import TyperCommand, TyperGroup

PANEL_RUN = "Run"
PANEL_STATE = "Declare and look"
PANEL_NOUNS = "Nouns"
WANTS_JSON = "troth.wants_json"
WRONG_USAGE = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One command or group: its module, and the line that `troth --help` shows without it.

    With `single` the name is one command of the module's app, otherwise the app is a group.
    """

    name: str
    module: str
    help: str
    panel: str
    single: bool = True


ENTRIES: tuple[Entry, ...] = (
    Entry("up", "up", "Start a server and a local agent, ready on the first run.", PANEL_RUN),
    Entry("demo", "demo", "Watch the whole story on real processes.", PANEL_RUN),
    Entry("agent", "agent", "Run the node agent alone.", PANEL_RUN),
    Entry("run", "run", "Start a program with fresh credentials.", PANEL_RUN),
    Entry("enroll", "enroll", "Enrol this device, without an agent.", PANEL_RUN),
    Entry("witness", "witness", "Cosign other people's logs.", PANEL_RUN),
    Entry("doctor", "doctor", "Say what is wrong here, and how to mend it.", PANEL_RUN),
    Entry("check", "manifest", "Check manifests without a server.", PANEL_STATE),
    Entry("schema", "manifest", "Print the JSON Schema of manifests, for editors.", PANEL_STATE),
    Entry("plan", "manifest", "Show what applying manifests would change.", PANEL_STATE),
    Entry("apply", "manifest", "Apply manifests, all or nothing.", PANEL_STATE),
    Entry("ps", "status", "List identities: state, copies, last seen.", PANEL_STATE),
    Entry("top", "status", "The same, live.", PANEL_STATE),
    Entry("db", "db", "The state as a whole: move, back up, restore.", PANEL_RUN, False),
    Entry("identity", "identity", "What workloads are, and their life cycle.", PANEL_NOUNS, False),
    Entry("template", "template", "Who gets an identity at first sight.", PANEL_NOUNS, False),
    Entry("resource", "resource", "The APIs that tokens are for.", PANEL_NOUNS, False),
    Entry("decision", "decision", "Who may do what, asked and looked up.", PANEL_NOUNS, False),
    Entry("proxy", "proxy", "Proxies that ask about each request.", PANEL_NOUNS, False),
    Entry("postgres", "postgres", "Roles of PostgreSQL, by certificate.", PANEL_NOUNS, False),
    Entry("trust", "trust", "How much is relied on whom, and why.", PANEL_NOUNS, False),
    Entry("policy", "policy", "Policy as code: tests, versions, replays.", PANEL_NOUNS, False),
    Entry("instance", "instance", "The running copies of an identity.", PANEL_NOUNS, False),
    Entry("certificate", "certificate", "X.509-SVIDs that were issued.", PANEL_NOUNS, False),
    Entry("authority", "authority", "The keys that sign, and their rotation.", PANEL_NOUNS, False),
    Entry("node", "node", "The machines that joined.", PANEL_NOUNS, False),
    Entry("client-secret", "client_secret", "Secrets of old programs.", PANEL_NOUNS, False),
    Entry("token", "token", "Access tokens, and those to join with.", PANEL_NOUNS, False),
    Entry("device", "device", "Devices that enrol without an agent.", PANEL_NOUNS, False),
    Entry("svid", "svid", "Fetch and look at SVIDs, as a workload does.", PANEL_NOUNS, False),
    Entry("audit", "audit", "The log: found, proved, verified.", PANEL_NOUNS, False),
    Entry("journal", "journal", "What happened, and who did it.", PANEL_NOUNS, False),
)


class LazyCommand(typer.core.TyperCommand):
    """Stands for a command or group, and loads its module when that is to run."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, help=entry.help, rich_help_panel=entry.panel)
        self.entry = entry

    def load(self) -> TyperCommand | TyperGroup:
        """The real command."""
        module = importlib.import_module(f"troth.cli.{self.entry.module}")
        group = typer.main.get_group(module.app)
        if not self.entry.single:
            group.name = self.entry.name
            return group
        return group.commands[self.entry.name]  # type: ignore[return-value]

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The context of the real command, which then runs in place of this one."""
        return self.load().make_context(info_name, args, parent=parent, **extra)


class LazyGroup(typer.core.TyperGroup):
    """`troth` itself: a group made of the table."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for entry in ENTRIES:
            self.add_command(LazyCommand(entry))

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The context of `troth` itself; wrong usage is a JSON document where that was asked."""
        wants_json = _wants_json(args)
        try:
            return super().make_context(info_name, args, parent=parent, **extra)
        except Exception as error:
            _tell_wrong_usage(error, wants_json)
            raise

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options; even the first of them knows whether the reader is a program."""
        ctx.meta[WANTS_JSON] = _wants_json(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; wrong usage is a JSON document too where JSON was asked for."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            _tell_wrong_usage(error, ctx.meta.get(WANTS_JSON, False))
            raise


def _wants_json(args: list[str]) -> bool:
    """Whether ``--json`` stands among the options, as far as one can tell before parsing."""
    options = args[: args.index("--")] if "--" in args else args
    return "--json" in options


def _tell_wrong_usage(error: Exception, wants_json: bool) -> None:
    """The document on standard output; the words for people follow on standard error.

    Wrong usage is known by its marks, since its class has no public name in every Typer.
    """
    describe = getattr(error, "format_message", None)
    if not wants_json or describe is None or getattr(error, "exit_code", None) != WRONG_USAGE:
        return
    import msgspec  # not needed to print help

    document = {"code": "invalid_usage", "detail": describe(), "retryable": False}
    typer.echo(msgspec.json.encode(document))


app = typer.Typer(
    cls=LazyGroup,
    name="troth",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(ctx: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    if ctx.meta.get(WANTS_JSON, False):
        import msgspec  # not needed to print help

        typer.echo(msgspec.json.encode({"version": troth.__version__}))
    else:
        typer.echo(f"troth {troth.__version__}")
    raise typer.Exit


@app.callback(epilog="Example:\n  troth up\n  troth ps --json")
def take_options(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="The data directory. \\[TROTH_DATA]", metavar="DIR", readable=False),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The server's https URL. \\[TROTH_URL]", metavar="URL")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="The roots to trust at --url instead of DATA/ca.pem.", metavar="FILE"),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(help="Your certificate chain (PEM), to be known at --url.", metavar="FILE"),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The key of --cert (PEM).", metavar="FILE")
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """The operating system for non-human identities.

    Workloads get identities without holding secrets, and lose them when they misbehave.
    """
    if ctx.resilient_parsing:
        return
    from troth.cli.options import Options  # the client behind it isn't needed to print help

    ctx.obj = Options(json, data, url, ca, cert, key)


def main() -> None:
    """Run the command line; the process ends with 0, 1, 2 or 3 (see the reference)."""
    begin_heap()
    app(prog_name="troth")
