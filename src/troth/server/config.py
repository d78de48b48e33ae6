"""The only reader of the server's settings: arguments, environment and one TOML file.

An argument beats the environment, which beats the file, which beats the default. Whatever is of
the wrong type or out of bounds, or misspelt in the file, stops the start with a sentence that says
where it stands and what to write instead; nothing is guessed. Only variables of the environment
that resemble no setting are left alone, since others use our prefix too; they are kept for a
warning.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from troth.core.errors import Invalid
from troth.core.ids import SpiffeId, TrustDomain
from troth.policy.permissions import GRANTABLE
from troth.server.settings import (
    OUTAGE,
    Crl,
    Limits,
    Log,
    Setting,
    Settings,
    Ttl,
    describe_settings,
    name_environment,
)

__all__ = [
    "Config",
    "InvalidArgument",
    "Setting",
    "describe_settings",
    "load_config",
    "settle_ports",
]

CONFIG_FILE = "troth.toml"
MAX_FILE = 1 << 20
SYSTEM_DATA = Path("/var/lib/troth")
PERSONAL_DATA = Path(".local/share/troth")
AGENT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
OTHER_VARIABLES = ("TROTH_URL", "TROTH_CONFIG")
"""Variables of our prefix that somebody reads and that are no settings."""

_SERVICE_VARIABLE = re.compile(
    r"TROTH(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)",
    re.ASCII,
)
"""What Kubernetes sets in every pod for a service named troth or troth-SOMETHING."""

_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104 - recognised, never chosen
_PLACE = re.compile(r"^(?P<what>.*?) - at `(?:key in )?\$\.?(?P<path>[^`]*)`$", re.DOTALL)


class InvalidArgument(Invalid):
    """The value that an argument gave to a setting: wrong usage of the command."""


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address to listen on; port 0 lets the system pick one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Keystore:
    """Which keystore driver to load, and where its key-encryption key comes from.

    `key_encryption_key` is ``file:PATH``, ``env:NAME`` or ``command:…``; `secret` is the value of
    the named environment variable for ``env:``, since nothing else may read the environment.
    """

    driver: str
    key_encryption_key: str
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Roles:
    """Role of each uid on the admin socket and of each SPIFFE ID on the mutual-TLS listener."""

    uids: Mapping[int, str]
    spiffe_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Config:
    """All that the server was told, checked and complete; what each part means: `Settings`."""

    data: Path
    trust_domain: TrustDomain
    origin: str
    lease: int
    public: Address
    mutual: Address
    database: str = field(repr=False)  # may hold a password
    keystore: Keystore
    roles: Roles
    ttl: Ttl
    limits: Limits
    crl: Crl
    log: Log
    agent_environ: Mapping[str, str] = field(repr=False)
    """What the local agent gets of our environment: none of the secrets that may be in there."""

    unknown_variables: tuple[str, ...] = ()
    """Names of ``TROTH_…`` variables that nobody reads; the start warns of them."""

    @property
    def admin_socket(self) -> Path:
        """Where the local admin listens."""
        return self.data / "admin.sock"

    @property
    def admin_socket_mode(self) -> int:
        """0600, unless other uids than root and the server's own have a role."""
        return 0o666 if set(self.roles.uids) - {0, os.geteuid()} else 0o600


def load_config(
    *,
    data: Path | None = None,
    listen: str | None = None,
    database: str | None = None,
    trust_domain: str | None = None,
    config_file: Path | None = None,
    environ: Mapping[str, str],
) -> Config:
    """Read and check all settings; raises `Invalid` with the place and the remedy, of the kind
    `InvalidArgument` if the value came from an argument.

    `listen` is the public address; the mutual-TLS listener then takes the next port unless it is
    set itself. Without `config_file`, TROTH_CONFIG names the file, or it is ``troth.toml`` in the
    data directory if that exists.
    """
    arguments = {
        "data": data and str(data),
        "listen.public": listen,
        "database.url": database,
        "trust_domain": trust_domain,
    }
    reading = _Reading()
    file = _find_file(data, config_file, environ)
    if file is not None:
        reading.add_file(file)
    reading.add_environment(environ)
    for name, value in arguments.items():
        if value is not None:
            reading.put(name, value, f"the argument for {name}")
            reading.arguments.add(name)
    return _resolve(reading.convert(), reading, environ)


