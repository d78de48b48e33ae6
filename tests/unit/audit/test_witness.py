"""What witnesses are asked and answer, what they refuse and why, and how many are enough."""

from __future__ import annotations

from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.witnesses import OtherLog, make_signer
from troth.audit.checkpoint import Checkpoint, parse_checkpoint
from troth.audit.merkle import EMPTY_ROOT
from troth.audit.note import (
    COSIGNATURE_ED25519,
    ED25519,
    Note,
    Signature,
    VerifierKey,
    make_verifier_key,
    parse_note,
    render_note,
)
from troth.audit.witness import (
    LARGEST_ANSWER,
    LARGEST_SUBMISSION,
    MOST_PROOF,
    SIZE_TYPE,
    Acceptance,
    Cosigned,
    Declined,
    Reason,
    Refusal,
    Submission,
    WitnessPolicy,
    judge_submission,
    parse_answer,
    parse_submission,
    render_size,
    render_submission,
    select_cosignatures,
)
from troth.core.errors import Invalid, TooLarge

EXAMPLE = (
    "old 20852014\n"
    "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
    "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
    "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n"
    "/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n"
    "\n"
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q"
    "1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V626"
    "7UEjw6QUXTS5Rovnzv++qbSzm9Q=\n"
).encode()
ANSWER = (
    "— witness.example/w1 CMp+6LWBU0anHGH5aNDTJkH/gj79sG+T6+iP2ThYN5krrDJbR1HDnucjL39QsZTSvVjyQLrd"
    "k3DXDqI5G2HgLatVs0pWh6Up69HVOw==\n"
    "— witness.example/w2 AWui8Sk55XjYLOijihBjhqEH6nS1ndDymE0a+6idX7pLcnoB+dhnz0854aLZgrrKbYKA7nC"
    "3HNJhm/kWl7oJlqU3rXXvpysAdyP3wQ==\n"
).encode()
"""Both are examples of tlog-witness; of the answer, two of three lines."""
HASH = b64encode(bytes(32)).decode()


@pytest.fixture
def log() -> OtherLog:
    found = OtherLog()
    found.grow(200)
    return found


def at(log: OtherLog, size: int) -> Checkpoint:
    return parse_checkpoint(log.sign(size).text)


def ask(
    known: Checkpoint | None, log: OtherLog, old: int, size: int, **other: object
) -> Acceptance | Refusal:
    proof = other.get("proof", log.prove(old, size))
    assert isinstance(proof, tuple)
    return judge_submission(known, Submission(old, proof, log.sign(size)), [log.key])


def refuse(found: Acceptance | Refusal) -> Refusal:
    assert isinstance(found, Refusal)
    assert found.detail
    return found


# Requests


def test_the_example_of_the_specification_is_read() -> None:
    found = parse_submission(EXAMPLE)
    assert found.old_size == 20_852_014
    assert len(found.proof) == 4
    assert len(found.note.signatures) == 2
    assert render_submission(found) == EXAMPLE


@given(st.integers(0, (1 << 63) - 1), st.lists(st.binary(min_size=32, max_size=32), max_size=63))
def test_what_is_rendered_is_parsed_again(old: int, proof: list[bytes]) -> None:
    note = parse_submission(EXAMPLE).note
    submission = Submission(old, tuple(proof), note)
    assert parse_submission(render_submission(submission)) == submission


@pytest.mark.parametrize(
    "head",
    [
        "",
        "old\n",
        "old \n",
        "old 01\n",
        "old -1\n",
        "Old 1\n",
        "old  1\n",
        "old 1 \n",
        f"old {1 << 63}\n",
        f"old {'9' * 30}\n",
        "new 1\n",
        f"old 1\n{HASH}\r\n",
        f"old 1\n{HASH[:-1]}\n",
        f"old 1\n{b64encode(bytes(31)).decode()}\n",
        f"old 1\n{HASH} \n",
        "old 1\n" + f"{HASH}\n" * (MOST_PROOF + 1),
        f"old 1\nö{HASH}\n",
    ],
)
def test_what_is_no_request_is_refused(head: str) -> None:
    note = EXAMPLE.partition(b"\n\n")[2]
    with pytest.raises(Invalid):
        parse_submission(head.encode() + b"\n" + note)


@pytest.mark.parametrize("body", [b"", b"old 1", b"old 1\n\n", b"old 1\n\ntext\n"])
def test_a_request_without_a_checkpoint_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        parse_submission(body)


def test_a_request_has_its_bounds() -> None:
    proof = tuple(bytes(32) for _ in range(MOST_PROOF))
    assert (
        len(
            parse_submission(
                render_submission(Submission(1, proof, parse_note(EXAMPLE.partition(b"\n\n")[2])))
            ).proof
        )
        == MOST_PROOF
    )
    with pytest.raises(Invalid, match="63"):
        render_submission(Submission(1, (*proof, bytes(32)), parse_submission(EXAMPLE).note))
    with pytest.raises(TooLarge):
        parse_submission(bytes(LARGEST_SUBMISSION + 1))


# Judging


