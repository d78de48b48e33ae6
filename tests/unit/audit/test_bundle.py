"""Bundles: what is shown offline, step by step, of an event and of a decision."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.logs import (
    SIGNED_AT,
    FakeLog,
    make_event,
    make_events,
    make_log,
    make_signer,
    show_log,
)
from troth.audit.bundle import (
    FORMAT,
    Bundle,
    DecisionEvidence,
    Outcome,
    parse_bundle,
    render_bundle,
    verify_bundle,
)
from troth.audit.entry import commit_detail
from troth.audit.merkle import Tree, hash_leaf, make_path
from troth.audit.note import Note, parse_note, render_note
from troth.audit.proof import LogProof, Trust
from troth.audit.proving import add_decision, prove_entry
from troth.audit.tile import DamagedTile
from troth.core.errors import Invalid, NotFound

TRUST = Trust(make_signer().keys)
RECORDS = [b"decision %d" % number for number in range(13)]
SHOWN, WRONG, OPEN, ABSENT = Outcome.SHOWN, Outcome.WRONG, Outcome.OPEN, Outcome.ABSENT


def make_closed(**changes: object) -> FakeLog:
    """A log whose event 41 tells of a segment of decisions."""
    tree = Tree()
    for record in RECORDS:
        tree.add(hash_leaf(record))
    body = {"server": "srv_1", "segment": 7, "size": len(RECORDS), "root": tree.root.hex()}
    text = msgspec.json.encode(body | changes).decode()
    events = make_events(60)
    events[40] = make_event(41, type="decisions.closed", subject="srv_1", body=text)
    return make_log(events)


def make_decision(index: int = 5) -> DecisionEvidence:
    path = make_path([hash_leaf(one) for one in RECORDS], index)
    return DecisionEvidence("srv_1", 7, index, len(RECORDS), RECORDS[index], path)


def prove(log: FakeLog, position: int) -> Bundle:
    return prove_entry(log.read, log.checkpoint, position)


def list_outcomes(bundle: Bundle, trust: Trust | None = TRUST) -> list[Outcome]:
    return [step.outcome for step in verify_bundle(bundle, trust).steps]


@given(st.integers(1, 1000))
def test_an_event_is_shown_in_four_steps(position):
    bundle = parse_bundle(render_bundle(prove(show_log(1000), position)))
    verdict = verify_bundle(bundle, TRUST)
    assert verdict.holds
    assert [step.number for step in verdict.steps] == [1, 2, 3, 4]
    assert verdict.leaf is not None
    assert verdict.leaf.position == position
    assert verdict.detail is not None
    assert verdict.detail.subject == "spiffe://example.org/payments"
    assert verdict.checkpoint is not None
    assert verdict.checkpoint.size == 1000


def test_the_steps_are_told_in_words():
    words = [step.words for step in verify_bundle(prove(show_log(1000), 300), TRUST).steps]
    root = show_log(1000).root.hex()
    ids = " and ".join(key.key_id.hex() for key in TRUST.keys)
    assert words == [
        f"The log 'example.org/log' signed that it has 1000 entries with the root {root} "
        f"(key {ids}).",
        "Entry 299 of the log is this one: its path of 10 hashes leads to that root.",
        "It says: event 300, token.issued, success, at 2027-03-02T15:06:40.300000Z, because of "
        "request req_00000000000000000000012c.",
        "The detail is the one that the entry commits to: uid:1006 did it to "
        "spiffe://example.org/payments.",
    ]


def test_a_decision_is_shown_in_six():
    bundle = add_decision(prove(make_closed(), 41), make_decision())
    assert list_outcomes(parse_bundle(render_bundle(bundle))) == [SHOWN] * 6
    assert verify_bundle(bundle, TRUST).holds


def test_without_a_key_it_holds_for_nobody():
    verdict = verify_bundle(prove(show_log(1000), 3), None)
    assert [step.outcome for step in verdict.steps] == [OPEN, SHOWN, SHOWN, SHOWN]
    assert not verdict.holds
    assert "no key of it was given" in verdict.steps[0].words


def test_with_another_key_nothing_is_looked_at():
    other = Trust(make_signer("other.org").keys)
    assert list_outcomes(prove(show_log(1000), 3), other) == [WRONG]


def test_a_redacted_event_still_is_in_the_log():
    log = make_log(20)
    log.folder.redact(4)
    bundle = prove(log, 4)
    assert bundle.beside == b""
    verdict = verify_bundle(parse_bundle(render_bundle(bundle)), TRUST)
    assert [step.outcome for step in verdict.steps] == [SHOWN, SHOWN, SHOWN, ABSENT]
    assert verdict.holds


def test_a_decision_whose_event_was_redacted_stays_open():
    bundle = replace(add_decision(prove(make_closed(), 41), make_decision()), beside=b"")
    verdict = verify_bundle(bundle, TRUST)
    assert [step.outcome for step in verdict.steps] == [SHOWN, SHOWN, SHOWN, ABSENT, OPEN]
    assert not verdict.holds


def spoil_note(bundle: Bundle) -> Bundle:
    note = parse_note(bundle.proof.checkpoint)
    text = note.text.replace("1000", "1001")
    return replace(
        bundle, proof=replace(bundle.proof, checkpoint=render_note(Note(text, note.signatures)))
    )


@pytest.mark.parametrize(
    ("spoil", "steps"),
    [
        (spoil_note, 1),
        (lambda one: replace(one, entry=one.entry.replace(b"success", b"failure")), 2),
        (lambda one: replace(one, proof=replace(one.proof, index=4)), 2),
        (lambda one: replace(one, proof=replace(one.proof, path=one.proof.path[1:])), 2),
        (lambda one: replace(one, beside=one.beside.replace(b"ledger", b"Ledger")), 4),
        (lambda one: replace(one, beside=bytes(16) + one.beside[16:]), 4),
        (lambda one: replace(one, beside=b"short"), 4),
    ],
)
def test_the_first_wrong_step_is_the_last(spoil, steps):
    outcomes = list_outcomes(spoil(prove(show_log(1000), 300)))
    assert outcomes == [SHOWN] * (steps - 1) + [WRONG]


@pytest.mark.parametrize(
    ("log", "decision", "steps"),
    [
        (lambda: make_closed(segment=8), make_decision(), 5),
        (lambda: make_closed(server="srv_2"), make_decision(), 5),
        (lambda: make_closed(size=12), make_decision(), 5),
        (lambda: make_closed(root="00" * 32), make_decision(), 6),
        (lambda: make_closed(root=7), make_decision(), 6),
        (make_closed, replace(make_decision(), entry=b"another"), 6),
        (make_closed, replace(make_decision(), index=6), 6),
        (make_closed, replace(make_decision(), path=()), 6),
        (lambda: show_log(1000), make_decision(), 5),
    ],
)
def test_a_decision_that_is_not_so_is_wrong(log, decision, steps):
    outcomes = list_outcomes(add_decision(prove(log(), 41), decision))
    assert outcomes == [SHOWN] * (steps - 1) + [WRONG]


def test_an_entry_at_another_place_than_it_says_is_wrong():
    log = show_log(100)
    entry = prove(log, 3)
    # A log whose keys sign whatever it is given: the leaf of event 3 at the place of event 1.
    tree = Tree()
    tree.add(hash_leaf(entry.entry))
    note = log.signer.sign(1, tree.root, SIGNED_AT).encode()
    assert list_outcomes(replace(entry, proof=LogProof(0, (), note))) == [SHOWN, SHOWN, WRONG]
    foreign = Tree()
    foreign.add(hash_leaf(b"somebody else's"))
    note = log.signer.sign(1, foreign.root, SIGNED_AT).encode()
    other = Bundle(b"somebody else's", b"", LogProof(0, (), note))
    assert list_outcomes(other) == [SHOWN, SHOWN, OPEN]


# The document


def document() -> dict[str, object]:
    bundle = add_decision(prove(make_closed(), 41), make_decision())
    found = msgspec.json.decode(render_bundle(bundle))
    assert isinstance(found, dict)
    return found


def test_the_document_is_readable_without_us():
    found = document()
    assert found["format"] == FORMAT
    beside = bytes.fromhex(str(found["detail"]))
    leaf = msgspec.json.decode(str(found["entry"]))
    assert commit_detail(beside[:16], beside[16:]).hex() == leaf["detail"]
    assert str(found["proof"]).startswith("c2sp.org/tlog-proof@v1\nindex 40\n")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "troth-audit-bundle/v2"},
        {"more": 1},
        {"detail": ""},
        {"detail": "0G"},
        {"detail": "AB"},
        {"detail": "ab cd"},
        {"detail": 7},
        {"entry": "x" * 65_536},
        {"entry": None},
        {"proof": "c2sp.org/tlog-proof@v1\n"},
        {"decision": {}},
        {"decision": {**document()["decision"], "path": ["00"]}},  # type: ignore[dict-item]
        {"decision": {**document()["decision"], "path": ["00" * 32] * 65}},  # type: ignore[dict-item]
        {"decision": {**document()["decision"], "entry": "00" * ((1 << 20) + 1)}},  # type: ignore[dict-item]
        {"decision": {**document()["decision"], "index": "5"}},  # type: ignore[dict-item]
    ],
    ids=str,
)
def test_what_is_no_bundle_is_refused(change):
    with pytest.raises(Invalid):
        parse_bundle(msgspec.json.encode(document() | change))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff"])
def test_junk_is_refused(data):
    with pytest.raises(Invalid):
        parse_bundle(data)


def test_what_wouldnt_be_read_again_isnt_written():
    bundle = prove(show_log(1000), 3)
    with pytest.raises(Invalid):
        render_bundle(replace(bundle, entry=b"\xff"))


# Putting it together


def test_there_is_no_evidence_beyond_the_checkpoint():
    log = show_log(1000)
    for position in (0, -1, 1001):
        with pytest.raises(NotFound, match="no event"):
            prove(log, position)


@pytest.mark.parametrize(
    ("name", "at", "position"),
    [
        ("tile/0/001", 0, 258),
        ("tile/1/000.p/3", 0, 700),
        ("tile/entries/001", 2, 257),
        ("tile/entries/001", 0, 400),
    ],
)
def test_damaged_files_give_no_evidence(name, at, position):
    log = show_log(1000).copy()
    log.flip(name, at)
    with pytest.raises(DamagedTile, match="troth audit verify"):
        prove(log, position)


def test_without_details_the_bundle_has_none():
    log = show_log(1000).copy()
    for name in [name for name in log.files if name.startswith("detail/")]:
        del log.files[name]
    assert prove(log, 7).beside == b""
    assert list_outcomes(prove(log, 7)) == [SHOWN, SHOWN, SHOWN, ABSENT]
