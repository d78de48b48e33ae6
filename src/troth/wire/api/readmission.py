"""Readmission on the wire: an evicted machine, or one with a new certificate, may come back."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class ReadmitNode(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a machine prove itself anew by a certificate, with the reason that the journal keeps."""

    name: Annotated[str, Meta(min_length=1, max_length=63)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
