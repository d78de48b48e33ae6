"""TLS towards receivers: whom they must be vouched for by, and what we show them."""

from __future__ import annotations

import ssl

from troth.drivers import tls
from troth.drivers.sinks import Away, Target


def make_context(target: Target) -> ssl.SSLContext:
    """A context that checks the receiver's name and authority; files are read now.

    `Away` if one can't be read: it may be there next time.
    """
    try:
        context = tls.make_context(target.authorities)
        if target.certificate is not None:
            # Asked for a passphrase, OpenSSL would wait for somebody at the terminal.
            context.load_cert_chain(target.certificate, target.key, password=_refuse_passphrase)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or "not in PEM, or they don't fit each other"
        raise Away(
            f"The files for TLS of the sink {target.name} can't be used: {reason}."
        ) from error
    return context


def _refuse_passphrase() -> bytes:
    raise ValueError("the key is encrypted")
