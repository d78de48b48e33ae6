"""How a function becomes a command: the options that all take, an example, and exit codes."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from troth.cli.options import Options
from troth.cli.terminal import Terminal
from troth.core.errors import Refused, TrothError

Arguments = ParamSpec("Arguments")
Body = Callable[Concatenate[Terminal, Arguments], None]

PANEL = "Options of every command"
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print JSON alone on standard output; messages go to standard error.",
        rich_help_panel=PANEL,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="The data directory, where the sockets and ca.pem are. \\[TROTH_DATA]",
        metavar="DIR",
        readable=False,  # its mode is 0711: others may pass through to the sockets, not list it
        rich_help_panel=PANEL,
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="The server's https URL; without one the admin socket is used. \\[TROTH_URL]",
        metavar="URL",
        rich_help_panel=PANEL,
    ),
]


def make_app(purpose: str) -> typer.Typer:
    """An empty group of commands; its `purpose` is the first line of its help."""
    return typer.Typer(help=purpose, no_args_is_help=True, pretty_exceptions_enable=False)


def command(
    app: typer.Typer, name: str, *, example: str, streaming: bool = False, local: bool = False
) -> Callable[[Body[Arguments]], Body[Arguments]]:
    """Register a function as command `name` of `app`.

    The function takes a `Terminal` first; its docstring is the help, `example` (lines of shell)
    stands below. With `local` the command does the work itself instead of asking a server. Errors
    that may be shown end the process with the right exit code.
    """

    def register(body: Body[Arguments]) -> Body[Arguments]:
        def run(ctx: typer.Context, **arguments: Any) -> None:
            given = ctx.obj if isinstance(ctx.obj, Options) else Options()
            options = given.override(
                arguments.pop("json"), arguments.pop("data"), arguments.pop("url")
            )
            call: Callable[..., None] = body
            terminal = Terminal(options, asks_server=not local)
            run_guarded(terminal, partial(call, **arguments), streaming=streaming)

        _declare(run, body)
        epilog = "\n".join(["Example:", *(f"  {line}" for line in example.splitlines())])
        app.command(name, help=_flow(inspect.getdoc(body) or ""), epilog=epilog)(run)
        return body

    return register


def _flow(text: str) -> str:
    """Each paragraph on one line: help is wrapped to the terminal's width, not to the source's."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def run_guarded(
    terminal: Terminal, body: Callable[[Terminal], None], *, streaming: bool = False
) -> None:
    """Run `body`; errors for people become messages and exit codes instead of tracebacks."""
    try:
        body(terminal)
    except TrothError as error:
        terminal.fail(error, streaming=streaming)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of the output has left, as `head` does
            raise
        place = f" {error.filename}" if error.filename else ""
        reason = error.strerror or str(error)
        terminal.fail(Refused(f"Can't use{place}: {reason}."), streaming=streaming)


def _declare(run: Callable[..., None], body: Callable[..., None]) -> None:
    """Give `run` the signature of `body`, with the common options after its own."""
    own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("ctx", kind, annotation=typer.Context)]
    parameters += [parameter.replace(kind=kind) for parameter in own]
    for name, annotation, default in (
        ("json", JsonOption, False),
        ("data", DataOption, None),
        ("url", UrlOption, None),
    ):
        parameters.append(inspect.Parameter(name, kind, default=default, annotation=annotation))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
