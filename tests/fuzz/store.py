"""Word from others on the same database: whoever may connect to it may notify."""

from __future__ import annotations

import psycopg

from tests.fuzz.harness import fuzz
from tests.fuzz.mutations import mutated_text
from troth.store.courier import Courier
from troth.store.journal import CHANNEL, SEALED, WAITING

ME = "srv_0123456789abcdef"


@fuzz(mutated_text(f"{SEALED} {ME}", f"{WAITING} {ME}", f"{SEALED} other", WAITING))
def fuzz_notice(payload: str) -> None:
    """At most it has this server look, which it does by itself ten times a second."""
    rung: list[None] = []
    courier = Courier.__new__(Courier)  # without its thread and the connection that it opens
    courier._holder, courier._ring = ME, lambda: rung.append(None)
    courier._take(psycopg.Notify(CHANNEL, payload, 1))
    assert len(rung) <= 1
    if payload in (f"{WAITING} {ME}", f"{SEALED} other"):
        assert rung
