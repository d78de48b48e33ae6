"""A log's files, names, proofs and bundles: whoever serves or hands them on isn't believed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import typer
from hypothesis import strategies as st

from tests.fakes.logs import SIGNED_AT, FakeLog, make_event, make_events, make_log
from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import mutated, mutated_text
from troth.audit.bundle import (
    SEGMENT_CLOSED,
    DecisionEvidence,
    parse_bundle,
    render_bundle,
    verify_bundle,
)
from troth.audit.entry import (
    commit_detail,
    read_leaf,
    render_detail,
    render_leaf,
    restore_event,
    split_details,
    split_entries,
)
from troth.audit.merkle import hash_leaf
from troth.audit.pin import begin_pin, renew_pin
from troth.audit.proof import Trust, parse_log_proof, render_log_proof, verify_log_proof
from troth.audit.proving import find_closed, prove_entry
from troth.audit.redaction import REDACTED, Redactions, read_redacted
from troth.audit.tile import parse_name, prove_consistency
from troth.audit.verification import Scope
from troth.cli.audit_log import check_log, read_note
from troth.cli.logsource import FolderSource
from troth.cli.vkeys import load_pin, parse_vkeys, read_vkeys, save_pin

LEDGER: dict[str, str] = {
    "tile-name": """
        audit.tile.parse_name
    """,
    "log-proof": """
        audit.proof._parse_hash
        audit.proof.parse_log_proof
    """,
    "evidence": """
        audit.bundle._decode_hex
        audit.bundle._parse_decision
        audit.bundle.parse_bundle
        audit.entry.open_detail
        audit.entry.read_leaf
    """,
    "log-files": """
        audit.contents.Contents._read_leaf
        audit.contents._step_back
        audit.contents._read_parts
        audit.contents._read_whole
        audit.contents.read_details
        audit.contents.read_entries
        audit.proving.read_closed
        audit.tile.Tiles.read
        audit.tile.read_tile
        audit.verification._Walk._read_hashes
        cli.audit_log._read_unsigned
        cli.audit_log.read_note
        cli.logsource.FolderSource._read_all
        cli.logsource.FolderSource.read
    """,
    "log-redaction": """
        audit.redaction._read_position
    """,
    "log-entry": """
        audit.entry._decode_commitment
        audit.entry.restore_event
    """,
    "log-keys": """
        audit.pin._parse
        audit.pin.read_pin
        cli.vkeys._parse
        cli.vkeys._read_lines
        cli.vkeys.load_pin
        cli.vkeys.parse_vkeys
        cli.vkeys.read_vkeys
    """,
    "redacted-position": """
        audit.redaction.read_redacted
    """,
    "log-growth": """
        audit.pin.renew_pin
    """,
}
"""The part of `tests.fuzz.ledger` that belongs here."""


def _make_log() -> FakeLog:
    events = make_events(20)
    body = {"server": "srv_1", "segment": 7, "size": 1, "root": hash_leaf(b"decision").hex()}
    text = msgspec.json.encode(body).decode()
    events[10] = make_event(11, type=SEGMENT_CLOSED, body=text)
    events[14] = make_event(15, at=events[0].at - 60_000_000)
    return make_log(events)


LOG = _make_log()
TRUST = Trust(LOG.keys)
NAMES = sorted(name for name in LOG.files if name.startswith(("tile/", "detail/", "checkpoint")))
BUNDLE = prove_entry(LOG.read, LOG.checkpoint, 11)
DECISION = DecisionEvidence("srv_1", 7, 0, 1, b"decision", ())
DOCUMENTS = (
    render_bundle(replace(BUNDLE, decision=DECISION)),
    render_bundle(replace(BUNDLE, decision=replace(DECISION, path=(bytes(32),)))),
    render_bundle(prove_entry(LOG.read, LOG.checkpoint, 3)),
)
PROOFS = (
    render_log_proof(BUNDLE.proof),
    render_log_proof(replace(BUNDLE.proof, extra=BUNDLE.entry)),
)
PATHS = (
    "tile/0/x001/x234/067",
    "tile/7/000.p/12",
    "tile/entries/x001/000",
    "detail/017.p/255",
)
ENTRIES = split_entries(LOG.files["tile/entries/000.p/20"])
DETAILS = split_details(LOG.files["detail/000.p/20"])


@fuzz(mutated_text(*PATHS))
def fuzz_tile_name(path: str) -> None:
    name = answer(parse_name, path)
    if name is not None:
        assert str(name) == path


@fuzz(mutated(*PROOFS))
def fuzz_log_proof(data: bytes) -> None:
    proof = answer(parse_log_proof, data)
    if proof is not None:
        assert render_log_proof(proof) == data
        if answer(verify_log_proof, proof, BUNDLE.entry, TRUST) is not None:
            # Nothing vouches for signatures of keys that nobody asked for, nor for the extra data.
            assert (proof.index, proof.path) == (BUNDLE.proof.index, BUNDLE.proof.path)


@fuzz(mutated(*DOCUMENTS))
def fuzz_evidence(data: bytes) -> None:
    """What holds is what is in the log, whatever the document says besides."""
    bundle = answer(parse_bundle, data)
    if bundle is None:
        return
    assert answer(parse_bundle, render_bundle(bundle)) == bundle
    assert not verify_bundle(bundle, None).holds
    verdict = verify_bundle(bundle, TRUST)
    if verdict.holds:
        assert bundle.entry in ENTRIES
        assert bundle.beside in (b"", DETAILS[ENTRIES.index(bundle.entry)])
        assert bundle.decision in (None, DECISION)


@contextmanager
def open_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield LOG.write_to(Path(folder))


def note_text(data: bytes) -> bytes:
    return data.partition(b"\n\n")[0]


@fuzz(
    st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), mutated(LOG.files[name]))),
    stage=open_folder,
)
def fuzz_log_files(found: tuple[str, bytes], folder: Path) -> None:
    """A changed file is named, and nothing that isn't in the tree is believed."""
    name, data = found
    (folder / name).write_bytes(data)
    try:
        source = FolderSource(folder)
        check = check_log(source, read_note(source), TRUST, None, Scope())
        if name == "checkpoint":  # of another size all files are wrong
            assert not check.verdict.holds or note_text(data) == note_text(LOG.checkpoint)
        else:
            assert check.verdict.holds is (data == LOG.files[name])
            assert {flaw.name for flaw in check.findings.flaws} <= {name, "checkpoint"}
        answer(find_closed, source.read, 20, "srv_1", 7)
        for position in (3, 11):
            bundle = answer(prove_entry, source.read, LOG.checkpoint, position)
            assert bundle is None or bundle.entry == ENTRIES[position - 1]
    finally:
        (folder / name).write_bytes(LOG.files[name])


