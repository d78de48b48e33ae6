"""Where the files of a log are read from: a folder, or the address at which it is published."""

from __future__ import annotations

import errno
import os
import ssl
import stat
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import typer

from troth.audit.tile import DamagedTile
from troth.core.errors import NotFound, Refused, Unavailable
from troth.wire.api.problems import Unreachable

if TYPE_CHECKING:
    import httpx

LARGEST_FILE = 64 << 20
"""Bytes of a file of a log."""
CHECKPOINT = "checkpoint"
KEYS = "vkey"
DETAILS = "detail"

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""Not to wait for whoever might write into a pipe that stands where a file should."""
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
_GONE = (404, 410)
_BUSY = (429, 502, 503, 504)
_TIMEOUT = 30.0


class LogSource(AbstractContextManager["LogSource"], Protocol):
    """The files of a log by their names; `where` it is, in words. Close it after use."""

    where: str
    has_details: bool
    """Whether what lies beside the entries is there too."""
    is_far: bool
    """Whether each file takes a while, and several can be read at once."""

    def read(self, name: str) -> bytes:
        """The file's bytes; `NotFound` if there is none, `DamagedTile` if what is there can't be a
        file of a log."""
        ...


class FolderSource:
    """A log in a folder."""

    is_far = False

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self.has_details = (folder / DETAILS).is_dir()
        self._prefix = f"{folder}/"

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        try:
            handle = os.open(self._prefix + name, _READ)
            try:
                return self._read_all(name, handle)
            finally:
                os.close(handle)
        except OSError as error:
            if error.errno in _ABSENT:
                raise NotFound(f"There is no {name} in {self.where}.") from None
            words = f"{name} in {self.where} can't be read: {os.strerror(error.errno or 0)}."
            raise DamagedTile(name, words) from error

    def _read_all(self, name: str, handle: int) -> bytes:
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(found.st_mode):
            raise DamagedTile(name, f"{name} in {self.where} is no regular file.")
        if found.st_size > LARGEST_FILE:
            raise DamagedTile(name, describe_large(name, self.where))
        data = os.read(handle, found.st_size)
        while len(data) < found.st_size and (more := os.read(handle, found.st_size - len(data))):
            data += more
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is open between two reads."""


class WebSource:
    """A log at a URL prefix (C2SP tlog-tiles). Details aren't published."""

    has_details = False
    is_far = True

    def __init__(self, url: str, ca_file: Path | None) -> None:
        import httpx

        self.where = url.rstrip("/")
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._http: httpx.Client = httpx.Client(
            verify=context,
            timeout=_TIMEOUT,
            trust_env=False,
            headers={"accept-encoding": "gzip, identity"},
        )

    def read(self, name: str) -> bytes:
        """The file's bytes. `Unreachable` if nobody answers, `Unavailable` if it is for a moment,
        `Refused` for any other answer."""
        import httpx

        try:
            with self._http.stream("GET", f"{self.where}/{name}") as answer:
                if answer.status_code in _GONE:
                    raise NotFound(f"There is no {self.where}/{name}.")
                if answer.status_code in _BUSY:
                    raise Unavailable(
                        f"{self.where}/{name} isn't served at the moment: {answer.status_code}."
                    )
                if answer.status_code != httpx.codes.OK:
                    raise Refused(f"{self.where}/{name} is answered with {answer.status_code}.")
                return self._read_all(name, answer)
        except (httpx.TransportError, httpx.DecodingError) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{self.where} can't be read: {reason}.") from error

    def _read_all(self, name: str, answer: httpx.Response) -> bytes:
        data = bytearray()
        for chunk in answer.iter_bytes():
            data += chunk
            if len(data) > LARGEST_FILE:
                raise DamagedTile(name, describe_large(name, self.where))
        return bytes(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()


def describe_large(name: str, where: str) -> str:
    """What is wrong with a file that no log has."""
    return f"{name} in {where} has more than {LARGEST_FILE:,} bytes."


def is_url(text: str) -> bool:
    """Whether that is an address and not a path. What is read is signed, so plain HTTP will do."""
    return text.startswith(("https://", "http://"))


def open_source(where: str, ca_file: Path | None = None) -> LogSource:
    """The log there. Wrong usage if it is neither a URL nor a folder with a checkpoint."""
    if is_url(where):
        return WebSource(where, ca_file)
    folder = Path(where)
    if not (folder / CHECKPOINT).is_file():
        raise typer.BadParameter(
            f"{where} is no log: there is no file `{CHECKPOINT}` in it. Name the folder `log` of a "
            "server's data directory, a copy of it, or the URL that ends in /log."
        )
    return FolderSource(folder)
