"""The settings of the archive: where its files lie, how long, and what working on them may cost."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

KEEP_DAYS = 400
"""A year, and the time to look back at it."""


class ArchiveSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Decisions and events for the long term, in Parquet."""

    place: Annotated[
        str,
        Meta(
            description="Where the archive's files lie: a folder (absolute path), or a URL that "
            "fsspec knows, such as s3://BUCKET/FOLDER with its package installed.",
            extra={"default": "DATA/archive"},
        ),
    ] = ""
    keep_days: Annotated[
        int,
        Meta(
            ge=1,
            le=36_500,
            description="Days after which a day of decisions or events is removed from the "
            "archive, unless a legal hold keeps it.",
        ),
    ] = KEEP_DAYS
    pack_memory_mb: Annotated[
        int,
        Meta(
            ge=128,
            le=65_536,
            description="MiB of memory that the process that packs may use; beyond that it sorts "
            "on the disk.",
        ),
    ] = 512
    search_memory_mb: Annotated[
        int,
        Meta(
            ge=64,
            le=65_536,
            description="MiB of memory that all searches together may use; one that needs more is "
            "refused.",
        ),
    ] = 256
    search_seconds: Annotated[
        int,
        Meta(ge=1, le=3600, description="Seconds after which a search of the archive is given up."),
    ] = 30
