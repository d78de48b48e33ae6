"""Entries: what a leaf says, what it commits to, and what doesn't fit any more once altered."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.audit.entry import (
    LARGEST_ENTRY,
    SALT_SIZE,
    StoredEvent,
    commit_detail,
    find_outcome,
    join_details,
    join_entries,
    open_detail,
    read_leaf,
    render_entry,
    render_moment,
    restore_event,
    split_details,
    split_entries,
)
from troth.core.errors import Invalid

SALT = bytes(range(SALT_SIZE))
EVENT = StoredEvent(
    7,
    "identity.quarantined",
    1,
    "spiffe://example.org/payments",
    "uid:1000",
    1_700_000_000_000_001,
    "req_1",
    '{"reason":"a leak","source":"10.0.0.1"}',
    SALT,
    None,
)


def test_a_leaf_says_what_happened_and_nothing_of_whom():
    entry, beside = render_entry(EVENT)
    said = json.loads(entry)
    assert list(said) == sorted(said)
    assert said == {
        "at": "2023-11-14T22:13:20.000001Z",
        "detail": hashlib.sha256(beside).hexdigest(),
        "outcome": "success",
        "position": 7,
        "request_id": "req_1",
        "type": "identity.quarantined",
        "version": 1,
    }
    assert beside[:SALT_SIZE] == SALT
    assert json.loads(beside[SALT_SIZE:]) == {
        "actor": "uid:1000",
        "body": {"reason": "a leak", "source": "10.0.0.1"},
        "subject": "spiffe://example.org/payments",
    }


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(
    texts,
    texts,
    st.dictionaries(texts, st.one_of(texts, st.integers(-(2**63), 2**63 - 1), st.none())),
    st.integers(0, 4_102_444_800_000_000),
)
def test_an_event_comes_back_as_it_was(subject, actor, body, at):
    event = EVENT._replace(
        subject=subject, actor=actor, body=json.dumps(body, ensure_ascii=False), at=at
    )
    assert restore_event(*render_entry(event)) == event


def test_a_redacted_event_keeps_its_leaf():
    entry, beside = render_entry(EVENT)
    redacted = EVENT._replace(
        subject="",
        actor="",
        body="{}",
        salt=None,
        digest=commit_detail(beside[:SALT_SIZE], beside[SALT_SIZE:]),
    )
    assert render_entry(redacted) == (entry, b"")
    assert open_detail(read_leaf(entry), b"") is None
    assert restore_event(entry, b"") == redacted


def test_an_event_of_64_kib_and_more_has_a_small_leaf():
    event = EVENT._replace(body=json.dumps({"words": ["x" * 70_000] * 10}))
    entry, beside = render_entry(event)
    assert len(entry) < 400 < LARGEST_ENTRY < len(beside)
    (one,) = split_details(join_details([beside]))
    (leaf,) = split_entries(join_entries([entry]))
    assert restore_event(leaf, one) == event


@pytest.mark.parametrize("at", [0, SALT_SIZE, SALT_SIZE + 10, -2])
def test_another_detail_is_refused(at):
    entry, beside = render_entry(EVENT)
    other = bytearray(beside)
    other[at] ^= 1
    with pytest.raises(Invalid, match="entry 6"):
        open_detail(read_leaf(entry), bytes(other))


def test_an_event_without_salt_and_digest_is_none():
    with pytest.raises(Invalid, match="position 7"):
        render_entry(EVENT._replace(salt=None))


@pytest.mark.parametrize(
    ("type_", "outcome"),
    [
        ("token.issued", "success"),
        ("token.refused", "failure"),
        ("node.attestation_refused", "failure"),
        ("policy.rejected", "failure"),
        ("policy.approved", "success"),
    ],
)
def test_an_outcome_is_in_the_type(type_, outcome):
    assert find_outcome(type_) == outcome


def test_moments_always_have_six_digits():
    assert render_moment(0) == "1970-01-01T00:00:00.000000Z"
    assert render_moment(1_000_001) == "1970-01-01T00:00:01.000001Z"


@pytest.mark.parametrize("split", [split_entries, split_details])
def test_a_cut_bundle_is_refused(split):
    bundle = {split_entries: join_entries, split_details: join_details}[split]([b"one", b"two"])
    assert split(bundle) == [b"one", b"two"]
    for size in range(1, len(bundle)):
        if size != len(bundle) // 2:  # there the first one ends
            with pytest.raises(Invalid, match="bundle"):
                split(bundle[:size])
