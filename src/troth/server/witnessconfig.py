"""Witnesses and anchors as configured: their settings checked, and what each needs worked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from troth.audit.note import VerifierKey, parse_vkey
from troth.audit.witness import WitnessPolicy
from troth.core.errors import Invalid
from troth.drivers.posting import check_url
from troth.drivers.witnesses import Whereabouts
from troth.server.reading import Reading
from troth.server.witness_settings import AnchorEntry, WitnessEntry, WitnessSettings

WITNESSES = "witness.witnesses"
QUORUM = "witness.quorum"


@dataclass(frozen=True, slots=True)
class KnownWitness:
    """One witness: where it is, and its keys, all under its name."""

    where: Whereabouts
    keys: tuple[VerifierKey, ...]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.keys[0].name


@dataclass(frozen=True, slots=True)
class KnownAnchor:
    """One anchor: its driver, its path or URL, and its seconds."""

    driver: str
    target: str
    every: int


@dataclass(frozen=True, slots=True)
class Outsiders:
    """Who outside looks after the log: witnesses with their policy and seconds, and anchors."""

    policy: WitnessPolicy
    witnesses: tuple[KnownWitness, ...]
    timeout: int
    anchors: tuple[KnownAnchor, ...]


def resolve_outsiders(
    settings: WitnessSettings, anchors: Sequence[AnchorEntry], reading: Reading
) -> Outsiders:
    """All of them; `Invalid` names the setting that is wrong."""
    known = tuple(
        _resolve_witness(number, one, reading) for number, one in enumerate(settings.witnesses, 1)
    )
    names = [one.name for one in known]
    for name in names:
        if names.count(name) > 1:
            raise reading.blame(
                WITNESSES, f"{name} is there twice: put all of its keys into one table."
            )
    if settings.quorum > len(known):
        raise reading.blame(
            QUORUM, f"{settings.quorum} of {len(known)} witnesses can never cosign."
        )
    keys = tuple(key for one in known for key in one.keys)
    quorum = settings.quorum or (len(known) // 2 + 1 if known else 0)
    try:
        policy = WitnessPolicy(keys, quorum)
    except Invalid as error:
        raise reading.blame(WITNESSES, error.detail) from error
    return Outsiders(policy, known, settings.timeout, _resolve_anchors(anchors, reading))


def _resolve_anchors(entries: Sequence[AnchorEntry], reading: Reading) -> tuple[KnownAnchor, ...]:
    known = tuple(_resolve_anchor(number, one, reading) for number, one in enumerate(entries, 1))
    targets = [one.target for one in known]
    for number, target in enumerate(targets):
        if target in targets[:number]:
            raise reading.blame("anchors", f"number {number + 1} is there twice.")
    return known


def _resolve_witness(number: int, entry: WitnessEntry, reading: Reading) -> KnownWitness:
    try:
        check_url(entry.url)
        keys = tuple(parse_vkey(text) for text in entry.vkey.split())
        if len({key.name for key in keys}) != 1:
            raise Invalid("the keys of one witness must have one name.")
        if entry.ca and not Path(entry.ca).is_absolute():
            raise Invalid(f"ca: {entry.ca!r} must be an absolute path.")
    except Invalid as error:
        raise reading.blame(WITNESSES, f"number {number}: {error.detail}") from error
    where = Whereabouts(entry.url, Path(entry.ca) if entry.ca else None)
    return KnownWitness(where, keys)


def _resolve_anchor(number: int, entry: AnchorEntry, reading: Reading) -> KnownAnchor:
    target, other = (entry.path, entry.url) if entry.driver == "file" else (entry.url, entry.path)
    try:
        if not target or other:
            wanted = "path and no url" if entry.driver == "file" else "url and no path"
            raise Invalid(f"the driver {entry.driver!r} takes a {wanted}.")
        if entry.driver == "http":
            check_url(target, query=True)
        elif not Path(target).is_absolute():
            raise Invalid("the path must be absolute.")
    except Invalid as error:
        raise reading.blame("anchors", f"number {number}: {error.detail}") from error
    return KnownAnchor(entry.driver, target, entry.every)
