from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from troth.store.columns import Document, Moment
from troth.store.records import format_serial

DIALECT = sqlite.dialect()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_keep_every_microsecond(moment):
    column = Moment()
    stored = column.process_bind_param(moment, DIALECT)
    assert isinstance(stored, int)
    found = column.process_result_value(stored, DIALECT)
    assert found == moment
    assert found.tzinfo is UTC


def test_a_time_of_another_zone_is_the_same_moment():
    east = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    stored = Moment().process_bind_param(east, DIALECT)
    assert Moment().process_result_value(stored, DIALECT) == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_time_without_a_zone_is_a_broken_promise():
    with pytest.raises(ValueError, match="time zone"):
        Moment().process_bind_param(datetime(2026, 1, 1), DIALECT)  # noqa: DTZ001


def test_nothing_stays_nothing():
    for column in (Moment(), Document()):
        assert column.process_bind_param(None, DIALECT) is None
        assert column.process_result_value(None, DIALECT) is None


@given(JSON.filter(lambda value: value is not None))
def test_documents_come_back_as_they_were(value):
    stored = Document().process_bind_param(value, DIALECT)
    assert isinstance(stored, str)
    assert Document().process_result_value(stored, DIALECT) == value


def test_equal_documents_are_equal_texts():
    texts = [
        Document().process_bind_param(d, DIALECT) for d in ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    ]
    assert texts[0] == texts[1] == '{"a":1,"b":2}'


def test_serials_have_a_fixed_length():
    assert format_serial(10) == "0" * 39 + "a"
    assert format_serial(2**159 - 1) == "7" + "f" * 39
