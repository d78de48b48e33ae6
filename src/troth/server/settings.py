"""The settings as a configuration file spells them: names, types, defaults and what they mean.

Nothing is read here; `troth.server.config` reads. Times are whole seconds, sizes bytes. A default
of "" is worked out from other settings, as the setting's description says.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from troth.core.ids import MAX_SPIFFE_ID_LENGTH
from troth.issuance import profiles
from troth.server.archive_settings import KEEP_DAYS, ArchiveSettings
from troth.server.log_settings import AuditSettings
from troth.server.sink_settings import Sinks
from troth.server.witness_settings import Anchors, WitnessSettings

MiB = 1 << 20
KiB = 1 << 10


def _seconds(span: Any) -> int:
    return int(span.total_seconds())


X509_CEILING = _seconds(profiles.X509_TTL_CEILING)
JWT_CEILING = _seconds(profiles.JWT_TTL_CEILING)
OUTAGE = _seconds(profiles.OUTAGE)


class Listen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the server listens. Port 0 lets the system pick one."""

    public: Annotated[
        str,
        Meta(description="Address of the public listener, as host:port or [IPv6]:port."),
    ] = "localhost:8443"
    mutual: Annotated[
        str,
        Meta(
            description="Address of the mutual-TLS listener; by default the public host and the "
            "port after the public one.",
            extra={"default": "the public host, public port + 1"},
        ),
    ] = ""


class Database(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the state is kept."""

    url: Annotated[
        str,
        Meta(
            description="Where the state is: sqlite:///PATH, or postgresql://USER@HOST:PORT/NAME "
            "(PostgreSQL 14 or newer), which several servers may share. A password in it is never "
            "shown; it may also come from PGPASSFILE or PGPASSWORD.",
            extra={"default": "sqlite:///DATA/troth.db"},
        ),
    ] = ""


class KeystoreSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the signing authorities' private keys live."""

    driver: Annotated[
        Literal["auto", "file", "database", "memory"],
        Meta(
            description="'file' keeps keys encrypted in the data directory, 'database' keeps them "
            "encrypted in the database, for all servers on it; 'memory' forgets them when the "
            "server stops, for tests. 'auto' is where the keys are; a new installation has "
            "'database' on PostgreSQL and 'file' on SQLite."
        ),
    ] = "auto"
    key_encryption_key: Annotated[
        str,
        Meta(
            description="Where the key that encrypts the others comes from: 'file:PATH' (mode "
            "0600, made on the first start), 'env:NAME' or 'command:PROGRAM ARGUMENTS'.",
            extra={"default": "file:DATA/keys/kek"},
        ),
    ] = ""


class RoleSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may do what: roles are admin, operator, auditor, and role:NAME of a manifest."""

    uids: Annotated[
        dict[Annotated[int, Meta(ge=0, le=0xFFFF_FFFE)], str],
        Meta(
            description="Roles of callers on the admin socket by their uid. The server's own uid "
            "is always admin. `role:NAME` is a role of a manifest."
        ),
    ] = msgspec.field(default_factory=lambda: {0: "admin"})
    spiffe_ids: Annotated[
        dict[Annotated[str, Meta(max_length=MAX_SPIFFE_ID_LENGTH)], str],
        Meta(
            description="Roles of callers on the mutual-TLS listener by their SPIFFE ID. "
            "`role:NAME` is a role of a manifest."
        ),
    ] = msgspec.field(default_factory=dict)


class Ttl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long credentials live, in seconds."""

    x509_default: Annotated[
        int, Meta(ge=5, le=X509_CEILING, description="Life of an X.509-SVID that asks for none.")
    ] = _seconds(profiles.X509_TTL_DEFAULT)
    x509_ceiling: Annotated[
        int, Meta(ge=5, le=X509_CEILING, description="Longest life an X.509-SVID may ask for.")
    ] = X509_CEILING
    jwt_default: Annotated[
        int, Meta(ge=5, le=JWT_CEILING, description="Life of a JWT-SVID that asks for none.")
    ] = _seconds(profiles.JWT_TTL_DEFAULT)
    jwt_ceiling: Annotated[
        int, Meta(ge=5, le=JWT_CEILING, description="Longest life a JWT-SVID may ask for.")
    ] = JWT_CEILING


class X509Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What X.509-SVIDs hold beside the SPIFFE ID."""

    common_names: Annotated[
        bool,
        Meta(
            description="Whether the certificates of identities have a subject, whose common name "
            "is the path of the SPIFFE ID (64 characters at most). For programs that know no URI "
            "names, such as PostgreSQL; others should keep to the SPIFFE ID."
        ),
    ] = False


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client may take, in bytes, seconds and numbers."""

    body_bytes: Annotated[
        int, Meta(ge=KiB, le=64 * MiB, description="Largest request body, manifests apart.")
    ] = MiB
    anonymous_body_bytes: Annotated[
        int,
        Meta(ge=KiB, le=64 * MiB, description="Largest body from a caller without a certificate."),
    ] = 32 * KiB
    manifest_bytes: Annotated[
        int, Meta(ge=KiB, le=64 * MiB, description="Largest body of manifest.plan and .apply.")
    ] = 8 * MiB
    header_bytes: Annotated[
        int, Meta(ge=KiB, le=MiB, description="Largest request line with all headers.")
    ] = 32 * KiB
    connections: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Open connections of each listener, those in a TLS handshake included; "
            "lowered to its share of the files that the process may open.",
        ),
    ] = 10_000
    connections_per_address: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Open connections of each listener from one IPv4 address, one IPv6 /64 "
            "or one uid; never more than three quarters of the listener's.",
        ),
    ] = 1024
    header_seconds: Annotated[
        int, Meta(ge=1, le=300, description="Time for a TLS handshake, and for all headers.")
    ] = 10
    body_seconds: Annotated[int, Meta(ge=1, le=600, description="Time for a whole body.")] = 30
    write_seconds: Annotated[
        int, Meta(ge=1, le=600, description="How long a reader of a stream may stand still.")
    ] = 30
    idle_seconds: Annotated[
        int, Meta(ge=1, le=3600, description="How long a connection may wait between requests.")
    ] = 60
    node_credentials_per_second: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Certificates and tokens that one node may ask for, on average; a hundred "
            "times as many at once.",
        ),
    ] = 200
    node_calls_per_second: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Other calls that one node may make, on average; twenty times as many at "
            "once.",
        ),
    ] = 10
    stop_seconds: Annotated[
        int, Meta(ge=0, le=300, description="Time that running requests get when troth stops.")
    ] = 5


