"""The settings of sinks: where events and decisions are sent, such as a SIEM."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

KiB = 1 << 10
MiB = 1 << 20
NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"


class SinkSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sink: a table ``[[sinks]]``."""

    name: Annotated[
        str,
        Meta(
            pattern=NAME,
            description="What it is called: its place in the journal is kept under this name. "
            "Small letters, digits and hyphens.",
        ),
    ]
    driver: Annotated[
        Literal["elastic", "file", "kafka", "nats", "otlp", "splunk", "syslog"],
        Meta(description="What kind of receiver it is."),
    ]
    url: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=2048,
            description="Where the receiver is, without user or secret; how it is written depends "
            "on the driver.",
        ),
    ]
    format: Annotated[
        Literal["ocsf", "cef"],
        Meta(
            description="'ocsf' is one JSON object, 'cef' a line in ArcSight's format, for drivers "
            "that send lines: syslog, file, nats, kafka."
        ),
    ] = "ocsf"
    types: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=128)]],
        Meta(
            max_length=64,
            description="Only events whose type begins with one of these, such as 'identity.'; "
            "empty is all.",
        ),
    ] = []
    decisions: Annotated[
        bool | Literal["denied"],
        Meta(
            description="Whether the decisions of this server are sent too: true, false or "
            "'denied', those that weren't permitted."
        ),
    ] = False
    start: Annotated[
        Literal["beginning", "now"],
        Meta(
            description="Where a sink that never sent anything begins: with all that is still in "
            "the journal, or with what happens from now on."
        ),
    ] = "beginning"
    user: Annotated[
        str,
        Meta(max_length=256, description="The user's name, where the receiver wants one."),
    ] = ""
    secret: Annotated[
        str,
        Meta(
            max_length=4096,
            description="Where the token, password or credentials file comes from: 'file:PATH' "
            "(mode 0600), 'env:NAME' or 'command:PROGRAM ARGUMENTS'. Read whenever a connection "
            "is opened.",
        ),
    ] = ""
    ca: Annotated[
        str,
        Meta(
            description="Absolute path of a PEM file with the authorities that vouch for the "
            "receiver; empty is those of the system."
        ),
    ] = ""
    certificate: Annotated[
        str,
        Meta(description="Absolute path of a PEM file with our certificate, for mutual TLS."),
    ] = ""
    key: Annotated[
        str, Meta(description="Absolute path of a PEM file with the certificate's key.")
    ] = ""
    largest_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=16 * MiB,
            description="Bytes of an event or a decision, at most: larger ones become dead "
            "letters. 0 is what receivers are sure to take: 7680 for syslog, whose header has up "
            "to 512 more (RFC 5425), and 1 MiB otherwise.",
        ),
    ] = 0
    rotate_bytes: Annotated[
        int,
        Meta(
            ge=KiB,
            le=1 << 40,
            description="For files: bytes after which a file is renamed and a new one begun.",
        ),
    ] = 256 * MiB
    keep_files: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="For files: so many renamed ones are kept; 0 is all.",
        ),
    ] = 0


Sinks = Annotated[
    list[SinkSettings],
    Meta(
        description="Where events and decisions are sent: a table for each sink, as "
        "docs/reference/sinks.md describes. In the environment a JSON array."
    ),
]
