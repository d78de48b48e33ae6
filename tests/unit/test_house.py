"""The rules of the house that no linter knows; CONTRIBUTING.md says what they are for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "troth"

LONGEST_FILE = 500
LONGEST_FUNCTION = 60

# Names that say nothing about what is inside, so that everything ends up there.
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}

# Reading the time or randomness anywhere but here takes a test's control away.
DOORS = {"core/clock.py", "core/entropy.py"}
TIME_AND_CHANCE = re.compile(
    r"^(time\.(time|time_ns|monotonic|monotonic_ns|perf_counter|perf_counter_ns)"
    r"|(datetime\.)?(datetime|date)\.(now|utcnow|today)"
    r"|(secrets|random)\.(?!compare_digest)\w+(\.\w+)*"
    r"|os\.(urandom|getrandom)"
    r"|uuid\.uuid[1-8])$"
)

# Settings come in at one place, so that they can be listed, documented and tested.
READS_ENVIRONMENT = {
    "server/config.py": "the only reader of the server's settings",
    "server/reading.py": "the half of it that opens the file",
    "cli/": "TROTH_URL, TROTH_DATA and TROTH_TOKEN are a person's settings",
}
ENVIRONMENT = re.compile(r"^os\.(environ|environb|getenv|putenv)(\.|$)")


def _python_files(*folders: str) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.endswith("_pb2.py")  # generated
    )


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _where(path: Path, node: ast.AST | None = None) -> str:
    line = getattr(node, "lineno", None)
    place = path.relative_to(ROOT).as_posix()
    return f"{place}:{line}" if line else place


def _room_path(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """What a local name stands for: `from time import monotonic as m`: m is time.monotonic."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _uses(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every use of an imported name, spelled out in full: `dt.now` gives datetime.datetime.now."""
    tree = _tree(path)
    names = _imported_names(tree)
    for node in ast.walk(tree):
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in names:
            yield node, ".".join([names[inner.id], *reversed(parts)])


def test_no_file_is_longer_than_one_sitting() -> None:
    too_long = [
        f"{_where(path)}: {lines} lines, at most {LONGEST_FILE}"
        for path in _python_files("src", "tests", "benchmarks")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE
    ]
    assert not too_long, "\n".join(too_long)


def test_no_function_needs_scrolling() -> None:
    too_long = []
    for path in _python_files("src"):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    too_long.append(
                        f"{_where(path, node)}: {node.name} has {lines} lines, "
                        f"at most {LONGEST_FUNCTION}"
                    )
    assert not too_long, "\n".join(too_long)


def test_every_module_is_named_after_what_it_holds() -> None:
    nameless = [
        _where(path)
        for path in [PACKAGE, *PACKAGE.rglob("*"), *_python_files("tests", "benchmarks")]
        if (path.is_dir() or path.suffix == ".py") and path.stem.strip("_") in EMPTY_NAMES
    ]
    assert not nameless, "\n".join(nameless)


def test_every_module_says_why_it_is_there() -> None:
    silent = [_where(path) for path in _python_files("src") if not ast.get_docstring(_tree(path))]
    assert not silent, "no module docstring:\n" + "\n".join(silent)


def test_time_and_chance_come_in_through_one_door_each() -> None:
    elsewhere = [
        f"{_where(path, node)}: {name}"
        for path in _python_files("src")
        if _room_path(path) not in DOORS
        for node, name in _uses(path)
        if TIME_AND_CHANCE.match(name)
    ]
    assert not elsewhere, "take a Clock or an Entropy instead:\n" + "\n".join(elsewhere)


def test_only_the_store_speaks_sql() -> None:
    elsewhere = [
        f"{_where(path, node)}: {name}"
        for path in _python_files("src")
        if not _room_path(path).startswith("store/")
        for node, name in _imports(path)
        if name.split(".")[0] in {"sqlalchemy", "alembic", "sqlite3", "psycopg"}
    ]
    assert not elsewhere, "\n".join(elsewhere)


def test_settings_are_read_in_one_place() -> None:
    elsewhere = [
        f"{_where(path, node)}: {name}"
        for path in _python_files("src")
        if not _room_path(path).startswith(tuple(READS_ENVIRONMENT))
        for node, name in _uses(path)
        if ENVIRONMENT.match(name) or name.split(".")[0] in {"tomllib", "configparser"}
    ]
    assert not elsewhere, "\n".join(elsewhere)


