"""Reading the archive's files with a question, and going on where one of them is damaged."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from troth.archive.engine import DamagedArchive, Link, Row, locate
from troth.archive.layout import ArchiveFile
from troth.archive.parquet import Label, read_label
from troth.archive.sums import DamagedFile
from troth.core.errors import Internal, NotFound

LABELS = 4_096
"""Files of which it is remembered what they say about themselves."""
AT_ONCE = 64
"""Files that one query reads at most."""


class OutdatedList(Exception):
    """A file isn't there any more: others have taken its place, so look again which there are."""


@dataclass(slots=True)
class Damages:
    """What couldn't be read of the archive during one question, in words, each once."""

    words: dict[str, None] = field(default_factory=dict)

    def add(self, words: str) -> None:
        """Note it."""
        self.words.setdefault(words)

    def tell(self) -> tuple[str, ...]:
        """All of it."""
        return tuple(self.words)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads files through a link; what is damaged is noted and left out from then on."""

    link: Link
    damages: Damages
    without: set[ArchiveFile] = field(default_factory=set)

    def read(self, files: Iterable[ArchiveFile], sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows that a statement gives for the files whose names are its first value.

        A file that can't be read is told of, and the statement is asked again without it. Raises
        `OutdatedList` if one isn't there.
        """
        wanted = [file for file in files if file not in self.without]
        while wanted:
            try:
                return self.link.read(locate(wanted), sql, values)
            except DamagedArchive as error:
                if error.missing:
                    raise OutdatedList from error
                self._leave_out(wanted, error.files)
            except Internal:
                self._try_alone(wanted)
            wanted = [file for file in wanted if file not in self.without]
        return []

    def stream(
        self, files: Sequence[ArchiveFile], sql: str, values: Sequence[Any] = ()
    ) -> Iterator[Row]:
        """The same as they come, for who needs all of them: `DamagedFile` if one can't be read."""
        try:
            yield from self.link.stream(sql, [locate(files), *values])
        except DamagedArchive as error:
            if error.missing:
                raise OutdatedList from error
            raise DamagedFile(error.detail) from error
        except Internal as error:
            self._try_alone(files)
            raise DamagedFile(" ".join(self.damages.tell())) from error

    def find_label(self, file: ArchiveFile) -> Label | None:
        """What a file says about itself; None if that can't be read. `OutdatedList` as `read`."""
        if file in self.without:
            return None
        try:
            return read_label(self.link, file)
        except NotFound as error:
            raise OutdatedList from error
        except DamagedFile as error:
            self._leave_out([file], {file.name: error.detail})
            return None

    def _leave_out(self, wanted: Sequence[ArchiveFile], named: Mapping[str, str]) -> None:
        hit = [file for file in wanted if file.name in named]
        if not hit:
            raise Internal("The archive's engine names a file that it wasn't asked for.")
        for file in hit:
            self.damages.add(named[file.name])
            self.without.add(file)

    def _try_alone(self, wanted: Sequence[ArchiveFile]) -> None:
        """Find the files that the engine can't read though nothing in them was altered."""
        hit = []
        for file in wanted:
            try:
                self.link.read(locate([file]), "SELECT * FROM read_parquet(?) LIMIT 0")
            except (Internal, DamagedArchive):
                hit.append(file)
        if not hit:
            raise Internal("The archive's engine can't answer.")
        for file in hit:
            self.damages.add(
                f"{file.name} can't be read: it isn't what this version of troth writes. Move it "
                "away, or restore it from a backup."
            )
            self.without.add(file)


class Labels:
    """What files say about themselves, remembered, since it never changes. Safe from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[ArchiveFile, Label] = OrderedDict()

    def read(self, reader: Reader, files: Iterable[ArchiveFile]) -> dict[ArchiveFile, Label]:
        """The labels of those that can be read."""
        wanted = list(files)
        with self._lock:
            found = {file: self._known[file] for file in wanted if file in self._known}
        unknown = [file for file in wanted if file not in found]
        for file in unknown:
            if (label := reader.find_label(file)) is not None:
                found[file] = label
        with self._lock:
            for file in unknown:
                if file in found:
                    self._known[file] = found[file]
            while len(self._known) > LABELS:
                self._known.popitem(last=False)
        return found


def split_evenly(files: Sequence[ArchiveFile], most: int) -> Iterator[Sequence[ArchiveFile]]:
    """The files in their order, at most so many at once."""
    for start in range(0, len(files), most):
        yield files[start : start + most]
