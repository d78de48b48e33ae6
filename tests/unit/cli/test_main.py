"""The command line as a whole: help, options, exit codes, and nothing but JSON with --json."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import troth
from tests.fakes.api import FakeApi
from tests.fakes.views import make_entry, make_identity, make_status
from tests.unit.cli.conftest import Run
from troth.cli.main import ENTRIES, LazyCommand, app
from troth.cli.options import Options
from troth.cli.terminal import Terminal, make_sheet, make_table
from troth.core.errors import Denied, Invalid, Unavailable
from troth.wire.api import certificates, identities, journal, nodes


def walk_commands() -> Iterator[tuple[str, Any]]:
    """Every command and group, by the words that call it."""
    yield "", typer.main.get_command(app)
    for entry in ENTRIES:
        command: Any = LazyCommand(entry).load()
        yield entry.name, command
        for name, inner in getattr(command, "commands", {}).items():
            yield f"{entry.name} {name}", inner


WORDS = [words for words, command in walk_commands() if not hasattr(command, "commands")]


@pytest.mark.parametrize("words", WORDS)
def test_every_command_s_help_has_an_example_that_calls_it(words: str) -> None:
    result = CliRunner().invoke(app, [*words.split(), "--help"])
    assert result.exit_code == 0
    _, _, examples = result.stdout.partition("Example:")
    assert f"troth {words}" in examples


@pytest.mark.parametrize("words", WORDS)
def test_every_command_takes_the_common_options(words: str) -> None:
    result = CliRunner().invoke(app, [*words.split(), "--help"])
    for option in ("--json", "--data", "--url"):
        assert option in result.stdout


def test_every_command_of_the_table_says_in_the_overview_what_it_does() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    for entry in ENTRIES:
        assert entry.name in result.stdout


def test_help_loads_neither_the_server_nor_anything_heavy() -> None:
    heavy = ["litestar", "sqlalchemy", "cryptography", "grpclib", "httpx", "troth.server"]
    code = (
        "import sys\nfrom troth.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.stdout == f"troth {troth.__version__}\n"
    for words in (["--json", "--version"], ["--version", "--json"]):
        result = CliRunner().invoke(app, words)
        assert json.loads(result.stdout) == {"version": troth.__version__}


@pytest.mark.parametrize("words", [["nod", "ls"], ["identity", "shwo", "x"]])
def test_a_slip_in_a_command_is_wrong_usage_and_gets_a_suggestion(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "Did you mean" in result.stderr


CALLS: dict[str, tuple[str, Any, list[str]]] = {
    "identity ls": ("identity.ls", identities.IdentityPage(items=[]), []),
    "identity show": ("identity.show", make_identity(), ["a"]),
    "identity register": (
        "identity.register",
        make_identity(state="proposed"),
        ["a", "--owner", "o", "--purpose", "p"],
    ),
    **{
        f"identity {verb}": (f"identity.{verb}", make_identity(), ["a", "--reason", "r"])
        for verb in ("activate", "suspend", "resume", "quarantine", "release", "retire")
    },
    "instance ls": ("instance.ls", identities.InstanceList(items=[]), ["a"]),
    "certificate ls": ("certificate.ls", certificates.CertificateList(items=[]), ["a"]),
    "node ls": ("node.ls", nodes.NodePage(items=[]), []),
    "ps": ("identity.ls", identities.IdentityPage(items=[]), []),
    "journal tail": ("journal.ls", journal.JournalPage(items=[], head=0), []),
}


@pytest.mark.parametrize("words", CALLS)
def test_json_is_all_there_is_on_standard_output(words: str, api: FakeApi, run: Run) -> None:
    operation, answer, arguments = CALLS[words]
    api.answers[operation] = answer
    result = run(*words.split(), *arguments, "--json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    if words == "journal tail":
        assert lines == []
    else:
        assert isinstance(json.loads(result.stdout), dict)


@pytest.mark.parametrize("words", CALLS)
def test_an_unreachable_server_is_exit_code_3_with_what_to_do(words: str, run: Run) -> None:
    result = run(*words.split(), *CALLS[words][2])
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "troth up" in result.stderr
    as_json = run(*words.split(), *CALLS[words][2], "--json")
    assert as_json.exit_code == 3
    assert json.loads(as_json.stdout)["code"] == "unavailable"


@pytest.mark.parametrize("words", CALLS)
def test_a_refusal_is_exit_code_1_with_the_server_s_words(
    words: str, api: FakeApi, run: Run
) -> None:
    operation, _, arguments = CALLS[words]
    api.answers[operation] = Denied("Not you.")
    result = run(*words.split(), *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "error: Not you." in result.stderr
    assert "administrator" in result.stderr
    assert json.loads(run(*words.split(), *arguments, "--json").stdout)["detail"] == "Not you."


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("ps", "troth apply"),
        ("identity ls", "troth identity register"),
        ("instance ls a", "troth doctor --pid"),
        ("certificate ls a", "troth svid fetch"),
        ("node ls", "troth token join"),
        ("journal tail", "--follow"),
        ("identity ls --state active", "troth identity ls"),
    ],
)
def test_an_empty_list_says_how_to_fill_it(words: str, hint: str, api: FakeApi, run: Run) -> None:
    for operation, answer, _ in CALLS.values():
        api.answers[operation] = answer
    result = run(*words.split())
    assert result.exit_code == 0
    assert result.stdout == ""
    assert hint in result.stderr


def test_a_server_that_is_not_ready_is_not_unreachable(api: FakeApi, run: Run) -> None:
    api.answers["identity.ls"] = Unavailable("Not ready.")
    assert run("ps").exit_code == 1


def test_what_the_server_calls_invalid_is_refused_not_wrong_usage(api: FakeApi, run: Run) -> None:
    api.answers["identity.ls"] = Invalid("There is no state 'odd'.")
    assert run("identity", "ls", "--state", "odd").exit_code == 1


@pytest.mark.parametrize(
    "words",
    [
        ["identity", "show", "x" * 129],
        ["token", "join", "--node", "Not A Name"],
        ["token", "join", "--node", "a", "--ttl", "5s"],
        ["token", "join", "--node", "a", "--ttl", "soon"],
        ["certificate", "revoke", "xyz", "--reason", "r"],
        ["identity", "register", "a", "--owner", "o", "--purpose", "p", "--label", "nope"],
        ["identity", "register", "a", "--owner", "o", "--purpose", "p", "--expires", "soon"],
        ["journal", "tail", "--after", "-1"],
        ["svid", "validate", "token"],
        ["svid", "fetch", "--audience", "a", "--write", "/nowhere"],
        ["agent", "--server", "https://a"],
        ["identity", "suspend", "a"],
        ["token", "join"],
        ["check"],
    ],
)
def test_wrong_usage_is_exit_code_2_and_sends_nothing(
    words: list[str], api: FakeApi, run: Run
) -> None:
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr
    assert api.requests == []
    for as_json in (["--json", *words], [*words[:1], "--json", *words[1:]]):
        if as_json[0] != "--json" and words[0] not in {"agent", "check"}:
            continue  # a group takes --json before or after its command, not between
        failed = run(*as_json)
        assert failed.exit_code == 2
        document = json.loads(failed.stdout)
        assert document["code"] == "invalid_usage"
        assert document["detail"]
        assert failed.stderr


def test_options_stand_before_or_after_the_command(
    api: FakeApi, data: Path, tmp_path: Path
) -> None:
    api.answers["identity.ls"] = identities.IdentityPage(items=[])
    for words in (["--json", "--data", str(data), "ps"], ["ps", "--json", "--data", str(data)]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0
        assert json.loads(result.stdout)["items"] == []
    nearer = ["--data", str(tmp_path / "gone"), "ps", "--data", str(data)]
    assert CliRunner().invoke(app, nearer).exit_code == 0


def test_the_environment_names_server_and_data(
    api: FakeApi, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.answers["identity.ls"] = identities.IdentityPage(items=[])
    monkeypatch.setenv("TROTH_DATA", str(data))
    assert CliRunner().invoke(app, ["ps"]).exit_code == 0
    monkeypatch.setenv("TROTH_URL", "https://troth.example:1")
    result = CliRunner().invoke(app, ["ps"])
    assert result.exit_code == 1
    assert "ca.pem" in result.stderr
    assert {name for name, _ in api.requests} == {"identity.ls"}


def test_the_export_lines_of_up_leave_a_local_caller_known_by_its_uid(
    api: FakeApi, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.answers["identity.ls"] = identities.IdentityPage(items=[])
    monkeypatch.setenv("TROTH_DATA", str(data))
    monkeypatch.setenv("TROTH_URL", "https://localhost:1")
    assert CliRunner().invoke(app, ["ps"]).exit_code == 0
    result = CliRunner().invoke(app, ["ps", "--url", "https://localhost:1"])
    assert result.exit_code == 1  # said so explicitly: TLS, and there is no ca.pem
    monkeypatch.delenv("TROTH_DATA")
    assert CliRunner().invoke(app, ["ps"]).exit_code != 0


@pytest.mark.parametrize("url", ["http://localhost:8443", "localhost:8443", "https://a/b"])
def test_a_url_must_be_the_server_s(url: str, run: Run) -> None:
    for words in (["--url", url, "ps"], ["doctor", "--no-agent", "--url", url]):
        result = run(*words)
        assert result.exit_code == 2
        assert "https://host:8443" in " ".join(result.stderr.replace("│", " ").split())
    assert run("agent", "--server", url, "--ca", "ca.pem").exit_code == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["token", "join", "--node", "N 3"], "a node's name has 1 to 63 of a-z, 0-9, '.' and '-'"),
        (["token", "join", "--node", "a", "--ttl", "5s"], "'ttl' must be at least 10 seconds."),
        (["identity", "show", "x" * 129], "'name' must have at most 128 characters."),
        (["certificate", "revoke", "xyz", "--reason", "r"], "a serial has up to 40 hexadecimal"),
    ],
)
def test_a_bound_is_told_in_words(words: list[str], sentence: str, run: Run) -> None:
    result = run(*words, "--json")
    assert result.exit_code == 2
    detail = json.loads(result.stdout)["detail"]
    assert sentence in detail
    assert "regex" not in detail


def test_a_socket_that_one_may_not_open_is_a_refusal(api: FakeApi, data: Path, run: Run) -> None:
    (data / "admin.sock").chmod(0)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        result = run("ps")
    finally:
        os.seteuid(me)
    assert result.exit_code == 1
    assert "may not open" in result.stderr
    assert "server's user" in result.stderr
    assert api.requests == []


def test_nothing_from_the_server_reaches_the_terminal_as_a_command(api: FakeApi, run: Run) -> None:
    evil = "pay\x1b]0;owned\x07\u202ements\n\x9b31m[red]x[/red]"
    api.answers["identity.show"] = make_identity(owner=evil, purpose=evil, name="a")
    api.answers["identity.ls"] = identities.IdentityPage(items=[make_identity(owner=evil)])
    api.answers["status.show"] = make_status(findings=[evil])
    entry = make_entry(1, subject=evil, body={"reason": evil})
    api.answers["journal.ls"] = lambda request: journal.JournalPage(
        items=[entry] if request.after < 1 else [], head=1
    )
    api.answers["identity.suspend"] = Denied(evil)
    for words in (
        ["identity", "show", "a"],
        ["ps"],
        ["top", "--once"],
        ["journal", "tail", "--after", "0"],
        ["identity", "suspend", "a", "--reason", "r"],
    ):
        result = run(*words)
        assert "[red]x[/red]" in result.output, words
        for character in "\x1b\x07\x9b\u202e":
            assert character not in result.output, words


def test_output_into_a_pipe_has_neither_colours_nor_cut_lines(
    api: FakeApi, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR")
    name = "spiffe://example.org/" + "x" * 300
    api.answers["identity.ls"] = identities.IdentityPage(items=[make_identity(spiffe_id=name)])
    command = [sys.executable, "-m", "troth", "identity", "ls", "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    header, row = done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert header.split() == ["NAME", "KIND", "STATE", "OWNER", "EXPIRES", "SPIFFE", "ID"]
    assert row.split()[-1] == name


def test_one_long_cell_fills_no_other_row(api: FakeApi, run: Run) -> None:
    long = make_identity(spiffe_id="spiffe://example.org/" + "x" * 2000)
    api.answers["identity.ls"] = identities.IdentityPage(items=[long, make_identity("b")])
    header, _, other = run("identity", "ls").stdout.splitlines()
    assert len(header) < 200
    assert len(other) < 200


def test_a_table_on_a_terminal_bounds_a_long_cell_and_a_sheet_shows_it_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "80")
    name = "spiffe://example.org/" + "x" * 2000
    Terminal(Options()).show({}, lambda: [make_table(("NAME", "SPIFFE ID"), [("a", name)])])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 6
    assert "…" in lines[-1]
    out.truncate(0)
    Terminal(Options()).show({}, lambda: [make_sheet([("SPIFFE ID", name)])])
    assert out.getvalue().count("x") == 2001  # one stands in example.org