class Crl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certificate revocation lists, in seconds."""

    url: Annotated[
        str,
        Meta(
            description="URL under which verifiers without a troth agent find the lists; put into "
            "every certificate as URL/AUTHORITY.crl. It should be http, since whoever needs the "
            "list can't check our certificate yet.",
            extra={"default": "none: certificates name no list"},
        ),
    ] = ""
    lifetime: Annotated[
        int,
        Meta(
            ge=OUTAGE,
            le=30 * 86_400,
            description="From thisUpdate to nextUpdate: longer than the period, the longest "
            "outage to survive (48 h) and the X.509 ceiling, or peers refuse everybody.",
        ),
    ] = _seconds(profiles.CRL_LIFETIME)
    period: Annotated[
        int, Meta(ge=60, le=86_400, description="How often a list is made anew without a change.")
    ] = _seconds(profiles.CRL_PERIOD)


class Decisions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The decision log."""

    keep_days: Annotated[
        int,
        Meta(
            ge=1,
            le=3650,
            description="Days after which a closed segment of the decision log is deleted that "
            "isn't in the archive, because it is damaged or the archive is away. Those that are in "
            "it go at once.",
        ),
    ] = KEEP_DAYS


class EnvoySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is offered to proxies beside the endpoints of the mutual-TLS listener."""

    grpc_listen: Annotated[
        str,
        Meta(
            description="Address of a listener for Envoy's ext_authz over gRPC, with mutual TLS, "
            "as host:port or [IPv6]:port. Over HTTP it is on the mutual-TLS listener anyway.",
            extra={"default": "none"},
        ),
    ] = ""


class Geo(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the country and the kind of network of an address come from."""

    driver: Annotated[
        Literal["none", "bundled", "table"],
        Meta(
            description="'bundled' has the data of the packages iptocc and iporigin, as old as "
            "those; 'table' reads a file of yours. With 'none' the facts request.country and "
            "request.network aren't known."
        ),
    ] = "none"
    file: Annotated[
        str,
        Meta(
            description="Absolute path of the table, a line for each network: "
            "203.0.113.0/24,DE,cloud. Read when the server starts.",
            extra={"default": "none"},
        ),
    ] = ""