def settle_ports(config: Config, public: int, mutual: int) -> Config:
    """`config` with the ports that the system picked; a derived origin follows."""
    settled = replace(
        config,
        public=replace(config.public, port=public),
        mutual=replace(config.mutual, port=mutual),
    )
    if config.origin == _derive_origin(config.public):
        return replace(settled, origin=_derive_origin(settled.public))
    return settled


class _Reading:
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
        return self.blame(name, f"{what[:1].lower()}{what[1:]}{hint}")

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


def _find_file(data: Path | None, given: Path | None, environ: Mapping[str, str]) -> Path | None:
    if given is not None:
        return given
    if named := environ.get("TROTH_CONFIG"):
        return Path(named)
    usual = (data or _choose_data(environ.get("TROTH_DATA", ""), environ)) / CONFIG_FILE
    return usual if usual.exists() else None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise Invalid(f"{path}: the configuration can't be read: {error.strerror}.") from error
    if mode & stat.S_IWOTH:
        raise Invalid(f"{path}: anybody may write this file; run chmod o-w on it.")
    if len(content) > MAX_FILE:
        raise Invalid(f"{path}: the file has more than {MAX_FILE:,} bytes.")
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
    if setting.type == "table":
        try:
            return msgspec.json.decode(text, type=dict[str, str])
        except (msgspec.DecodeError, UnicodeError) as error:
            raise Invalid(
                f'{variable}: {setting.name}: expected a JSON object such as {{"1000": "admin"}}.'
            ) from error
    return text


def _resolve(settings: Settings, reading: _Reading, environ: Mapping[str, str]) -> Config:
    data = _choose_data(settings.data, environ)
    public = _parse_address("listen.public", settings.listen.public, reading)
    mutual = (
        _parse_address("listen.mutual", settings.listen.mutual, reading)
        if settings.listen.mutual
        else _follow_address(public, reading)
    )
    if public == mutual and public.port:
        raise reading.blame("listen.mutual", "must differ from listen.public.")
    trust_domain = _parse_domain(settings.trust_domain, reading)
    _check_spans(settings, reading)
    keystore = _resolve_keystore(settings, data, reading, environ)
    return Config(
        data=data,
        trust_domain=trust_domain,
        origin=_check_origin(settings.origin, reading) or _derive_origin(public),
        lease=settings.lease,
        public=public,
        mutual=mutual,
        database=_check_database(settings.database.url or f"sqlite:///{data}/troth.db", reading),
        keystore=keystore,
        roles=_resolve_roles(settings, trust_domain, reading),
        ttl=settings.ttl,
        limits=settings.limits,
        crl=settings.crl,
        log=settings.log,
        agent_environ={
            name: value
            for name, value in environ.items()
            if name in AGENT_VARIABLES or name.startswith("PYTHON")
        },
        unknown_variables=tuple(
            name
            for name in reading.unknown_variables
            if keystore.key_encryption_key != f"env:{name}"
        ),
    )


def _choose_data(chosen: str, environ: Mapping[str, str]) -> Path:
    if chosen and not chosen.startswith("~/"):
        return Path(chosen).absolute()
    if not chosen and os.geteuid() == 0:
        return SYSTEM_DATA
    home = Path(environ.get("HOME") or "~").expanduser()
    return (home / chosen[2:]).absolute() if chosen else home / PERSONAL_DATA


def _parse_address(name: str, text: str, reading: _Reading) -> Address:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise reading.blame(name, f"{text!r}: put the IPv6 address in brackets: [::1]:8443.")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII):
        raise reading.blame(name, f"{text!r} is not host:port, such as localhost:8443.")
    if not re.fullmatch(r"[A-Za-z0-9._:%-]{1,253}", host, re.ASCII) or int(port) > 65535:
        raise reading.blame(name, f"{text!r} is not host:port with a port up to 65535.")
    return Address(host, int(port))


def _follow_address(public: Address, reading: _Reading) -> Address:
    if public.port == 65535:
        raise reading.blame(
            "listen.public", "there is no port after 65535: set listen.mutual as well."
        )
    return Address(public.host, public.port + 1 if public.port else 0)


def _derive_origin(public: Address) -> str:
    host = "localhost" if public.host in _WILDCARDS else public.host
    return f"https://{Address(host, public.port)}"


