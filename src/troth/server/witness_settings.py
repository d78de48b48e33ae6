"""The settings of witnesses, who cosign the log's checkpoints, and of anchors, who keep them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

LONGEST_KEYS = 16_384
LONGEST_TARGET = 2048


class WitnessEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One witness: a table ``[[witness.witnesses]]``."""

    url: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=LONGEST_TARGET,
            description="The URL before /add-checkpoint: https, or http on this very machine.",
        ),
    ]
    vkey: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=LONGEST_KEYS,
            description="Its verifier key, as its operator publishes it. Several keys of one "
            "witness stand with spaces between them; it counts once all the same.",
        ),
    ]
    ca: Annotated[
        str,
        Meta(
            description="Absolute path of a PEM file with the authorities that vouch for its "
            "certificate; empty is those of the system."
        ),
    ] = ""


class WitnessSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is asked to cosign checkpoints, and how many must before one is published."""

    quorum: Annotated[
        int,
        Meta(
            ge=0,
            le=32,
            description="How many witnesses must have cosigned a checkpoint before it is "
            "published. Without witnesses it is published as it is signed.",
            extra={"default": "more than half of the witnesses"},
        ),
    ] = 0
    timeout: Annotated[
        int,
        Meta(
            ge=1,
            le=20,
            description="Seconds that each witness has for everything about one checkpoint.",
        ),
    ] = 5
    witnesses: Annotated[
        list[WitnessEntry],
        Meta(
            max_length=32,
            description="The witnesses: a table for each with url, vkey and, for a private "
            "authority, ca; see docs/how-to/witnesses.md. In the environment a JSON array.",
        ),
    ] = []


class AnchorEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One anchor: a table ``[[anchors]]``."""

    driver: Annotated[
        Literal["file", "http"],
        Meta(description="'file' appends to a file, 'http' posts to a URL."),
    ]
    path: Annotated[
        str, Meta(max_length=LONGEST_TARGET, description="For 'file': its absolute path.")
    ] = ""
    url: Annotated[
        str,
        Meta(
            max_length=LONGEST_TARGET,
            description="For 'http': https, or http on this very machine.",
        ),
    ] = ""
    every: Annotated[
        int,
        Meta(
            ge=1,
            le=604_800,
            description="Seconds after which it gets the newest checkpoint, if there is another.",
        ),
    ] = 3600


Anchors = Annotated[
    list[AnchorEntry],
    Meta(
        max_length=32,
        description="Places that are given published checkpoints: a table for each with driver, "
        "path or url, and every; see docs/how-to/witnesses.md. In the environment a JSON array.",
    ),
]
