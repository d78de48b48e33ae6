"""TLS towards somebody else's server: whom it must be vouched for by."""

from __future__ import annotations

import ssl
from pathlib import Path


def make_context(authorities: Path | None = None, *, pem: str = "") -> ssl.SSLContext:
    """A context that checks the server's name and believes the authorities in a PEM file, or in a
    PEM text, alone; without either those of the system. TLS 1.2 or later. It reads files.

    Raises `OSError`, of which `ssl.SSLError` is one, for what can't be read.
    """
    context = ssl.create_default_context(cafile=authorities, cadata=pem or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