def test_the_first_checkpoint_of_a_known_log_is_taken(log: OtherLog) -> None:
    found = ask(None, log, 0, 150)
    assert isinstance(found, Acceptance)
    assert found.checkpoint == at(log, 150)
    assert found.signatures == log.sign(150).signatures


def test_what_continues_the_last_one_is_taken(log: OtherLog) -> None:
    for old, new in ((1, 2), (100, 128), (128, 200), (150, 200), (199, 200), (200, 200)):
        assert isinstance(ask(at(log, old), log, old, new), Acceptance)
    empty = Checkpoint(log.origin, 0, EMPTY_ROOT)
    assert isinstance(ask(empty, log, 0, 200), Acceptance)


def test_only_the_logs_own_signatures_are_kept(log: OtherLog) -> None:
    note = log.sign()
    other = Signature("witness.example/w9", b"\1\2\3\4", bytes(72))
    found = judge_submission(
        None, Submission(0, (), Note(note.text, (other, *note.signatures))), [log.key]
    )
    assert isinstance(found, Acceptance)
    assert found.signatures == note.signatures


def test_a_log_that_nobody_told_of_is_unknown(log: OtherLog) -> None:
    other = OtherLog("log.example/two")
    found = judge_submission(None, Submission(0, (), log.sign()), [other.key])
    assert refuse(found).reason is Reason.UNKNOWN_LOG
    assert refuse(judge_submission(None, Submission(0, (), log.sign()), [])).reason is (
        Reason.UNKNOWN_LOG
    )


def test_who_signs_must_be_the_log(log: OtherLog) -> None:
    other = OtherLog("log.example/two")
    stranger = make_verifier_key(log.origin, ED25519, other.key.public)
    found = judge_submission(None, Submission(0, (), log.sign()), [stranger])
    assert refuse(found).reason is Reason.UNSIGNED
    note = log.sign()
    spoilt = Note(note.text, (Signature(log.origin, log.key.key_id, bytes(64)),))
    for signatures in (spoilt.signatures, (*note.signatures, *spoilt.signatures)):
        found = judge_submission(None, Submission(0, (), Note(note.text, signatures)), [log.key])
        assert refuse(found).reason is Reason.UNSIGNED


def test_a_note_that_is_no_checkpoint_is_malformed(log: OtherLog) -> None:
    note = Note("Buy milk.\n", log.sign().signatures)
    found = judge_submission(None, Submission(0, (), note), [log.key])
    assert refuse(found).reason is Reason.MALFORMED


def test_sizes_the_wrong_way_round_are_malformed(log: OtherLog) -> None:
    assert refuse(ask(at(log, 200), log, 200, 150)).reason is Reason.MALFORMED
    assert refuse(ask(None, log, 1, 0)).reason is Reason.MALFORMED


def test_another_old_size_is_told_the_right_one(log: OtherLog) -> None:
    for known, old in ((at(log, 100), 99), (at(log, 100), 0), (at(log, 100), 101), (None, 5)):
        found = refuse(ask(known, log, old, 150))
        assert found.reason is Reason.STALE
        assert found.size == (known.size if known else 0)
        assert not found.is_evidence


def test_the_same_size_with_another_root_is_a_fork(log: OtherLog) -> None:
    fork = OtherLog(history="false")
    fork.grow(100)
    found = refuse(ask(at(log, 100), fork, 100, 100))
    assert found.reason is Reason.FORKED
    assert found.is_evidence


def test_what_doesnt_continue_the_last_one_is_inconsistent(log: OtherLog) -> None:
    fork = OtherLog(history="false")
    fork.grow(200)
    proof = log.prove(100, 200)
    for found in (
        ask(at(log, 100), fork, 100, 200),
        ask(at(log, 100), log, 100, 200, proof=proof[:-1]),
        ask(at(log, 100), log, 100, 200, proof=(*proof, bytes(32))),
        ask(at(log, 100), log, 100, 200, proof=(bytes(32), *proof[1:])),
        ask(at(log, 100), log, 100, 200, proof=()),
        ask(at(log, 100), log, 100, 100, proof=(bytes(32),)),
        ask(None, log, 0, 100, proof=(bytes(32),)),
    ):
        assert refuse(found).reason is Reason.INCONSISTENT
        assert refuse(found).is_evidence


def test_an_empty_log_has_one_root(log: OtherLog) -> None:
    empty = OtherLog()
    assert isinstance(ask(None, empty, 0, 0), Acceptance)
    text = f"{log.origin}\n0\n{HASH}\n"
    signed = Signature(log.origin, log.key.key_id, log.private.sign(text.encode()))
    found = judge_submission(None, Submission(0, (), Note(text, (signed,))), [log.key])
    assert refuse(found).reason is Reason.INCONSISTENT


@given(st.integers(1, 130), st.integers(1, 130), st.booleans())
def test_nothing_but_a_continuation_is_ever_taken(old: int, new: int, forked: bool) -> None:
    log, fork = OtherLog(), OtherLog(history="false")
    log.grow(130)
    fork.grow(130)
    shown = fork if forked else log
    found = ask(at(log, old), shown, old, new)
    assert isinstance(found, Acceptance) == (old <= new and not forked)


