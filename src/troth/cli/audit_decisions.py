"""Segments of decisions in a folder: held against their footers, and those against the log.

The one part of `troth audit` that reads the archive's own format: a segment is a file on the
server's disk like the log's are, and whoever was handed both needs no server to go through them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from troth.audit.bundle import SEGMENT_CLOSED, DecisionEvidence, Outcome, Verdict
from troth.audit.entry import Leaf, open_detail
from troth.audit.flaw import Fault, Findings
from troth.audit.merkle import Tree, hash_leaf
from troth.audit.proving import read_closed
from troth.core.errors import Invalid, NotFound

if TYPE_CHECKING:
    from troth.archive.segment import Segment


@dataclass(slots=True)
class Closed:
    """The segments that the log tells of, by server and number: root, and number of decisions."""

    roots: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    hidden: int = 0
    """Events of segments whose detail isn't there."""

    def notice(self, leaf: Leaf, beside: bytes) -> None:
        """Take in an entry of the log that was verified."""
        if leaf.type != SEGMENT_CLOSED:
            return
        told = read_closed(open_detail(leaf, beside)) if beside else None
        if told is None:
            self.hidden += 1
        else:
            server, segment, size, root = told
            self.roots[server, segment] = (root, size)


def show_decisions(folder: Path, closed: Closed, verdict: Verdict, findings: Findings) -> None:
    """Hold the segments in a folder against their footers and the log."""
    count = decisions = 0
    seen: set[tuple[str, int]] = set()
    before = findings.flaw_count
    for path, segment in _open_all(folder, findings):
        with segment:
            if segment.footer is None:
                findings.remark(f"{path.name} is still open: nothing shows yet what is in it.")
                continue
            place = (segment.header.server, segment.header.number)
            seen.add(place)
            held = _check_segment(path, segment, closed.roots.get(place), closed, findings)
            count, decisions = count + bool(held), decisions + held
    for server, number in sorted(closed.roots.keys() - seen):
        findings.remark(f"Segment {number} of server {server} isn't there: removed, or archived.")
    if findings.flaw_count > before:
        words = f"{findings.flaw_count - before} of the segments of decisions aren't what the log "
        verdict.note(Outcome.WRONG, f"{words}says of them; {decisions} decisions are.")
    elif closed.hidden and not closed.roots:
        words = "Whether the decisions are those of the log can't be told: its details aren't here."
        verdict.note(Outcome.OPEN, words)
    else:
        words = f"{decisions} decisions in {count} segments lead to the roots that the log holds."
        verdict.note(Outcome.SHOWN, words)


def _open_all(folder: Path, findings: Findings) -> Iterator[tuple[Path, Segment]]:
    from troth.archive.segment import DamagedSegment, Segment

    for path in _list_files(folder):
        try:
            segment = Segment(path)
        except DamagedSegment as error:
            findings.add(Fault.CUT, path.name, error.detail)
            continue
        yield path, segment


def _list_files(folder: Path) -> list[Path]:
    """All segments, also those that the archive has besides, in their order. Wrong usage if there
    is no such folder."""
    from troth.archive.segment import list_packed, list_segments

    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is no folder.", param_hint="--decisions")
    return [path for _, path in sorted({*list_segments(folder), *list_packed(folder)})]


def _check_segment(
    path: Path,
    segment: Segment,
    told: tuple[str, int] | None,
    closed: Closed,
    findings: Findings,
) -> int:
    """How many decisions a closed segment holds that lead to its root in the log."""
    from troth.archive.segment import RECORD, Damage

    footer, tree, name = segment.footer, Tree(), path.name
    damaged = False
    for one in segment.walk():
        if isinstance(one, Damage):
            damaged = True
            words = f"{name} is damaged from byte {one.start} to {one.end}."
            findings.add(Fault.CUT, name, words)
        elif one.kind == RECORD:
            tree.add(hash_leaf(one.payload))
    if footer is None or damaged:
        return 0
    if (tree.root, tree.size) != (footer.root, footer.count):
        words = f"The {tree.size} decisions in {name} don't lead to the root in its footer."
        findings.add(Fault.ALTERED, name, words)
    elif told is None and closed.hidden:
        findings.remark(f"Whether the log holds the root of {name} can't be told.")
    elif told is None:
        words = f"The log doesn't tell of {name}: it was closed after the checkpoint, or isn't its."
        findings.add(Fault.UNPROVED, name, words)
    elif told != (footer.root.hex(), footer.count):
        words = f"{name} leads to another root than the log holds: it was rewritten as a whole."
        findings.add(Fault.ALTERED, name, words)
    else:
        return tree.size
    return 0


def find_decision(folder: Path, decision: str) -> DecisionEvidence:
    """The evidence for a decision in a folder of segments; `NotFound`, or `Refused` while its
    segment is open."""
    from troth.archive.proof import prove_decision
    from troth.archive.segment import Segment

    for path in reversed(_list_files(folder)):
        with Segment(path) as segment:
            end = segment.size if segment.footer is None else None
            found = prove_decision(segment, decision, end)
        if found is not None:
            return DecisionEvidence(
                found.server, found.segment, found.index, found.size, found.entry, found.path
            )
    raise NotFound(f"No decision {decision[:80]!r} is in {folder}.")


def view_decision(entry: bytes) -> dict[str, Any]:
    """What a decision's entry says, by field; "" values are left out."""
    from troth.archive.record import decode_record

    try:
        record = decode_record(entry)
    except Invalid as error:
        return {"unreadable": error.detail}
    fields = asdict(record) | {"at": record.at.isoformat()}
    return {name: value for name, value in fields.items() if value not in ("", None)}