def _check_origin(origin: str, reading: _Reading) -> str:
    if not origin:
        return ""
    try:
        parts = urlsplit(origin)
        plain = parts.scheme == "https" and parts.hostname and parts.port != 0
    except ValueError:
        plain = False
    else:
        plain = plain and origin == f"https://{parts.netloc}" and "@" not in parts.netloc
    if not plain or re.search(r"[\s\x00-\x1f\x7f]", origin):
        raise reading.blame(
            "origin", f"{origin[:200]!r} must be https://host or https://host:port, nothing after."
        )
    return origin


def _check_database(url: str, reading: _Reading) -> str:
    name = "database.url"
    scheme, sign, _ = url.partition("://")
    if not sign or not re.fullmatch(r"[a-z][a-z0-9+]*", scheme):
        raise reading.blame(  # the value isn't shown: it may hold a password
            name,
            "must be a URL such as sqlite:////var/lib/troth/troth.db or "
            "postgresql://troth@db.example.org/troth.",
        )
    if scheme != "sqlite" and _holds_password(url):
        if name in reading.arguments:
            raise reading.blame(
                name,
                "everybody on this machine can read a password in an argument; put the URL into "
                "TROTH_DATABASE_URL or troth.toml, or the password into PGPASSFILE.",
            )
        if reading.sources[name] in reading.open_files:
            raise reading.blame(name, "others may read this password; run chmod o-r on the file.")
    return url


def _holds_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.password) or "password" in parse_qs(parts.query)
    except ValueError:
        return True  # nobody can tell: the store will refuse it, with its own sentence


def _parse_domain(text: str, reading: _Reading) -> TrustDomain:
    try:
        return TrustDomain.parse(text)
    except Invalid as error:
        raise reading.blame("trust_domain", error.detail) from error


def _resolve_keystore(
    settings: Settings, data: Path, reading: _Reading, environ: Mapping[str, str]
) -> Keystore:
    name = "keystore.key_encryption_key"
    source = settings.keystore.key_encryption_key or f"file:{data}/keys/kek"
    kind, _, rest = source.partition(":")
    if kind not in ("file", "env", "command") or not rest:
        # The value isn't shown: somebody may have put the key itself there.
        raise reading.blame(name, "must be file:PATH, env:NAME or command:PROGRAM ARGUMENTS.")
    if kind == "file" and not Path(rest).is_absolute():
        raise reading.blame(name, "the path after file: must be absolute.")
    secret = None
    if kind == "env" and settings.keystore.driver == "file":
        secret = environ.get(rest)
        if not secret:
            raise reading.blame(name, f"the environment variable {rest} is not set.")
    return Keystore(settings.keystore.driver, source, secret)


def _resolve_roles(settings: Settings, domain: TrustDomain, reading: _Reading) -> Roles:
    for place, names in (
        ("roles.uids", settings.roles.uids.items()),
        ("roles.spiffe_ids", settings.roles.spiffe_ids.items()),
    ):
        for who, role in names:
            if role not in GRANTABLE:
                raise reading.blame(
                    place, f"{who} has the role {role!r}; there are {', '.join(GRANTABLE)}."
                )
    for text in settings.roles.spiffe_ids:
        try:
            parsed = SpiffeId.parse(text)
        except Invalid as error:
            raise reading.blame("roles.spiffe_ids", error.detail) from error
        if parsed.trust_domain != domain or not parsed.path:
            raise reading.blame(
                "roles.spiffe_ids", f"{text!r} must name something within spiffe://{domain}/."
            )
    return Roles({**settings.roles.uids, os.geteuid(): "admin"}, settings.roles.spiffe_ids)


def _check_spans(settings: Settings, reading: _Reading) -> None:
    ttl, crl = settings.ttl, settings.crl
    if ttl.x509_default > ttl.x509_ceiling:
        raise reading.blame("ttl.x509_default", "must not be above ttl.x509_ceiling.")
    if ttl.jwt_default > ttl.jwt_ceiling:
        raise reading.blame("ttl.jwt_default", "must not be above ttl.jwt_ceiling.")
    least = crl.period + OUTAGE
    if crl.lifetime < max(least, ttl.x509_ceiling):
        raise reading.blame(
            "crl.lifetime",
            f"must be at least {max(least, ttl.x509_ceiling)}: the period, the longest outage to "
            "survive and the X.509 ceiling all end before a list does.",
        )