# Answers


def test_the_answer_of_the_specification_is_read() -> None:
    found = parse_answer(200, "text/plain", ANSWER)
    assert isinstance(found, Cosigned)
    assert [one.name for one in found.signatures] == ["witness.example/w1", "witness.example/w2"]


@pytest.mark.parametrize("media_type", [SIZE_TYPE, "Text/X.TLog.Size; charset=utf-8"])
def test_a_size_is_read(media_type: str) -> None:
    assert parse_answer(409, media_type, render_size(100)) == Declined(Reason.STALE, 100)


def test_refusals_are_read() -> None:
    for status, reason in (
        (400, Reason.MALFORMED),
        (403, Reason.UNSIGNED),
        (404, Reason.UNKNOWN_LOG),
        (409, Reason.FORKED),
        (422, Reason.INCONSISTENT),
    ):
        assert parse_answer(status, "text/plain", b"100\n") == Declined(reason)


@pytest.mark.parametrize(
    ("status", "media_type", "body"),
    [
        (200, "text/plain", b""),
        (200, "text/plain", b"<html>"),
        (200, "text/plain", ANSWER[:-1]),
        (204, "", b""),
        (301, "", b""),
        (500, "", b""),
        (409, SIZE_TYPE, b""),
        (409, SIZE_TYPE, b"100"),
        (409, SIZE_TYPE, b"0100\n"),
        (409, SIZE_TYPE, b"-1\n"),
        (409, SIZE_TYPE, b"100\n\n"),
        (409, SIZE_TYPE, b"\xff\n"),
        (409, SIZE_TYPE, b"9" * 40 + b"\n"),
        (200, "text/plain", bytes(LARGEST_ANSWER + 1)),
    ],
)
def test_what_no_witness_answers_is_refused(status: int, media_type: str, body: bytes) -> None:
    with pytest.raises(Invalid):
        parse_answer(status, media_type, body)


def test_the_witnesss_own_cosignatures_are_picked_out(log: OtherLog) -> None:
    signer, other = make_signer(), make_signer("witness.example/w2", 8)
    checkpoint, text = at(log, 200), log.sign(200).text
    mine = signer.cosign(checkpoint, text, 1_700_000_000)
    theirs = other.cosign(checkpoint, text, 1_700_000_000)
    both = (*theirs, *mine)
    assert set(select_cosignatures(text, both, signer.public)) == set(mine)
    assert select_cosignatures(text, both, signer.public[:1]) == mine[:1]
    for wrong in (
        theirs,
        (),
        signer.cosign(at(log, 199), log.sign(199).text, 1_700_000_000),
        signer.cosign(checkpoint, text, 0),
    ):
        with pytest.raises(Invalid):
            select_cosignatures(text, wrong, signer.public)


# How many are enough


def make_key(number: int, name: str = "") -> VerifierKey:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number] * 32))
    public = private.public_key().public_bytes_raw()
    return make_verifier_key(name or f"witness.example/w{number}", COSIGNATURE_ED25519, public)


def test_two_of_three() -> None:
    keys = tuple(make_key(number) for number in (1, 2, 3))
    policy = WitnessPolicy(keys, 2)
    assert not policy.is_met(())
    assert not policy.is_met(keys[:1])
    assert not policy.is_met((keys[0], keys[0], make_key(4)))
    assert policy.is_met(keys[1:])
    assert policy.count(keys) == 3
    assert WitnessPolicy((), 0).is_met(())


def test_a_witness_with_two_keys_counts_once() -> None:
    signer = make_signer()
    policy = WitnessPolicy((*signer.public, make_key(2)), 2)
    assert policy.count(signer.public) == 1
    assert not policy.is_met(signer.public)
    with pytest.raises(Invalid, match="A quorum of 3"):
        WitnessPolicy(policy.witnesses, 3)


def test_one_public_key_is_one_witness() -> None:
    with pytest.raises(Invalid, match="same public key"):
        WitnessPolicy((make_key(1), make_key(1, "witness.example/alias")), 1)


def test_policies_that_cant_be_are_refused() -> None:
    with pytest.raises(Invalid):
        WitnessPolicy((make_key(1),), -1)
    with pytest.raises(Invalid, match="one of a log"):
        WitnessPolicy((make_verifier_key("a", ED25519, bytes(32)),), 1)
    with pytest.raises(Invalid, match="more than 32"):
        WitnessPolicy(tuple(make_key(number) for number in range(1, 34)), 1)


def test_a_cosigned_note_stays_small_enough_for_everybody(log: OtherLog) -> None:
    note = log.sign()
    signers = [make_signer(f"witness.example/w{n}", n) for n in range(5)]
    lines = [one for s in signers for one in s.cosign(at(log, 200), note.text, 1_700_000_000)]
    body = render_submission(Submission(0, (), Note(note.text, (*note.signatures, *lines))))
    assert parse_submission(body).note.signatures[1:] == tuple(lines)
    assert len(render_note(Note(note.text, tuple(lines)))) < LARGEST_ANSWER
