"""What a restored database must not take up again, since the world has gone on without it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from troth.operations.installation import LOCAL_NODE
from troth.operations.recording import BACKGROUND, record_event
from troth.store.transaction import Transaction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def settle_restored(tx: Transaction, made_at: datetime, head: int, now: datetime) -> None:
    """Make a database as of `made_at`, which was at journal position `head`, safe to serve with.

    - One-time tokens and codes may have been used since: all of them end.
    - Client secrets may have been revoked since, because they leaked: all of them end.
    - Verifiers hold newer revocation lists, and take none with a lower number (RFC 5280, section
      5.2.3): new ones are made at once, numbered above any that may have been given.
    - The installation that it is restored into is the first on it, whatever it was before.

    Serials and ids are random, so none comes twice. What was revoked since is not known here: the
    journal says from when to when (``store.restored``).
    """
    tokens = tx.join_tokens.void(now)
    codes = tx.enrolment_codes.void(now)
    secrets = tx.client_secrets.void(now)
    tx.crls.restart((now - _EPOCH) // _MILLISECOND)
    tx.settings.drop(LOCAL_NODE)
    record_event(
        tx,
        BACKGROUND,
        "store.restored",
        tx.settings.get("trust_domain") or "",
        now,
        made_at=made_at.isoformat(),
        head=head,
        tokens=tokens,
        codes=codes,
        secrets=secrets,
    )