class Policies(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rules are changed."""

    second_person: Annotated[
        bool,
        Meta(
            description="Whether a change that is about a resource of sensitivity critical waits "
            "until another administrator than its author approves it. Only here it can be turned "
            "off, for an installation that one person administers."
        ),
    ] = True


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least level shown.")
    ] = "info"
    format: Annotated[
        Literal["auto", "text", "json"],
        Meta(description="'auto' is text on a terminal and JSON, one object a line, elsewhere."),
    ] = "auto"


class X509popSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Machines that prove themselves by a certificate of their manufacturer or operator."""

    authorities: Annotated[
        str,
        Meta(
            description="Absolute path of a PEM file with the authorities that vouch for machines, "
            "read when the server starts; without it no machine joins by a certificate.",
            extra={"default": "none"},
        ),
    ] = ""
    device_authorities: Annotated[
        str,
        Meta(
            description="Absolute path of a PEM file with the authorities that vouch for devices "
            "that enrol without an agent, read when the server starts. A file of its own: what "
            "vouches for a device must not make a node of it.",
            extra={"default": "none: no device proves itself by a certificate"},
        ),
    ] = ""
    name: Annotated[
        Literal["fingerprint", "common_name"],
        Meta(
            description="What a node is called: 'x509pop-' and the SHA-256 of its "
            "certificate's public key, or the common name of its subject."
        ),
    ] = "fingerprint"


class Telemetry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What troth tells about itself: traces, and who may read its metrics."""

    otlp_endpoint: Annotated[
        str,
        Meta(
            description="URL of an OpenTelemetry collector (OTLP over HTTP), such as "
            "http://localhost:4318; spans go to its path for traces, in JSON.",
            extra={"default": "none: nothing is traced"},
        ),
    ] = ""
    otlp_headers: Annotated[
        dict[Annotated[str, Meta(max_length=256)], Annotated[str, Meta(max_length=8192)]],
        Meta(
            description="HTTP headers for the collector. They may hold a token: they are never "
            "shown, and a file with them must be closed to others."
        ),
    ] = msgspec.field(default_factory=dict)
    sample_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Share of the traces begun here that is kept, 0 to 1. A caller with a "
            "certificate, or on the admin socket, may decide for its own trace (traceparent).",
        ),
    ] = 1.0
    metrics: Annotated[
        Literal["anyone", "callers"],
        Meta(
            description="Who may read /metrics on the public listener: 'anyone', or 'callers' "
            "alone, who may see the status; those always see all of it."
        ),
    ] = "anyone"


class OAuth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the token service offers beyond keys, certificates and what is a standard already."""

    client_secrets: Annotated[
        bool,
        Meta(
            description="Whether clients may prove themselves by a secret (client_secret_basic), "
            "for old programs that can do nothing better. A secret can be copied: each one that "
            "lives is a finding of `troth doctor`."
        ),
    ] = False
    draft_transaction_tokens: Annotated[
        bool,
        Meta(
            description="Whether an access token can be exchanged for a transaction token, as "
            "draft-ietf-oauth-transaction-tokens-10 has it. A draft: names and rules may change "
            "with any release."
        ),
    ] = False


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration file."""

    data: Annotated[
        str,
        Meta(
            description="The data directory: database, keys and sockets.",
            extra={"default": "/var/lib/troth for root, else ~/.local/share/troth"},
        ),
    ] = ""
    trust_domain: Annotated[
        str, Meta(description="The SPIFFE trust domain; fixed once identities exist.")
    ] = "troth.local"
    origin: Annotated[
        str,
        Meta(
            description="How clients reach the public listener from outside, and the issuer of "
            "access tokens; JWT-SVIDs are issued as ORIGIN/svid.",
            extra={"default": "https://HOST:PORT of the public listener"},
        ),
    ] = ""
    lease: Annotated[
        int,
        Meta(
            ge=2,
            le=3600,
            description="Seconds for which the server's live view holds without word from the "
            "journal; after that nothing is issued. Agents serve what they hold until it expires.",
        ),
    ] = 15
    listen: Listen = Listen()
    database: Database = Database()
    keystore: KeystoreSettings = KeystoreSettings()
    roles: RoleSettings = RoleSettings()
    ttl: Ttl = Ttl()
    x509: X509Settings = X509Settings()
    limits: Limits = Limits()
    crl: Crl = Crl()
    oauth: OAuth = OAuth()
    x509pop: X509popSettings = X509popSettings()
    decisions: Decisions = Decisions()
    archive: ArchiveSettings = ArchiveSettings()
    audit: AuditSettings = AuditSettings()
    witness: WitnessSettings = WitnessSettings()
    anchors: Anchors = []
    sinks: Sinks = []
    envoy: EnvoySettings = EnvoySettings()
    geo: Geo = Geo()
    policies: Policies = Policies()
    log: Log = Log()
    telemetry: Telemetry = Telemetry()