REDACTION = make_event(19, type=REDACTED, body='{"position":5,"reason":"asked to"}')


@fuzz(mutated(render_detail(REDACTION)))
def fuzz_log_redaction(detail: bytes) -> None:
    """Whatever an event of a redaction says, it explains that one detail is gone, or none."""
    salt = REDACTION.salt or b""
    leaf = read_leaf(render_leaf(REDACTION, commit_detail(salt, detail)))
    gone = Redactions()
    gone.note_gone(4)
    explained = gone.explain(leaf, salt + detail)
    assert list(gone.list_left()) == ([] if explained else [(0, [4])])


@fuzz(st.tuples(mutated(ENTRIES[3], ENTRIES[10]), mutated(DETAILS[3], DETAILS[10], b"")))
def fuzz_log_entry(found: tuple[bytes, bytes]) -> None:
    entry, beside = found
    event = answer(restore_event, entry, beside)
    if event is not None and event.salt is not None:
        assert beside in DETAILS


KEYS = LOG.signer.render_keys()


@fuzz(mutated(f"# keys\n{KEYS}".encode()), stage=open_folder)
def fuzz_log_keys(data: bytes, folder: Path) -> None:
    answer(parse_vkeys, data)
    path = folder / "keys"
    path.write_bytes(data)
    with suppress(typer.BadParameter):
        assert read_vkeys([f"@{path}"], "--key")
    with suppress(typer.BadParameter):
        read_vkeys([data.decode("utf-8", "replace")], "--key")
    save_pin(path, LOG.keys, LOG.checkpoint)
    pin = path.read_bytes()
    path.write_bytes(pin.replace(b"example.org", data[:40]))
    kept = answer(load_pin, path)
    assert kept is None or kept.root == LOG.root.hex()
    assert msgspec.json.decode(pin)["size"] == LOG.size


@fuzz(mutated_text('{"position":4,"type":"token.issued"}'))
def fuzz_redacted_position(body: str) -> None:
    assert 0 <= read_redacted(make_event(10, body=body)) < 10


OLDER = LOG.signer.sign(12, LOG.folder.compute_root(12), SIGNED_AT)
PIN = begin_pin(KEYS.split(), OLDER)
GROWTH = " ".join(one.hex() for one in prove_consistency(LOG.read, 12, LOG.size))


@fuzz(st.tuples(mutated(LOG.checkpoint, OLDER.encode()), mutated_text(GROWTH)))
def fuzz_log_growth(found: tuple[bytes, str]) -> None:
    """What is pinned next was signed, and continues what was pinned before."""
    note, proof = found
    pin = answer(renew_pin, PIN, note.decode("utf-8", "replace"), proof.split(" "))
    assert pin is None or pin is PIN or (pin.size, pin.root) == (LOG.size, LOG.root.hex())
