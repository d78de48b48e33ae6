"""One decision of a closed segment, proved."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.fakes.decisions import NOON, make_record, make_records, verify_proof
from troth.archive.log import DecisionLog
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Invalid, NotFound, Refused


@pytest.fixture
def log(tmp_path):
    made = DecisionLog(tmp_path / "decisions", VirtualClock(NOON), SeededEntropy(), "a1b2")
    yield made
    made.close()


def fill(log, *groups):
    async def work():
        start = 0
        for size in groups:
            await log.append(make_records(size, start))
            start += size
        return await log.close_segment()

    return asyncio.run(work())


def test_every_decision_is_proved_by_its_id_and_by_its_place(log):
    closed = fill(log, 4, 1, 6)
    for number in range(11):
        proof = log.find_proof(make_record(number).id)
        assert (proof.server, proof.segment, proof.index, proof.size) == ("a1b2", 1, number, 11)
        assert log.prove(1, number) == proof
        assert verify_proof(proof, closed.footer.root) == make_record(number)
    for index in (-1, 11):
        with pytest.raises(NotFound):
            log.prove(1, index)


def test_a_changed_entry_or_place_is_no_proof(log):
    root = fill(log, 11).footer.root
    proof = log.find_proof(make_record(5).id)
    other = log.find_proof(make_record(6).id)
    for forged in (
        replace(proof, entry=proof.entry.replace(b"orders:read", b"orders:reaD")),
        replace(proof, entry=other.entry),
        replace(proof, index=6),
        replace(proof, path=other.path),
        replace(proof, path=proof.path[:-1]),
        replace(proof, size=5),
    ):
        with pytest.raises(Invalid):
            verify_proof(forged, root)
    with pytest.raises(Invalid, match="another root"):
        verify_proof(proof, bytes(32))


def test_an_open_segment_proves_nothing_yet(log):
    fill(log, 2)
    asyncio.run(log.append([make_record(2)]))
    with pytest.raises(Refused, match="once its segment is closed"):
        log.find_proof(make_record(2).id)
    with pytest.raises(Refused, match="still open"):
        log.prove(2, 0)
    root = asyncio.run(log.close_segment()).footer.root
    assert verify_proof(log.find_proof(make_record(2).id), root) == make_record(2)


def test_what_is_not_there_is_not_found(log):
    fill(log, 2)
    for name in ("", "dec_", make_record(9).id, make_record(0).subject):
        with pytest.raises(NotFound):
            log.find_proof(name)
