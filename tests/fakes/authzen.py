"""What tests of the decision point begin with: the examples as manifests, and others' questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.yaml import load_documents

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors" / "authzen" / "decisions.json"

ALICE = {"type": "user", "id": "alice"}
BOB = {"type": "user", "id": "bob"}
READ, WRITE = {"name": "read"}, {"name": "write"}
RECORD = {"type": "record", "id": "record-1"}
ARCHIVED = {"type": "record", "id": "record-2", "properties": {"status": "archived"}}
ADMIN_BOB = {**BOB, "properties": {"role": "admin"}}


def load_example(name: str) -> list[dict[str, Any]]:
    """The manifests of one of the examples, as plain values."""
    found = []
    for path in sorted((ROOT / "examples" / name).glob("*.yaml")):
        found += [one.value for one in load_documents(path.read_bytes(), path.name)]
    return found


def submit_examples(*names: str) -> SubmitManifests:
    """A request that puts examples in force."""
    values = [value for name in names for value in load_example(name)]
    return SubmitManifests(documents=[ManifestDocument(value=value) for value in values])


def load_vectors() -> list[tuple[str, dict[str, Any], Any]]:
    """Path, request and expected answer of each vector."""
    found = json.loads(VECTORS.read_bytes())
    single = [
        ("/access/v1/evaluation", one["request"], one["expected"]) for one in found["evaluation"]
    ]
    several = [
        ("/access/v1/evaluations", one["request"], [e["decision"] for e in one["expected"]])
        for one in found["evaluations"]
    ]
    return single + several


def ask(subject: Any = ALICE, action: Any = READ, resource: Any = RECORD, **more: Any) -> Any:
    """A question; None leaves a member out."""
    members = {"subject": subject, "action": action, "resource": resource, **more}
    return {name: value for name, value in members.items() if value is not None}
