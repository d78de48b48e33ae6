"""Column types: how Python values lie in the database, the same on every engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy import BigInteger, Dialect, TypeDecorator
from sqlalchemy.types import TypeEngine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder()
_BYTEWISE = "C"

Text: TypeEngine[str] = sqlalchemy.Text().with_variant(
    sqlalchemy.Text(collation=_BYTEWISE), "postgresql"
)
"""Text that sorts by its bytes on every engine, as SQLite does.

PostgreSQL would sort by its server's language: pages would come in another order there, and a new
version of the system's C library, which may sort anew, would silently break unique indexes.
"""


def String(length: int) -> TypeEngine[str]:
    """As `Text`, of at most `length` characters where the engine looks."""
    return sqlalchemy.String(length).with_variant(
        sqlalchemy.String(length, collation=_BYTEWISE), "postgresql"
    )


def store_moment(moment: datetime) -> int:
    """A point in time in its stored form; `ValueError` for a time without a zone."""
    if moment.tzinfo is None:
        raise ValueError("a stored time needs a time zone")
    return (moment - _EPOCH) // _MICROSECOND


def store_document(value: Any) -> str:
    """Plain JSON values in their stored form."""
    return _encoder.encode(value).decode()


def read_document(stored: str) -> Any:
    """What `store_document` stored."""
    return _decoder.decode(stored)


class Moment(TypeDecorator[datetime]):
    """A point in time as whole microseconds since 1970 (UTC); an aware `datetime` in Python.

    An integer compares and indexes alike on every engine, and no driver guesses a time zone.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Microseconds since 1970; `ValueError` for a time without a zone."""
        return None if value is None else store_moment(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """The time in UTC."""
        return None if value is None else _EPOCH + value * _MICROSECOND


class Document(TypeDecorator[Any]):
    """Plain JSON values as text; keys are sorted, so that equal values are equal texts."""

    impl = sqlalchemy.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """The value as JSON text."""
        return None if value is None else store_document(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """The value that the text holds."""
        return None if value is None else read_document(value)
