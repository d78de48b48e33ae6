"""Several servers' stores on one database, for the contracts that are between servers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.stores import make_url
from troth.core.clock import Clock, SystemClock
from troth.store.engine import Store, open_store


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A fresh PostgreSQL database: only there can several servers share one."""
    return make_url("postgresql", tmp_path)


@pytest.fixture
def open_node(url: str) -> Iterator[Callable[..., Store]]:
    """Opens one more server's store on the test's database."""
    stores: list[Store] = []

    def open_one(clock: Clock | None = None) -> Store:
        stores.append(open_store(url, clock=clock or SystemClock()))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()
