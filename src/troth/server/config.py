"""The only reader of the server's settings: arguments, environment and one TOML file.

An argument beats the environment, which beats the file, which beats the default. Whatever is of
the wrong type or out of bounds, or misspelt in the file, stops the start with a sentence that says
where it stands and what to write instead; nothing is guessed. Only variables of the environment
that resemble no setting are left alone, since others use our prefix too; they are kept for a
warning.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from msgspec.structs import replace as replace_fields

from troth.core.endpoint import Endpoint, parse_endpoint
from troth.core.errors import Invalid
from troth.core.ids import SpiffeId, TrustDomain
from troth.core.manifest.reader import NAME_PATTERN
from troth.drivers.tracers import Telemetry
from troth.identity.x509pop import Vouchers, load_authorities
from troth.policy.permissions import GRANTABLE
from troth.policy.rule import SYSTEM
from troth.server.archive_settings import ArchiveSettings
from troth.server.log_settings import AuditSettings
from troth.server.reading import InvalidArgument, Reading, read_trusted
from troth.server.setting_words import Setting, describe_settings
from troth.server.settings import (
    OUTAGE,
    Crl,
    Decisions,
    Geo,
    Limits,
    Log,
    Settings,
    Ttl,
)
from troth.server.sinkconfig import SinkConfig, resolve_sinks
from troth.server.telemetryconfig import render_telemetry, resolve_telemetry
from troth.server.witnessconfig import Outsiders, resolve_outsiders

__all__ = [
    "Config",
    "InvalidArgument",
    "Setting",
    "describe_settings",
    "load_config",
    "settle_ports",
]

CONFIG_FILE = "troth.toml"
SYSTEM_DATA = Path("/var/lib/troth")
PERSONAL_DATA = Path(".local/share/troth")
AGENT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104 - recognised, never chosen


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
    public: Endpoint
    mutual: Endpoint
    database: str = field(repr=False)  # may hold a password
    keystore: Keystore
    roles: Roles
    ttl: Ttl
    limits: Limits
    crl: Crl
    common_names: bool
    """Whether the certificates of identities have a subject."""

    client_secrets: bool
    """Whether clients may prove themselves by a secret."""

    decisions: Decisions
    archive: ArchiveSettings
    audit: AuditSettings
    """The log; its place is complete."""
    outsiders: Outsiders
    sinks: tuple[SinkConfig, ...]
    grpc: Endpoint | None
    """Where ext_authz is served over gRPC, or None for nowhere."""

    geo: Geo
    second_person: bool
    log: Log
    vouchers: Vouchers
    """Who vouches for machines that prove themselves by a certificate."""

    device_vouchers: Vouchers
    """Who vouches for devices that do."""

    telemetry: Telemetry | None
    """Where spans go, or None to trace nothing."""
    open_metrics: bool
    """Whether anybody may read a part of the metrics."""
    draft_transaction_tokens: bool
    """Whether the token endpoint gives transaction tokens, which are a draft."""
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
    reading = Reading()
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


def _find_file(data: Path | None, given: Path | None, environ: Mapping[str, str]) -> Path | None:
    if given is not None:
        return given
    if named := environ.get("TROTH_CONFIG"):
        return Path(named)
    usual = (data or _choose_data(environ.get("TROTH_DATA", ""), environ)) / CONFIG_FILE
    return usual if usual.exists() else None


def _resolve(settings: Settings, reading: Reading, environ: Mapping[str, str]) -> Config:
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
    telemetry = resolve_telemetry(settings, reading)
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
        common_names=settings.x509.common_names,
        client_secrets=settings.oauth.client_secrets,
        decisions=settings.decisions,
        archive=replace_fields(
            settings.archive,
            place=_complete_place(
                "archive.place", settings.archive.place, data / "archive", reading
            ),
        ),
        audit=replace_fields(
            settings.audit,
            place=_complete_place("audit.place", settings.audit.place, data / "log", reading),
        ),
        outsiders=resolve_outsiders(settings.witness, settings.anchors, reading),
        sinks=resolve_sinks(settings.sinks, reading, environ),
        grpc=_parse_grpc(settings.envoy.grpc_listen, (public, mutual), reading),
        geo=_check_geo(settings.geo, reading),
        second_person=settings.policies.second_person,
        log=settings.log,
        vouchers=Vouchers(
            _read_authorities("authorities", settings.x509pop.authorities, reading),
            by_common_name=settings.x509pop.name == "common_name",
        ),
        device_vouchers=Vouchers(
            _read_authorities("device_authorities", settings.x509pop.device_authorities, reading)
        ),
        telemetry=telemetry,
        open_metrics=settings.telemetry.metrics == "anyone",
        draft_transaction_tokens=settings.oauth.draft_transaction_tokens,
        agent_environ={**_pick_environ(environ), **render_telemetry(telemetry)},
        unknown_variables=_list_unknown(settings, keystore, reading),
    )


def _list_unknown(settings: Settings, keystore: Keystore, reading: Reading) -> tuple[str, ...]:
    """Variables of our prefix that nobody reads: a secret may come from one."""
    known = {keystore.key_encryption_key, *(sink.secret for sink in settings.sinks)}
    return tuple(name for name in reading.unknown_variables if f"env:{name}" not in known)


def _choose_data(chosen: str, environ: Mapping[str, str]) -> Path:
    if chosen and not chosen.startswith("~/"):
        return Path(chosen).absolute()
    if not chosen and os.geteuid() == 0:
        return SYSTEM_DATA
    home = Path(environ.get("HOME") or "~").expanduser()
    return (home / chosen[2:]).absolute() if chosen else home / PERSONAL_DATA


def _parse_address(name: str, text: str, reading: Reading) -> Endpoint:
    try:
        return parse_endpoint(text)
    except Invalid as error:
        raise reading.blame(name, error.detail) from error


def _parse_grpc(text: str, taken: tuple[Endpoint, ...], reading: Reading) -> Endpoint | None:
    if not text:
        return None
    address = _parse_address("envoy.grpc_listen", text, reading)
    if address.port and address in taken:
        raise reading.blame("envoy.grpc_listen", "must differ from the other listeners.")
    return address


def _complete_place(name: str, given: str, usual: Path, reading: Reading) -> str:
    """Where files lie: a folder by its absolute path, or a URL; the usual one if none is named."""
    place = given or str(usual)
    if "://" not in place and not Path(place).is_absolute():
        raise reading.blame(name, f"{place!r} must be an absolute path or a URL.")
    return place


def _check_geo(geo: Geo, reading: Reading) -> Geo:
    if (geo.driver == "table") != bool(geo.file):
        raise reading.blame("geo.file", "belongs to the driver 'table', which needs it.")
    if geo.file and not Path(geo.file).is_absolute():
        raise reading.blame("geo.file", f"{geo.file!r} must be an absolute path.")
    return geo


def _follow_address(public: Endpoint, reading: Reading) -> Endpoint:
    if public.port == 65535:
        raise reading.blame(
            "listen.public", "there is no port after 65535: set listen.mutual as well."
        )
    return Endpoint(public.host, public.port + 1 if public.port else 0)


def _derive_origin(public: Endpoint) -> str:
    host = "localhost" if public.host in _WILDCARDS else public.host
    return f"https://{Endpoint(host, public.port)}"


def _check_origin(origin: str, reading: Reading) -> str:
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


def _check_database(url: str, reading: Reading) -> str:
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


def _parse_domain(text: str, reading: Reading) -> TrustDomain:
    try:
        return TrustDomain.parse(text)
    except Invalid as error:
        raise reading.blame("trust_domain", error.detail) from error


def _resolve_keystore(
    settings: Settings, data: Path, reading: Reading, environ: Mapping[str, str]
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
    if kind == "env" and settings.keystore.driver != "memory":
        secret = environ.get(rest)
        if not secret:
            raise reading.blame(name, f"the environment variable {rest} is not set.")
    return Keystore(settings.keystore.driver, source, secret)


def _pick_environ(environ: Mapping[str, str]) -> dict[str, str]:
    return {n: v for n, v in environ.items() if n in AGENT_VARIABLES or n.startswith("PYTHON")}


_DECLARED_ROLE = re.compile(rf"role:({NAME_PATTERN})", re.ASCII)


def _is_declared(role: str) -> bool:
    """Whether a role is one of a manifest, which never begins as troth's own do."""
    found = _DECLARED_ROLE.fullmatch(role)
    return found is not None and not found[1].startswith(SYSTEM)


def _resolve_roles(settings: Settings, domain: TrustDomain, reading: Reading) -> Roles:
    for place, names in (
        ("roles.uids", settings.roles.uids.items()),
        ("roles.spiffe_ids", settings.roles.spiffe_ids.items()),
    ):
        for who, role in names:
            if role not in GRANTABLE and not _is_declared(role):
                raise reading.blame(
                    place,
                    f"{who} has the role {role!r}; there are {', '.join(GRANTABLE)}, and "
                    "'role:NAME' for one of a manifest.",
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


def _check_spans(settings: Settings, reading: Reading) -> None:
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


def _read_authorities(field: str, path: str, reading: Reading) -> tuple[x509.Certificate, ...]:
    name = f"x509pop.{field}"
    if not path:
        return ()
    if not Path(path).is_absolute():
        raise reading.blame(name, f"{path!r} must be an absolute path.")
    try:
        return load_authorities(read_trusted(Path(path)))
    except Invalid as error:
        raise reading.blame(name, f"{path}: {error.detail}") from error
