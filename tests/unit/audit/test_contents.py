"""What stands in the entries of a log and beside them is looked at, and what is gone is missed."""

from __future__ import annotations

import aics_tlog
import pytest

from tests.fakes.logs import FakeLog, make_event, make_events, make_log, show_log
from tests.unit.audit.test_verification import MIDDLE, list_places, verify
from troth.audit.entry import (
    StoredEvent,
    join_details,
    join_entries,
    split_details,
    split_entries,
)
from troth.audit.flaw import Fault, Findings
from troth.audit.merkle import hash_leaf
from troth.audit.redaction import REDACTED
from troth.core.errors import Invalid


def make_redaction(position: int, of: int) -> StoredEvent:
    body = f'{{"position":{of},"reason":"asked to","type":"token.issued"}}'
    return make_event(position, type=REDACTED, body=body)


def empty_details(log: FakeLog, name: str, *places: int) -> None:
    details = split_details(log.files[name])
    for at in places:
        details[at] = b""
    log.files[name] = join_details(details)


def make_redacted_log() -> FakeLog:
    """Of 300 entries; the details of the events at 7 and 299 were redacted, the latter twice."""
    told = [(258, 7), (300, 299), (301, 299)]
    events = make_events(301)
    for position, of in told:
        events[position - 1] = make_redaction(position, of)
    log = make_log(events)
    log.folder.redact(7)
    log.folder.redact(299)
    return log


def test_redacted_details_are_no_flaw():
    found = verify(make_redacted_log())
    assert found.intact
    assert (found.entries, found.details, found.redacted) == (301, 299, 2)


def test_a_detail_that_is_gone_without_an_event_that_says_so_is_a_flaw():
    log = make_redacted_log().copy()
    empty_details(log, "detail/000", 7, 8, 200)
    empty_details(log, "detail/001.p/45", 3)
    found = verify(log)
    assert list_places(found) == [
        (Fault.EMPTIED, "detail/000", 7, 8),
        (Fault.EMPTIED, "detail/000", 200, 200),
        (Fault.EMPTIED, "detail/001.p/45", 259, 259),
    ]
    assert (found.details, found.redacted) == (295, 2)


def test_all_details_cant_be_emptied():
    log = show_log(MIDDLE).copy()
    for name in [name for name in log.files if name.startswith("detail/")]:
        empty_details(log, name, *range(len(split_details(log.files[name]))))
    found = verify(log)
    assert list_places(found) == [
        (Fault.EMPTIED, "detail/000", 0, 255),
        (Fault.EMPTIED, "detail/001", 256, 511),
        (Fault.EMPTIED, "detail/002", 512, 767),
        (Fault.EMPTIED, "detail/003.p/232", 768, 999),
    ]
    assert (found.details, found.redacted) == (0, 0)


def test_what_others_are_proved_by_is_never_redacted_whatever_an_event_says():
    events = make_events(10)
    events[2] = make_event(3, type="decisions.closed")
    events[5] = make_redaction(6, 3)
    events[6] = make_redaction(7, 1)
    log = make_log(events)
    empty_details(log, "detail/000.p/10", 2)
    assert list_places(verify(log)) == [(Fault.EMPTIED, "detail/000.p/10", 2, 2)]
    empty_details(log, "detail/000.p/10", 0, 6)  # with the event that tells of it
    assert list_places(verify(log)) == [
        (Fault.EMPTIED, "detail/000.p/10", 2, 2),
        (Fault.EMPTIED, "detail/000.p/10", 6, 6),
        (Fault.EMPTIED, "detail/000.p/10", 0, 0),
    ]


@pytest.mark.parametrize("body", ['{"position":"1"}', '{"position":true}', '{"position":9}', "{}"])
def test_an_event_that_names_nothing_before_it_tells_of_no_redaction(body):
    events = make_events(10)
    events[5] = make_event(6, type=REDACTED, body=body)
    log = make_log(events)
    empty_details(log, "detail/000.p/10", 0, 8)
    assert [flaw.first for flaw in verify(log).flaws] == [0, 8]


def test_of_a_part_it_stays_open_whether_a_detail_was_redacted():
    log = make_redacted_log()
    found = verify(log, end=256)
    assert (found.intact, found.untold, found.redacted) == (True, 1, 0)
    found = verify(log, start=256)
    assert (found.intact, found.untold, found.redacted) == (True, 0, 1)
    empty_details(log, "detail/001.p/45", 1)
    assert [flaw.first for flaw in verify(log, start=256).flaws] == [257]


def test_of_a_file_that_holds_far_too_much_no_more_is_taken_apart():
    log = show_log(MIDDLE).copy()
    more = bytes(4 << 20)
    log.files["tile/entries/001"] += more
    log.files["detail/002"] += more
    found = verify(log)
    assert list_places(found) == [
        (Fault.CUT, "tile/entries/001", 512, None),
        (Fault.CUT, "detail/002", 512, 767),
    ]
    assert found.entries == MIDDLE
    assert all("more than 256 entries" in flaw.detail for flaw in found.flaws)
    with pytest.raises(Invalid, match="more than 256"):
        split_entries(more)


def test_without_the_details_the_rest_is_shown():
    log = show_log(MIDDLE).copy()
    for name in [name for name in log.files if name.startswith("detail/")]:
        del log.files[name]
    assert verify(log, details=False) == Findings(entries=1000, tiles=5)


def test_a_clock_that_was_set_back_is_told_and_no_flaw():
    events = make_events(300)
    events[100] = make_event(101, at=events[99].at - 4_000_000)  # in no order of commits
    events[256] = make_event(257, at=events[0].at - 60_000_000)
    found = verify(make_log(events))
    assert found.intact
    assert found.remarks == [
        "The clock went back, from 2027-03-02T15:06:40.256000Z (entry 255) to "
        "2027-03-02T15:05:40.001000Z (entry 256)."
    ]


def test_entries_in_the_tree_at_another_place_than_they_say_are_told():
    log = make_log(10)
    entries = split_entries(log.files["tile/entries/000.p/10"])
    entries[3:5] = [b"{}", entries[7]]
    log.files["tile/entries/000.p/10"] = join_entries(entries)
    tile = b"".join(map(hash_leaf, entries))
    log.files["tile/0/000.p/10"] = tile
    reader = aics_tlog.MemoryTileReader(log.files)
    found = verify(log, root=aics_tlog.tree_root_from_tiles(reader, 10))
    assert [flaw.first for flaw in found.flaws if flaw.fault is Fault.MISPLACED] == [3, 4]


def test_partial_files_that_are_gone_are_cut_from_the_full_ones():
    log = make_log(100)
    size, root = log.size, log.root
    log.grow(make_events(412, 101))
    assert "tile/0/000.p/100" not in log.files
    found = verify(log, size, root)
    assert found.intact
    assert (found.entries, found.details) == (100, 100)
    log.flip("tile/entries/000", 300)
    found = verify(log, size, root)
    assert [flaw.first for flaw in found.flaws] == [1]
