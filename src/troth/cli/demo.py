"""`troth demo`: the whole story on real processes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from troth.cli.command import command, make_app
from troth.cli.terminal import DONE, WANTING, Terminal
from troth.core.errors import Refused

if TYPE_CHECKING:
    from troth.cli.demonstration.scene import Scene

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Engine(StrEnum):
    """Where the server of the demo keeps its state."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


app = make_app("The whole story on real processes.")


@command(app, "demo", example="troth demo\ntroth demo --once --json")
def demo(
    terminal: Terminal,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Stop everything at the end; remove it unless --data names a place."
        ),
    ] = False,
    database: Annotated[
        Engine, typer.Option(help="Where the state is; PostgreSQL is started for it.")
    ] = Engine.SQLITE,
    single_user: Annotated[
        bool, typer.Option("--single-user", help="As without root: all workloads are one user.")
    ] = False,
) -> None:
    """Watch the whole story: identities for real processes, and what happens when one turns bad.

    Every step checks itself; the last line counts them. Without --once the server and its agent
    stay for you to try. As root each workload runs as a user of its own.
    """
    from troth.cli.demonstration.narration import Narrator
    from troth.cli.demonstration.scene import Scene
    from troth.cli.demonstration.stage import can_switch_users
    from troth.cli.demonstration.story import ACTS, play_story

    for number in SIGNALS:
        signal.signal(number, _leave)
    data = _make_directory(terminal.options.data_dir)
    narrator = Narrator(terminal)
    scene = Scene(data, narrator, terminal.clock, users=not single_user and can_switch_users())
    keep = held = stopped = False
    try:
        if database is Engine.POSTGRESQL:
            scene.start_database()
        held = play_story(scene)
        keep = held and not once
        if keep:
            _tell_what_next(scene)
    except KeyboardInterrupt:
        stopped = True
        narrator.tell("Stopped by you; cleaning up.")
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave processes behind
        scene.close(keep_server=keep)
    if terminal.options.data_dir is None and (stopped or (held and not keep)):
        shutil.rmtree(data, ignore_errors=True)
    elif not keep:
        narrator.tell(f"Logs are in {scene.stage.logs}; remove {data} when you are done.")
    narrator.end(planned=len(ACTS))
    raise typer.Exit(DONE if held else WANTING)


def _make_directory(given: Path | None) -> Path:
    """A new or empty directory that other users may pass through."""
    if given is None:
        data = Path(tempfile.mkdtemp(prefix="troth-demo-"))
    else:
        data = given.absolute()
        data.mkdir(parents=True, exist_ok=True)
        if any(data.iterdir()):
            raise Refused(f"{data} isn't empty; name a new directory with --data, or none.")
    data.chmod(0o711)
    return data


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """A signal to end is like Ctrl-C: everything that was started is stopped."""
    raise KeyboardInterrupt


def _tell_what_next(scene: Scene) -> None:
    tell = scene.narrator.tell
    troth = _name_command()
    register = f"{troth} identity register me --owner me --purpose 'trying troth' --activate"
    tell()
    tell("The server and its agent run on; the workloads have ended. In any terminal:")
    tell()
    tell(f"  export TROTH_DATA={scene.data}", style="cyan")
    tell(f"  export SPIFFE_ENDPOINT_SOCKET=unix://{scene.agent_socket}", style="cyan")
    tell()
    for line, words in (
        (f"{troth} ps", "what there is"),
        (f"{troth} journal tail", "what happened"),
        (f"{troth} doctor", "whether all is well"),
        (f"{register} --selector unix:uid:{os.getuid()}", "an identity for your own processes"),
        (f"{troth} svid fetch", "use it"),
    ):
        tell(f"  # {words}", style="dim")
        tell(f"  {line}", style="cyan")
    tell()
    tell(f"Stop both: kill {scene.processes['server'].pid}")
    if scene.cluster is not None:
        tell(f"Then PostgreSQL, which has the state: kill -INT {scene.cluster.pid}")
    tell(f"Then remove what they made: rm -r {scene.data}")


def _name_command() -> str:
    """How this command was called, if the shell wouldn't find it by its name."""
    called = Path(sys.argv[0])
    if called.name == "troth":
        return "troth" if shutil.which("troth") else str(called)
    return f"{sys.executable} -m troth"
