"""Where settings come from: one TOML file, the environment and arguments, collected and typed.

Each value keeps its source, so that whatever is wrong with it is told with the place. Only
`troth.server.config` uses this.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from troth.core.errors import Invalid
from troth.server.setting_words import Setting, describe_settings, name_environment
from troth.server.settings import Settings

MAX_FILE = 1 << 20
OTHER_VARIABLES = (
    "TROTH_URL",
    "TROTH_CONFIG",
    "TROTH_SPIFFE_ID",  # what `troth run` gives to programs
    "TROTH_SVID_FILE",
    "TROTH_SVID_KEY_FILE",
    "TROTH_BUNDLE_FILE",
    "TROTH_TOKEN_FILE",
)
"""Variables of our prefix that somebody reads and that are no settings."""

_SERVICE_VARIABLE = re.compile(
    r"TROTH(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)",
    re.ASCII,
)
"""What Kubernetes sets in every pod for a service named troth or troth-SOMETHING."""

_PLACE = re.compile(r"^(?P<what>.*?) - at `(?:key in )?\$\.?(?P<path>[^`]*)`$", re.DOTALL)


class InvalidArgument(Invalid):
    """The value that an argument gave to a setting: wrong usage of the command."""


class Reading:
    """The settings as collected so far, and where each came from."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.arguments: set[str] = set()
        self.unknown_variables: list[str] = []
        self.open_files: set[str] = set()
        """Files that anybody on this machine may read."""
        self.known = {setting.name: setting for setting in describe_settings()}

    def put(self, name: str, value: Any, source: str) -> None:
        *tables, last = name.split(".")
        place = self.tree
        for table in tables:
            place = place.setdefault(table, {})
        place[last] = value
        self.sources[name] = source

    def add_file(self, path: Path) -> None:
        if path.exists() and path.stat().st_mode & stat.S_IROTH:
            self.open_files.add(str(path))
        for name, value in _walk(_read_toml(path), "", self._tables()):
            if name not in self.known:
                raise Invalid(f"{path}: there is no setting {name}{_suggest(name, self.known)}")
            self.put(name, value, str(path))

    def add_environment(self, environ: Mapping[str, str]) -> None:
        variables = {name_environment(name): name for name in self.known}
        for variable in sorted(environ):
            if not variable.startswith("TROTH_"):
                continue
            name = variables.get(variable)
            if name is not None:
                self.put(name, _read_text(environ[variable], self.known[name], variable), variable)
            # Other variables of that prefix may be none of ours: TROTH_URL is the command line's,
            # and Kubernetes makes TROTH_PORT for a service named troth. A near miss is a slip.
            elif near := difflib.get_close_matches(variable, variables, n=1, cutoff=0.9):
                raise Invalid(f"There is no setting {variable}; did you mean {near[0]}?")
            elif variable not in OTHER_VARIABLES and not _SERVICE_VARIABLE.fullmatch(variable):
                self.unknown_variables.append(variable)

    def convert(self) -> Settings:
        try:
            return msgspec.convert(self.tree, Settings, str_keys=True)
        except msgspec.ValidationError as error:
            raise self._explain(str(error)) from error

    def blame(self, name: str, message: str) -> Invalid:
        """An error about the setting `name`, with where its value came from."""
        kind = InvalidArgument if name in self.arguments else Invalid
        return kind(f"{self.sources.get(name, 'the default')}: {name}: {message}")

    def _explain(self, error: str) -> Invalid:
        match = _PLACE.match(error)
        what, path = (match["what"], match["path"]) if match else (error, "")
        name = path.split("[", 1)[0]
        setting = self.known.get(name)
        hint = f" ({setting.help})" if setting else ""
        inner = path.removeprefix(name).rpartition(".")[2]  # within a table of a list
        place = f"{inner}: " if inner and "[" not in inner else ""
        return self.blame(name, f"{place}{what[:1].lower()}{what[1:]}{hint}")

    def _tables(self) -> frozenset[str]:
        return frozenset(name.rpartition(".")[0] for name in self.known) - {""}


def _walk(
    tree: Mapping[str, Any], prefix: str, tables: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = prefix + key
        if name in tables and isinstance(value, dict):
            yield from _walk(value, f"{name}.", tables)
        else:
            yield name, value


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:
        tail = name.rpartition(".")[2]
        near = [full for full in known if full.rpartition(".")[2] == tail][:1]
    return f"; did you mean {near[0]}?" if near else "."


def read_trusted(path: Path) -> bytes:
    """A file that decides something; `Invalid` if it can't be read or anybody may write it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise Invalid(f"the file can't be read: {error.strerror}.") from error
    if mode & stat.S_IWOTH:
        raise Invalid("anybody may write this file; run chmod o-w on it.")
    if len(content) > MAX_FILE:
        raise Invalid(f"the file has more than {MAX_FILE:,} bytes.")
    return content


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        content = read_trusted(path)
    except Invalid as error:
        raise Invalid(f"{path}: {error.detail}") from error
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise Invalid(f"{path}: the file is not UTF-8; save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError; an endless integer
        raise Invalid(f"{path}: not TOML: {error}.") from error


def _read_text(text: str, setting: Setting, variable: str) -> Any:
    """The value of an environment variable, by the setting's type; tables are JSON."""
    if setting.type == "integer":
        if not re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
            raise Invalid(f"{variable}: {setting.name}: expected a whole number. {setting.help}")
        return int(text)
    if setting.type == "number":
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII):
            raise Invalid(f"{variable}: {setting.name}: expected a number. {setting.help}")
        return float(text)
    if setting.type == "boolean":
        if text not in ("true", "false"):
            raise Invalid(f"{variable}: {setting.name}: expected true or false. {setting.help}")
        return text == "true"
    if setting.type == "table":
        try:
            return msgspec.json.decode(text, type=dict[str, str])
        except (msgspec.DecodeError, UnicodeError) as error:
            raise Invalid(
                f'{variable}: {setting.name}: expected a JSON object such as {{"1000": "admin"}}.'
            ) from error
    if setting.type == "tables":
        try:
            return msgspec.json.decode(text, type=list[dict[str, Any]])
        except (msgspec.DecodeError, UnicodeError) as error:
            raise Invalid(
                f"{variable}: {setting.name}: expected a JSON array of objects."
            ) from error
    return text
