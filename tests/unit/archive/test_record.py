from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from types import MappingProxyType

import msgspec
import pytest

from tests.fakes.decisions import NOON, make_record
from troth.archive.record import (
    LARGEST,
    DecisionRecord,
    _Kept,
    decode_record,
    encode_record,
    place_microseconds,
)
from troth.core.errors import Invalid, TooLarge


def test_a_record_comes_back_as_it_was():
    record = make_record(5)
    at, entry = encode_record(record)
    assert decode_record(entry) == record
    assert place_microseconds(at) == record.at
    assert len(entry) < 400


def test_the_kept_fields_are_those_of_the_record_in_their_order():
    # Their order is the format: whoever changes it can't read what is on disks.
    assert [f.name for f in fields(DecisionRecord)] == list(_Kept.__struct_fields__)
    shape = msgspec.msgpack.decode(encode_record(make_record(5))[1])
    assert shape[0] == make_record(5).id
    assert shape[1] == int(NOON.timestamp() + 5) * 1_000_000 + 7
    assert (shape[11], shape[12], shape[14]) == (True, ["role:orders-reader"], 1234)
    assert len(shape) == 16


def test_a_record_of_a_later_version_is_read():
    shape = msgspec.msgpack.decode(encode_record(make_record())[1])
    later = msgspec.msgpack.encode([*shape, "more", {"of": "it"}])
    assert decode_record(later) == make_record()


def test_any_mapping_of_facts_will_do():
    record = make_record(facts=MappingProxyType({"hour": 3}))
    assert decode_record(encode_record(record)[1]).facts == {"hour": 3}


@pytest.mark.parametrize("value", [10**30, "\ud800", object(), {"deep": [1j]}])
def test_facts_that_cannot_be_kept_are_refused_in_words(value):
    with pytest.raises(Invalid, match="facts must be plain JSON"):
        encode_record(make_record(facts={"context": value}))


def test_a_record_is_bounded_both_ways():
    with pytest.raises(TooLarge, match="Send less context"):
        encode_record(make_record(facts={"context": "x" * LARGEST}))
    with pytest.raises(Invalid, match="larger"):
        decode_record(b"\x90" * (LARGEST + 1))


@pytest.mark.parametrize("entry", [b"", b"\x90", b"\xc1", b"\x91" * 100_000, b'{"id": 1}'])
def test_what_is_no_record_is_refused(entry):
    with pytest.raises(Invalid):
        decode_record(entry)


def test_a_time_beyond_every_calendar_is_refused():
    shape = msgspec.msgpack.decode(encode_record(make_record())[1])
    shape[1] = 1 << 62
    with pytest.raises(Invalid, match="calendar"):
        decode_record(msgspec.msgpack.encode(shape))
    ancient = make_record(at=datetime(1, 1, 1, tzinfo=UTC))
    assert decode_record(encode_record(ancient)[1]) == ancient
