"""A place on an object store, as fsspec reaches it: what is the same for all that lies there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from troth.core.errors import TrothError, Unavailable


class ObjectPlace:
    """Whatever fsspec reaches: ``s3://bucket/folder`` with the package for it installed."""

    def __init__(self, url: str) -> None:
        """`Unavailable` if what speaks that protocol isn't installed, or refuses."""
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # it has no stubs

        self._scheme = url.partition("://")[0]
        try:
            self._system, self._root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError, OSError) as error:
            raise Unavailable(
                f"Nothing here reads {self._scheme}:// URLs: install the fsspec package for it "
                "(for s3:// that is s3fs), or name a folder."
            ) from error

    def describe(self) -> str:
        """The URL, without what might be secret in it."""
        return f"{self._scheme}://{self._root}"

    def _make_folder(self, path: str) -> None:
        """Object stores have no folders; but what stands for one in tests and on NFS has."""
        self._system.makedirs(path.rpartition("/")[0], exist_ok=True)

    @contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except TrothError:
            raise
        except Exception as error:
            # What a store's library says may hold credentials: its kind is all that is told.
            raise Unavailable(
                f"The object store at {self.describe()} can't be used ({type(error).__name__}). "
                "Look at its credentials and at the network; it is tried again."
            ) from error
