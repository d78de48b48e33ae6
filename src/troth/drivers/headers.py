"""What may stand in an HTTP header. HTTP libraries repeat a value that they refuse in their errors,
and it may be a secret: so it is looked at before they get it."""

from __future__ import annotations

from collections.abc import Mapping

from troth.core.errors import Invalid


def check_headers(headers: Mapping[str, str]) -> None:
    """`Invalid`, which names the header and not its value, unless all can be sent as they are
    (RFC 9110, sections 5.1 and 5.5; values in ASCII alone)."""
    for name, value in headers.items():
        named = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        if not (named and value.isascii() and value.isprintable() and value == value.strip()):
            raise Invalid(
                f"{name[:40]!r} and its value can't be an HTTP header. A value is one line of "
                "printable ASCII; one read from a file may have a line end in the middle."
            )
