"""What is asked in passing reads by an index on both engines, however much there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from tests.fakes.stores import (
    ENGINES,
    NOW,
    make_authority,
    make_certificate,
    make_event,
    make_url,
    transact,
)
from troth.core.clock import VirtualClock
from troth.core.ids import AuthorityId, IdentityId
from troth.issuance.authorities import AuthorityState
from troth.store.database import Link
from troth.store.engine import open_database, open_store
from troth.store.session import Session
from troth.store.transaction import Transaction

AUTHORITY = AuthorityId("aut_1")
EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}


@pytest.fixture(params=ENGINES)
def link(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Link]:
    url = make_url(request.param, tmp_path)
    store = open_store(url, clock=VirtualClock(NOW))
    transact(store, lambda tx: tx.journal.append(make_event(type="grant.made")))
    transact(store, lambda tx: tx.journal.seal(9))
    store.close()
    link = open_database(url).open_link()
    link.begin_read()
    if request.param == "postgresql":
        # A table that holds nothing is always read as a whole, unless that is forbidden.
        link.connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        link.connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
    yield link
    link.close()


def explain(link: Link, ask: Callable[[Transaction], Any]) -> list[str]:
    """The plan of each statement of `ask`."""
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        seen.append((statement, values))

    event.listen(link.connection, "before_cursor_execute", note)
    ask(Transaction(Session(link.connection, writable=False)))
    event.remove(link.connection, "before_cursor_execute", note)
    begin = EXPLAIN[link.connection.dialect.name]
    return [
        "\n".join(str(row[-1]) for row in link.connection.exec_driver_sql(begin + sql, values))
        for sql, values in seen
    ]


PASSING: dict[str, tuple[str, Callable[[Transaction], Any]]] = {
    "the end of certificates": (
        "ix_certificates_authority_id",
        lambda tx: tx.certificates.last_end(AUTHORITY, NOW),
    ),
    "whether certificates live": (
        "ix_certificates_authority_id",
        lambda tx: tx.certificates.has_living(AUTHORITY, NOW),
    ),
    "who holds certificates": (
        "ix_certificates_authority_id",
        lambda tx: tx.certificates.count_unreplaced(AUTHORITY, NOW),
    ),
    "certificates of clients": (
        "ix_identities_client",
        lambda tx: tx.identities.list_certificates(),
    ),
    "secrets of a client": (
        "ix_client_secrets_identity_id",
        lambda tx: tx.client_secrets.count_live(IdentityId("idn_1"), NOW),
    ),
    "evidence about an identity": (
        "ix_evidence_identity_id",
        lambda tx: tx.evidence.list(IdentityId("idn_1")),
    ),
    "evidence about many": (
        "ix_evidence_identity_id",
        lambda tx: tx.evidence.list_all([IdentityId("idn_1"), IdentityId("idn_2")]),
    ),
    "how much evidence there is": (
        "ix_evidence_identity_id",
        lambda tx: tx.evidence.count_living(IdentityId("idn_1"), NOW),
    ),
    "versions without a signature": (
        "ix_policy_sets_key_id",
        lambda tx: tx.policy_sets.list_unsigned(9),
    ),
    "changes that wait": (
        "ix_policy_proposals_state",
        lambda tx: tx.proposals.list(pending=True, limit=9),
    ),
    "the end of tokens": (
        "ix_jwt_svids_authority_id",
        lambda tx: tx.jwt_svids.last_end(AUTHORITY, NOW),
    ),
    "whether tokens live": (
        "ix_jwt_svids_authority_id",
        lambda tx: tx.jwt_svids.has_living(AUTHORITY, NOW),
    ),
    "who holds tokens": (
        "ix_jwt_svids_authority_id",
        lambda tx: tx.jwt_svids.count_living(AUTHORITY, NOW),
    ),
    "the journal's head": ("uq_journal_position", lambda tx: tx.journal.head()),
    "what waits": ("ix_journal_waiting", lambda tx: tx.journal.list_waiting(9)),
    "a page of the journal": ("uq_journal_position", lambda tx: tx.journal.page(after=5)),
    "a page of a subject": ("ix_journal_subject", lambda tx: tx.journal.page(subject="a")),
    "a page of types": ("ix_journal_type", lambda tx: tx.journal.page(type_prefix="grant.")),
}


@pytest.mark.parametrize("what", PASSING)
def test_what_is_asked_in_passing_reads_by_an_index(what: str, link: Link) -> None:
    index, ask = PASSING[what]
    plans = explain(link, ask)
    assert plans
    for plan in plans:
        assert index in plan, plan
        assert "ORDER BY" not in plan, plan  # as SQLite tells of sorting
        assert not ("Limit" in plan and "Sort" in plan), plan


@pytest.mark.parametrize("copies", [1, 40])
def test_one_holder_of_many_certificates_costs_what_they_cost(tmp_path: Path, copies: int) -> None:
    """Not for each of them all of the others again. SQLite counts its own steps."""
    few, many = (_count_steps(tmp_path / str(count), count, copies) for count in (400, 4_000))
    assert many < 20 * few


def _count_steps(folder: Path, count: int, copies: int) -> int:
    """What it takes to find who holds `count` certificates of a past authority, spread over
    `copies`, of which none has a newer one."""
    folder.mkdir()
    url = make_url("sqlite", folder)
    store = open_store(url, clock=VirtualClock(NOW))
    retired = AuthorityState.RETIRED
    for number in (0, 1):  # the older one replaces nothing
        old = make_authority(number, state=retired)
        transact(store, lambda tx, old=old: tx.authorities.add(old))
    made = [
        make_certificate(
            n, identity_id=None, instance_id=f"ins_{n // 2 % copies}", authority_id=f"aut_{n % 2}"
        )
        for n in range(count)
    ]
    transact(store, lambda tx: tx.certificates.add_all_intended(made))
    store.close()
    link = open_database(url).open_link()
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    driver: Any = link.connection.connection.driver_connection
    driver.set_progress_handler(step, 100)
    tx = Transaction(Session(link.connection, writable=False))
    assert tx.certificates.count_unreplaced(AUTHORITY, NOW) == min(copies, count // 2)
    link.close()
    return steps
