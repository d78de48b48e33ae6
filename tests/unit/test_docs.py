"""The documentation says what the code does: nothing is missing, nothing is there that has gone."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import typer.main

from tests.fakes.envoy import validate_envoy
from tests.fakes.machines import Maker
from troth.agent.call import STATUS as GRPC
from troth.agent.metrics import AgentMetrics
from troth.cli.demonstration.story import ACTS
from troth.cli.folder import SPIFFE_ID_VARIABLE, VARIABLES
from troth.cli.main import app
from troth.cli.targets import TargetFile
from troth.core.errors import KINDS
from troth.core.manifest.field import METADATA
from troth.core.manifest.problem import Limits
from troth.identity.client_fields import CLIENT
from troth.identity.fields import SPEC, TTL
from troth.identity.issuer_fields import ISSUER_SPEC
from troth.identity.lifecycle import PAST
from troth.identity.selectors import KNOWN
from troth.identity.template_fields import TEMPLATE_SPEC, TEMPLATE_TTL
from troth.manifests.reading import parse_manifests
from troth.operations.gate import TARGETED
from troth.policy.permissions import BESIDES, ROLES
from troth.policy.policy_manifest import POLICY_SPEC, SEGMENT_SPEC
from troth.policy.resource_manifest import RESOURCE_SPEC, TOKEN
from troth.policy.role_manifest import ROLE_SPEC
from troth.policy.system import list_system_resources, name_system_resource
from troth.server.config import load_config
from troth.server.http.problems import STATUS as HTTP
from troth.server.metrics import Metrics
from troth.server.setting_words import describe_settings, name_environment
from troth.wire.api.problems import parse_problem
from troth.wire.api.routes import ROUTES
from troth.wire.authzen.routes import AUTHZEN_PATHS
from troth.wire.oauth.routes import OAUTH_ROUTES
from troth.wire.yaml import load_documents

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "troth"
REFERENCE = DOCS / "reference"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("examples/**/*.md"))]
NOW = datetime(2026, 11, 1, tzinfo=UTC)
COMMON = {"--json", "--data", "--url", "--help"}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def find_blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = read(page)
        for match in re.finditer(r"^( *)```(\w+)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
            if match[2] in languages:
                line = text.count("\n", 0, match.start()) + 1
                body = textwrap.dedent(match[3])
                found.append(Block(str(page.relative_to(ROOT)), line, match[2], body))
    return found


def read_rows(text: str) -> list[list[str]]:
    """The cells of all table rows, headers and rulers left out."""
    lines = text.splitlines()
    rows = []
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        header = bool(re.fullmatch(r"\|[-| ]+\|", following))
        if line.startswith("|") and not header and not re.fullmatch(r"\|[-| ]+\|", line):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip() for cell in cells])
    return rows


def plain(cell: str) -> str:
    return cell.strip("`")


def find_section(text: str, heading: str) -> str:
    """What stands below `heading` until the next heading of the same level."""
    level = heading.split(" ", 1)[0]
    after = text.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{2,{len(level)}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


# The reference, page by page


def describe_roles(name: str) -> str:
    order = ("admin", "operator", "auditor", "node", "workload", "device", "anyone")
    holders = [role for role in order if name in ROLES[role]]
    return "anyone" if "anyone" in holders else ", ".join(holders)


def test_operations_stand_with_route_and_roles():
    rows = {plain(row[0]): row for row in read_rows(read(REFERENCE / "operations.md"))}
    documented = {name for name in rows if re.fullmatch(r"[a-z_]+\.[a-z_]+", name)}
    assert documented == {route.name for route in ROUTES} | OAUTH_ROUTES.keys()
    for name, where in OAUTH_ROUTES.items():
        assert [plain(cell) for cell in rows[name][1:3]] == ["POST", where]
        assert rows[name][3].startswith(describe_roles(name))
    for route in ROUTES:
        _, method, path, roles, commands, summary = rows[route.name]
        assert (method, plain(path)) == (route.method, route.path)
        assert roles == describe_roles(route.name), route.name
        assert summary == route.summary
        for command in re.findall(r"`troth ([^`]+)`", commands):
            parse_command(shlex.split(command), lenient=True)


def test_every_permission_stands_with_its_resource():
    rows = read_rows(find_section(read(REFERENCE / "permissions.md"), "## Resources and actions"))
    documented = {plain(row[0]): re.findall(r"`([^`]+)`", row[1]) for row in rows}
    known = {one.name: list(one.actions) for one in list_system_resources()}
    assert documented == known
    targeted = {name_system_resource(name) for name in TARGETED | BESIDES}
    assert {plain(row[0]) for row in rows if row[2] != "none"} == targeted


def test_every_setting_stands_with_default_and_variable():
    rows = {plain(row[0]): row for row in read_rows(read(REFERENCE / "settings.md"))}
    assert set(rows) == {setting.name for setting in describe_settings()}
    for setting in describe_settings():
        row = rows[setting.name]
        assert (plain(row[2]), plain(row[3])) == (setting.default, name_environment(setting.name))


def test_every_event_type_and_its_fields():
    types, fields = collect_events()
    text = read(REFERENCE / "events.md")
    documented = {plain(row[0]) for row in read_rows(text)}
    documented = {name for name in documented if re.fullmatch(r"[a-z_]+\.[a-z_]+", name)}
    assert documented == types
    assert not {field for field in fields if f"`{field}`" not in text}


EVENT_MAKERS = (
    "make_event",
    "record_event",
    "record_once",
    "record_identity",
    "record_authority",
    "_note",
    "_describe",
)


def collect_events() -> tuple[set[str], set[str]]:
    """Event types and body fields, from the calls that record them."""
    types: set[str] = set()
    fields: set[str] = set()
    paths = [*(PACKAGE / "operations").glob("*.py"), PACKAGE / "server" / "logwiring.py"]
    for path in (*paths, PACKAGE / "store" / "sealer.py"):
        tree = ast.parse(read(path))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in EVENT_MAKERS:
                fields |= {one.arg for one in node.keywords if one.arg not in (None, "mark")}
            if name == "Event" and node.args and isinstance(node.args[0], ast.Constant):
                types |= read_types(node.args[0], tree)
            elif name in ("record_event", "record_once"):
                types |= read_types(node.args[2], tree)
            elif name == "make_event" and not isinstance(node.args[1], ast.Name):
                types |= read_types(node.args[1], tree)
            elif name == "record_authority":
                types.add(f"authority.{ast.literal_eval(node.args[2])}")
            elif name == "record_identity":
                types |= {f"identity.{verb}" for verb in read_verbs(node.args[2])}
    return types, fields


def name_function(call: ast.Call) -> str:
    return str(getattr(call.func, "id", "") or getattr(call.func, "attr", ""))


def read_types(argument: ast.expr, tree: ast.Module) -> set[str]:
    if isinstance(argument, ast.Constant):
        return {str(argument.value)}
    assert isinstance(argument, ast.JoinedStr), ast.dump(argument)
    noun = str(argument.values[0].value)  # type: ignore[attr-defined]
    if noun in ("identity.", "authority."):
        return set()  # read from the calls of record_identity and record_authority
    # The verbs are handed on inside the module, as plain texts.
    handed = [
        node
        for node in ast.walk(tree)
        if (isinstance(node, ast.Call) and name_function(node) in ("_note", "_add", "_describe"))
        or isinstance(node, ast.IfExp)
    ]
    texts = {
        str(inner.value)
        for node in handed
        for inner in ast.iter_child_nodes(node)
        if isinstance(inner, ast.Constant)
    }
    verbs = {text for text in texts if re.fullmatch(r"[a-z]{3,}ed", text)}
    assert verbs, f"no verbs found for {noun}"
    return {noun + verb for verb in verbs}


def read_verbs(argument: ast.expr) -> set[str]:
    if isinstance(argument, ast.Constant):
        return {str(argument.value)}
    assert "PAST" in ast.dump(argument)
    return set(PAST.values())


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("metadata", METADATA),
        ("spec", SPEC),
        ("spec.ttl", TTL),
        ("spec.client", CLIENT),
        ("Role.spec", ROLE_SPEC),
        ("Resource.spec", RESOURCE_SPEC),
        ("Policy.spec", POLICY_SPEC),
        ("Segment.spec", SEGMENT_SPEC),
        ("Issuer.spec", ISSUER_SPEC),
        ("Resource.spec.token", TOKEN),
        ("Template.spec", TEMPLATE_SPEC),
        ("Template.spec.ttl", TEMPLATE_TTL),
    ],
)
def test_every_manifest_field(heading, fields):
    section = find_section(read(REFERENCE / "manifests.md"), f"## `{heading}`")
    rows = {plain(row[0]): row for row in read_rows(section)}
    assert set(rows) == {field.name for field in fields}
    for field in fields:
        assert (rows[field.name][1] == "yes") == field.required, field.name


def test_every_selector():
    rows = {plain(row[0]) for row in read_rows(read(REFERENCE / "selectors.md"))}
    assert rows == set(KNOWN)


def test_every_error_with_its_statuses():
    rows = {plain(row[0]): row for row in read_rows(read(REFERENCE / "errors.md"))}
    assert set(rows) == {kind.code for kind in KINDS}
    for kind in KINDS:
        assert rows[kind.code][2] == str(HTTP[kind.code])
        assert plain(rows[kind.code][3]) == GRPC[kind].name


def test_every_metric_and_background_task():
    text = read(REFERENCE / "metrics.md")
    server, agent = Metrics(), AgentMetrics()
    every = {
        "anyone": server.render(full=False),
        "callers": server.render(full=True)[len(server.render(full=False)) :],
        "agent": agent.render(),
    }
    shown = {
        (name, kind, who)
        for who, scrape in every.items()
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)", scrape.decode(), re.MULTILINE)
        if name.startswith("troth_") and not name.endswith("_created")
    }
    rows = {plain(row[0]): row for row in read_rows(text) if len(row) == 5}
    assert {(name, row[1], row[3]) for name, row in rows.items()} == shown
    tasks = set()
    for path in (PACKAGE / "server").glob("*.py"):
        tasks |= set(re.findall(r'\bTask\("([^"]+)"|^FEED = "([^"]+)"', read(path), re.MULTILINE))
    assert not [name for pair in tasks for name in pair if name and f"`{name}`" not in text]


def walk_commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    loaded = command.load() if hasattr(command, "load") else command
    if hasattr(loaded, "commands"):
        for name, inner in loaded.commands.items():
            yield from walk_commands(inner, (*words, name))
    else:
        yield " ".join(words), loaded


def test_every_command_with_its_options():
    text = read(REFERENCE / "cli.md")
    commands = dict(walk_commands(typer.main.get_command(app)))
    assert set(re.findall(r"^### troth (.+)$", text, re.MULTILINE)) == set(commands)
    for name, command in commands.items():
        section = find_section(text, f"### troth {name}")
        written = set(re.findall(r"`(-[\w-]+)`", "\n".join(r[0] for r in read_rows(section))))
        options = {
            flag
            for parameter in command.params
            if parameter.param_type_name == "option"
            for flag in (*parameter.opts, *parameter.secondary_opts)
        }
        assert written == options - COMMON, name
        assert command.help.split("\n", 1)[0] in section, name


# Everything that a page names exists


def test_files_tests_and_demo_steps_exist():
    missing = []
    for page in PAGES:
        text = read(page)
        for name in re.findall(r"`((?:tests|src|docs|scripts)/[\w/.-]+\.(?:py|md|sh))[`:]", text):
            missing += [] if (ROOT / name).exists() else [f"{page.name}: {name}"]
        for name in re.findall(r"`([a-z]+/[\w/]+\.py)`", text):
            missing += [] if any((b / name).exists() for b in (PACKAGE, ROOT)) else [name]
        for name, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
            defined = (ROOT / name).exists() and f"def {test}(" in read(ROOT / name)
            missing += [] if defined else [f"{page.name}: {name}::{test}"]
        for step in re.findall(r"`troth demo`, step \*([a-z]+)\*", text):
            missing += [] if step in {act.name for act in ACTS} else [f"demo step {step}"]
    assert not missing


def test_what_is_shown_of_revocation_names_its_evidence_or_says_there_is_none():
    rows = read_rows(read(DOCS / "explanation" / "revocation-reach.md"))
    assert len(rows) > 60
    for row in rows:
        shown = row[-1]
        tests = re.findall(r"`(tests/[^`]+)`", shown)
        assert tests or "`troth demo`, step *" in shown or "not tested" in shown, row
        assert all(re.fullmatch(r"tests/[\w/]+\.py::\w+", name) for name in tests), row


def test_paths_of_the_api_exist():
    known = [re.sub(r"{\w+}", r"[^/]+", route.path) for route in ROUTES] + ["/v1/openapi.json"]
    known += AUTHZEN_PATHS
    for page in PAGES:
        for path in re.findall(r"((?:/access)?/v1/[\w/{}.-]+)", read(page)):
            assert any(re.fullmatch(pattern, path.rstrip(".")) for pattern in known), path


def test_variables_exist():
    known = {name_environment(s.name) for s in describe_settings()} | {"TROTH_URL", "TROTH_CONFIG"}
    known |= {*VARIABLES, SPIFFE_ID_VARIABLE}
    for page in PAGES:
        named = set(re.findall(r"\bTROTH_[A-Z][A-Z_]*\b", read(page)))
        assert named <= known, (page.name, named - known)


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", read(ROOT / "README.md"))
    assert len(links) > 10
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]


def test_decisions_are_numbered_without_a_gap():
    pages = sorted((DOCS / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for number, page in enumerate(pages, 1):
        assert read(page).startswith(f"# {number}. ")
        parts = re.findall(r"^## (\w+)", read(page), re.MULTILINE)
        assert parts == ["Context", "Decision", "Consequences"], page.name


# Examples


def list_commands() -> list[tuple[str, list[str]]]:
    """Every `troth …` and `make …` of a console block, as words."""
    found = []
    for block in find_blocks("console"):
        script = block.text.replace("\\\n", " ")
        for line in script.splitlines():
            if not line.startswith("$ "):
                continue
            lexer = shlex.shlex(
                re.sub(r"\$\$|\$\([^)]*\)", "1", line[2:]), posix=True, punctuation_chars=True
            )
            lexer.whitespace_split = True
            for part in split_words(list(lexer)):
                words = part[part.index("troth") :] if "troth" in part else part
                if words and words[0] in ("troth", "make"):
                    found.append((str(block), words))
    return found


def split_words(words: list[str]) -> Iterator[list[str]]:
    """The commands of a line; what is redirected is left out."""
    part: list[str] = []
    for word in words:
        if word in ("|", "&&", ";", "<", ">"):
            yield part
            part = []
        else:
            part.append(word)
    yield part


def parse_command(words: list[str], *, lenient: bool = False) -> None:
    """Let the command line read `words` without running anything.

    With `lenient` required arguments may be missing.
    """
    command: Any = typer.main.get_command(app)
    context: Any = None
    while True:
        name = "troth" if context is None else words[0]
        given = words if context is None else words[1:]
        context = command.make_context(name, given, parent=context, resilient_parsing=lenient)
        command = context.command
        if not hasattr(command, "commands"):
            return
        words = [*getattr(context, "_protected_args", ()), *context.args]
        assert words, "a group needs a command"
        command = command.commands[words[0]]


def test_commands_in_console_blocks_are_understood():
    commands = list_commands()
    assert len(commands) > 80
    targets = set(re.findall(r"^([a-z%-]+):.*##", read(ROOT / "Makefile"), re.MULTILINE))
    for place, words in commands:
        try:
            if words[0] == "make":
                assert all(word in targets or "=" in word for word in words[1:])
            else:
                parse_command(words[1:])
        except Exception as error:  # whatever it is, the reader would meet it
            pytest.fail(f"{place}: {shlex.join(words)}: {type(error).__name__}: {error}")


@pytest.mark.parametrize("block", find_blocks("yaml"), ids=str)
def test_yaml_is_a_manifest_or_an_envoy(block: Block, tmp_path: Path):
    if "apiVersion:" in block.text:
        documents = load_documents(block.text.encode(), str(block))
        parsed = parse_manifests(documents, Limits(), NOW)
        assert documents
        assert not parsed.errors
        assert not parsed.warnings
    else:
        validate_envoy(block.text, tmp_path)


@pytest.mark.parametrize("block", find_blocks("toml"), ids=str)
def test_toml_is_settings_or_targets(block: Block, tmp_path: Path):
    if "[[files]]" in block.text:
        targets = msgspec.convert(tomllib.loads(block.text), TargetFile)
        assert targets.files
        return
    path = tmp_path / "troth.toml"
    text = block.text
    if "[roles.spiffe_ids]" in text:
        domain = re.search(r"spiffe://([a-z.]+)/", text)
        assert domain is not None
        text = f'trust_domain = "{domain[1]}"\n{text}'
    if "[x509pop]" in text:
        makers = tmp_path / "makers.pem"
        makers.write_bytes(Maker("Acme root").pem)
        text = re.sub(r'authorities = ".+"', f'authorities = "{makers}"', text)
    path.write_text(text, encoding="utf-8")
    load_config(data=tmp_path, config_file=path, environ={})


@pytest.mark.parametrize("block", find_blocks("json"), ids=str)
def test_json_is_a_problem_document(block: Block):
    problem = parse_problem(block.text.encode())
    assert problem is not None
    assert problem.status == HTTP[problem.code]


@pytest.mark.parametrize("block", find_blocks("python"), ids=str)
def test_python_compiles(block: Block):
    compile(block.text, str(block), "exec")
