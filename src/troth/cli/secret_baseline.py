"""Baselines of detect-secrets: credentials that are known, and the settings they were found with.

A baseline comes from the tree that is searched, so it is a stranger's file. detect-secrets itself
loads whatever module a baseline names; here only the results, the choice of its own detectors and
two thresholds are taken from it. Anything else that would change what is found is told.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from troth.cli.secret_kinds import KINDS
from troth.core.errors import Invalid

MAX_BYTES = 16 * 1024 * 1024
USUAL_FILTERS = (
    "detect_secrets.filters.allowlist.",
    "detect_secrets.filters.common.",
    "detect_secrets.filters.heuristic.",
)
"""What its own command writes into every baseline; none of them takes a setting that matters."""


class _Known(msgspec.Struct, frozen=True):
    """A credential: its type, and SHA-1 over it."""

    type: str
    hashed_secret: str


class _Detector(msgspec.Struct, frozen=True):
    name: str
    limit: float | None = None


class _Filter(msgspec.Struct, frozen=True):
    path: str


class _Document(msgspec.Struct, frozen=True):
    results: dict[str, list[_Known]]
    plugins_used: list[_Detector] = []
    filters_used: list[_Filter] = []


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is known already, and with which detectors it was looked for.

    `known` holds path as seen from here, type and hash. `plugins` is what detect-secrets wants as
    ``plugins_used``. `source` is the file's own real path, which is never searched. `remarks` are
    for the reader.
    """

    known: frozenset[tuple[str, str, str]] = frozenset()
    plugins: tuple[dict[str, Any], ...] = tuple({"name": kind.detector} for kind in KINDS)
    source: str = ""
    remarks: tuple[str, ...] = ()

    def holds(self, path: str, kind: str, digest: str) -> bool:
        """Whether this credential is known in that file."""
        return (os.path.relpath(path), kind, digest) in self.known


def read_baseline(path: Path) -> Baseline:
    """Read a baseline, as ``detect-secrets scan`` writes it; raises `Invalid`."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Invalid(f"{path}: larger than {MAX_BYTES} bytes; make a smaller baseline.")
    return parse_baseline(data, path)


def parse_baseline(data: bytes, path: Path) -> Baseline:
    """The baseline in `data`, which came from `path`; raises `Invalid`."""
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(
            f"{path}: is not a baseline of detect-secrets; make one with "
            f"`detect-secrets scan > {path}`."
        ) from error
    known = {
        (place, one.type, one.hashed_secret)
        for name, ones in document.results.items()
        for place in _find_places(name, path)
        for one in ones
    }
    plugins, remarks = _choose_plugins(document.plugins_used)
    strange = [f.path for f in document.filters_used if not f.path.startswith(USUAL_FILTERS)]
    remarks += [f"the filter {name[:200]!r} is not used" for name in strange]
    return Baseline(frozenset(known), plugins, os.path.realpath(path), tuple(remarks))


def _find_places(name: str, path: Path) -> Sequence[str]:
    """A name in a baseline is seen from where it was made: from here, or from beside the file."""
    return (os.path.relpath(name), os.path.relpath(path.parent / name))


def _choose_plugins(used: list[_Detector]) -> tuple[tuple[dict[str, Any], ...], list[str]]:
    """Those of our table that the baseline uses too, with its thresholds, and what it lacks."""
    if not used:
        return Baseline().plugins, []
    limits = {one.name: one.limit for one in used}
    chosen, remarks = [], []
    for kind in KINDS:
        if kind.detector not in limits:
            remarks.append(f"the detector {kind.detector} is off")
            continue
        limit = limits[kind.detector]
        plugin: dict[str, Any] = {"name": kind.detector}
        if limit is not None and kind.type.endswith("High Entropy String"):
            if not 0 <= limit <= 8:
                raise Invalid(f"The baseline's limit of {kind.detector} must be from 0 to 8.")
            plugin["limit"] = limit
        chosen.append(plugin)
    known = {kind.detector for kind in KINDS} | {"IPPublicDetector"}
    remarks += [f"the detector {name[:200]!r} is not used" for name in limits if name not in known]
    return tuple(chosen), remarks