def test_the_command_line_loads_the_server_only_when_it_starts_one() -> None:
    eager = [
        f"{_where(path, node)}: {name}"
        for path in _python_files("src/troth/cli")
        for node, name in _imports(path, top_level=True)
        if name.startswith(("troth.server", "litestar", "uvicorn"))
    ]
    assert not eager, "import it inside the function:\n" + "\n".join(eager)


def test_nothing_is_left_for_later_without_an_issue() -> None:
    left = [
        f"{_where(path)}:{number}: {line.strip()}"
        for path in _python_files("src")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line)
    ]
    assert not left, "\n".join(left)


@pytest.mark.parametrize("name", ["runtime.txt", "dev.txt"])
def test_a_lock_file_holds_versions_and_hashes_alone(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        place = f"requirements/{name}:{number}: {line}"
        assert "://" not in line, place
        assert not re.search(r"(^|\s)(-i|-f|--(?!hash=)[a-z-]+)\b", line), place
        assert not re.search(r"(^|[\s(])/\w", line), place  # a path of the machine it was made on
        assert not re.search(r"@|\b[\w-]+\.(org|com|net|io|dev)\b", line), place
    pins = _pins(text)
    assert pins
    assert text.count("==") == len(pins)
    for package, (_, hashes) in pins.items():
        assert hashes, f"{package} has no hash"


def test_both_lock_files_agree() -> None:
    runtime, dev = (
        _pins((ROOT / "requirements" / name).read_text(encoding="utf-8"))
        for name in ("runtime.txt", "dev.txt")
    )
    differing = {name: pin for name, pin in runtime.items() if dev.get(name) != pin}
    assert not differing, "run `make lock`"


def test_no_two_packages_that_run_with_troth_own_the_same_file() -> None:
    # Else who is installed last has it, and pip installs in no order that one could rely on.
    runtime = _pins((ROOT / "requirements" / "runtime.txt").read_text(encoding="utf-8"))
    owners: dict[str, set[str]] = {}
    for dist in distributions():
        if canonicalize_name(dist.name) in runtime:
            for file in dist.files or ():
                if not file.name.endswith(".pyc"):
                    owners.setdefault(str(file), set()).add(dist.name)
    assert owners
    shared = sorted(f"{file}: {names}" for file, names in owners.items() if len(names) > 1)
    assert not shared, "\n".join(shared)


def test_the_pins_fit_the_oldest_python_that_we_promise() -> None:
    # What was locked with a newer 3.11 needn't install on Debian 12's 3.11.2.
    lines = (ROOT / "requirements" / "interop.txt").read_text(encoding="utf-8").splitlines()
    foreign = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    wrong = [
        f"{dist.name} {dist.version} needs Python {wants}"
        for dist in distributions()
        if canonicalize_name(dist.name) not in foreign  # see scripts/venv.sh
        and (wants := dist.metadata["Requires-Python"])
        and "3.11.0" not in SpecifierSet(wants)
    ]
    assert not wrong, "set an upper bound in pyproject.toml:\n" + "\n".join(wrong)


def test_continuous_integration_runs_the_readme_s_test_command() -> None:
    commands = [
        line
        for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("#", "set ", "cd "))
    ]
    assert commands == ["make test"]


def _imports(path: Path, *, top_level: bool = False) -> Iterator[tuple[ast.AST, str]]:
    """Each imported module's full name; with `top_level`, only what importing the file loads."""
    queue: list[ast.AST] = [_tree(path)]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)
        if top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if top_level and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            queue.extend(node.orelse)
            continue
        queue.extend(ast.iter_child_nodes(node))


def _pins(text: str) -> dict[str, tuple[str, frozenset[str]]]:
    pins: dict[str, tuple[str, frozenset[str]]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", "\n" + text, flags=re.IGNORECASE)[1:]:
        match = re.match(r"([\w.-]+)==(\S+)", entry)
        assert match, entry
        hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry))
        pins[match[1]] = (match[2], hashes)
    return pins
