"""What the tests of whole processes share: servers, agents and workloads that always end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.processes import Program, Programs, Server, open_folder
from tests.fakes.authzen import submit_examples


@pytest.fixture(scope="module")
def settings() -> str:
    """The configuration file of the module's server; a module may have its own."""
    return ""


@pytest.fixture(scope="module")
def troth(settings: str) -> Iterator[Server]:
    """One running server with its local agent for the tests of a module."""
    with open_folder() as folder:
        server = Server(folder)
        server.write_settings(settings)
        try:
            yield server.start()
        finally:
            server.stop()


@pytest.fixture
def lone_troth() -> Iterator[Server]:
    """A server of one test's own, not started yet."""
    with open_server() as server:
        yield server


@pytest.fixture
def new_machine() -> Iterator[Server]:
    """A second one: the machine that was set up anew."""
    with open_server() as server:
        yield server


@contextmanager
def open_server() -> Iterator[Server]:
    """A server that isn't started yet, in a folder of its own; stopped at the end."""
    with open_folder() as folder:
        server = Server(folder)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """Programs by name, each with a path of its own."""
    with open_folder() as folder:
        yield Programs(folder / "programs")


@pytest.fixture
def run_program(programs: Programs) -> Iterator[Callable[..., Program]]:
    """Starts workloads: ``run_program(name, endpoint)``, or another script of `programs/`."""
    with ExitStack() as stack:

        def run(name: str, *arguments: str, script: str = "workload.py") -> Program:
            program = Program(programs.find(name), script, *arguments)
            stack.callback(program.stop)
            return program

        yield run


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path that other users may pass through."""
    with open_folder() as path:
        yield path


@pytest.fixture(scope="module")
def point(troth: Server) -> Iterator[httpx.Client]:
    """A client of a decision point that has the examples."""
    troth.call("manifest.apply", submit_examples("authzen-todo", "authzen-certification"))
    transport = httpx.HTTPTransport(uds=str(troth.data / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://admin", timeout=20) as client:
        yield client
