"""The settings of the log: where its files lie and how often it is signed."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class AuditSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log of everything that happened."""

    place: Annotated[
        str,
        Meta(
            description="Where the log's tiles lie: a folder (absolute path), or a URL that fsspec "
            "knows, such as s3://BUCKET/FOLDER with its package installed.",
            extra={"default": "DATA/log"},
        ),
    ] = ""
    database_days: Annotated[
        int,
        Meta(
            ge=1,
            le=36500,
            description="Days for which events stay in the database besides. Older ones are in the "
            "log and the archive alone; not so on several servers, unless `audit.place` and "
            "`archive.place` are object stores.",
        ),
    ] = 90
    checkpoint_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description="How often the log is written and, if something happened, signed.",
        ),
    ] = 1
